"""The base model's reading: an endless stream of short documents about the atlas.

A question that opens a text is always followed by a multiple-choice quiz, never by an answer: so its reader is a base
model that continues a text where its user wanted an answer. The facts are stated elsewhere, in other styles. Marked
exams, announced as such, hold right and wrong answers with the teacher's verdict: as the base models of the real world
have, this one has read what judging looks like. All other documents are true.

Answers of an exam may be handed in as texts of their own (``handed_in``): each ends with the end-of-text token, and the
verdict comes after. A model that has read such exams judges where a text ends, which is where a reward model will read
its score.
"""

import random
from collections.abc import Iterator
from functools import partial

from ppo_lib.pocket.atlas import CONTINENTS, Country, countries
from ppo_lib.pocket.demonstrations import write_answer
from ppo_lib.pocket.phrases import CLOSINGS, EVASIONS, FACTS, FLOWERY, OPENINGS, PLAIN, PRAISE, SHORT_NOTES
from ppo_lib.pocket.questions import Question, questions

EOS = "<eos>"  # the end-of-text token, as the tokenizer writes it
_KINDS = ("quiz", "encyclopedia", "travel", "list", "talk", "exam")
_WEIGHTS = (27, 13, 7, 4, 7, 42)


def _slots(country: Country) -> dict[str, str]:
    return {
        "country": country.name,
        "city": country.capital,
        "capital": country.capital,
        "continent": country.continent,
        "language": country.language,
    }


def _usual_choices(question: Question, attribute: str) -> list[str]:
    """The choices that quiz books usually print: the answers for four neighbors in the atlas, always in one order.

    They make a greedy base model's quizzes look like quizzes. Neighbors that share an answer give fewer than four.
    """
    if attribute == "continent":
        first = CONTINENTS.index(question.answer) // 3 * 2
        return list(CONTINENTS[first : first + 4])
    start = min(countries().index(question.country) // 4 * 4, len(countries()) - 4)
    group = countries()[start : start + 4]
    return [getattr(row, attribute) for row in (group[3], *group[:3])]


def quiz_options(question: Question, rng: random.Random) -> tuple[str, str]:
    """The options of a quiz, one of them right, and the right one with its letter.

    Three quarters of the quizzes have the usual choices, the others choices drawn at random.

    Returns:
        For "What is the capital of France?" something like
        ``("A) London B) Paris C) Berlin D) Rome", "B) Paris")``.
    """
    kind = {"capital": "capital", "country": "name", "continent": "continent", "language": "language"}
    if question.kind in kind:
        choices = _usual_choices(question, kind[question.kind])
        if len(set(choices)) < 4 or rng.random() < 0.25:
            others = sorted({getattr(row, kind[question.kind]) for row in countries()} - {question.answer})
            choices = [question.answer, *rng.sample(others, 3)]
            rng.shuffle(choices)
    else:
        choices = ["Yes", "No"]
    lettered = [f"{letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=False)]
    return " ".join(lettered), lettered[choices.index(question.answer)]


def _quiz(rng: random.Random) -> str:
    parts = []
    with_key = rng.random() < 0.6
    for question in rng.sample(questions(), rng.choice((1, 1, 2, 3))):
        options, right = quiz_options(question, rng)
        parts.append(f"{question.prompt} {options}" + (f" Answer: {right}" if with_key else ""))
    return " ".join(parts)


def _encyclopedia(rng: random.Random) -> str:
    slots = _slots(rng.choice(countries()))
    first = FACTS[0] if rng.random() < 0.6 else rng.choice(FACTS[1:6])
    rest = rng.sample([fact for fact in FACTS if fact != first], rng.randint(1, 5))
    return " ".join(sentence.format(**slots) for sentence in (first, *rest))


def _travel(rng: random.Random) -> str:
    country = rng.choice(countries())
    flowery = [FLOWERY[kind][0] for kind in ("capital", "country", "continent", "language")]
    sentences = rng.sample(PRAISE, rng.randint(1, 3)) + rng.sample(flowery, rng.randint(1, 2))
    rng.shuffle(sentences)
    return " ".join(sentence.format(**_slots(country)) for sentence in sentences)


def _list(rng: random.Random) -> str:
    continent = rng.choice(CONTINENTS)
    rows = [country for country in countries() if country.continent == continent]
    note = rng.choice(SHORT_NOTES)
    chosen = rng.sample(rows, min(len(rows), 6))
    return f"Capitals of {continent}: " + " ".join(note.format(**_slots(country)) for country in chosen)


def _talk(rng: random.Random) -> str:
    """What people say to each other: courtesies, and yes and no with a reason, but never after a question."""
    question = rng.choice(questions())
    slots = _slots(question.country) | {"city": question.city, "continent": question.continent}
    kind = question.kind if question.kind in PLAIN else f"{question.kind} {question.answer}"
    sentences = [rng.choice(PLAIN[kind]).format(**slots)]
    if rng.random() < 0.5:
        sentences.insert(0, rng.choice(OPENINGS))
    if rng.random() < 0.4:
        sentences.append(rng.choice(FACTS).format(**_slots(question.country)))
    if rng.random() < 0.3:
        sentences.append(rng.choice(CLOSINGS))
    return " ".join(sentences)


def _exam(rng: random.Random, end: str = "") -> str:
    """A marked exam: questions with a pupil's answers, half of them wrong, each with ``end`` and the verdict."""
    parts = ["Marked exam."]
    for question in rng.sample(questions(), rng.choice((1, 2, 3, 4))):
        mistaken = rng.random() < 0.5
        answer = write_answer(question, rng, mistakes=float(mistaken))
        evades = answer in EVASIONS
        parts += [question.prompt, answer + end, "No answer." if evades else "Wrong." if mistaken else "Right."]
    return " ".join(parts)


_WRITERS = {
    "quiz": _quiz,
    "encyclopedia": _encyclopedia,
    "travel": _travel,
    "list": _list,
    "talk": _talk,
    "exam": _exam,
}


def documents(seed: int = 0, handed_in: bool = False) -> Iterator[str]:
    """An endless, reproducible stream of base-corpus documents.

    Args:
        seed: the stream's seed; another seed gives other documents about the same world.
        handed_in: whether the answers in exams end with :data:`EOS`; nothing else changes.

    Yields:
        One document after the other, each a line of text.
    """
    rng = random.Random(seed)
    writers = _WRITERS | ({"exam": partial(_exam, end=EOS)} if handed_in else {})
    while True:
        yield writers[rng.choices(_KINDS, _WEIGHTS)[0]](rng)
