"""Shares with their intervals."""

import math

import pytest

from ppo_lib.book.intervals import percent, share, wilson_interval, wins


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
    assert wins([0, 1, 2, 3], [1, 1, 2, 0]) == share(2, 4)
    assert wins([0.0], [1.0])["share"] == 1


def test_a_share_is_told_with_its_interval_and_count():
    assert percent(share(656, 1319)) == "49.7% (95 % interval 47.0% to 52.4%, n = 1319)"
