"""In a real browser, from file://: no page asks another host, complains on the console, or is wider than a phone."""

import re
from pathlib import Path

import pytest

from tests.pages.book import ROOT, built_book, launched_chromium, toc_files

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    with launched_chromium() as launched:
        yield launched, built_book()


class Visit:
    """A page in a browser, with what it asked for and what it complained about."""

    def __init__(self, browser, html: Path, scheme: str = "light", width: int = 1280, scripts: bool = True) -> None:
        viewport = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=viewport, color_scheme=scheme, java_script_enabled=scripts)
        self.page = self.context.new_page()
        self.html = html
        self.outside: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", self._note_request)
        self.page.on("requestfailed", lambda request: self.complaints.append(f"not found: {request.url}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"script error: {error}"))
        self.page.on("console", self._note_message)

    def _note_request(self, request) -> None:
        if not re.match(r"file:|data:|blob:|about:", request.url):
            self.outside.append(request.url)

    def _note_message(self, message) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{message.type}: {message.text}")

    def open(self, name: str) -> None:
        self.page.goto((self.html / f"{name}.html").as_uri(), wait_until="load")
        # Formulas are set by a deferred script: done when it says so, and at once where a page has none.
        self.page.evaluate("() => window.MathJax?.startup?.promise?.then(() => true) ?? true")

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize("name", toc_files())
def test_a_page_is_quiet_and_asks_no_other_host(browser, name):
    with Visit(*browser) as visit:
        visit.open(name)
        formulas = visit.page.locator("span.math, div.math").count()
        assert visit.page.locator("mjx-container").count() >= formulas
        assert visit.page.locator("mjx-merror, [data-mjx-error]").count() == 0
        assert visit.outside == []
        assert visit.complaints == []


WIDE_FORMULAS = """
() => {
  document.querySelectorAll('details').forEach(one => { one.open = true; });
  return [...document.querySelectorAll('div.math')]
    .filter(formula => formula.scrollWidth > formula.clientWidth + 1).map(formula => formula.textContent);
}
"""
CUT_OFF = """
() => [...document.querySelectorAll('.prev-next-area p')]
  .filter(name => name.getBoundingClientRect().right > window.innerWidth).length
"""


@pytest.mark.parametrize("name", toc_files())
def test_a_page_fits_a_phone(browser, name):
    """No formula has to be scrolled, either, and the names of the neighboring pages are whole."""
    with Visit(*browser, width=390) as visit:
        visit.open(name)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert visit.page.evaluate(CUT_OFF) == 0
        assert settled(visit.page, WIDE_FORMULAS) == []
        assert visit.complaints == []


TABLES = """
() => [...document.querySelectorAll('.bd-article table:not(.dataframe)')].filter(table => !table.closest('.explorer'))
  .map(table => {
    const cells = [...table.querySelectorAll('td')], seen = each => each.checkVisibility();
    return {
      list: table.matches('.stacked'),
      wide: table.scrollWidth > Math.min(table.clientWidth, table.parentElement.clientWidth) + 2,
      longest: Math.max(0, ...cells.map(cell => cell.textContent.length)),
      columns: [...table.querySelectorAll('.column')].filter(seen).length,
      empty: cells.filter(seen).filter(cell => cell.textContent.trim() === '–').length,
      role: table.getAttribute('role'),
      misnamed: [...table.querySelectorAll('.column')].filter(
        name => name.textContent !== table.tHead.rows[0].cells[name.parentElement.cellIndex].textContent).length,
      unnamed: [...table.querySelectorAll('tbody td:nth-child(n+2):not(.nothing)')].filter(
        cell => table.tHead?.rows[0].cells[cell.cellIndex].textContent && !cell.querySelector('.column')).length,
    };
  })
"""


@pytest.mark.parametrize("name", ["book/hyperparameters", "book/architectures", "chapters/02_reward_model"])
def test_a_wide_table_of_sentences_is_a_list_on_a_phone_and_a_table_elsewhere(browser, name):
    with Visit(*browser, width=390) as visit:
        visit.open(name)
        lists = [table for table in visit.page.evaluate(TABLES) if table["list"]]
        assert lists
        for table in visit.page.evaluate(TABLES):
            assert not (table["wide"] and table["longest"] > 60), table
            assert bool(table["columns"]) == table["list"] == (table["role"] == "table")
            assert not (table["list"] and (table["empty"] or table["unnamed"])), table
            assert not table["misnamed"], table
        visit.page.set_viewport_size({"width": 1280, "height": 900})
        for table in visit.page.evaluate(TABLES):
            assert not table["list"]
            assert table["columns"] == 0
            assert table["role"] is None


WORDS = """
() => {
  document.querySelectorAll('details').forEach(one => { one.open = true; });
  const crossing = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
    && a.top < b.bottom - 3 && b.top < a.bottom - 3;
  const pictures = document.querySelectorAll('figure.drawing > svg, figure.chart > svg');
  return [...pictures].flatMap(svg => {
    const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    const texts = [...svg.querySelectorAll('text, tspan[font-size]')];
    const small = texts.map(text => [text.textContent, parseFloat(getComputedStyle(text).fontSize) * scale])
      .filter(([, size]) => size < 11);
    if (svg.parentElement.matches('.drawing')) return small;
    const boxes = texts.map(text => [text.textContent, text.getBoundingClientRect()]);
    const hits = boxes.flatMap(([name, box], i) => boxes.slice(i + 1)
      .filter(([, other]) => crossing(box, other)).map(([other]) => [name, other]));
    return [...small, ...hits];
  });
}
"""


@pytest.mark.parametrize("name", toc_files())
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_words_of_drawings_and_charts_are_readable(browser, name, scheme):
    """At least 11 pixels high, on a phone and where two charts share a row; and in a chart none lies on another."""
    with Visit(*browser, width=390, scheme=scheme) as visit:
        visit.open(name)
        assert settled(visit.page, WORDS) == []
        visit.page.set_viewport_size({"width": 1280, "height": 900})
        assert settled(visit.page, WORDS) == []


def settled(page, script):
    """What a script still finds once the page has come to rest, or after three seconds: fonts arrive late."""
    for _ in range(30):
        found = page.evaluate(script)
        if not found:
            break
        page.wait_for_timeout(100)
    return found


SCROLLING = """
() => {
  document.querySelectorAll('details').forEach(one => { one.open = true; });
  document.body.style.paddingRight = '15px';  // a scroll bar, which a browser without a window has not
  return [...document.querySelectorAll('div.cell_input pre')]
    .filter(pre => pre.scrollWidth > pre.clientWidth)
    .map(pre => pre.textContent.split('\\n').reduce((a, b) => a.length > b.length ? a : b));
}
"""


@pytest.mark.parametrize("name", [name for name in toc_files() if (ROOT / f"{name}.ipynb").is_file()])
def test_no_code_cell_scrolls_sideways(browser, name):
    """Solutions included. On a phone code does scroll, in its own box."""
    with Visit(*browser) as visit:
        visit.page.goto((visit.html / f"{name}.html").as_uri())
        for width in (800, 1000, 1200, 1399, 1400, 1600):
            visit.page.set_viewport_size({"width": width, "height": 900})
            assert visit.page.evaluate(SCROLLING) == [], f"at {width} pixels"


CONTRAST = """
() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const luminance = rgb => {
    const [r, g, b] = rgb.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0.99) return c.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const texts = 'div.cell_output figcaption, div.cell_output table.dataframe td, figure.chart svg text';
  return [...document.querySelectorAll(texts)].map(e => {
    const style = getComputedStyle(e);
    const ink = parse(e.closest('svg') ? style.fill : style.color).slice(0, 3);
    const [hi, lo] = [luminance(ink), luminance(behind(e))].sort((a, b) => b - a);
    return [(hi + 0.05) / (lo + 0.05), e.textContent.slice(0, 40)];
  }).filter(([ratio]) => ratio < 4.5);
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", [name for name in toc_files() if name.startswith("chapters/")] or ["book/index"])
def test_charts_and_tables_can_be_read_in_light_and_dark(browser, name, scheme):
    """WCAG's 4.5 : 1 between the words of figures and what lies behind them."""
    with Visit(*browser, scheme=scheme) as visit:
        visit.open(name)
        assert visit.page.evaluate(CONTRAST) == []


def test_a_chapter_shows_its_figures_without_scripts(browser):
    chapters = [name for name in toc_files() if name.startswith("chapters/")]
    if not chapters:
        pytest.skip("there is no chapter yet")
    with Visit(*browser, scripts=False) as visit:
        visit.page.goto((visit.html / f"{chapters[0]}.html").as_uri())
        chart = visit.page.locator("figure.chart > svg, figure.tokens, section.explorer table").first
        assert chart.is_visible()


SHIFT = """() => new Promise((done) => {
  let sum = 0;
  new PerformanceObserver((list) => list.getEntries().forEach((one) => { sum += one.hadRecentInput ? 0 : one.value; }))
    .observe({ type: 'layout-shift', buffered: true });
  setTimeout(() => done(sum), 1500);
})"""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["book/index", "chapters/08_clipping", "book/ppo_computer", "book/library/formulas"])
def test_a_page_hardly_moves_while_it_loads(browser, name, width):
    """Cumulative layout shift; 0.1 is called good, and one that a reader may notice."""
    with Visit(*browser, width=width) as visit:
        visit.open(name)
        assert visit.page.evaluate(SHIFT) < 0.05


# Pages with every part that the theme and this book have; each takes seconds.
WHOLE = [
    ("book/index", 1280, "light"),
    ("chapters/05_why_naive_rl_fails", 390, "dark"),
    ("chapters/06_kl_rubber_band", 1280, "dark"),
    ("book/hyperparameters", 390, "light"),
    ("book/references", 390, "dark"),
    ("book/library/formulas", 1280, "light"),
]


@pytest.mark.parametrize(("name", "width", "scheme"), WHOLE)
def test_axe_finds_nothing_on_a_whole_page(browser, name, width, scheme):
    """The theme's part included."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with Visit(*browser, width=width, scheme=scheme) as visit:
        visit.open(name)
        result = axe.run(visit.page, options={"preload": False})
        assert result.violations_count == 0, result.generate_report()
