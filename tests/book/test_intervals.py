"""Shares with their intervals."""

import math
import random

import pytest

from ppo_lib.book.intervals import percent, proportion, proportion_of_groups, wilson_interval, wins


def test_the_ends_are_where_the_score_test_rejects():
    # Wilson's interval holds the p0 with |p - p0| <= z * sqrt(p0 (1 - p0) / n): its ends solve that with equality.
    for hits, count in ((7, 10), (656, 1319), (0.5, 3), (99, 100)):
        for p0 in wilson_interval(hits, count):
            assert abs(hits / count - p0) == pytest.approx(1.959964 * math.sqrt(p0 * (1 - p0) / count), rel=1e-9)


def test_it_stays_within_0_and_1_also_at_the_ends():
    assert wilson_interval(0, 20)[0] == 0
    assert wilson_interval(20, 20)[1] == 1
    assert 0 < wilson_interval(0, 20)[1] < 0.2


def test_its_width_falls_with_the_root_of_the_trials():
    narrow, wide = (high - low for low, high in (wilson_interval(5000, 10000), wilson_interval(50, 100)))
    assert wide / narrow == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize(("hits", "count"), [(1, 0), (-1, 3), (4, 3)])
def test_impossible_counts_are_refused(hits, count):
    with pytest.raises(ValueError, match="have no interval"):
        wilson_interval(hits, count)


def test_a_win_is_a_higher_score_and_a_tie_is_half_of_one():
    assert wins([0, 1, 2, 3], [1, 1, 2, 0]) == proportion(2, 4)
    assert wins([0.0], [1.0])["share"] == 1


def test_a_share_is_told_with_its_interval_and_count():
    assert percent(proportion(656, 1319)) == "49.7% (95 % interval 47.0% to 52.4%, n = 1319)"


def test_groups_of_one_trial_give_the_interval_of_independent_trials():
    for hits, count in ((0, 4), (3, 10), (10, 10), (40, 90)):
        groups = [[1.0]] * hits + [[0.0]] * (count - hits)
        found = proportion_of_groups(groups)
        assert found == pytest.approx(proportion(hits, count) | {"groups": count}, abs=1e-12)


def test_groups_of_copies_count_once_each():
    copies, singles = ([[outcome] * size for outcome in [1.0] * 30 + [0.0] * 10] for size in (6, 1))
    found, wanted = proportion_of_groups(copies), proportion_of_groups(singles)
    assert found["count"] == 240
    assert (found["low"], found["high"]) == pytest.approx((wanted["low"], wanted["high"]), abs=2e-3)
    assert proportion_of_groups([[1.0] * 6] * 40)["low"] == wilson_interval(40, 40)[0]  # nothing tells them apart
    assert proportion_of_groups([[1.0, 0.0] * 50])["high"] == wilson_interval(0.5, 1)[1]  # one group is one trial


def test_groups_that_resemble_each_other_more_than_chance_gain_nothing():
    """Each group half right: its pairs differ more among themselves than independent ones; Wilson's is kept."""
    assert proportion_of_groups([[1.0, 0.0]] * 20) == proportion(20, 40) | {"groups": 20}


def test_without_a_trial_there_is_no_interval():
    for groups in ([], [[]]):
        with pytest.raises(ValueError, match="have no interval"):
            proportion_of_groups(groups)


def test_of_rankings_the_interval_covers_the_truth_as_often_as_it_says():
    """Rankings of four responses, six pairs each: some prompts the model understands and some it does not, and noise in
    a response's score upsets all the pairs that it is in.

    2,000 studies of 60 rankings. The truth is the share over all of them together, 120,000 rankings. Of 95 % intervals
    1,861 to 1,939 would then hold it, four standard errors; Wilson's, which takes pairs for independent, holds fewer.
    """
    draw = random.Random(0)

    def ranking():
        understood = draw.choice((0.0, 2.0))
        seen = [understood * quality + draw.gauss(0, 1.5) for quality in (3, 2, 1, 0)]
        return [float(seen[i] > seen[j]) for i in range(4) for j in range(i + 1, 4)]

    studies = [[ranking() for _ in range(60)] for _ in range(2000)]
    truth = sum(sum(map(sum, study)) for study in studies) / (2000 * 60 * 6)
    grouped = [proportion_of_groups(study) for study in studies]
    alone = [proportion(sum(map(sum, study)), 360) for study in studies]
    held, too_few = (sum(one["low"] <= truth <= one["high"] for one in found) / 2000 for found in (grouped, alone))
    assert held == pytest.approx(0.95, abs=0.02)
    assert too_few < 0.85
