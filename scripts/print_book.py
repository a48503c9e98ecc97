"""The built book as one PDF and one EPUB, and the links to them on its start page.

    python scripts/print_book.py pdf      # _build/html/proximal.pdf
    python scripts/print_book.py epub     # _build/html/proximal.epub

Both come from the built pages through Chromium, which sets the formulas with the site's own MathJax: the PDF as a print
of ``scripts/whole_book.py``'s document, the EPUB from the same document, its formulas as MathML.
"""

import argparse
import io
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bs4 import BeautifulSoup
from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import NameObject, TextStringObject

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from scripts.whole_book import place, whole_book  # noqa: E402
from scripts.write_epub import AS_XHTML, write_epub  # noqa: E402

HTML = ROOT / "_build" / "html"
FILES = {"pdf": "proximal.pdf", "epub": "proximal.epub"}
# Nothing but local files: what Chromium would otherwise ask its maker for is switched off.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--allow-file-access-from-files"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
UNSET = """() => [...document.querySelectorAll("span.math, div.math")].filter(
  one => !one.querySelector("mjx-container") || one.querySelector("mjx-merror, [data-mjx-error]")).length"""
FOOT = '<div style="font:8px sans-serif;width:100%;text-align:center;color:#555"><span class="pageNumber"></span></div>'


def chromium() -> str | None:
    """Where the browser is."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def opened(document: str) -> Iterator[Any]:
    """The document in Chromium as it will be printed, its formulas set.

    Raises:
        SystemExit: there is no Chromium.
    """
    if not (executable := chromium()):
        raise SystemExit("there is no chromium on the path: install it (apt install chromium), then run this again")
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "book.html"
        path.write_text(document, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        page = browser.new_page(viewport={"width": 658, "height": 1000}, color_scheme="light")
        page.set_default_timeout(300_000)
        page.emulate_media(media="print", color_scheme="light")
        page.goto(path.as_uri(), wait_until="load")
        page.evaluate("() => window.MathJax.startup.promise.then(() => document.fonts.ready).then(() => true)")
        unset = page.evaluate(UNSET)
        assert unset == 0, f"{unset} formulas are not set"
        yield page
        browser.close()


def first_pages(pdf: bytes, names: list[str]) -> dict[str, int]:
    """On which page, counted from 1, each named place stands."""
    reader = PdfReader(io.BytesIO(pdf))
    targets = {str(name).lstrip("/"): target for name, target in reader.named_destinations.items()}
    return {name: (reader.get_destination_page_number(targets[name]) or 0) + 1 for name in names}


def mend_titles(writer: PdfWriter, document: str) -> None:
    """Chromium's outline loses the space where a heading goes on in a new line: put it back."""
    headings = [
        " ".join(one.get_text().split())
        for one in BeautifulSoup(document, "html.parser").find_all(re.compile("h[1-6]"))
    ]
    known = {title.replace(" ", ""): title for title in headings}
    waiting = [writer.root_object["/Outlines"].get("/First")]
    while waiting:
        if entry := waiting.pop():
            line = entry.get_object()
            title = known.get(re.sub(r"\s", "", line["/Title"]), line["/Title"])
            line[NameObject("/Title")] = TextStringObject(title)
            waiting += [line.get("/First"), line.get("/Next")]


def write_pdf(html: Path, path: Path) -> None:
    """Print twice: the first print tells on which page each chapter begins, the second says so in the contents."""
    document, rows = whole_book(html)
    names = [place(page) for _, page, _ in rows]
    options = {"outline": True, "tagged": True, "prefer_css_page_size": True, "print_background": True}
    with opened(document) as page:
        printed = page.pdf(**options, display_header_footer=True, header_template="<span></span>", footer_template=FOOT)
        numbers = first_pages(printed, names)
        page.evaluate(
            "numbers => document.querySelectorAll('.at').forEach(at => { at.textContent = numbers[at.dataset.of]; })",
            numbers,
        )
        printed = page.pdf(**options, display_header_footer=True, header_template="<span></span>", footer_template=FOOT)
    assert first_pages(printed, names) == numbers, "the page numbers moved the pages"
    writer = PdfWriter(clone_from=io.BytesIO(printed))
    mend_titles(writer, document)
    writer.add_metadata({"/Title": "Proximal: PPO for language models", "/Author": "The Proximal maintainers"})
    writer.write(path)


def write_ebook(html: Path, path: Path) -> None:
    """The same document as an EPUB, a file for each page of the book."""
    document, rows = whole_book(html)
    with opened(document) as page:
        chapters = {name: page.evaluate(AS_XHTML, place(name)) for _, name, _ in rows}
    styles = "\n".join((html / "_static" / name).read_text(encoding="utf-8") for name in ("pygments.css", "print.css"))
    write_epub(path, rows, chapters, styles)


def link(html: Path) -> None:
    """The start page leads to what of the two is there."""
    page = html / "book" / "index.html"
    text = re.sub(r'\n<p class="whole-book">.*?</p>\n', "", page.read_text(encoding="utf-8"))
    there = [f'<a href="../{name}">{kind.upper()}</a>' for kind, name in FILES.items() if (html / name).is_file()]
    line = f'\n<p class="whole-book">The whole book as {" or ".join(there)}</p>\n' if there else ""
    text, count = re.subn(
        r'(<p class="buttons">.*?</p>)', lambda found: found[1] + line, text, count=1, flags=re.DOTALL
    )
    assert count == 1, "the start page has no buttons to put the links under"
    page.write_text(text, encoding="utf-8")


def write(kind: str, html: Path = HTML) -> Path:
    """Write one of the two beside the built pages, and link it on their first.

    Raises:
        SystemExit: there is no built book, or no Chromium.
    """
    if not (html / "book" / "index.html").is_file():
        raise SystemExit("there is no built book: run `make html` first")
    path = html / FILES[kind]
    {"pdf": write_pdf, "epub": write_ebook}[kind](html, path)
    link(html)
    return path


def main() -> int:
    """Write one of the two files, and link it."""
    parser = argparse.ArgumentParser(description="The whole book as one file, from the built pages.")
    parser.add_argument("kind", choices=FILES)
    path = write(parser.parse_args().kind)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
