"""Rankings for a reward model: the model answers each question several times, and a labeler ranks the answers.

    python -m ppo_lib rank --recipe capitals --out runs/rankings
    python -m ppo_lib rank --config mine.yaml --out runs/mine          # labeler: my_module:my_labeler

leaves ``rankings/train.jsonl`` and, where the prompts' source keeps some back, ``rankings/heldout.jsonl``: one line
``{"prompt": ..., "responses": [best, ..., worst]}`` per ranking. ``train reward`` reads such a file as its data.
Questions that are held out are answered and ranked for measuring alone.

A labeler is any function of a prompt and a list of responses that returns their numbers, the best first:
``[2, 0, 1, 3]``. People rank in the same form.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppo_lib.book.jsonl import append_lines
from ppo_lib.models import registry
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.device import peak_memory_bytes
from ppo_lib.models.registry import TOY, Labeler
from ppo_lib.run.data import load_prompts
from ppo_lib.run.judge_names import import_function
from ppo_lib.run.machines import pick_device, pick_dtype
from ppo_lib.sampling.rollout import generate_text
from ppo_lib.trainers.configuration import ConfigError, SFTConfig, check_config, option, same_option
from ppo_lib.trainers.optimizer import Metrics, State

SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class RankConfig:
    """How answers are drawn and who ranks them."""

    model: str = option(f"{TOY}:sft", help="the model that answers, as in SFT")
    prompts: str = option("capitals", help="questions, see ppo_lib.run.data: a source, a JSONL file, a data set")
    labeler: str = option("capitals", help="who ranks: a source that has labelers, or 'package.module:function'")
    chat_template: bool = same_option(SFTConfig, "chat_template")
    answers: int = option(4, minimum=2, help="different answers in one ranking")
    tries: int = option(6, minimum=2, help="answers drawn per question and round, of which different ones are ranked")
    rounds: int = option(1, minimum=1, help="rankings of each training question; a held-out one is ranked once")
    max_new_tokens: int = option(48, minimum=1, help="longest answer, in tokens")
    temperature: float = option(1.0, above=0.0, help="of sampling")
    batch: int = option(96, minimum=1, help="answers drawn at once, about")
    seed: int = option(0, minimum=0, help="of the sampling and of the labeler's moods")
    device: str = same_option(SFTConfig, "device")
    dtype: str = same_option(SFTConfig, "dtype")

    def __post_init__(self) -> None:
        check_config(self)
        if self.tries < self.answers:
            raise ConfigError(f"tries is {self.tries}, but must be at least answers, which is {self.answers}")


class Ranker:
    """Draws and ranks the answers to a few questions per iteration; has the face of a trainer, so it can be resumed.

    Args:
        config: the knobs.
        backbone: the model that answers.
        prompts: questions by split; those of ``heldout`` may be none.
        labeler: ranks the answers to one question.
    """

    def __init__(self, config: RankConfig, backbone: Backbone, prompts: dict[str, list[str]], labeler: Labeler) -> None:
        self.config, self.backbone, self.labeler = config, backbone, labeler
        size = max(1, config.batch // config.tries)
        self.jobs: list[tuple[str, list[str]]] = []
        for split in SPLITS:
            for _ in range(config.rounds if split == "train" else 1):
                asked = prompts.get(split, [])
                self.jobs += [(split, asked[i : i + size]) for i in range(0, len(asked), size)]
        self.iteration, self.iterations = 0, len(self.jobs)
        self.rankings: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        self._samples: list[dict[str, object]] = []

    def describe(self) -> str:
        """What will be done, in words."""
        config, counts = self.config, dict.fromkeys(SPLITS, 0)
        for split, asked in self.jobs:
            counts[split] += len(asked)
        held = f" and {counts['heldout']} for held-out ones (for measuring alone)" if counts["heldout"] else ""
        return (
            f"rank: at most {counts['train']} rankings of {config.answers} answers to training questions{held}; "
            f"{config.tries} answers of at most {config.max_new_tokens} tokens are drawn for each"
        )

    def step(self) -> Metrics:
        """Answer and rank the next few questions.

        Returns:
            Metrics by name: how many rankings came of them, the share of questions that gave too few different answers
            to rank, words per answer, seconds, bytes.
        """
        config, start = self.config, time.perf_counter()
        split, asked = self.jobs[self.iteration]
        many = [prompt for prompt in asked for _ in range(config.tries)]
        seed = config.seed * 100_003 + self.iteration
        drawn = generate_text(self.backbone, many, config.max_new_tokens, config.temperature, seed=seed)
        found = []
        for i, prompt in enumerate(asked):
            different = list(dict.fromkeys(drawn[i * config.tries : (i + 1) * config.tries]))[: config.answers]
            if len(different) == config.answers:
                order = checked(self.labeler(prompt, list(different)), different, config.labeler)
                found.append({"prompt": prompt, "responses": [different[number] for number in order]})
        self.rankings[split] += found
        self.iteration += 1
        self._samples = [{"split": split, **found[0]}] if found else []
        return {
            "iteration": self.iteration,
            "rankings": len(found),
            "unranked": 1.0 - len(found) / len(asked),
            "words": sum(len(text.split()) for text in drawn) / len(drawn),
            "seconds": time.perf_counter() - start,
            "peak_memory_bytes": peak_memory_bytes(self.backbone.device),
        }

    def samples(self) -> list[dict[str, object]]:
        """The first ranking of the last iteration."""
        return self._samples

    def state(self) -> State:
        """The rankings so far; each iteration's random numbers come from its own number."""
        return {}, {"iteration": self.iteration, "rankings": json.dumps(self.rankings)}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, object]) -> None:
        """Go back to a state."""
        self.iteration, self.rankings = int(str(values["iteration"])), json.loads(str(values["rankings"]))

    def save(self, folder: str) -> None:
        """Write the rankings, one file per split that has some."""
        for split, rows in self.rankings.items():
            if rows:
                append_lines(Path(folder) / f"{split}.jsonl", rows)


def checked(order: Any, responses: Sequence[str], labeler: str) -> list[int]:
    """A labeler's answer, if it is a ranking.

    Raises:
        ConfigError: it does not name each response exactly once.
    """
    numbers = list(order) if isinstance(order, (list, tuple)) else None
    if numbers is None or any(isinstance(n, bool) or not isinstance(n, int) for n in numbers):
        given = repr(order)[:60]
    elif sorted(numbers) == list(range(len(responses))):
        return numbers
    else:
        given = f"{numbers} for {len(responses)} responses"
    raise ConfigError(
        f"labeler {labeler!r} returned {given}, but must return the number of each response once, the best first, "
        f"such as {list(range(len(responses)))}"
    )


def load_labeler(name: str, seed: int = 0) -> Labeler:
    """The labeler of a configuration: a source's, or a function ``package.module:function``.

    Raises:
        ConfigError: there is none of that name.
    """
    source = registry.find(name)
    if source is not None:
        if source.labeler is None:
            raise ConfigError(f"labeler {name!r} has no labelers; give 'capitals' or 'package.module:function'")
        return source.labeler(seed)
    function: Any = import_function(name, "labeler")
    return function


def load_ranker(config: RankConfig) -> Ranker:
    """A ranker with everything that it needs loaded; the labeler and the questions before the model.

    Raises:
        ValueError: one of these cannot be had.
    """
    labeler = load_labeler(config.labeler, config.seed)
    prompts = {"train": load_prompts(config.prompts)}
    source = registry.find(config.prompts)
    if source is not None and source.held_out:
        prompts["heldout"] = load_prompts(config.prompts, "heldout")
    torch.manual_seed(config.seed)
    device, dtype = pick_device(config.device), pick_dtype(config)
    return Ranker(config, Backbone.from_pretrained(config.model, device, dtype, config.chat_template), prompts, labeler)
