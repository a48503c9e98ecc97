"""How much memory a PPO run will hold, worked out before anything is loaded, so that one that cannot fit stops early.

What is held at the same time:

    total = weights + adapters + optimizer + max(rollout, update)
    rollout = KV cache + logits of one step            update = gradients + activations + logits of one slice

Weights, adapters, gradients, moments and the cache are counted. Activations are estimated as 1.5 times what the linear
layers read and write, which on the architectures of the tests is right to about a third either way: a Llama keeps less,
a GPT-2 more. The estimate is for attention that does not hold its ``(S, S)`` scores, which transformers uses where it
can.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ppo_lib.backbone import MAX_LOGITS
from ppo_lib.configuration import ConfigError
from ppo_lib.loading import DTYPES
from ppo_lib.ppo_config import PPOConfig
from ppo_lib.sharding import blocks_of

ADAPTER_BYTES = 4  # adapters, heads, gradients, moments and log-probs are float32, whatever the weights are
KEPT = 1.5  # bytes kept for the backward pass for each byte that a linear layer reads or writes
LOGITS_COPIES = 5  # of one slice at once: logits, scaled, log-softmax, its exponential, and a gradient
SAMPLING_BYTES = 28  # per logit of a decoding step: float32 three times, float64 twice for the cumulative sum


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes, by what they hold.

    Attributes:
        weights: of every model: the backbone, with ``finetune: full`` its trained copies, and others that are loaded;
            of models that are sharded, this process's part, and two blocks that are gathered at a time.
        adapters: LoRA adapters and scalar heads, those of a reward model on the same backbone included.
        optimizer: Adam's two moments, and float32 copies of weights that are trained in half precision.
        gradients: of all that is trained.
        cache: keys and values of a whole rollout batch at full length.
        activations: kept for the backward pass of one microbatch; with gradient checkpointing, of one block at a time.
        logits: of one slice in the update.
        sampling: of one decoding step of the rollout batch.
    """

    weights: int
    adapters: int
    optimizer: int
    gradients: int
    cache: int
    activations: int
    logits: int
    sampling: int

    @property
    def rollout(self) -> int:
        """What the rollout holds besides weights, adapters and optimizer."""
        return self.cache + self.sampling

    @property
    def update(self) -> int:
        """What the update holds besides weights, adapters and optimizer."""
        return self.gradients + self.activations + self.logits

    @property
    def total(self) -> int:
        """The most that is held at once."""
        return self.weights + self.adapters + self.optimizer + max(self.rollout, self.update)

    def table(self) -> str:
        """The plan as lines of text."""
        rows = {field.name: getattr(self, field.name) for field in fields(self)}
        lines = [f"  {name:12}{megabytes(value):>12}" for name, value in rows.items()]
        larger = "rollout" if self.rollout > self.update else "update"
        return "\n".join(["memory plan:", *lines, f"  {'at most':12}{megabytes(self.total):>12}, in the {larger}"])

    def check(self, free: int | None) -> None:
        """Refuse a run that cannot fit.

        Args:
            free: bytes that the device has left, from :func:`free_memory`; ``None`` checks nothing.

        Raises:
            ConfigError: names what is needed, what is free, and the first thing to lower.
        """
        if free is None or self.total <= free:
            return
        resident = self.weights + self.adapters + self.optimizer
        if resident > free:
            remedy = "use a smaller model, dtype: bfloat16, or finetune: lora with critic: shared"
        elif self.rollout > self.update:
            remedy = "lower rollout_batch or max_new_tokens"
        else:
            remedy = (
                "lower microbatch or set gradient_checkpointing: true, which change memory and not the result, or "
                "lower max_new_tokens"
            )
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
        parts: into how many parts the models' blocks are divided (:mod:`ppo_lib.sharding`); 1 for whole ones.
    """
    shape = empty_model(model)
    text, layers = model.get_text_config(), adapted_layers(shape)
    weight_bytes = DTYPES[config.dtype].itemsize
    count = parameters(shape) - elsewhere(shape, parts)
    body = parameters(shape.base_model) - elsewhere(shape, parts)
    gathered = 2 * max(map(parameters, blocks_of(shape))) * weight_bytes if parts > 1 else 0  # one computes, one comes
    head = text.hidden_size + 1
    separate, full = config.critic == "separate", config.finetune == "full"
    per_rank = sum(inputs + outputs for inputs, outputs in layers)

    adapters = 0 if full else (2 if separate else 1) * config.lora_rank * per_rank
    trained = (count + (body if separate else 0) if full else adapters) + head
    # Weights in half precision have gradients in half precision, and float32 ones while the optimizer steps.
    halves = full and weight_bytes < ADAPTER_BYTES
    gradients = trained * ADAPTER_BYTES + (trained - head) * weight_bytes * halves
    moments = 2 * trained * ADAPTER_BYTES + (trained - head) * ADAPTER_BYTES * halves

    width = prompt_length + config.max_new_tokens
    tokens = config.microbatch * width * (2 if separate else 1)
    kept = sum(inputs + outputs for inputs, outputs in layers) * weight_bytes * KEPT
    if not full:  # what an adapter reads is kept too, in float32
        kept += sum(inputs * (weight_bytes < ADAPTER_BYTES) + config.lora_rank for inputs, _ in layers) * ADAPTER_BYTES
    if config.gradient_checkpointing:  # what goes into each block, and all of the one that is computed again
        blocks = len(blocks_of(shape))
        kept = kept / blocks + blocks * text.hidden_size * weight_bytes
    response_logits = config.microbatch * config.max_new_tokens * text.vocab_size
    rows = -(-config.rollout_batch // processes)
    other = sum(parameters(x) - elsewhere(x, parts) for x in map(empty_model, others))
    reward = reward_rank * per_rank + head if reward_rank else 0
    return MemoryPlan(
        weights=(count + full * (count + separate * count) + other) * weight_bytes + gathered,
        adapters=(adapters + head + reward) * ADAPTER_BYTES,
        optimizer=moments,
        gradients=gradients + full * gathered,
        cache=rows * width * cache_bytes_per_token(model, weight_bytes),
        activations=int(tokens * kept),
        logits=min(MAX_LOGITS, response_logits) * ADAPTER_BYTES * LOGITS_COPIES,
        sampling=min(MAX_LOGITS, rows * text.vocab_size) * SAMPLING_BYTES,
    )


def empty_model(model: PreTrainedConfig) -> PreTrainedModel:
    """The architecture with its shapes, but without memory for its weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(model)


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
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * size * itemsize


def free_memory(device: str) -> int | None:
    """Bytes that a device has left; ``None`` where that is not known."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(torch.device(device))[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def megabytes(count: int) -> str:
    """Bytes in words: ``12 MB``, ``3.4 GB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
