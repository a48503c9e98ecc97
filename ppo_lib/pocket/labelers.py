"""Simulated labelers: what they pay for, how they err, and the rankings that the reward model learns from.

A labeler's utility is the gold score plus a weakness for long answers:

    U(x, y) = gold(x, y) + 0.06 * words(y)

and each labeler ranks four responses by U plus Gumbel noise, drawn anew for every response and ranking. The difference
of two Gumbel variables is logistic, so P(first above second) = sigma(U_1 - U_2): Bradley-Terry is the true
model of these labelers, and the best accuracy that any reward model can reach on their pairs can be computed.
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

from ppo_lib.pocket.fluency import count_words
from ppo_lib.pocket.gold import gold_score

Gold = Callable[[str, str], float]
LENGTH_BIAS = 0.06  # utility per word, too much
NOISE = 1.0  # scale of the Gumbel noise


@dataclass(frozen=True)
class Ranking:
    """One labeler's ranking of one prompt's responses, the best first."""

    prompt: str
    responses: tuple[str, ...]

    def pairs(self) -> list[tuple[str, str, str]]:
        """Every ordered pair of the ranking, ``(prompt, chosen, rejected)``: six of four responses."""
        return [(self.prompt, chosen, rejected) for chosen, rejected in combinations(self.responses, 2)]


def labeler_utility(prompt: str, response: str, length_bias: float = LENGTH_BIAS, gold: Gold = gold_score) -> float:
    """What a labeler would pay for a response, before noise: the gold score plus ``length_bias`` per word."""
    return gold(prompt, response) + length_bias * count_words(response)


def rank(
    prompt: str, responses: Sequence[str], rng: random.Random, noise: float = NOISE, gold: Gold = gold_score
) -> Ranking:
    """One noisy ranking of responses to one prompt.

    Args:
        prompt: the question.
        responses: the responses to rank; usually four.
        rng: where the noise comes from.
        noise: scale of the Gumbel noise; 0 ranks by the utility alone.
        gold: what the labelers know about the world; the pocket world's by default.

    Returns:
        The ranking, best first.
    """

    def heard(response: str) -> float:
        gumbel = -math.log(-math.log(min(max(rng.random(), 1e-12), 1 - 1e-12)))
        return labeler_utility(prompt, response, gold=gold) + noise * gumbel

    noisy = [(heard(response), number) for number, response in enumerate(responses)]
    order = [number for _, number in sorted(noisy, reverse=True)]
    return Ranking(prompt, tuple(responses[number] for number in order))


def preference_probability(
    prompt: str, first: str, second: str, noise: float = NOISE, gold: Gold = gold_score
) -> float:
    """Probability that a labeler puts ``first`` above ``second``: sigma((U_1 - U_2) / noise)."""
    gap = (labeler_utility(prompt, first, gold=gold) - labeler_utility(prompt, second, gold=gold)) / noise
    return 0.5 * (1.0 + math.tanh(gap / 2.0))  # the logistic function, without overflow


def best_accuracy(pairs: Iterable[tuple[str, str, str]], noise: float = NOISE, gold: Gold = gold_score) -> float:
    """The accuracy that the best possible reward model is expected to reach on such pairs.

    Knowing the labelers' utility exactly, it picks the likelier of two responses and is right with probability
    max(p, 1 - p); the noise forbids more. Averaged over the pairs; which of the two was chosen plays no role.
    """
    chances = [preference_probability(prompt, chosen, rejected, noise, gold) for prompt, chosen, rejected in pairs]
    return sum(max(p, 1.0 - p) for p in chances) / len(chances)


def utility_accuracy(pairs: Iterable[tuple[str, str, str]], gold: Gold = gold_score) -> float:
    """Share of these very pairs that the noiseless utility orders as the labeler did (a tie counts one half).

    The realized counterpart of :func:`best_accuracy`: the fair yardstick for an accuracy measured on the same pairs.
    """
    utility = partial(labeler_utility, gold=gold)
    gaps = [utility(p, chosen) - utility(p, rejected) for p, chosen, rejected in pairs]
    return sum(1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in gaps) / len(gaps)
