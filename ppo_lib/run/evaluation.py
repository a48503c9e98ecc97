"""Before and after: the model that PPO started from and its policy, on prompts that neither was trained on."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppo_lib.book.intervals import percent, proportion, proportion_of_groups, wins
from ppo_lib.book.jsonl import finite, is_number
from ppo_lib.errors import reading
from ppo_lib.models import registry
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import TokenBatch
from ppo_lib.models.world import ALONE
from ppo_lib.run.data import load_pairs, load_prompts
from ppo_lib.run.files import write_atomic
from ppo_lib.run.machines import pick_device, pick_dtype
from ppo_lib.run.stages import ppo_trainer, short_enough
from ppo_lib.sampling.rollout import sample
from ppo_lib.trainers.configuration import ConfigError, PPOConfig, RewardConfig, check_config, option
from ppo_lib.trainers.experience import describe
from ppo_lib.trainers.judging import watch
from ppo_lib.trainers.ppo import PPOTrainer
from ppo_lib.trainers.reward import RewardTrainer, rankings_of

ROWS = 12  # of texts kept for the report
MEASURED = {
    "score_mean": "proxy score",
    "gold_mean": "gold score",
    "heldout_mean": "held-out judge",
    "kl_k1": "KL, nats per response",
    "response_length": "length, tokens",
    "eos_rate": "ended with an EOS",
}
JUDGES = {"score": "proxy score", "gold": "gold score", "heldout": "held-out judge"}


@dataclass(frozen=True)
class EvaluationConfig:
    """What ``align`` measures at its end, and on what."""

    prompts: str | None = option(None, help="prompts held out, see ppo_lib.run.data; null: the held-out part of ppo's")
    pairs: str | None = option(None, help="comparisons held out; null: the held-out part of the reward model's")
    count: int = option(256, minimum=1, help="prompts at most, and pairs at most ten times as many")
    temperature: float = option(1.0, minimum=0.0, help="of sampling; 0 takes the likeliest token, and measures no KL")
    seed: int = option(1, minimum=0, help="of the sampling, the same for both models")

    def __post_init__(self) -> None:
        check_config(self)


def check_temperature(config: PPOConfig, how: EvaluationConfig) -> None:
    """Refuse to sample at another temperature than the training did.

    Raises:
        ConfigError: they differ, and it is not 0.
    """
    if how.temperature not in (0, config.temperature):
        raise ConfigError(
            f"evaluation.temperature is {how.temperature}, but must be ppo.temperature, which is "
            f"{config.temperature}, or 0: the KL is that of the sampled distribution"
        )


def has_held_out_part(source: str) -> bool:
    """Whether a source keeps a part of itself back, so that nobody needs to name another one."""
    found = registry.find(source)
    return found is not None and found.held_out


def before_and_after(
    config: PPOConfig, policy: Path, sft: Path | None = None, reward: Path | None = None,
    how: EvaluationConfig | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Let both models answer each held-out prompt once, with the same random numbers, and judge the answers.

    Args:
        config: of the PPO run.
        policy: folder of the trained policy.
        sft: folder of the model that PPO started from; ``config.model`` if not given.
        reward: folder of the reward model; ``config.reward_model`` if not given.
        how: what to measure on. Without prompts of its own, and where ``config.prompts`` has no held-out part, the
            training prompts are used, and the result says so.

    Returns:
        ``heldout`` (were the prompts held out?), ``prompts`` (how many), ``greedy``, ``before`` and ``after`` (means of
        ``MEASURED``), ``wins`` (for each judge, how often the policy's answer scored higher, with its interval),
        ``correct`` (shares of right answers with their intervals, where the score is 0 or 1), ``rows`` (texts, scores).
    """
    how = how or EvaluationConfig()
    if how.prompts is not None:
        config = replace(config, prompts=how.prompts)
    prompts = load_prompts(config.prompts, "heldout")[: how.count]
    means, rows = {}, {}
    for when in ("before", "after"):
        model = str(sft or config.model)
        backbone = Backbone.from_pretrained(
            model, device=pick_device(config.device), dtype=pick_dtype(config), chat_template=config.chat_template
        )
        actor = ActorCritic.from_pretrained(policy, backbone) if when == "after" else None
        trainer = ppo_trainer(config, backbone, prompts, reward, actor)
        means[when], rows[when] = evaluate_policy(trainer, how)
    before, after = rows["before"], rows["after"]
    pairs = {name: scored_twice(name, before, after) for name in JUDGES if name in before[0]}
    for name in [name for name, scores in pairs.items() if not scores]:  # it failed, and the warnings said so
        del pairs[name]
        for part in means.values():
            part.pop(f"{name}_mean", None)
    return {
        "heldout": how.prompts is not None or has_held_out_part(config.prompts),
        "prompts": len(before),
        "greedy": how.temperature == 0,
        **means,
        "wins": {name: wins(*zip(*scores, strict=True)) for name, scores in pairs.items()},
        "correct": correct(pairs),
        "rows": [
            {"prompt": a["prompt"], **{f"{key} before": a[key] for key in a if key != "prompt"}}
            | {f"{key} after": b[key] for key in b if key != "prompt"}
            for a, b in zip(before[:ROWS], after[:ROWS], strict=True)
        ],
    }


@torch.no_grad()
def evaluate_policy(trainer: PPOTrainer, how: EvaluationConfig) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Means over all prompts of the trainer, and every answer with its scores."""
    generator = torch.Generator().manual_seed(how.seed)
    totals: dict[str, float] = {}
    texts: list[dict[str, Any]] = []
    count = len(trainer.prompts)
    for start in range(0, count, trainer.config.rollout_batch):
        rows = range(count)[start : start + trainer.config.rollout_batch]
        prompts = [trainer.prompts[row] for row in rows]
        metrics, answers, scores, batch, finished = (sampled if how.temperature else greedy)(
            trainer, rows, how, generator
        )
        for name, value in metrics.items():
            totals[name] = totals.get(name, 0.0) + value * len(rows) / count
        seen = watch(trainer.monitors, trainer.backbone, prompts, answers, batch, finished, trainer.config.microbatch)
        judged = {name: values.tolist() for name, values in seen.items()}
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            other = {name: values[i] for name, values in judged.items()}
            texts.append({"prompt": prompt, "response": answer, "score": scores[i], **other})
    for name in JUDGES:
        known = [row[name] for row in texts if math.isfinite(row.get(name, math.nan))]
        if known:
            totals[f"{name}_mean"] = sum(known) / len(known)
    return {name: totals[name] for name in MEASURED if name in totals}, texts


# Metrics, texts, scores; the answers as tokens, and which of them came to their end.
Answers = tuple[dict[str, float], list[str], list[float], TokenBatch, Tensor]


def sampled(trainer: PPOTrainer, rows: Sequence[int], how: EvaluationConfig, generator: torch.Generator) -> Answers:
    """Answers drawn as in training, with the KL that they show."""
    check_temperature(trainer.config, how)
    experience = trainer.collect(rows, generator)
    scores = experience.scores.tolist()
    return describe(experience, {}), experience.texts, scores, experience.batch, experience.finished


def greedy(trainer: PPOTrainer, rows: Sequence[int], how: EvaluationConfig, generator: torch.Generator) -> Answers:
    """The likeliest answer to each prompt; nothing is sampled, so there is no estimate of a KL."""
    actor = trainer.policy.actor
    ids = [trainer.prompt_ids[row] for row in rows]
    drawn = sample(actor.backbone, ids, trainer.config.max_new_tokens, 0.0, actor.adapter, generator)
    texts = actor.backbone.response_texts(drawn.batch)
    scores = trainer.judge([trainer.prompts[row] for row in rows], texts, drawn.batch, drawn.finished).tolist()
    lengths, finished = drawn.batch.response_lengths.double(), drawn.finished.double()
    metrics = {"response_length": float(lengths.mean()), "eos_rate": float(finished.mean())}
    return metrics, texts, scores, drawn.batch, drawn.finished


@torch.no_grad()
def reward_accuracy(
    config: RewardConfig, folder: Path, sft: Path | None = None, how: EvaluationConfig | None = None
) -> dict[str, Any] | None:
    """How often the reward model orders held-out pairs as people did, with its interval; None without such pairs.

    The interval knows that the pairs of one ranking, which stand side by side, resemble each other
    (:func:`ppo_lib.book.intervals.proportion_of_groups`).
    Pairs too long for the training are left out here too, where the configuration leaves them out there.
    """
    how = how or EvaluationConfig()
    source = how.pairs or (config.data if has_held_out_part(config.data) else None)
    if source is None:
        return None
    pairs = load_pairs(source, "heldout")[: 10 * how.count]
    backbone = Backbone.from_pretrained(
        sft or config.model,
        device=pick_device(config.device),
        dtype=pick_dtype(config),
        chat_template=config.chat_template,
    )
    pairs = short_enough(pairs, config, backbone, ALONE)
    trainer = RewardTrainer(config, RewardModel.from_pretrained(folder, backbone), pairs)
    chosen, rejected = trainer.compare(pairs)
    right = iter((chosen > rejected).double().tolist())
    return proportion_of_groups([[next(right) for _ in ranking] for ranking in rankings_of(pairs, len(pairs))])


def scored_twice(
    judge: str, before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]
) -> list[tuple[float, float]]:
    """A judge's scores of both answers to a prompt, without the prompts where it failed on one of them."""
    pairs = [(a[judge], b[judge]) for a, b in zip(before, after, strict=True)]
    return [pair for pair in pairs if all(map(math.isfinite, pair))]


def correct(pairs: dict[str, list[tuple[float, float]]]) -> dict[str, dict[str, Any]]:
    """For each judge that says only 0 or 1: the shares of ones before and after."""
    binary = {name: scores for name, scores in pairs.items() if {x for pair in scores for x in pair} <= {0.0, 1.0}}
    return {
        name: {
            when: proportion(sum(column), len(column))
            for when, column in zip(("before", "after"), zip(*scores, strict=True), strict=True)
        }
        for name, scores in binary.items()
    }


def format_table(result: dict[str, Any]) -> str:
    """The means as a plain table for the terminal, then win rates and shares with their intervals."""
    kind = "held-out prompts" if result["heldout"] else "training prompts (the recipe has no held-out ones)"
    how = ", greedy" if result.get("greedy") else ""
    lines = [f"On {result['prompts']} {kind}{how}:", f"{'':24}{'SFT':>10}{'PPO':>10}{'change':>10}"]
    for name, words in MEASURED.items():
        if name in result["before"]:
            a, b = result["before"][name], result["after"][name]
            lines.append(f"{words:24}{a:10.3f}{b:10.3f}{b - a:+10.3f}")
    return "\n".join([*lines, *verdict(result)])


def verdict(result: dict[str, Any]) -> list[str]:
    """What the evaluation says, one sentence each: win rates and shares with their intervals."""
    lines = [f"PPO preferred by the {JUDGES[name]}: {percent(won)}" for name, won in result.get("wins", {}).items()]
    for name, shares in result.get("correct", {}).items():
        lines.append(f"right by the {JUDGES[name]}: {percent(shares['before'])} -> {percent(shares['after'])}")
    if result.get("reward_accuracy"):
        lines.append(f"held-out pairs that the reward model orders rightly: {percent(result['reward_accuracy'])}")
    return lines


def save_evaluation(path: Path, result: dict[str, Any]) -> None:
    """Write the result as JSON, whole or not at all."""
    write_atomic(path, json.dumps(finite(result), indent=2, ensure_ascii=False) + "\n")


def load_evaluation(path: Path) -> dict[str, Any] | None:
    """What :func:`save_evaluation` wrote; None where there is none yet.

    Raises:
        ConfigError: the file is damaged.
    """
    with reading(path):
        if not path.exists():
            return None
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        result = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name} is not JSON; remove it, and it is computed again") from error
    if not is_evaluation(result):
        raise ConfigError(f"{path.name} is not what align writes; remove it, and it is computed again")
    return dict(result)


def is_evaluation(result: Any) -> bool:
    """Whether this has the parts that tables and reports show, each of its kind."""
    if not isinstance(result, dict) or not {"heldout", "prompts", "before", "after", "rows"} <= set(result):
        return False
    means, rows = [result["before"], result["after"]], result["rows"]
    return (
        all(isinstance(part, dict) and all(is_number(x) for x in part.values()) for part in means)
        and set(means[0]) <= set(means[1])
        and isinstance(rows, list)
        and all(isinstance(row, dict) for row in rows)
        and has_sound_shares(result)
    )


def has_sound_shares(result: dict[str, Any]) -> bool:
    """Whether win rates and shares, where there are any, are what :func:`verdict` reads."""
    wins, right, accuracy = (result.get(key) or {} for key in ("wins", "correct", "reward_accuracy"))
    if not all(isinstance(part, dict) for part in (wins, right, accuracy)) or not set(wins) | set(right) <= set(JUDGES):
        return False
    pairs = [pair if isinstance(pair, dict) else {} for pair in right.values()]
    shares = [*wins.values(), *(pair.get(when) for pair in pairs for when in ("before", "after"))]
    shares += [accuracy] if accuracy else []
    keys = ("share", "low", "high", "count")
    return all(isinstance(one, dict) and all(is_number(one.get(key)) for key in keys) for one in shares)
