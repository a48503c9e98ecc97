"""How much does one iteration of PPO cost here, beside the last TRL that has PPO?

    python benchmarks/bench_trl.py --trl-python /path/to/a/venv/bin/python     # or: make bench SCRIPT=bench_trl

TRL needs trl==1.12.0 (later releases have no PPO), in this environment or in the one whose python is named. The work
is the same on both sides: a Llama of 5.9 million random weights (hidden 256, 6 layers, vocabulary 2048, float32), the
same 64 prompts of 8 to 16 tokens, 32 new tokens each with no way to stop early, 4 epochs of one minibatch of 64, so 4
optimizer steps; KL penalty 0.05, gamma 1, lambda 0.95, one thread. Three contestants:

* ``trl``: PPOTrainer with its defaults: all weights of the actor, a separate value model, reference, reward model;
* ``full``: ppo_lib with ``finetune: full`` and ``critic: separate``: like for like;
* ``lora``: ppo_lib as it is by default: one backbone, LoRA actor of rank 8, shared critic.

Each run is a process of its own; contestants take turns. CPU seconds are those of a whole iteration (rollout, scoring,
update) after a first one that is not counted; memory is the most that the process ever held, imports included.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROWS, SHORTEST, LONGEST, NEW_TOKENS, EPOCHS, VOCABULARY = 64, 8, 16, 32, 4, 2048
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
MARKS = {"full": {"seconds": 0.8}, "lora": {"seconds": 0.45, "memory": 0.5}}
RESULTS = Path(__file__).resolve().parent / "results" / "trl.json"


def make_prompts() -> list[list[int]]:
    """Token ids of the prompts, the same for everybody; 0 and 1 are EOS and padding."""
    import torch

    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (ROWS,), generator=generator).tolist()
    return [torch.randint(2, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def make_tokenizer() -> Any:
    """A tokenizer in which word ``w17`` is token 17."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<eos>": 0, "<pad>": 1} | {f"w{i}": i for i in range(2, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )


def run_trl(iterations: int) -> dict[str, Any]:
    """CPU seconds of each iteration of TRL's trainer."""
    import torch
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    class Clock(TrainerCallback):
        """Notes the CPU time at the start and after each iteration."""

        ticks: list[float] = []  # noqa: RUF012

        def on_train_begin(self, *_: object, **__: object) -> None:
            self.ticks.append(time.process_time())

        on_step_end = on_train_begin

    config = LlamaConfig(**SHAPE, num_labels=1)
    torch.manual_seed(0)
    policy, reference = (AutoModelForCausalLM.from_config(config, dtype=torch.float32) for _ in range(2))
    reference.load_state_dict(policy.state_dict())
    reward, value = (AutoModelForSequenceClassification.from_config(config, dtype=torch.float32) for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        arguments = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=ROWS,
            gradient_accumulation_steps=1,  # with more of them its minibatches would have no effect
            num_mini_batches=1,
            num_ppo_epochs=EPOCHS,
            total_episodes=ROWS * iterations,
            local_rollout_forward_batch_size=ROWS,
            response_length=NEW_TOKENS,
            temperature=1.0,
            kl_coef=0.05,
            learning_rate=1e-5,
            num_sample_generations=0,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        clock = Clock()
        trainer = PPOTrainer(
            args=arguments,
            processing_class=make_tokenizer(),
            model=policy,
            ref_model=reference,
            reward_model=reward,
            value_model=value,
            train_dataset=Dataset.from_dict({"input_ids": make_prompts()}),
            eval_dataset=Dataset.from_dict({"input_ids": make_prompts()}),
            callbacks=[clock],
        )
        steps = count_calls(trainer.optimizer.optimizer, "step")
        trainer.train()
    if len(steps) != iterations * EPOCHS:
        raise RuntimeError(f"TRL took {len(steps)} optimizer steps, not {iterations * EPOCHS}")
    seconds = [b - a for a, b in zip(clock.ticks, clock.ticks[1:], strict=False)]
    return {"seconds": seconds, "versions": {"trl": trl.__version__}}


def run_ours(layout: str, microbatch: int, iterations: int) -> dict[str, Any]:
    """CPU seconds of each iteration of ppo_lib's trainer, and of its update alone."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from ppo_lib import __version__
    from ppo_lib.backbone import Backbone
    from ppo_lib.models import ActorCritic, RewardModel
    from ppo_lib.ppo import PPOConfig, PPOTrainer

    torch.manual_seed(0)
    causal_lm = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE), dtype=torch.float32)
    backbone = Backbone(causal_lm, make_tokenizer(), "random")
    options = {"full": {"finetune": "full", "critic": "separate"}, "lora": {}}[layout]
    policy = ActorCritic(backbone, 8, **options)
    policy.actor.backbone.eos_token_ids = [-1]  # nothing may stop early: equal work
    config = PPOConfig(
        rollout_batch=ROWS,
        minibatch=ROWS,
        microbatch=microbatch,
        epochs=EPOCHS,
        max_new_tokens=NEW_TOKENS,
        beta=0.05,
        learning_rate=1e-5,
        iterations=iterations,
        device="cpu",
        **options,
    )
    prompts = [" ".join(f"w{i}" for i in ids) for ids in make_prompts()]
    trainer = PPOTrainer(config, policy, prompts, RewardModel(backbone, 8))
    steps, seconds, updates = count_calls(trainer.optimizer.adam, "step"), [], []
    update = trainer.update

    def timed(experience: Any) -> Any:
        start = time.process_time()
        metrics = update(experience)
        updates.append(time.process_time() - start)
        return metrics

    trainer.update = timed  # type: ignore[method-assign]
    for _ in range(iterations):
        start = time.process_time()
        metrics = trainer.step()
        seconds.append(time.process_time() - start)
        assert metrics["response_length"] == NEW_TOKENS
    if len(steps) != iterations * EPOCHS:
        raise RuntimeError(f"ppo_lib took {len(steps)} optimizer steps, not {iterations * EPOCHS}")
    return {"seconds": seconds, "update_seconds": updates, "versions": {"ppo_lib": __version__}}


def count_calls(thing: Any, name: str) -> list[int]:
    """A list that grows by one with every call of a method."""
    calls: list[int] = []
    method = getattr(thing, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return method(*arguments, **options)

    setattr(thing, name, counted)
    return calls


def run_child(options: argparse.Namespace) -> None:
    """One contestant in this process; prints what it measured as one line of JSON."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if options.child == "trl":
        result = run_trl(options.iterations)
    else:
        result = run_ours(options.child, options.microbatch, options.iterations)
    result["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result["memory_before"] = imported
    result["versions"] |= {"torch": torch.__version__, "transformers": transformers.__version__}
    print("RESULT " + json.dumps(result))


def run_in_process(python: str, child: str, options: argparse.Namespace) -> dict[str, Any]:
    """Start one contestant and read its line."""
    command = [python, __file__, "--child", child, "--iterations", str(options.iterations)]
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, "--microbatch", str(options.microbatch)], env=environment, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"{child} failed:\n{done.stderr[-3000:]}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def has_trl(python: str) -> bool:
    """Whether that interpreter has the TRL that has PPO."""
    found = "import importlib.metadata as m; raise SystemExit(m.version('trl') != '1.12.0')"
    return subprocess.run([python, "-c", found], capture_output=True).returncode == 0


def summarize(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Medians over all counted iterations of a contestant; its largest peak of memory."""
    table = {}
    for name, results in runs.items():
        seconds = [s for result in results for s in result["seconds"][1:]]
        updates = [s for result in results for s in result.get("update_seconds", [])[1:]]
        table[name] = {
            "cpu_seconds": statistics.median(seconds),
            "fastest": min(seconds),
            "slowest": max(seconds),
            **({"update_cpu_seconds": statistics.median(updates)} if updates else {}),
            "peak_bytes": max(result["memory"] for result in results),
            "peak_bytes_over_imports": max(result["memory"] - result["memory_before"] for result in results),
        }
    return table


def show(table: dict[str, dict[str, float]]) -> None:
    """Print the table with ratios to TRL and the marks."""
    trl = table.get("trl")
    print(f"{'':6}{'CPU s':>8}{'range':>16}{'peak MB':>10}{'over imports':>14}{'s / TRL':>10}{'MB / TRL':>10}  mark")
    for name, row in table.items():
        spread = f"{row['fastest']:.2f}-{row['slowest']:.2f}"
        ratios, mark = f"{'':20}", ""
        if trl is not None:
            time_ratio, memory_ratio = (row[key] / trl[key] for key in ("cpu_seconds", "peak_bytes"))
            ratios = f"{time_ratio:10.2f}{memory_ratio:10.2f}"
            if name in MARKS:
                mark = ", ".join(f"{what} <= {limit}" for what, limit in MARKS[name].items())
        megabytes = f"{row['peak_bytes'] / 1e6:10.0f}{row['peak_bytes_over_imports'] / 1e6:14.0f}"
        print(f"{name:6}{row['cpu_seconds']:8.2f}{spread:>16}{megabytes}{ratios}  {mark}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", default=os.environ.get("TRL_PYTHON", sys.executable), metavar="PATH")
    parser.add_argument("--rounds", type=int, default=3, help="processes per contestant")
    parser.add_argument("--iterations", type=int, default=3, help="per process; the first is not counted")
    parser.add_argument("--microbatch", type=int, default=16, help="of ppo_lib: responses per forward pass")
    parser.add_argument("--contestants", nargs="+", default=["trl", "full", "lora"], choices=["trl", "full", "lora"])
    parser.add_argument("--save", action="store_true", help=f"store the result in {RESULTS.name}")
    parser.add_argument("--child", choices=["trl", "full", "lora"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options)
        return
    contestants = options.contestants
    if "trl" in contestants and not has_trl(options.trl_python):
        print("TRL is left out: trl==1.12.0 is not installed here; install it in a virtual environment (pip install")
        print("trl==1.12.0 torch transformers) and name its python with --trl-python or TRL_PYTHON.")
        contestants = [name for name in contestants if name != "trl"]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name in contestants:
            python = options.trl_python if name == "trl" else sys.executable
            runs[name].append(run_in_process(python, name, options))
    table = summarize(runs)
    print("One iteration of PPO, Llama of 5.9 M parameters, 64 responses of 32 tokens, 4 epochs, float32, one thread")
    show(table)
    if options.save:
        about = {
            "work": __doc__.split("\n\n")[2].replace("\n", " "),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load_average": os.getloadavg(),
            "microbatch": options.microbatch,
            "versions": {key: value for rs in runs.values() for r in rs for key, value in r["versions"].items()},
        }
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({"about": about, "table": table, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
