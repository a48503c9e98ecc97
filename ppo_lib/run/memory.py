"""How much memory a run will hold, worked out before anything is loaded, so that one that cannot fit stops early.

What is held at the same time:

    total = weights + adapters + optimizer + max(rollout, update)
    rollout = KV cache + logits of one step + merged   update = gradients + activations + logits of one slice

Weights, adapters, gradients, moments and the cache are counted. Activations are counted in a forward pass on tensors
that have a shape and no numbers (PyTorch's device ``meta``), for attention that does not hold its ``(S, S)`` scores,
which transformers uses where it can. That is a simulation, not a measurement: what kernels take for themselves, and
what the allocator leaves between tensors, comes on top.

That is PPO, and GRPO, which holds the same but for what a head costs to train: a few kilobytes, counted all the same.
SFT, reward training and DPO hold less: no critic and no rollout, but a microbatch that is as wide as its longest prompt
and its longest answer together. Sizes come from configurations, tokenizer and texts; no weights are read.
"""

import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D

from ppo_lib.errors import reading
from ppo_lib.models import registry
from ppo_lib.models.adapter_folders import read_settings, same_model
from ppo_lib.models.adapters import adapter_dtype, add_adapter
from ppo_lib.models.backbone import MAX_LOGITS
from ppo_lib.models.device import judging_dtype
from ppo_lib.models.hub import pinned_model
from ppo_lib.models.loading import DTYPES, context_length, load_shape, refusals
from ppo_lib.models.prefix import sees_everything
from ppo_lib.models.recomputing import blocks_of
from ppo_lib.models.tokens import encode_prompts, encode_responses
from ppo_lib.models.world import ALONE, World
from ppo_lib.run.data import load_demonstrations, load_pairs, load_prompts, quiet
from ppo_lib.run.judge_names import VERIFIABLE, own_folder
from ppo_lib.run.machines import pick_device, pick_dtype
from ppo_lib.run.stages import CALIBRATION_ANSWERS, CALIBRATION_TOKENS
from ppo_lib.trainers.configuration import ConfigError, PPOConfig

STEPPED = 4  # bytes: heads, moments, log-probs and what the optimizer steps are float32, whatever the weights are
KEPT = 1.5  # bytes kept for the backward pass for each byte that a linear layer reads or writes, where all else fails
ROWS, SHORT = 1024, 2  # tokens of the forward pass without numbers
LOGITS_COPIES = 2  # of one slice at once: logits and log-softmax, or log-softmax and the gradient
ENTROPY_COPIES = 5  # the same, when the entropy has a gradient too
LEAN = "lower microbatch or set gradient_checkpointing: true, which change memory and not the result, or lower "
# What to change first, by stage: where what stays does not fit, where the sampling does not, where the update does not.
REMEDIES = {
    "ppo": (
        "use a smaller model, dtype: bfloat16, or finetune: lora with critic: shared",
        "lower rollout_batch or max_new_tokens",
        LEAN + "max_new_tokens",
    ),
    "grpo": (
        "use a smaller model or dtype: bfloat16",
        "lower rollout_batch or max_new_tokens",
        "lower microbatch, which changes memory and not the result, or lower max_new_tokens",
    ),
    "sft": ("use a smaller model, dtype: bfloat16, or lora_rank: 8", "", LEAN + "max_length"),
    "reward": ("use a smaller model or dtype: bfloat16", "use a smaller model or dtype: bfloat16", LEAN + "max_length"),
    "dpo": (
        "use a smaller model or dtype: bfloat16",
        "",
        "lower microbatch, which changes memory and not the result, or lower max_length",
    ),
}
SAMPLING_BYTES = 28  # per logit of a decoding step: float32 three times, float64 twice for the cumulative sum


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes, by what they hold.

    Attributes:
        weights: of every model: the backbone, with ``finetune: full`` its trained copies, and judges that are loaded;
            of models that are sharded, this process's part, and two blocks that are gathered at a time.
        adapters: LoRA adapters and scalar heads, those of judges included.
        optimizer: Adam's two moments, and float32 copies of weights that are trained in half precision.
        gradients: of all that is trained.
        cache: keys and values of a whole rollout batch at full length.
        activations: kept for the backward pass of one microbatch; with gradient checkpointing, of one block at a time.
        logits: of one slice in the update.
        sampling: of one decoding step of the rollout batch.
        merged: a copy of the weights that have adapters, where the rollout merges them.
    """

    weights: int
    adapters: int
    optimizer: int
    gradients: int
    cache: int
    activations: int
    logits: int
    sampling: int
    merged: int = 0

    @property
    def rollout(self) -> int:
        """What the rollout holds besides weights, adapters and optimizer."""
        return self.cache + self.sampling + self.merged

    @property
    def update(self) -> int:
        """What the update holds besides weights, adapters and optimizer."""
        return self.gradients + self.activations + self.logits

    @property
    def total(self) -> int:
        """The most that is held at once."""
        return self.weights + self.adapters + self.optimizer + max(self.rollout, self.update)

    def table(self, held: int | None = None) -> str:
        """The plan as lines of text.

        Args:
            held: bytes that the process holds already, where they come on top in what is measured: on a CPU.
        """
        rows = {field.name: getattr(self, field.name) for field in fields(self)}
        lines = [f"  {name:12}{megabytes(value):>12}" for name, value in rows.items() if value]
        larger = "rollout" if self.rollout > self.update else "update"
        most = f"  {'at most':12}{megabytes(self.total):>12}, in the {larger}"
        besides = f", besides the {megabytes(held)} that this process holds already" if held else ""
        return "\n".join(["memory plan:", *lines, most + besides])

    def check(self, free: int | None, stage: str = "ppo") -> None:
        """Refuse a run that cannot fit.

        Args:
            free: bytes that the device has left (:func:`ppo_lib.run.machines.free_memory`); ``None`` checks nothing.
            stage: one of ``REMEDIES``, whose keys the remedy names.

        Raises:
            ConfigError: names what is needed, what is free, and the first thing to lower.
        """
        if free is None or self.total <= free:
            return
        resident = self.weights + self.adapters + self.optimizer
        smaller, sampling, update = REMEDIES[stage]
        if self.merged:
            sampling = f"set merge_adapter: false, or {sampling}"
        remedy = smaller if resident > free else sampling if self.rollout > self.update else update
        raise ConfigError(
            f"the run needs about {megabytes(self.total)} ({megabytes(resident)} for weights, adapters and optimizer, "
            f"{megabytes(max(self.rollout, self.update))} to work), but {megabytes(free)} are free; {remedy}"
        )


def plan_memory(
    model: PreTrainedConfig,
    config: PPOConfig,
    prompt_length: int,
    reward_rank: int = 0,
    others: Sequence[PreTrainedConfig] = (),
    processes: int = 1,
    parts: int = 1,
) -> MemoryPlan:
    """The memory plan of a PPO run.

    Args:
        model: configuration of the language model, from ``AutoConfig.from_pretrained``; no weights are loaded.
        config: the knobs.
        prompt_length: tokens of the longest prompt.
        reward_rank: LoRA rank of a reward model on the same backbone; 0 for none.
        others: models that are loaded besides, such as the backbone of a reward model of its own.
        processes: how many share a rollout batch; the plan is that of one of them.
        parts: into how many parts the models' blocks are divided (:mod:`ppo_lib.parallel.sharding`); 1 for whole ones.
    """
    shape, dtype = empty_model(model), DTYPES[config.dtype]
    weight_bytes = dtype.itemsize
    text, layers = model.get_text_config(), adapted_layers(shape)
    count = parameters(shape) - elsewhere(shape, parts)
    body = parameters(shape.base_model) - elsewhere(shape, parts)
    gathered = 2 * max(map(parameters, blocks_of(shape))) * weight_bytes if parts > 1 else 0  # one computes, one comes
    head = text.hidden_size + 1
    separate, full = config.critic == "separate", config.finetune == "full"
    per_rank = sum(inputs + outputs for inputs, outputs in layers)

    adapters, adapter_bytes = (
        (0 if full else (1 + separate) * config.lora_rank * per_rank),
        adapter_dtype(dtype).itemsize,
    )
    network = count + separate * body if full else adapters
    gradients, moments = to_learn(network, head, weight_bytes if full else adapter_bytes)

    width = prompt_length + config.max_new_tokens
    tokens = config.microbatch * width * (2 if separate else 1)
    kept = kept_at_width(model, dtype, 0 if full else config.lora_rank, width, config.gradient_checkpointing)
    response_logits = config.microbatch * config.max_new_tokens * text.vocab_size
    rows = -(-config.rollout_batch // processes)
    other = sum(parameters(x) - elsewhere(x, parts) for x in map(empty_model, others))
    reward, heads = reward_rank * per_rank, head * (2 if reward_rank else 1)
    return MemoryPlan(
        weights=(count + full * (count + separate * count) + other) * weight_bytes + gathered,
        adapters=(adapters + reward) * adapter_bytes + heads * STEPPED,
        optimizer=moments,
        gradients=gradients + full * gathered,
        cache=rows * width * cache_bytes_per_token(model, weight_bytes),
        activations=int(tokens * kept),
        logits=min(MAX_LOGITS, response_logits) * bytes_per_logit(dtype, config.entropy_coef > 0),
        sampling=min(MAX_LOGITS, rows * text.vocab_size) * SAMPLING_BYTES,
        merged=sum(inputs * outputs for inputs, outputs in layers) * weight_bytes if merges(config, parts) else 0,
    )


def merges(config: PPOConfig, parts: int) -> bool:
    """Whether the rollout will merge its adapter; as :attr:`ppo_lib.models.backbone.Backbone.merges` does."""
    wanted = pick_device(config.device).startswith("cuda") if config.merge_adapter is None else config.merge_adapter
    return wanted and config.fused_lora and config.finetune == "lora" and parts == 1


def to_learn(network: int, head: int, itemsize: int) -> tuple[int, int]:
    """Bytes of gradients, and of what the optimizer holds.

    What is trained in half precision has gradients in half precision, and float32 ones while the optimizer steps its
    float32 copies.

    Args:
        network: how many numbers are trained of weights or adapters.
        head: and of a scalar head.
        itemsize: bytes of each of the network's.
    """
    trained, halves = network + head, itemsize < STEPPED
    gradients = trained * STEPPED + network * itemsize * halves
    return gradients, 2 * trained * STEPPED + network * STEPPED * halves


def bytes_per_logit(dtype: torch.dtype, entropy_grad: bool = False) -> int:
    """Of a slice in the update; on half-precision weights the gradient is there in half precision too."""
    if entropy_grad:
        return STEPPED * ENTROPY_COPIES
    return STEPPED * LOGITS_COPIES + dtype.itemsize * (dtype.itemsize < STEPPED)


def empty_model(model: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The architecture with its shapes, but without memory for its weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(model, dtype=dtype)


def kept_at_width(
    model: PreTrainedConfig, dtype: torch.dtype, lora_rank: int, width: int, checkpointing: bool
) -> float:
    """Bytes that each token leaves for the backward pass in rows of ``width`` tokens; see :func:`kept_per_token`."""
    text = model.get_text_config()
    kept = kept_per_token(model, dtype, lora_rank)
    masks = 1 if sees_everything(model) else text.num_hidden_layers  # as numbers to add; others make one in each layer
    kept += masks * width * dtype.itemsize
    if checkpointing:  # what goes into each block, and all of the one that is computed again
        blocks = len(blocks_of(empty_model(model)))
        kept = kept / blocks + blocks * text.hidden_size * dtype.itemsize
    return kept


def kept_per_token(model: PreTrainedConfig, dtype: torch.dtype, lora_rank: int) -> float:
    """Bytes that each token leaves for the backward pass, but for what attention keeps of its mask.

    Args:
        model: configuration of the language model.
        dtype: of its weights.
        lora_rank: of the adapter that is trained; 0 trains the weights.
    """
    try:
        one, two = (kept_by_blocks(model, dtype, lora_rank, blocks) for blocks in (1, 2))
        return one + (two - one) * (model.get_text_config().num_hidden_layers - 1)
    except Exception as error:  # a mixture of experts, say, looks at numbers; ALiBi wants a mask of two dimensions
        warnings.warn(
            f"what a {model.model_type!r} model keeps for the backward pass cannot be counted "
            f"({type(error).__name__}); the memory plan estimates it from the sizes of its layers",
            stacklevel=2,
        )
        layers, itemsize = adapted_layers(empty_model(model)), dtype.itemsize
        adapter = adapter_dtype(dtype).itemsize
        read = adapter * bool(lora_rank and itemsize < adapter)  # what an adapter reads, in float32
        return sum((i + o) * itemsize * KEPT + i * read + lora_rank * adapter for i, o in layers)


def kept_by_blocks(model: PreTrainedConfig, dtype: torch.dtype, lora_rank: int, blocks: int) -> float:
    """The same for a model that ends after so many blocks."""
    model = deepcopy(model)
    text = model.get_text_config()
    text.num_hidden_layers = blocks
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:blocks]
    shape = empty_model(model, dtype).eval().requires_grad_(not lora_rank)
    if lora_rank:
        with torch.device("meta"):
            add_adapter(shape, "policy", "", lora_rank, lora_rank, seed=0)
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[id(tensor.untyped_storage())] = tensor.untyped_storage()
        return tensor

    class Attention(TorchFunctionMode):
        """Notes what attention is given as part of a larger tensor: real kernels keep all of it, this one a copy."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is nn.functional.scaled_dot_product_attention:
                for x in args[:3]:
                    if x.untyped_storage().nbytes() > x.numel() * x.itemsize:
                        note(x)
            return func(*args, **(kwargs or {}))

    # Short rows: attention without numbers writes its scores down, and then has few to write; of a single token it
    # would keep less than of many. A mask of four dimensions is taken as it is; any other is looked at.
    tokens = torch.zeros(ROWS, SHORT, dtype=torch.long, device="meta")
    mask = torch.zeros(ROWS, 1, SHORT, SHORT, dtype=dtype, device="meta")
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), Attention():
        _output = shape.base_model(input_ids=tokens, attention_mask=mask, position_ids=tokens, use_cache=False)
    weights = {id(parameter.untyped_storage()) for parameter in shape.parameters()}
    return sum(storage.nbytes() for key, storage in kept.items() if key not in weights) / tokens.numel()


def parameters(model: nn.Module) -> int:
    """How many numbers a model is."""
    return sum(p.numel() for p in model.parameters())


def elsewhere(model: PreTrainedModel, parts: int) -> int:
    """How many of its parameters a process does not hold, when its blocks are divided into so many parts."""
    divided = sum(map(parameters, blocks_of(model))) if parts > 1 else 0
    return divided - -(-divided // parts)


def adapted_layers(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Inputs and outputs of every linear layer that an adapter changes: all but the output head."""
    head = model.get_output_embeddings()
    layers = []
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            layers.append((module.in_features, module.out_features))
        elif isinstance(module, Conv1D):  # GPT-2's linear layer
            layers.append((module.nx, module.nf))
    return layers


def cache_bytes_per_token(model: PreTrainedConfig, itemsize: int) -> int:
    """Bytes of keys and values that one token leaves in all layers."""
    text = model.get_text_config()
    try:
        every = getattr(text, "num_attention_heads", None) or 1
        heads = getattr(text, "num_key_value_heads", None) or every
        width = heads * (getattr(text, "head_dim", None) or text.hidden_size // every)
    except Exception:  # heads that differ from layer to layer, or have other names: at most the model's width
        width = text.hidden_size
    return 2 * text.num_hidden_layers * width * itemsize


def megabytes(count: int) -> str:
    """Bytes in words: ``12 MB``, ``3.4 GB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def memory_plan(
    stage: str, config: Any, sft: Path | None = None, reward: Path | None = None, world: World = ALONE
) -> MemoryPlan:
    """The memory plan of a stage.

    Args:
        stage, config, sft, reward: as :func:`ppo_lib.run.stages.build` takes them.
        world: who shares the work; the plan is that of one of them.

    Raises:
        ValueError: a model, texts or a judge that cannot be read.
    """
    model = str(sft or config.model)
    shape, tokenizer = load_shape(model)
    config = config.rollout() if stage == "grpo" else config
    known = replace(config, dtype=pick_dtype(config))
    if stage not in ("ppo", "grpo"):
        prompt, answer = longest_texts(stage, config, shape, tokenizer)
        return plan_training(stage, shape, known, prompt, answer, world.size, world.parts)
    prompts = [text + config.prompt_suffix for text in load_prompts(config.prompts, say=quiet)]
    longest = max(map(len, encode_prompts(tokenizer, prompts, chat=config.chat_template)))
    longest = min(longest, config.max_prompt_tokens or longest)
    plan = plan_memory(shape, known, longest, processes=world.size, parts=world.parts)
    for name, folder in ((config.reward_model, reward), (config.heldout_judge, None)):
        weights, adapters = judge_bytes(name, known, model, folder, world.parts)
        plan = replace(plan, weights=plan.weights + weights, adapters=plan.adapters + adapters)
    return plan


def judge_bytes(
    name: str | None, config: PPOConfig, model: str, folder: Path | None = None, parts: int = 1
) -> tuple[int, int]:
    """Bytes of weights and of adapters that a judge adds; 0 for a function, a verifiable reward or a word list.

    Args:
        name: as :func:`ppo_lib.run.judge_names.load_judge` takes it; None for no judge.
        config: of the PPO run, its dtype known.
        model: the policy's; a judge that was trained on it shares its backbone.
        folder: a reward model known to be trained on ``model``; goes before the name.
        parts: into how many parts the blocks of a backbone are divided.

    Raises:
        ValueError: a model whose configuration cannot be read.
    """
    source = registry.find(name) if name else None
    if folder is None and (name is None or name in VERIFIABLE or (source and source.reward_model is None)):
        return 0, 0
    place = folder or own_folder(str(name))
    if place:
        settings = read_settings(place)
        shared = folder is not None or same_model(settings.base, model)
        shape, rank = empty_model(load_shape(model if shared else settings.base)[0]), settings.rank
        weights = 0 if shared else (parameters(shape) - elsewhere(shape, parts)) * DTYPES[config.dtype].itemsize
        return weights, adapter_bytes(shape, rank, DTYPES[config.dtype]) + head_bytes(shape)
    pinned, place = pinned_model(str(name)), Path(str(name))
    with reading(place):
        if not pinned and not (place / "config.json").is_file():
            return 0, 0
    with refusals(str(name)), torch.device("meta"):
        where, commit = (pinned.name, pinned.commit) if pinned else (str(place), None)
        shape = AutoConfig.from_pretrained(where, revision=commit, trust_remote_code=False)
        count = parameters(AutoModelForSequenceClassification.from_config(shape))
    device = torch.device(pick_device(config.device))
    return count * judging_dtype(device).itemsize, 0  # as PublishedRewardModel reads it


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
    rows = load_demonstrations(config.data, quiet) if stage == "sft" else load_pairs(config.data, say=quiet)
    prompts = map(len, encode_prompts(tokenizer, [row[0] for row in rows], chat=config.chat_template))
    texts = list(chain.from_iterable(row[1:] for row in rows))
    lengths = [len(ids) + 1 for ids in encode_responses(tokenizer, texts)]
    each = len(texts) // len(rows)
    answers = [max(lengths[i : i + each]) for i in range(0, len(lengths), each)]
    limit = config.max_length or context_length(shape)
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
    """The memory plan of SFT, reward training or DPO.

    Args:
        stage: ``sft``, ``reward`` or ``dpo``.
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
    unused = (stage == "dpo") * head_bytes(shape)  # DPO's policy has a value head, and does not train it
    learns = item if full else adapter_dtype(dtype).itemsize
    gradients, moments = to_learn(count if full else adapter // learns, head // STEPPED, learns)
    rows = min(config.microbatch, -(-config.batch // processes)) * (1 if stage == "sft" else 2)  # a pair is two answers
    width = prompt_length + answer_length
    drawn = min(CALIBRATION_ANSWERS, max(1, CALIBRATION_TOKENS // width)) * reward  # to fix the score's zero and unit
    kept = kept_at_width(model, dtype, config.lora_rank, width, config.gradient_checkpointing)
    return MemoryPlan(
        weights=count * item + gathered,
        adapters=adapter + head + unused,
        optimizer=moments,
        gradients=gradients + full * gathered,
        cache=drawn * width * cache_bytes_per_token(model, item),
        activations=int(rows * width * kept),
        logits=0 if reward else min(MAX_LOGITS, rows * answer_length * text.vocab_size) * bytes_per_logit(dtype),
        sampling=min(MAX_LOGITS, drawn * text.vocab_size) * SAMPLING_BYTES,
    )
