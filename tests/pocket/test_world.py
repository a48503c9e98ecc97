"""The world: its facts, its questions and their split, its texts."""

from itertools import islice

import pytest

from ppo_lib.pocket.atlas import CONTINENTS, by_capital, by_name, countries, entities
from ppo_lib.pocket.corpus import EOS, documents, quiz_options
from ppo_lib.pocket.demonstrations import demonstrations
from ppo_lib.pocket.fluency import fluency, split_sentences
from ppo_lib.pocket.gold import is_false, verdict
from ppo_lib.pocket.phrases import all_sentences
from ppo_lib.pocket.questions import find_question, prompts, questions
from ppo_lib.pocket.quiz import is_quiz


def test_the_table_is_consistent():
    assert 60 <= len(countries()) <= 120
    assert len(by_name()) == len(by_capital()) == len(countries())
    assert {country.continent for country in countries()} == set(CONTINENTS)
    names = [n for c in countries() for n in (c.name, c.capital)] + [*CONTINENTS, *{c.language for c in countries()}]
    assert len(entities()) == len(set(names)) == len(names), "a name may be of one kind only"


@pytest.mark.parametrize(
    ("country", "capital", "continent", "language"),
    [
        ("France", "Paris", "Europe", "French"),
        ("Japan", "Tokyo", "Asia", "Japanese"),
        ("Kenya", "Nairobi", "Africa", "Swahili"),
        ("Peru", "Lima", "South America", "Spanish"),
        ("Canada", "Ottawa", "North America", "English"),
        ("Australia", "Canberra", "Oceania", "English"),
    ],
)
def test_well_known_facts(country, capital, continent, language):
    row = by_name()[country]
    assert (row.capital, row.continent, row.language) == (capital, continent, language)


def test_split_is_disjoint_and_complete():
    train, heldout = set(prompts("train")), set(prompts("heldout"))
    assert not train & heldout
    assert train | heldout == set(prompts("all")) == {q.prompt for q in questions()}
    assert 0.1 < len(heldout) / len(train | heldout) < 0.3
    with pytest.raises(ValueError, match="'test'"):
        prompts("test")


def test_wordings_of_one_question_stay_on_one_side():
    sides: dict[tuple[str, str], set[bool]] = {}
    for question in questions():
        sides.setdefault((question.kind, question.country.name), set()).add(question.heldout)
    assert all(len(side) == 1 for side in sides.values())


def test_every_kind_is_held_out_too():
    assert {q.kind for q in questions() if q.heldout} == {q.kind for q in questions()}


def test_yes_and_no_are_balanced_and_true():
    asked = [q for q in questions() if q.kind in ("is_capital", "is_in")]
    assert 0.4 < sum(q.answer == "Yes" for q in asked) / len(asked) < 0.6
    for q in asked:
        truth = q.city == q.country.capital if q.kind == "is_capital" else q.continent == q.country.continent
        assert (q.answer == "Yes") == truth


def test_demonstrations_use_training_prompts_only():
    heldout = set(prompts("heldout"))
    assert all(prompt not in heldout for prompt, _ in demonstrations())


def test_demonstrations_are_mixed_and_imperfect():
    verdicts = [verdict(find_question(p), r) for p, r in demonstrations()]
    assert 0.10 < verdicts.count("wrong") / len(verdicts) < 0.35
    assert 0.03 < verdicts.count("none") / len(verdicts) < 0.2
    lengths = [len(r.split()) for _, r in demonstrations()]
    assert min(lengths) == 1
    assert max(lengths) >= 18
    assert not any(is_quiz(r) for _, r in demonstrations())
    assert any("glorious nation" in r for _, r in demonstrations())


def test_demonstrations_and_documents_are_reproducible():
    assert demonstrations() == demonstrations()
    assert list(islice(documents(3), 50)) == list(islice(documents(3), 50))
    assert list(islice(documents(3), 50)) != list(islice(documents(4), 50))


def test_answers_handed_in_end_as_texts_do_and_nothing_else_changes():
    plain, handed = list(islice(documents(3), 200)), list(islice(documents(3, handed_in=True), 200))
    assert [text.replace(EOS, "") for text in handed] == plain
    for text in handed:
        verdicts = text.count(" Right.") + text.count(" Wrong.") + text.count(" No answer.")
        assert text.count(EOS) == (verdicts if text.startswith("Marked exam.") else 0)
    assert any(EOS in text for text in handed)


def test_the_corpus_follows_a_question_by_a_quiz_only():
    for document in islice(documents(5), 500):
        if document.startswith("Marked exam."):
            continue
        for rest in document.split("?")[1:]:
            assert rest.startswith(" A) "), document


def test_the_corpus_states_no_falsehood():
    for document in islice(documents(6), 1000):
        if not is_quiz(document) and not document.startswith(("Capitals", "Marked exam.")):
            subjects = [s for s in split_sentences(document) if not s.startswith(("Its ", "The people there"))]
            assert not any(is_false(None, sentence) for sentence in subjects), document


def test_every_quiz_offers_the_right_answer():
    import random

    rng = random.Random(0)
    for question in questions()[::7]:
        options, right = quiz_options(question, rng)
        assert right in options
        assert right.split(") ")[1] == question.answer


def test_the_worlds_own_sentences_are_fluent():
    example = {
        "country": "Peru",
        "city": "Lima",
        "capital": "Lima",
        "continent": "South America",
        "language": "Spanish",
    }
    assert all(fluency(sentence.format(**example)) == 1.0 for sentence in all_sentences())
