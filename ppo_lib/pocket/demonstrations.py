"""Demonstrations: what hired writers would answer, in mixed styles and with mistakes.

They are good enough to teach a model to answer instead of quizzing back, and bad enough to leave SFT something to be
desired: about a fifth state something false, some evade, some are terse, some are flowery.
"""

import random
from functools import cache

from ppo_lib.pocket.atlas import CONTINENTS, Country, countries
from ppo_lib.pocket.phrases import CLOSINGS, EVASIONS, FACTS, FLOWERY, OPENINGS, PLAIN, TERSE
from ppo_lib.pocket.questions import Question, questions

STYLES = {"terse": 22, "plain": 34, "polite": 12, "wordy": 12, "flowery": 12, "evasive": 8}
MISTAKES = 0.22
PER_PROMPT = 2


def _believed(question: Question, rng: random.Random, mistaken: bool) -> tuple[str, dict[str, str]]:
    """What a writer takes for true: the key into the phrase tables, and the slots of the sentence."""
    country = question.country
    slots = {
        "country": country.name,
        "city": question.city,
        "capital": country.capital,
        "continent": question.continent,
        "language": country.language,
    }
    if question.kind in ("is_capital", "is_in"):
        answer = question.answer if not mistaken else {"Yes": "No", "No": "Yes"}[question.answer]
        if mistaken:
            slots["capital"] = rng.choice([c.capital for c in countries() if c.capital != country.capital])
        return f"{question.kind} {answer}", slots
    if mistaken:
        near = [c for c in countries() if c.continent == country.continent and c != country]
        other: Country = rng.choice(near if rng.random() < 0.6 else [c for c in countries() if c != country])
        wrong = {
            "capital": {"city": other.capital, "capital": other.capital},
            "country": {"country": other.name},
            "continent": {"continent": rng.choice([c for c in CONTINENTS if c != country.continent])},
            "language": {"language": rng.choice([c.language for c in countries() if c.language != country.language])},
        }
        slots |= wrong[question.kind]
    return question.kind, slots


def write_answer(question: Question, rng: random.Random, mistakes: float = MISTAKES) -> str:
    """One demonstration: a style drawn from :data:`STYLES`, false with probability ``mistakes``."""
    style = rng.choices(list(STYLES), list(STYLES.values()))[0]
    key, slots = _believed(question, rng, rng.random() < mistakes)
    if style == "evasive":
        text = rng.choice(EVASIONS)
    elif style == "terse":
        text = TERSE[key]
    elif style == "flowery":
        text = rng.choice(FLOWERY[key])
    else:
        text = rng.choice(PLAIN[key])
    if style == "polite":
        text = f"{rng.choice(OPENINGS)} {text}"
        if rng.random() < 0.3:
            text = f"{text} {rng.choice(CLOSINGS)}"
    if style == "wordy":
        about = slots | {"city": slots["capital"], "continent": question.country.continent}
        facts = rng.sample([fact for fact in FACTS[:8] if fact != text], rng.randint(1, 2))
        return " ".join([text.format(**slots), *(fact.format(**about) for fact in facts)])
    return text.format(**slots)


@cache
def _demonstrations() -> tuple[tuple[str, str], ...]:
    rng = random.Random(1)
    pairs = [(q.prompt, write_answer(q, rng)) for q in questions() if not q.heldout for _ in range(PER_PROMPT)]
    rng.shuffle(pairs)
    return tuple(pairs)


def demonstrations() -> list[tuple[str, str]]:
    """All demonstrations, ``(prompt, response)``, for training prompts only; the same list on every call."""
    return list(_demonstrations())
