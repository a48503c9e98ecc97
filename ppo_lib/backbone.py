"""The frozen language model that everything else stands on, with named LoRA adapters.

Whichever adapter is switched on decides the role that the one set of weights plays; see :mod:`ppo_lib.models`.
"""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ppo_lib.tokens import TokenBatch, pad_pairs

# The language-model head turns H numbers per token into V. It runs over slices of this many logits, which are
# recomputed in the backward pass, so that no (B, T, V) tensor is ever held: 2^26 float32 logits are 256 MiB.
MAX_LOGITS = 2**26
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


class Backbone(nn.Module):
    """A causal language model with frozen weights and named LoRA adapters.

    Args:
        causal_lm: any ``AutoModelForCausalLM``.
        tokenizer: its tokenizer.
        name: where it came from; saved with adapters, so that they find their base again.

    Raises:
        ValueError: no EOS token, a model whose logits are not its output embedding applied to its hidden states, or
            one that cannot do with padding on the left.
    """

    def __init__(self, causal_lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        super().__init__()
        self.causal_lm, self.tokenizer, self.name = causal_lm, tokenizer, name
        self.eos_token_ids = _eos_token_ids(causal_lm, tokenizer)
        self.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_token_ids[0]
        self.requires_grad_(False)
        self.eval()
        self._adapter: str | None = None
        self._check_forward()

    @classmethod
    def from_pretrained(
        cls, path: str | Path, revision: str | None = None, device: str = "cpu", dtype: str = "float32"
    ) -> "Backbone":
        """Load a model and its tokenizer.

        Args:
            path: a folder in hub format, a hub id, or ``"pocket:base"`` / ``"pocket:sft"``.
            revision: the hub commit to load; pin it.
            device: where to put it.
            dtype: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"float64"``.

        Raises:
            ValueError: what cannot work, with the reason: no such model, not a causal language model, no safetensors.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}, but must be one of {', '.join(DTYPES)}")
        name, where = str(path), resolve(path)
        transformers_logging.disable_progress_bar()  # a bar per weight is noise in a notebook; downloads keep theirs
        try:
            config = AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False)
            if config.is_encoder_decoder or type(config) not in AutoModelForCausalLM._model_mapping:
                raise ValueError(f"it is a {config.model_type!r} model, which is not a causal language model")
            load: Any = AutoModelForCausalLM.from_pretrained  # its annotations forget the report
            causal_lm, report = load(
                where,
                revision=revision,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            if report["missing_keys"]:  # transformers would go on with random numbers in their place
                raise ValueError(f"its weights lack {', '.join(sorted(report['missing_keys'])[:3])}")
            tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"model {name!r} cannot be loaded: {reason} (offline, use a local folder in hub format or 'pocket:sft')"
            ) from error
        causal_lm.to(torch.device(device))
        return cls(causal_lm, tokenizer, name)

    @property
    def device(self) -> torch.device:
        return self.causal_lm.device

    @property
    def head_dtype(self) -> torch.dtype:
        """Precision of adapters, heads and log-probs: at least float32, whatever the backbone's weights are."""
        return torch.float64 if self.causal_lm.dtype == torch.float64 else torch.float32

    @property
    def hidden_size(self) -> int:
        return int(self.causal_lm.get_input_embeddings().weight.shape[-1])  # type: ignore[index]

    @property
    def context_length(self) -> int | None:
        """The most tokens that prompt and response may have together, or None where the model sets no limit."""
        return getattr(self.causal_lm.config.get_text_config(), "max_position_embeddings", None)

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in evaluation mode: with dropout on, the ratio is not 1 even before the first update."""
        return super().train(False)

    def add_adapter(self, name: str, rank: int = 8, alpha: int | None = None, seed: int = 0) -> None:
        """Add a LoRA adapter on every linear layer but the output head; at first it changes nothing.

        Args:
            name: ``"policy"`` or ``"reward"`` in this library.
            rank: LoRA rank.
            alpha: LoRA scale times rank; ``2 * rank`` by default.
            seed: of the adapter's random half.

        Raises:
            ValueError: the name is taken, or rank is below 1.
        """
        if rank < 1:
            raise ValueError(f"lora_rank is {rank}, but must be 1 or more")
        if name in self.adapters:
            raise ValueError(f"adapter {name!r} is already there; load the backbone anew for another one")
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank if alpha is None else alpha,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            base_model_name_or_path=self.name,
        )
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # two adapters are meant
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")  # PEFT sets it for GPT-2
            torch.manual_seed(seed)
            self.causal_lm.add_adapter(config, adapter_name=name)
        for parameter in self.adapter_parameters(name):
            parameter.data = parameter.data.to(self.head_dtype)  # a bf16 adapter would lose small updates
        self._use(None)

    @property
    def adapters(self) -> list[str]:
        return list(getattr(self.causal_lm, "peft_config", {}))

    def adapter_parameters(self, name: str) -> list[nn.Parameter]:
        """The trainable tensors of one adapter."""
        return [p for key, p in self.causal_lm.named_parameters() if f".{name}." in key and "lora_" in key]

    def _use(self, name: str | None) -> None:
        layers = [m for m in self.causal_lm.modules() if isinstance(m, BaseTunerLayer)]
        for layer in layers:
            layer.enable_adapters(name is not None)
            if name is not None:
                layer.set_adapter(name)
        for adapter in self.adapters:  # PEFT freezes what it switches off; a graph built before would lose its gradient
            for parameter in self.adapter_parameters(adapter):
                parameter.requires_grad_(True)
        self._adapter = name

    @contextmanager
    def adapter(self, name: str | None) -> Iterator[None]:
        """Play a role: ``"policy"``, ``"reward"``, or ``None`` for the plain backbone, which is the reference."""
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

    def hidden_states(self, batch: TokenBatch, adapter: str | None = None) -> Tensor:
        """Last hidden states ``(B, P + T, H)`` of a batch, in the given role."""
        with self.adapter(adapter):
            return self.body(
                input_ids=batch.sequences,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                use_cache=False,
            ).last_hidden_state

    @property
    def body(self) -> nn.Module:
        """The model below its output head."""
        return self.causal_lm.base_model

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits ``(..., V)`` of hidden states ``(..., H)``, in at least float32."""
        logits = self.causal_lm.get_output_embeddings()(hidden)
        logits = logits.to(self.head_dtype)
        cap = getattr(self.causal_lm.config.get_text_config(), "final_logit_softcapping", None)  # Gemma 2
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def token_logprobs(
        self, hidden: Tensor, tokens: Tensor, mask: Tensor, temperature: float = 1.0, entropy_grad: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Log-prob of each token and entropy of each distribution, without holding ``(B, T, V)`` logits.

        Args:
            hidden: ``(B, T, H)``, the state before each token.
            tokens: ``(B, T)``.
            mask: ``(B, T)``; padding is not computed at all.
            temperature: the one that was sampled with; log-probs are those of the sampled distribution.
            entropy_grad: whether the entropy carries a gradient.

        Returns:
            log-probs and entropies, ``(B, T)`` each, zero in the padding.
        """
        keep = mask.bool()
        slices = hidden[keep].split(max(1, MAX_LOGITS // self.causal_lm.config.get_text_config().vocab_size))

        def score(states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
            logp = torch.log_softmax(self.logits(states) / temperature, dim=-1)
            spread = logp if entropy_grad else logp.detach()
            return logp.gather(-1, ids.unsqueeze(-1)).squeeze(-1), -(spread.exp() * spread).sum(-1)

        recompute = torch.is_grad_enabled() and len(slices) > 1
        parts = []
        for states, ids in zip(slices, tokens[keep].split(len(slices[0])), strict=True):
            parts.append(checkpoint(score, states, ids, use_reentrant=False) if recompute else score(states, ids))
        flat = [torch.cat(column) for column in zip(*parts, strict=True)]
        logprobs, entropy = (x.new_zeros(keep.shape).masked_scatter(keep, x) for x in flat)
        return logprobs, entropy

    def save_adapter(self, name: str, folder: str | Path) -> None:
        """Write one adapter as a PEFT folder: ``PeftModel.from_pretrained(base, folder)`` loads it."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        state = get_peft_model_state_dict(self.causal_lm, adapter_name=name)
        tensors = {f"base_model.model.{key}": t.detach().cpu().contiguous() for key, t in state.items()}
        save_file(tensors, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})
        config = self.causal_lm.peft_config[name]
        config.base_model_name_or_path = self.name  # transformers has put its own idea of the name there
        config.save_pretrained(str(folder))

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """Add an adapter and read its weights from a PEFT folder.

        Raises:
            ValueError: no adapter there, or one that was made for another architecture.
        """
        config = _read_json(Path(folder) / "adapter_config.json", "a PEFT adapter folder")
        if config.get("use_rslora") or config.get("use_dora") or config.get("alpha_pattern"):
            raise ValueError(
                f"the adapter in {str(folder)!r} scales in a way of its own; only plain LoRA is known here"
            )
        saved = load_tensors(Path(folder) / "adapter_model.safetensors")
        tensors = {key.removeprefix("base_model.model."): tensor for key, tensor in saved.items()}
        self.add_adapter(name, rank=config["r"], alpha=config["lora_alpha"])
        wanted = {k: v.shape for k, v in get_peft_model_state_dict(self.causal_lm, adapter_name=name).items()}
        if wanted != {k: v.shape for k, v in tensors.items()}:
            self.causal_lm.delete_adapter(name)
            raise ValueError(f"the adapter in {str(folder)!r} was made for another model than {self.name!r}")
        set_peft_model_state_dict(self.causal_lm, tensors, adapter_name=name)

    def merged(self, adapter: str) -> PreTrainedModel:
        """A plain transformers model in which the adapter has been added to the weights (a new copy)."""
        model = AutoModelForCausalLM.from_config(self.causal_lm.config, dtype=self.causal_lm.dtype)
        state = {}
        lora: dict[str, Any] = {key: m for key, m in self.causal_lm.named_modules() if isinstance(m, BaseTunerLayer)}
        for key, tensor in self.causal_lm.state_dict().items():
            if "lora_" in key:
                continue
            module = key.partition(".base_layer.")[0]
            if ".base_layer.weight" in key and module in lora:
                tensor = tensor + lora[module].get_delta_weight(adapter).to(tensor.dtype)
            state[key.replace(".base_layer.", ".")] = tensor.cpu()
        model.load_state_dict(state)
        model.generation_config = self.causal_lm.generation_config
        return model

    @torch.no_grad()
    def _check_forward(self) -> None:
        """See on a few tokens that the model can be read the way this class reads it, before a run is spent on it."""
        prompt, longer = [self.eos_token_ids[0], 0], [1, 0, 1, 0]
        ids = torch.tensor([[*prompt, 1]], device=self.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        own = self.causal_lm(**inputs).logits.float()
        scale = float(own.abs().max())
        head = self.logits(self.body(**inputs).last_hidden_state)
        if not float((head - own).abs().max()) <= 1e-2 * scale:  # the same numbers, in a precision of their own
            raise ValueError(
                f"model {self.name!r} ({self.causal_lm.config.model_type}) changes its logits after the output head "
                "in a way that ppo_lib does not know; its log-probs would be wrong"
            )
        batch = pad_pairs([prompt, longer], [[1], [1]], self.pad_token_id).to(self.device)
        padded = self.logits(self.hidden_states(batch))[:1, -ids.shape[1] :]
        exact = self.causal_lm.dtype in (torch.float32, torch.float64)
        if not float((padded - own).abs().max()) <= (1e-3 if exact else 0.2) * scale:
            raise ValueError(
                f"model {self.name!r} ({self.causal_lm.config.model_type}, {self.causal_lm.dtype}) gives other logits "
                "when a prompt is padded on the left; its log-probs would depend on the batch"
            )


def _eos_token_ids(causal_lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends a response: a model may have several (a chat model's end of turn, say)."""
    ids = getattr(causal_lm.generation_config, "eos_token_id", None)
    if ids is None:
        ids = tokenizer.eos_token_id
    if ids is None:
        raise ValueError("the model has no EOS token, so no response could ever end; set tokenizer.eos_token")
    ids = [ids] if isinstance(ids, int) else list(ids)
    if tokenizer.eos_token_id in ids:  # the tokenizer's own EOS first: it is the one that is appended
        ids.insert(0, ids.pop(ids.index(tokenizer.eos_token_id)))
    return ids


def resolve(path: str | Path) -> Path | str:
    """The folder of an embedded pocket model; anything else is returned as it came."""
    name = str(path)
    if not name.startswith("pocket:"):
        return path
    folder = Path(str(resources.files("ppo_lib"))) / "pocket" / "weights" / name.removeprefix("pocket:")
    if not folder.is_dir():
        raise ValueError(f"{name!r} is not an embedded model; there are pocket:base and pocket:sft")
    return folder


def _read_json(path: Path, what: str) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{str(path.parent)!r} is not {what}: it has no {path.name}")
    return json.loads(path.read_text())


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}; was the folder saved to the end?") from error


def base_name(folder: str | Path) -> str:
    return _read_json(Path(folder) / "adapter_config.json", "a PEFT adapter folder")["base_model_name_or_path"]
