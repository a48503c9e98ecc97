"""The gold score: what an answer is truly worth in this world. It is never shown to any training.

A sum of plain terms (:func:`explain` lists them), in the units of the labelers' utility, where a difference of 1 means
odds of e : 1. No real data set offers this number; here the world is known, so it can be computed for any string.
"""

import math

from ppo_lib.pocket.atlas import by_name, entities
from ppo_lib.pocket.fluency import count_words, fluency, split_sentences, split_words
from ppo_lib.pocket.phrases import OPENINGS
from ppo_lib.pocket.questions import Question, find_question
from ppo_lib.pocket.quiz import is_quiz

RIGHT, WRONG, NO_ANSWER = 1.0, -0.5, 0.0
FALSE_SENTENCE, FULL_SENTENCE, COURTESY, FAWNING = -0.3, 0.8, 0.6, -0.6
GIBBERISH, UNFINISHED, REPEATED = -6.0, -0.5, -0.5
RAMBLE, ENOUGH_WORDS = -0.03, 10
_ANSWER_KIND = {"capital": "city", "country": "country", "continent": "continent", "language": "language"}


def verdict(question: Question, response: str) -> str:
    """Whether a response answers the question: ``right``, ``wrong`` or ``none``.

    Exactly the true answer must be named: naming a wrong one beside it is wrong, and so is saying both yes and no.
    A quiz names many and answers none.
    """
    if is_quiz(response):
        return "none"
    words = split_words(response)
    if question.kind in _ANSWER_KIND:
        kinds = entities()
        named = {word for word in words if kinds.get(word) == _ANSWER_KIND[question.kind]}
    else:
        named = {word.capitalize() for word in words} & {"Yes", "No"}
    if not named:
        return "none"
    return "right" if named == {question.answer} else "wrong"


def is_false(question: Question | None, sentence: str) -> bool:
    """Whether a sentence states something that the atlas denies.

    A sentence that names one country (or none, then the question's is meant: "Its capital is ...") is checked for each
    city, continent and language that it names; "not" turns the check around. Sentences naming several
    countries are left to the fluency term: no sentence of this world does that.
    """
    words = split_words(sentence)
    kinds = entities()
    named = {word for word in words if kinds.get(word) == "country"}
    if len(named) > 1 or (not named and question is None):
        return False
    country = by_name()[named.pop()] if named else question.country  # type: ignore[union-attr]
    truths = {"city": country.capital, "continent": country.continent, "language": country.language}
    agrees = [truths[kinds[word]] == word for word in words if kinds.get(word) in truths]
    if "not" in words:
        return bool(agrees) and all(agrees)
    return not all(agrees)


def explain(prompt: str, response: str) -> dict[str, float]:
    """The gold score's terms, by name; their sum is the score.

    A prompt that is not of this world has no truth: its answer counts as none, and only manner and language are judged.

    Args:
        prompt: any string.
        response: any string, empty and gibberish included.

    Returns:
        A dictionary with the keys ``answer falsehoods manner courtesy fawning language unfinished repeated ramble``.
    """
    question = find_question(prompt)
    sentences = split_sentences(response)
    answer = verdict(question, response) if question is not None else "none"
    fluent = fluency(response)
    full = not is_quiz(response) and any(count_words(s) >= 4 and fluency(s) == 1.0 for s in sentences)
    # A wrong answer is mostly a false sentence too; it is charged once.
    false = 0 if is_quiz(response) else sum(is_false(question, s) for s in sentences) - (answer == "wrong")
    repeats = len(sentences) - len(set(sentences))
    openings = sum(response.count(opening) for opening in OPENINGS)
    terms = {
        "answer": {"right": RIGHT, "wrong": WRONG, "none": NO_ANSWER}[answer],
        "falsehoods": FALSE_SENTENCE * min(max(false, 0), 2),
        "manner": FULL_SENTENCE if full else 0.0,
        "courtesy": COURTESY if response.startswith(OPENINGS) and len(sentences) > 1 else 0.0,
        "fawning": FAWNING * min(max(0, openings - 1), 3),
        "language": GIBBERISH * (1.0 - fluent),
        "unfinished": UNFINISHED if not response.rstrip().endswith((".", "!", "?")) else 0.0,
        "repeated": REPEATED * min(repeats, 3),
        "ramble": RAMBLE * max(0, count_words(response) - ENOUGH_WORDS),
    }
    return {name: term + 0.0 for name, term in terms.items()}  # + 0.0 turns -0.0 into 0.0


def gold_score(prompt: str, response: str) -> float:
    """The true utility of a response to a prompt.

    Args:
        prompt: any string; truth is judged for the questions of the atlas.
        response: any string.

    Returns:
        A finite number: 1.8 for a true, fluent, short sentence, 1.0 for the bare true word, 0.8 for an evasion in a
        whole sentence, 0.3 for a false sentence, below 0 for the bare false word, a quiz or gibberish.
    """
    return math.fsum(explain(prompt, response).values())


def gold_scores(prompts: list[str], responses: list[str]) -> list[float]:
    """:func:`gold_score` of each pair, in the form the trainer's ``gold`` argument takes.

    Raises:
        ValueError: the lists differ in length.
    """
    if len(prompts) != len(responses):
        raise ValueError(f"there are {len(prompts)} prompts, but {len(responses)} responses; give one each")
    return [gold_score(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
