"""The book as one PDF and one EPUB: nothing empty, every link inside leads somewhere, formulas are formulas."""

import re
import shutil
import xml.etree.ElementTree as ElementTree
from zipfile import ZipFile

import pytest
from bs4 import BeautifulSoup
from pypdf import PdfReader

from scripts import print_book, whole_book
from scripts.write_epub import file_of, with_files, write_epub
from tests.pages.book import built_book, chromium, toc_files

ROLES = (None, "img", "document", "application")
PAGES = {"book/index", "chapters/01_sft", "chapters/06_kl"}


@pytest.mark.parametrize(
    ("href", "target"),
    [
        ("#loss", "#chapters-01_sft--loss"),
        ("06_kl.html", "#chapters-06_kl"),
        ("06_kl.html#k3", "#chapters-06_kl--k3"),
        ("../book/index.html#how", "#book-index--how"),
        ("https://example.org/a.html#b", "https://example.org/a.html#b"),
    ],
)
def test_a_link_leads_to_the_same_place_in_the_whole_book(href, target):
    assert whole_book.new_target(href, "chapters/01_sft", PAGES) == target


def test_a_link_to_what_only_the_site_has_needs_its_address(monkeypatch):
    href = "../_modules/ppo_lib/formulas/kl.html#k3"
    monkeypatch.setattr(whole_book, "book_address", lambda: "")
    assert whole_book.new_target(href, "chapters/01_sft", PAGES) is None
    monkeypatch.setattr(whole_book, "book_address", lambda: "https://a.github.io/b")
    found = whole_book.new_target(href, "chapters/01_sft", PAGES)
    assert found == "https://a.github.io/b/_modules/ppo_lib/formulas/kl.html#k3"


def test_folded_code_goes_and_optional_parts_stay_open(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "index.html").write_text(
        """<article class="bd-article"><h1 id="t">T<a class="headerlink" href="#t">#</a></h1><!-- a--remark -->
        <div class="cell"><details class="hide"><pre>import torch</pre></details></div>
        <div class="cell"><pre>shown</pre></div>
        <details class="optional"><summary>Optional: why</summary><p>because</p></details>
        <svg><rect fill="url(#dots)"/></svg></article>"""
    )
    page = whole_book.one_page(tmp_path, "book/index", PAGES)
    assert page.get_text(" ", strip=True) == "T shown Optional: why because"
    assert page.select("details, summary") == []
    assert len(page.select("div.cell")) == 1
    assert page.select_one("rect")["fill"] == "url(#book-index--dots)"
    assert page.h1["id"] == "book-index--t"
    assert "remark" not in str(page)


def test_a_link_that_leads_nowhere_becomes_its_words_and_a_drawn_one_gets_a_title():
    soup = BeautifulSoup(
        """<article id="here"><a href="#gone">a</a><a download="">b</a><a href="#here">c</a>
        <svg><a href="#here"><text>0. Words</text><text>first</text></a><a href="#gone"><text>d</text></a></svg>
        </article>""",
        "html.parser",
    )
    whole_book.drop_dead_links({"page": soup.article})
    assert [link["href"] for link in soup.select("a")] == ["#here", "#here"]
    assert [one.get_text() for one in soup.select("span")] == ["a", "b"]
    assert [(one.name, one.parent.name) for one in soup.select("svg > *")] == [("a", "svg"), ("g", "svg")]
    assert soup.select_one("svg a title").get_text() == "0. Words: first"


def test_an_ebook_is_packed_as_its_readers_want(tmp_path):
    rows = [("", "book/index", "Start & more"), ("Chapters", "chapters/01_sft", "One")]
    page = '<article xmlns="http://www.w3.org/1999/xhtml" id="{}"><a href="#{}">x</a></article>'
    names = [whole_book.place(name) for _, name, _ in rows]
    chapters = {"book/index": page.format(*names), "chapters/01_sft": page.format(*names[::-1])}
    write_epub(tmp_path / "a.epub", rows, chapters, "p {}")
    with ZipFile(tmp_path / "a.epub") as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type, archive.read(first)) == ("mimetype", 0, b"application/epub+zip")
    assert problems(tmp_path / "a.epub") == []
    broken = {**chapters, "book/index": chapters["book/index"].replace(f'id="{names[0]}"', "")}
    with pytest.raises(KeyError, match=names[0]):
        write_epub(tmp_path / "b.epub", rows, broken, "")
    assert with_files('href="#k"', {"k": file_of("a/b")}) == 'href="a-b.xhtml#k"'


def problems(path):
    """What is wrong inside an EPUB: files that are no XML, names given twice, links to nothing."""
    with ZipFile(path) as archive:
        trees = {n: ElementTree.fromstring(archive.read(n)) for n in archive.namelist() if n.endswith(("l", "f"))}
        files = set(archive.namelist())
    ids = {name: [one.get("id") for one in tree.iter() if one.get("id")] for name, tree in trees.items()}
    wrong = [f"{name}: a name twice" for name, known in ids.items() if len(known) != len(set(known))]
    for name, tree in trees.items():
        links = [one.get(key) for one in tree.iter() for key in ("href", "src") if one.get(key)]
        for link in links:
            file, _, place = link.partition("#")
            target = f"{name.rpartition('/')[0]}/{file}" if file else name
            if not re.match(r"https?:|mailto:", link) and (target not in files or (place and place not in ids[target])):
                wrong.append(f"{name}: {link}")
    # And what EPUB's checker refuses besides, as far as these pages ever had it.
    for name, tree in trees.items():
        plain = {one: one.tag.rpartition("}")[2] for one in tree.iter()}
        parents = {child: parent for parent in tree.iter() for child in parent}
        wrong += [f"{name}: a link to nowhere" for one, tag in plain.items() if tag == "a" and not one.get("href")]
        lists = [one for one, tag in plain.items() if tag == "dl"]
        wrong += [f"{name}: a list without terms" for one in lists if "dt" not in map(plain.get, one)]
        drawn = [one for one, tag in plain.items() if tag == "svg"]
        wrong += [f"{name}: a picture that is a {one.get('role')}" for one in drawn if one.get("role") not in ROLES]
        links = [one for one, tag in plain.items() if tag == "a" and plain.get(parents[one]) in ("svg", "g")]
        wrong += [f"{name}: a drawn link without a title" for one in links if "title" not in map(plain.get, one)]
    return wrong


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The built book copied, both files beside it."""
    chromium()
    html = tmp_path_factory.mktemp("book") / "html"
    shutil.copytree(built_book(), html, ignore=shutil.ignore_patterns("_sources", "_modules", "reports", "proximal.*"))
    return html, {kind: print_book.write(kind, html) for kind in print_book.FILES}


@pytest.mark.slow
@pytest.mark.browser
def test_the_pdf_has_every_page_in_its_outline_and_contents_and_no_page_is_empty(printed):
    html, files = printed
    reader = PdfReader(files["pdf"])
    texts = [page.extract_text() for page in reader.pages]
    assert [number for number, text in enumerate(texts, 1) if len(text.strip()) < 20] == []
    outline = [
        (one.title, reader.get_destination_page_number(one) + 1) for one in reader.outline if hasattr(one, "title")
    ]
    rows = whole_book.whole_book(html)[1]
    assert [title for title, _ in outline] == ["Contents", *(title for _, _, title in rows)]
    listed = re.findall(r"(\d+)$", texts[1].rsplit("\n", 1)[0], re.MULTILINE)
    assert [int(number) for number in listed] == [page for _, page in outline[1:]]
    whole = "".join(texts)
    assert "\\frac" not in whole.replace(" ", "")
    assert "\\begin{" not in whole
    assert whole.count("(6.1)") >= 1


@pytest.mark.slow
@pytest.mark.browser
def test_the_ebook_holds_every_page_with_its_formulas_and_leads_nowhere_wrong(printed):
    html, files = printed
    assert problems(files["epub"]) == []
    with ZipFile(files["epub"]) as archive:
        pages = {name: archive.read(f"book/{file_of(name)}").decode() for name in toc_files()}
    article = BeautifulSoup((html / "chapters/06_kl_rubber_band.html").read_text(), "html.parser").article
    folded = len(article.select("details:not(.optional) .math"))
    assert pages["chapters/06_kl_rubber_band"].count("<math") == len(article.select(".math")) - folded > 20
    assert sum(text.count('class="explorer"') for text in pages.values()) > 10
    start = (html / "book" / "index.html").read_text()
    assert 'href="../proximal.pdf"' in start
    assert 'href="../proximal.epub"' in start
    buttons = BeautifulSoup(start, "html.parser").select_one("p.buttons")
    assert buttons.find_next_sibling().get_text() == "The whole book as PDF or EPUB"
