"""What the commands of the command line do; :mod:`ppo_lib.run.cli` parses their options."""

import argparse
import dataclasses
import math
import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from ppo_lib.models import registry
from ppo_lib.models.hub import current
from ppo_lib.models.world import ALONE, World
from ppo_lib.parallel.processes import Processes
from ppo_lib.run.data import load_pairs, load_prompts, quiet
from ppo_lib.run.evaluation import (
    EvaluationConfig,
    before_and_after,
    check_temperature,
    format_table,
    load_evaluation,
    reward_accuracy,
    save_evaluation,
)
from ppo_lib.run.exports import TARGETS, as_script
from ppo_lib.run.fitting import Interrupted, deferred_signals, fit
from ppo_lib.run.folders import RunFolder
from ppo_lib.run.health import diagnose
from ppo_lib.run.judge_names import check_judge
from ppo_lib.run.machines import free_memory, held_memory, pick_device
from ppo_lib.run.memory import memory_plan
from ppo_lib.run.ranking import RankConfig, load_labeler, load_ranker
from ppo_lib.run.report import write_report
from ppo_lib.run.samplers import load_sampler
from ppo_lib.run.stages import CONFIGS, build, describe_batches
from ppo_lib.run.trackers import check_tracker, tracker
from ppo_lib.sampling.rollout import generate_text
from ppo_lib.trainers.configuration import (
    MOST_SEED,
    ConfigError,
    apply_overrides,
    defaults_of,
    load_recipe,
    load_yaml,
    read_config,
    suggestion,
    to_mapping,
)

ALIGNED = ("sft", "rank", "reward", "ppo")  # the stages of ``align``; those that a recipe has besides are for ``train``
SECTIONS = {*CONFIGS, "rank", "evaluation"}
ALIGNMENTS = ({"sft", "reward", "ppo"}, {"rank", "reward", "ppo"}, {"sft", "rank", "reward", "ppo"}, {"ppo"})
RANKED = "../rank/rankings/train.jsonl"  # where a stage of ``align`` finds the rankings


def read_sections(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Keys and values of ``--config`` or ``--recipe``, and its name for errors."""
    if options.recipe is not None:
        return load_recipe(options.recipe), f"recipe {options.recipe}"
    return load_yaml(options.config), Path(options.config).name


def section_of(mapping: dict[str, Any], stage: str, where: str) -> dict[str, Any]:
    """Keys and values of one stage's section."""
    section = mapping[stage]
    if section is None:
        raise ConfigError(f"{where}: section {stage} says nothing; write {{}} for all defaults")
    if not isinstance(section, dict):
        raise ConfigError(f"{where}: section {stage} is {section!r}, but must hold keys and values")
    return section


def check_sections(mapping: dict[str, Any], where: str) -> None:
    """Refuse a section of another name: a misspelt one would be missed elsewhere, or not at all."""
    for key in mapping:
        if key not in SECTIONS:
            raise ConfigError(f"{where}: unknown section {key!r}; {suggestion(key, sorted(SECTIONS))}")


def run_train(options: argparse.Namespace) -> None:
    """``train``: one stage."""
    stage, config = options.stage, read_stage(options, options.stage)
    world = Processes.launched(config.device)
    config = settled(config, world)
    run_stage(stage, config, RunFolder(options.out, options.resume, world), options)
    world.say(f"Curves and samples: python -m ppo_lib report {shlex.quote(str(options.out))}")


def settled(config: Any, world: World) -> Any:
    """A configuration with its model named exactly, so that its run folder says which weights it was, and goes on with
    the same ones; tells what was chosen."""
    exact = registry.exact_model(config.model)
    source = registry.find(config.model)
    if source and source.about and exact != config.model:
        world.say(f"model: {source.about()}")
    return dataclasses.replace(config, model=exact)


def run_export(options: argparse.Namespace) -> None:
    """``export``: print PPO's configuration as another trainer's command."""
    config = read_stage(options, "ppo")
    print(as_script(TARGETS[options.target](to_mapping(config))), end="")


def run_rank(options: argparse.Namespace) -> None:
    """``rank``: a model's answers, ranked."""
    config = settled(read_stage(options, "rank"), ALONE)
    run_stage("rank", config, RunFolder(options.out, options.resume, product="rankings"), options)


def read_stage(options: argparse.Namespace, stage: str) -> Any:
    """The configuration of one stage from ``--config`` or ``--recipe`` and ``--set``."""
    mapping, where = read_sections(options)
    if any(key in SECTIONS or isinstance(value, dict) for key, value in mapping.items()):  # such as a recipe
        check_sections(mapping, where)
        if stage not in mapping:
            raise ConfigError(f"{where}: has no section {stage!r}; {suggestion(stage, mapping)}")
        mapping, where = section_of(mapping, stage, where), f"{where}, section {stage}"
    return read_config(configuration_of(stage), apply_overrides(mapping, options.set), where)


def configuration_of(stage: str) -> type:
    """The class of a stage's configuration."""
    return RankConfig if stage == "rank" else CONFIGS[stage]


def run_stage(
    stage: str,
    config: Any,
    run: RunFolder,
    options: argparse.Namespace,
    sft: Path | None = None,
    reward: Path | None = None,
    when_built: Callable[[], None] | None = None,
    rankings: Path | None = None,
) -> None:
    """Build a stage and run it to its end in its folder; nothing is left there before it is known to fit together.

    Args:
        stage, config, sft, reward: as :func:`ppo_lib.run.stages.build` takes them.
        run: the stage's folder.
        options: of the command line.
        when_built: called once everything is loaded and before anything is written.
        rankings: file of comparisons to use instead of ``config.data``.
    """
    check_tracker(options.log)
    with run.held(to_mapping(config), defaults_of(config)):
        if not run.finished:
            train_stage(stage, config, run, options, sft, reward, when_built, rankings)
            return
        if when_built is not None:
            when_built()
        run.world.say(f"{stage}: already done, see {Path(run.name) / run.product}")


def train_stage(
    stage: str,
    config: Any,
    run: RunFolder,
    options: argparse.Namespace,
    sft: Path | None,
    reward: Path | None,
    when_built: Callable[[], None] | None,
    rankings: Path | None,
) -> None:
    """Build a stage and train what is left of it; arguments as of :func:`run_stage`.

    Raises:
        Interrupted: a signal came; what was trained is kept.
    """
    trainer = (
        build_ranker(config, run, sft)
        if stage == "rank"
        else build_planned(
            stage, config if rankings is None else dataclasses.replace(config, data=str(rankings)), run, sft, reward
        )
    )
    trainer.config = config  # as it was written, without the place of this very folder
    if when_built is not None:
        when_built()
    run.begin(to_mapping(config), defaults_of(config))
    how = options.checkpoint_every, not options.quiet, lambda text: run.world.say(f"{stage}: {text}")
    with (
        tracker(options.log if run.world.first else None, run.path, to_mapping(config)) as log,
        deferred_signals() as caught,  # between iterations as well
    ):
        for metrics in fit(trainer, run, *how):
            log(metrics)
    for finding in diagnose(run.metrics(), to_mapping(config)):
        run.world.say(f"  {finding}")
    run.world.say(f"{stage}: done in {run.elapsed():.0f} s, see {Path(run.name) / run.product}")
    if caught:
        raise Interrupted(f"stopped after {stage} was done; what comes next goes on with --resume", caught[0])


def build_ranker(config: Any, run: RunFolder, sft: Path | None) -> Any:
    """What draws and ranks answers, of ``sft`` where there is one."""
    ranker = load_ranker(config if sft is None else dataclasses.replace(config, model=str(sft)))
    run.world.say(ranker.describe())
    return ranker


def build_planned(stage: str, config: Any, run: RunFolder, sft: Path | None, reward: Path | None) -> Any:
    """The trainer of a stage, after its memory was planned and its batches were told."""
    plan = memory_plan(stage, config, sft, reward, run.world)  # before any weights are read
    device = run.world.device or pick_device(config.device)
    plan.check(free_memory(device), stage)
    held = held_memory(device)
    trainer = build(stage, config, sft, reward, run.world)
    run.world.say(f"{stage}: {describe_batches(config, trainer.iterations, run.world)}")
    run.world.say(plan.table(held))
    return trainer


def run_align(options: argparse.Namespace) -> None:
    """``align``: the stages of a recipe, each standing on the one before; then the table and the report."""
    mapping, where = read_sections(options)
    configs, how = read_recipe(apply_overrides(mapping, spread(options.set, mapping)), where)
    check_standing(options.set, configs)
    check_tracker(options.log)
    folder: Path = options.out
    world = Processes.launched(configs["ppo"].device)
    if world.sharded:
        raise ConfigError(
            "align ends by measuring with whole models in one process, so it does not go with FSDP; "
            "use train sft, train reward and train ppo, one after the other"
        )
    configs = {stage: settled(config, world) for stage, config in configs.items()}
    whole = RunFolder(folder, options.resume, world)
    sections = {**configs, "evaluation": how}
    everything = {name: to_mapping(config) for name, config in sections.items()}
    defaults = {name: defaults_of(config) for name, config in sections.items()}
    with whole.held(everything, defaults):
        check_inputs(configs, how)
        product = {"rank": "rankings"}
        runs = {name: RunFolder(folder / name, True, world, product.get(name, "model")) for name in configs}
        done: dict[str, Path] = {}  # what the stages have made so far
        for stage, config in configs.items():
            begin = None if done else lambda: whole.begin(everything, defaults)
            ranked = done["rank"] / "train.jsonl" if stage == "reward" and "rank" in done else None
            run_stage(stage, config, runs[stage], options, done.get("sft"), done.get("reward"), begin, ranked)
            done[stage] = runs[stage].model
        if world.first:
            measure(folder, configs, how, done)


def measure(folder: Path, configs: dict[str, Any], how: EvaluationConfig, done: dict[str, Path]) -> None:
    """The end of ``align``: before and after, measured once, and the report."""
    result = load_evaluation(folder / "evaluation.json")
    if result is None:
        result = before_and_after(configs["ppo"], done["ppo"], done.get("sft"), done.get("reward"), how)
        if "reward" in done:
            held = done.get("rank", folder) / "heldout.jsonl"  # that of a recipe without the stage does not exist
            on = dataclasses.replace(how, pairs=str(held)) if how.pairs is None and held.exists() else how
            result["reward_accuracy"] = reward_accuracy(configs["reward"], done["reward"], done.get("sft"), on)
        save_evaluation(folder / "evaluation.json", result)
    print("\n" + format_table(result))
    print(f"\nReport: {write_report(folder)}")


def check_inputs(configs: dict[str, Any], how: EvaluationConfig) -> None:
    """Read what later stages and the measuring will need, so that a fault shows now and not after hours of training.

    Raises:
        ValueError: data or a judge that cannot be had, or a temperature that cannot be measured at.
    """
    ppo = configs["ppo"]
    check_temperature(ppo, how)
    if "rank" in configs:
        load_labeler(configs["rank"].labeler)
        load_prompts(configs["rank"].prompts, say=quiet)
    elif "reward" in configs:
        load_pairs(configs["reward"].data, say=quiet)
    if "reward" in configs and how.pairs is not None:
        load_pairs(how.pairs, say=quiet)
    load_prompts(ppo.prompts, say=quiet)
    load_prompts(how.prompts or ppo.prompts, "heldout", quiet)
    if ppo.heldout_judge is not None:
        check_judge(ppo.heldout_judge, ppo, "heldout_judge")


def check_standing(settings: Sequence[str], configs: Collection[str]) -> None:
    """Refuse a setting of what ``align`` decides itself, instead of taking it and ignoring it.

    Raises:
        ConfigError: names the setting and what to do.
    """
    made = {"ppo.reward_model", "reward_model"} if "reward" in configs else set()
    made |= {"rank.model", "reward.model", "ppo.model"} if "sft" in configs else set()
    made |= {"reward.data"} if "rank" in configs else set()
    made |= {"data"} if "rank" in configs and "sft" not in configs else set()
    for setting in settings:
        key = setting.partition("=")[0].strip()
        if key in made:
            raise ConfigError(
                f"--set {setting!r}: align makes what {key} names in its stages before; use train, or a recipe that "
                "has the section ppo alone"
            )


def spread(settings: Sequence[str], sections: Collection[str]) -> list[str]:
    """Settings of ``align``: ``key=value`` without a section goes to every stage that has the key.

    Raises:
        ConfigError: no stage has it, or it is meant for a stage that ``align`` does not run.
    """
    result = []
    for setting in settings:
        key = setting.partition("=")[0].strip()
        stage = key.partition(".")[0]
        if stage in CONFIGS and stage not in ALIGNED:
            raise ConfigError(f"--set {setting!r}: align runs {', '.join(ALIGNED)}; use train {stage}")
        owners = [stage for stage in ALIGNED if stage in sections and key in field_names(configuration_of(stage))]
        if "." not in key and "=" in setting and not owners and key not in sections:
            known = sorted({name for stage in ALIGNED for name in field_names(configuration_of(stage))})
            raise ConfigError(f"--set {setting!r}: no stage has the key {key!r}; {suggestion(key, known)}")
        result += [f"{stage}.{setting}" for stage in owners] or [setting]
    return result


def field_names(cls: type) -> list[str]:
    """The keys of a configuration."""
    return [field.name for field in dataclasses.fields(cls)]


def read_recipe(mapping: dict[str, Any], where: str) -> tuple[dict[str, Any], EvaluationConfig]:
    """The configurations of a recipe's stages, in order, and of the measuring at its end.

    A recipe has SFT, reward model and PPO; or, in the place of SFT or after it, answers that are ranked; or PPO alone
    where a reward needs no training. Sections of other stages are left alone. What a stage stands on is what the stage
    before has made, whatever its section says.

    Raises:
        ConfigError: other sections, or a section that cannot be used.
    """
    check_sections(mapping, where)
    stages = set(mapping) - {"evaluation"} - (set(CONFIGS) - set(ALIGNED))
    if stages not in ALIGNMENTS:
        needed = "align needs sft, reward, ppo; or rank, reward, ppo; or all four; or ppo alone"
        raise ConfigError(f"{where}: has the sections {sorted(mapping)}, but {needed}")
    standing: dict[str, dict[str, str]] = {stage: {} for stage in ALIGNED}
    if "sft" in stages:
        for stage in ALIGNED[1:]:
            standing[stage]["model"] = "../sft/model"
    if "rank" in stages:
        standing["reward"]["data"] = RANKED
    if "reward" in stages:
        standing["ppo"]["reward_model"] = "../reward/model"
    configs: dict[str, Any] = {
        stage: read_config(
            configuration_of(stage),
            section_of(mapping, stage, where) | standing.get(stage, {}),
            f"{where}, section {stage}",
        )
        for stage in ALIGNED
        if stage in stages
    }
    section = section_of(mapping, "evaluation", where) if "evaluation" in mapping else {}
    return configs, read_config(EvaluationConfig, section, f"{where}, section evaluation")


def run_sample(options: argparse.Namespace) -> None:
    """``sample``: print each answer, after its prompt where there are several."""
    check_sampling(options)
    backbone, adapter = load_sampler(options.model, pick_device(options.device), options.chat_template)
    answers = generate_text(
        backbone, options.prompt, options.max_new_tokens, options.temperature, adapter, options.seed
    )
    for prompt, answer in zip(options.prompt, answers, strict=True):
        print(f"{prompt} -> {answer}" if len(answers) > 1 else answer)


def check_sampling(options: argparse.Namespace) -> None:
    """Refuse, before anything is loaded, what no model could answer.

    Raises:
        ConfigError: a prompt without letters, or a number outside its range.
    """
    for prompt in options.prompt:
        if not prompt.strip():
            raise ConfigError(f"--prompt is {prompt!r}, but must hold more than blanks")
    if not 0 <= options.temperature < math.inf:
        raise ConfigError(f"--temperature is {options.temperature}, but must be a number of 0 or more; 1 is usual")
    if not 0 <= options.seed <= MOST_SEED:
        raise ConfigError(f"--seed is {options.seed}, but must be a whole number from 0 to {MOST_SEED}")


def run_report(options: argparse.Namespace) -> None:
    """``report``: write ``report.html`` into the run's folder."""
    print(write_report(options.folder))


def run_pin(options: argparse.Namespace) -> None:
    """``pin``: print a repository's name with the commit that the hub gives for it today."""
    found = current(options.name, "dataset" if options.dataset else "model")
    print(f"{found.name}@{found.commit}" + (":train" if options.dataset else ""))
