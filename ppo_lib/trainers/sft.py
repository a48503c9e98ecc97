"""Stage one: supervised fine-tuning on demonstrations.

The model is shown prompts with a person's response and learns to write such responses: next-token cross-entropy on
the response's tokens, and on those alone. What it learns is imitation, mistakes included.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ppo_lib.errors import BadInput
from ppo_lib.formulas.masking import masked_mean
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.device import peak_memory_bytes
from ppo_lib.models.world import ALONE, World
from ppo_lib.trainers.configuration import SFTConfig
from ppo_lib.trainers.optimizer import Metrics, Optimizer, Order, WithoutSamples, warmup_then_decay


class SFTTrainer(WithoutSamples):
    """Fine-tunes a backbone on demonstrations, one optimizer step per iteration.

    Args:
        config: the knobs.
        backbone: trained in place.
        demonstrations: pairs of prompt and response.
        world: who shares the work.

    Raises:
        ValueError: no demonstrations, or one that does not fit.
    """

    def __init__(
        self,
        config: SFTConfig,
        backbone: Backbone,
        demonstrations: Sequence[tuple[str, str]],
        world: World = ALONE,
    ) -> None:
        world.check_share("batch", config.batch)
        self.world = world
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
        self.optimizer = Optimizer(
            parameters, config.learning_rate, config.max_grad_norm, world, backbone.causal_lm.dtype
        )
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
        """One optimizer step on the next ``batch`` demonstrations.

        Returns:
            Metrics by name: loss in nats per response token before the step, the gradient's length, the learning rate,
            tokens per second, bytes.

        Raises:
            FloatingPointError: the gradient is NaN or infinite; the parameters stay as they were.
        """
        start = time.perf_counter()
        rows = [self.demonstrations[i] for i in self.world.share(self.order.draw(self.config.batch))]
        size = self.config.microbatch
        microbatches = [tuple(zip(*rows[i : i + size], strict=True)) for i in range(0, len(rows), size)]
        total, tokens = 0.0, 0.0
        for prompts, responses in microbatches:
            loss, count = self.loss(prompts, responses)
            self.optimizer.backward(loss * count)  # summed here, divided by the whole step's token count below
            total, tokens = total + float(loss.detach()) * count, tokens + count
        total, tokens = self.world.total(total, tokens)
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
            "peak_memory_bytes": self.world.largest(peak_memory_bytes(self.backbone.device)),
        }

    @torch.no_grad()
    def evaluate(self, demonstrations: Sequence[tuple[str, str]]) -> float:
        """Cross-entropy in nats per token on demonstrations that were not trained on.

        Every token weighs the same, whatever microbatch it falls into.

        Raises:
            ValueError: no demonstration, or one that does not fit.
        """
        if not demonstrations:
            raise BadInput("there is no demonstration to evaluate on; give at least one")
        total, tokens, size = 0.0, 0, self.config.microbatch
        for i in range(0, len(demonstrations), size):
            prompts, responses = zip(*demonstrations[i : i + size], strict=True)
            loss, count = self.loss(prompts, responses)
            total, tokens = total + float(loss) * count, tokens + count
        return total / tokens

    def save(self, folder: str | Path) -> None:
        """Write the whole model in hub format, an adapter merged into its weights."""
        model = self.backbone.merged("policy" if self.config.lora_rank else None)
        if not self.world.first:  # it has given its part of the weights
            return
        model.save_pretrained(str(folder))
        self.backbone.tokenizer.save_pretrained(str(folder))
