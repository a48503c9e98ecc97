"""What the tests of the book share: the chapters, the table of contents, the built pages, the browser."""

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHAPTERS = sorted((ROOT / "chapters").glob("[0-9][0-9]_*.ipynb"))
# Nothing but local files: what Chromium would otherwise ask its maker for is switched off.
CHROMIUM = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


def toc_files() -> list[str]:
    """The pages of the book in reading order, without suffix, the start page first."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def cells(path: Path, kind: str = "code") -> list[nbformat.NotebookNode]:
    """The cells of one kind of a stored notebook."""
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def built_book() -> Path:
    """The built pages. ``make test`` builds them first and says where; a plain pytest run skips."""
    if "BOOK_HTML" not in os.environ:
        pytest.skip("BOOK_HTML is not set: `make test` builds the book and sets it")
    html = (ROOT / os.environ["BOOK_HTML"]).resolve()
    assert (html / "book" / "index.html").is_file(), f"there is no built book in {os.environ['BOOK_HTML']}"
    return html


@contextmanager
def served_book(folder: Path) -> Iterator[str]:
    """The address of the built book, below a path as on GitHub's pages; ``folder`` is empty."""
    (folder / "proximal").symlink_to(built_book())
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_address[1]}/proximal"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Says nothing of each request."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


def chromium() -> str:
    """Where the browser is; skips without one, except in CI, where it must be there."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None and os.environ.get("CI") != "true":
        pytest.skip("no Chromium here; with CI=true this is a failure")
    assert found, "CI=true and no Chromium: .ci/run installs it"
    return found


@contextmanager
def launched_chromium() -> Iterator[Any]:
    """The browser, started by Playwright; skips without one of the two."""
    executable = chromium()
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=executable, args=CHROMIUM)
        yield browser
        browser.close()
