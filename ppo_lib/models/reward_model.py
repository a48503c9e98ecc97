"""The reward model: one score for a whole response, learned from comparisons."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ppo_lib.errors import BadInput
from ppo_lib.formulas.rewards import last_token_index
from ppo_lib.models import registry
from ppo_lib.models.adapter_folders import REWARD_HEAD, base_name
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.files import load_head, notes_in
from ppo_lib.models.tokens import TokenBatch, closing_token, pad_pairs, shortened


class RewardModel(nn.Module):
    """A scalar score for a whole response: own LoRA adapter, and a linear head on the last counted token.

    The raw score has no zero and no unit, since Bradley-Terry sees only differences. :meth:`calibrate` fixes both.

    Args:
        backbone: may be shared with an :class:`ActorCritic`, or be one of its own.
        lora_rank: of the adapter.
        seed: of the adapter's random half; a policy of the same seed and rank begins with the same one (see there).
        reuse: go on with an adapter ``reward`` that the backbone has already, whatever its rank;
            :meth:`from_pretrained` does so with the one that it has loaded.

    Raises:
        ValueError: there is such an adapter already, without ``reuse``.
    """

    def __init__(self, backbone: Backbone, lora_rank: int = 8, seed: int = 0, reuse: bool = False) -> None:
        super().__init__()
        self.backbone, self.chat_template = backbone, backbone.chat_template
        backbone.add_adapter("reward", rank=lora_rank, seed=seed, reuse=reuse)
        self.head = backbone.scalar_head()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros((), device=backbone.device))
        self.register_buffer("std", torch.ones((), device=backbone.device))

    @property
    def reads_as_sampled(self) -> bool:
        """Whether it reads prompts in the form in which a policy on the same backbone is asked."""
        return self.chat_template == self.backbone.chat_template

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
        """Normalized scores ``(B,)``: ``(raw - mean) / std``.

        Whichever token ended a response, it is read with the one that ended the answers of the comparisons.
        """
        batch, rows = self.closed_as_taught(batch), range(len(batch))
        raw = torch.cat([self(batch.select(rows[i : i + microbatch])) for i in range(0, len(rows), microbatch)])
        return (raw - self.mean) / self.std

    def closed_as_taught(self, batch: TokenBatch) -> TokenBatch:
        """The batch with one and the same token at the end of every response that came to its end."""
        ends, device = self.backbone.eos_token_ids, batch.sequences.device
        if len(ends) == 1:
            return batch
        end = closing_token(self.backbone.tokenizer, ends, self.chat_template)
        rows = torch.arange(len(batch), device=device)
        last = batch.prompt_width + (batch.response_lengths - 1).clamp(min=0)
        token = batch.sequences[rows, last]
        ended = torch.isin(token, torch.tensor(ends, device=device)) & (batch.response_lengths > 0)
        sequences = batch.sequences.clone()
        sequences[rows, last] = torch.where(ended, torch.full_like(token, end), token)
        return replace(batch, sequences=sequences)

    def scores(
        self,
        prompts: Sequence[str],
        responses: Sequence[str],
        finished: Sequence[bool] | None = None,
        cut: bool = False,
    ) -> list[float]:
        """Normalized scores of responses given as text.

        Args:
            prompts: texts.
            responses: texts.
            finished: whether each response came to its end; one that was cut off is read without an EOS, just as
                :meth:`score_batch` reads its tokens. All are finished by default.
            cut: what is longer than the model's context loses the beginning of its prompt, then the end of its
                response, instead of being refused: another tokenizer may have sampled it.

        Raises:
            BadInput: a prompt and response longer than the model's context.
        """
        backbone, limit = self.backbone, self.backbone.context_length
        asked, answers = backbone.pair_ids(prompts, responses, chat=self.chat_template)
        if finished is not None:  # the EOS is the last token; a response that is nothing else keeps it
            answers = [ids if done or len(ids) < 2 else ids[:-1] for ids, done in zip(answers, finished, strict=True)]
        lengths = [len(prompt) + len(answer) for prompt, answer in zip(asked, answers, strict=True)]
        if limit is not None and max(lengths) > limit:
            if not cut:
                row = lengths.index(max(lengths))
                raise BadInput(
                    f"pair {row} ({prompts[row][:40]!r}...) has {lengths[row]} tokens, but the context of the reward "
                    f"model's backbone {backbone.name!r} is {limit}; lower max_new_tokens or drop the prompt"
                )
            asked, answers = shortened(asked, answers, limit)
        return self.score_batch(pad_pairs(asked, answers, backbone.pad_token_id).to(backbone.device)).tolist()

    def calibrate(
        self, prompts: Sequence[str], responses: Sequence[str], finished: Sequence[bool] | None = None
    ) -> None:
        """Fit mean and standard deviation on these responses: give samples of the SFT model, PPO's starting point.

        Args:
            prompts, responses, finished: as :meth:`scores` takes them.

        Raises:
            ValueError: fewer than two responses, or all scores equal.
        """
        self.mean.zero_()
        self.std.fill_(1.0)
        self.calibrate_on(torch.tensor(self.scores(prompts, responses, finished), dtype=torch.float64))

    def calibrate_on(self, raw: Tensor) -> None:
        """The same from raw scores ``(N,)``.

        Raises:
            BadInput: fewer than two, or no difference between them.
        """
        raw = raw.double()
        if len(raw) < 2 or not float(raw.std()) > 0:
            raise BadInput(f"{len(raw)} responses with scores that do not differ cannot fix a scale; give more")
        self.mean.fill_(float(raw.mean()))
        self.std.fill_(float(raw.std()))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the adapter as a PEFT folder, and head and normalization as safetensors."""
        self.backbone.save_adapter("reward", folder)
        tensors = {**{f"head.{k}": v for k, v in self.head.state_dict().items()}, "mean": self.mean, "std": self.std}
        notes = {"chat_template": str(self.chat_template).lower()}  # in which form it reads, whoever uses it
        save_file({k: v.detach().cpu() for k, v in tensors.items()}, Path(folder) / REWARD_HEAD, metadata=notes)

    @classmethod
    def from_pretrained(cls, folder: str | Path, backbone: Backbone | None = None) -> "RewardModel":
        """Load what :meth:`save_pretrained` wrote.

        Args:
            folder: where it lies, or the name of a source that has one (:mod:`ppo_lib.models.registry`).
            backbone: share this one; ``None`` loads the one that the adapter names.

        Raises:
            ValueError: no such folder, or it was made for another backbone.
        """
        source = registry.find(str(folder))
        folder = source.reward_model() if source and source.reward_model else Path(folder)
        if backbone is None:
            backbone = Backbone.from_pretrained(base_name(folder))
        path = Path(folder) / REWARD_HEAD
        tensors = load_head(path, backbone.hidden_size, ("head.weight", "head.bias", "mean", "std"))
        if not float(tensors["std"]) > 0:
            raise BadInput(f"{str(path)!r}: std is {float(tensors['std'])}, but must be above 0; calibrate it anew")
        backbone.load_adapter("reward", folder)
        model = cls(backbone, reuse=True)
        if (noted := notes_in(path).get("chat_template")) is not None:
            model.chat_template = noted == "true"
        model.head.load_state_dict({"weight": tensors["head.weight"], "bias": tensors["head.bias"]})
        model.mean.copy_(tensors["mean"])
        model.std.copy_(tensors["std"])
        return model
