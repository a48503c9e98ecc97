"""One frozen backbone, four roles.

PPO for language models is usually drawn with four models: actor, critic, reference, reward model. They need not be
four copies. Here they share one frozen language model (:class:`ppo_lib.backbone.Backbone`):

* **reference**: the backbone with its adapters off;
* **actor**: the backbone with the LoRA adapter ``policy`` on;
* **critic**: a linear head on the actor's hidden states, one value before every response token;
* **reward model**: the backbone with its own LoRA adapter ``reward`` on, and a scalar head on the last token.

Only adapters and heads are ever trained in PPO; the backbone's weights do not move by a single bit.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ppo_lib.backbone import Backbone, base_name, load_tensors, resolve
from ppo_lib.rewards import last_token_index
from ppo_lib.tokens import TokenBatch, encode_pairs


class ActorCriticOutput(NamedTuple):
    """Logits ``(B, T, V)`` that score each response token, and values ``(B, T)`` before it."""

    logits: Tensor
    values: Tensor


class Evaluation(NamedTuple):
    """Per-token log-probs, values and entropies, each ``(B, T)``, zero in the padding."""

    logprobs: Tensor
    values: Tensor
    entropy: Tensor


class ActorCritic(nn.Module):
    """Actor, critic and reference on one backbone.

    Args:
        backbone: the SFT model; its plain weights are the reference.
        lora_rank: of the actor's adapter.
        seed: of the adapter's random half.
    """

    def __init__(self, backbone: Backbone, lora_rank: int = 8, seed: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        if "policy" not in backbone.adapters:
            backbone.add_adapter("policy", rank=lora_rank, seed=seed)
        self.value_head = _zero_head(backbone)

    def parameters_to_train(self) -> list[nn.Parameter]:
        """All that PPO moves: the actor's adapter and the value head."""
        return [*self.backbone.adapter_parameters("policy"), *self.value_head.parameters()]

    def _states(self, batch: TokenBatch, adapter: str | None) -> Tensor:
        """States before each response token, ``(B, T, H)``: the token at position t is scored at t - 1."""
        return self.backbone.hidden_states(batch, adapter)[:, batch.prompt_width - 1 : -1]

    def forward(self, batch: TokenBatch, temperature: float = 1.0) -> ActorCriticOutput:
        """One pass of the actor: logits at response positions only, and the critic's values."""
        states = self._states(batch, "policy")
        return ActorCriticOutput(self.backbone.logits(states) / temperature, self._values(states))

    def evaluate(self, batch: TokenBatch, temperature: float = 1.0, entropy_grad: bool = False) -> Evaluation:
        """One pass of the actor: log-probs of the sampled tokens, values and entropies.

        Equal to what :meth:`forward` gives, but the logits of the whole batch are never held at once.
        """
        states, mask = self._states(batch, "policy"), batch.mask
        logprobs, entropy = self.backbone.token_logprobs(states, batch.responses, mask, temperature, entropy_grad)
        return Evaluation(logprobs, self._values(states) * mask, entropy)

    @torch.no_grad()
    def reference_logprobs(self, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
        """Log-probs ``(B, T)`` of the same tokens under the reference: the backbone with its adapters off."""
        states = self._states(batch, None)
        return self.backbone.token_logprobs(states, batch.responses, batch.mask, temperature)[0]

    def _values(self, states: Tensor) -> Tensor:
        return self.value_head(states.to(self.value_head.weight.dtype)).squeeze(-1)

    def save_pretrained(self, folder: str | Path, merged: bool = False) -> None:
        """Write what others load: a PEFT adapter, the value head as safetensors, the tokenizer.

        With ``merged`` also ``folder/merged``, a model that plain transformers loads without PEFT.
        """
        folder = Path(folder)
        self.backbone.save_adapter("policy", folder)
        head = {k: v.detach().cpu() for k, v in self.value_head.state_dict().items()}
        save_file(head, folder / "value_head.safetensors")
        self.backbone.tokenizer.save_pretrained(str(folder))
        if merged:
            self.backbone.merged("policy").save_pretrained(str(folder / "merged"))
            self.backbone.tokenizer.save_pretrained(str(folder / "merged"))

    @classmethod
    def from_pretrained(cls, folder: str | Path, backbone: Backbone | None = None) -> "ActorCritic":
        """Load what :meth:`save_pretrained` wrote; the backbone is found by the name saved with the adapter.

        Raises:
            ValueError: no such folder, or it was made for another backbone.
        """
        if backbone is None:
            backbone = Backbone.from_pretrained(base_name(folder))
        backbone.load_adapter("policy", folder)
        model = cls(backbone)
        model.value_head.load_state_dict(load_tensors(Path(folder) / "value_head.safetensors"))
        return model


class RewardModel(nn.Module):
    """A scalar score for a whole response: own LoRA adapter, and a linear head on the last counted token.

    The raw score has no zero and no unit, since Bradley-Terry sees only differences. :meth:`calibrate` fixes both.

    Args:
        backbone: may be shared with an :class:`ActorCritic`, or be one of its own.
        lora_rank: of the adapter.
        seed: of the adapter's random half.
    """

    def __init__(self, backbone: Backbone, lora_rank: int = 8, seed: int = 0) -> None:
        super().__init__()
        self.backbone = backbone
        if "reward" not in backbone.adapters:
            backbone.add_adapter("reward", rank=lora_rank, seed=seed)
        self.head = _zero_head(backbone)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros((), device=backbone.device))
        self.register_buffer("std", torch.ones((), device=backbone.device))

    def parameters_to_train(self) -> list[nn.Parameter]:
        """The adapter and the head."""
        return [*self.backbone.adapter_parameters("reward"), *self.head.parameters()]

    def forward(self, batch: TokenBatch) -> Tensor:
        """Raw scores ``(B,)``, read at each response's last counted token (never at a pad token)."""
        hidden = self.backbone.hidden_states(batch, "reward")
        last = batch.prompt_width + last_token_index(batch.mask)
        states = hidden[torch.arange(len(batch), device=last.device), last]  # (B, H)
        return self.head(states.to(self.head.weight.dtype)).squeeze(-1)

    @torch.no_grad()
    def score_batch(self, batch: TokenBatch, microbatch: int = 64) -> Tensor:
        """Normalised scores ``(B,)``: ``(raw - mean) / std``."""
        rows = torch.arange(len(batch), device=batch.sequences.device).split(microbatch)
        raw = torch.cat([self(batch.select(r)) for r in rows])
        return (raw - self.mean) / self.std

    def scores(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Normalised scores of finished responses given as text."""
        batch = encode_pairs(
            self.backbone.tokenizer, prompts, responses, self.backbone.eos_token_ids[0], self.backbone.pad_token_id
        )
        return self.score_batch(batch.to(self.backbone.device)).tolist()

    def calibrate(self, prompts: Sequence[str], responses: Sequence[str]) -> None:
        """Fit mean and standard deviation on these responses: give samples of the SFT model, PPO's starting point.

        Raises:
            ValueError: fewer than two responses, or all scores equal.
        """
        self.mean.zero_()
        self.std.fill_(1.0)
        raw = torch.tensor(self.scores(prompts, responses), dtype=torch.float64)
        if len(raw) < 2 or float(raw.std()) == 0:
            raise ValueError(f"{len(raw)} responses with scores that do not differ cannot fix a scale; give more")
        self.mean.fill_(float(raw.mean()))
        self.std.fill_(float(raw.std()))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the adapter as a PEFT folder, and head and normalisation as safetensors."""
        self.backbone.save_adapter("reward", folder)
        tensors = {**{f"head.{k}": v for k, v in self.head.state_dict().items()}, "mean": self.mean, "std": self.std}
        save_file({k: v.detach().cpu() for k, v in tensors.items()}, Path(folder) / "reward_head.safetensors")

    @classmethod
    def from_pretrained(cls, folder: str | Path, backbone: Backbone | None = None) -> "RewardModel":
        """Load what :meth:`save_pretrained` wrote.

        Args:
            folder: where it lies, or ``"pocket"``.
            backbone: share this one; ``None`` loads the one that the adapter names.

        Raises:
            ValueError: no such folder, or it was made for another backbone.
        """
        folder = resolve("pocket:reward") if str(folder) == "pocket" else Path(folder)
        if backbone is None:
            backbone = Backbone.from_pretrained(base_name(folder))
        backbone.load_adapter("reward", folder)
        model = cls(backbone)
        tensors = load_tensors(Path(folder) / "reward_head.safetensors")
        model.head.load_state_dict({"weight": tensors["head.weight"], "bias": tensors["head.bias"]})
        model.mean.copy_(tensors["mean"])
        model.std.copy_(tensors["std"])
        return model


def _zero_head(backbone: Backbone) -> nn.Linear:
    """A linear head that says 0 until it has learned something."""
    head = nn.Linear(backbone.hidden_size, 1, device=backbone.device, dtype=backbone.head_dtype)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head
