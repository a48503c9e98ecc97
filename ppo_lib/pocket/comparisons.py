"""The comparisons: four answers of the SFT model to one prompt, ranked by a simulated labeler.

The answers were sampled once, when the weights were built (:mod:`ppo_lib.pocket.build`), and are stored beside them;
the rankings are computed here, from the labelers' written-down utility and a seed.
"""

import gzip
import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from ppo_lib.models.backbone import Backbone
from ppo_lib.pocket.labelers import Ranking, rank
from ppo_lib.pocket.questions import prompts
from ppo_lib.sampling.rollout import generate_text

ANSWERS_FILE = "weights/answers.json.gz"
RESPONSES = 4
ROUNDS = 10  # how many times each prompt is answered anew and ranked
MAX_NEW_TOKENS = 48


def sample_answers(backbone: Backbone, split: str, rounds: int = ROUNDS, seed: int = 0) -> list[tuple[str, list[str]]]:
    """Let the SFT model answer every prompt of a split several times.

    Args:
        backbone: the SFT model.
        split: ``train`` or ``heldout``.
        rounds: sets of four answers per prompt.
        seed: of the sampling.

    Returns:
        ``(prompt, four different answers)``; a set with fewer different answers among eight tries is left out, since
        there is nothing to rank in it.
    """
    texts = prompts(split)
    sets = []
    for number in range(rounds):
        tries = [
            generate_text(backbone, texts, MAX_NEW_TOKENS, temperature=1.0, seed=1000 * seed + 8 * number + k)
            for k in range(2 * RESPONSES)
        ]
        for prompt, answers in zip(texts, zip(*tries, strict=True), strict=True):
            different = list(dict.fromkeys(answers))[:RESPONSES]
            if len(different) == RESPONSES:
                sets.append((prompt, different))
    return sets


def save_answers(path: str | Path, answers: Mapping[str, Sequence[tuple[str, list[str]]]]) -> None:
    """Write the answers of both splits, compressed, with the same bytes every time (no time stamp)."""
    data = json.dumps(answers, ensure_ascii=False, separators=(",", ":")).encode()
    Path(path).write_bytes(gzip.compress(data, compresslevel=9, mtime=0))


@cache
def _answers() -> dict[str, list[tuple[str, list[str]]]]:
    return json.loads(gzip.decompress((Path(__file__).parent / ANSWERS_FILE).read_bytes()))


def rank_all(answers: Sequence[tuple[str, Sequence[str]]], seed: int = 0) -> list[Ranking]:
    """One labeler's noisy ranking of each set of answers."""
    rng = random.Random(seed)
    return [rank(prompt, responses, rng) for prompt, responses in answers]


def rankings(split: str = "train", seed: int = 0) -> list[Ranking]:
    """The labelers' rankings of the stored answers.

    Args:
        split: ``train`` or ``heldout`` prompts.
        seed: of the labelers' noise; another seed is another group of labelers.

    Raises:
        ValueError: an unknown split.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"split is {split!r}, but must be 'train' or 'heldout'")
    return rank_all(_answers()[split], seed)


def preference_pairs(split: str = "train", seed: int = 0) -> list[tuple[str, str, str]]:
    """All ``(prompt, chosen, rejected)`` of the rankings, six of each; the same list on every call.

    Args:
        split: ``train`` or ``heldout`` prompts.
        seed: of the labelers' noise.
    """
    return [pair for ranking in rankings(split, seed) for pair in ranking.pairs()]
