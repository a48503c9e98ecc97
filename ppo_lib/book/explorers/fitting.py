"""Will it fit? What a PPO run holds on a card, in the rollout and in the update, as the memory plan counts it."""

from functools import lru_cache
from typing import Any

from ppo_lib.book.explorers.core import Frame, Panel, Parameter, curve, short
from ppo_lib.book.explorers.explorer import Explorer
from ppo_lib.book.recordings import load_recorded

RUN = "plans"
ALWAYS, SAMPLING, LEARNING = (
    ("weights", "adapters", "optimizer"),
    ("cache", "sampling", "merged"),
    ("gradients", "activations", "logits"),
)
PARTS = ALWAYS + SAMPLING + LEARNING
DRAWN = {  # as many as there are colors
    "weights": ("weights",),
    "adapters, optimizer": ("adapters", "optimizer"),
    "cache, sampling, merged": SAMPLING,
    "activations": ("activations",),
    "gradients, logits": ("gradients", "logits"),
}
CARDS = {"T4, 16 GB": 16, "L4, 24 GB": 24, "H100, 80 GB": 80}
TRAINED = {  # on a card that has bfloat16, and on a T4, which has not
    "adapters, in half precision": (("lora", "bfloat16"), ("lora", "float16")),
    "adapters, in float32": (("lora", "float32"), ("lora", "float32")),
    "all weights": (("full", "bfloat16"), ("full", "float32")),
}
TOP = 160  # percent of a card, where the picture ends


@lru_cache
def plans() -> dict[tuple[Any, ...], dict[str, float]]:
    """Gigabytes by part, by what was planned."""
    keys = ("model", "finetune", "dtype", "microbatch", "tokens")
    rows = load_recorded(RUN).metrics
    return {tuple(row[key] for key in keys): {part: row[part] / 1e9 for part in PARTS} for row in rows}


def frame(model: str, trained: str, microbatch: float, tokens: float, card: str) -> Frame:
    """What is held in either phase, and whether the card holds it."""
    room = CARDS[card]
    kind = TRAINED[trained][card.startswith("T4")]
    held = plans()[model, *kind, int(microbatch), int(tokens)]
    resident = sum(held[part] for part in ALWAYS)
    rollout, update = (resident + sum(held[part] for part in parts) for parts in (SAMPLING, LEARNING))
    most, phase = max((rollout, "rollout"), (update, "update"))
    in_phase = ALWAYS + (SAMPLING if phase == "rollout" else LEARNING)
    largest = max(in_phase, key=lambda part: held[part])
    bars, heights = [], [0.0, 0.0]  # of the bars so far, percent of the card
    for name, parts in DRAWN.items():
        shares = [100 / room * sum(held[p] for p in parts if p not in absent) for absent in (LEARNING, SAMPLING)]
        drawn = [min(share, TOP - height) for share, height in zip(shares, heights, strict=True)]
        heights = [height + one for height, one in zip(heights, drawn, strict=True)]
        bars.append(curve(name, PHASES, drawn, kind="bars"))
    if most <= room:
        verdict = f"It fits: {short(most, 3)} of {room} GB at most, in the {phase}."
    elif resident > room:
        verdict = f"It does not fit: {short(resident, 3)} GB are held all the time. Train adapters, or a smaller model."
    elif phase == "rollout":
        verdict = f"It does not fit: the rollout holds {short(most, 3)} GB. Sample shorter answers, or fewer at once."
    else:
        verdict = (
            f"It does not fit: the update holds {short(most, 3)} GB. A smaller microbatch or gradient checkpointing "
            "changes memory and not the result."
        )
    return Frame(
        curves=(*bars, curve("the card", PHASES, [100, 100])),
        rows=(
            ("precision", kind[1]),
            *((part, f"{held[part]:.2f} GB") for part in PARTS),
            ("at most", f"{most:.2f} GB"),
        ),
        sentence=f"{verdict} The largest part then is {largest}, {short(100 * held[largest] / most, 2)} % of it.",
    )


PHASES = ("rollout", "update")


def memory_plan() -> Explorer:
    """The memory plan of a PPO run against model, microbatch, length and card."""
    return Explorer(
        name="memory-plan",
        title="Will it fit on that card?",
        parameters=(
            Parameter("model", "model", ("SmolLM2-135M", "Qwen2.5-0.5B", "Qwen2.5-1.5B"), "Qwen2.5-0.5B"),
            Parameter("trained", "trained", tuple(TRAINED), "adapters, in half precision"),
            Parameter("microbatch", "microbatch, responses", (1.0, 4.0, 16.0, 64.0), 16.0, listed=True),
            Parameter("tokens", "longest response, tokens", (64.0, 256.0, 1024.0), 256.0, listed=True),
            Parameter("card", "card", tuple(CARDS), "T4, 16 GB"),
        ),
        function=frame,
        panels=(
            Panel(
                f"Held at once, cut off at {TOP} % of the card.",
                "phase",
                "percent of the card",
                None,
                (0, TOP),
                stacked=True,
            ),
        ),
    )
