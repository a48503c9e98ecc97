"""The published form in a real browser: every grid point, by pointer-free means, light and dark, wide and narrow."""

import contextlib
import functools
import http.server
import itertools
import threading
from pathlib import Path

import pytest

from tests.book.explorers.grid import NAMES, curves, explorer, stored, texts_of, tokens
from tests.pages.book import ROOT, built_book, launched_chromium, toc_files

pytestmark = pytest.mark.browser

# Style sheets are not fetched a second time: from file:// that is forbidden, and would be a request of its own.
AXE = {"preload": False}

# A page as bare as can be: the book's own pages are visited below, once they are built.
PAGE = """<!DOCTYPE html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>Explorer</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<link rel="stylesheet" href="web/explorers.css"><script src="web/explorers.js"></script>
<style>body {{ margin: 8px; background: #fff; color: #222; font-family: sans-serif }}
html[data-theme=dark] body {{ background: #121212; color: #ced6dd }}</style></head>
<body><main><h1>Explorer</h1>{}</main></body></html>"""

# Sets the sliders to each of the points and reads back all that is shown, as a reader would get it.
WALK = """async (points) => {
  const section = document.querySelector("section.explorer");
  const inputs = [...section.querySelectorAll(".explorer-settings :is(input[type=range], select)")];
  const count = (input) => input.options?.length ?? Number(input.max) + 1;
  const found = [];
  for (const point of points) {
    inputs.forEach((input, i) => { input.value = point[i]; });
    inputs[0].dispatchEvent(new Event("input", { bubbles: true }));
    const frame = inputs.reduce((sum, input) => sum * count(input) + Number(input.value), 0);
    while (section.dataset.frame !== String(frame)) await new Promise((done) => setTimeout(done));
    found.push({
      values: [...section.querySelectorAll("output")].map((one) => one.textContent),
      spoken: inputs.map((one) => one.selectedOptions?.[0].text ?? one.getAttribute("aria-valuetext")),
      texts: [...section.querySelectorAll("[data-text]")].map((one) => one.textContent),
      curves: [...section.querySelectorAll(".explorer-picture")]
        .flatMap((picture) => picture.data.flatMap(({ x, y }) => [[...x], [...y]])),
      tokens: [...section.querySelectorAll(".explorer-tokens")].map((strip) => [...strip.children].map((token) => [
        token.querySelector("b").textContent,
        token.lastChild.textContent.trim(),
        Number(token.className.replace("tint", "")),
      ])),
    });
  }
  return found;
}"""

# What stands in a picture, and in one that is drawn afresh from the same data: pairs that differ.
AFRESH = """async () => {
  const geometry = (picture) => [...picture.querySelectorAll(".cartesianlayer :is(path, text, rect)")].map((one) => [
    one.tagName, ...["d", "transform", "x", "y"].map((name) => one.getAttribute(name)), one.textContent,
    one.style.cssText.replace(/url\\([^)]*\\)/g, ""),  // names of clips and patterns
  ].join(" ").replace(/\\d+\\.\\d+/g, (digits) => Number(digits).toFixed(1)));
  const differing = [];
  for (const picture of document.querySelectorAll(".explorer-picture")) {
    const fresh = document.createElement("div");
    fresh.style.cssText = `position: absolute; width: ${picture.clientWidth}px; height: ${picture.clientHeight}px`;
    document.body.append(fresh);
    await Plotly.newPlot(fresh, structuredClone(picture.data), structuredClone(picture.layout), { staticPlot: true });
    const [moved, drawn] = [geometry(picture), geometry(fresh)];
    fresh.remove();
    if (!drawn.length) differing.push(["nothing is drawn", ""]);
    drawn.forEach((one, i) => { if (one !== moved[i]) differing.push([one, moved[i]]); });
    moved.slice(drawn.length).forEach((one) => differing.push(["", one]));
  }
  return differing;
}"""


@pytest.fixture(scope="module")
def browser():
    with launched_chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with one page for each explorer and one with all of them."""
    made = tmp_path_factory.mktemp("pages")
    (made / "web").symlink_to(ROOT / "book" / "web")
    for name in NAMES:
        (made / f"{name}.html").write_text(PAGE.format(stored(name)), encoding="utf-8")
    gap = '<div style="height: 3000px"></div>'
    (made / "all.html").write_text(PAGE.format(gap + gap.join(map(stored, NAMES))), encoding="utf-8")
    (made / "none.html").write_text(PAGE.format("<p>No explorer.</p>"), encoding="utf-8")
    return made


@contextlib.contextmanager
def visit(browser, address: str, home: str = "file:", width: int = 1440, wait: bool = True, **context):
    """A page that must be quiet: no message on the console, no failed request, none to another place than ``home``."""
    opened = browser.new_context(viewport={"width": width, "height": 900}, **context)
    page, complaints, asked = opened.new_page(), [], []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in {"error", "warning"} else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    if wait:
        page.wait_for_function("document.querySelector('section.explorer').dataset.frame !== undefined")
    page.asked = asked
    yield page
    opened.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith((home, "data:", "blob:"))] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_grid_point_shows_what_python_says(browser, folder, name):
    one = explorer(name)
    settings = list(one.settings())
    points = [list(point) for point in itertools.product(*(range(len(p.grid)) for p in one.parameters))]
    with visit(browser, (folder / f"{name}.html").as_uri()) as page:
        # In portions, so that no single call to the browser runs into its time limit.
        shown = [
            frame for start in range(0, len(points), 50) for frame in page.evaluate(WALK, points[start : start + 50])
        ]
    assert len(shown) == len(settings)
    for setting, found in zip(settings, shown, strict=True):
        fresh = one.frame(**setting)
        chosen = [parameter.text(setting[parameter.name]) for parameter in one.parameters]
        assert found["values"] == chosen
        assert found["spoken"] == chosen
        assert found["texts"] == texts_of(fresh), setting
        assert found["curves"] == curves(one, fresh), setting
        assert found["tokens"] == tokens(fresh), setting


@pytest.mark.parametrize("name", NAMES)
def test_a_moved_picture_is_the_one_drawn_afresh(browser, folder, name):
    """Only curves are moved, axes stay: which is right only as long as no axis follows the data."""
    sizes = [len(parameter.grid) for parameter in explorer(name).parameters]
    with visit(browser, (folder / f"{name}.html").as_uri()) as page:
        for point in ([0 for _ in sizes], [size - 1 for size in sizes], [size // 2 for size in sizes]):
            page.evaluate(WALK, [point])
            assert page.evaluate(AFRESH) == []


def test_by_keyboard_alone(browser, folder):
    one = explorer("clip")
    with visit(browser, (folder / "clip.html").as_uri()) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.type") == "range"
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Tab")
        page.keyboard.press("End")
        setting = {"ratio": one.parameters[0].grid[1], "advantage": one.parameters[1].grid[-1]}
        assert page.locator("[data-text]").all_text_contents() == texts_of(one.frame(**setting))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", "a reader must see which slider has the focus"


def test_a_setting_has_an_address_that_shows_it_to_others(browser, folder):
    one = explorer("beta_tokens")
    with visit(browser, (folder / "all.html").as_uri(), wait=False) as page:
        page.locator("#explorer-beta-tokens").scroll_into_view_if_needed()
        page.wait_for_function("document.querySelector('#explorer-beta-tokens').dataset.frame")
        assert page.evaluate("location.hash") == "", "what nobody has set is no setting"
        page.get_by_label("estimator of the KL").select_option("k3")
        page.locator("#explorer-beta-tokens input").first.press("End")
        address = page.evaluate("location.href")
    setting = {**one.start(), "kind": "k3", one.parameters[0].name: one.parameters[0].grid[-1]}
    with visit(browser, address, wait=False) as page:  # 3,000 pixels and more above it stand the others
        page.wait_for_function("document.querySelector('#explorer-beta-tokens').dataset.frame")
        assert page.locator("#explorer-beta-tokens [data-text]").all_text_contents() == texts_of(one.frame(**setting))
        assert page.evaluate("document.querySelector('#explorer-beta-tokens').getBoundingClientRect().top") < 900
    for junk in ("=nothing,%", "=", "=,,,,,"):  # what is no setting leaves the start as it is
        with visit(browser, f"{(folder / 'beta_tokens.html').as_uri()}#explorer-beta-tokens{junk}") as page:
            assert page.locator("[data-text]").all_text_contents() == texts_of(one.frame(**one.start()))


def test_a_choice_among_words_is_a_list_and_not_a_slider(browser, folder):
    one = explorer("beta_tokens")
    with visit(browser, (folder / "beta_tokens.html").as_uri()) as page:
        kinds = page.locator(".explorer-settings :is(input, select)").evaluate_all("all => all.map((one) => one.type)")
        assert kinds == ["range", "range", "select-one"]
        page.get_by_label("estimator of the KL").select_option("k3")
        chosen = {**one.start(), "kind": "k3"}
        assert page.locator("[data-text]").all_text_contents() == texts_of(one.frame(**chosen))
        assert page.locator(".explorer-settings output:visible").count() == 2  # the list shows its choice by itself


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_are_there_without_scripts(browser, folder, name):
    with visit(browser, (folder / f"{name}.html").as_uri(), wait=False, java_script_enabled=False) as page:
        slots = page.locator("[data-text]")
        assert slots.all_text_contents() == texts_of(explorer(name).frame())
        assert all(slot.is_visible() for slot in slots.all() if slot.text_content())
        assert page.locator(".explorer-picture svg").first.is_visible()
        assert page.locator("input").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("name", NAMES)
def test_axe_finds_nothing_and_the_page_is_not_wider_than_the_screen(browser, folder, name, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    address = (folder / f"{name}.html").as_uri()
    with visit(browser, address, width=width, reduced_motion="reduce") as page:
        page.evaluate("scheme => { document.documentElement.dataset.theme = scheme; }", scheme)
        page.wait_for_timeout(50)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        result = axe.run(page, options=AXE)
        assert result.violations_count == 0, result.generate_report()
        ink = page.evaluate("getComputedStyle(document.querySelector('.explorer-picture text')).fill")
        assert ink == page.evaluate("getComputedStyle(document.body).color"), "the figure follows the theme"
        overlapping = page.evaluate(OVERLAP)
        assert overlapping == []


# Words of a picture that lie upon each other, or stick out of it.
OVERLAP = """() => [...document.querySelectorAll(".explorer-picture")].flatMap((picture) => {
  const frame = picture.getBoundingClientRect();
  const words = [...picture.querySelectorAll("text")].filter((one) => one.textContent.trim());
  const boxes = words.map((one) => [one.textContent, one.getBoundingClientRect()]);
  const out = boxes.filter(([, b]) => b.left < frame.left - 1 || b.right > frame.right + 1 || b.top < frame.top - 1
    || b.bottom > frame.bottom + 1).map(([text]) => `out: ${text}`);
  const upon = boxes.flatMap(([text, a], i) => boxes.slice(i + 1).filter(([, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4
  ).map(([other]) => `${text} upon ${other}`));
  return [...out, ...upon];
})"""


def test_nothing_moves_by_itself(browser, folder):
    """There is no animation to reduce: with and without the wish for less motion, a slider's frame is there at once."""
    for motion in ("reduce", "no-preference"):
        with visit(browser, (folder / "gae.html").as_uri(), reduced_motion=motion) as page:
            assert page.evaluate("document.getAnimations().length") == 0
            page.evaluate(WALK, [[0, 0]])
            assert page.evaluate("document.getAnimations().length") == 0


def test_plotly_comes_once_and_only_when_an_explorer_is_near(browser, folder):
    with visit(browser, (folder / "none.html").as_uri(), wait=False) as page:
        page.wait_for_timeout(200)
        assert not any("plotly" in url for url in page.asked)
    with visit(browser, (folder / "all.html").as_uri(), wait=False) as page:
        page.wait_for_timeout(200)
        assert not any("plotly" in url for url in page.asked)
        for i in range(len(NAMES)):
            page.locator("section.explorer").nth(i).scroll_into_view_if_needed()
            page.wait_for_function("i => document.querySelectorAll('section.explorer')[i].dataset.frame", arg=i)
        assert sum("plotly" in url for url in page.asked) == 1


def test_served_over_http(browser, folder):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}/"
        with visit(browser, f"{home}gae.html", home) as page:
            page.evaluate(WALK, [[0, 0]])
            assert (
                page.locator("[data-text]").all_text_contents()[0] == explorer("gae").frame(gamma=0.0, lam=0.0).sentence
            )
        server.shutdown()


def test_when_plotly_does_not_come_the_start_stays(browser, folder, tmp_path):
    """A page copied without its folder of scripts still shows numbers that belong together."""
    (tmp_path / "web").mkdir()
    for asset in ("explorers.js", "explorers.css"):
        (tmp_path / "web" / asset).write_bytes((ROOT / "book" / "web" / asset).read_bytes())
    (tmp_path / "clip.html").write_text(PAGE.format(stored("clip")), encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "clip.html").as_uri())
    page.wait_for_timeout(300)
    assert page.locator("input").count() == 0
    assert page.locator(".explorer-picture svg").first.is_visible()
    page.close()


def test_no_formula_in_the_script():
    """At most 120 lines, without Math and without arithmetic beyond counting the frame."""
    script = (ROOT / "book" / "web" / "explorers.js").read_text()
    assert "Math." not in script
    assert len(script.splitlines()) <= 120


@pytest.mark.parametrize("name", [name for name in toc_files() if name.startswith(("chapters/", "book/"))])
def test_the_explorers_of_a_built_page(browser, name):
    """In the book itself: each explorer comes alive, at both widths and in both themes, and axe finds nothing in it."""
    address = built_book() / f"{name}.html"
    count = address.read_text(encoding="utf-8").count('<section class="explorer"')
    if not count:
        pytest.skip("no explorer on this page")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for width, scheme in ((1440, "light"), (390, "dark")):
        with visit(browser, address.as_uri(), width=width, color_scheme=scheme, wait=False) as page:
            for i in range(count):
                page.locator("section.explorer").nth(i).scroll_into_view_if_needed()
                page.wait_for_function("i => document.querySelectorAll('section.explorer')[i].dataset.frame", arg=i)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(OVERLAP) == []
            result = axe.run(page, context="section.explorer", options=AXE)
            assert result.violations_count == 0, result.generate_report()
