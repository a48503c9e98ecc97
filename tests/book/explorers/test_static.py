"""The static form holds what a fresh Python call says, at every grid point, and stays small."""

import gzip
import math
import re
import warnings
from html.parser import HTMLParser

import pytest

from ppo_lib.book import explorers
from ppo_lib.book.explorers import plots
from ppo_lib.book.explorers.core import Curve, Frame, Panel, Parameter, curve, short, strip
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.book.recordings import list_recorded, load_recorded
from tests.book.explorers.grid import NAMES, curves, explorer, grid_of, stored, texts_of, tokens

MOST_BYTES, MOST_PACKED = 200_000, 60_000


class Slots(HTMLParser):
    """The texts that stand in the page for readers without scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.open = False

    def handle_starttag(self, tag, attrs):
        self.open = "data-text" in dict(attrs)
        if self.open:
            self.texts.append("")

    def handle_endtag(self, tag):
        self.open = False

    def handle_data(self, data):
        if self.open:
            self.texts[-1] += data


@pytest.mark.parametrize("name", NAMES)
def test_every_grid_point_is_a_fresh_python_call(name):
    one, grid = explorer(name), grid_of(stored(name))
    page = Slots()
    page.feed(stored(name))
    shown, arrays = list(page.texts), list(grid["still"])
    settings = list(one.settings())
    assert len(settings) == len(grid["frames"])
    for setting, (cells, moved, *rest) in zip(settings, grid["frames"], strict=True):
        fresh = one.frame(**setting)
        for place, index in zip(grid["varying"], cells, strict=True):
            shown[place] = grid["texts"][index]
        for place, index in zip(grid["moving"], moved, strict=True):
            arrays[place] = index
        assert shown == texts_of(fresh), setting
        assert [grid["arrays"][index] for index in arrays] == curves(one, fresh), setting
        assert [[grid["tokens"][i] for i in row] for row in (rest[0] if rest else [])] == tokens(fresh), setting


@pytest.mark.parametrize("name", NAMES)
def test_the_start_frame_can_be_read_without_a_script(name):
    one, page = explorer(name), Slots()
    page.feed(stored(name))
    assert page.texts == texts_of(one.frame())
    assert stored(name).count("<svg viewBox") >= len(one.panels)
    for text in texts_of(one.frame()):
        assert text in one.text()


@pytest.mark.parametrize("name", NAMES)
def test_twice_the_same_bytes(name):
    assert explorer(name).html() == stored(name)


@pytest.mark.parametrize("name", NAMES)
def test_light_enough_for_a_page(name):
    html = stored(name).encode()
    assert len(html) < MOST_BYTES
    assert len(gzip.compress(html)) < MOST_PACKED


@pytest.mark.parametrize("name", NAMES)
def test_no_warning_no_address_and_no_infinity(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explorer(name).frame()
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", stored(name))
    assert not re.search(r"NaN|Infinity|nan\b|\binf\b", stored(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_axis_is_named_and_every_panel_and_parameter_described(name):
    one = explorer(name)
    for panel in one.panels:
        assert panel.x
        assert panel.y
        assert panel.caption.endswith(".")
    for parameter in one.parameters:
        assert parameter.label
        assert len(set(map(parameter.text, parameter.grid))) == len(parameter.grid), "two values look the same"
    for setting in one.settings():
        assert one.frame(**setting).sentence[-1] in ".”", setting
        break


@pytest.mark.parametrize("name", NAMES)
def test_what_is_drawn_lies_within_the_axes(name):
    """A fixed axis shows every point of every frame: a point outside would be lost silently."""
    one = explorer(name)
    for setting in one.settings():
        for drawn in one.frame(**setting).curves:
            panel = one.panels[drawn.panel]
            for span, values in ((panel.x_range, drawn.x), (panel.y_range, drawn.y)):
                known = [v for v in values if not isinstance(v, str) and not math.isnan(v)]
                if span and known:
                    assert all(span[0] <= value <= span[1] for value in known), (setting, drawn.name)


def test_no_text_of_a_model_can_leave_its_place():
    hostile = "</script><img src=x onerror=alert(1)>"
    frame = Frame((curve("a", [0, 1], [0, 1]),), ((hostile, hostile),), hostile, (strip(hostile, [hostile], [1], 1),))
    html = Explorer(
        "x", hostile, (Parameter("a", hostile, (1.0,), 1.0),), lambda a: frame, (Panel(".", "x", "y"),)
    ).html()
    assert "<img" not in html
    assert html.count("</script>") == 1
    assert grid_of(html)["tokens"] == [[hostile.replace(" ", "␣"), "1", 4]]


def one_slider(function, **other) -> Explorer:
    return Explorer("x", "t", (Parameter("a", "a", (1.0, 2.0), 1.0),), function, (Panel("c.", "x", "y"),), **other)


def test_frames_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="must be one of its grid"):
        Parameter("a", "a", (1.0, 2.0), 3.0)
    with pytest.raises(ValueError, match="different lengths"):
        curve("a", [1, 2], [1])
    with pytest.raises(ValueError, match="is no parameter"):
        one_slider(lambda a: None).frame(b=1)
    line = curve("a", [1], [1])
    with pytest.raises(ValueError, match="other curves or rows"):
        one_slider(lambda a: Frame((line,) * int(a), (), "s.")).html()
    with pytest.raises(ValueError, match="beyond its 1"):
        one_slider(lambda a: Frame((Curve("a", (1.0,), (1.0,), panel=1),), (), "s.")).frame()
    with pytest.raises(ValueError, match="not 2 texts long"):
        one_slider(lambda a: Frame((line,), (("a", "b", "c"),), "s.")).frame()


def test_rounding_noise_is_a_zero_and_minus_is_a_minus():
    assert [short(1e-17), short(-1e-12), short(-0.06), short(0.78839999)] == ["0", "0", "−0.06", "0.7884"]
    assert curve("a", [0], [-1e-17]).y == (0.0,)


# The worked examples of the chapters, as a reader meets them on the page.


def rows(name: str, **setting) -> dict[str, tuple[str, ...]]:
    return {row[0]: row[1:] for row in explorer(name).frame(**setting).rows}


def test_the_three_tokens_and_their_rewards():
    found = rows("beta_tokens", beta=0.1, score=5.0, kind="k1")
    assert [cells[-1] for cells in found.values()] == ["−0.06", "0.15", "5"]


def test_the_three_advantages():
    found = rows("gae", gamma=0.9, lam=0.8)
    assert [cells[2] for cells in found.values()] == ["0.09", "0.25", "1"]
    assert [cells[4] for cells in found.values()] == ["0.7884", "0.97", "1"]
    ends = rows("gae", gamma=0.9, lam=0.0)
    assert [cells[4] for cells in ends.values()] == [cells[2] for cells in ends.values()]


@pytest.mark.parametrize(
    ("advantage", "ratio", "minimum", "flows"),
    [
        (2, 1.1, "2.2", 1),
        (2, 1.5, "2.4", 0),
        (-2, 0.9, "−1.8", 1),
        (-2, 0.5, "−1.6", 0),
        (2, 0.5, "1", 1),
        (-2, 1.5, "−3", 1),
    ],
)
def test_the_six_cases_of_the_clip(advantage, ratio, minimum, flows):
    found = rows("clip", advantage=float(advantage), ratio=ratio, epsilon=0.2)
    assert found["minimum"] == (minimum,)
    assert (found["gradient dJ/dρ"] != ("0",)) == flows


def test_the_edge_of_the_interval_counts_as_inside():
    for ratio in (0.8, 1.2):
        found = rows("clip", advantage=2.0, ratio=ratio, epsilon=0.2)
        assert found["gradient dJ/dρ"] == ("2",)


def test_the_documents_distribution_at_temperature_one():
    found = rows("temperature", temperature=1.0)
    assert [cells[0] for cells in found.values()][:3] == ["0.7", "0.1", "0.05"]


def test_the_computer_agrees_with_the_single_explorers():
    found = rows("ppo_computer")
    assert found["7. advantage Â, at λ = 0.8"] == ("0.7884", "0.97", "1")
    assert found["4. reward r, at β = 0.1"] == ("−0.06", "0.15", "5")


def test_the_computer_opens_with_the_numbers_of_chapter_10s_three_tokens():
    found = rows("ppo_computer")
    assert found["10. ratio ρ = π_θ / π_old"] == ("1.1", "1.5", "0.5")
    assert [found[name][0] for name in found if name[:2] in ("12", "13", "14")] == ["−0.8437", "0.8542", "−0.7583"]


def test_nothing_above_row_9_of_the_computer_follows_a_ratio():
    still, moved = rows("ppo_computer"), rows("ppo_computer", ratio_2=0.5)
    assert [name.split(".")[0] for name in still if still[name] != moved[name]] == ["9", "10", "11", "12", "14"]


def test_the_baseline_moves_no_mean():
    means = {
        rows("baseline", baseline=b, shift=5.0)["mean of the gradient (three logits)"] for b in (-3.0, 0.0, 5.0, 13.0)
    }
    assert len(means) == 1


@pytest.mark.parametrize(
    ("b", "said"), [(0.0, "b = 0 is no baseline"), (5.0, "times smaller"), (13.0, "times what it is")]
)
def test_the_sentence_of_the_baseline_says_what_became_of_the_variance(b, said):
    frame = explorer("baseline").frame(baseline=b, shift=5.0)
    assert said in frame.sentence
    found = {row[0]: row[1] for row in frame.rows}
    more = float(found["variance of one sample"]) > float(found["variance without a baseline"])
    assert more == ("times what it is" in frame.sentence)


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("gap", [-2.0, -0.25, 0.0, 1.0, 3.0])
def test_the_gap_decides_probability_and_order_and_the_margin_only_the_loss(gap, margin):
    frame = explorer("score_gap").frame(gap=gap, margin=margin)
    found = {row[0]: row[1] for row in frame.rows}
    assert found["probability of the labeler's choice, σ(Δ)"] == short(1 / (1 + math.exp(-gap)))
    pull = 1 / (1 + math.exp(gap - margin))
    assert found["gradient of the loss in Δ"] == short(-pull)
    order = "rightly" if gap > 0 else "wrongly" if gap < 0 else "do not order"
    assert [word in frame.sentence for word in ("rightly", "wrongly", "do not order")] == [
        word == order for word in ("rightly", "wrongly", "do not order")
    ]
    assert f"pulls with {short(pull, 2)} of its full strength" in frame.sentence
    assert ("margin" in frame.sentence) == (margin > 0)


def test_all_explorers_are_public_and_have_names_of_their_own():
    assert {function.__name__ for function in explorers.ALL} <= set(explorers.__all__)
    assert len({explorer(name).name for name in NAMES}) == len(NAMES)


def test_recorded_runs_are_compared_by_the_mean_of_their_seeds_at_the_end():
    one = explorer("compare_runs")
    first, second = "stories, β = 0.1", "pocket, β = 0.05"
    found = {row[0]: row[1:] for row in one.frame(first=first, second=second).rows}
    for column, folder in enumerate(("stories/beta_0.1/", "pocket/beta_0.05/")):
        runs = [load_recorded(name) for name in list_recorded() if name.startswith(folder)]
        ends = [sum(row["score_mean"] for row in run.metrics[-3:]) / 3 for run in runs]
        assert found["seeds"][column] == str(len(runs))
        mean, low, high = (short(value, 3) for value in (sum(ends) / len(ends), min(ends), max(ends)))
        assert found["proxy score"][column] == f"{mean} ({low} to {high})"
    assert found["other judge"] == ("word lexicon", "gold score")
    assert one.frame(first=first, second=first).sentence == "Twice the same run."


def test_a_run_without_a_gold_score_is_scrubbed_with_its_heldout_judge():
    frame = explorers.scrubber("stories, β = 0.1").frame()
    assert [row[0] for row in frame.rows][:2] == ["proxy score of this answer", "held-out judge of this answer"]
    assert {one.name for one in frame.curves} >= {"proxy score", "held-out judge", "KL to the reference"}


def test_a_bar_of_the_legend_is_filled_as_in_the_picture():
    """Without color as well: each pattern that Plotly draws has a sign of its own, and the box of each is the same."""
    one = curve("a", ["x"], [1.0], kind="bars")
    drawn = [plots.style(one, i)["marker"].get("pattern", {}).get("shape", "") for i in range(len(plots.PATTERNS))]
    assert tuple(drawn) == plots.PATTERNS
    signs = [plots.swatch(one, i).replace(plots.COLORS[i], "") for i in range(len(plots.PATTERNS))]
    assert len(set(signs)) == len(signs)
    for shape, sign in zip(drawn[1:], signs[1:], strict=True):
        lines = re.findall(r"M(\d+) (\d+)L(\d+) (\d+)(?=[M\"])", sign.split("/>")[0])
        slopes = {(int(x2) - int(x1), int(y2) - int(y1)) for x1, y1, x2, y2 in lines}
        rising, falling = any(x * y < 0 for x, y in slopes), any(x * y > 0 for x, y in slopes)
        assert (rising, falling) == {"/": (True, False), "x": (True, True)}.get(shape, (False, False))
        assert (shape == "|") == all(x == 0 for x, _ in slopes)
