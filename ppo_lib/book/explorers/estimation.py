"""From rewards and values to advantages, as γ and λ move."""

import torch

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.examples import BETA, LOGPROBS, MASK, REF_LOGPROBS, SCORE, TOKENS, VALUES, row
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.formulas.advantages import gae as gae_of
from ppo_lib.formulas.advantages import td_errors
from ppo_lib.formulas.kl import kl_estimate
from ppo_lib.formulas.rewards import augmented_rewards

STEPS = 21


def weights(gamma: float, lam: float) -> list[float]:
    """(γλ)ˡ for l = 0, 1, …: what Â of the first token takes from a surprise l tokens later."""
    surprises = torch.eye(STEPS, dtype=torch.float64)
    # With a critic that says 0 everywhere, the surprise is the reward: row l is surprised l tokens after the first.
    taken = gae_of(surprises, torch.zeros_like(surprises), torch.ones_like(surprises), gamma, lam)
    return [float(one) for one in taken.advantages[:, 0]]


def frame(gamma: float, lam: float) -> Frame:
    """TD errors, weights and advantages of the worked example."""
    kl = kl_estimate(row(*LOGPROBS), row(*REF_LOGPROBS))
    rewards = augmented_rewards(row(SCORE)[0], kl, MASK, BETA)
    values = row(*VALUES)
    deltas = td_errors(rewards, values, MASK, gamma)[0]
    advantages, returns = gae_of(rewards, values, MASK, gamma, lam)
    taken = weights(gamma, lam)
    if lam == 0:
        meaning = "λ = 0 is one-step TD: each token looks one token ahead and trusts the critic, Â = δ."
    elif lam == 1:
        meaning = "λ = 1 is Monte Carlo: each token takes all that came after, Â = discounted return − V."
    else:
        # Half of all the weight there is lies on the surprises before this one.
        reach = next((i for i in range(STEPS) if sum(taken[: i + 1]) >= 0.5 * sum(taken)), STEPS)
        meaning = (
            f"Of what the first token hears of the next {STEPS - 1} surprises, half comes from the first {reach + 1}."
        )
    return Frame(
        curves=(
            curve("δ, surprise", TOKENS, deltas, kind="bars"),
            curve("Â, advantage", TOKENS, advantages[0], kind="bars"),
            curve("weight (γλ)ˡ", range(STEPS), taken, panel=1),
        ),
        rows=tuple(
            (token, *(short(one) for one in numbers))
            for token, *numbers in zip(
                TOKENS, rewards[0], VALUES, deltas, taken[:3], advantages[0], returns[0], strict=True
            )
        ),
        sentence=meaning,
    )


def gae() -> Explorer:
    """γ, λ: per token δ, the weights (γλ)ˡ and Â; λ = 0 is TD, λ = 1 Monte Carlo."""
    return Explorer(
        name="gae",
        title="How far ahead should a token look for its credit?",
        parameters=(
            Parameter(
                "gamma", "γ, discount", (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99, 1.0), 0.9, step=0.01
            ),
            Parameter(
                "lam", "λ, mixing", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0), 0.8, step=0.01
            ),
        ),
        function=frame,
        panels=(
            Panel("Surprise and advantage of each token.", "token", "reward", y_range=(-3.6, 2.6)),
            Panel("What a later surprise counts for.", "l, tokens ahead", "weight", (-0.5, 20.5), (-0.04, 1.06)),
        ),
        header=("token", "r", "V", "δ", "(γλ)ˡ, l = 0, 1, 2", "Â", "R̂"),
    )
