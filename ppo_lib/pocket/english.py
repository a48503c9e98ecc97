"""How much a text in real English is English, read by a proof-reader of two rules that fit on a page.

The pocket world's fluency knows the trigrams of that world's few sentences; a real model says more than those. Sampled
at temperature 1, it goes wrong in two ways, and each rule looks for one of them:

* **Scraps**: half-words, foreign pieces, codes. A word counts as known if it is in a list of 25,000 English words, a
  number, or a name: plain letters, the first one a capital. Whether there is such a name is a question of truth.
* **Salad**: words that are words, in an order that says nothing. English is held together by its small words, and after
  most of them only some can follow: no sentence has "the of", "a is" or "in and", ends with "the", or says "to to".
  Where words are shuffled, such pairs appear at once. A sentence of some length without a verb is salad as well.

It knows nothing of truth, and nothing of any policy, reference or reward model, so no training can have seen it. It is
a proof-reader and no critic: a dull sentence is as English as a good one, and a lie as much as the truth.
"""

import gzip
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

WORDS = Path(__file__).parent / "weights" / "english_words.txt.gz"
PIECE = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+(?:[.,]\d+)*|[^\s]")
SENTENCE = re.compile(r"(?:[^.!?\n]|(?<=\b[A-Z])\.|\.(?=\S))+[.!?]*|[.!?]+")  # "U.S." and "3.5" end nothing
ENDINGS, MARKS = frozenset(".!?"), frozenset(".,;:!?'\"()-–—%$“”‘’&*/")
SUFFIXES = ("s", "t", "re", "ve", "ll", "d", "m")  # of "it's", "don't"


def word_set(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


DETERMINERS = word_set("a an the its their his our your my every")
PREPOSITIONS = word_set("of in on at by for from with into near between among to as under during across")
LINKS = word_set("and or but nor than")
VERBS = word_set("is are was were has have had be been will would can could may might must do does did")
PRONOUNS = word_set("he she they we i")
HELPERS = word_set("will would can could may might must do does did has have had")
# Verbs that answers about places are made of, beside those above; a sentence with none of either has likely no verb.
DOING = word_set(
    "know knows known called located lies lie became become serves serve named means includes include refers stands "
    "remains makes make made think believe see found founded holds contains borders bordered offers"
)
LONG = 7  # words of a sentence that cannot do without a verb


@cache
def known_words() -> frozenset[str]:
    """The list, in lower case; ``scripts/english_words.py`` writes it."""
    return frozenset(gzip.decompress(WORDS.read_bytes()).decode().split("\n"))


def is_known(piece: str) -> bool:
    """Whether one piece of text is a mark, a number, a name, or made of English words."""
    if piece in MARKS or piece[0].isdigit() or (piece.isascii() and piece.istitle()):
        return True
    parts = [part for part in re.split(r"['’-]", piece.lower()) if part not in SUFFIXES]
    return all(part in known_words() for part in parts)


def may_follow(first: str, second: str) -> bool:
    """Whether the second word or mark can come after the first in English; in lower case."""
    if first == second and first.isalpha():
        return first in ("had", "that")
    small = DETERMINERS | PREPOSITIONS | LINKS | VERBS | PRONOUNS
    ended = second in ENDINGS or second in (",", ";", ":")
    if first in DETERMINERS:
        vowel = second[0] in "aeiou"
        wrong_article = (first == "a" and vowel and second[:2] not in ("eu", "un", "us", "on")) or (
            first == "an" and second[0].isalpha() and not vowel and second[0] != "h"
        )
        return not (ended or second in small or wrong_article)
    if first in PREPOSITIONS or first in LINKS:
        clause = first in LINKS or first == "as"  # "and is", "as they are"
        return not (ended or (second in LINKS) or (second in VERBS - {"have", "be", "do"} and not clause))
    if first in VERBS:
        chained = first in HELPERS or second in ("been",)
        return not (second in ENDINGS or (second in VERBS and not chained) or (second in LINKS - {"than"}))
    if first in PRONOUNS:
        return not (ended or second in DETERMINERS or second in PREPOSITIONS - {"as"})
    return True


def broken_places(sentence: str) -> int:
    """How many neighbors cannot be neighbors, and one more for a small beginning or a missing verb."""
    words = PIECE.findall(sentence)
    if not words:
        return 0
    lower = [word.lower() for word in words]
    count = sum(not may_follow(a, b) for a, b in pairwise(lower))
    last = lower[-1]
    count += last in DETERMINERS | LINKS  # cut off there; a sentence that lacks its end is charged elsewhere
    count += words[0][0].islower()
    spoken = [word for word in lower if word[0].isalpha()]
    count += len(spoken) >= LONG and not any(w in VERBS | DOING or w.endswith(("ed", "'s", "’s")) for w in spoken)
    return count


def sentences(text: str) -> list[str]:
    """The text cut at full stops, exclamation and question marks and line ends."""
    return [piece.strip() for piece in SENTENCE.findall(text) if piece.strip()]


def proof_read(text: str) -> dict[str, float]:
    """What the proof-reader finds: ``pieces``, and of those ``unknown`` ones and ``broken`` places."""
    pieces = PIECE.findall(text)
    return {
        "pieces": len(pieces),
        "unknown": sum(not is_known(piece) for piece in pieces),
        "broken": sum(broken_places(sentence) for sentence in sentences(text)),
    }


def english(text: str) -> float:
    """How much of a text is English: ``1 - (unknown + 2 broken) / pieces``, and never below 0.

    A broken place counts twice, since two words do not go together there.

    Args:
        text: any string.

    Returns:
        A number in [0, 1]; 0 of an empty text.
    """
    found = proof_read(text)
    if not found["pieces"]:
        return 0.0
    return max(0.0, 1.0 - (found["unknown"] + 2 * found["broken"]) / found["pieces"])
