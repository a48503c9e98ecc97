"""Record the memory plans that the explorer on the scaling page shows: models, what is trained, microbatch, length.

    python benchmarks/record_plans.py

A plan is arithmetic and a forward pass without numbers (:mod:`ppo_lib.run.memory`), so no card and no weights are
needed. Prompts have ``PROMPT`` tokens and the adapters rank 16; the adapter is merged for the rollout, as on a card.
"""

import itertools
import time
import warnings
from dataclasses import asdict
from typing import Any

from transformers import LlamaConfig, PreTrainedConfig, Qwen2Config

from ppo_lib.book.recordings import save_recorded
from ppo_lib.run.manifests import manifest
from ppo_lib.run.memory import plan_memory
from ppo_lib.trainers.configuration import PPOConfig

NAME, PROMPT = "plans", 64
BATCH = {"rollout_batch": 64, "minibatch": 64, "lora_rank": 16, "merge_adapter": True}
KEYS = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
SHAPES: dict[str, tuple[type[PreTrainedConfig], tuple[int, ...], int]] = {
    "SmolLM2-135M": (LlamaConfig, (30, 576, 1536, 9, 3), 49_152),
    "Qwen2.5-0.5B": (Qwen2Config, (24, 896, 4864, 14, 2), 151_936),
    "Qwen2.5-1.5B": (Qwen2Config, (28, 1536, 8960, 12, 2), 151_936),
}
TRAINED = (("lora", "bfloat16"), ("lora", "float16"), ("lora", "float32"), ("full", "bfloat16"), ("full", "float32"))
MICROBATCHES, TOKENS = (1, 4, 16, 64), (64, 256, 1024)


def shape(model: str) -> PreTrainedConfig:
    """The configuration of a model, with its output head tied to its embeddings as all three have it."""
    kind, sizes, words = SHAPES[model]
    return kind(**dict(zip(KEYS, sizes, strict=True)), vocab_size=words, tie_word_embeddings=True)


def plan(model: str, finetune: str, dtype: str, microbatch: int, tokens: int) -> dict[str, int]:
    """Bytes by what they hold."""
    knobs: dict[str, Any] = {**BATCH, "microbatch": microbatch, "max_new_tokens": tokens}
    return asdict(plan_memory(shape(model), PPOConfig(**knobs, finetune=finetune, dtype=dtype), PROMPT))


def main() -> None:
    start, rows = time.perf_counter(), []
    warnings.simplefilter("error")
    for model, trained, microbatch, tokens in itertools.product(SHAPES, TRAINED, MICROBATCHES, TOKENS):
        names = {"model": model, "finetune": trained[0], "dtype": trained[1], "microbatch": microbatch}
        rows.append({**names, "tokens": tokens, **plan(model, *trained, microbatch, tokens)})
    about = manifest({**BATCH, "prompt": PROMPT}, time.perf_counter() - start, name=NAME)
    print(save_recorded(NAME, rows, [], about), len(rows))


if __name__ == "__main__":
    main()
