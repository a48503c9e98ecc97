"""The language model that everything else stands on: its hidden states, its log-probs, its LoRA adapters.

Whichever adapter is switched on decides the role that the one set of weights plays; see
:mod:`ppo_lib.models.actor_critic`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ppo_lib.errors import BadInput
from ppo_lib.models import adapters
from ppo_lib.models.caches import cache_of, read_on
from ppo_lib.models.linear import quicken
from ppo_lib.models.loading import context_length, eos_token_ids, load_causal_lm, usable_pad
from ppo_lib.models.lora import merged, quicken_adapters
from ppo_lib.models.norms import quicken_norms
from ppo_lib.models.prefix import WORTH, Prefix, causal_mask, sees_everything, states_after_prefix
from ppo_lib.models.recomputing import recomputed
from ppo_lib.models.registry import exact_model
from ppo_lib.models.rotation import quicken_rotation
from ppo_lib.models.scoring import Scored, plain_head
from ppo_lib.models.tokens import (
    TokenBatch,
    check_chat_template,
    closing_token,
    decode_responses,
    encode_prompts,
    pad_pairs,
    pair_ids,
)
from ppo_lib.models.world import ALONE, World

# The language-model head turns H numbers per token into V. It runs over slices of this many logits, which are
# recomputed in the backward pass, so that no (B, T, V) tensor is ever held: 2^26 float32 logits are 256 MiB.
MAX_LOGITS = 2**26


class Backbone(nn.Module):
    """A causal language model with frozen weights and named LoRA adapters.

    Args:
        causal_lm: any ``AutoModelForCausalLM``.
        tokenizer: its tokenizer.
        name: where it came from; saved with adapters, so that they find their base again.
        chat_template: put every prompt into the tokenizer's chat template.
        world: the processes that hold the model together, a part each; by default it is whole here.

    Attributes:
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them; off at first.
        fused_blocks: whether norms and rotary embeddings take few kernels (:meth:`fuse_blocks`); on a GPU at first.
        share_prefix: read what all prompts of a batch begin with once instead of in every row; on at first.
        fused_lora: adapters that are added compute in few products (:mod:`ppo_lib.models.lora`); on at first.
        merge_adapter: sample with the adapter added to a copy of the weights (:func:`ppo_lib.models.lora.merged`);
            ``None``, as at first, does so on a GPU, where a decoding step is bound by the number of its kernels.

    Raises:
        ValueError: no chat template where one is wanted, no EOS token, a model whose logits are not its output
            embedding applied to its hidden states, or one that cannot do with padding on the left.
    """

    def __init__(
        self,
        causal_lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        chat_template: bool = False,
        world: World = ALONE,
    ) -> None:
        super().__init__()
        if chat_template:
            check_chat_template(tokenizer)
        self.chat_template, self.world = chat_template, world if world.sharded else ALONE
        self.causal_lm, self.tokenizer, self.name = causal_lm, tokenizer, name
        self.eos_token_ids = eos_token_ids(causal_lm, tokenizer)
        if chat_template and (end := closing_token(tokenizer, self.eos_token_ids, chat=True)) < self.vocab_size:
            self.eos_token_ids = list(dict.fromkeys([end, *self.eos_token_ids]))  # it ends an answer, whoever lists it
        self.pad_token_id = usable_pad(tokenizer, self.vocab_size, self.eos_token_ids[0])
        self.requires_grad_(False)
        self.eval()
        quicken(causal_lm)
        self.fused_blocks = False
        if self.device.type == "cuda" and not self.world.sharded:
            self.fuse_blocks()
        self._adapter: str | None = None
        self.gradient_checkpointing, self.share_prefix, self.fused_lora = False, True, True
        self.merge_adapter: bool | None = None
        self.takes_masks = True  # of four dimensions; found out otherwise by the check
        check_forward(self)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str = "cpu",
        dtype: str = "float32",
        chat_template: bool = False,
        world: World = ALONE,
    ) -> "Backbone":
        """Load a model and its tokenizer onto a device; arguments and errors as :func:`load_causal_lm`.

        The processes of a sharded world hold it together, a part each.
        """
        path = exact_model(str(path))
        causal_lm, tokenizer = load_causal_lm(path, dtype)
        world.place(causal_lm, device)
        return cls(causal_lm, tokenizer, path, chat_template, world)

    def copy(self) -> "Backbone":
        """Another backbone with the same weights and no adapter, on the same device."""
        causal_lm = self.merged(None)
        self.world.place(causal_lm, str(self.device))
        copy = Backbone(causal_lm, self.tokenizer, self.name, self.chat_template, self.world)
        copy.gradient_checkpointing = self.gradient_checkpointing
        copy.share_prefix = self.share_prefix
        copy.fused_lora = self.fused_lora
        copy.merge_adapter = self.merge_adapter
        copy.fuse_blocks(self.fused_blocks)
        return copy

    def fuse_blocks(self, wanted: bool = True) -> None:
        """Let the small steps of each block take few kernels, or be transformers' own again.

        The norms (:mod:`ppo_lib.models.norms`) and the rotary embedding (:mod:`ppo_lib.models.rotation`), where they
        are of the usual kind. On a GPU it is done at the start; on a CPU there is little to win.
        """
        quicken_norms(self.causal_lm, wanted)
        quicken_rotation(self.causal_lm, wanted)
        self.fused_blocks = wanted

    def load_weights(self, folder: str | Path) -> None:
        """Take over the weights of a model of the same architecture.

        Raises:
            ValueError: no model there, or another architecture.
        """
        causal_lm, _ = load_causal_lm(folder, dtype=str(self.causal_lm.dtype).removeprefix("torch."))
        old, new = self.causal_lm.state_dict(), causal_lm.state_dict()
        if {key: tensor.shape for key, tensor in old.items()} != {key: tensor.shape for key, tensor in new.items()}:
            raise BadInput(f"the model in {str(folder)!r} was made for another model than {self.name!r}")
        self.causal_lm.load_state_dict(new)

    def scalar_head(self) -> nn.Linear:
        """A new linear head on the hidden states, ``(..., H)`` to ``(..., 1)``; it says 0 until it has learned."""
        head = nn.Linear(self.hidden_size, 1, device=self.device, dtype=self.head_dtype)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return head

    @property
    def device(self) -> torch.device:
        return self.causal_lm.device

    @property
    def head_dtype(self) -> torch.dtype:
        """Precision of heads and log-probs: at least float32, whatever the backbone's weights are."""
        return torch.float64 if self.causal_lm.dtype == torch.float64 else torch.float32

    @property
    def hidden_size(self) -> int:
        return int(self.causal_lm.get_input_embeddings().weight.shape[-1])  # type: ignore[index]

    @property
    def vocab_size(self) -> int:
        """How many tokens the model can read."""
        return int(self.causal_lm.get_input_embeddings().weight.shape[0])  # type: ignore[index]

    @property
    def context_length(self) -> int | None:
        """The most tokens that prompt and response may have together, or None where the model sets no limit."""
        return context_length(self.causal_lm.config)

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode: with dropout on, the ratio is not 1 even before the first update."""
        return super().train(False)

    def encode_prompts(self, prompts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
        """Token ids of prompts as this model reads them; see :func:`ppo_lib.models.tokens.encode_prompts`."""
        return self.known_tokens(encode_prompts(self.tokenizer, prompts, max_length, self.chat_template), prompts)

    def known_tokens(self, rows: list[list[int]], texts: Sequence[str]) -> list[list[int]]:
        """The token ids, all of which the model has an embedding for.

        Raises:
            BadInput: the tokenizer makes one that the model does not know, such as a chat token that was added to it.
        """
        for ids, text in zip(rows, texts, strict=True):
            if max(ids, default=0) >= self.vocab_size:
                token = max(ids)
                raise BadInput(
                    f"the text {text[:40]!r} has the token {token} ({self.tokenizer.convert_ids_to_tokens(token)!r}), "
                    f"but model {self.name!r} knows {self.vocab_size} tokens; take that token out of the texts, or add "
                    "it to the model (resize_token_embeddings) and save it again"
                )
        return rows

    def pair_ids(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        max_length: int | None = None,
        chat: bool | None = None,
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of prompts and of finished responses; see :func:`ppo_lib.models.tokens.pair_ids`.

        ``chat`` puts prompts into the chat template or not, whatever the backbone does by itself.
        """
        chat = self.chat_template if chat is None else chat
        end = closing_token(self.tokenizer, self.eos_token_ids, chat)
        asked, answers = pair_ids(self.tokenizer, prompts, responses, end, max_length, chat)
        return self.known_tokens(asked, prompts), self.known_tokens(answers, responses)

    def encode_pairs(
        self, prompts: Sequence[str], responses: Sequence[str], max_length: int | None = None
    ) -> TokenBatch:
        """A batch of finished prompt-response pairs on the model's device; errors as :meth:`pair_ids`."""
        return pad_pairs(*self.pair_ids(prompts, responses, max_length), self.pad_token_id).to(self.device)

    def response_texts(self, batch: TokenBatch) -> list[str]:
        """The text of each response, without what ended it; see :func:`ppo_lib.models.tokens.decode_responses`."""
        return decode_responses(self.tokenizer, batch, self.eos_token_ids)

    # ------------------------------------------------------------------------------------------------------ adapters

    @property
    def adapters(self) -> list[str]:
        return adapters.adapter_names(self.causal_lm)

    def add_adapter(
        self, name: str, rank: int = 8, alpha: int | None = None, seed: int = 0, reuse: bool = False
    ) -> None:
        """Add a LoRA adapter on every linear layer but the output head; at first it changes nothing.

        Args:
            name: ``"policy"``, ``"critic"`` or ``"reward"`` in this library.
            rank: LoRA rank.
            alpha: LoRA scale times rank; ``2 * rank`` by default.
            seed: of the adapter's random half.
            reuse: keep an adapter of that name as it is, if there is one, whatever its rank.

        Raises:
            ValueError: the name is taken, or rank is below 1.
        """
        if name in self.adapters:
            if reuse:
                return
            there: Any = self.causal_lm.peft_config[name]
            raise ValueError(
                f"adapter {name!r} of rank {there.r} is already there; load the backbone anew for another one, or go "
                "on with this one by reuse=True"
            )
        alpha = 2 * rank if alpha is None else alpha
        adapters.add_adapter(self.causal_lm, name, self.name, rank, alpha, seed)
        quicken_adapters(self.causal_lm, self.fused_lora)
        self._use(None)

    def adapter_parameters(self, name: str) -> list[nn.Parameter]:
        """The trainable tensors of one adapter."""
        return adapters.adapter_parameters(self.causal_lm, name)

    @contextmanager
    def adapter(self, name: str | None) -> Iterator[None]:
        """Play a role: with one adapter on, or with ``None`` as the plain backbone, which is the reference."""
        if name is not None and name not in self.adapters:
            raise ValueError(f"there is no adapter {name!r} here; the backbone has {self.adapters or 'none'}")
        before = self._adapter
        if name != before:
            self._use(name)
        try:
            yield
        finally:
            if name != before:
                self._use(before)

    @property
    def merges(self) -> bool:
        """Whether adapters are merged into a copy of the weights for sampling; those of a sharded model never are."""
        wanted = self.device.type == "cuda" if self.merge_adapter is None else self.merge_adapter
        return wanted and self.fused_lora and not self.world.sharded

    @contextmanager
    def sampling(self, name: str | None) -> Iterator[None]:
        """Play a role while tokens are sampled and nothing is learned; see :func:`ppo_lib.models.lora.merged`."""
        with self.adapter(name), merged(self.causal_lm, name) if name and self.merges else nullcontext():
            yield

    @property
    def acting(self) -> str | None:
        """The adapter that is on."""
        return self._adapter

    def _use(self, name: str | None) -> None:
        adapters.switch_adapter(self.causal_lm, name)
        self._adapter = name

    def save_adapter(self, name: str, folder: str | Path) -> None:
        """Write one adapter as a PEFT folder: ``PeftModel.from_pretrained(base, folder)`` loads it."""
        adapters.write_adapter(self.causal_lm, name, self.name, folder, self.world)

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """Add an adapter and read its weights from a PEFT folder.

        Raises:
            BadInput: no adapter there, or one that was made for another architecture or other weights.
        """
        adapters.read_adapter(self.causal_lm, name, self.name, folder, self.world)
        quicken_adapters(self.causal_lm, self.fused_lora)
        self._use(None)

    def merged(self, adapter: str | None) -> PreTrainedModel:
        """A plain transformers model in which the adapter has been added to the weights (a new copy)."""
        return adapters.merged_model(self.causal_lm, adapter, self.world)

    # --------------------------------------------------------------------------------------- hidden states, log-probs

    @property
    def body(self) -> nn.Module:
        """The model below its output head."""
        return self.causal_lm.base_model

    def hidden_states(self, batch: TokenBatch, adapter: str | None = None) -> Tensor:
        """Last hidden states ``(B, P + T, H)`` of a batch, in the given role.

        With ``gradient_checkpointing`` set, a gradient costs one more forward pass and keeps little more than one
        block's activations at a time. A beginning that all prompts share is read once
        (:mod:`ppo_lib.models.prefix`); its columns are zero, since no response is scored there.
        """
        again = self.gradient_checkpointing and torch.is_grad_enabled()
        shared = 0 if again else self.worth_sharing(len(batch), batch.shared)
        with (
            self.adapter(adapter),
            recomputed(self.causal_lm, adapter, lambda: self.acting) if again else nullcontext(),
        ):
            if shared:
                states = states_after_prefix(self.body, batch, shared, Prefix(), self.causal_lm.dtype)
                return nn.functional.pad(states, (0, 0, shared, 0))
            real = batch.attention_mask
            if self.sees_everything:  # the whole mask, once for all layers: of any other transformers asks the device
                real = causal_mask(real.bool(), 0, self.causal_lm.dtype)
            return self.body(
                input_ids=batch.sequences,
                attention_mask=real,
                position_ids=batch.position_ids,
                use_cache=False,
            ).last_hidden_state

    @property
    def sees_everything(self) -> bool:
        """Whether every layer attends to all that came before; see :func:`ppo_lib.models.prefix.sees_everything`."""
        return self.takes_masks and sees_everything(self.causal_lm.config)

    def worth_sharing(self, rows: int, shared: int) -> int:
        """How many of so many shared first tokens to read once: all of them, or none."""
        able = self.share_prefix and self.sees_everything and not self.world.sharded
        return shared if able and rows > 1 and shared >= WORTH else 0

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits ``(..., V)`` of hidden states ``(..., H)``, in at least float32."""
        logits = self.causal_lm.get_output_embeddings()(hidden)
        logits = logits.to(self.head_dtype)
        cap = getattr(self.causal_lm.config.get_text_config(), "final_logit_softcapping", None)  # Gemma 2
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def token_logprobs(
        self,
        hidden: Tensor,
        tokens: Tensor,
        mask: Tensor,
        temperature: float = 1.0,
        entropy_grad: bool = False,
        entropy: bool = True,
        count: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Log-prob of each token and entropy of each distribution, without holding ``(B, T, V)`` logits.

        Args:
            hidden: ``(B, T, H)``, the state before each token.
            tokens: ``(B, T)``.
            mask: ``(B, T)``; padding is not computed at all.
            temperature: the one that was sampled with; log-probs are those of the sampled distribution.
            entropy_grad: whether the entropy carries a gradient.
            entropy: whether it is computed at all; otherwise it is 0.
            count: how many tokens the mask counts, where that is known; else the device is asked.

        Returns:
            log-probs and entropies, ``(B, T)`` each, zero in the padding.
        """
        keep = mask.bool()
        places = keep.nonzero() if count is None else keep.nonzero_static(size=count)
        counted = tuple(places.unbind(dim=1))  # rows and columns of the counted tokens
        slices = hidden[counted].split(max(1, MAX_LOGITS // self.causal_lm.config.get_text_config().vocab_size))

        def score(states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
            if not entropy_grad and plain_head(self.causal_lm, self.head_dtype):
                return Scored.apply(states, self.causal_lm.get_output_embeddings().weight, ids, temperature, entropy)
            logits = self.logits(states)
            logp = torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)
            spread = logp if entropy_grad else logp.detach()
            chosen = logp.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
            return chosen, -(spread.exp() * spread).sum(-1) if entropy else torch.zeros_like(chosen)

        recompute = torch.is_grad_enabled() and len(slices) > 1
        parts = []
        for states, ids in zip(slices, tokens[counted].split(len(slices[0])), strict=True):
            parts.append(checkpoint(score, states, ids, use_reentrant=False) if recompute else score(states, ids))
        flat = [torch.cat(column) for column in zip(*parts, strict=True)]
        logprobs, spread = (x.new_zeros(keep.shape).index_put(counted, x) for x in flat)
        return logprobs, spread


@torch.no_grad()
def check_forward(backbone: "Backbone") -> None:
    """Refuse a model whose log-probs would be wrong.

    Raises:
        BadInput: it does not read batches as they are given here, its weights give no numbers, its logits are not its
            output head applied to its hidden states, change when a prompt is padded on the left, or depend on tokens
            that come later.
    """
    model, device = backbone.causal_lm, backbone.device
    which = f"model {backbone.name!r} ({model.config.model_type}, {str(model.dtype).removeprefix('torch.')})"
    end = backbone.eos_token_ids[0]
    prompt, longer = [end, 0], [1, 0, 1, 0]
    batch = pad_pairs([prompt, longer, prompt], [[1, 0], [1, 0], [1, 1]], backbone.pad_token_id).to(device)
    ids = torch.tensor([[*prompt, 1, 0]], device=device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    try:
        own = model(**inputs).logits.float()
        head = backbone.logits(backbone.body(**inputs).last_hidden_state)
        backbone.takes_masks = takes_masks(backbone, batch, head)
        padded = backbone.logits(backbone.hidden_states(batch))[:, -ids.shape[1] :]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the model's own code; whatever it raises, this model is none for us
        why = " ".join(str(error).split())[:200]
        raise BadInput(
            f"{which} does not read batches as ppo_lib gives them ({type(error).__name__}: {why}); take another model"
        ) from error
    if not bool(torch.isfinite(own).all()):
        raise BadInput(f"{which} gives logits that are NaN or infinite; its weights are damaged, or need another dtype")
    scale, exact = float(own.abs().max()), model.dtype in (torch.float32, torch.float64)
    if not float((head - own).abs().max()) <= 1e-2 * scale:  # the same numbers, in a precision of their own
        raise BadInput(
            f"{which} changes its logits after the output head in a way that ppo_lib does not know; its log-probs "
            "would be wrong"
        )
    near = (1e-3 if exact else 0.2) * scale
    if not float((padded[:1] - own).abs().max()) <= near:
        if model.dtype == torch.float64 and bool(padded[:1].isnan().any()):  # of float64's mask float32 makes infinity
            raise BadInput(
                f"{which} gives NaN where a prompt is padded: its attention "
                f"({model.config._attn_implementation}) takes the softmax of float64 in float32, where the mask "
                "overflows; load it with attn_implementation='sdpa', or in float32"
            )
        raise BadInput(
            f"{which} gives other logits when a prompt is padded on the left; its log-probs would depend on the batch"
        )
    if not float((padded[2, :-1] - own[0, :-1]).abs().max()) <= near:
        raise BadInput(
            f"{which} reads tokens that come later, so it is no causal language model; set is_decoder in its "
            "configuration if it was trained as one, or take another model"
        )
    try:
        cached = logits_out_of_the_cache(backbone, batch)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise BadInput(
            f"{which} keeps no keys and values that ppo_lib could sample with ({type(error).__name__}: {why}); take a "
            "model of attention layers"
        ) from error
    if not float((cached - padded[:, -cached.shape[1] :]).abs().max()) <= near:
        raise BadInput(
            f"{which} samples from its cache what it does not score; the log-probs of PPO would be those of another "
            "distribution, so take another model"
        )


def takes_masks(backbone: "Backbone", batch: TokenBatch, wanted: Tensor) -> bool:
    """Whether attention takes a mask of four dimensions as it is; some makes more of one of two, as of ALiBi.

    Args:
        backbone: the model.
        batch: a few rows, of which the first is padded on the left.
        wanted: ``(1, S, V)``, the logits of that row, unpadded.
    """
    if not backbone.sees_everything:
        return False
    try:
        seen = backbone.logits(backbone.hidden_states(batch))[:1, -wanted.shape[1] :]
    except torch.OutOfMemoryError:
        raise
    except Exception:  # the model's own code
        return False
    exact = backbone.causal_lm.dtype in (torch.float32, torch.float64)
    return bool((seen - wanted).abs().max() <= (1e-3 if exact else 0.2) * wanted.abs().max())


def logits_out_of_the_cache(backbone: "Backbone", batch: TokenBatch) -> Tensor:
    """Logits ``(B, T + 1, V)`` as a sampler sees them: of the prompts' last tokens, then token by token."""
    mask, cache, start, seen = batch.attention_mask, None, 0, []
    for end in range(batch.prompt_width, batch.sequences.shape[1] + 1):
        output = read_on(
            backbone.body,
            cache,
            input_ids=batch.sequences[:, start:end],
            attention_mask=mask[:, :end],
            position_ids=batch.position_ids[:, start:end],
        )
        cache, start = cache_of(output), end
        if cache is None:
            raise ValueError("it returns no keys and values")
        seen.append(backbone.logits(output.last_hidden_state[:, -1]))
    return torch.stack(seen, dim=1)
