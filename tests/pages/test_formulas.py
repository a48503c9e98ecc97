"""Displayed formulas in a real browser: none is cut where there is room for it, and one that must scroll shows it."""

import pytest

from tests.pages.book import built_book, launched_chromium, toc_files

pytestmark = pytest.mark.browser
PHONE, WIDTHS = 360, (768, 1280, 1920)
TOO_WIDE = """() => [...document.querySelectorAll('mjx-container[display="true"]')].map(formula => {
  const box = formula.closest('div.math') ?? formula.parentElement, style = getComputedStyle(box);
  const inner = formula.querySelector('mjx-math') ?? formula;
  // Beside the number of a formula its own box is narrower than that of both. What that one cuts shows no shade.
  const cut = getComputedStyle(formula).overflowX === 'visible' ? '' : 'by its own box ';
  const room = cut ? Math.min(box.clientWidth, formula.clientWidth) : box.clientWidth;
  return {wide: inner.getBoundingClientRect().width, room, scrolls: cut + style.overflowX,
          shade: style.backgroundImage, text: box.textContent.slice(0, 40)};
}).filter(one => one.wide > one.room + 1)"""


@pytest.fixture(scope="module")
def browser():
    with launched_chromium() as launched:
        yield launched, built_book()


def too_wide(browser, name: str, width: int) -> list[dict]:
    """The displayed formulas of a page that do not fit into their box at this width of the window."""
    launched, html = browser
    page = launched.new_page(viewport={"width": width, "height": 900})
    try:
        page.goto((html / f"{name}.html").as_uri(), wait_until="load")
        page.evaluate("() => window.MathJax?.startup?.promise?.then(() => true) ?? true")
        return page.evaluate(TOO_WIDE)
    finally:
        page.close()


@pytest.mark.parametrize("name", toc_files())
def test_no_formula_is_cut_from_a_tablet_to_a_wide_screen(browser, name):
    found = {width: [one["text"] for one in too_wide(browser, name, width)] for width in WIDTHS}
    assert found == {width: [] for width in WIDTHS}


@pytest.mark.parametrize("name", toc_files())
def test_a_formula_too_wide_for_a_phone_scrolls_in_its_box_and_shows_that_it_does(browser, name):
    for one in too_wide(browser, name, PHONE):
        assert one["scrolls"] in ("auto", "scroll"), one
        assert "gradient" in one["shade"], one
