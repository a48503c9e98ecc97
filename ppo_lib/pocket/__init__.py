"""The pocket atlas: a small world that carries the whole book.

A language model of about a million parameters, text about countries and capitals, imperfect demonstrations, labelers
with a written-down utility, and a gold score that knows the truth. Everything is generated here from seeds;
:mod:`ppo_lib.pocket.build` rebuilds the stored weights from nothing.
"""

from ppo_lib.models.backbone import Backbone
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.pocket.comparisons import preference_pairs, rankings
from ppo_lib.pocket.corpus import documents
from ppo_lib.pocket.demonstrations import demonstrations
from ppo_lib.pocket.gold import explain, gold_score, gold_scores
from ppo_lib.pocket.labelers import best_accuracy, labeler_utility, utility_accuracy
from ppo_lib.pocket.questions import prompts, questions
from ppo_lib.pocket.quiz import is_quiz

__all__ = [
    "best_accuracy",
    "demonstrations",
    "documents",
    "explain",
    "gold_score",
    "gold_scores",
    "is_quiz",
    "labeler_utility",
    "load_backbone",
    "load_reward_model",
    "load_tokenizer",
    "preference_pairs",
    "prompts",
    "questions",
    "rankings",
    "utility_accuracy",
]


def load_backbone(which: str = "sft", device: str = "cpu") -> Backbone:
    """One of the two stored language models.

    Args:
        which: ``base``, which goes on with a quiz, or ``sft``, which answers.
        device: where to put it.

    Raises:
        ValueError: another name.
    """
    if which not in ("base", "sft"):
        raise ValueError(f"which is {which!r}, but the stored models are 'base' and 'sft'")
    return Backbone.from_pretrained(f"pocket:{which}", device=device)


def load_tokenizer():  # type: ignore[no-untyped-def]
    """The tokenizer that both models share."""
    return load_backbone("sft").tokenizer


def load_reward_model(backbone: Backbone | None = None) -> RewardModel:
    """The stored reward model.

    Args:
        backbone: the SFT backbone to share, on its device; ``None`` loads one of its own.
    """
    return RewardModel.from_pretrained("pocket", backbone)
