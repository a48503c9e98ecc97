"""The memory plan of a stage, from configurations, tokenizer and texts: no weights are read.

:mod:`ppo_lib.run.memory` counts what a PPO run holds. SFT and reward training hold less: no reference, no critic and no
rollout, but a microbatch that is as wide as its longest prompt and its longest answer together.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ppo_lib.models.adapters import adapter_dtype
from ppo_lib.models.backbone import MAX_LOGITS
from ppo_lib.models.hub import pinned_model
from ppo_lib.models.loading import DTYPES, base_name, load_shape, read_json, refusals, resolve
from ppo_lib.models.tokens import encode_prompts
from ppo_lib.parallel.processes import ALONE, Processes
from ppo_lib.parallel.sharding import blocks_of
from ppo_lib.run.data import load_demonstrations, load_pairs, load_prompts, stories_folder
from ppo_lib.run.judges import VERIFIABLE
from ppo_lib.run.memory import (
    LOGITS_COPIES,
    SAMPLING_BYTES,
    STEPPED,
    MemoryPlan,
    adapted_layers,
    cache_bytes_per_token,
    elsewhere,
    empty_model,
    kept_at_width,
    parameters,
    plan_memory,
    to_learn,
)
from ppo_lib.run.stages import CALIBRATION_ANSWERS, CALIBRATION_TOKENS, pick_device, pick_dtype
from ppo_lib.trainers.ppo_config import PPOConfig


def memory_plan(
    stage: str, config: Any, sft: Path | None = None, reward: Path | None = None, processes: Processes = ALONE
) -> MemoryPlan:
    """The memory plan of a stage.

    Args:
        stage, config, sft, reward: as :func:`ppo_lib.run.stages.build` takes them.
        processes: who shares the work; the plan is that of one of them.

    Raises:
        ValueError: a model, texts or a judge that cannot be read.
    """
    model = str(sft or config.model)
    shape, tokenizer = load_shape(model)
    known = replace(config, dtype=pick_dtype(config))
    if stage != "ppo":
        prompt, answer = longest_texts(stage, config, shape, tokenizer)
        return plan_training(stage, shape, known, prompt, answer, processes.size, processes.parts)
    prompts = [text + config.prompt_suffix for text in load_prompts(config.prompts)]
    longest = max(map(len, encode_prompts(tokenizer, prompts, chat=config.chat_template)))
    longest = min(longest, config.max_prompt_tokens or longest)
    plan = plan_memory(shape, known, longest, processes=processes.size, parts=processes.parts)
    for name, folder in ((config.reward_model, reward), (config.second_judge, None)):
        weights, adapters = judge_bytes(name, known, model, folder, processes.parts)
        plan = replace(plan, weights=plan.weights + weights, adapters=plan.adapters + adapters)
    return plan


def judge_bytes(
    name: str | None, config: PPOConfig, model: str, folder: Path | None = None, parts: int = 1
) -> tuple[int, int]:
    """Bytes of weights and of adapters that a judge adds; 0 for a function, a verifiable reward or a word list.

    Args:
        name: as :func:`ppo_lib.run.judges.load_judge` takes it; None for no judge.
        config: of the PPO run, its dtype known.
        model: the policy's; a judge that was trained on it shares its backbone.
        folder: a reward model known to be trained on ``model``; goes before the name.
        parts: into how many parts the blocks of a backbone are divided.

    Raises:
        ValueError: a model whose configuration cannot be read.
    """
    if folder is None and (name is None or name in VERIFIABLE or stories_folder(name)):
        return 0, 0
    place = Path(folder or (resolve("pocket:reward") if name == "pocket" else str(name)))
    if (place / "adapter_config.json").is_file():
        shared = folder is not None or base_name(place) == model
        shape = empty_model(load_shape(model if shared else base_name(place))[0])
        rank = read_json(place / "adapter_config.json", "a PEFT adapter folder")["r"]
        weights = 0 if shared else (parameters(shape) - elsewhere(shape, parts)) * DTYPES[config.dtype].itemsize
        return weights, adapter_bytes(shape, rank, DTYPES[config.dtype]) + head_bytes(shape)
    pinned = pinned_model(str(name))
    if not pinned and not (place / "config.json").is_file():
        return 0, 0
    with refusals(str(name)), torch.device("meta"):
        where, commit = (pinned.name, pinned.commit) if pinned else (str(place), None)
        shape = AutoConfig.from_pretrained(where, revision=commit, trust_remote_code=False)
        count = parameters(AutoModelForSequenceClassification.from_config(shape))
    on_cpu = torch.device(pick_device(config.device)).type == "cpu"
    return count * (4 if on_cpu else 2), 0  # PublishedRewardModel loads it whole, on a GPU in half precision


def adapter_bytes(model: PreTrainedModel, rank: int, dtype: torch.dtype) -> int:
    """Bytes of an adapter of ``rank`` on weights of a dtype."""
    return rank * sum(inputs + outputs for inputs, outputs in adapted_layers(model)) * adapter_dtype(dtype).itemsize


def head_bytes(model: PreTrainedModel) -> int:
    """Bytes of a scalar head: its weights and its bias."""
    return (model.config.get_text_config().hidden_size + 1) * STEPPED


def longest_texts(
    stage: str, config: Any, shape: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, int]:
    """Tokens of the longest prompt and of the longest answer, its EOS included, of those that are trained on."""
    rows: Sequence[tuple[str, ...]]
    rows = load_demonstrations(config.data) if stage == "sft" else load_pairs(config.data)
    prompts = map(len, encode_prompts(tokenizer, [row[0] for row in rows], chat=config.chat_template))
    texts = list(chain.from_iterable(row[1:] for row in rows))
    lengths = [len(ids) + 1 for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    each = len(texts) // len(rows)
    answers = [max(lengths[i : i + each]) for i in range(0, len(lengths), each)]
    limit = config.max_length or getattr(shape.get_text_config(), "max_position_embeddings", None)
    found = list(zip(prompts, answers, strict=True))
    kept = [both for both in found if limit is None or sum(both) <= limit or not config.drop_longer] or found
    return max(prompt for prompt, _ in kept), max(answer for _, answer in kept)


def plan_training(
    stage: str,
    model: PreTrainedConfig,
    config: Any,
    prompt_length: int,
    answer_length: int,
    processes: int = 1,
    parts: int = 1,
) -> MemoryPlan:
    """The memory plan of SFT or reward training.

    Args:
        stage: ``sft`` or ``reward``.
        model: configuration of the language model.
        config: the stage's knobs.
        prompt_length: tokens of the longest prompt.
        answer_length: tokens of the longest answer; a microbatch may hold it beside the longest prompt.
        processes: how many share a batch; the plan is that of one of them.
        parts: into how many parts the model's blocks are divided; 1 for whole ones.
    """
    shape, text, reward = empty_model(model), model.get_text_config(), stage == "reward"
    full, dtype = config.lora_rank == 0, DTYPES[config.dtype]
    item = dtype.itemsize
    count = parameters(shape) - elsewhere(shape, parts)
    gathered = 2 * max(map(parameters, blocks_of(shape))) * item if parts > 1 else 0
    adapter, head = adapter_bytes(shape, config.lora_rank, dtype), reward * head_bytes(shape)
    learns = item if full else adapter_dtype(dtype).itemsize
    gradients, moments = to_learn(count if full else adapter // learns, head // STEPPED, learns)
    rows = min(config.microbatch, -(-config.batch // processes)) * (2 if reward else 1)  # a pair is two answers
    width = prompt_length + answer_length
    drawn = min(CALIBRATION_ANSWERS, max(1, CALIBRATION_TOKENS // width)) * reward  # to fix the score's zero and unit
    kept = kept_at_width(model, dtype, config.lora_rank, width, config.gradient_checkpointing)
    return MemoryPlan(
        weights=count * item + gathered,
        adapters=adapter + head,
        optimizer=moments,
        gradients=gradients + full * gathered,
        cache=drawn * width * cache_bytes_per_token(model, item),
        activations=int(rows * width * kept),
        logits=0 if reward else min(MAX_LOGITS, rows * answer_length * text.vocab_size) * STEPPED * LOGITS_COPIES,
        sampling=min(MAX_LOGITS, drawn * text.vocab_size) * SAMPLING_BYTES,
    )
