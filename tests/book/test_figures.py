"""Charts, tables and token strips: right places, right numbers, the same bytes for the same data."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ppo_lib.book.drawing import SHAPES, axis_for, number, rounded, spaced
from ppo_lib.book.figures import COLORS, DASHES, Figure, panels
from ppo_lib.book.tables import table, token_strip

finite = st.floats(-1e6, 1e6, allow_nan=False)


def chart() -> Figure:
    figure = Figure("Gold turns & the proxy climbs.", x="KL (nats)", y="score")
    return figure.line([0, 1, 2], [0.0, 1.0, 0.5], "gold", low=[-0.1, 0.9, 0.4], high=[0.1, 1.1, 0.6]).mark(0.5, "SFT")


def html_of(shown) -> str:
    return shown._repr_mimebundle_()["text/html"]


def text_of(shown) -> str:
    return shown._repr_mimebundle_()["text/plain"]


def test_the_picture_is_well_formed_and_names_itself():
    root = ElementTree.fromstring(chart().svg())
    assert root.find("{http://www.w3.org/2000/svg}title").text == "Gold turns & the proxy climbs."
    assert root.get("role") == "img"
    assert "Gold turns &amp; the proxy climbs." in html_of(chart())


def test_the_text_form_says_the_numbers():
    assert text_of(chart()) == (
        "Gold turns & the proxy climbs. [score against KL (nats)]\n"
        "  gold: 3 points, from 0 at 0 to 0.5 at 2; lowest 0, highest 1\n"
        "  SFT at y = 0.5"
    )


def test_the_folded_table_holds_value_and_spread():
    assert "<td>gold</td><td>1</td><td>1 (0.9 to 1.1)</td>" in html_of(chart())


def test_a_change_below_the_fourth_digit_changes_no_byte():
    """Processors differ in the last bit; the stored picture must not."""
    exact = Figure("c", x="x", y="y").line([1, 2, 3], [0.123456, 0.2, 0.3], "a")
    other = Figure("c", x="x", y="y").line([1, 2, 3], [0.123456 + 1e-9, 0.2, 0.3], "a")
    assert html_of(exact) == html_of(other)


def test_a_change_in_the_third_digit_is_seen():
    exact = Figure("c", x="x", y="y").line([1, 2, 3], [0.123, 0.2, 0.3], "a")
    other = Figure("c", x="x", y="y").line([1, 2, 3], [0.124, 0.2, 0.3], "a")
    assert html_of(exact) != html_of(other)
    assert text_of(exact) != text_of(other)


def test_higher_values_stand_higher():
    path = re.findall(r'stroke-linejoin="round"><path d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)L', chart().svg())[0]
    x0, y0, x1, y1 = map(float, path)
    assert x1 > x0
    assert y1 < y0


def test_a_gap_interrupts_the_line():
    figure = Figure("c", x="x", y="y").line([0, 1, 2, 3], [1.0, None, 2.0, 3.0], "a")
    drawn = re.search(r'stroke-linejoin="round"><path d="([^"]+)"', figure.svg()).group(1)
    assert drawn.count("M") == 2


def test_bars_stand_on_zero_and_hang_below_it():
    svg = Figure("c", x="", y="reward").bars(["a", "b"], [2.0, -1.0], "r").svg()
    first, second = re.findall(r'<rect x="[\d.]+" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', svg)[-2:]
    assert float(first[0]) + float(first[1]) == pytest.approx(float(second[0]), abs=0.11)
    assert float(first[1]) == pytest.approx(2 * float(second[1]), abs=0.3)


def test_tensors_are_numbers_too():
    plain = Figure("c", x="x", y="y").line([1, 2], [3.0, 4.0], "a")
    tensors = Figure("c", x="x", y="y").line(torch.tensor([1, 2]), torch.tensor([3.0, 4.0], requires_grad=True), "a")
    assert html_of(plain) == html_of(tensors)


def test_nothing_is_fetched_and_no_identifier_can_clash():
    html = html_of(panels(chart(), chart()))
    assert not re.search(r'\bid="|href=|src=|url\(', html)
    assert html.count('<figure class="chart"') == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.line([1, 2], [1.0], "a"), "one length"),
        (lambda f: f.line([], [], "a"), "at least 1"),
        (lambda f: f.bars(["a"], [1.0], "x").bars(["b"], [1.0], "y"), "same labels"),
        (lambda f: f.mark(1.0, "m", axis="z"), "'x' or 'y'"),
        (lambda f: f.line([1], [math.nan], "a").svg(), "no finite value"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(Figure("c", x="x", y="y"))


def luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("page", ["#ffffff", "#121212"])
def test_a_line_stands_out_from_the_light_and_from_the_dark_page(color, page):
    """WCAG asks 3 : 1 of graphics."""
    high, low = sorted([luminance(color), luminance(page)], reverse=True)
    assert (high + 0.05) / (low + 0.05) >= 3


def signs(svg: str) -> list[tuple]:
    """How each coloured point is drawn, without its colour and its place."""
    found = []
    for one in re.findall(r'<circle [^>]*>|<g (?:fill|stroke)="(?:#|none).*?</g>', svg):
        places = [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", one)]
        x0, y0 = places[0] if places else (0, 0)
        corners = tuple((round(x - x0), round(y - y0)) for x, y in places)
        found.append((one.startswith("<circle"), 'fill="none"' in one, corners))
    return found


def test_series_of_points_differ_without_their_colour_and_look_the_same_in_the_legend():
    figure = Figure("c", x="x", y="y")
    for i in range(len(COLORS)):
        figure.points([1, 2], [i, i + 0.5], f"series {i}")
    legend, picture = figure.svg().split('<g stroke="currentColor"', 1)
    drawn = signs(picture)
    assert len(set(signs(legend))) == len(COLORS)
    assert [hollow for _, hollow, _ in signs(legend)] == ["-open" in shape for shape in SHAPES]
    assert signs(legend) == drawn[::2] == drawn[1::2]


def test_lines_differ_without_their_colour():
    patterns = re.findall(
        r'stroke-width="2.2"[^>]*?(?:stroke-dasharray="([^"]*)")?><path',
        Figure("c", x="x", y="y").line([0, 1], [0, 1], "a").line([0, 1], [1, 0], "b").svg(),
    )
    assert len(patterns) == len(set(patterns)) == 2
    assert len(set(DASHES)) == len(set(SHAPES)) == len(COLORS)


@given(st.lists(finite, min_size=1, max_size=20))
@example([5e-324])
@example([0.0, 5e-324])
def test_an_axis_shows_all_its_values_and_has_ticks(values):
    axis = axis_for(rounded(values), log=False, fixed=None, pad=0.05)
    assert all(-1e-9 <= axis.place(value) <= 1 + 1e-9 for value in rounded(values))
    assert 2 <= len(axis.ticks) <= 12


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_a_logarithmic_axis_shows_all_its_values_and_has_ticks(values):
    axis = axis_for(rounded(values), log=True, fixed=None, pad=0.05)
    assert all(-1e-9 <= axis.place(value) <= 1 + 1e-9 for value in rounded(values))
    assert axis.ticks


@pytest.mark.parametrize("log", [False, True])
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_an_axis_of_whole_numbers_has_whole_ticks(log, values):
    """There is no step 2.5 and no half token."""
    ticks = axis_for(rounded(values), log, None, pad=0.02).ticks
    assert all(tick == int(tick) for tick in ticks)
    assert 2 <= len(ticks) <= 12


def test_ticks_of_twelve_steps_and_of_shares():
    assert axis_for([1.0, 12.0], False, None, pad=0.02).ticks == [2, 4, 6, 8, 10, 12]
    assert axis_for([0.0, 10.5], False, None, pad=0.02).ticks == [0, 2.5, 5, 7.5, 10]
    assert axis_for([0.0, 1.0], False, (0.0, 0.9), pad=0.02).ticks == [0, 0.2, 0.4, 0.6, 0.8]


@given(st.integers(0, 200), st.integers(2, 20))
def test_spaced_keeps_the_ends(length, most):
    picked = spaced(length, most)
    assert len(picked) == min(length, most)
    assert picked == sorted(set(picked))
    if length:
        assert (picked[0], picked[-1]) == (0, length - 1)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (-0.06, "−0.06"),
        (5.0, "5"),
        (0.78841, "0.7884"),
        (123456.0, "1.235e5"),
        (math.nan, "–"),
        (-0.0, "0"),
    ],
)
def test_numbers_read_as_a_reader_wants_them(value, shown):
    assert number(value) == shown


def test_a_table_aligns_numbers_and_escapes_text():
    shown = table(["t", "token", "r"], [[1, "<eos>", torch.tensor(-0.06)], [12, "very", 5.0]], "Rewards")
    assert text_of(shown) == "Rewards\n t  token      r\n 1  <eos>  −0.06\n12  very       5"
    assert "&lt;eos&gt;" in html_of(shown)
    assert html_of(shown).count("text-align:right") == 6  # two numeric columns, a head and two rows each


def test_a_ragged_table_is_refused():
    with pytest.raises(ValueError, match="2 cells and the header 1"):
        table(["a"], [[1, 2]])


def test_a_token_strip_shows_spaces_numbers_and_sign():
    shown = token_strip([" very", "\n"], [0.5, -1.0], "Advantages")
    assert text_of(shown) == "Advantages\n␣very 0.5  ↵ −1"
    assert "rgba(201,102,26,0.55)" in html_of(shown)
    with pytest.raises(ValueError, match="2 tokens and 1 values"):
        token_strip(["a", "b"], [1.0], "c")


def test_a_wide_line_is_a_marker_pen_in_picture_and_legend():
    figure = Figure("c", x="x", y="y").line([0, 1], [0, 1], "thin").line([0, 1], [0, 1], "pen", wide=True)
    assert figure.svg().count('stroke-width="9" stroke-opacity="0.4"') == 2
    assert chart().svg().count('stroke-width="9"') == 0


def test_points_carry_their_labels():
    figure = Figure("c", x="x", y="y").points([0, 1], [0, 1], "cases", labels=["A", "B"])
    assert re.findall(r'<g fill="currentColor" font-weight="bold"><text[^>]*>(\w)</text>', figure.svg()) == ["A", "B"]


def test_labels_of_many_bars_do_not_run_into_each_other():
    names = [f"{0.4 + 0.05 * i:.2f}" for i in range(25)]
    picture = Figure("c", x="x", y="y").bars(names, [1.0] * 25, "n").svg()
    shown = [name for name in names if f">{name}</text>" in picture]
    assert shown[0] == names[0]
    assert 5 <= len(shown) <= 406 / (7.4 * 4)  # the picture is 406 wide, a character about 7.4
    few = Figure("c", x="x", y="y").bars(["a", "b"], [1.0, 2.0], "n").svg()
    assert all(f">{name}</text>" in few for name in "ab")


@pytest.mark.parametrize("highest", [1.0, 0.04, -0.0312, 123456.0])
def test_the_name_of_an_axis_stands_on_no_tick_label(highest):
    picture = Figure("c", x="x", y="KL, nats per response").line([0, 1], [0, highest], "n").svg()
    left, name = re.search(r'viewBox="(-?\d+) 0', picture), re.search(r"translate\((-?\d+) [\d.]+\) rotate", picture)
    ticks = re.findall(r'<text x="53\.0" y="[\d.]+" text-anchor="end">([^<]+)<', picture)
    assert len(ticks) >= 2
    assert int(left[1]) + 13 == int(name[1])  # the name has all the room that it had
    assert min(53 - 7.8 * len(tick) for tick in ticks) >= int(name[1]) + 6  # below the line of the name: its descenders


def test_the_name_of_a_rule_lies_on_no_data_where_there_is_room():
    """At the left the line runs along the rule; at the right it is far below."""
    figure = Figure("c", x="x", y="y", y_range=(0, 2)).line([0, 5, 6, 10], [1.1, 1.1, 0.2, 0.2], "a").mark(1.0, "start")
    assert re.search(r'font-size="12"><text x="460.0" y="[\d.]+" text-anchor="end">start<', figure.svg())
    empty = Figure("c", x="x", y="y", y_range=(0, 2)).line([0, 10], [0.2, 0.2], "a").mark(1.0, "start")
    assert re.search(r'font-size="12"><text x="66.0" y="[\d.]+" text-anchor="start">start<', empty.svg())


def test_the_name_of_an_upright_rule_moves_below_what_is_drawn():
    figure = Figure("c", x="x", y="y", y_range=(0, 2)).line([0, 10], [1.9, 1.9], "a").mark(5.0, "half", axis="x")
    height = float(re.search(r'font-size="12"><text x="[\d.]+" y="([\d.]+)"[^>]*>half<', figure.svg()).group(1))
    assert height > 200


def test_stacked_bars_stand_on_each_other_and_the_axis_reaches_their_sum():
    """Heights in the picture: the second bar's foot is the first one's top; side by side both stand on the floor."""
    names = ["rollout", "update"]
    shapes = {}
    for stacked in (True, False):
        chart = Figure("c", x="", y="GB", stacked=stacked).bars(names, [1.0, 2.0], "a").bars(names, [3.0, 4.0], "b")
        found = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', chart.svg())
        shapes[stacked] = [tuple(map(float, one)) for one in found][-4:]
    (_, first, wide, low), _, (x, second, _, high), (_, tallest, _, _) = shapes[True]
    assert second + high == pytest.approx(first, abs=0.11)  # one decimal each
    assert high == pytest.approx(3 * low, abs=0.3)
    assert tallest > 0  # 6 GB, of bars of at most 4, lie inside the picture
    assert x == shapes[True][0][0]
    (_, y, narrow, height), _, (_, other, _, more), _ = shapes[False]
    assert y + height == pytest.approx(other + more, abs=0.11)
    assert narrow == pytest.approx(wide / 2, abs=0.11)
