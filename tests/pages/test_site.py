"""The built pages are there, show what was executed, lead somewhere, and ask no other host for anything."""

import functools
import gzip
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from scripts.book_address import BRANCH, SOURCES, repository
from tests.pages.book import CHAPTERS, ROOT, built_book, cells, toc_files

# Attributes whose address a browser fetches by itself; a plain <a href> is followed only by a reader.
FETCHED = {
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src",),
    "audio": ("src",),
    "object": ("data",),
    "embed": ("src",),
    "input": ("src",),
    "use": ("href",),
}
FETCHING_LINKS = {
    "stylesheet",
    "preload",
    "modulepreload",
    "prefetch",
    "icon",
    "shortcut icon",
    "manifest",
    "preconnect",
}


class Page(HTMLParser):
    """What a page fetches, links to, and offers as targets."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append((tag, values))
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        self.fetched += [values[name] for name in FETCHED.get(tag, ()) if name in values]
        if tag == "link" and values.get("rel") in FETCHING_LINKS:
            self.fetched.append(values["href"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])


def is_outside(address: str) -> bool:
    return bool(re.match(r"\s*(https?:)?//", address))


@pytest.fixture(scope="module")
def html() -> Path:
    return built_book()


@pytest.fixture(scope="module")
def pages(html: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(html.rglob("*.html")) if "_static" not in path.parts}


def test_every_page_of_the_table_of_contents_is_built(html, pages):
    assert [name for name in toc_files() if html / f"{name}.html" not in pages] == []
    assert (html / "index.html").is_file()


def test_no_page_fetches_anything_from_another_host(pages):
    outside = {path.name: [a for a in page.fetched if is_outside(a)] for path, page in pages.items()}
    assert {name: found for name, found in outside.items() if found} == {}


# What a formula needs of MathJax's fonts on most pages; a browser asks for those that it draws with.
FONTS = [*(f"Size{i}-Regular" for i in range(1, 5)), "Main-Regular", "Math-Italic", "AMS-Regular", "Zero"]


def test_no_page_weighs_more_than_a_megabyte_and_a_fifth_with_all_that_it_fetches(html, pages):
    """Packed as a server sends it; with Plotly, which an explorer's script fetches, and the fonts of formulas."""

    @functools.cache
    def packed(path: Path) -> int:
        return len(gzip.compress(path.read_bytes())) if path.is_file() else 0

    vendor = ROOT / "book" / "web" / "vendor"
    plotly = packed(vendor / "plotly" / "plotly-basic.min.js")
    fonts = sum(packed(found) for name in FONTS for found in vendor.rglob(f"MathJax_{name}.woff"))
    assert plotly > 100_000
    assert fonts > 100_000
    for path, page in pages.items():
        fetched = {(path.parent / unquote(urldefrag(one)[0].split("?")[0])).resolve() for one in page.fetched}
        weight = packed(path) + sum(map(packed, fetched)) + plotly * ('<section class="explorer"' in page.text)
        weight += fonts * ("MathJax" in page.text)
        assert weight < 1_200_000, f"{path.name}: {weight:,} bytes"


def test_our_styles_and_scripts_name_no_other_host():
    for path in (ROOT / "book" / "web").glob("*.*"):
        if path.suffix in {".css", ".js"}:
            text = path.read_text()
            assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//|fetch\(|XMLHttpRequest|import\(", text), path.name


def test_links_between_pages_lead_to_a_page_and_a_place_on_it(pages):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:|//", link) or link == "#":
                continue
            address, place = urldefrag(unquote(link))
            target = (path.parent / address).resolve() if address else path
            if not target.is_file():
                broken.append(f"{path.name}: {link}")
            elif place and target in pages and place not in pages[target].ids:
                broken.append(f"{path.name}: {link} (no such place)")
    assert broken == []


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_built_chapter_shows_each_figure_and_table_that_was_executed(chapter, html, pages):
    page = pages[html / "chapters" / f"{chapter.stem}.html"]
    stored = "".join(
        output.data.get("text/html", "") for cell in cells(chapter) for output in cell.outputs if "data" in output
    )
    markers = ('figure class="chart"', 'figure class="tokens"', 'table class="dataframe"', 'section class="explorer"')
    for marker in markers:
        assert page.text.count(marker) == stored.count(marker), marker
    assert len(re.findall(r'<figure class="|<section class="explorer"', stored)) >= 1


def test_every_picture_has_words_for_those_who_do_not_see_it(pages):
    silent = []
    for path, page in pages.items():
        pictures = [values for tag, values in page.tags if tag == "img" and values.get("alt") is None]
        silent += [f"{path.name}: {values.get('src')}" for values in pictures]
        drawn = [tag for tag in re.findall(r"<svg viewBox[^>]*>", page.text) if "aria-hidden" not in tag]
        assert len(drawn) <= page.text.count("<title>") + page.text.count("<svg x="), path.name
    assert silent == []


def test_every_page_has_a_title_a_language_and_a_viewport(pages):
    for path, page in pages.items():
        if "http-equiv" in page.text and path.name == "index.html":
            continue  # the root's redirect to the start page
        assert re.search(r"<title>[^<]+</title>", page.text), path
        names = [(tag, values) for tag, values in page.tags if tag in {"html", "meta"}]
        assert any(values.get("lang") for tag, values in names if tag == "html"), path
        assert any(values.get("name") == "viewport" for _, values in names), path


def test_no_two_pages_of_the_book_have_one_title_and_the_start_page_says_what_it_is_about(html):
    titles = [re.search(r"<title>([^<]+)</title>", (html / f"{name}.html").read_text())[1] for name in toc_files()]
    assert titles[0] == "Proximal: PPO for language models"
    assert len(set(titles)) == len(titles)
    assert all("Proximal" in title for title in titles)


def test_the_colab_links_lead_to_the_published_notebooks_or_are_not_there(html, pages):
    for name in [name for name in toc_files() if name.startswith("chapters/")]:
        colab = [link for link in pages[html / f"{name}.html"].links if "colab.research.google.com" in link]
        assert bool(colab) == bool(repository()), name
        assert all(link.endswith(f"/blob/{BRANCH}/{SOURCES}/{name}.ipynb") for link in colab)
        assert (html / SOURCES / f"{name}.ipynb").is_file()
