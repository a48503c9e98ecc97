"""The noise of the KL estimates k1, k2 and k3: exact means and spreads, by enumeration over six tokens."""

import math

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.distances import DISTANCES, policies
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.formulas.kl import kl_estimate, kl_exact

KINDS = ("k1", "k2", "k3")


def moments(distance: float, kind: str) -> tuple[float, float]:
    """Mean and standard deviation of one token's estimate, under the policy that samples the token."""
    reference, policy = policies(distance)
    estimate = kl_estimate(policy.view(1, -1), reference.view(1, -1), kind)[0]
    chance = policy.exp()
    mean = float(chance @ estimate)
    return mean, math.sqrt(max(0.0, float(chance @ (estimate - mean).square())))


def exact(distance: float) -> float:
    """KL(π_θ ‖ π_ref) in nats."""
    reference, policy = policies(distance)
    return float(kl_exact(policy.view(1, 1, -1), reference.view(1, 1, -1)))


def frame(distance: float, tokens: float) -> Frame:
    """What each estimate says on average, and how far the mean over so many tokens strays from that."""
    strays = math.sqrt(tokens)
    paths = {kind: [moments(one, kind) for one in DISTANCES] for kind in KINDS}
    now = {kind: moments(distance, kind) for kind in KINDS}
    means = [now[kind][0] for kind in KINDS]
    spreads = [now[kind][1] / strays for kind in KINDS]
    return Frame(
        curves=(
            *(curve(kind, DISTANCES, [mean for mean, _ in paths[kind]]) for kind in KINDS),
            curve("exact KL", DISTANCES, [exact(one) for one in DISTANCES]),
            curve("at this distance", [distance] * 3, means, kind="points"),
            *(curve(kind, DISTANCES, [spread / strays for _, spread in paths[kind]], panel=1) for kind in KINDS),
            curve("at this distance", [distance] * 3, spreads, kind="points", panel=1),
        ),
        rows=(
            *((kind, short(mean), short(spread)) for kind, mean, spread in zip(KINDS, means, spreads, strict=True)),
            ("exact KL", short(exact(distance)), "0"),
        ),
        sentence=meaning(distance, now),
    )


def meaning(distance: float, now: dict[str, tuple[float, float]]) -> str:
    """Which estimate strays most and least here, and whether k2 is still close to the truth."""
    if distance == 0:
        return "The two policies are the same: every estimate is 0 for every token."
    order = sorted(KINDS, key=lambda kind: now[kind][1])
    off = 100 * (now["k2"][0] / exact(distance) - 1)
    return (
        f"{order[0]} strays least here and {order[-1]} most, {short(now[order[-1]][1] / now[order[0]][1], 2)} times as "
        f"far; on average k1 and k3 are right, and k2 is off by {short(off, 2)} %."
    )


def kl_noise() -> Explorer:
    """The KL estimates against the distance between the policies: mean, and noise."""
    return Explorer(
        name="kl-noise",
        title="Which estimate of the KL strays least?",
        parameters=(
            Parameter("distance", "distance from the reference", DISTANCES, 1.0, unit="logits"),
            Parameter("tokens", "tokens averaged", (1.0, 10.0, 100.0), 10.0, log=True),
        ),
        function=frame,
        header=("estimate", "mean (nats)", "spread (nats)"),
        panels=(
            Panel("What the estimate says on average.", "distance (logits)", "mean (nats)", (-0.1, 3.1)),
            Panel("How far it strays.", "distance (logits)", "spread (nats)", (-0.1, 3.1)),
        ),
    )
