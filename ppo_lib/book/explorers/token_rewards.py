"""KL, penalty and reward of the three tokens of the worked example, as β moves."""

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.examples import LOGPROBS, MASK, REF_LOGPROBS, TOKENS, row
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.formulas.kl import kl_estimate
from ppo_lib.formulas.rewards import augmented_rewards


def frame(beta: float, score: float, kind: str) -> Frame:
    """The rubber band token by token."""
    kl = kl_estimate(row(*LOGPROBS), row(*REF_LOGPROBS), kind)
    penalty = augmented_rewards(row(0.0)[0], kl, MASK, beta)[0]
    rewards = augmented_rewards(row(score)[0], kl, MASK, beta)[0]
    total = short(penalty.sum())
    return Frame(
        curves=(
            curve("KL estimate (nats)", TOKENS, kl[0], kind="bars"),
            curve("penalty −β·KL (reward)", TOKENS, penalty, kind="bars"),
            curve("reward r", TOKENS, rewards, kind="bars", panel=1),
        ),
        rows=tuple(
            (token, *(short(one) for one in values))
            for token, *values in zip(TOKENS, LOGPROBS, REF_LOGPROBS, kl[0], penalty, rewards, strict=True)
        ),
        sentence=(
            "With β = 0 nothing pulls the policy back: only the score counts."
            if beta == 0
            else f"At β = {short(beta)} the three penalties add up to {total}, beside a score of {short(score)}."
            + ("" if kind == "k1" else f" But {kind} charges every token that differs: it pulls the wrong way.")
        ),
    )


def beta_tokens() -> Explorer:
    """β: KL, penalty and reward of "very", "very", "sleepy"."""
    return Explorer(
        name="beta-tokens",
        title="What does β do to the reward of each token?",
        parameters=(
            Parameter(
                "beta",
                "β, strength of the rubber band",
                (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0),
                0.1,
                step=0.01,
            ),
            Parameter("score", "score of the reward model", (-2.0, 0.0, 1.0, 2.0, 5.0), 5.0),
            Parameter("kind", "estimator of the KL", ("k1", "k2", "k3"), "k1"),
        ),
        function=frame,
        panels=(
            Panel("The pull on each token.", "token", "nats; reward", y_range=(-4.2, 4.2)),
            Panel("The reward of each token.", "token", "reward", y_range=(-7, 9)),
        ),
        header=("token", "log π_θ", "log π_ref", "KL", "−β·KL", "r"),
    )
