"""Decoding with a cache of fixed size: one step that is the same every time, so that a GPU can replay it.

A decoding step of a small model is hundreds of tiny kernels. Started one by one from Python they leave a GPU idle for
most of the time; recorded once as a CUDA graph they are replayed with one call. A graph wants fixed addresses: keys
and values, tokens, positions and masks live in tensors that are made once and changed in place, and nothing in the
step asks the GPU for an answer. On other devices the same step runs without a graph, which is how it is tested.

Attention looks at the first ``visible`` columns of the cache only, a multiple of ``BLOCK``; each width has a graph of
its own. Rows that have ended are carried along and change nothing; every ``LOOK`` steps the loop asks whether all have.
"""

import os
import warnings
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ppo_lib.errors import BadInput
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.caches import cache_of, read_on
from ppo_lib.models.prefix import ALIGNED
from ppo_lib.models.tokens import TokenBatch, pad_pairs
from ppo_lib.sampling.agreement import STEPS, Witness

BLOCK = 128  # columns by which attention widens; a graph is recorded for each width
LOOK = 16  # steps between looks at whether every row has ended: each look waits for the GPU
_agrees: WeakKeyDictionary[Backbone, bool] = WeakKeyDictionary()  # models for which it was tried


def supports_static_cache(backbone: Backbone) -> bool:
    """Whether a cache of fixed size gives what the scorer scores: every layer attends to all that came before.

    Sliding windows and recurrent layers do not, wherever the configuration says so. What no configuration says is found
    out by trying, once for each model.

    A model that is sharded does not either: its blocks come and go, and a graph wants fixed addresses. Nor does one
    whose rotary positions change with the longest row: it asks the GPU for that row at every step.
    """
    return backbone.sees_everything and not backbone.world.sharded and static_agrees(backbone)


@torch.no_grad()
def static_agrees(backbone: Backbone) -> bool:
    """Whether the decoder below samples what the scorer scores; warns, once, where it does not."""
    if backbone.device.type == "meta":  # shapes alone: there is nothing to compare
        return True
    if backbone not in _agrees:
        witness = Witness(backbone)
        try:
            _agrees[backbone] = not witness.prompts or witness.agrees(decode_few(backbone, witness))
        except torch.OutOfMemoryError:
            raise
        except Exception:  # the model's own code, given a cache and a mask that it does not know: anything may come
            _agrees[backbone] = False
        if not _agrees[backbone]:
            warnings.warn(
                f"model {backbone.name!r} ({backbone.causal_lm.config.model_type}) samples from a cache of fixed size "
                "what it does not score; it samples from its own growing cache instead, which is slower on a GPU",
                stacklevel=2,
            )
    return _agrees[backbone]


def decode_few(backbone: Backbone, witness: Witness) -> TokenBatch:
    """The witness's prompts and tokens, by the decoder, without a graph."""
    batch = pad_pairs(witness.prompts, [[0] * STEPS] * 2, backbone.pad_token_id).to(backbone.device)
    width, seen = batch.prompt_width, batch.attention_mask.bool()
    output = read_on(
        backbone.body,
        None,
        input_ids=batch.sequences[:, :width],
        attention_mask=seen[:, :width].long(),
        position_ids=batch.position_ids[:, :width],
    )
    prefilled = [(layer.keys, layer.values) for layer in cache_of(output).layers]
    first, _ = witness(output.last_hidden_state[:, -1])
    decoder = Decoder(backbone, batch.sequences, seen, first, prefilled, witness, width)
    decoder.recording = False
    return decoder.run(STEPS - 1)[0]


def by_graphs(backbone: Backbone, device: torch.device) -> bool:
    """Whether to decode this way unless told otherwise: on a GPU, if the environment's PPO_LIB_CUDA_GRAPHS is not 0."""
    wanted = os.environ.get("PPO_LIB_CUDA_GRAPHS", "1") != "0"
    return device.type == "cuda" and wanted and supports_static_cache(backbone)


class Slots:
    """Keys and values of all layers in tensors of fixed size, ``(B, heads, columns, head_dim)`` each.

    It has the one method that a model calls on its cache.

    Args:
        prefilled: keys and values of the prompts, layer by layer, ``(B, heads, P, head_dim)`` each.
        columns: room for prompt and response.
    """

    def __init__(self, prefilled: list[tuple[Tensor, Tensor]], columns: int) -> None:
        width = prefilled[0][0].shape[2]
        self.layers = []
        for pair in prefilled:
            room = [x.new_zeros((*x.shape[:2], columns, x.shape[3])) for x in pair]
            for slot, x in zip(room, pair, strict=True):
                slot[:, :, :width] = x
            self.layers.append(room)
        self.column = torch.full((1,), width, device=prefilled[0][0].device)  # where the next token goes
        self.visible = columns

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Store one token's keys and values, and return those that attention may look at."""
        for slot, x in zip(self.layers[layer], (keys, values), strict=True):
            slot.index_copy_(2, self.column, x)
        k, v = (slot[:, :, : self.visible] for slot in self.layers[layer])
        return k, v

    def get_seq_length(self, layer: int = 0) -> int:
        """Asked by some models, and not used when positions are given."""
        return 0


class Decoder:
    """Everything that a decoding step reads and writes, and the step.

    Args:
        backbone: the model, with the adapter that samples switched on.
        sequences: ``(B, P + T)`` token ids, prompts on the left; responses are written into it.
        attention: ``(B, P + T)`` boolean, true from each prompt's first token on.
        first: ``(B,)``, the first token of each response.
        prefilled: keys and values of the prompts, layer by layer.
        pick: from hidden states ``(B, H)`` and the number of the token, a tensor ``(1,)``, to tokens and their
            log-probs, ``(B,)`` each.
        prompt_width: ``P``.
        logprobs: ``(B, T)``, into which log-probs are written, zero behind a response's end; ``None`` keeps none.
    """

    def __init__(
        self,
        backbone: Backbone,
        sequences: Tensor,
        attention: Tensor,
        first: Tensor,
        prefilled: list[tuple[Tensor, Tensor]],
        pick: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        prompt_width: int,
        logprobs: Tensor | None = None,
    ) -> None:
        self.backbone, self.pick, self.width = backbone, pick, prompt_width
        self.sequences, self.logprobs, device = sequences, logprobs, sequences.device
        self.eos = torch.tensor(backbone.eos_token_ids, device=device)
        columns = -(-sequences.shape[1] // ALIGNED) * ALIGNED
        self.slots = Slots(prefilled, columns)
        self.tokens = first.clone().unsqueeze(1)  # (B, 1), read in the next step
        self.positions = attention[:, :prompt_width].sum(dim=1, keepdim=True)  # (B, 1) of those tokens
        dtype = backbone.causal_lm.dtype  # of the mask (B, 1, 1, columns), which is added to the scores
        self.mask = torch.full((len(first), 1, 1, columns), torch.finfo(dtype).min, dtype=dtype, device=device)
        self.mask[:, 0, 0, :prompt_width].masked_fill_(attention[:, :prompt_width], 0.0)
        self.step_number = torch.ones(1, dtype=torch.long, device=device)  # token 0 is there already
        self.sequences[:, prompt_width] = first
        self.lengths = torch.ones_like(first)
        self.finished = self.ends(first)
        self.recording = sequences.is_cuda
        self.graph: torch.cuda.CUDAGraph | None = None  # the last that was recorded

    def ends(self, tokens: Tensor) -> Tensor:
        """``(B,)`` boolean: which tokens end a response."""
        return (tokens.unsqueeze(1) == self.eos).any(dim=1)

    def step(self) -> None:
        """Feed the last tokens, sample the next, and write them down for rows that have not ended."""
        slots = self.slots
        self.mask.index_fill_(3, slots.column, 0.0)
        hidden = read_on(
            self.backbone.body,
            slots,
            input_ids=self.tokens,
            attention_mask=self.mask[..., : slots.visible],
            position_ids=self.positions,
        ).last_hidden_state[:, -1]
        tokens, chosen = self.pick(hidden, self.step_number)
        if self.logprobs is not None:
            self.logprobs.index_copy_(1, self.step_number, chosen.masked_fill(self.finished, 0.0).unsqueeze(1))
        slots.column.add_(1)
        self.positions.add_(1)
        self.step_number.add_(1)
        before = self.sequences.index_select(1, slots.column).squeeze(1)
        self.sequences.index_copy_(1, slots.column, torch.where(self.finished, before, tokens).unsqueeze(1))
        self.lengths.add_(~self.finished)
        self.finished.logical_or_(self.ends(tokens))
        self.tokens.copy_(tokens.unsqueeze(1))

    def run(self, steps: int) -> tuple[TokenBatch, Tensor]:
        """Take up to ``steps`` more steps; the batch with its explicit lengths, and which rows have ended."""
        columns, replay, taken = self.mask.shape[-1], self.step, 0
        while taken < steps:
            if taken % LOOK == 0 and bool(self.finished.all()):
                break
            visible = min(columns, -(-(self.width + taken + 1) // BLOCK) * BLOCK)
            if visible != self.slots.visible or taken == 0:
                self.slots.visible = visible
                self.step()  # a graph may only be recorded after the kernels have run once
                taken += 1
                if self.recording and taken < steps:
                    replay = self.record()
                continue
            replay()
            taken += 1
        longest = int(self.lengths.max())
        prompt_lengths = (self.mask[:, 0, 0, : self.width] == 0).sum(dim=1)
        batch = TokenBatch(self.sequences[:, : self.width + longest], prompt_lengths, self.lengths, self.width)
        return batch, self.finished

    def record(self) -> Callable[[], None]:
        """The step as a CUDA graph; recording runs nothing.

        All graphs work in the memory of the first: only one runs at a time, and no step leaves anything there.

        Raises:
            ValueError: this model cannot be recorded; with the way around it.
        """
        memory = self.graph.pool() if self.graph else None
        # Other threads, such as one that watches the other processes, may ask the GPU something meanwhile.
        mode = "thread_local"
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.device(self.sequences.device), torch.cuda.graph(graph, memory, capture_error_mode=mode):
                self.step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # a failed recording leaves the GPU in no state to go on from
            raise BadInput(
                f"a decoding step of {self.backbone.name!r} could not be recorded as a CUDA graph "
                f"({str(error).splitlines()[0]}); set the environment variable PPO_LIB_CUDA_GRAPHS=0 and start again"
            ) from error
        self.graph = graph
        return graph.replay
