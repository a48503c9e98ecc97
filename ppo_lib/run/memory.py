"""How much memory a PPO run will hold, worked out before anything is loaded, so that one that cannot fit stops early.

What is held at the same time:

    total = weights + adapters + optimizer + max(rollout, update)
    rollout = KV cache + logits of one step            update = gradients + activations + logits of one slice

Weights, adapters, gradients, moments and the cache are counted. Activations are counted in a forward pass on tensors
that have a shape and no numbers (PyTorch's device ``meta``), for attention that does not hold its ``(S, S)`` scores,
which transformers uses where it can. That is a simulation, not a measurement: what kernels take for themselves, and
what the allocator leaves between tensors, comes on top.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ppo_lib.models.adapters import adapter_dtype, add_adapter
from ppo_lib.models.backbone import MAX_LOGITS
from ppo_lib.models.loading import DTYPES
from ppo_lib.parallel.sharding import blocks_of
from ppo_lib.trainers.options import ConfigError
from ppo_lib.trainers.ppo_config import PPOConfig

STEPPED = 4  # bytes: heads, moments, log-probs and what the optimizer steps are float32, whatever the weights are
KEPT = 1.5  # bytes kept for the backward pass for each byte that a linear layer reads or writes, where all else fails
ROWS, SHORT = 1024, 2  # tokens of the forward pass without numbers
LOGITS_COPIES = 3  # of one slice at once: log-softmax, its exponential and their product, or two and a gradient
ENTROPY_COPIES = 5  # the same, when the entropy has a gradient too
LEAN = "lower microbatch or set gradient_checkpointing: true, which change memory and not the result, or lower "
# What to change first, by stage: where what stays does not fit, where the sampling does not, where the update does not.
REMEDIES = {
    "ppo": (
        "use a smaller model, dtype: bfloat16, or finetune: lora with critic: shared",
        "lower rollout_batch or max_new_tokens",
        LEAN + "max_new_tokens",
    ),
    "sft": ("use a smaller model, dtype: bfloat16, or lora_rank: 8", "", LEAN + "max_length"),
    "reward": ("use a smaller model or dtype: bfloat16", "use a smaller model or dtype: bfloat16", LEAN + "max_length"),
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
        lines = [f"  {name:12}{megabytes(value):>12}" for name, value in rows.items() if value]
        larger = "rollout" if self.rollout > self.update else "update"
        return "\n".join(["memory plan:", *lines, f"  {'at most':12}{megabytes(self.total):>12}, in the {larger}"])

    def check(self, free: int | None, stage: str = "ppo") -> None:
        """Refuse a run that cannot fit.

        Args:
            free: bytes that the device has left, from :func:`free_memory`; ``None`` checks nothing.
            stage: ``sft``, ``reward`` or ``ppo``, whose keys the remedy names.

        Raises:
            ConfigError: names what is needed, what is free, and the first thing to lower.
        """
        if free is None or self.total <= free:
            return
        resident = self.weights + self.adapters + self.optimizer
        smaller, sampling, update = REMEDIES[stage]
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
    copies = ENTROPY_COPIES if config.entropy_coef else LOGITS_COPIES
    return MemoryPlan(
        weights=(count + full * (count + separate * count) + other) * weight_bytes + gathered,
        adapters=(adapters + reward) * adapter_bytes + heads * STEPPED,
        optimizer=moments,
        gradients=gradients + full * gathered,
        cache=rows * width * cache_bytes_per_token(model, weight_bytes),
        activations=int(tokens * kept),
        logits=min(MAX_LOGITS, response_logits) * STEPPED * copies,
        sampling=min(MAX_LOGITS, rows * text.vocab_size) * SAMPLING_BYTES,
    )


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
    kept += text.num_hidden_layers * width * dtype.itemsize  # every layer keeps the mask as numbers to add
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
    except RuntimeError:  # a mixture of experts, say, looks at numbers
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

    # Short rows: attention without numbers writes its scores down, and then has few to write; of a single token it
    # would keep less than of many. A mask of four dimensions is taken as it is; any other is looked at.
    tokens = torch.zeros(ROWS, SHORT, dtype=torch.long, device="meta")
    mask = torch.zeros(ROWS, 1, SHORT, SHORT, dtype=dtype, device="meta")
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
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
