"""What a translation of a configuration is, and how it is written as a shell script."""

import shlex
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ppo_lib.models import registry
from ppo_lib.run.judge_names import VERIFIABLE

NEVER = 1e6  # a bound so wide that it never acts, where a trainer knows no "off"


@dataclass(frozen=True)
class Setting:
    """One key of the other trainer.

    Attributes:
        key: its name there.
        value: a number, text, a list of these, or True for a flag.
        ours: the keys of this library that decide it; none where their default is not what this library does.
        note: what differs in meaning, or why it is set.
    """

    key: str
    value: Any
    ours: tuple[str, ...] = ()
    note: str = ""


@dataclass
class Translation:
    """A configuration in another trainer's words.

    Attributes:
        target: the trainer and the version whose keys these are.
        command: what runs it.
        flag: writes one setting as words of the command line.
        settings: what to set.
        same: keys of ours that ask for what the trainer does anyway, with a remark.
        missing: keys of ours without an equivalent, with what to do instead.
        differs: what no key of ours decides and is still done differently.
    """

    target: str
    command: str
    flag: Callable[[Setting], list[str]]
    settings: list[Setting] = field(default_factory=list)
    same: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    differs: list[str] = field(default_factory=list)

    def put(self, ours: str, theirs: dict[str, Any], note: str = "") -> None:
        """Add settings that keys of ours decide.

        Args:
            ours: our keys, separated by blanks; may be empty.
            theirs: their keys and values.
            note: what differs in meaning; it stands with the first setting.
        """
        for i, (key, value) in enumerate(theirs.items()):
            self.settings.append(Setting(key, value, tuple(ours.split()), "" if i else note))

    def either(self, key: str, fits: object, same: str, missing: str) -> None:
        """Say of a key of ours that sets nothing what its value means there.

        Args:
            key: our key.
            fits: true where its value asks for what the trainer does anyway.
            same: the remark in that case.
            missing: what to do instead in the other.
        """
        if fits:
            self.same[key] = same
        else:
            self.missing[key] = missing

    def filled(self, config: Mapping[str, Any], *parts: "Part") -> "Translation":
        """This translation, after each part has said what it knows of the configuration."""
        for part in parts:
            part(config, self)
        return self

    def arguments(self) -> list[str]:
        """All settings as words of the command line."""
        return [word for setting in self.settings for word in self.flag(setting)]

    def handled(self) -> set[str]:
        """Keys of ours that this translation speaks of."""
        return {key for setting in self.settings for key in setting.ours} | set(self.same) | set(self.missing)


Part = Callable[[Mapping[str, Any], Translation], None]  # translates some of the keys


def texts_and_device(config: Mapping[str, Any], result: Translation) -> None:
    """Keys of ours that both trainers lack."""
    result.either("prompt_suffix", not config["prompt_suffix"], "none is set.", "write it into the prompts.")
    measured = "a judge that is only measured is not offered."
    result.either("heldout_judge", not config["heldout_judge"], "none is set.", measured)
    result.same["device"] = "it runs on GPUs only."
    for key in ("share_prefix", "fused_lora", "fused_blocks", "merge_adapter", "tf32"):
        result.same[key] = "how products are computed is its own affair."


def judge_of_ours(config: Mapping[str, Any], result: Translation, form: str) -> bool:
    """Whether the reward is one that ppo_lib alone knows by its name; if so, it is among what is missing.

    Args:
        form: of a function that the trainer would take instead.
    """
    reward = str(config["reward_model"])
    source = registry.find(reward)
    if reward not in VERIFIABLE and not (source and source.judge):
        return False
    result.missing["reward_model"] = f"{reward} is known to ppo_lib alone; write {form}."
    result.same["normalize_scores"] = "the score of a function is used as it is."
    return True


def critic_of_its_own(config: Mapping[str, Any], result: Translation, same: str) -> None:
    """The critic, with a remark for one that is separate here too."""
    shared = "its critic is always a model of its own; a head on the actor's states is not offered."
    result.either("critic", config.get("critic", "shared") == "separate", same, shared)


def kl_controller(config: Mapping[str, Any], result: Translation) -> None:
    """The target of beta, which both trainers compare with another number."""
    fixed = config["kl_target"] is None
    adaptive = "its controller compares the target with the KL per token, not per response, so no number carries over."
    result.either("kl_target", fixed, "a fixed coefficient by default.", adaptive)
    result.either("kl_horizon", fixed, "of no effect without a target.", adaptive)


def value_weight(result: Translation, learning_rate: str) -> None:
    """The weight of the critic's loss, whose place the critic's learning rate takes."""
    result.missing["value_coef"] = (
        f"the critic has its own optimizer, and Adam does not see a constant factor: {learning_rate} takes its place."
    )


def as_script(translation: Translation) -> str:
    """The translation as a bash script: settings with their reasons, then what is the same, missing and different."""
    lines = ["#!/usr/bin/env bash", f"# {translation.target}, translated from a configuration of ppo_lib.", "args=("]
    for setting in translation.settings:
        reason = f"{', '.join(setting.ours)}" if setting.ours else "no key of ours"
        lines += remark(f"{reason}: {setting.note}", "  ") if setting.note else []
        words = " ".join(map(shlex.quote, translation.flag(setting)))
        lines.append(f"  {words}" if setting.note else f"  {words}  # {reason}")
    lines += [")", f'{translation.command} "${{args[@]}}"', ""]
    for title, entries in (
        ("What it does anyway", [f"{key}: {words}" for key, words in translation.same.items()]),
        ("No equivalent", [f"{key}: {words}" for key, words in translation.missing.items()]),
        ("Done differently whatever is set", translation.differs),
    ):
        if entries:
            lines += [f"# {title}:"] + [line for entry in entries for line in remark(f"- {entry}", "")]
    return "\n".join(lines) + "\n"


def remark(text: str, indent: str) -> list[str]:
    """A comment of at most 110 characters a line."""
    return textwrap.wrap(text, 108, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   ")
