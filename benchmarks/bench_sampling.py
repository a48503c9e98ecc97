"""How fast is our sampling loop beside transformers' ``generate``, on the same model and the same prompts?

    python benchmarks/bench_sampling.py                 # or: make bench SCRIPT=bench_sampling

Both sample the same number of tokens from the pocket model, at temperature 1, in one process and one thread, taking
turns. What is printed are CPU seconds and their ratio (medians of several rounds): seconds on one machine say little
about another, the ratio more.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import eager
import torch
from transformers.utils import logging as transformers_logging

from ppo_lib import pocket
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.tokens import encode_prompts, pad_pairs
from ppo_lib.sampling.rollout import sample

NEW_TOKENS = 32


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(backbone: Backbone, batch: int, rounds: int) -> tuple[float, float]:
    """Median CPU seconds of ppo_lib's and of transformers' sampling for one batch of prompts.

    Args:
        backbone: the model.
        batch: responses at once.
        rounds: how often each is measured, in turns.
    """
    prompts = encode_prompts(backbone.tokenizer, pocket.prompts("train")[:batch])
    padded = pad_pairs(prompts, [[] for _ in prompts], backbone.pad_token_id)
    eos, backbone.eos_token_ids = backbone.eos_token_ids, [-1]  # neither may stop early: equal work

    def ours() -> None:
        sample(backbone, prompts, NEW_TOKENS, adapter=None)

    def theirs() -> None:
        eager.generate(backbone, padded, NEW_TOKENS)

    ours(), theirs()  # warm up
    times = [(cpu_seconds(ours), cpu_seconds(theirs)) for _ in range(rounds)]
    backbone.eos_token_ids = eos
    return statistics.median(t for t, _ in times), statistics.median(t for _, t in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()  # it warns of an EOS that never comes, which is meant
    backbone = pocket.load_backbone("sft")
    print(f"{NEW_TOKENS} new tokens, pocket model, one thread, CPU seconds (median of {options.rounds})")
    print("batch   ppo_lib   transformers   ratio")
    for batch in (1, 16, 64):
        ours, theirs = measure(backbone, batch, options.rounds)
        print(f"{batch:5d}   {ours:7.3f}   {theirs:12.3f}   {ours / theirs:5.2f}")


if __name__ == "__main__":
    main()
