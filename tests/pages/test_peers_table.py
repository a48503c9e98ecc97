"""The table on the page of details is the one that the tests beside other trainers hold to its word."""

import json

from tests.pages.book import ROOT
from tests.peers.table import PEERS, ROWS, SAME, lines


def test_the_page_shows_the_table_that_is_tested():
    assert "\n".join(lines()) in (ROOT / "book/details.md").read_text(encoding="utf-8")


def test_the_page_shows_the_learning_curves_that_are_kept(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import learning_curve

    stored = json.loads(learning_curve.FILE.read_text(encoding="utf-8"))
    assert len(stored["runs"]) == 3 * len(learning_curve.SIDES)
    assert "\n".join(learning_curve.table(stored)) in (ROOT / "book/details.md").read_text(encoding="utf-8")


def test_every_verdict_is_the_same_or_a_difference_with_its_reason():
    for what, verdicts in ROWS.items():
        assert len(verdicts) == len(PEERS), what
        assert any(verdicts), what
        assert all(v in ("", SAME) or v.startswith("differs, because ") for v in verdicts), what
