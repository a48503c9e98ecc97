"""The beginning that all prompts share, read once instead of once in every row.

A chat template puts the same system message before every question, and several answers to one question share all of
it. Attention looks back only, so what a model makes of such a beginning is the same in every row: its keys and values
are computed in one row and shown to all. Gradients flow back into that one row, summed over all that looked at it.
The results are those of whole rows but for rounding; ``share_prefix: false`` reads whole rows.

    columns    | prefix, once | . . rest of the prompt, padded on the left | response . . |
"""

import math
import re

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ppo_lib.models.caches import read_on
from ppo_lib.models.tokens import TokenBatch

ALIGNED = 8  # a GPU's attention kernels want rows of the mask to begin at such a multiple, and copy it otherwise
WORTH = 16  # shared tokens below which a second pass through the model costs more than it saves

WINDOW = re.compile(r"sliding_window|window_size|local_attention|attention_chunk_size|attention_window")
CHANGING_ROTARY = {"dynamic", "longrope"}  # whose frequencies depend on the longest row
ALIBI = ("bloom", "mpt")  # without a key that says so

KeysValues = tuple[Tensor, Tensor]  # of one layer, (B, heads, columns, head_dim) each


def sees_everything(model: PreTrainedConfig) -> bool:
    """Whether every layer attends to all that came before; sliding windows and recurrent layers do not.

    A model whose rotary positions change with the longest row does not count either: its keys would change with what
    follows them. Nor does one with ALiBi, whose attention makes its numbers of a mask of two dimensions.
    """
    text = model.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    alibi = bool(getattr(text, "alibi", False)) or text.model_type in ALIBI
    return (
        kinds == {"full_attention"}
        and shortest_window(text) is None
        and not alibi
        and not rotary_kinds(text) & CHANGING_ROTARY
    )


def rotary_kinds(config: PreTrainedConfig) -> set[str]:
    """The kinds of rotary positions of a model; some have one for each kind of layer."""
    settings = getattr(config, "rope_parameters", None) or {}
    each = [value for value in settings.values() if isinstance(value, dict)] or [settings]
    return {str(setting.get("rope_type", "default")) for setting in each}


def shortest_window(config: PreTrainedConfig) -> int | None:
    """The fewest tokens that some layer looks back, or None where every layer sees the whole context.

    Models say it under many names, and not all of them list a kind for each layer.
    """
    context = getattr(config, "max_position_embeddings", None) or math.inf
    if getattr(config, "use_sliding_window", True) is False:
        return None
    windows = [
        value
        for name, value in vars(config).items()
        if WINDOW.search(name) and type(value) is int and 0 < value < context
    ]
    kinds = str(getattr(config, "attention_types", "") or getattr(config, "attention_layers", ""))
    if kinds and "local" not in kinds:  # GPT-Neo, whose window counts in its local layers alone
        return None
    return min(windows, default=None)


class Prefix:
    """Keys and values of the shared beginning, ``(1, heads, n, head_dim)`` of each layer, in a model's cache's place.

    Layer by layer the first pass fills it, and later ones see it before their own. It has the methods that a model
    calls on its cache.

    Args:
        keep: whether to remember the whole rows' keys and values as well, which decoding goes on from.
    """

    def __init__(self, keep: bool = False) -> None:
        self.keep = keep
        self.layers: list[KeysValues] = []
        self.whole: list[KeysValues] = []

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object) -> KeysValues:
        """What attention shall look at in this layer."""
        if layer == len(self.layers):
            self.layers.append((keys, values))
            return keys, values
        before = (x.expand(len(keys), -1, -1, -1) for x in self.layers[layer])
        k, v = (torch.cat([old, new], dim=2) for old, new in zip(before, (keys, values), strict=True))
        if self.keep:
            self.whole.append((k, v))
        return k, v

    def get_seq_length(self, layer: int = 0) -> int:
        """Asked by some models, and not used when positions are given."""
        return 0


def causal_mask(real: Tensor, first: int, dtype: torch.dtype) -> Tensor:
    """What is added to attention's scores, ``(B, 1, S - first, S)``: 0 on what a token may see, and next to -infinity.

    Args:
        real: ``(B, S)`` boolean, false in the padding.
        first: the column from which on tokens ask; those before are only looked at.
        dtype: of the scores.
    """
    rows, width = real.shape
    columns = torch.arange(width, device=real.device)
    seen = (columns <= columns[first:, None]) & real[:, None]
    room = torch.empty(rows, 1, width - first, -(-width // ALIGNED) * ALIGNED, dtype=dtype, device=real.device)
    mask = room[..., :width]
    return mask.fill_(torch.finfo(dtype).min).masked_fill_(seen[:, None], 0.0)


def prefix_layout(batch: TokenBatch, shared: int) -> Tensor:
    """Which columns hold tokens, ``(B, P + T)`` boolean, when the prefix stands in front and the padding behind it."""
    real = batch.attention_mask.bool()
    columns = torch.arange(real.shape[1], device=real.device)
    padding = (batch.prompt_width - batch.prompt_lengths).unsqueeze(1)
    return (columns < shared) | (real & (columns >= shared + padding))


def states_after_prefix(body: nn.Module, batch: TokenBatch, shared: int, prefix: Prefix, dtype: torch.dtype) -> Tensor:
    """Last hidden states ``(B, P + T - shared, H)`` of all columns behind the prefix.

    Args:
        body: a model below its output head, all of whose layers see everything before a token.
        batch: its first ``shared`` tokens are the same in every row.
        shared: how many they are; at least one, and fewer than the shortest prompt has.
        prefix: an empty one; afterward it holds the keys and values.
        dtype: of the model.
    """
    numbers = torch.arange(shared, device=batch.sequences.device)
    first = batch.sequences[0].gather(0, batch.prompt_width - batch.prompt_lengths[0] + numbers)
    ones = torch.ones(1, shared, dtype=torch.bool, device=first.device)
    read_on(
        body,
        prefix,
        input_ids=first.unsqueeze(0),
        attention_mask=causal_mask(ones, 0, dtype),
        position_ids=numbers.unsqueeze(0),
    )
    output = read_on(
        body,
        prefix,
        input_ids=batch.sequences[:, shared:],
        attention_mask=causal_mask(prefix_layout(batch, shared), shared, dtype),
        position_ids=batch.position_ids[:, shared:],
    )
    states: Tensor = output.last_hidden_state
    return states
