"""What the workflows publish: the book with its address in it, and the library for the index.

    python scripts/publish.py build               # _build/html, with notebooks, wheel, PDF and EPUB
    python scripts/publish.py push WHERE          # to a repository, on the branch gh-pages, or into an empty folder
    python scripts/publish.py dist [v1.2.3]       # dist/: the wheel and the source archive; the tag must be the version

The address is that of ``scripts/book_address.py``. It is written into a copy of the notebooks: the stored ones stay as
they are.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from scripts import print_book  # noqa: E402
from scripts.book_address import BRANCH, SOURCES, book_address, repository, version  # noqa: E402
from scripts.execute_notebooks import chapter_paths, clean  # noqa: E402
from scripts.library_package import build_sdist, build_wheel  # noqa: E402

HTML = ROOT / "_build" / "html"
NOWHERE = 'BOOK = \\"\\"'  # as a notebook's JSON has it: the first cell of one that does not know its book's address
ADDRESS = re.compile(r"\w+://|[\w.-]+@[\w.-]+:")  # of a repository somewhere else


def build() -> None:
    """Build the book strictly, and put notebooks with a working first cell beside its pages."""
    try:
        address = book_address()
    except ValueError as error:
        raise SystemExit(error) from None
    if not address:
        raise SystemExit(
            "the book has no address: set repository.url in _config.yml, or make site BOOK_REPOSITORY=OWNER/NAME"
        )
    book = str(Path(sys.executable).parent / "jupyter-book")
    subprocess.run([book, "build", str(ROOT), "--all", "-W", "--keep-going"], check=True)
    for path in chapter_paths([]):
        nbformat.write(clean(nbformat.read(path, as_version=4)), HTML / SOURCES / path.relative_to(ROOT))
    if print_book.chromium() or os.environ.get("CI") == "true":
        for kind in print_book.FILES:
            print_book.write(kind, HTML)
    else:
        print("without Chromium there are no PDF and EPUB, and no links to them")
    print(f"{HTML.relative_to(ROOT)} holds the book as it is to lie at {address}")


def publishable(where: str) -> None:
    """Refuse what would be published in vain.

    Raises:
        SystemExit: nothing is built, or without an address, or nowhere to push.
    """
    if not (HTML / "book" / "index.html").is_file() or not where:
        raise SystemExit(
            "build first (make site), and say where to: make publish PUSH_TO=https://github.com/OWNER/NAME"
        )
    if lost := [path.name for path in (HTML / SOURCES).rglob("*.ipynb") if NOWHERE in path.read_text(encoding="utf-8")]:
        raise SystemExit(
            f"{len(lost)} notebooks do not know where their book lies ({min(lost)} is one), so that Colab could not "
            "install its library: build it with its address, make site BOOK_REPOSITORY=OWNER/NAME"
        )


def push(where: str) -> None:
    """Put the built book onto the branch that is published, as its only commit: it is made anew each time.

    Args:
        where: a repository; or a folder that is empty or not there yet, which gets the files, to look at first.

    Raises:
        SystemExit: there is nothing to publish, or the folder holds something else.
    """
    publishable(where)
    folder = Path(where).expanduser()
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if there and not there & {"HEAD", ".git"}:
        raise SystemExit(f"the folder {where} is neither empty nor a repository: name another, or empty it")
    if there or ADDRESS.match(where):
        with TemporaryDirectory() as copy:
            copy_published(Path(copy))
            git = ["git", "-C", copy, "-c", "user.name=book", "-c", "user.email=book@localhost"]
            subprocess.run([*git, "init", "--quiet", "--initial-branch", BRANCH], check=True)
            subprocess.run([*git, "add", "--all", "--force"], check=True)
            subprocess.run([*git, "commit", "--quiet", "--message", f"The book, version {version()}"], check=True)
            to = str(folder.resolve()) if there else where
            subprocess.run([*git, "push", "--quiet", "--force", to, BRANCH], check=True)
    else:
        copy_published(folder)
        print(f"{where} holds what would be published; python -m http.server --directory {where} shows it")


def copy_published(folder: Path) -> None:
    """What lies on the published branch: the built pages without what the build noted for itself."""
    shutil.copytree(HTML, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("reports", ".doctrees"))


def dist(tag: str) -> None:
    """The library's wheel and source archive.

    Raises:
        SystemExit: the tag is another version than the library's.
    """
    if tag and tag != f"v{version()}":
        raise SystemExit(f"the tag is {tag}, but ppo_lib.__version__ is {version()}: one of the two is wrong")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "build"], check=True)
    made = [build_wheel(ROOT / "dist"), build_sdist(ROOT / "dist")]
    if not repository():
        print("no repository is named (BOOK_REPOSITORY): README's links will lead nowhere on the index")
    print("dist:", *(path.name for path in made))


def main() -> int:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build")
    commands.add_parser("push").add_argument("where", help="a repository's address or folder")
    commands.add_parser("dist").add_argument("tag", nargs="?", default="")
    options = parser.parse_args()
    if options.command == "build":
        build()
    elif options.command == "push":
        push(options.where)
    else:
        dist(options.tag)
    return 0


if __name__ == "__main__":
    sys.exit(main())
