"""Before and after: the SFT model and the policy that PPO made of it, on prompts that neither was trained on."""

import json
from pathlib import Path
from typing import Any

import torch

from ppo_lib.backbone import Backbone
from ppo_lib.checkpoints import write_atomic
from ppo_lib.configuration import ConfigError
from ppo_lib.examples import load_prompts
from ppo_lib.jsonl import finite
from ppo_lib.models import ActorCritic
from ppo_lib.ppo import PPOConfig, PPOTrainer
from ppo_lib.stages import gold_of, load_reward, pick_device

MAX_PROMPTS = 256
ROWS = 12  # of texts kept for the report
MEASURED = {
    "score_mean": "proxy score",
    "gold_mean": "gold score",
    "kl_k1": "KL, nats per response",
    "response_length": "length, tokens",
    "eos_rate": "ended with an EOS",
}


def before_and_after(config: PPOConfig, sft: Path, reward: Path, policy: Path, seed: int = 1) -> dict[str, Any]:
    """Sample one answer per held-out prompt from both models, with the same random numbers, and judge them.

    Args:
        config: of the PPO run. Prompts from a file have no held-out part: then they are the training prompts.
        sft: folder of the SFT model.
        reward: folder of the reward model.
        policy: folder of the trained policy.
        seed: of the sampling.

    Returns:
        ``heldout`` (were the prompts held out?), ``prompts`` (how many), ``before`` and ``after`` (means of the
        measures in ``MEASURED``), ``rows`` (texts with their scores).
    """
    prompts = load_prompts(config.prompts, "heldout")[:MAX_PROMPTS]
    means, rows = {}, {}
    for when in ("before", "after"):
        backbone = Backbone.from_pretrained(sft, device=pick_device(config.device), dtype=config.dtype)
        judge = load_reward(config, backbone, reward)
        actor = ActorCritic(backbone, config.lora_rank) if when == "before" else None
        actor = actor or ActorCritic.from_pretrained(policy, backbone)
        means[when], rows[when] = measure(PPOTrainer(config, actor, prompts, judge, gold_of(config)), seed)
    return {
        "heldout": config.prompts == "pocket",
        "prompts": len(prompts),
        **means,
        "rows": [
            {"prompt": a["prompt"], **{f"{key} before": a[key] for key in a if key != "prompt"}}
            | {f"{key} after": b[key] for key in b if key != "prompt"}
            for a, b in zip(rows["before"], rows["after"], strict=True)
        ],
    }


def measure(trainer: PPOTrainer, seed: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Means over all prompts of the trainer, and the texts of the first few."""
    generator = torch.Generator(trainer.device).manual_seed(seed)
    totals: dict[str, float] = {}
    texts: list[dict[str, Any]] = []
    count = len(trainer.prompts)
    for start in range(0, count, trainer.config.rollout_batch):
        rows = range(count)[start : start + trainer.config.rollout_batch]
        experience = trainer.collect(rows, generator)
        for name, value in trainer.measure(experience).items():
            totals[name] = totals.get(name, 0.0) + value * len(rows) / count
        texts += [
            {"prompt": trainer.prompts[row], "response": text, "score": float(score)}
            for row, text, score in zip(rows, experience.texts, experience.scores, strict=True)
        ]
    kept = texts[:ROWS]
    if trainer.gold is not None:
        gold = trainer.gold([row["prompt"] for row in kept], [row["response"] for row in kept])
        kept = [{**row, "gold": value} for row, value in zip(kept, gold, strict=True)]
    return {name: totals[name] for name in MEASURED if name in totals}, kept


def format_table(result: dict[str, Any]) -> str:
    """The means as a plain table for the terminal."""
    kind = "held-out prompts" if result["heldout"] else "training prompts (the recipe has no held-out ones)"
    lines = [f"On {result['prompts']} {kind}:", f"{'':24}{'SFT':>10}{'PPO':>10}{'change':>10}"]
    for name, words in MEASURED.items():
        if name in result["before"]:
            a, b = result["before"][name], result["after"][name]
            lines.append(f"{words:24}{a:10.3f}{b:10.3f}{b - a:+10.3f}")
    return "\n".join(lines)


def save_evaluation(path: Path, result: dict[str, Any]) -> None:
    """Write the result as JSON, whole or not at all."""
    write_atomic(path, json.dumps(finite(result), indent=2, ensure_ascii=False) + "\n")


def load_evaluation(path: Path) -> dict[str, Any] | None:
    """What :func:`save_evaluation` wrote; None where there is none yet.

    Raises:
        ConfigError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path.name} is not JSON; remove it, and it is computed again") from error
    return dict(result)
