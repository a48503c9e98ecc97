"""How fluent a text is: the share of its word trigrams that this world's sentences contain.

Names are replaced by their kind first ("the capital of COUNTRY is CITY"), so that fluency knows nothing of truth: a
false sentence in good English is fluent. Works for any string, empty and gibberish included.
"""

import re
from functools import cache

from ppo_lib.pocket.atlas import entities
from ppo_lib.pocket.phrases import all_sentences

_START, _END, _JUNK = "<s>", "</s>", "<?>"
_SLOTS = {"country": "COUNTRY", "city": "CITY", "capital": "CITY", "continent": "CONTINENT", "language": "LANGUAGE"}


@cache
def _pieces() -> re.Pattern[str]:
    """Names (longest first, so that "North America" is one), words, stops; any other visible character is junk."""
    names = "|".join(re.escape(name) for name in sorted(entities(), key=len, reverse=True))
    return re.compile(rf"\b(?:{names})\b|[A-Za-z]+(?:-[A-Za-z]+)*|[.,!?]|[^\s]")


def split_words(text: str) -> list[str]:
    """The text's names, words and punctuation marks, in order; a character that is none of these stands alone."""
    return _pieces().findall(text)


def count_words(text: str) -> int:
    """How many words a reader would count: the text split at white space."""
    return len(text.split())


def split_sentences(text: str) -> list[str]:
    """The text cut after each full stop, exclamation and question mark; white space trimmed, empty pieces dropped."""
    return [piece.strip() for piece in re.findall(r"[^.!?]+[.!?]*|[.!?]+", text) if piece.strip()]


def _marks(sentence: str) -> list[str]:
    kinds = entities()
    marks = []
    for piece in split_words(sentence):
        if piece in kinds:
            marks.append(_SLOTS[kinds[piece]])
        elif piece[0].isascii() and (piece[0].isalpha() or piece in ".,!?"):
            marks.append(piece)
        else:
            marks.append(_JUNK)
    return marks


def _trigrams(marks: list[str]) -> list[tuple[str, str, str]]:
    if marks[-1] not in (".", "!", "?"):
        marks = [*marks, "."]  # a missing full stop is charged elsewhere, not as gibberish
    padded = [_START, *marks, _END]
    return [(padded[i], padded[i + 1], padded[i + 2]) for i in range(len(padded) - 2)]


@cache
def _known() -> frozenset[tuple[str, str, str]]:
    """All trigrams of all template sentences, with names as kinds."""
    example = {"country": "France", "city": "Paris", "capital": "Paris", "continent": "Europe", "language": "French"}
    found: set[tuple[str, str, str]] = set()
    for template in all_sentences():
        found.update(_trigrams(_marks(template.format(**example))))
    return frozenset(found)


def fluency(text: str) -> float:
    """Share of the text's word trigrams, sentence boundaries included, that the world's sentences contain.

    Args:
        text: any string.

    Returns:
        A number in [0, 1]; 1 for any text made of the world's sentences, 0 for an empty one.
    """
    trigrams = [trigram for sentence in split_sentences(text) for trigram in _trigrams(_marks(sentence))]
    if not trigrams:
        return 0.0
    return sum(trigram in _known() for trigram in trigrams) / len(trigrams)
