"""One call that measures PPO on one GPU: rollout, update, whole iteration, memory, and how cost grows.

    python benchmarks/bench_gpu.py --out results.json          # about 10 minutes on a GPU; needs no network
    python benchmarks/bench_gpu.py --tiny                      # the same program on a CPU, to see that it runs

The model has the shape of Qwen2.5-0.5B with random weights in bfloat16, an actor with LoRA of rank 8, and no way to end
a response early, so that every measurement is of the same work. Roofs are measured on the card itself: memory bandwidth
by copying, arithmetic by a large bfloat16 product. ``decode roof`` is the time that reading the weights and the cache
takes at that bandwidth. Results are written after each part; parts that no longer fit into ``--seconds`` are left out
and said to be.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_growth
import bench_trl
import eager
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, __version__
from transformers.utils import logging as transformers_logging

from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.norms import quicken_norms
from ppo_lib.models.rotation import quicken_rotation
from ppo_lib.models.tokens import pad_pairs
from ppo_lib.run.memory import cache_bytes_per_token, plan_memory
from ppo_lib.sampling.rollout import sample
from ppo_lib.trainers.configuration import PPOConfig
from ppo_lib.trainers.ppo import PPOTrainer

QWEN = bench_trl.GPU.shape
TINY = {**QWEN, "vocab_size": 300, "hidden_size": 28, "intermediate_size": 64, "num_hidden_layers": 2}
PROMPT = 64
PRODUCTS = ("gemm", "matmul", "::mm", "::bmm", "::addmm", "linear", "cutlass", "nvjet", "xmma")  # in names of kernels


class Bench:
    """Where the measurements go, and how long there is.

    Args:
        device: ``cuda`` or ``cpu``.
        seconds: after these, no further part is begun.
        path: the JSON file, written after every part.
        only: words of which a part's name must hold one; all parts where there are none.
    """

    def __init__(self, device: str, seconds: float, path: Path, only: list[str]) -> None:
        self.device, self.path, self.only = device, path, only
        self.start, self.seconds = time.perf_counter(), seconds
        self.results: dict[str, Any] = {}

    def part(self, name: str, work: Callable[[], Any]) -> None:
        """Measure one part, store and print it; a part that fails says so and stops nothing."""
        if self.only and not any(word in name for word in [*self.only, "about", "roofs"]):
            return
        if time.perf_counter() - self.start > self.seconds:
            self.results[name] = "left out: no time"
        else:
            try:
                self.results[name] = work()
            except Exception as error:  # whatever it is, the other parts still count
                self.results[name] = f"failed: {type(error).__name__}: {str(error)[:300]}"
        if self.device == "cuda":
            torch.cuda.empty_cache()
        print(f"[{time.perf_counter() - self.start:5.0f} s] {name}: {json.dumps(self.results[name])}", flush=True)
        self.path.write_text(json.dumps(self.results, indent=1) + "\n")

    def timed(self, work: Callable[[], Any]) -> float:
        """Seconds of one call, the GPU's work included."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Wait for the GPU."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def build(shape: dict[str, Any], device: str) -> ActorCritic:
    """Actor, critic and reference with random weights in bfloat16."""
    words = {f"w{i}": i for i in range(shape["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w0", pad_token="w1")
    torch.manual_seed(0)
    torch.backends.cuda.enable_cudnn_sdp(False)  # with a mask, its backward may give NaN in bfloat16
    with torch.device(device):
        causal_lm = AutoModelForCausalLM.from_config(Qwen2Config(**shape, eos_token_id=0), dtype=torch.bfloat16)
    backbone = Backbone(causal_lm, fast, "random")
    policy = ActorCritic(backbone, lora_rank=8)
    backbone.eos_token_ids = [-1]
    return policy


def roofs(bench: Bench, tiny: bool) -> dict[str, float]:
    """Bytes per second of a copy (read and write), and operations per second of a bfloat16 product: best of five."""
    n, m = (2**20, 256) if tiny else (2**30, 8192)
    source, target = (torch.empty(n, dtype=torch.uint8, device=bench.device) for _ in range(2))
    a, b = (torch.randn(m, m, dtype=torch.bfloat16, device=bench.device) for _ in range(2))
    copy = min(bench.timed(lambda: [target.copy_(source) for _ in range(10)]) for _ in range(5)) / 10
    product = min(bench.timed(lambda: [a @ b for _ in range(10)]) for _ in range(5)) / 10
    return {"bytes_per_second": 2 * n / copy, "operations_per_second": 2 * m**3 / product}


def rollout(
    bench: Bench, policy: ActorCritic, rows: int, length: int, bandwidth: float, adapter: str | None
) -> dict[str, float]:
    """Our sampling beside the roof; the second of two calls counts."""
    backbone = policy.backbone
    prompts = [[5 + i % 90] * PROMPT for i in range(rows)]
    generator = torch.Generator(bench.device).manual_seed(0)
    seconds = min(bench.timed(lambda: sample(backbone, prompts, length, 1.0, adapter, generator)) for _ in range(2))
    weights = sum(p.numel() * p.element_size() for p in backbone.parameters() if not p.requires_grad)
    per_token = cache_bytes_per_token(backbone.causal_lm.config, 2)
    roof = sum(weights + rows * (PROMPT + step) * per_token for step in range(length)) / bandwidth
    return {"seconds": seconds, "tokens_per_second": rows * length / seconds, "share_of_decode_roof": roof / seconds}


def generate(bench: Bench, policy: ActorCritic, rows: int, length: int, adapter: str | None) -> dict[str, float]:
    """transformers' eager generate on the same model and prompts; one call after a short one.

    Of a long response, 64 steps in its middle are timed and counted for all: as many columns are read on the average.
    """
    backbone = policy.backbone
    prompts = [[5 + i % 90] * PROMPT for i in range(rows)]
    inputs = pad_pairs(prompts, [[] for _ in prompts], backbone.pad_token_id).to(bench.device)
    with backbone.adapter(adapter):
        eager.generate(backbone, inputs, 4)
        if length <= 256:
            seconds = bench.timed(lambda: eager.generate(backbone, inputs, length))
        else:
            middle = [prompt + [9] * (length // 2 - 32) for prompt in prompts]
            inputs = pad_pairs(middle, [[] for _ in prompts], backbone.pad_token_id).to(bench.device)
            first = bench.timed(lambda: eager.generate(backbone, inputs, 1))
            seconds = (bench.timed(lambda: eager.generate(backbone, inputs, 65)) - first) * length / 64
    return {"seconds": seconds, "tokens_per_second": rows * length / seconds}


def iteration(
    bench: Bench, policy: ActorCritic, rows: int, length: int, microbatch: int, peak: float, ragged: bool = False
) -> dict[str, Any]:
    """The second of two whole iterations: seconds by phase, the update's arithmetic, and memory beside the plan.

    Where the update's time went is seen in one more microbatch: the share of products, and the kernels that took
    longest. ``ragged``: prompts of 48 to 64 tokens, and responses that end by chance, with a mean of about half.
    """
    options = {"rollout_batch": rows, "minibatch": min(64, rows), "microbatch": min(microbatch, rows), "epochs": 4}
    config = PPOConfig(**options, max_new_tokens=length, dtype="bfloat16", device=bench.device, iterations=2)
    prompts = [" ".join([f"w{5 + i % 90}"] * (PROMPT - (i % 17 if ragged else 0))) for i in range(rows)]
    if ragged:  # so many of the tokens end a response that half of all responses end before 0.43 of the length
        count = policy.backbone.causal_lm.config.vocab_size
        policy.backbone.eos_token_ids = list(range(count - max(1, int(1.6 * count / length)), count))
    trainer = PPOTrainer(config, policy, prompts, lambda p, r: [float(i % 7) for i in range(len(r))])
    trainer.step()
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    metrics = trainer.step()
    kernels = profile(bench, trainer)
    policy.backbone.eos_token_ids = [-1]
    mean = metrics["response_length"]
    model = policy.backbone.causal_lm
    head = model.get_output_embeddings().weight.numel()
    body = (
        sum(p.numel() for p in model.base_model.parameters() if not p.requires_grad) - head
    )  # embeddings are looked up
    # Forward, and backward to the inputs alone, since the weights are frozen: 4 operations for a weight and a token.
    operations = 4 * config.epochs * rows * (body * (PROMPT + mean) + head * mean)
    plan = plan_memory(model.config, config, PROMPT)
    return {
        "rollout_and_scoring_seconds": metrics["seconds_rollout"],
        "update_seconds": metrics["seconds_update"],
        "tokens_per_second": metrics["tokens_per_second"],
        "response_length": mean,
        "update_share_of_peak": operations / metrics["seconds_update"] / peak,
        "ratio_first_error": metrics["ratio_first_error"],
        "sampling_gap_mean": metrics.get("sampling_gap_mean"),
        "peak_memory_bytes": metrics["peak_memory_bytes"],
        "plan_bytes": plan.total,
        "peak_over_weights_cache_activations": metrics["peak_memory_bytes"]
        / (plan.weights + plan.cache + plan.activations),
        **kernels,
    }


def profile(bench: Bench, trainer: PPOTrainer) -> dict[str, Any]:
    """Where the time of a microbatch goes: the share of products, the kernels that take longest, and their number."""
    on_gpu = bench.device == "cuda"
    experience = trainer.collect(trainer.order.draw(trainer.config.rollout_batch))
    rows = torch.arange(trainer.config.microbatch, device=trainer.device)
    trainer.loss(experience, rows)[0].backward()
    bench.wait()
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CUDA if on_gpu else kinds.CPU]) as seen:
        start = time.perf_counter()
        trainer.loss(experience, rows)[0].backward()
        bench.wait()
        clock = time.perf_counter() - start
    for parameter in trainer.policy.parameters_to_train():
        parameter.grad = None
    rows = seen.key_averages()
    spent = {row.key: row.self_device_time_total if on_gpu else row.self_cpu_time_total for row in rows}
    longest = sorted(spent, key=lambda key: -spent[key])[:12]
    total = sum(spent.values())
    count = sum(row.count for row in rows)
    products = sum(time for key, time in spent.items() if any(word in key.lower() for word in PRODUCTS))
    return {
        "update_share_of_products": products / total,
        "microbatch_kernels": count,
        "microbatch_busy_seconds": total / 1e6,
        "microbatch_seconds_profiled": clock,
        "longest": {key[:60]: spent[key] / total for key in longest},
    }


def with_float32_adapters(policy: ActorCritic) -> ActorCritic:
    """The same policy with adapters that compute in float32, to see what those in bfloat16 save."""
    for parameter in policy.backbone.adapter_parameters("policy"):
        parameter.data = parameter.data.float()
    return policy


def beside_trl(contestant: str, trl_python: str, tiny: bool) -> Any:
    """The counted iterations of one contestant of ``bench_trl.py --work gpu``, in a process of its own."""
    if contestant == "trl" and not bench_trl.has_trl(trl_python):
        return "left out: trl==1.12.0 is not installed; name an interpreter that has it with --trl-python"
    options = argparse.Namespace(work="tiny" if tiny else "gpu", iterations=3, microbatch=0)
    python = trl_python if contestant == "trl" else sys.executable
    return bench_trl.run_in_process(python, contestant, options)


def growth(bench: Bench, tiny: bool) -> None:
    """What bench_growth.py measures, a part a point; stored beside the results as a recorded run for ``growth/gpu``."""
    start, rows = time.perf_counter(), []
    for varied, point in bench_growth.points("tiny" if tiny else bench.device):
        name = f"growth with {varied}: {point}"
        bench.part(name, lambda point=point: bench_growth.measure(**point, device=bench.device, iterations=3))
        if isinstance(bench.results[name], dict):
            rows.append({"varied": varied, **bench.results[name]})
    bench_growth.store(bench.path.parent / "growth", rows, bench.device, 3, time.perf_counter() - start)


def measure(bench: Bench, tiny: bool, trl_python: str) -> None:
    """All parts, the most important first."""
    about = {"torch": torch.__version__, "transformers": __version__, "device": bench.device, "cores": os.cpu_count()}
    if bench.device == "cuda":
        about["card"] = torch.cuda.get_device_name()
    bench.part("about", lambda: about)
    bench.part("roofs", lambda: roofs(bench, tiny))
    found = bench.results["roofs"]
    bandwidth, peak = found.values() if isinstance(found, dict) else (float("nan"), float("nan"))
    policy = build(TINY if tiny else QWEN, bench.device)
    sizes = [(4, 8), (8, 16)] if tiny else [(64, 256), (256, 512)]
    cross = [(4, 16), (8, 8)] if tiny else [(64, 512), (256, 256)]
    for rows, length in sizes:
        bench.part(
            f"rollout {rows}x{length}", lambda r=rows, n=length: rollout(bench, policy, r, n, bandwidth, "policy")
        )
        bench.part(f"generate {rows}x{length}", lambda r=rows, n=length: generate(bench, policy, r, n, "policy"))
    for rows, length in sizes:
        bench.part(f"iteration {rows}x{length}", lambda r=rows, n=length: iteration(bench, policy, r, n, 16, peak))
    for rows, length in sizes[:1]:
        for microbatch in (16, 64):
            bench.part(
                f"iteration {rows}x{length}, ragged, microbatch {microbatch}",
                lambda r=rows, n=length, m=microbatch: iteration(bench, policy, r, n, m, peak, ragged=True),
            )
    for rows, length in cross:
        bench.part(
            f"rollout {rows}x{length}", lambda r=rows, n=length: rollout(bench, policy, r, n, bandwidth, "policy")
        )
        bench.part(f"generate {rows}x{length}", lambda r=rows, n=length: generate(bench, policy, r, n, "policy"))
    for rows, length in sizes[:1]:
        bench.part(
            f"rollout without adapter {rows}x{length}",
            lambda r=rows, n=length: rollout(bench, policy, r, n, bandwidth, None),
        )
        bench.part(
            f"generate without adapter {rows}x{length}", lambda r=rows, n=length: generate(bench, policy, r, n, None)
        )
    rows, length = sizes[0]
    for lever, pull in LEVERS.items():
        pull(policy.backbone, False)
        bench.part(
            f"rollout {rows}x{length}, without {lever}",
            lambda: rollout(bench, policy, rows, length, bandwidth, "policy"),
        )
        bench.part(
            f"iteration {rows}x{length}, without {lever}", lambda: iteration(bench, policy, rows, length, 16, peak)
        )
        pull(policy.backbone, True)
    bench.part(
        f"iteration {rows}x{length}, adapters in float32",
        lambda: iteration(
            bench, with_float32_adapters(build(TINY if tiny else QWEN, bench.device)), rows, length, 16, peak
        ),
    )
    for name in ("trl", "lora", "full"):
        bench.part(f"beside TRL: {name}", lambda name=name: beside_trl(name, trl_python, tiny))
    if not bench.only or "growth" in bench.only:
        growth(bench, tiny)


def merge(backbone: Backbone, wanted: bool) -> None:
    backbone.merge_adapter = wanted


def fuse_norms(backbone: Backbone, wanted: bool) -> None:
    quicken_norms(backbone.causal_lm, wanted)


def fuse_rotation(backbone: Backbone, wanted: bool) -> None:
    quicken_rotation(backbone.causal_lm, wanted)


# What makes it faster, each to be switched off alone: name, and the switch.
LEVERS = {
    "the merged adapter": merge,
    "norms in one kernel": fuse_norms,
    "rotation in four kernels": fuse_rotation,
}


def show(results: dict[str, Any]) -> None:
    """The ratios that the project set itself as marks, as far as they were measured."""
    print("\nrollout beside eager generate (mark: 10 times as fast), share of the decode roof (goal: half)")
    for name, ours in results.items():
        theirs = results.get(name.replace("rollout", "generate"))
        if name.startswith("rollout") and isinstance(ours, dict) and isinstance(theirs, dict):
            faster = theirs["seconds"] / ours["seconds"]
            print(f"  {name:36}{faster:6.1f} times{ours['share_of_decode_roof']:8.2f} of the roof")
    print("what each lever brings: seconds without it, over seconds with it")
    for name, without in results.items():
        before, comma, lever = name.partition(", without ")
        with_it = results.get(before)
        if comma and isinstance(without, dict) and isinstance(with_it, dict):
            keys = ("seconds", "rollout_and_scoring_seconds", "update_seconds")
            ratios = [
                f"{key.removesuffix('_seconds')} {without[key] / with_it[key]:.2f}" for key in keys if key in without
            ]
            print(f"  {before:20}{lever:24}{', '.join(ratios)}")
    print("update's share of the bf16 peak (mark: 0.40), peak memory over weights, cache, activations (mark: 1.5)")
    for name, row in results.items():
        if name.startswith("iteration") and isinstance(row, dict):
            phases = f"rollout {row['rollout_and_scoring_seconds']:.2f} s, update {row['update_seconds']:.2f} s"
            memory = row["peak_over_weights_cache_activations"]
            print(f"  {name:44}{phases:34}{row['update_share_of_peak']:6.3f}{memory:8.2f}")
            print(f"  {'':44}products take {row['update_share_of_products']:.2f} of the update")
    beside = {name: results.get(f"beside TRL: {name}") for name in ("trl", "lora", "full")}
    runs = {name: [found] for name, found in beside.items() if isinstance(found, dict)}
    if runs:
        print("one iteration beside TRL 1.12.0's (mark: a fifth of its seconds by default)")
        bench_trl.show(bench_trl.summarize(runs), bench_trl.GPU.marks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU: proves that the program runs")
    parser.add_argument("--trl-python", default=sys.executable, metavar="PATH", help="one that has trl==1.12.0")
    parser.add_argument("--only", nargs="*", default=[], help="parts whose name holds one of these words")
    parser.add_argument("--seconds", type=float, default=500.0, help="begin no part after these")
    default = Path(os.environ.get("OUT", Path(__file__).resolve().parent / "results")) / "gpu.json"
    parser.add_argument("--out", type=Path, default=default, help="where the JSON goes; $OUT/gpu.json where OUT is set")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        print("bench_gpu: there is no GPU here; --tiny runs the same program on a tiny model on the CPU")
        sys.exit(0)
    transformers_logging.set_verbosity_error()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench("cpu" if options.tiny else "cuda", options.seconds, options.out, options.only)
    measure(bench, options.tiny, options.trl_python)
    show(bench.results)


if __name__ == "__main__":
    main()
