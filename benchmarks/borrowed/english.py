"""What an answer in real English is worth: the atlas's gold score, with another measure of language.

The pocket world's fluency knows the trigrams of that world's few sentences, and a real model says more than those. Here
a text is as fluent as the share of its words that are words: names of the atlas, and the tokenizer's own vocabulary,
which holds every frequent English word as one token, and no misspelt one. It knows nothing of truth, and nothing of the
policy or its reference, so that neither KL nor reward model can be read off it. It is a weak measure: words in an order
that says nothing are all words. What it catches is what sampling at temperature 1 does, half-words and foreign scraps.
"""

import re
from functools import cache, partial
from typing import Any
from unittest import mock

from ppo_lib.pocket import gold
from ppo_lib.pocket.atlas import entities

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[^\s\w]|\d+|_")
MARKS = frozenset(".,;:!?'\"()-%$–—’“”*")
ALONE = {"a", "i"}


@cache
def known_words(tokenizer: Any) -> frozenset[str]:
    """Words of two letters or more that the tokenizer holds whole, in lower case."""
    pieces = (token[1:] for token in tokenizer.get_vocab() if token.startswith("Ġ"))
    return frozenset(p.lower() for p in pieces if p.isascii() and p.isalpha() and len(p) > 1) | ALONE


def english(text: str, words: frozenset[str]) -> float:
    """Share of a text's words and marks that are words and marks of English, in [0, 1]; 0 of an empty text."""
    found = WORD.findall(text)
    if not found:
        return 0.0
    names = {part for name in entities() for part in name.split()}
    return sum(is_known(word, words, names) for word in found) / len(found)


def is_known(word: str, words: frozenset[str], names: set[str]) -> bool:
    """One word: a mark, a number, a name of the atlas, or made of words."""
    if word in MARKS or word.isdigit() or word in names:
        return True
    parts = [part for part in re.split(r"['’-]", word.lower()) if part not in ("s", "t", "re", "ve", "ll", "d", "m")]
    return all(part in words for part in parts)


def explain(prompt: str, response: str, words: frozenset[str]) -> dict[str, float]:
    """The terms of the gold score of an answer in English; their sum is the score."""
    with mock.patch.object(gold, "fluency", partial(english, words=words)):
        return gold.explain(prompt, response)
