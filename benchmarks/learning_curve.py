"""Does PPO learn here as it does in the last TRL that has it? Reward and KL by episodes, and by CPU seconds.

    python benchmarks/learning_curve.py --trl-python .venv-peers/bin/python      # after make test-peers; half an hour
    python benchmarks/learning_curve.py --show                                   # the table of what is stored

Both sides train the same model (the pocket SFT model, one million weights) against the same judge (the pocket reward
model, for TRL with its adapter merged and its scale in the head), on the same prompts, with the same knobs: all weights
of actor and a separate critic, 64 episodes an iteration, 4 epochs of 2 minibatches, Adam with a constant rate, clips of
0.2, beta 0.05 times k1 in the reward, gamma 1, lambda 0.95, whitened advantages, no bound on the gradient, one thread.
``lora`` is this library as it is by default, one backbone with adapters for both, at the recipe's own learning rate.

Equal it cannot be to the token: the two draw other prompts first and sample by other random numbers. What differs
besides: TRL's reward of a finished answer stands one position after its EOS, and its critic is read there.

A run that is done is kept in ``results/learning-curve.json`` and is not made again.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from bench_trl import EPOCHS, LAYOUTS, RESULTS, count_calls, has_trl

FILE = RESULTS / "learning-curve.json"
SIDES = ("trl", "full", "lora")
ROWS, MINIBATCH, BUDGET, BETA, VALUE_COEF = 64, 32, 48, 0.05, 0.1
NAMES = {"trl": "TRL 1.12.0", "full": "`ppo_lib`, all weights as in TRL", "lora": "`ppo_lib` as it is"}
RATES = {"trl": 1e-4, "full": 1e-4, "lora": 1e-3}
NO_BOUND = 1e9  # on the gradient's length: TRL's trainer has none
Row = dict[str, float]


def as_classifier(backbone: Any, judge: Any = None) -> Any:
    """What TRL takes for a judge or a critic: the SFT model's body and one output.

    It is the judge, with its adapter merged and its scale in the head; without one it says 0.
    """
    import torch
    from transformers import LlamaForSequenceClassification

    model = LlamaForSequenceClassification(backbone.causal_lm.config).eval()
    model.model.load_state_dict(backbone.merged("reward" if judge else None).model.state_dict())
    model.score = torch.nn.Linear(backbone.hidden_size, 1)
    with torch.no_grad():
        model.score.weight.copy_(judge.head.weight / judge.std if judge else torch.zeros(()))
        model.score.bias.copy_((judge.head.bias - judge.mean) / judge.std if judge else torch.zeros(()))
    return model


def run_trl(seed: int, iterations: int) -> list[Row]:
    """TRL's curve, a row for each iteration."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from ppo_lib.models.backbone import Backbone
    from ppo_lib.models.reward_model import RewardModel
    from ppo_lib.run.data import load_prompts

    backbone = Backbone.from_pretrained("pocket:sft")
    judge = RewardModel.from_pretrained("pocket", backbone)

    reward, value = as_classifier(backbone, judge), as_classifier(backbone)
    rows: list[Row] = []

    class Notes(TrainerCallback):
        start = 0.0

        def on_train_begin(self, *_: object, **__: object) -> None:
            Notes.start = time.process_time()

        def on_log(self, arguments: Any, state: Any, control: Any, logs: dict[str, float], **_: object) -> None:
            if "objective/scores" in logs:
                seconds = time.process_time() - Notes.start
                rows.append(row(len(rows) + 1, seconds, logs["objective/scores"], logs["objective/kl"]))

    prompts = backbone.encode_prompts(load_prompts("pocket"))
    with tempfile.TemporaryDirectory() as folder:
        arguments = PPOConfig(
            output_dir=folder,
            seed=seed,
            per_device_train_batch_size=ROWS,  # it holds at most a minibatch at a time all the same
            gradient_accumulation_steps=1,
            num_mini_batches=ROWS // MINIBATCH,
            num_ppo_epochs=EPOCHS,
            total_episodes=ROWS * iterations,
            local_rollout_forward_batch_size=ROWS,
            response_length=BUDGET,
            stop_token="eos",
            temperature=1.0,
            missing_eos_penalty=None,
            kl_coef=BETA,
            vf_coef=2 * VALUE_COEF,  # of half the square, where ppo_lib takes the whole
            learning_rate=RATES["trl"],
            lr_scheduler_type="constant",
            num_sample_generations=0,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = PPOTrainer(
            args=arguments,
            processing_class=backbone.tokenizer,
            model=backbone.merged(None),
            ref_model=backbone.merged(None),
            reward_model=reward,
            value_model=value,
            train_dataset=Dataset.from_dict({"input_ids": prompts}),
            eval_dataset=Dataset.from_dict({"input_ids": prompts[:ROWS]}),
            callbacks=[Notes()],
        )
        steps = count_calls(trainer.optimizer.optimizer, "step")
        trainer.train()
    if len(steps) != iterations * EPOCHS * (ROWS // MINIBATCH):
        raise RuntimeError(f"TRL took {len(steps)} optimizer steps in {iterations} iterations")
    return rows


def run_ours(side: str, seed: int, iterations: int) -> list[Row]:
    """This library's curve, a row for each iteration."""
    from ppo_lib.models.actor_critic import ActorCritic
    from ppo_lib.models.backbone import Backbone
    from ppo_lib.models.reward_model import RewardModel
    from ppo_lib.run.data import load_prompts
    from ppo_lib.trainers.configuration import PPOConfig
    from ppo_lib.trainers.ppo import PPOTrainer

    backbone = Backbone.from_pretrained("pocket:sft")
    judge = RewardModel.from_pretrained("pocket")
    policy = ActorCritic(backbone, 8, seed, **LAYOUTS[side])
    config = PPOConfig(
        iterations=iterations,
        rollout_batch=ROWS,
        minibatch=MINIBATCH,
        microbatch=MINIBATCH,
        epochs=EPOCHS,
        max_new_tokens=BUDGET,
        beta=BETA,
        value_coef=VALUE_COEF,
        learning_rate=RATES[side],
        max_grad_norm=NO_BOUND if side == "full" else 1.0,
        seed=seed,
        device="cpu",
        **LAYOUTS[side],
    )
    trainer, rows = PPOTrainer(config, policy, load_prompts("pocket"), judge), []
    start = time.process_time()
    for i in range(iterations):
        metrics = trainer.step()
        rows.append(row(i + 1, time.process_time() - start, metrics["score_mean"], metrics["kl_k1"]))
    return rows


def row(iteration: int, seconds: float, score: float, kl: float) -> Row:
    """What is kept of an iteration: score and KL are those of its rollout, before it was learned from."""
    return {"episodes": iteration * ROWS, "cpu_seconds": round(seconds, 2), "score": score, "kl": kl}


def child(options: argparse.Namespace) -> None:
    """One curve in this process, printed as one line of JSON."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    ours = options.child != "trl"
    made = (
        run_ours(options.child, options.seed, options.iterations) if ours else run_trl(options.seed, options.iterations)
    )
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if not ours:
        versions["trl"] = __import__("trl").__version__
    print("RESULT " + json.dumps({"rows": made, "versions": versions}))


def curve(side: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One curve, made in a process of its own.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    python = options.trl_python if side == "trl" else sys.executable
    command = [python, __file__, f"--child={side}", f"--seed={seed}", f"--iterations={options.iterations}"]
    root = Path(__file__).resolve().parents[1]
    paths = [str(root), str(root / "benchmarks"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(command, env=environment | {"TRL_EXPERIMENTAL_SILENCE": "1"}, capture_output=True, text=True)
    lines = [line for line in done.stdout.split("\n") if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"{side}, seed {seed} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(lines[-1].removeprefix("RESULT ")))


def curves(stored: dict[str, Any], side: str) -> list[list[Row]]:
    """What is kept of a side, a curve for each seed."""
    return [run["rows"] for name, run in sorted(stored["runs"].items()) if name.startswith(f"{side}/")]


def near(rows: list[Row], last: int, key: str) -> float:
    """A curve where it has come to, smoothed: the mean over iteration ``last`` and the four before it."""
    return statistics.mean(row[key] for row in rows[max(0, last - 5) : last])


def spread(values: list[float]) -> str:
    """Mean of the seeds, with the lowest and the highest."""
    return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def table(stored: dict[str, Any]) -> list[str]:
    """The curves as a table in Markdown: by episodes, and by TRL's CPU seconds."""
    sides = {side: curves(stored, side) for side in SIDES if curves(stored, side)}
    length = min(len(rows) for each in sides.values() for rows in each)
    lines = ["| | " + " | ".join(NAMES[side] for side in sides) + " |", "|---" * (len(sides) + 1) + "|"]

    def add(what: str, cells: list[str]) -> None:
        lines.append(f"| {what} | " + " | ".join(cells) + " |")

    first = max(1, length // 3)
    for last in sorted({first, 2 * length // 3 or 1, length}):
        add(
            f"score about episode {last * ROWS:,}",
            [spread([near(rows, last, "score") for rows in each]) for each in sides.values()],
        )
    add("KL there, nats per answer", [spread([near(rows, length, "kl") for rows in each]) for each in sides.values()])
    for low in (1, 2, 3):
        there = [
            [row["score"] for rows in each for row in rows if low <= row["kl"] < low + 1] for each in sides.values()
        ]
        add(f"score while the KL is {low} to {low + 1}", [f"{statistics.mean(at):.2f}" if at else "–" for at in there])
    if "trl" in sides:
        whole = statistics.mean(rows[length - 1]["cpu_seconds"] for rows in sides["trl"])
        spent = {side: [rows[length - 1]["cpu_seconds"] / whole for rows in each] for side, each in sides.items()}
        add("CPU time of all, TRL's being 1", [f"{statistics.mean(each):.2f}" for each in spent.values()])
        third = statistics.mean(rows[first - 1]["cpu_seconds"] for rows in sides["trl"])
        cells = []
        for each in sides.values():
            ends = [max(1, sum(row["cpu_seconds"] <= third for row in rows)) for rows in each]
            cells.append(spread([near(rows, last, "score") for rows, last in zip(each, ends, strict=True)]))
        add(f"score after the CPU time of TRL's first {first * ROWS:,} episodes", cells)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", default=os.environ.get("TRL_PYTHON", sys.executable), metavar="PATH")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each side")
    parser.add_argument("--iterations", type=int, default=30, help="of each run, 64 episodes each")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--file", type=Path, default=FILE, help="where the curves are kept")
    parser.add_argument("--show", action="store_true", help="print the table of what is kept, and run nothing")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    stored = json.loads(options.file.read_text(encoding="utf-8")) if options.file.exists() else {"runs": {}}
    wanted = [] if options.show else [(seed, side) for seed in range(options.seeds) for side in options.sides]
    if any(side == "trl" for _, side in wanted) and not has_trl(options.trl_python):
        print("TRL is left out: trl==1.12.0 is not there; make test-peers installs it, see --trl-python")
        wanted = [(seed, side) for seed, side in wanted if side != "trl"]
    for seed, side in wanted:
        if (name := f"{side}/{seed}") not in stored["runs"]:
            about = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
            stored["runs"][name] = curve(side, seed, options) | {"about": about}
            options.file.parent.mkdir(exist_ok=True)
            options.file.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
            print(f"{name} is done", flush=True)
    print("\n".join(table(stored)))


if __name__ == "__main__":
    main()
