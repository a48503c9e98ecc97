"""What the recording scripts look at while a run goes on, for the explorer that scrubs through it."""

from typing import Any

import torch

from ppo_lib.trainers.judging import ask
from ppo_lib.trainers.ppo import PPOTrainer


def scrub(trainer: PPOTrainer, rows: list[int], keep: int) -> list[dict[str, Any]]:
    """The same prompts at every look: answer, scores of all judges, and per token what PPO saw.

    Args:
        trainer: between two iterations.
        rows: which of its prompts are answered, since advantages are whitened over a batch.
        keep: how many of them are returned.
    """
    experience = trainer.collect(rows, torch.Generator().manual_seed(7))
    decode, found = trainer.backbone.tokenizer, []
    for i, row in enumerate(rows[:keep]):
        n, prompt, text = int(experience.batch.response_lengths[i]), trainer.prompts[row], experience.texts[i]
        ids = experience.batch.responses[i, :n].tolist()
        columns = {
            "kl": experience.logprobs[i] - experience.ref_logprobs[i],
            "value": experience.values[i],
            "advantage": experience.advantages[i],
        }
        others = {name: round(float(ask(other, [prompt], [text])[0]), 3) for name, other in trainer.monitors.items()}
        found.append(
            {
                "iteration": trainer.iteration,
                "prompt": prompt,
                "response": text,
                "score": round(float(experience.scores[i]), 3),
                **others,
                "tokens": [decode.decode([token]) for token in ids],
                **{name: [round(x, 3) for x in column[:n].tolist()] for name, column in columns.items()},
            }
        )
    return found
