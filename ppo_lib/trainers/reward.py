"""Stage two: a reward model from comparisons, by Bradley-Terry.

Labelers only say which of two responses they prefer. The reward model is the scalar that explains those choices best:
``P(chosen preferred) = sigma(r_chosen - r_rejected)``. It learns whatever moves the labelers, their biases included.

The pairs of one ranking are trained on together, and each of its responses is scored once: six pairs of four responses
cost four forward passes instead of twelve (Ouyang et al. 2022, section 3.5, who also found that pairs scattered over
the data overfit, since each response then counts as often as it has rivals).
"""

import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from ppo_lib.formulas.losses import bradley_terry_loss
from ppo_lib.models.device import peak_memory_bytes
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.world import ALONE, World
from ppo_lib.trainers.configuration import RewardConfig
from ppo_lib.trainers.optimizer import Metrics, Optimizer, Order, WithoutSamples, warmup_then_decay

Pair = tuple[str, str, str]  # prompt, chosen, rejected


def pairs_from_ranking(prompt: str, ranked: Sequence[str]) -> list[Pair]:
    """All ordered pairs of a ranking, best first: four responses give six pairs.

    Args:
        prompt: what was answered.
        ranked: responses, the best one first.

    Returns:
        ``(prompt, chosen, rejected)`` for every pair.
    """
    return [(prompt, ranked[i], ranked[j]) for i in range(len(ranked)) for j in range(i + 1, len(ranked))]


def rankings_of(pairs: Sequence[Pair], largest: int) -> list[list[Pair]]:
    """Pairs that stand side by side and share their prompt, as one ranking; at most ``largest`` to each."""
    found = []
    for _, group in groupby(pairs, key=lambda pair: pair[0]):
        ranking = list(group)
        found += [ranking[i : i + largest] for i in range(0, len(ranking), largest)]
    return found


class RewardTrainer(WithoutSamples):
    """Trains a reward model on comparisons, one optimizer step per iteration.

    Args:
        config: the knobs.
        model: trained in place.
        pairs: ``(prompt, chosen, rejected)``, the pairs of one ranking side by side.
        world: who shares the work.

    Raises:
        ValueError: no pairs, or one that does not fit.
    """

    def __init__(self, config: RewardConfig, model: RewardModel, pairs: Sequence[Pair], world: World = ALONE) -> None:
        world.check_share("batch", config.batch)
        self.world = world
        self.config, self.model, self.pairs = config, model, list(pairs)
        self.rankings = rankings_of(self.pairs, config.batch)
        self.order = Order(len(self.rankings), config.seed)
        backbone = model.backbone
        self.max_length = config.max_length or backbone.context_length
        prompts, *answers = zip(*self.pairs, strict=True)
        for responses in answers:  # refuse what does not fit now, not in an hour
            backbone.pair_ids(prompts, responses, self.max_length)
        self.optimizer = Optimizer(
            model.parameters_to_train(),
            config.learning_rate,
            config.max_grad_norm,
            world,
            model.backbone.causal_lm.dtype,
        )
        self.iteration = 0
        self.rankings_per_step = max(1, config.batch * len(self.rankings) // len(self.pairs))
        steps = config.epochs * max(1, len(self.rankings) // self.rankings_per_step)
        self.iterations = min(steps, config.max_steps or steps)

    def score_pairs(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """Raw scores ``(N,)`` of the chosen and of the rejected responses, in one forward pass over different ones."""
        backbone = self.model.backbone
        chosen = [(prompt, better) for prompt, better, _ in pairs]
        rejected = [(prompt, worse) for prompt, _, worse in pairs]
        row = {text: i for i, text in enumerate(dict.fromkeys(chosen + rejected))}
        prompts, responses = zip(*row, strict=True)
        scores = self.model(backbone.encode_pairs(prompts, responses, self.max_length))
        return scores[[row[text] for text in chosen]], scores[[row[text] for text in rejected]]

    def step(self) -> Metrics:
        """One optimizer step on the next rankings, about ``batch`` pairs.

        Returns:
            Metrics by name: loss in nats per pair and the share of pairs ordered rightly, both before the step; the
            gradient's length, the learning rate, pairs per second, bytes.

        Raises:
            FloatingPointError: the gradient is NaN or infinite; the parameters stay as they were.
        """
        start = time.perf_counter()
        rows = [pair for i in self.order.draw(self.rankings_per_step) for pair in self.rankings[i]]
        loss_sum, correct, own = 0.0, 0.0, self.world.share(rows)
        for i in range(0, self.world.largest_share(rows), self.config.microbatch):
            microbatch = own[i : i + self.config.microbatch]
            # Where other processes have more rows, a pair that counts nothing.
            chosen, rejected = self.score_pairs(microbatch or rows[:1])
            loss = bradley_terry_loss(chosen, rejected) * len(microbatch)
            self.optimizer.backward(loss / len(rows))
            right = int((chosen > rejected)[: len(microbatch)].sum())
            loss_sum, correct = loss_sum + float(loss.detach()), correct + right
        loss_sum, correct = self.world.total(loss_sum, correct)
        rate = warmup_then_decay(self.iteration, self.iterations)
        norm = self.optimizer.step(rate)
        self.iteration += 1
        return {
            "iteration": self.iteration,
            "loss": loss_sum / len(rows),
            "accuracy": correct / len(rows),
            "grad_norm": norm,
            "learning_rate": self.config.learning_rate * rate,
            "pairs_per_second": len(rows) / (time.perf_counter() - start),
            "peak_memory_bytes": self.world.largest(peak_memory_bytes(self.model.backbone.device)),
        }

    @torch.no_grad()
    def compare(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """Raw scores ``(N,)`` of the chosen and of the rejected responses of any number of pairs, without gradients."""
        size = min(256, 4 * self.config.microbatch)  # without gradients more fit than in training
        scores = [self.score_pairs(pairs[i : i + size]) for i in range(0, len(pairs), size)]
        chosen, rejected = (torch.cat(column) for column in zip(*scores, strict=True))
        return chosen, rejected

    def evaluate(self, pairs: Sequence[Pair]) -> Metrics:
        """Loss (nats per pair) and accuracy on pairs that were not trained on."""
        chosen, rejected = self.compare(pairs)
        accuracy = float((chosen > rejected).double().mean())
        return {"loss": float(bradley_terry_loss(chosen, rejected)), "accuracy": accuracy}

    def save(self, folder: str | Path) -> None:
        if self.world.first:
            self.model.save_pretrained(folder)
