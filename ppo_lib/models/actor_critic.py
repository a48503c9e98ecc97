"""The four models of PPO on one frozen backbone, or on as many as you like to pay for.

PPO for language models is usually drawn with four models: actor, critic, reference, reward model. They need not be
four copies. By default they share one frozen language model (:class:`ppo_lib.models.backbone.Backbone`):

* **reference**: the backbone with its adapters off;
* **actor**: the backbone with the LoRA adapter ``policy`` on;
* **critic**: a linear head on the actor's hidden states, one value before every response token;
* **reward model**: the backbone with its own LoRA adapter ``reward`` on, and a scalar head on the last token.

Then only adapters and heads are trained, and the backbone's weights do not move by a single bit. Two keys ask for more:

============  ====================================  ================================================
``finetune``  ``critic: shared``                    ``critic: separate``
============  ====================================  ================================================
``lora``      1 set of weights; as above            1 set of weights; the critic has an adapter too
``full``      2: the reference, the trained actor   3: the reference, the actor, the critic
============  ====================================  ================================================

Full and separate is the layout of InstructGPT (Ouyang et al., 2022). The reward model stands on the frozen backbone in
every layout, so that nothing PPO does can move it.
"""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ppo_lib.errors import BadInput
from ppo_lib.models.adapter_folders import base_name
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.files import load_head
from ppo_lib.models.tokens import TokenBatch

FINETUNE, CRITIC = ("lora", "full"), ("shared", "separate")
CRITIC_SEED = 1_000_003  # added to the seed, so that actor and critic do not begin with the same random half


class ActorCriticOutput(NamedTuple):
    """Logits ``(B, T, V)`` that score each response token, and values ``(B, T)`` before it."""

    logits: Tensor
    values: Tensor


class PerToken(NamedTuple):
    """What :meth:`ActorCritic.evaluate` returns: log-probs, values, entropies, each ``(B, T)``, zero in the padding."""

    logprobs: Tensor
    values: Tensor
    entropy: Tensor


class Role(nn.Module):
    """A backbone, and the adapter that is on while it plays this role (``None``: its plain weights).

    Args:
        backbone: where the weights are; several roles may share it.
        adapter: the name of one of its adapters, or ``None``.
    """

    def __init__(self, backbone: Backbone, adapter: str | None) -> None:
        super().__init__()
        self.backbone, self.adapter = backbone, adapter

    def forward(self, batch: TokenBatch) -> Tensor:
        """States before each response token, ``(B, T, H)``: the token at position t is scored at t - 1."""
        return self.backbone.hidden_states(batch, self.adapter)[:, batch.prompt_width - 1 : -1]

    @property
    def merges(self) -> bool:
        """Whether its adapter is merged into a copy of the weights while it samples."""
        return self.adapter is not None and self.backbone.merges

    def save(self, folder: Path) -> None:
        """Write what is trained: the adapter as a PEFT folder, or the whole model, and the tokenizer."""
        whole = self.backbone.merged(None) if self.adapter is None else None
        if not self.backbone.world.first:  # it has given its part of the weights
            return
        if whole is not None:
            whole.save_pretrained(str(folder))
        elif self.adapter is not None:
            self.backbone.save_adapter(self.adapter, folder)
        self.backbone.tokenizer.save_pretrained(str(folder))


class ActorCritic(nn.Module):
    """Actor, critic and reference.

    Args:
        backbone: the SFT model; its plain weights are the reference, and never move.
        lora_rank: of the adapters; without meaning for ``full``.
        seed: of the policy adapter's random half; a separate critic's is drawn from another seed, made of this one. The
            reward model's, where it stands on the same backbone and was given the same seed and rank, begins as the
            policy's does: the stored weights were made so. Neither changes anything until it is trained.
        finetune: ``"lora"`` trains adapters on the backbone, ``"full"`` all weights of a copy.
        critic: ``"shared"`` is a head on the actor's states; ``"separate"`` has an adapter or a copy of its own.
        reuse: go on with adapters that the backbone has already, whatever their rank; :meth:`from_pretrained` does so
            with those that it has loaded.

    Raises:
        ValueError: another ``finetune`` or ``critic``, or an adapter that is there already, without ``reuse``.
    """

    def __init__(
        self,
        backbone: Backbone,
        lora_rank: int = 8,
        seed: int = 0,
        finetune: str = "lora",
        critic: str = "shared",
        reuse: bool = False,
    ) -> None:
        super().__init__()
        if finetune not in FINETUNE or critic not in CRITIC:
            raise BadInput(f"finetune is {finetune!r} and critic {critic!r}; choose from {FINETUNE} and {CRITIC}")

        def trained(name: str, seed: int) -> Role:
            if finetune == "full":
                return Role(backbone.copy(), None)
            backbone.add_adapter(name, rank=lora_rank, seed=seed, reuse=reuse)
            return Role(backbone, name)

        self.backbone = backbone
        self.reference = Role(backbone, None)
        self.actor = trained("policy", seed)
        self.critic = trained("critic", seed + CRITIC_SEED) if critic == "separate" else self.actor
        self.value_head = backbone.scalar_head()
        for parameter in self.parameters_to_train():
            parameter.requires_grad_(True)

    def acting(self) -> AbstractContextManager[None]:
        """While this is open the actor's adapter stays on, where it would be switched on and off at each pass."""
        return self.actor.backbone.adapter(self.actor.adapter)

    def parameters_to_train(self) -> list[nn.Parameter]:
        """All that PPO moves: adapters or weights of actor and critic, and the value head."""
        actor, critic = self.actor, self.critic
        if actor.adapter is not None:
            adapters = dict.fromkeys([actor.adapter, critic.adapter])  # one of them, if they are the same
            network = [p for name in adapters for p in self.backbone.adapter_parameters(str(name))]
        else:
            network = list(actor.backbone.causal_lm.parameters())
            if critic is not actor:  # its output head is not used
                network += critic.backbone.body.parameters()
        return [*network, *self.value_head.parameters()]

    def forward(self, batch: TokenBatch, temperature: float = 1.0) -> ActorCriticOutput:
        """Logits at response positions only, and the critic's values."""
        states = self.actor(batch)
        return ActorCriticOutput(self.actor.backbone.logits(states) / temperature, self._values(batch, states))

    def evaluate(
        self, batch: TokenBatch, temperature: float = 1.0, entropy_grad: bool = False, entropy: bool = True
    ) -> PerToken:
        """Log-probs of the sampled tokens, values and entropies.

        Equal to what :meth:`forward` gives, but the logits of the whole batch are never held at once. Where nobody
        reads the entropies, ``entropy=False`` saves them: they are 0.
        """
        states, mask = self.actor(batch), batch.mask
        logprobs, spread = self.actor.backbone.token_logprobs(
            states, batch.responses, mask, temperature, entropy_grad, entropy, batch.count
        )
        return PerToken(logprobs, self._values(batch, states) * mask, spread)

    @torch.no_grad()
    def reference_logprobs(self, batch: TokenBatch, temperature: float = 1.0) -> Tensor:
        """Log-probs ``(B, T)`` of the same tokens under the reference."""
        states = self.reference(batch)
        tokens = batch.responses, batch.mask
        return self.backbone.token_logprobs(states, *tokens, temperature, entropy=False, count=batch.count)[0]

    def _values(self, batch: TokenBatch, actor_states: Tensor) -> Tensor:
        states = actor_states if self.critic is self.actor else self.critic(batch)
        return self.value_head(states.to(self.value_head.weight.dtype)).squeeze(-1)

    def save_pretrained(self, folder: str | Path, merged: bool = False) -> None:
        """Write what others load: a PEFT adapter, or with ``finetune="full"`` a plain model; and the tokenizer.

        The value head lies beside it as safetensors, and a separate critic in ``folder/critic``. With ``merged`` an
        adapter is written as ``folder/merged`` too, a model that plain transformers loads without PEFT.
        """
        folder = Path(folder)
        self.actor.save(folder)
        if self.critic is not self.actor:
            self.critic.save(folder / "critic")
        if not self.backbone.world.first:
            return
        head = {k: v.detach().cpu() for k, v in self.value_head.state_dict().items()}
        save_file(head, folder / "value_head.safetensors")
        if self.actor.adapter is None:
            (folder / "reference.json").write_text(json.dumps({"base_model_name_or_path": self.backbone.name}))
        elif merged:
            self.backbone.merged("policy").save_pretrained(str(folder / "merged"))
            self.backbone.tokenizer.save_pretrained(str(folder / "merged"))

    @classmethod
    def from_pretrained(cls, folder: str | Path, backbone: Backbone | None = None) -> "ActorCritic":
        """Load what :meth:`save_pretrained` wrote; the backbone is found by the name saved with it.

        Raises:
            ValueError: no such folder, or it was made for another backbone.
        """
        folder = Path(folder)
        full = (folder / "reference.json").is_file()
        if backbone is None:
            name = base_name(folder, "reference.json") if full else base_name(folder)
            backbone = Backbone.from_pretrained(name)
        critic = "separate" if (folder / "critic").is_dir() else "shared"
        head = load_head(folder / "value_head.safetensors", backbone.hidden_size, ("weight", "bias"))
        parts = {"policy": folder, **({"critic": folder / "critic"} if critic == "separate" else {})}
        if not full:
            for name, part in parts.items():
                backbone.load_adapter(name, part)
        model = cls(backbone, finetune="full" if full else "lora", critic=critic, reuse=True)
        if full:
            for role, part in zip((model.actor, model.critic), parts.values(), strict=False):
                role.backbone.load_weights(part)
        model.value_head.load_state_dict(head)
        return model
