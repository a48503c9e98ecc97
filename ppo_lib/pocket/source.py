"""The pocket atlas as a source: what configurations find under its name."""

from pathlib import Path

from ppo_lib.errors import BadInput
from ppo_lib.models.registry import TOY, Source, register
from ppo_lib.pocket.comparisons import preference_pairs
from ppo_lib.pocket.demonstrations import demonstrations
from ppo_lib.pocket.gold import gold_scores
from ppo_lib.pocket.questions import prompts

WEIGHTS = Path(__file__).parent / "weights"


def stored_model(which: str) -> Path:
    """The folder of a model that comes with the package.

    Raises:
        ValueError: there is no such model.
    """
    folder = WEIGHTS / which
    if not folder.is_dir():
        raise BadInput(f"'{TOY}:{which}' is not an embedded model; there are {TOY}:base and {TOY}:sft")
    return folder


SOURCE = Source(
    demonstrations=demonstrations,
    pairs=preference_pairs,
    prompts=prompts,
    model=stored_model,
    reward_model=lambda: stored_model("reward"),
    gold=gold_scores,
)

register(TOY, lambda rest: None if rest else SOURCE)
