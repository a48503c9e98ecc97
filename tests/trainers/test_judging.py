"""Judges that only watch: nothing that they do ends a training."""

import math

import pytest
import torch

from ppo_lib.trainers.judging import ask, watch

PROMPTS, TEXTS = ["p", "q", "r"], ["one", "two", "three"]


def lengths(prompts, texts):
    return [float(len(text)) for text in texts]


def seen(function):
    return watch({"heldout": function}, None, PROMPTS, TEXTS, None, torch.ones(3, dtype=torch.bool))["heldout"]


def test_what_a_watching_judge_says_is_what_a_judge_says():
    assert torch.equal(seen(lengths), ask(lengths, PROMPTS, TEXTS))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (lambda p, t: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda p, t: None, "returned None of type NoneType"),
        (lambda p, t: [1.0], "returned 1 scores for 3 responses"),
        (lambda p, t: exit(3), r"called sys.exit\(3\)"),
    ],
)
def test_one_that_fails_gives_no_scores_and_the_training_goes_on(given, why):
    with pytest.warns(UserWarning, match=f"the judge 'heldout', which only watches, failed: .*{why}.*goes on"):
        scores = seen(given)
    assert scores.shape == (3,)
    assert scores.isnan().all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e13])
def test_a_score_that_is_no_usable_number_is_left_out_alone(value):
    with pytest.warns(UserWarning, match=f"its score of response 1 is {value}"):
        scores = seen(lambda p, t: [1.0, value, 3.0])
    assert scores[[0, 2]].tolist() == [1.0, 3.0]
    assert scores[1].isnan()


def test_ctrl_c_in_a_watching_judge_still_ends_the_run():
    def interrupted(prompts, texts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seen(interrupted)
