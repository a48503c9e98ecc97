"""A model that answers, found by the name of its folder; what ``python -m ppo_lib sample`` talks to."""

from pathlib import Path

from ppo_lib.errors import reading
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.adapter_folders import CONFIG, REWARD_HEAD, base_name
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.loading import inside_run
from ppo_lib.trainers.configuration import ConfigError, load_yaml


def load_sampler(name: str, device: str, chat_template: bool | None = None) -> tuple[Backbone, str | None]:
    """The model in a folder and the adapter that it samples with: a trained policy, or a plain model.

    Args:
        name: a run's folder, a model's folder, or a model's name.
        device: where to put it.
        chat_template: put prompts into the tokenizer's chat template. None: as the run that made the model did, and
            not at all for a model that no run made.

    Raises:
        ValueError: a reward model, an unfinished run, no model, or no chat template where one is wanted.
    """
    with reading(name):
        folder = inside_run(Path(name))
        within = folder if folder.is_dir() else None
    if (folder / REWARD_HEAD).exists():
        raise ConfigError(f"{name!r} holds a reward model, which scores texts and writes none; give a policy")
    chat = trained_in_chat(folder) if chat_template is None else chat_template
    if not (folder / "value_head.safetensors").exists() or not (folder / CONFIG).exists():
        return Backbone.from_pretrained(within or name, device=device, chat_template=chat), None
    backbone = Backbone.from_pretrained(base_name(folder), device=device, chat_template=chat)
    return ActorCritic.from_pretrained(folder, backbone).backbone, "policy"


def trained_in_chat(model: Path) -> bool:
    """Whether the run that wrote this model, if a run did, put its prompts into a chat template."""
    config = model.parent / "config.yaml"
    return config.exists() and bool(load_yaml(config).get("chat_template", False))
