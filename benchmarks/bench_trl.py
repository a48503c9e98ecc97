"""How much does one iteration of PPO cost here, beside the last TRL that has PPO?

    python benchmarks/bench_trl.py --trl-python /path/to/a/venv/bin/python     # or: make bench SCRIPT=bench_trl
    python benchmarks/bench_trl.py --work gpu ...                              # on a GPU; bench_gpu.py does it too

TRL needs trl==1.12.0 (later releases have no PPO), in this environment or in the one whose python is named. The work
is the same on both sides: the same prompts, the same number of new tokens with no way to stop early, 4 epochs of one
minibatch, so 4 optimizer steps; KL penalty 0.05, gamma 1, lambda 0.95.

* ``--work cpu``: a Llama of 5.9 million random weights (hidden 256, 6 layers, vocabulary 2048) in float32, 64 prompts
  of 8 to 16 tokens, 32 new tokens each; one thread; CPU seconds, and the most memory that the process ever held.
* ``--work gpu``: the shape of Qwen2.5-0.5B, random weights, bfloat16 (TRL: float32 weights under ``bf16`` autocast), 64
  prompts of 64 tokens, 256 new tokens each; seconds by the clock, and the allocator's peak.
* ``--work tiny``: the program of ``gpu`` on a tiny model on the CPU, to see that it runs.

Three contestants:

* ``trl``: PPOTrainer with its defaults: all weights of the actor, a separate value model, reference, reward model;
* ``full``: ppo_lib with ``finetune: full`` and ``critic: separate``: like for like;
* ``lora``: ppo_lib as it is by default: one backbone, LoRA actor of rank 8, shared critic.

Each run is a process of its own; contestants take turns. Times are of a whole iteration (rollout, scoring, update)
after a first one that is not counted.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

EPOCHS = 4
LAYOUTS: dict[str, dict[str, Any]] = {"full": {"finetune": "full", "critic": "separate"}, "lora": {}}


@dataclass(frozen=True)
class Work:
    """What one iteration has to do.

    Attributes:
        architecture: prefix of transformers' configuration class.
        shape: its arguments.
        rows: prompts, and responses.
        shortest, longest: tokens of a prompt.
        new_tokens: tokens of each response.
        device, dtype: of the models.
        microbatch: responses per forward pass of TRL; of ppo_lib where the command line names none.
        marks: what ppo_lib is to reach, as multiples of TRL's seconds and memory.
    """

    architecture: str
    shape: dict[str, Any]
    rows: int
    shortest: int
    longest: int
    new_tokens: int
    device: str
    dtype: str
    trl_microbatch: int
    microbatch: int
    marks: dict[str, dict[str, float]]

    def config(self) -> Any:
        """The models' configuration; token 0 ends a response, and token 1 is padding."""
        import transformers

        ends = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1, "num_labels": 1}
        return getattr(transformers, f"{self.architecture}Config")(**self.shape, **ends)

    def clock(self) -> float:
        """CPU seconds, or on a GPU seconds once its work is done."""
        if self.device == "cpu":
            return time.process_time()
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()


CPU = Work(
    architecture="Llama",
    shape={
        "vocab_size": 2048,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128,
    },
    rows=64,
    shortest=8,
    longest=16,
    new_tokens=32,
    device="cpu",
    dtype="float32",
    trl_microbatch=64,
    microbatch=16,
    marks={"full": {"seconds": 0.8}, "lora": {"seconds": 0.45, "memory": 0.5}},
)
GPU = Work(
    architecture="Qwen2",
    shape={
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    },
    rows=64,
    shortest=64,
    longest=64,
    new_tokens=256,
    device="cuda",
    dtype="bfloat16",
    trl_microbatch=4,  # its logits of one response of 320 tokens are 97 MB in bfloat16, and it holds several copies
    microbatch=16,
    marks={"lora": {"seconds": 0.2}},
)
SMALL = {"vocab_size": 300, "hidden_size": 28, "intermediate_size": 64, "num_hidden_layers": 2}
SIZES: dict[str, Any] = {"rows": 8, "shortest": 8, "longest": 8, "new_tokens": 8, "microbatch": 4}
TINY = replace(GPU, shape={**GPU.shape, **SMALL}, device="cpu", **SIZES)
WORKS = {"cpu": CPU, "gpu": GPU, "tiny": TINY}
RESULTS = Path(__file__).resolve().parent / "results"


def make_prompts(work: Work) -> list[list[int]]:
    """Token ids of the prompts, the same for everybody; 0 and 1 are EOS and padding."""
    import torch

    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(work.shortest, work.longest + 1, (work.rows,), generator=generator).tolist()
    return [torch.randint(2, work.shape["vocab_size"], (n,), generator=generator).tolist() for n in lengths]


def make_tokenizer(work: Work) -> Any:
    """A tokenizer in which word ``w17`` is token 17."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<eos>": 0, "<pad>": 1} | {f"w{i}": i for i in range(2, work.shape["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", padding_side="left"
    )


def run_trl(work: Work, iterations: int) -> dict[str, Any]:
    """Seconds of each iteration of TRL's trainer."""
    import torch
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    class Clock(TrainerCallback):
        """Notes the time at the start and after each iteration."""

        ticks: list[float] = []  # noqa: RUF012

        def on_train_begin(self, *_: object, **__: object) -> None:
            self.ticks.append(work.clock())

        on_step_end = on_train_begin

    config = work.config()
    torch.manual_seed(0)
    policy, reference = (AutoModelForCausalLM.from_config(config, dtype=torch.float32) for _ in range(2))
    reference.load_state_dict(policy.state_dict())
    reward, value = (AutoModelForSequenceClassification.from_config(config, dtype=torch.float32) for _ in range(2))
    # accelerate ends an accumulation at the end of the data as well, so where there is one, the data must not end.
    microbatches = work.rows // work.trl_microbatch
    data = Dataset.from_dict({"input_ids": make_prompts(work) * (1 if microbatches == 1 else iterations + 1)})
    with tempfile.TemporaryDirectory() as folder:
        arguments = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=work.trl_microbatch,
            gradient_accumulation_steps=microbatches,  # so one minibatch is the whole batch
            num_mini_batches=1,
            num_ppo_epochs=EPOCHS,
            total_episodes=work.rows * iterations,
            local_rollout_forward_batch_size=work.trl_microbatch,
            response_length=work.new_tokens,
            temperature=1.0,
            kl_coef=0.05,
            learning_rate=1e-5,
            num_sample_generations=0,
            gradient_checkpointing=False,
            bf16=work.dtype == "bfloat16",
            use_cpu=work.device == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        clock = Clock()
        trainer = PPOTrainer(
            args=arguments,
            processing_class=make_tokenizer(work),
            model=policy,
            ref_model=reference,
            reward_model=reward,
            value_model=value,
            train_dataset=data,
            eval_dataset=data,
            callbacks=[clock],
        )
        steps = count_calls(trainer.optimizer.optimizer, "step")
        trainer.train()
    if len(steps) != iterations * EPOCHS:
        raise RuntimeError(f"TRL took {len(steps)} optimizer steps, not {iterations * EPOCHS}")
    seconds = [b - a for a, b in zip(clock.ticks, clock.ticks[1:], strict=False)]
    return {"seconds": seconds, "versions": {"trl": trl.__version__}}


def run_ours(work: Work, layout: str, microbatch: int, iterations: int) -> dict[str, Any]:
    """Seconds of each iteration of ppo_lib's trainer, and of its update alone."""
    import torch
    from transformers import AutoModelForCausalLM

    from ppo_lib import __version__
    from ppo_lib.models.actor_critic import ActorCritic
    from ppo_lib.models.backbone import Backbone
    from ppo_lib.models.reward_model import RewardModel
    from ppo_lib.trainers.configuration import PPOConfig
    from ppo_lib.trainers.ppo import PPOTrainer

    torch.manual_seed(0)
    causal_lm = AutoModelForCausalLM.from_config(work.config(), dtype=getattr(torch, work.dtype)).to(work.device)
    backbone = Backbone(causal_lm, make_tokenizer(work), "random")
    policy = ActorCritic(backbone, 8, **LAYOUTS[layout])
    policy.actor.backbone.eos_token_ids = [-1]  # nothing may stop early: equal work
    config = PPOConfig(
        rollout_batch=work.rows,
        minibatch=work.rows,
        microbatch=microbatch,
        epochs=EPOCHS,
        max_new_tokens=work.new_tokens,
        beta=0.05,
        learning_rate=1e-5,
        iterations=iterations,
        device=work.device,
        dtype=work.dtype,
        **LAYOUTS[layout],
    )
    prompts = [" ".join(f"w{i}" for i in ids) for ids in make_prompts(work)]
    trainer = PPOTrainer(config, policy, prompts, RewardModel(backbone, 8))
    steps, seconds, updates = count_calls(trainer.optimizer.adam, "step"), [], []
    update = trainer.update

    def timed(experience: Any) -> Any:
        start = work.clock()
        metrics = update(experience)
        updates.append(work.clock() - start)
        return metrics

    trainer.update = timed  # type: ignore[method-assign]
    for _ in range(iterations):
        start = work.clock()
        metrics = trainer.step()
        seconds.append(work.clock() - start)
        assert metrics["response_length"] == work.new_tokens
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


def peak_memory(work: Work) -> int:
    """The most bytes that the GPU's allocator, or else this process, ever held."""
    import torch

    on_gpu = work.device == "cuda"
    return torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_child(options: argparse.Namespace) -> None:
    """One contestant in this process; prints what it measured as one line of JSON."""
    import torch
    import transformers

    work = WORKS[options.work]
    if work.device == "cpu":
        torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    imported = peak_memory(work)
    if options.child == "trl":
        result = run_trl(work, options.iterations)
    else:
        result = run_ours(work, options.child, options.microbatch or work.microbatch, options.iterations)
    result["memory"] = peak_memory(work)
    result["memory_before"] = imported
    result["versions"] |= {"torch": torch.__version__, "transformers": transformers.__version__}
    print("RESULT " + json.dumps(result))


def run_in_process(python: str, child: str, options: argparse.Namespace) -> dict[str, Any]:
    """Start one contestant and read its line.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    given = {"work": options.work, "iterations": options.iterations, "microbatch": options.microbatch}
    command = [python, __file__, "--child", child, *(f"--{key}={value}" for key, value in given.items())]
    paths = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.split("\n") if line.startswith("RESULT ")]
    if not lines:
        raise RuntimeError(f"{child} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(lines[-1].removeprefix("RESULT ")))


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
            "seconds": statistics.median(seconds),
            "fastest": min(seconds),
            "slowest": max(seconds),
            **({"update_seconds": statistics.median(updates)} if updates else {}),
            "peak_bytes": max(result["memory"] for result in results),
            "peak_bytes_over_imports": max(result["memory"] - result["memory_before"] for result in results),
        }
    return table


def show(table: dict[str, dict[str, float]], marks: dict[str, dict[str, float]]) -> None:
    """Print the table with ratios to TRL and the marks."""
    trl = table.get("trl")
    print(f"{'':6}{'seconds':>8}{'range':>16}{'peak MB':>10}{'over imports':>14}{'s / TRL':>10}{'MB / TRL':>10}  mark")
    for name, row in table.items():
        spread = f"{row['fastest']:.2f}-{row['slowest']:.2f}"
        ratios, mark = f"{'':20}", ""
        if trl is not None:
            time_ratio, memory_ratio = (row[key] / trl[key] for key in ("seconds", "peak_bytes"))
            ratios = f"{time_ratio:10.2f}{memory_ratio:10.2f}"
            if name in marks:
                mark = ", ".join(f"{what} <= {limit}" for what, limit in marks[name].items())
        megabytes = f"{row['peak_bytes'] / 1e6:10.0f}{row['peak_bytes_over_imports'] / 1e6:14.0f}"
        print(f"{name:6}{row['seconds']:8.2f}{spread:>16}{megabytes}{ratios}  {mark}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", default=os.environ.get("TRL_PYTHON", sys.executable), metavar="PATH")
    parser.add_argument("--rounds", type=int, default=3, help="processes per contestant")
    parser.add_argument("--iterations", type=int, default=3, help="per process; the first is not counted")
    parser.add_argument("--work", default="cpu", choices=sorted(WORKS), help="what an iteration has to do; see above")
    parser.add_argument("--microbatch", type=int, default=0, help="of ppo_lib: responses per forward pass; 0: as usual")
    parser.add_argument("--contestants", nargs="+", default=["trl", "full", "lora"], choices=["trl", "full", "lora"])
    parser.add_argument("--save", action="store_true", help="store the result in results/trl-WORK.json")
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
    work, table = WORKS[options.work], summarize(runs)
    of = f"{work.architecture} of hidden size {work.shape['hidden_size']}, {work.dtype} on {work.device}"
    print(f"One iteration of PPO: {work.rows} responses of {work.new_tokens} tokens, {EPOCHS} epochs, {of}")
    show(table, work.marks)
    if options.save:
        about = {
            "work": options.work,
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load_average": os.getloadavg(),
            "versions": {key: value for rs in runs.values() for r in rs for key, value in r["versions"].items()},
        }
        RESULTS.mkdir(exist_ok=True)
        file = RESULTS / f"trl-{options.work}.json"
        file.write_text(json.dumps({"about": about, "table": table, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
