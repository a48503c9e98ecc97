"""The library's wheel and source archive, from a copy that holds the library and nothing of the book.

Their page on the index shows README, whose links lead to files of the repository: where the repository has an address
(``scripts/book_address.py``), they are given in full, and the package says where its source, book and issues are.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from scripts.book_address import ROOT, book_address, repository, wheel_name

LINK = re.compile(r"(?P<before>\]\()(?!\w+:|#)(?P<path>[^)\s]+)\)")
PICTURE = re.compile(r'(?P<before><img src=")(?!\w+:)(?P<path>[^"]+)"')


def with_full_links(readme: str, url: str) -> str:
    """README as it can be read anywhere.

    Args:
        readme: its text, links relative to the repository's root.
        url: the repository's address, or an empty text, which changes nothing.
    """
    if not url:
        return readme
    raw = url.replace("https://github.com", "https://raw.githubusercontent.com")
    readme = LINK.sub(lambda link: f"{link['before']}{url}/blob/main/{link['path']})", readme)
    return PICTURE.sub(lambda image: f'{image["before"]}{raw}/main/{image["path"]}"', readme)


def addresses(url: str, book: str) -> str:
    """The table of pyproject.toml that says where things are."""
    if not url:
        return ""
    lines = {"Source": url, "Issues": f"{url}/issues", "Changelog": f"{url}/blob/main/CHANGELOG.md", "Book": book}
    return "\n[project.urls]\n" + "".join(f'{name} = "{where}"\n' for name, where in lines.items())


@contextmanager
def library_copy() -> Iterator[Path]:
    """A folder with what the package is made of; setuptools would leave its own folders in this one, and read them."""
    with TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copy(ROOT / "LICENSE", copy)
        readme, project = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "pyproject.toml"))
        (copy / "README.md").write_text(with_full_links(readme, repository()), encoding="utf-8")
        (copy / "pyproject.toml").write_text(project + addresses(repository(), book_address()), encoding="utf-8")
        shutil.copytree(ROOT / "ppo_lib", copy / "ppo_lib", ignore=shutil.ignore_patterns("__pycache__"))
        yield copy


def build_wheel(folder: Path) -> Path:
    """The library's wheel, built into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("ppo_lib-*.whl"):
        old.unlink()
    with library_copy() as copy:
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, copy]
        subprocess.run([str(part) for part in command], check=True)
    wheel = folder / wheel_name()
    assert wheel.is_file(), f"the build left no {wheel.name}, only {sorted(p.name for p in folder.iterdir())}"
    return wheel


def build_sdist(folder: Path) -> Path:
    """The library's source archive, built into a folder by the packaging tool that ``pip install build`` brings."""
    folder.mkdir(parents=True, exist_ok=True)
    with library_copy() as copy:
        command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", folder, copy]
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("ppo_lib-*.tar.gz")
    return archive
