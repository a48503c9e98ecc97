"""The book's drawings: readable on a phone, no word on another, words for who cannot see, the same bytes each time."""

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from ppo_lib.book import diagrams
from ppo_lib.book.diagrams import brakeless, corridor, lessons, pushes, tension
from ppo_lib.book.diagrams.canvas import WIDTH, Area, Drawing
from ppo_lib.book.diagrams.letters import width_of
from ppo_lib.errors import BadInput
from ppo_lib.trainers import ppo
from scripts import store_figures
from tests.pages.book import launched_chromium, toc_files

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
    out += [f"a mark at '{mark}' leaves the picture" for mark in drawing.marks if not paper.holds(mark)]
    out += [
        f"a line at '{end}' leaves the picture"
        for line in drawing.lines
        for end in line
        if not paper.holds(Area(*end, 0, 0))
    ]
    for i, word in enumerate(drawing.words):
        if not paper.holds(word.area):
            out.append(f"{word.text!r} leaves the picture")
        if word.holder is not None and not word.holder.holds(word.area):
            out.append(f"{word.text!r} leaves its box")
        out += [f"{word.text!r} on {other.text!r}" for other in drawing.words[:i] if word.area.meets(other.area)]
        out += [f"{word.text!r} on a small picture" for glyph in drawing.glyphs if word.area.meets(glyph)]
        out += [f"{word.text!r} on the line {line}" for line in drawing.lines if crossing(line, word.area)]
    return out


def test_every_word_has_its_place(drawing):
    assert misplaced(drawing) == []


def test_a_drawing_ends_below_what_is_drawn(drawing):
    """No strip of empty paper under it."""
    areas = [*drawing.boxes, *drawing.marks, *drawing.glyphs, *(word.area for word in drawing.words)]
    lowest = max(*(area.bottom[1] for area in areas), *(y for line in drawing.lines for _, y in line))
    assert 4 <= drawing.height - lowest <= 20


def test_every_word_is_readable_on_a_phone(drawing):
    found = sizes(ElementTree.fromstring(drawing.svg()))
    assert found
    assert min(found) / WIDTH * PHONE >= 11


def test_a_drawing_says_what_it_shows(drawing):
    root = ElementTree.fromstring(drawing.svg())
    assert root.get("role") == ("group" if root.findall(f".//{SVG}a") else "img")
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
    one.bar(10, 80, 10, 30)
    one.stroke((60, 60), (60, 120))
    assert len(misplaced(one)) == 3


def test_a_reader_stands_at_one_of_three_stations():
    for here, name in ((1, "rewards"), (2, "advantages"), (3, "loss")):
        drawing = diagrams.assembly_line(here)
        marker = next(word.area for word in drawing.words if word.text == "you are here")
        station = next(word.area for word in drawing.words if word.text == name)
        assert abs(marker.x + marker.width / 2 - station.x - station.width / 2) < 1e-6
    with pytest.raises(BadInput, match="here is 4; the assembly line has the stations 1, 2 and 3"):
        diagrams.assembly_line(4)


def test_a_staircase_is_the_one_of_the_library():
    """The worked example of chapter 7: delta 0.09, 0.25, 1.00 and advantages 0.7884, 0.97, 1.00."""
    drawing = diagrams.staircase(["very", "very", "sleepy"], [3.0, 3.5, 4.0], [-0.06, 0.15, 5.0], 0.9, 0.8)
    assert "very: forecast 3.5, step +0.25, advantage +0.97" in drawing.description
    assert "sleepy: forecast 4, step +1, advantage +1." in drawing.description
    assert {"+0.09", "+0.25", "+0.79", "+0.97"} <= {word.text for word in drawing.words}
    assert misplaced(drawing) == []


def test_a_staircase_of_any_answer_keeps_its_words_apart():
    words = ["The", " capital", " of", " Lithuania", " is", " Vilnius", ".", "<eos>"]
    for values in ([0.5, 0.4, 0.6, 0.2, -0.3, -0.2, 0.1, 0.5], [1.0] * 8, [0.0] * 8):
        for reward in (-1.2, 0.0, 5.0, [-0.25] * 8):
            drawing = diagrams.staircase(words, values, reward, gamma=1.0, lam=0.95)
            assert misplaced(drawing) == []
    assert misplaced(diagrams.staircase(["word"] * 24, [0.1 * (i % 5) for i in range(24)], -3.0)) == []
    assert misplaced(diagrams.staircase(["word"], [0.5])) == []


def test_a_staircase_refuses_what_it_cannot_draw():
    with pytest.raises(BadInput, match="there are 2 tokens and 1 values; give one for each token"):
        diagrams.staircase(["a", "b"], [0.1])
    with pytest.raises(BadInput, match="there are 2 tokens and 3 rewards; give one for each token"):
        diagrams.staircase(["a", "b"], [0.1, 0.2], [0.0, 0.0, 1.0])
    with pytest.raises(BadInput, match="there are 25 tokens; a staircase shows 1 to 24, so choose another answer"):
        diagrams.staircase(["a"] * 25, [0.1] * 25)


def test_the_six_cases_are_those_of_the_table():
    found = {name: corridor.case(name, *values) for name, values in corridor.CASES.items()}
    objectives = {"A": 2.2, "B": 2.4, "C": -1.8, "D": -1.6, "E": 1.0, "F": -3.0}
    assert {name: one.objective for name, one in found.items()} == pytest.approx(objectives)
    assert {name: one.push for name, one in found.items()} == pytest.approx(
        {"A": 2.0, "B": 0.0, "C": -2.0, "D": 0.0, "E": 2.0, "F": -2.0}
    )
    assert [corridor.fate(one).split(":")[0] for one in found.values()] == [
        "go on", "far enough", "go on", "far enough", "wrong way", "wrong way"
    ]  # fmt: skip


def test_a_push_is_one_step_of_reinforce():
    """The logit of the drawn token moves by rate * weight * (1 - p), the others by -rate * weight * p."""
    before, after = pushes.OLD, pushes.pushed(pushes.OLD, 1, 4.0, 0.25)
    unscaled = [p * math.exp(0.25 * 4.0 * ((i == 1) - p)) for i, p in enumerate(before)]
    assert after == pytest.approx([p / sum(unscaled) for p in unscaled])
    assert pushes.pushed(before, 1, -1.0, 0.25)[1] < before[1] < after[1]


def test_reweighted_samples_have_the_new_policys_shares():
    counts = [pushes.SAMPLES * old for old in pushes.OLD]
    assert counts == pytest.approx([round(n) for n in counts])  # as many dots as the chances say, exactly
    radii = [float(r) for r in re.findall(r'<circle [^>]*r="([\d.]+)"', diagrams.reweighting().svg())]
    plain, weighted = radii[: pushes.SAMPLES], radii[pushes.SAMPLES :]
    assert len(set(plain)) == 1
    areas = [(r / plain[0]) ** 2 / pushes.SAMPLES for r in weighted]
    ends = [0, 14, 16, 17, 20]
    assert [sum(areas[a:b]) for a, b in itertools.pairwise(ends)] == pytest.approx(pushes.NEW, abs=0.02)


def test_the_rubber_band_tells_what_was_recorded():
    start, *_, lost = (
        a for a in tension.recorded_answers(tension.FREE, tension.QUESTION) if a.iteration in tension.MOMENTS
    )
    held = tension.recorded_answers(tension.HELD)[0]
    assert start.kl < held.kl < 10 < lost.kl
    assert lost.gold < start.gold < held.gold
    for answer in (start, held, lost):
        assert answer.text in diagrams.rubber_band().description


def test_the_run_without_brakes_is_the_recorded_one():
    score, gold = (brakeless.changes(tension.FREE, metric) for metric in ("score_mean", "gold_mean"))
    assert score[0] < 0.6 < 1.2 < score[-1]  # a mean of the first three already climbs
    assert gold[-1] < -0.9
    answers = [a for a in tension.recorded_answers(tension.FREE, tension.QUESTION) if a.iteration in tension.MOMENTS]
    assert len(answers) == 3
    assert answers[0].score < answers[1].score < answers[2].score
    assert answers[0].gold > answers[1].gold > answers[2].gold
    shown = " ".join(word.text for word in diagrams.runaway().words)
    for answer in answers:
        assert f"“{answer.text}”" in shown
        assert f"score {answer.score:.2f}".rstrip("0") in shown.replace("−", "-")


def test_the_judges_chance_is_the_logistic_of_the_gap():
    gap = lessons.SCORES[0] - lessons.SCORES[1]
    chance = 100 / (1 + math.exp(-gap))
    assert f"gap {gap:g}: the left one wins with {chance:.0f} %" in [w.text for w in diagrams.reward_training().words]


def test_one_forecast_is_taught_for_each_token_of_the_answer():
    svg = diagrams.sft_shift().svg()
    taught = re.findall(r'<rect [^>]*height="50"[^>]*var\(--drawing-green', svg)
    assert len(taught) == len(lessons.ANSWER)
    assert len(re.findall(r'<rect [^>]*height="50"', svg)) == len(lessons.PROMPT) + len(lessons.ANSWER) - 1
    told = diagrams.sft_shift().description
    assert "at “?” it must foresee “Peru”; at “Peru” it must foresee “.”; at “.” it must foresee “<eos>”" in told


def test_the_iteration_has_the_trainers_eight_steps():
    listed = re.findall(r"^(\d)\. ([\w ]+?)(?: by GAE| and value targets)?[:;,.]", ppo.__doc__, re.MULTILINE)
    told = [word.text for word in diagrams.iteration().words if word.text[0].isdigit() and word.text[1] == "."]
    assert [f"{number}. {name.split(' and ')[0]}" for number, name in listed] == told
    assert len(told) == 8


def test_the_map_leads_to_every_chapter_in_order():
    chapters = [name for name in toc_files() if name.startswith("chapters/")]
    svg = diagrams.book_map().svg()
    links = re.findall(r'<a href="\.\./(chapters/[^"]+)\.html">', svg)
    assert links == chapters
    assert len(re.findall(r"<a .*?<circle .*?<text .*?<text .*?</a>", svg)) == len(chapters)
    assert '<a href="chapters/01_sft.html">' in diagrams.book_map("chapters/").svg()
    assert [name for name, draw in diagrams.ALL.items() if draw().linked] == ["book_map"]


def test_drawings_on_pages_without_code_are_drawn_afresh(tmp_path, monkeypatch):
    assert store_figures.problems("drawings") == [], "run python scripts/store_figures.py"
    monkeypatch.setattr(store_figures, "BOOK", tmp_path)
    (tmp_path / "drawings").mkdir()
    (tmp_path / "drawings" / "book_map.html").write_text("old")
    (tmp_path / "drawings" / "other.html").write_text("x")
    assert store_figures.problems("drawings") == [
        "other.html is missing or belongs to no page",
        "pipeline.html is missing or belongs to no page",
        "book_map.html differs from a fresh one",
    ]


MEASURED = """
() => [...document.querySelectorAll('svg')].map(svg => [...svg.querySelectorAll('text')].map(text => {
  const box = text.getBBox();
  return {text: text.textContent, width: box.width, x: box.x, upright: text.hasAttribute('transform')};
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
                planned = word.area.height if text["upright"] else word.area.width
                assert text["width"] <= 1.03 * planned + 1, word.text
                shift = text["x"] + text["width"] / 2 - word.area.x - word.area.width / 2
                assert text["upright"] or abs(shift) < 0.15 * planned + 2, word.text
        page.close()


def test_widths_of_letters():
    assert width_of("im", 10) == pytest.approx(0.28 * 10 + 0.98 * 10)
    assert width_of("m_{i}", 20) == pytest.approx(0.98 * 20 + 0.28 * 16)
    assert width_of("\u732b", 10) == 10
    assert width_of("i", 10, bold=True) > width_of("i", 10)
