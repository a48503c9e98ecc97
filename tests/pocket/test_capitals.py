"""The gold score for real English, its labelers, and the source that configurations name."""

import random

import pytest

from ppo_lib.models import registry
from ppo_lib.pocket import capitals, labelers
from ppo_lib.pocket.questions import find_question

KENYA = "What is the capital of Kenya?"
# Answers from the best to the worst, and what each is worth.
WORTH = [
    ("The capital of Kenya is Nairobi.", 1.8),
    ("The capital of Kenya is Nairobi, a city that is known for its parks and its long and rich history.", 1.5),
    ("Nairobi", 0.5),
    ("Kenya is a country in Africa.", 0.8),
    ("The capital of Kenya is Kampala.", 0.3),
    ("The capital of Kenya is Kenya.", 0.3),
    ("The capital of Kenya is Nairobi or Kampala.", 0.3),
    ("The capital of Kenya is", -1.0),
    ("", -6.5),
]


@pytest.mark.parametrize(("answer", "worth"), WORTH)
def test_what_an_answer_is_worth(answer, worth):
    assert capitals.gold_score(KENYA, answer) == pytest.approx(worth, abs=0.01)


def test_the_terms_add_up_and_have_names():
    answer = "The capital of Kenya is Kampala. The capital of Kenya is Kampala."
    terms = capitals.explain(KENYA, answer)
    assert list(terms) == ["answer", "falsehoods", "manner", "language", "unfinished", "repeated", "ramble"]
    assert terms["repeated"] == -0.5
    assert sum(terms.values()) == pytest.approx(capitals.gold_score(KENYA, answer))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Nairobi is the capital of Kenya.", "right"),
        ("Nairobi.", "right"),
        ("It is Nairobi, not Mombasa.", "right"),
        ("It is Nairobi or Kampala.", "wrong"),
        ("The capital of Kenya is Mombasa.", "wrong"),
        ("Kenya lies in Africa.", "none"),
        ("Nairobis", "none"),
        ("", "none"),
    ],
)
def test_a_claim_is_right_or_wrong_and_what_claims_nothing_is_neither(answer, said):
    assert capitals.verdict(find_question(KENYA), answer) == said
    assert capitals.right([KENYA], [answer]) == [float(said == "right")]


def test_a_prompt_of_another_kind_has_no_truth():
    assert capitals.right(["On which continent is Kenya?", "Hello"], ["Nairobi.", "Nairobi."]) == [0.0, 0.0]
    assert capitals.explain("Hello", "The capital of Kenya is Kampala.")["answer"] == 0.0


def test_held_out_countries_are_never_asked():
    train, heldout = capitals.prompts(), capitals.prompts("heldout")
    countries = [{find_question(prompt).country for prompt in part} for part in (train, heldout)]
    assert not countries[0] & countries[1]
    assert len(train) > 3 * len(heldout) > 90
    assert {find_question(prompt).kind for prompt in train + heldout} == {"capital"}


def test_a_labeler_ranks_by_the_gold_score_its_bias_and_its_mood():
    answers = [answer for answer, _ in WORTH]
    shuffled = random.Random(1).sample(answers, len(answers))
    order = capitals.label(KENYA, shuffled, noise=0.0)
    pays = [labelers.labeler_utility(KENYA, shuffled[n], gold=capitals.gold_score) for n in order]
    assert pays == sorted(pays, reverse=True)
    assert sorted(order) == list(range(len(answers)))
    assert capitals.label(KENYA, shuffled) == capitals.label(KENYA, shuffled)
    assert len({tuple(capitals.label(KENYA, shuffled, seed)) for seed in range(9)}) > 4


def test_a_labeler_refuses_the_same_answer_twice():
    with pytest.raises(ValueError, match="not all different"):
        capitals.label(KENYA, ["a", "a"])


def test_the_source_gives_what_the_recipe_needs():
    source = registry.find("capitals")
    assert source.prompts("train") == capitals.prompts()
    assert source.gold([KENYA], ["Nairobi"]) == [capitals.gold_score(KENYA, "Nairobi")]
    assert source.judge()([KENYA], ["Nairobi"]) == [1.0]
    assert sorted(source.labeler(0)(KENYA, ["Nairobi", "Kampala"])) == [0, 1]
    assert registry.find("capitals:x") is None
