"""From the name of a judge in a configuration to something that scores responses.

The same names serve for ``reward_model``, which PPO maximises, and for ``second_judge``, which it never sees:

* ``pocket``: the reward model of the pocket atlas;
* a folder that ``train reward`` wrote;
* ``exact_answer``, ``last_number``: the verifiable rewards of :mod:`ppo_lib.verifiable`, on the answers that stand
  beside the prompts;
* ``stories:FOLDER``: the word lexicon of :mod:`ppo_lib.stories`;
* ``OWNER/NAME@COMMIT`` or a folder in hub format: a reward model that others have published, with one output;
* ``package.module:function``: any function of ``(prompts, responses)``.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ppo_lib.backbone import Backbone
from ppo_lib.configuration import ConfigError
from ppo_lib.examples import load_problems, stories_folder
from ppo_lib.hub import pinned_model, reason
from ppo_lib.judging import RewardFunction
from ppo_lib.loading import base_name, resolve
from ppo_lib.models import RewardModel
from ppo_lib.ppo_config import PPOConfig
from ppo_lib.stories import lexicon_judge
from ppo_lib.verifiable import ExactAnswer

VERIFIABLE = ("exact_answer", "last_number")
KNOWN = (
    "'pocket', a folder, 'exact_answer', 'last_number', 'stories:FOLDER', OWNER/NAME@COMMIT, "
    "or 'package.module:function'"
)


def load_judge(
    name: str, config: PPOConfig, backbone: Backbone, folder: Path | None = None, key: str = "reward_model"
) -> RewardModel | RewardFunction:
    """The judge of that name.

    Args:
        name: see the module.
        config: of the PPO run; the verifiable rewards read the answers beside its prompts.
        backbone: the policy's; a reward model that was trained on it shares it.
        folder: a reward model known to be trained on ``backbone``; goes before the name.
        key: of the configuration, to be named in errors.

    Raises:
        ValueError: none of these, or one that cannot be loaded.
    """
    if folder is not None:
        return RewardModel.from_pretrained(folder, backbone)
    if name in VERIFIABLE:
        problems, answers = zip(*load_problems(config.prompts), strict=True)
        asked = [problem + config.prompt_suffix for problem in problems]
        return ExactAnswer(asked, answers, lenient=name == "last_number")
    if stories := stories_folder(name):
        return lexicon_judge(stories)
    if name == "pocket" or (Path(name) / "reward_head.safetensors").exists():
        base = base_name(resolve("pocket:reward") if name == "pocket" else name)
        shared = backbone
        if base != backbone.name:
            dtype = str(backbone.causal_lm.dtype).removeprefix("torch.")
            shared = Backbone.from_pretrained(
                base, str(backbone.device), dtype, backbone.chat_template, backbone.processes
            )
        return RewardModel.from_pretrained(name, shared)
    if Path(name).is_dir() or pinned_model(name):
        return PublishedRewardModel(name, backbone.device)
    if ":" in name:
        return import_function(name, key)
    raise ConfigError(f"{key} is {name!r}, but must be {KNOWN}")


class PublishedRewardModel:
    """A reward model as others publish it: a sequence classifier with one output, over the tokenizer's chat template.

    Args:
        name: ``OWNER/NAME@COMMIT``, or a folder in hub format.
        device: where to put it; on a GPU it runs in half precision.
        microbatch: responses per forward pass.

    Raises:
        ConfigError: it cannot be loaded, has several outputs, or has no chat template.
    """

    def __init__(self, name: str, device: torch.device, microbatch: int = 16) -> None:
        pinned = pinned_model(name)
        where, commit = (pinned.name, pinned.commit) if pinned else (name, None)
        load: Any = AutoModelForSequenceClassification.from_pretrained
        try:
            options = {"revision": commit, "trust_remote_code": False}
            dtype = torch.float32 if device.type == "cpu" else torch.float16  # it only reads: float16 is safe here
            model, report = load(where, dtype=dtype, use_safetensors=True, output_loading_info=True, **options)
            tokenizer = AutoTokenizer.from_pretrained(where, **options)
        except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
            raise ConfigError(f"judge {name!r} cannot be loaded: {reason(error)}") from error
        if model.config.num_labels != 1 or report["missing_keys"]:
            raise ConfigError(f"judge {name!r} is no reward model: it must be a sequence classifier with one output")
        if tokenizer.chat_template is None:
            raise ConfigError(f"judge {name!r} has no chat template, so nobody can tell how it wants to read an answer")
        self.model, self.tokenizer, self.microbatch = model.to(device).eval(), tokenizer, microbatch
        self.model.config.pad_token_id = tokenizer.pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """One raw score per response."""
        chats = [
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        texts = [self.tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
        scores: list[float] = []
        for start in range(0, len(texts), self.microbatch):
            piece = texts[start : start + self.microbatch]
            inputs = self.tokenizer(piece, add_special_tokens=False, padding=True, return_tensors="pt")
            logits = self.model(**inputs.to(self.model.device)).logits
            scores += logits.squeeze(-1).float().tolist()
        return scores


def import_function(name: str, key: str = "reward_model") -> Callable[[list[str], list[str]], list[float]]:
    """The function ``package.module:function``, also of a module in the current folder.

    Raises:
        ConfigError: it cannot be imported, or is not a function.
    """
    module, _, attribute = name.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key} is {name!r}, which cannot be imported: {error}") from error
    if not callable(function):
        raise ConfigError(f"{key} is {name!r}, which is not a function of (prompts, responses)")
    return function
