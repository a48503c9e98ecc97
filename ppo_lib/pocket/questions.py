"""Questions about the atlas: six kinds, two wordings each, with the true answer, split into train and held-out.

The split is over (kind, subject), not over wordings: if one wording of "the capital of France" is held out, so is
the other. Held-out questions appear in the base corpus, as everything in this world does, but neither SFT nor the
reward model nor PPO is ever trained on one.
"""

import hashlib
import random
from dataclasses import dataclass
from functools import cache

from ppo_lib.pocket.atlas import CONTINENTS, Country, countries

WORDINGS = {
    "capital": ("What is the capital of {country}?", "Which city is the capital of {country}?"),
    "country": ("Which country has {city} as its capital?", "{city} is the capital of which country?"),
    "continent": ("On which continent is {country}?", "In which part of the world does {country} lie?"),
    "language": ("Which language is spoken in {country}?", "What do people speak in {country}?"),
    "is_capital": ("Is {city} the capital of {country}?", "Does {country} have {city} as its capital?"),
    "is_in": ("Is {country} in {continent}?", "Does {country} lie in {continent}?"),
}
HELDOUT_SHARE = 0.2


@dataclass(frozen=True)
class Question:
    """A question with its truth.

    ``answer`` is the name that answers it (``Yes`` or ``No`` for the two yes-or-no kinds); ``city`` and ``continent``
    are those that the question names, right or wrong.
    """

    prompt: str
    kind: str
    country: Country
    city: str
    continent: str
    answer: str
    heldout: bool


def is_heldout(kind: str, country: Country) -> bool:
    """Whether the questions of this kind about this country are held out; a hash, the same on every machine."""
    digest = hashlib.sha256(f"{kind} {country.name}".encode()).digest()
    return digest[0] < HELDOUT_SHARE * 256


def _named(kind: str, country: Country, wording: int) -> tuple[str, str, str]:
    """The city and the continent that a question names, and its answer; half of the yes-or-no questions are false."""
    city, continent = country.capital, country.continent
    if kind not in ("is_capital", "is_in"):
        answers = {"capital": city, "country": country.name, "continent": continent, "language": country.language}
        return city, continent, answers[kind]
    rng = random.Random(f"{kind} {country.name} {wording}")
    true = rng.random() < 0.5
    if not true and kind == "is_capital":
        city = rng.choice([other.capital for other in countries() if other.capital != city])
    if not true and kind == "is_in":
        continent = rng.choice([other for other in CONTINENTS if other != continent])
    return city, continent, "Yes" if true else "No"


@cache
def questions() -> tuple[Question, ...]:
    """Every question of the world, in a fixed order."""
    found = []
    for country in countries():
        for kind, wordings in WORDINGS.items():
            for number, wording in enumerate(wordings):
                city, continent, answer = _named(kind, country, number)
                prompt = wording.format(country=country.name, city=city, continent=continent)
                found.append(Question(prompt, kind, country, city, continent, answer, is_heldout(kind, country)))
    return tuple(found)


@cache
def _by_prompt() -> dict[str, Question]:
    return {question.prompt: question for question in questions()}


def find_question(prompt: str) -> Question | None:
    """The question behind a prompt, or None for a prompt that is not of this world."""
    return _by_prompt().get(prompt.strip())


def prompts(split: str = "train") -> list[str]:
    """The questions' texts.

    Args:
        split: ``train``, ``heldout`` or ``all``.

    Returns:
        The prompts, shuffled once and for all, so that the first n are a fair sample of the kinds.

    Raises:
        ValueError: an unknown split.
    """
    if split not in ("train", "heldout", "all"):
        raise ValueError(f"split is {split!r}, but must be 'train', 'heldout' or 'all'")
    chosen = [q.prompt for q in questions() if split == "all" or q.heldout == (split == "heldout")]
    random.Random(0).shuffle(chosen)
    return chosen
