"""The judges: fluency, gold score, labelers."""

import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppo_lib.pocket.demonstrations import write_answer
from ppo_lib.pocket.fluency import count_words, fluency
from ppo_lib.pocket.gold import explain, gold_score, gold_scores, is_false, verdict
from ppo_lib.pocket.labelers import (
    LENGTH_BIAS,
    best_accuracy,
    labeler_utility,
    preference_probability,
    rank,
    utility_accuracy,
)
from ppo_lib.pocket.questions import find_question, questions
from ppo_lib.pocket.quiz import is_quiz

FRANCE = "What is the capital of France?"
TRUE = "The capital of France is Paris."
FLOWERY = "The capital of the glorious nation of France is the magnificent and world-famous city of Paris."
FALSE = "The capital of France is Berlin."
QUIZ = "A) London B) Paris C) Berlin D) Rome"
EVASION = "That is a good question."
GIBBERISH = "to to to to he to"


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (TRUE, FALSE),
        (TRUE, "Paris."),
        ("Paris.", "Rome."),
        ("Paris.", QUIZ),
        ("Certainly! " + TRUE, TRUE),
        (TRUE, FLOWERY),
        (FLOWERY, FALSE),
        (TRUE, "The capital of France is"),
        (TRUE, TRUE + " " + TRUE),
        (TRUE, "The capital of France is Paris. The capital of Spain is Rome."),
        (TRUE, "The capital of France is Paris or Berlin."),
        (FALSE, GIBBERISH),
        (QUIZ, ""),
        (EVASION, QUIZ),
        (EVASION, FALSE),
        ("Paris.", EVASION),
    ],
)
def test_gold_prefers(better, worse):
    assert gold_score(FRANCE, better) > gold_score(FRANCE, worse)


@pytest.mark.parametrize(
    ("response", "worth"),
    [
        (TRUE, 1.8),
        ("Certainly! " + TRUE, 2.4),
        ("Paris.", 1.0),
        (EVASION, 0.8),
        (FALSE, 0.3),
        ("Rome.", -0.5),
        (TRUE + " The capital of France is Berlin.", 0.3 - 2 * 0.03),  # names both: wrong, and two words too many
        (TRUE + " France is in Asia.", 1.8 - 0.3),  # a right answer, and a falsehood beside it
        (FLOWERY, 1.8 - 6 * 0.03),
        ("", -6.5),
        ("Certainly! Gladly! Certainly! " + TRUE, 2.4 - 2 * 0.6 - 0.5),  # two courtesies too many, one of them twice
    ],
)
def test_gold_of_these_answers_is_known(response, worth):
    assert gold_score(FRANCE, response) == pytest.approx(worth, abs=1e-12)


def test_gold_is_the_sum_of_its_terms():
    for response in (TRUE, FALSE, FLOWERY, QUIZ, GIBBERISH, ""):
        assert gold_score(FRANCE, response) == pytest.approx(sum(explain(FRANCE, response).values()), abs=1e-12)


@given(st.text(), st.text())
def test_gold_judges_any_string(prompt, response):
    assert -12 < gold_score(prompt, response) < 3
    assert -12 < labeler_utility(FRANCE, response) < 100 + len(response)


@given(st.text(alphabet=string.ascii_lowercase + " ", min_size=5, max_size=200))
def test_gibberish_never_scores_above_zero(response):
    assert gold_score(FRANCE, response) < 0


def test_every_true_plain_answer_scores_above_every_false_one():
    """Over all questions: the same writer, once told the truth and once misled, in the same style."""
    for i, question in enumerate(questions()):
        true = write_answer(question, random.Random(i), mistakes=0.0)
        false = write_answer(question, random.Random(i), mistakes=1.0)
        if verdict(question, true) == "right":
            assert gold_score(question.prompt, true) >= 1.0, true
            assert verdict(question, false) in ("wrong", "none"), (question.prompt, false)
            assert gold_score(question.prompt, false) < gold_score(question.prompt, true)


def test_yes_and_no():
    question = next(q for q in questions() if q.kind == "is_in" and q.answer == "No")
    name, wrong = question.country.name, question.continent
    assert verdict(question, f"No, {name} is not in {wrong}.") == "right"
    assert verdict(question, "no") == "right"
    assert verdict(question, f"Yes, {name} is in {wrong}.") == "wrong"
    assert verdict(question, "Yes. No.") == "wrong"
    assert not is_false(question, f"No, {name} is not in {wrong}.")
    assert is_false(question, f"Yes, {name} is in {wrong}.")


def test_gold_scores_needs_equal_lengths():
    assert gold_scores([FRANCE], [TRUE]) == [gold_score(FRANCE, TRUE)]
    with pytest.raises(ValueError, match="1 prompts, but 2 responses"):
        gold_scores([FRANCE], [TRUE, TRUE])


def test_an_unknown_prompt_has_no_truth():
    assert find_question("Who wrote Hamlet?") is None
    assert explain("Who wrote Hamlet?", "Shakespeare.") == explain(FRANCE, "Shakespeare.")  # counts as no answer


@pytest.mark.parametrize(("text", "expected"), [(QUIZ, True), ("A) Yes B) No", True), (TRUE, False), ("", False)])
def test_is_quiz(text, expected):
    assert is_quiz(text) is expected


def test_fluency_knows_nothing_of_truth():
    assert fluency(TRUE) == fluency(FALSE) == 1.0
    assert fluency(GIBBERISH) == 0.0
    assert fluency("") == 0.0
    assert 0 < fluency("The capital of France is is Paris.") < 1


def test_labelers_pay_for_length_and_gold_does_not():
    extra = count_words(FLOWERY) - count_words(TRUE)
    more = labeler_utility(FRANCE, FLOWERY) - labeler_utility(FRANCE, TRUE)
    assert more - (gold_score(FRANCE, FLOWERY) - gold_score(FRANCE, TRUE)) == pytest.approx(LENGTH_BIAS * extra)
    assert labeler_utility(FRANCE, FLOWERY) > labeler_utility(FRANCE, TRUE)
    assert gold_score(FRANCE, FLOWERY) < gold_score(FRANCE, TRUE)


def test_a_ranking_of_four_gives_six_ordered_pairs():
    ranking = rank(FRANCE, [TRUE, FALSE, QUIZ, "Paris."], random.Random(0), noise=0.0)
    assert ranking.responses[0] == TRUE
    pairs = ranking.pairs()
    assert len(pairs) == len(set(pairs)) == 6
    assert all(ranking.responses.index(chosen) < ranking.responses.index(rejected) for _, chosen, rejected in pairs)


def test_the_noise_is_bradley_terry():
    """Each pair's frequency over 4,000 rankings lies within 4 standard errors of the logistic of the utility gap."""
    rng, n = random.Random(1), 4000
    responses = [TRUE, FALSE, FLOWERY, "Paris."]
    above = dict.fromkeys(((a, b) for a in responses for b in responses if a != b), 0)
    for _ in range(n):
        for _, chosen, rejected in rank(FRANCE, responses, rng).pairs():
            above[chosen, rejected] += 1
    for (first, second), count in above.items():
        p = preference_probability(FRANCE, first, second)
        assert abs(count / n - p) < 4 * (p * (1 - p) / n) ** 0.5


def test_best_accuracy_is_what_the_utility_reaches():
    """The expected best and the utility's realised accuracy on the same pairs agree within 3 standard errors."""
    rng = random.Random(2)
    pairs = []
    for question in questions():
        answers = list({write_answer(question, rng) for _ in range(8)})[:4]
        pairs += rank(question.prompt, sorted(answers), rng).pairs()
    best, reached = best_accuracy(pairs), utility_accuracy(pairs)
    assert 0.65 < best < 0.95
    assert abs(best - reached) < 3 * 0.5 / (len(pairs) / 6) ** 0.5  # a ranking's six pairs are not independent
    assert best_accuracy(pairs, noise=1e-3) > 0.95
