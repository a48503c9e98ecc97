"""One rollout batch with all that is known about it, and the metrics that describe it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ppo_lib.formulas.advantages import explained_variance
from ppo_lib.formulas.kl import kl_estimate
from ppo_lib.formulas.masking import masked_mean
from ppo_lib.models.tokens import TokenBatch, rows_on
from ppo_lib.trainers.optimizer import Metrics


@dataclass
class Experience:
    """One rollout batch and all that is known about it. Per-token tensors are ``(B, T)``, zero in the padding.

    Attributes:
        batch: prompts and responses as tokens, with lengths.
        finished: ``(B,)`` boolean, ended by an EOS.
        prompts: what was asked, as given to the trainer.
        texts: the responses.
        scores: ``(B,)``, from the reward model.
        logprobs: ``log pi_old``, of the policy that sampled.
        ref_logprobs: ``log pi_ref``.
        values: critic's forecast before each token.
        entropy: of the policy's whole distribution at each token, in nats.
        rewards: augmented rewards.
        advantages: whitened if the config says so.
        returns: value targets.
        sampled_logprobs: of the distribution that was really drawn from, where that is another one than the policy's:
            a merged copy of it, which rounds differently.
    """

    batch: TokenBatch
    finished: Tensor
    prompts: list[str]
    texts: list[str]
    scores: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    entropy: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor
    sampled_logprobs: Tensor | None = None

    def select(self, rows: Sequence[int] | Tensor) -> "Experience":
        """The responses ``rows``, with the columns that are padding in all of them cut off."""
        rows = rows.tolist() if isinstance(rows, Tensor) else rows
        batch = self.batch.select(rows)
        width, index = batch.responses.shape[1], rows_on(self.scores.device, rows)

        def cut(value: Any) -> Any:
            if isinstance(value, list):
                return [value[row] for row in rows]
            if value is None:
                return None
            return value[index] if value.dim() == 1 else value[index, :width]

        return Experience(batch, **{name: cut(value) for name, value in vars(self).items() if name != "batch"})


def describe(experience: Experience, seen: Mapping[str, Tensor]) -> Metrics:
    """What the rollout batch looked like before the update; KL in nats per response, entropy per token.

    Args:
        experience: the batch.
        seen: scores ``(B,)`` of judges that PPO is not trained on: ``gold``, the true quality where that is known,
            and ``heldout``, the held-out judge; NaN where one of them failed, which its mean leaves out.
    """
    mask, scores = experience.batch.mask, experience.scores
    drift = experience.logprobs, experience.ref_logprobs
    return {
        "score_mean": float(scores.mean()),
        "score_std": float(scores.std(correction=0)),
        **{f"{name}_mean": float(values.nanmean()) for name, values in seen.items()},
        "kl_k1": float((kl_estimate(*drift, "k1") * mask).sum(dim=1).mean()),
        "kl_k3": float((kl_estimate(*drift, "k3") * mask).sum(dim=1).mean()),
        "entropy": float(masked_mean(experience.entropy, mask)),
        "explained_variance": explained_variance(experience.values, experience.returns, mask),
        "response_length": float(experience.batch.response_lengths.double().mean()),
        "eos_rate": float(experience.finished.double().mean()),
        **sampling_gap(experience),
    }


def sampling_gap(experience: Experience) -> Metrics:
    """How far the sampler's log-probs are from the policy's, ``|log mu - log pi_old|`` in nats per token.

    Answers are drawn from mu and learned from as if they were drawn from pi_old. No clip and no ratio notices, since
    the first ratio is taken between two scorings.
    """
    if experience.sampled_logprobs is None:
        return {}
    mask = experience.batch.mask
    gap = (experience.sampled_logprobs - experience.logprobs).abs() * mask
    return {"sampling_gap_mean": float(masked_mean(gap, mask)), "sampling_gap_max": float(gap.max())}


def sample_rows(
    experience: Experience, iteration: int, seen: Mapping[str, Tensor], count: int = 4
) -> list[dict[str, object]]:
    """The first few responses as rows of ``samples.jsonl``: prompt, response, score and KL in nats."""
    kl = (kl_estimate(experience.logprobs, experience.ref_logprobs, "k1") * experience.batch.mask).sum(dim=1)
    return [
        {
            "iteration": iteration,
            "prompt": experience.prompts[i],
            "response": experience.texts[i],
            "score": float(experience.scores[i]),
            **{name: float(values[i]) for name, values in seen.items()},
            "kl": float(kl[i]),
            "finished": bool(experience.finished[i]),
        }
        for i in range(min(count, len(experience.scores)))
    ]
