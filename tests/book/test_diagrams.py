"""The book's drawings: readable on a phone, no word on another, words for who cannot see, the same bytes each time."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from ppo_lib.book import diagrams
from ppo_lib.book.diagrams.canvas import WIDTH, Area, Drawing
from ppo_lib.book.diagrams.letters import width_of
from ppo_lib.errors import BadInput
from tests.pages.book import launched_chromium

PHONE = 350  # pixels: what a page leaves for a picture in a window of 390
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(params=diagrams.ALL)
def drawing(request) -> Drawing:
    return diagrams.ALL[request.param]()


def sizes(root: ElementTree.Element) -> list[float]:
    """The sizes of all text, those of subscripts included."""
    texts = [one for one in root.iter() if one.tag in (f"{SVG}text", f"{SVG}tspan") and one.text]
    return [float(one.get("font-size", "nan")) for one in texts if one.tag == f"{SVG}text" or one.get("font-size")]


def crossing(line: tuple[tuple[float, float], tuple[float, float]], area: Area) -> bool:
    """Whether a line runs through an area, by cutting the line off at each edge (Liang and Barsky)."""
    (x0, y0), (x1, y1) = line
    enter, leave = 0.0, 1.0
    for start, step, low, high in (
        (x0, x1 - x0, area.x, area.x + area.width),
        (y0, y1 - y0, area.y, area.y + area.height),
    ):
        if step == 0:
            if not low < start < high:
                return False
            continue
        ends = sorted(((low - start) / step, (high - start) / step))
        enter, leave = max(enter, ends[0]), min(leave, ends[1])
    return enter < leave


def misplaced(drawing: Drawing) -> list[str]:
    """Words outside the picture or their box, on each other, or on a line; boxes that overlap in part."""
    paper, out = Area(0, 0, WIDTH, drawing.height), []
    for i, box in enumerate(drawing.boxes):
        if not paper.holds(box):
            out.append(f"the box '{box}' leaves the picture")
        apart = [not box.meets(other) or box.holds(other) or other.holds(box) for other in drawing.boxes[:i]]
        out += [f"the box '{box}' on '{other}'" for other, ok in zip(drawing.boxes, apart, strict=False) if not ok]
    for i, word in enumerate(drawing.words):
        if not paper.holds(word.area):
            out.append(f"{word.text!r} leaves the picture")
        if word.holder is not None and not word.holder.holds(word.area):
            out.append(f"{word.text!r} leaves its box")
        out += [f"{word.text!r} on {other.text!r}" for other in drawing.words[:i] if word.area.meets(other.area)]
        out += [f"{word.text!r} on the line {line}" for line in drawing.lines if crossing(line, word.area)]
    return out


def test_every_word_has_its_place(drawing):
    assert misplaced(drawing) == []


def test_every_word_is_readable_on_a_phone(drawing):
    found = sizes(ElementTree.fromstring(drawing.svg()))
    assert found
    assert min(found) / WIDTH * PHONE >= 11


def test_a_drawing_says_what_it_shows(drawing):
    root = ElementTree.fromstring(drawing.svg())
    assert root.get("role") == "img"
    title, desc = root.find(f"{SVG}title").text, root.find(f"{SVG}desc").text
    shown = drawing._repr_mimebundle_()
    assert shown["text/plain"] == f"{title}\n{desc}"
    assert title.endswith((".", "?"))
    assert len(desc.split()) >= 30
    assert f'<figure class="drawing" style="max-width:{drawing.widest}px' in shown["text/html"]
    assert f'viewBox="0 0 {WIDTH} ' in shown["text/html"]


def test_drawings_are_the_same_each_time_and_stand_side_by_side():
    for name, draw in diagrams.ALL.items():
        assert draw().html() == draw().html(), name
        assert not re.search(r'\bid="|url\(#|href="#', draw().html()), name
        assert not re.search(
            r"nan|inf\b|e-\d", " ".join(re.findall(r'(?:d|x|y|transform)="([^"]*)"', draw().html()))
        ), name


def test_every_drawing_is_in_the_table_by_its_name():
    drawn = {name for name in diagrams.__all__ if name not in ("ALL", "Drawing")}
    assert {re.sub(r"_\d$", "", name) for name in diagrams.ALL} == drawn
    titles = [draw().title for draw in diagrams.ALL.values()]
    assert len(set(titles)) == len(titles)


def test_colours_follow_the_page(drawing):
    """No colour but those that a page may set, and that of its text."""
    colours = re.findall(r'(?:fill|stroke)(?:="|:)([^";]+)', drawing.svg())
    known = re.compile(r"none|currentColor|var\(--drawing-\w+,#[0-9a-f]{6}\)|color-mix\(in srgb,var\(--drawing-.*")
    assert [colour for colour in colours if not known.fullmatch(colour)] == []


def sketch() -> Drawing:
    """A small drawing with nothing wrong."""
    one = Drawing("t.", "d", height=100)
    one.box(10, 10, 100, 40, "word")
    one.write(200, 30, "far off")
    return one


def test_the_measure_of_places_finds_what_is_wrong():
    assert misplaced(sketch()) == []
    one = sketch()
    one.write(205, 34, "near")
    one.write(350, 60, "over the edge")
    one.stroke((60, 0), (60, 50))
    one.box(10, 60, 20, 20, "long")
    assert [text.split("'")[1] for text in misplaced(one)] == ["word", "near", "over the edge", "long"]
    one = sketch()
    one.box(100, 40, 30, 30)
    assert len(misplaced(one)) == 1


def test_a_reader_stands_at_one_of_three_stations():
    for here, name in ((1, "rewards"), (2, "advantages"), (3, "loss")):
        drawing = diagrams.assembly_line(here)
        marker = next(word.area for word in drawing.words if word.text == "you are here")
        station = next(word.area for word in drawing.words if word.text == name)
        assert abs(marker.x + marker.width / 2 - station.x - station.width / 2) < 1e-6
    with pytest.raises(BadInput, match="here is 4; the assembly line has the stations 1, 2 and 3"):
        diagrams.assembly_line(4)


MEASURED = """
() => [...document.querySelectorAll('svg')].map(svg => [...svg.querySelectorAll('text')].map(text => {
  const box = text.getBBox();
  return {text: text.textContent, width: box.width, x: box.x, y: box.y, height: box.height};
}))
"""


@pytest.mark.browser
def test_a_browser_sets_no_word_wider_than_it_was_planned():
    with launched_chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 900})
        drawn = [draw() for draw in diagrams.ALL.values()]
        page.set_content("".join(one.html() for one in drawn))
        for drawing, texts in zip(drawn, page.evaluate(MEASURED), strict=True):
            assert len(texts) == len(drawing.words)
            for word, text in zip(drawing.words, texts, strict=True):
                assert text["width"] <= 1.03 * word.area.width + 1, word.text
                assert (
                    abs(text["x"] + text["width"] / 2 - word.area.x - word.area.width / 2) < 0.15 * word.area.width + 2
                )
        page.close()


def test_widths_of_letters():
    assert width_of("im", 10) == pytest.approx(0.28 * 10 + 0.98 * 10)
    assert width_of("m_{i}", 20) == pytest.approx(0.98 * 20 + 0.28 * 16)
    assert width_of("\u732b", 10) == 10
    assert width_of("i", 10, bold=True) > width_of("i", 10)
