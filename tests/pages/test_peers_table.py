"""The table on the page of details is the one that the tests beside other trainers hold to its word."""

import json

import pytest
import torch

from ppo_lib.models.backbone import Backbone
from ppo_lib.models.reward_model import RewardModel
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


def test_what_the_page_says_of_the_curves_is_so(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import learning_curve

    stored = json.loads(learning_curve.FILE.read_text(encoding="utf-8"))
    sides = {side: learning_curve.curves(stored, side) for side in ("trl", "full")}
    for low in (1, 2, 3):  # for the same drift nearly the same score
        score = {
            side: [row["score"] for rows in each for row in rows if low <= row["kl"] < low + 1]
            for side, each in sides.items()
        }
        assert abs(sum(score["trl"]) / len(score["trl"]) - sum(score["full"]) / len(score["full"])) < 0.1
    drift = {side: [learning_curve.near(rows, len(rows), "kl") for rows in each] for side, each in sides.items()}
    assert min(drift["trl"]) > max(drift["full"])  # TRL's is the larger toward the end, on all seeds


def test_trls_judge_is_ours(monkeypatch):
    """Read as TRL reads it: at the last token that is no padding, here the EOS."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import learning_curve

    backbone = Backbone.from_pretrained("pocket:sft")
    judge = RewardModel.from_pretrained("pocket", backbone)
    prompts, answers = ["What is the capital of Kenya?"] * 2, ["The capital of Kenya is Nairobi.", "Certainly!"]
    batch = backbone.encode_pairs(prompts, answers)
    with torch.no_grad():
        for classifier, expected in (
            (learning_curve.as_classifier(backbone, judge), judge.scores(prompts, answers)),
            (learning_curve.as_classifier(backbone), [0.0, 0.0]),
        ):
            body = classifier.model(
                input_ids=batch.sequences, attention_mask=batch.attention_mask.long(), position_ids=batch.position_ids
            )
            last = batch.prompt_width + batch.response_lengths - 1
            scores = classifier.score(body.last_hidden_state[torch.arange(2), last]).squeeze(-1)
            assert scores.tolist() == pytest.approx(expected, abs=1e-4)


def test_every_verdict_is_the_same_or_a_difference_with_its_reason():
    for what, verdicts in ROWS.items():
        assert len(verdicts) == len(PEERS), what
        assert any(verdicts), what
        assert all(v in ("", SAME) or v.startswith("differs, because ") for v in verdicts), what
