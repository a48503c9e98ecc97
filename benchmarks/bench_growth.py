"""How does one iteration of PPO grow with the number of responses, their length, and the size of the model?

    python benchmarks/bench_growth.py                   # about eight minutes on a CPU, one thread; or on a GPU
    python benchmarks/bench_growth.py --tiny --out DIR  # the same program on tiny sizes, to see that it runs

One of the three is varied at a time around a middle, in ``ppo_lib``'s default layout (LoRA of rank 8, shared critic,
4 epochs, two minibatches), with random weights and no way for a response to end early, so that the work is known.
Three times are told apart: generation, scoring (policy and reference read the responses once more; the reward is a
function that costs nothing), and the update. Least of the iterations after the first one, in CPU seconds of one thread,
or seconds by the clock on a GPU. Stored as the recorded run ``growth/cpu`` or ``growth/gpu``, which the book's page on
scaling draws.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import time

import torch
from bench_trl import Work, make_prompts, make_tokenizer
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from ppo_lib.book.recordings import save_recorded
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.run.manifests import manifest
from ppo_lib.trainers.configuration import PPOConfig
from ppo_lib.trainers.ppo import PPOTrainer

PROMPT = 16


def shape(hidden: int, layers: int, vocabulary: int) -> dict[str, Any]:
    """A Llama of the usual proportions, heads of 64 numbers."""
    heads = max(1, hidden // 64)
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": 11 * hidden // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 4096,
    }


# device: (responses, lengths, models as hidden size, layers and vocabulary); what is not varied has the middle value
GRIDS: dict[str, tuple[list[int], list[int], list[tuple[int, int, int]]]] = {
    "cpu": (
        [4, 8, 16, 32, 64, 128, 256],
        [8, 16, 32, 64, 128, 256],
        [(64, 4, 2048), (128, 4, 2048), (256, 6, 2048), (384, 8, 2048), (512, 12, 2048)],
    ),
    "cuda": (
        [4, 16, 64, 128, 256, 512],
        [32, 64, 128, 256, 512],
        [(256, 6, 32_000), (512, 12, 32_000), (896, 24, 32_000), (1536, 28, 32_000), (2048, 24, 32_000)],
    ),
    "tiny": ([2, 4], [4, 8], [(64, 1, 300), (64, 2, 300)]),
}
MIDDLE = {"cpu": (32, 32, (256, 6, 2048)), "cuda": (64, 256, (896, 24, 32_000)), "tiny": (2, 4, (64, 1, 300))}


def measure(responses: int, length: int, model: tuple[int, int, int], device: str, iterations: int) -> dict[str, Any]:
    """Seconds of the three parts of an iteration: the least of all iterations but the first."""
    dtype = "bfloat16" if device == "cuda" else "float32"
    work = Work("Llama", shape(*model), responses, PROMPT, PROMPT, length, device, dtype, 1, 16, {})
    torch.manual_seed(0)
    causal_lm = AutoModelForCausalLM.from_config(work.config(), dtype=getattr(torch, dtype)).to(device)
    backbone = Backbone(causal_lm, make_tokenizer(work), "random")
    policy = ActorCritic(backbone, 8)
    backbone.eos_token_ids = [-1]
    config = PPOConfig(
        rollout_batch=responses,
        minibatch=responses // 2,
        microbatch=min(16, responses // 2),
        max_new_tokens=length,
        iterations=iterations,
        learning_rate=1e-5,
        device=device,
        dtype=dtype,
    )
    prompts = [" ".join(f"w{i}" for i in ids) for ids in make_prompts(work)]
    trainer = PPOTrainer(config, policy, prompts, lambda p, r: [float(i % 7) for i in range(len(r))])
    spent: dict[str, float] = {}

    def timed(name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            start = work.clock()
            result = function(*arguments, **options)
            spent[name] = work.clock() - start
            return result

        return call

    for name in ("roll_out", "collect", "update"):
        setattr(trainer, name, timed(name, getattr(trainer, name)))
    runs = []
    for _ in range(iterations):
        trainer.step()
        took = {"generation": spent["roll_out"], "scoring": spent["collect"] - spent["roll_out"]}
        runs.append({**took, "update": spent["update"]})
    parts = {name: min(run[name] for run in runs[1:]) for name in ("generation", "scoring", "update")}
    weights = sum(p.numel() for p in backbone.parameters() if not p.requires_grad)
    return {"responses": responses, "length": length, "parameters": weights, **parts}


def points(grid: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is varied, and the arguments of :func:`measure`, for every point."""
    middle = dict(zip(("responses", "length", "model"), MIDDLE[grid], strict=True))
    for varied, values in zip(middle, GRIDS[grid], strict=True):
        for value in values:
            yield varied, {**middle, varied: value}


def store(name: str | Path, rows: list[dict[str, Any]], device: str, iterations: int, seconds: float) -> None:
    """Write all rows as a recorded run."""
    about = manifest({"seed": 0, "prompt": PROMPT, "iterations": iterations}, seconds, device=device)
    save_recorded(name, rows, [], about, digits=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on the CPU: proves that the program runs")
    parser.add_argument("--iterations", type=int, default=4, help="for each point; the first is not counted")
    parser.add_argument("--out", type=Path, help="a folder, instead of the package's recorded runs")
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    device = "cuda" if torch.cuda.is_available() and not options.tiny else "cpu"
    if device == "cpu":
        torch.set_num_threads(1)
    start = time.perf_counter()
    rows = []
    for varied, point in points("tiny" if options.tiny else device):
        rows.append({"varied": varied, **measure(**point, device=device, iterations=options.iterations)})
        print(rows[-1], flush=True)
    if options.out or not options.tiny:
        name = options.out or f"growth/{'gpu' if device == 'cuda' else 'cpu'}"
        store(name, rows, device, options.iterations, time.perf_counter() - start)


if __name__ == "__main__":
    main()
