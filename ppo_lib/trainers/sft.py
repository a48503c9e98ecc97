"""Stage one: supervised fine-tuning on demonstrations.

The model is shown prompts with a person's response and learns to write such responses: next-token cross-entropy on
the response's tokens, and on those alone. What it learns is imitation, mistakes included.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ppo_lib.formulas.masking import masked_mean
from ppo_lib.models.backbone import Backbone
from ppo_lib.parallel.processes import ALONE, Processes
from ppo_lib.trainers.optimizer import (
    Metrics,
    Optimizer,
    Order,
    State,
    peak_memory_bytes,
    restore,
    state_of,
    warmup_then_decay,
)
from ppo_lib.trainers.options import DTYPES, check_config, option


@dataclass(frozen=True)
class SFTConfig:
    """Knobs of supervised fine-tuning."""

    model: str = option("pocket:base", help="the base model: pocket:base, a folder in hub format, or OWNER/NAME@COMMIT")
    data: str = option("pocket", help="demonstrations, see ppo_lib.run.data: pocket, a JSONL file, a data set")
    chat_template: bool = option(False, help="put prompts into the tokenizer's chat template, as -Instruct models want")
    epochs: int = option(2, minimum=1, help="passes over the demonstrations")
    max_steps: int | None = option(None, minimum=1, help="stop after so many optimizer steps; null: after the epochs")
    batch: int = option(64, minimum=1, help="demonstrations per optimizer step")
    microbatch: int = option(64, minimum=1, help="demonstrations per forward pass; less memory, same result")
    learning_rate: float = option(1e-3, above=0.0, help="peak of the schedule")
    max_grad_norm: float = option(1.0, above=0.0, help="longer gradients are scaled down to this")
    lora_rank: int = option(0, minimum=0, help="rank of an adapter that is merged at the end; 0 trains all weights")
    max_length: int | None = option(None, minimum=2, help="refuse demonstrations of more tokens than this")
    drop_longer: bool = option(False, help="leave out what is longer than max_length, instead of refusing it")
    gradient_checkpointing: bool = option(False, help="compute activations twice instead of keeping them")
    seed: int = option(0, minimum=0, help="of the order of the data")
    device: str = option("auto", help="cpu, cuda, or auto for a GPU where there is one")
    dtype: str = option("float32", choices=DTYPES, help="of the weights; auto: bfloat16 where the GPU computes in it")

    def __post_init__(self) -> None:
        check_config(self)


class SFTTrainer:
    """Fine-tunes a backbone on demonstrations, one optimizer step per iteration.

    Args:
        config: the knobs.
        backbone: trained in place.
        demonstrations: pairs of prompt and response.
        processes: who shares the work.

    Raises:
        ValueError: no demonstrations, or one that does not fit.
    """

    def __init__(
        self,
        config: SFTConfig,
        backbone: Backbone,
        demonstrations: Sequence[tuple[str, str]],
        processes: Processes = ALONE,
    ) -> None:
        processes.check_share("batch", config.batch)
        self.processes = processes
        self.config, self.backbone = config, backbone
        self.demonstrations = list(demonstrations)
        self.order = Order(len(self.demonstrations), config.seed)
        self.max_length = config.max_length or backbone.context_length
        prompts, responses = zip(*self.demonstrations, strict=True)  # refuse what does not fit now, not in an hour
        backbone.pair_ids(prompts, responses, self.max_length)
        if config.lora_rank:
            backbone.add_adapter("policy", config.lora_rank, seed=config.seed)
            parameters = backbone.adapter_parameters("policy")
        else:
            parameters = list(backbone.causal_lm.parameters())
            for parameter in parameters:
                parameter.requires_grad_(True)
        self.optimizer = Optimizer(parameters, config.learning_rate, config.max_grad_norm, processes)
        self.iteration = 0
        steps = config.epochs * max(1, len(self.demonstrations) // config.batch)
        self.iterations = min(steps, config.max_steps or steps)

    def loss(self, prompts: Sequence[str], responses: Sequence[str]) -> tuple[Tensor, int]:
        """Cross-entropy of the responses in nats per token, and the number of tokens it is a mean over.

        Equal to :func:`ppo_lib.formulas.losses.sft_loss` on the logits of the whole sequence, without holding them.
        """
        backbone = self.backbone
        batch = backbone.encode_pairs(prompts, responses, self.max_length)
        hidden = backbone.hidden_states(batch, "policy" if self.config.lora_rank else None)
        states = hidden[:, batch.prompt_width - 1 : -1]  # the state before each response token
        logprobs, _ = backbone.token_logprobs(states, batch.responses, batch.mask)
        return -masked_mean(logprobs, batch.mask), int(batch.response_lengths.sum())

    def step(self) -> Metrics:
        start = time.perf_counter()
        rows = [self.demonstrations[i] for i in self.processes.share(self.order.draw(self.config.batch))]
        size = self.config.microbatch
        pieces = [tuple(zip(*rows[i : i + size], strict=True)) for i in range(0, len(rows), size)]
        total, tokens = 0.0, 0.0
        for prompts, responses in pieces:
            loss, count = self.loss(prompts, responses)
            (loss * count).backward()  # summed here, divided by the whole step's token count below
            total, tokens = total + float(loss.detach()) * count, tokens + count
        total, tokens = self.processes.total(total, tokens)
        for parameter in self.optimizer.parameters:
            if parameter.grad is not None:
                parameter.grad /= tokens
        rate = warmup_then_decay(self.iteration, self.iterations)
        norm = self.optimizer.step(rate)
        self.iteration += 1
        return {
            "iteration": self.iteration,
            "loss": total / tokens,
            "grad_norm": norm,
            "learning_rate": self.config.learning_rate * rate,
            "tokens_per_second": tokens / (time.perf_counter() - start),
            "peak_memory_bytes": self.processes.largest(peak_memory_bytes(self.backbone.device)),
        }

    @torch.no_grad()
    def evaluate(self, demonstrations: Sequence[tuple[str, str]]) -> float:
        """Cross-entropy in nats per token on demonstrations that were not trained on."""
        prompts, responses = zip(*demonstrations, strict=True)
        return float(self.loss(prompts, responses)[0])

    def samples(self) -> list[dict[str, object]]:
        return []

    def state(self) -> State:
        return state_of(self)

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, object]) -> None:
        restore(self, tensors, values)

    def save(self, folder: str | Path) -> None:
        """Write the whole model in hub format, an adapter merged into its weights."""
        model = self.backbone.merged("policy" if self.config.lora_rank else None)
        if not self.processes.first:  # it has given its part of the weights
            return
        model.save_pretrained(str(folder))
        self.backbone.tokenizer.save_pretrained(str(folder))
