"""Workflows do what runs here by `make`, and nothing from outside runs in them but at a commit that was looked at."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import nbformat
import pytest
import yaml

from scripts import book_address, library_package, publish, test_versions
from scripts.book_address import version
from scripts.execute_notebooks import clean
from tests.pages.book import ROOT, served_book

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()


def jobs(path):
    """Every job of a workflow."""
    return yaml.safe_load(path.read_text())["jobs"].values()


def steps(path):
    """Every step of a workflow."""
    return [step for job in jobs(path) for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_hash_and_keep_no_credentials(path):
    for step in steps(path):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"]), step
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False
    assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_each_step_of_a_workflow_runs_on_any_machine_by_make(path):
    known = {name for line in re.findall(r"^([\w -]+):", MAKEFILE, re.MULTILINE) for name in line.split()}
    text = path.read_text()
    for command in [step["run"] for step in steps(path) if "run" in step]:
        if command == ".ci/run":
            continue
        target = re.fullmatch(r"make ([\w-]*)(?:\$\{\{ matrix\.(\w+) \}\})?(?: .*)?", command)
        assert target, command
        values = re.findall(rf"{target[2]}: (?:\[(.+?)\]|([\w-]+))", text) if target[2] else [("", "")]
        names = {target[1] + name.strip() for many, one in values for name in (many or one).split(",")}
        assert names <= known, names - known


def test_what_the_help_says_ci_runs_besides_is_run_by_a_workflow():
    (targets,) = re.findall(r'@echo "make ([\w| -]+?) +what CI runs besides', MAKEFILE)
    ran = set()
    for job in (job for path in WORKFLOWS for job in jobs(path)):
        matrix = job.get("strategy", {}).get("matrix", {})
        rows = matrix.get("include", []) + [
            {key: v} for key, values in matrix.items() for v in values if key != "include"
        ]
        for command in [step["run"] for step in job["steps"] if "run" in step]:
            for row in rows or [{}]:
                filled = re.sub(
                    r"\$\{\{ matrix\.(\w+) \}\}", lambda found, row=row: str(row.get(found[1], "")), command
                )
                ran.add(filled.removeprefix("make ").split(" ")[0])
    assert set(targets.split(" | ")) <= ran


def test_requirements_have_the_lower_bounds_that_are_tested():
    asked = ["torch>=2.11", "numpy>=1.26"]
    assert test_versions.wanted("lowest", asked, None) == ["torch==2.11", "numpy==1.26"]
    assert test_versions.wanted("newest", asked, "torch==2.13.0") == ["torch==2.13.0", "numpy"]
    with pytest.raises(ValueError, match=r"'torch'.*NAME>=VERSION"):
        test_versions.wanted("lowest", ["torch"], None)


def test_versions_that_contradict_each_other_are_told_and_what_is_alone_on_purpose_is_not():
    (name,) = [requirement.partition("==")[0] for requirement in test_versions.WITHOUT_WHAT_IT_NEEDS]
    alone = f"{name} 0.1.2 requires llm, which is not installed.\n"
    wrong = "peft 0.18 has requirement torch>=9, but you have torch 2.13."
    assert test_versions.broken("No broken requirements found.\n") == test_versions.broken(alone) == []
    assert test_versions.broken(alone + wrong) == [wrong]


def imported(path: Path, seen: set[Path]) -> set[str]:
    """Packages from outside that a module needs when it is imported, those of the project's own modules included."""
    if path in seen or not path.is_file():
        return set()
    seen.add(path)
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for module in modules:
            top, places = module.split(".")[0], (ROOT, ROOT / "tests", path.parent)
            names = names.union(*(imported(place / f"{module.replace('.', '/')}.py", seen) for place in places))
            if not any((place / top).is_dir() or (place / f"{top}.py").is_file() for place in places):
                names.add(top)
    return names - sys.stdlib_module_names


def test_the_tests_on_other_versions_have_what_they_import():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    there = {re.split(r"\W", name.replace("pyyaml", "yaml"))[0] for name in [*declared, *test_versions.TESTED_WITH]}
    files = [file for file in (ROOT / "tests").rglob("*.py") if file.parent.name not in ("pages", "notebooks", "peers")]
    seen: set[Path] = set()
    needed = set[str]().union(*(imported(file, seen) for file in files))
    assert len(files) > 50
    assert {"nbformat", "torch"} <= needed
    assert needed - there - {"IPython", "jinja2"} == set()  # ipython, and what torch brings along


def test_everything_that_the_library_imports_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    declared = {re.split(r"[<>=]", name)[0].lower().replace("-", "_") for name in asked} | {
        "ppo_lib",
        "yaml",
        "ipython",
    }
    for path in (ROOT / "ppo_lib").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            tops = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
            assert {top.lower() for top in tops} <= declared, (path.name, tops)


def test_a_release_is_of_the_version_that_its_tag_says():
    with pytest.raises(SystemExit, match=re.escape(f"v9.9.9, but ppo_lib.__version__ is {version()}")):
        publish.dist("v9.9.9")


def test_readme_can_be_read_on_the_index():
    """Every link and picture of it is given in full, and nothing else changes."""
    url = "https://github.com/owner/book"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    full = library_package.with_full_links(readme, url)
    links = [*re.findall(r"\]\(([^)]+)\)", full), *re.findall(r'src="([^"]+)"', full)]
    assert len(links) > 5
    assert [link for link in links if not link.startswith("https://")] == []
    for link in links:
        place = re.fullmatch(r"https://(?:github|raw\.githubusercontent)\.com/owner/book/(?:blob/)?main/(.+)", link)
        assert place is None or (ROOT / place[1]).exists(), link
    assert library_package.with_full_links(readme, "") == readme
    project = tomllib.loads(library_package.addresses(url, "https://owner.github.io/book"))["project"]
    assert project["urls"]["Source"] == url
    assert project["urls"]["Book"] == "https://owner.github.io/book"


def test_the_package_is_made_of_the_library_alone():
    with library_package.library_copy() as copy:
        assert sorted(path.name for path in copy.iterdir()) == ["LICENSE", "README.md", "ppo_lib", "pyproject.toml"]
        assert tomllib.loads((copy / "pyproject.toml").read_text())["project"]["name"] == "ppo-lib"
        assert (copy / "ppo_lib" / "recipes" / "pocket.yaml").is_file()
        assert not list(copy.rglob("__pycache__"))


@pytest.fixture
def html(tmp_path, monkeypatch):
    """A small built book."""
    html = tmp_path / "html"
    (html / "book").mkdir(parents=True)
    (html / "book" / "index.html").write_text("the book")
    (html / ".nojekyll").touch()
    (html / "reports").mkdir()
    (html / "reports" / "x.log").write_text("of the build")
    monkeypatch.setattr(publish, "HTML", html)
    return html


def test_what_is_pushed_is_the_built_book_and_nothing_else(html, tmp_path):
    there = tmp_path / "there.git"
    subprocess.run(["git", "init", "--quiet", "--bare", there], check=True)
    for _ in range(2):  # made anew each time
        publish.push(str(there))
    listing = ["git", "-C", str(there), "ls-tree", "-r", "--name-only", "gh-pages"]
    assert subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split() == [
        ".nojekyll",
        "book/index.html",
    ]
    count = ["git", "-C", str(there), "rev-list", "--count", "gh-pages"]
    assert subprocess.run(count, capture_output=True, text=True, check=True).stdout.strip() == "1"
    with pytest.raises(SystemExit, match="PUSH_TO"):
        publish.push("")


def test_an_empty_folder_gets_the_published_files_and_a_full_one_is_left_alone(html, tmp_path, capsys):
    for folder in (tmp_path / "new", tmp_path / "empty"):
        if folder.name == "empty":
            folder.mkdir()
        publish.push(str(folder))
        assert sorted(path.name for path in folder.rglob("*")) == [".nojekyll", "book", "index.html"]
        assert f"--directory {folder}" in capsys.readouterr().out
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="neither empty nor a repository"):
        publish.push(str(tmp_path / "full"))
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_a_book_whose_notebooks_do_not_know_its_address_is_not_published(html, tmp_path, monkeypatch):
    """That is what ``make book`` builds where _config.yml names no repository."""
    sources = html / "_sources" / "chapters"
    sources.mkdir(parents=True)
    notebook = nbformat.read(ROOT / "chapters" / "08_clipping.ipynb", as_version=4)
    monkeypatch.setattr(book_address, "book_address", lambda: "")
    nbformat.write(clean(notebook), sources / "08_clipping.ipynb")
    with pytest.raises(SystemExit, match=r"08_clipping\.ipynb.*BOOK_REPOSITORY"):
        publish.push(str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(book_address, "book_address", lambda: "https://someone.github.io/proximal")
    nbformat.write(clean(notebook), sources / "08_clipping.ipynb")
    publish.push(str(tmp_path / "new"))
    assert (tmp_path / "new" / "_sources" / "chapters" / "08_clipping.ipynb").is_file()


ALONE = """
import nbformat, nbclient
notebook = nbformat.read("chapter.ipynb", 4)
nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
import ppo_lib; print(ppo_lib.__file__)
"""


@pytest.mark.slow
def test_a_notebook_alone_in_an_empty_folder_fetches_the_library_from_the_site_and_runs(tmp_path, monkeypatch):
    """As in Colab: torch and the rest are there, ppo_lib is not, and no repository; the site lies under a path."""
    site = tmp_path / "site"
    site.mkdir()
    python = environment_without_the_library(tmp_path / "environment")
    with served_book(site) as address:
        monkeypatch.setenv("BOOK_ADDRESS", address)
        empty = tmp_path / "empty"
        empty.mkdir()
        notebook = clean(nbformat.read(ROOT / "chapters" / "08_clipping.ipynb", as_version=4))
        nbformat.write(notebook, empty / "chapter.ipynb")
        outside = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "BOOK_STATIC")}
        outside |= {"PYTHONNOUSERSITE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        command = [python, "-c", ALONE]
        ran = subprocess.run(command, cwd=empty, env=outside, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert str(tmp_path) in ran.stdout  # the wheel's, and not this checkout's


def environment_without_the_library(folder: Path) -> Path:
    """A Python that has all that this one has, except ppo_lib: a nested .pth, such as pip's for -e, is not read."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    here = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    paths = [path for path in map(Path, sys.path) if path.name == "site-packages"]
    (folder / here / "others.pth").write_text("\n".join(map(str, paths)))
    lacks = subprocess.run([python, "-c", "import ppo_lib"], cwd=folder, env={}, capture_output=True)
    assert lacks.returncode == 1
    return python


def test_a_site_without_a_usable_address_is_not_built(monkeypatch):
    monkeypatch.setattr(publish.subprocess, "run", lambda *_, **__: pytest.fail("it built"))
    monkeypatch.delenv("BOOK_ADDRESS", raising=False)
    monkeypatch.setenv("BOOK_REPOSITORY", "book")
    with pytest.raises(SystemExit, match=r"'book', but must be https://github\.com/OWNER/NAME"):
        publish.build()
    monkeypatch.setattr(publish, "book_address", lambda: "")
    with pytest.raises(SystemExit, match=r"has no address: set repository\.url"):
        publish.build()
