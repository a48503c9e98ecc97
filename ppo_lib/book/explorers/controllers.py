"""The adaptive β at work: a drift that follows β slowly, and a controller that sees it one batch at a time."""

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.book.explorers.optima import optimum
from ppo_lib.formulas.kl import AdaptiveKL

ITERATIONS, FIRST = 80, 0.1
FOLLOWS = 0.15  # of the way to the optimum that its β asks for, per iteration: training takes time
NEAR = 0.2  # of the target: the controller's own notion of "close"


def drift(target: float, batches: float) -> tuple[list[float], list[float]]:
    """KL in nats per response and β over the iterations, when a horizon lasts so many batches."""
    controller, kl = AdaptiveKL(FIRST, target, batches), 0.0
    drifts, betas = [], []
    for _ in range(ITERATIONS):
        kl += FOLLOWS * (optimum(controller.beta)[2] - kl)
        drifts.append(kl)
        betas.append(controller.beta)
        controller.update(kl, n=1)
    return drifts, betas


def settled(drifts: list[float], target: float) -> int | None:
    """From which iteration on the drift stays close to the target; None: it does not."""
    far = [i for i, kl in enumerate(drifts, 1) if abs(kl / target - 1) > NEAR]
    last = far[-1] if far else 0
    return None if last == ITERATIONS else last + 1


def frame(target: float, batches: float) -> Frame:
    """Drift and β over eighty iterations."""
    drifts, betas = drift(target, batches)
    steps, highest, since = range(1, ITERATIONS + 1), max(drifts), settled(drifts, target)
    if since is None:
        meaning = f"and after {ITERATIONS} iterations it is not there to stay"
    else:
        meaning = f"and stays within a fifth of it from iteration {since} on"
    return Frame(
        curves=(
            curve("KL of the policy", steps, drifts),
            curve("target", steps, [target] * ITERATIONS),
            curve("β", steps, betas, panel=1),
        ),
        rows=(
            ("largest KL", f"{short(highest, 3)} nats"),
            ("KL at the end", f"{short(drifts[-1], 3)} nats"),
            ("β, first and last", f"{short(FIRST)} and {short(betas[-1], 3)}"),
        ),
        sentence=f"The drift goes up to {short(highest / target, 2)} times its target, {meaning}.",
    )


def adaptive_beta() -> Explorer:
    """Target and horizon of the adaptive β: what it overshoots, and when it has settled."""
    return Explorer(
        name="adaptive-beta",
        title="How fast should β follow the drift?",
        parameters=(
            Parameter("target", "target", (0.1, 0.2, 0.5, 1.0, 2.0), 0.5, unit="nats"),
            Parameter("batches", "horizon", (1.0, 2.0, 4.0, 8.0, 16.0, 32.0), 4.0, unit="batches", log=True),
        ),
        function=frame,
        panels=(
            Panel("Drift from the reference.", "iteration", "KL (nats)"),
            Panel("The strength of the band.", "iteration", "β", log_y=True),
        ),
    )
