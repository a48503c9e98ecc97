"""The PPO computer: three tokens through every stage, from log-probs to the loss."""

from dataclasses import replace

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.examples import LOGPROBS, MASK, REF_LOGPROBS, TOKENS, VALUES, row
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.formulas.advantages import gae, td_errors
from ppo_lib.formulas.kl import kl_estimate
from ppo_lib.formulas.losses import clipped_policy_loss, ppo_loss, value_loss
from ppo_lib.formulas.rewards import augmented_rewards

WORDS = ("very", "very", "sleepy")
RATIOS = (1.1, 1.5, 0.5)  # those of chapter 10's three tokens: cases A, B and E of the clip


def frame(**setting: float) -> Frame:
    """All stages for one response of three tokens; the arguments are those of :func:`ppo_computer`."""

    def token_row(name: str) -> list[float]:
        return [setting[f"{name}_{t}"] for t in (1, 2, 3)]

    old, reference, values = (row(*token_row(name)) for name in ("old", "ref", "value"))
    new = old + row(*token_row("ratio")).log()
    kl = kl_estimate(old, reference)
    rewards = augmented_rewards(row(setting["score"])[0], kl, MASK, setting["beta"])
    deltas = td_errors(rewards, values, MASK, setting["gamma"])
    advantages, returns = gae(rewards, values, MASK, setting["gamma"], setting["lam"])
    policy = clipped_policy_loss(new, old, advantages, MASK, setting["epsilon"])
    alone = MASK[:, :1]
    terms = [
        -clipped_policy_loss(new[:, [t]], old[:, [t]], advantages[:, [t]], alone, setting["epsilon"]).loss
        for t in range(3)
    ]
    critic = value_loss(values, returns, MASK)
    zero = 0 * critic
    total = ppo_loss(policy.loss, critic, zero, setting["value_coef"], 0.0)
    stages = (
        ("1. log π_old, at rollout", old),
        ("2. log π_ref, the reference", reference),
        ("3. KL estimate (nats)", kl),
        (f"4. reward r, at β = {short(setting['beta'])}", rewards),
        ("5. value V, the critic's forecast", values),
        (f"6. surprise δ, at γ = {short(setting['gamma'])}", deltas),
        (f"7. advantage Â, at λ = {short(setting['lam'])}", advantages),
        ("8. target R̂ = Â + V", returns),
        ("9. log π_θ, now", new),
        ("10. ratio ρ = π_θ / π_old", policy.ratio),
    )
    first = int(advantages[0].abs().argmax())
    sign = "more" if advantages[0, first] > 0 else "less"
    # Where the objective is not ρÂ, the clip has taken the place of the ratio, and no gradient flows.
    held = abs(float(terms[1]) - float(policy.ratio[0, 1] * advantages[0, 1])) > 1e-9
    return Frame(
        curves=(
            curve("KL (nats)", TOKENS, kl[0], "bars"),
            curve("reward r", TOKENS, rewards[0], "bars"),
            curve("surprise δ", TOKENS, deltas[0], "bars", 1),
            curve("advantage Â", TOKENS, advantages[0], "bars", 1),
            curve("ratio ρ", TOKENS, policy.ratio[0], "bars", 2),
            curve("1 + ε", TOKENS, [1 + setting["epsilon"]] * 3, panel=2),
            curve("1 − ε", TOKENS, [1 - setting["epsilon"]] * 3, panel=2),
            curve("ρÂ, without the clip", TOKENS, policy.ratio[0] * advantages[0], "bars", 3),
            curve("min(ρÂ, clip(ρ)Â), with it", TOKENS, terms, "bars", 3),
        ),
        rows=(
            *((name, *(short(one) for one in numbers[0])) for name, numbers in stages),
            (f"11. min(ρÂ, clip(ρ)Â), at ε = {short(setting['epsilon'])}", *(short(one) for one in terms)),
            ("12. L_policy = −mean of 11", short(policy.loss), "", ""),
            ("13. L_value = mean of (V − R̂)²", short(critic), "", ""),
            (f"14. L = L_policy + {short(setting['value_coef'])}·L_value", short(total), "", ""),
        ),
        sentence=(
            f"Token {first + 1}, “{WORDS[first]}”, has the largest advantage and is to become {sign} likely"
            f"{'; the clip stops the second token.' if held else '.'}"
        ),
    )


def ppo_computer() -> Explorer:
    """Every stage of PPO on three tokens: KL, reward, δ, Â, ratio, loss.

    The published page moves what tells most; the live form moves every log-prob and value as well.
    """

    def per_token(name: str, label: str, start: tuple[float, ...], span: tuple[float, float]) -> list[Parameter]:
        return [
            Parameter(f"{name}_{t}", f"{label}, token {t} “{WORDS[t - 1]}”", (one,), one, span=span, step=0.05)
            for t, one in enumerate(start, start=1)
        ]

    old = per_token("old", "log π_old", LOGPROBS, (-6.0, 0.0))
    reference = per_token("ref", "log π_ref", REF_LOGPROBS, (-6.0, 0.0))
    values = per_token("value", "V", VALUES, (-6.0, 6.0))
    ratios = per_token("ratio", "ρ, ratio", RATIOS, (0.2, 3.0))
    # The second token's moves on the page as well: nothing above row 9 follows it.
    ratios[1] = replace(ratios[1], grid=(0.5, 0.8, 1.0, 1.1, 1.5))
    return Explorer(
        name="ppo-computer",
        title="The PPO computer: three tokens through every stage",
        parameters=(
            Parameter("score", "score of the reward model", (1.0, 5.0), 5.0, span=(-6.0, 6.0), step=0.1),
            Parameter("beta", "β, strength of the rubber band", (0.0, 0.1, 0.5, 2.0), 0.1, step=0.01),
            Parameter("gamma", "γ, discount", (0.9, 1.0), 0.9, span=(0.0, 1.0), step=0.01),
            Parameter("lam", "λ, mixing", (0.0, 0.8, 0.95, 1.0), 0.8, step=0.01),
            Parameter("epsilon", "ε, clip width", (0.1, 0.2, 0.4), 0.2, span=(0.0, 1.0), step=0.01),
            ratios[1],
            Parameter("value_coef", "c₁, weight of the value loss", (0.1,), 0.1, span=(0.0, 2.0), step=0.05),
            *old,
            *reference,
            *values,
            ratios[0],
            ratios[2],
        ),
        function=frame,
        panels=(
            Panel("What each token earns.", "token", "nats; reward"),
            Panel("What each token is credited with.", "token", "reward"),
            Panel("How far the update has moved it, and where the clip begins.", "token", "ratio"),
            Panel("What it asks for, without the clip and with it.", "token", "reward"),
        ),
        header=("stage", "1 very", "2 very", "3 sleepy"),
    )
