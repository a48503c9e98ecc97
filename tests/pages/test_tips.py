"""Terms and works show what they are, from a disk and from a server; pages say what they are about; icons are few."""

import re

import docutils.core
import pytest

from scripts import book_icons, book_tips
from scripts.book_address import book_address
from tests.pages.book import ROOT, built_book, launched_chromium, served_book, toc_files

BARS = 'bars:[448,512,["navicon"],"f0c9","M0 96z"]'
SUN = '"sun":[512,512,[9728],"f185",["M1z","M2z"]]'


def test_icons_that_are_not_used_are_left_out_and_another_name_counts():
    script = f"var a={{{BARS},{SUN}}};go(a)"
    assert book_icons.subset(script, {"navicon"}) == f"var a={{{BARS},}};go(a)"
    assert book_icons.subset(script, {"sun", "bars"}) == script
    with pytest.raises(ValueError, match="none of the icons"):
        book_icons.subset(script, {"moon"})


def test_the_built_site_has_the_icons_that_its_pages_name():
    html = built_book()
    script = (html / "_static" / "scripts" / "fontawesome.js").read_text(encoding="utf-8")
    names = {icon["quoted"] or icon["name"] for icon in book_icons.ICON.finditer(script)}
    styles = {"solid", "lg"}  # fa-solid and fa-lg are no icons
    assert {"bars", "magnifying-glass", "download"} <= book_icons.used_icons(html) - styles <= names
    assert len(script) < 100_000


def test_terms_that_share_a_meaning_have_it_both():
    page = '<dt id="term-a">a<a>#</a></dt>\n<dt id="term-b">b</dt><dd><p>The <em>same</em>\n&lt; thing.</p>\n</dd>'
    assert book_tips.glossary(page) == {"term-a": "The same < thing.", "term-b": "The same < thing."}
    page = '<div class="citation" id="x"><span>1</span><p>A. B. <a href="https://arxiv.org/abs/1">u</a>.</p></div>'
    assert book_tips.works(page) == {"https://arxiv.org/abs/1": "A. B. u."}


def test_pages_without_terms_stop_the_build(tmp_path):
    (tmp_path / "book").mkdir()
    for name in ("glossary", "references"):
        (tmp_path / "book" / f"{name}.html").write_text("<p>nothing</p>")
    with pytest.raises(ValueError, match="0 terms and 0 works"):
        book_tips.write_tips(tmp_path)


@pytest.mark.parametrize("name", toc_files())
def test_a_page_says_what_it_is_about(name):
    page = (built_book() / f"{name}.html").read_text(encoding="utf-8")
    (about,) = re.findall(r'<meta name="description" content="([^"]*)">', page)
    assert 40 <= len(about) <= book_tips.LONGEST + 30  # quotation marks are longer as HTML has them


@pytest.fixture(scope="module", params=["disk", "server"])
def book(request, tmp_path_factory):
    with launched_chromium() as browser:
        if request.param == "disk":
            yield browser, built_book().as_uri()
        else:
            with served_book(tmp_path_factory.mktemp("site")) as address:
                yield browser, address


@pytest.mark.browser
def test_a_term_shows_its_meaning_to_pointer_and_keyboard_and_escape_hides_it(book):
    browser, address = book
    page = browser.new_page()
    page.goto(f"{address}/chapters/08_clipping.html")
    link, tip = page.locator('.bd-article a[href*="glossary.html#term-"]').first, page.get_by_role("tooltip")
    link.hover()
    tip.wait_for()
    assert len(tip.inner_text()) > 30
    assert link.get_attribute("aria-describedby") == tip.get_attribute("id")
    page.keyboard.press("Escape")
    assert tip.count() == 0
    page.evaluate("document.activeElement.blur()")
    link.focus()
    tip.wait_for()
    box = tip.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1280
    page.close()


@pytest.mark.browser
def test_a_cited_work_shows_its_entry_in_the_list(book):
    browser, address = book
    page = browser.new_page()
    page.goto(f"{address}/chapters/08_clipping.html")
    page.locator('.bd-article a[href="https://arxiv.org/abs/1707.06347"]').first.focus()
    page.get_by_role("tooltip").wait_for()
    assert "Proximal policy optimization algorithms" in page.get_by_role("tooltip").inner_text()
    page.close()


def tags_of(page: str) -> dict[str, str]:
    """What a page of the book tells those who share it."""
    document = docutils.core.publish_doctree("A page that says in more than forty letters what it is about.")
    context = {"title": "Page <em>one</em>"}
    book_tips.add_description(None, page, "", context, document)
    return dict(re.findall(r'<meta (?:name|property)="([^"]+)" content="([^"]*)">', context["metatags"]))


def test_a_shared_link_shows_absolute_addresses_where_the_book_has_one(monkeypatch):
    monkeypatch.delenv("BOOK_ADDRESS", raising=False)
    monkeypatch.setenv("BOOK_REPOSITORY", "https://github.com/Owner/book")
    tags = tags_of("chapters/01_sft")
    assert tags["og:url"] == "https://owner.github.io/book/chapters/01_sft.html"
    assert tags["og:image"].startswith("https://owner.github.io/book/_static/")
    assert (ROOT / "book" / "web" / tags["og:image"].rpartition("/_static/")[2]).is_file()
    assert tags["og:title"] == "Page one"


def test_without_an_address_a_page_names_none(monkeypatch):
    monkeypatch.setattr(book_tips, "book_address", lambda: "")
    assert set(tags_of("chapters/01_sft")) == {"description"}


def test_the_built_pages_name_the_address_that_they_were_built_for():
    page = (built_book() / "chapters" / "01_sft.html").read_text(encoding="utf-8")
    canonical = re.findall(r'<link rel="canonical" href="([^"]+)"', page)
    address = book_address()
    assert canonical == ([f"{address}/chapters/01_sft.html"] if address else [])
    assert ('property="og:url"' in page) == bool(address)
