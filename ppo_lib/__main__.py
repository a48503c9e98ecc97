"""The command line.

    python -m ppo_lib train sft|reward|ppo --config FILE | --recipe pocket  --out DIR  [--set key=value ...] [--resume]
    python -m ppo_lib align --recipe pocket --out DIR       all three stages, then a table and an HTML report
    python -m ppo_lib sample --model DIR --prompt TEXT      let a model answer
    python -m ppo_lib report DIR                            curves and samples of a run as one HTML file

Exit codes: 0 done; 2 bad input, told in one line; 1 a fault; 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from ppo_lib.backbone import Backbone, base_name
from ppo_lib.configuration import (
    ConfigError,
    apply_overrides,
    load_recipe,
    load_yaml,
    read_config,
    suggestion,
    to_mapping,
)
from ppo_lib.diagnostics import diagnose
from ppo_lib.evaluation import before_and_after, format_table, load_evaluation, save_evaluation
from ppo_lib.examples import load_pairs, load_prompts
from ppo_lib.models import ActorCritic
from ppo_lib.records import Interrupted, RunFolder, drive
from ppo_lib.report import write_report
from ppo_lib.rollout import generate_text
from ppo_lib.stages import CONFIGS, build, describe_batches, pick_device
from ppo_lib.trackers import TRACKERS, check_tracker, tracker


class Parser(argparse.ArgumentParser):
    """A parser that refuses in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message and where to find help; exit with 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def positive(text: str) -> int:
    """A whole number of 1 or more, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} must be 1 or more")
    return number


def make_parser() -> Parser:
    """Commands and options."""
    parser = Parser(prog="ppo_lib", description="PPO for language models.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="train|align|sample|report")
    training = Parser(add_help=False)
    source = training.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--config", metavar="FILE", help="a YAML file with the stage's keys, or with a section per stage"
    )
    source.add_argument("--recipe", metavar="NAME", help="a configuration that comes with the package: pocket")
    training.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key; may be repeated"
    )
    training.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    training.add_argument("--resume", action="store_true", help="go on with the run that the folder holds")
    training.add_argument("--log", choices=TRACKERS, help="send the metrics there as well")
    training.add_argument(
        "--checkpoint-every",
        type=positive,
        metavar="N",
        help="iterations between checkpoints; default: about 20 seconds",
    )
    training.add_argument("--quiet", action="store_true", help="no progress bar")

    train = commands.add_parser("train", parents=[training], help="train one stage")
    train.add_argument("stage", choices=list(CONFIGS))
    train.set_defaults(run=run_train)
    align = commands.add_parser("align", parents=[training], help="SFT, reward model and PPO, one after the other")
    align.set_defaults(run=run_align)
    sample = commands.add_parser("sample", help="let a model answer")
    sample.add_argument("--model", required=True, metavar="DIR", help="a run folder, a model folder, or pocket:sft")
    sample.add_argument("--prompt", action="append", required=True, metavar="TEXT", help="may be repeated")
    sample.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="longest answer (64)")
    sample.add_argument("--temperature", type=float, default=0.0, help="0, the default, takes the likeliest token")
    sample.add_argument("--seed", type=int, default=0, help="of the sampling")
    sample.add_argument("--device", default="auto", help="auto, cpu or cuda")
    sample.set_defaults(run=run_sample)
    report = commands.add_parser("report", help="curves and samples of a run as one HTML file")
    report.add_argument("folder", type=Path, metavar="DIR")
    report.set_defaults(run=run_report)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = make_parser().parse_args(arguments)
    try:
        options.run(options)
    except Interrupted as stop:
        print(f"ppo_lib: {stop}", file=sys.stderr)
        return 128 + stop.signal
    except KeyboardInterrupt:
        print("ppo_lib: stopped; a run can go on with --resume", file=sys.stderr)
        return 128 + signal.SIGINT
    except torch.OutOfMemoryError as error:
        first = str(error).splitlines()[0]
        print(f"ppo_lib: out of memory ({first}); lower microbatch: same result, less memory", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of the output went away, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ValueError, OSError) as error:
        print(f"ppo_lib: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def read_sections(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Keys and values of ``--config`` or ``--recipe``, and its name for errors."""
    if options.recipe is not None:
        return load_recipe(options.recipe), f"recipe {options.recipe}"
    return load_yaml(options.config), Path(options.config).name


def section_of(mapping: dict[str, Any], stage: str, where: str) -> dict[str, Any]:
    """Keys and values of one stage's section; an empty section is all defaults."""
    section = mapping[stage]
    if section is not None and not isinstance(section, dict):
        raise ConfigError(f"{where}: section {stage} is {section!r}, but must hold keys and values")
    return dict(section or {})


def run_train(options: argparse.Namespace) -> None:
    """``train``: one stage."""
    mapping, where = read_sections(options)
    stage = options.stage
    if mapping and set(mapping) <= set(CONFIGS):  # a file with sections, such as a recipe
        if stage not in mapping:
            raise ConfigError(f"{where}: has no section {stage!r}; {suggestion(stage, mapping)}")
        mapping, where = section_of(mapping, stage, where), f"{where}, section {stage}"
    config: Any = read_config(CONFIGS[stage], apply_overrides(mapping, options.set), where)
    run_stage(stage, config, RunFolder(options.out, options.resume), options)
    print(f"Curves and samples: python -m ppo_lib report {options.out}")


def run_stage(
    stage: str,
    config: Any,
    run: RunFolder,
    options: argparse.Namespace,
    sft: Path | None = None,
    reward: Path | None = None,
    when_built: Callable[[], None] | None = None,
) -> None:
    """Build a stage and run it to its end in its folder; nothing is written before it is known to fit together.

    Args:
        stage, config, sft, reward: as :func:`ppo_lib.stages.build` takes them.
        run: the stage's folder.
        options: of the command line.
        when_built: called once everything is loaded and before anything is written.
    """
    check_tracker(options.log)
    if run.finished:
        run.begin(to_mapping(config))  # refuses another configuration
        print(f"{stage}: already done, the model is in {run.model}")
        return
    trainer = build(stage, config, sft, reward)
    print(f"{stage}: {describe_batches(config, trainer.iterations)}", flush=True)
    if when_built is not None:
        when_built()
    run.begin(to_mapping(config))
    with tracker(options.log, run.path, to_mapping(config)) as log:
        for metrics in drive(trainer, run, options.checkpoint_every, progress=not options.quiet):
            log(metrics)
    for finding in diagnose(run.metrics(), to_mapping(config)):
        print(f"  {finding}")
    print(f"{stage}: done in {run.elapsed():.0f} s, the model is in {run.model}", flush=True)


def run_align(options: argparse.Namespace) -> None:
    """``align``: the three stages, each standing on the one before; then the table and the report."""
    mapping, where = read_sections(options)
    mapping = apply_overrides(mapping, options.set)
    if set(mapping) != set(CONFIGS):
        raise ConfigError(f"{where}: has the sections {sorted(mapping)}, but align needs {', '.join(CONFIGS)}")
    # What a stage stands on is what the stage before has made, whatever the section says.
    standing = {
        "reward": {"model": "../sft/model"},
        "ppo": {"model": "../sft/model", "reward_model": "../reward/model"},
    }
    configs: dict[str, Any] = {
        stage: read_config(
            cls, section_of(mapping, stage, where) | standing.get(stage, {}), f"{where}, section {stage}"
        )
        for stage, cls in CONFIGS.items()
    }
    check_tracker(options.log)
    folder: Path = options.out
    whole = RunFolder(folder, options.resume)
    everything = {stage: to_mapping(config) for stage, config in configs.items()}
    whole.check(everything)
    load_pairs(configs["reward"].data)  # a fault in the data should show now, not after the first stage
    load_prompts(configs["ppo"].prompts)
    runs = {stage: RunFolder(folder / stage, resume=True) for stage in CONFIGS}
    run_stage("sft", configs["sft"], runs["sft"], options, when_built=lambda: whole.begin(everything))
    run_stage("reward", configs["reward"], runs["reward"], options, sft=runs["sft"].model)
    run_stage("ppo", configs["ppo"], runs["ppo"], options, sft=runs["sft"].model, reward=runs["reward"].model)
    result = load_evaluation(folder / "evaluation.json")
    if result is None:
        models = {stage: run.model for stage, run in runs.items()}
        result = before_and_after(configs["ppo"], models["sft"], models["reward"], models["ppo"])
        save_evaluation(folder / "evaluation.json", result)
    print("\n" + format_table(result))
    print(f"\nReport: {write_report(folder)}")


def run_sample(options: argparse.Namespace) -> None:
    """``sample``: print each answer, after its prompt where there are several."""
    backbone, adapter = load_speaker(options.model, pick_device(options.device))
    answers = generate_text(
        backbone, options.prompt, options.max_new_tokens, options.temperature, adapter, options.seed
    )
    for prompt, answer in zip(options.prompt, answers, strict=True):
        print(f"{prompt} -> {answer}" if len(answers) > 1 else answer)


def load_speaker(name: str, device: str) -> tuple[Backbone, str | None]:
    """The model in a folder and the adapter that it speaks with: a trained policy, or a plain model.

    Raises:
        ValueError: a reward model, an unfinished run, or no model.
    """
    folder = Path(name)
    inside = [path for path in (folder / "ppo" / "model", folder / "model") if path.is_dir()]
    if not inside and (folder / "config.yaml").exists():
        raise ConfigError(f"{name!r} is a run that has not finished; go on with --resume, then sample")
    folder = inside[0] if inside else folder
    if (folder / "reward_head.safetensors").exists():
        raise ConfigError(f"{name!r} holds a reward model, which scores texts and writes none; give a policy")
    if not (folder / "adapter_config.json").exists():
        return Backbone.from_pretrained(folder if inside else name, device=device), None
    base = base_name(folder)
    beside = folder.parent.parent / "sft" / "model"  # of align, wherever its folder was moved to
    if not base.startswith("pocket:") and not Path(base).exists() and beside.is_dir():
        base = str(beside)
    return ActorCritic.from_pretrained(folder, Backbone.from_pretrained(base, device=device)).backbone, "policy"


def run_report(options: argparse.Namespace) -> None:
    """``report``: write ``report.html`` into the run's folder."""
    print(write_report(options.folder))


if __name__ == "__main__":
    sys.exit(main())
