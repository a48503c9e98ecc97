"""The atlas's questions about capitals for a real model, and what an answer in real English is worth.

The truth is the atlas's (:mod:`ppo_lib.pocket.atlas`), and so are the labelers. What differs from the pocket world's
gold score is the language, which a proof-reader of English measures (:mod:`ppo_lib.pocket.english`), and that a claim
is wrong whatever it names: "The capital of Nepal is Nepal." is no evasion, it is false.

Configurations name it ``capitals``: prompts of the training countries and of held-out ones, labelers to rank answers,
the gold score, and a judge that says 1 where the true capital is named and 0 elsewhere.
"""

import math
import random
import re
from functools import partial

from ppo_lib.models.registry import Source, register
from ppo_lib.pocket import labelers
from ppo_lib.pocket.atlas import entities
from ppo_lib.pocket.english import english, sentences
from ppo_lib.pocket.fluency import count_words
from ppo_lib.pocket.gold import (
    ENOUGH_WORDS,
    FALSE_SENTENCE,
    FULL_SENTENCE,
    GIBBERISH,
    NO_ANSWER,
    RAMBLE,
    REPEATED,
    RIGHT,
    UNFINISHED,
    WRONG,
    is_false,
)  # fmt: skip
from ppo_lib.pocket.questions import Question, find_question, questions

WELL_WRITTEN = 0.9  # how English a sentence must be to count as one
CLAIM = re.compile(r"\b(is|was|are|be|named|called|as)\b", re.IGNORECASE)


def prompts(split: str = "train") -> list[str]:
    """The questions, shuffled once and for all; both wordings of a country are held out, or neither is.

    Args:
        split: ``train``, or ``heldout`` for countries that no training ever asks about.
    """
    chosen = [q.prompt for q in questions() if q.kind == "capital" and q.heldout == (split == "heldout")]
    random.Random(0).shuffle(chosen)
    return chosen


def verdict(question: Question, response: str) -> str:
    """Whether a response answers the question: ``right``, ``wrong`` or ``none``.

    Right is to name the true capital and no other capital of the atlas. Wrong is to name another one, or to say of
    anything else that it is the capital. What claims nothing is no answer.
    """
    words = set(re.findall(r"[^\W_]+", response))
    named = {word for word in words if entities().get(word) == "city"}
    if named:
        return "right" if named == {question.answer} else "wrong"
    return "wrong" if any("capital" in s.lower() and CLAIM.search(s) for s in sentences(response)) else "none"


def explain(prompt: str, response: str) -> dict[str, float]:
    """The gold score's terms, by name; their sum is the score.

    A prompt that is no question about a capital has no truth here: only language, length and form of the answer count.

    Args:
        prompt: any string.
        response: any string, empty and gibberish included.

    Returns:
        A dictionary with the keys ``answer falsehoods manner language unfinished repeated ramble``.
    """
    question = find_question(prompt)
    question = question if question is not None and question.kind == "capital" else None
    said = sentences(response)
    answer = verdict(question, response) if question is not None else "none"
    whole = [sentence for sentence in said if sentence.endswith((".", "!", "?"))]
    # A wrong answer is mostly a false sentence too; it is charged once.
    false = sum(is_false(question, sentence) for sentence in said) - (answer == "wrong")
    terms = {
        "answer": {"right": RIGHT, "wrong": WRONG, "none": NO_ANSWER}[answer],
        "falsehoods": FALSE_SENTENCE * min(max(false, 0), 2),
        "manner": FULL_SENTENCE if any(count_words(s) >= 4 and english(s) >= WELL_WRITTEN for s in whole) else 0.0,
        "language": GIBBERISH * (1.0 - english(response)),
        "unfinished": 0.0 if whole[-1:] == said[-1:] and said else UNFINISHED,
        "repeated": REPEATED * min(len(said) - len(set(said)), 3),
        "ramble": RAMBLE * max(0, count_words(response) - ENOUGH_WORDS),
    }
    return {name: term + 0.0 for name, term in terms.items()}  # + 0.0 turns -0.0 into 0.0


def gold_score(prompt: str, response: str) -> float:
    """What a response is worth: 1.8 for "The capital of Kenya is Nairobi.", 0.3 for a wrong city in good English."""
    return math.fsum(explain(prompt, response).values())


def gold_scores(prompts: list[str], responses: list[str]) -> list[float]:
    """:func:`gold_score` of each pair, in the form the trainer's ``gold`` argument takes."""
    return [gold_score(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]


def right(prompts: list[str], responses: list[str]) -> list[float]:
    """1 for each answer that names the true capital and no other, else 0; 0 for prompts that are no such question."""
    asked = [find_question(prompt) for prompt in prompts]
    return [float(q is not None and verdict(q, text) == "right") for q, text in zip(asked, responses, strict=True)]


def label(prompt: str, responses: list[str], seed: int = 0, noise: float = labelers.NOISE) -> list[int]:
    """One of the atlas's labelers: the responses' numbers, the best first.

    Its mood, the Gumbel noise, comes from the seed, the prompt and the responses: the same answers are ranked in the
    same way wherever a run was interrupted.
    """
    rng = random.Random(repr((seed, prompt, responses)))
    numbered = {text: number for number, text in reversed(list(enumerate(responses)))}
    if len(numbered) < len(responses):
        raise ValueError(f"the responses to {prompt!r} are not all different")
    ranking = labelers.rank(prompt, responses, rng, noise, gold_score)
    return [numbered[text] for text in ranking.responses]


SOURCE = Source(
    prompts=prompts,
    labeler=lambda seed: partial(label, seed=seed),
    judge=lambda: right,
    gold=gold_scores,
)

register("capitals", lambda rest: None if rest else SOURCE)
