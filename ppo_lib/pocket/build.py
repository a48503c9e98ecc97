"""Rebuild the pocket models from nothing: tokenizer, base, SFT, answers, reward model.

    python -m ppo_lib.pocket.build --out DIR

About half an hour on one CPU core, most of them pretraining. The same seed gives the same bytes on one machine with
one thread, which this command therefore sets; another processor rounds otherwise, so its bytes differ, and its scores
by little.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedModel

from ppo_lib.models.backbone import Backbone
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.pocket.comparisons import rank_all, sample_answers, save_answers
from ppo_lib.pocket.demonstrations import demonstrations
from ppo_lib.pocket.gold import gold_scores
from ppo_lib.pocket.labelers import best_accuracy, utility_accuracy
from ppo_lib.pocket.pretrain import pretrain
from ppo_lib.pocket.questions import prompts
from ppo_lib.pocket.quiz import is_quiz
from ppo_lib.pocket.tokenizer import train_tokenizer
from ppo_lib.sampling.rollout import generate_text
from ppo_lib.trainers.configuration import RewardConfig, SFTConfig, load_recipe, read_config
from ppo_lib.trainers.optimizer import Trainer
from ppo_lib.trainers.reward import RewardTrainer
from ppo_lib.trainers.sft import SFTTrainer

SFT_NAME = "pocket:sft"  # the name by which the stored reward adapter finds its backbone


def save_half(model: PreTrainedModel, tokenizer, folder: Path) -> None:  # type: ignore[no-untyped-def]
    """Write a model in hub format, its weights in float16; the next stage reads what was written."""
    model.half().save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def train(trainer: Trainer, what: str) -> None:
    """Run a stage to its end behind a progress bar."""
    for _ in tqdm(range(trainer.iterations), desc=what, mininterval=5.0):
        trainer.step()


def build_base(out: Path, seed: int) -> None:
    """Tokenizer and pretraining: ``out/base``.

    Facts come early, in some 800 steps. What takes longest is to judge whether an answer is true (the marked exams),
    and that comes with the second phase, on other documents and at half the learning rate. The third moves the
    judgment to where the answer ends: exams of that form from the start taught far less of it in as many steps.
    """
    tokenizer = train_tokenizer(seed)
    model = pretrain(tokenizer, steps=1700, peak=4e-3, seed=seed)
    model = pretrain(tokenizer, steps=900, peak=2e-3, seed=seed + 77, model=model)
    model = pretrain(tokenizer, steps=500, peak=2e-3, seed=seed + 177, model=model, handed_in=True)
    save_half(model, tokenizer, out / "base")


def build_sft(out: Path, seed: int) -> None:
    """Supervised fine-tuning of ``out/base`` on the demonstrations: ``out/sft``."""
    recipe = load_recipe("pocket")["sft"] | {"model": str(out / "base"), "seed": seed, "device": "cpu"}
    backbone = Backbone.from_pretrained(out / "base")
    trainer = SFTTrainer(read_config(SFTConfig, recipe, "sft"), backbone, demonstrations())
    train(trainer, "SFT")
    save_half(backbone.causal_lm, AutoTokenizer.from_pretrained(str(out / "base")), out / "sft")


def build_reward(out: Path, seed: int) -> None:
    """Sample answers of ``out/sft``, let the labelers rank them, learn from that: ``out/reward``."""
    backbone = Backbone.from_pretrained(out / "sft")
    backbone.name = SFT_NAME
    answers = {split: sample_answers(backbone, split, seed=seed) for split in ("train", "heldout")}
    save_answers(out / "answers.json.gz", answers)
    pairs = [pair for ranking in rank_all(answers["train"]) for pair in ranking.pairs()]
    recipe = load_recipe("pocket")["reward"] | {"model": str(out / "sft"), "seed": seed, "device": "cpu"}
    config = read_config(RewardConfig, recipe, "reward")
    model = RewardModel(backbone, config.lora_rank, seed=config.seed)
    train(RewardTrainer(config, model, pairs), "reward model")
    texts = [(prompt, response) for prompt, responses in answers["train"] for response in responses][:2048]
    model.calibrate(*map(list, zip(*texts, strict=True)))
    model.save_pretrained(out / "reward")


@torch.no_grad()
def summary(out: Path) -> dict[str, float]:
    """What the built models can do on held-out prompts."""
    heldout = prompts("heldout")
    base = generate_text(Backbone.from_pretrained(out / "base"), heldout, 48)
    backbone = Backbone.from_pretrained(out / "sft")
    greedy = generate_text(backbone, heldout, 48)
    sampled = generate_text(backbone, heldout, 48, temperature=1.0)
    model = RewardModel.from_pretrained(out / "reward", backbone)
    answers = sample_answers(backbone, "heldout", seed=1)
    pairs = [pair for ranking in rank_all(answers, seed=1) for pair in ranking.pairs()]
    return {
        "base: quiz rate": sum(map(is_quiz, base)) / len(base),
        "SFT: quiz rate, greedy": sum(map(is_quiz, greedy)) / len(greedy),
        "SFT: gold, greedy": sum(gold_scores(heldout, greedy)) / len(greedy),
        "SFT: gold, sampled": sum(gold_scores(heldout, sampled)) / len(sampled),
        "reward: held-out accuracy": RewardTrainer(RewardConfig(), model, pairs).evaluate(pairs)["accuracy"],
        "reward: utility's accuracy on the same pairs": utility_accuracy(pairs),
        "reward: best expected accuracy": best_accuracy(pairs),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m ppo_lib.pocket.build", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="an empty or new folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base", type=Path, help="take this base model and pretrain none")
    options = parser.parse_args(arguments)
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"--out {options.out} is not empty; give a new folder")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.backends.mkldnn.set_flags(False)  # PyTorch's own products, by which the stored weights were made
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if options.base is None:
        build_base(options.out, options.seed)
    else:
        base = Backbone.from_pretrained(options.base)
        save_half(base.causal_lm, base.tokenizer, options.out / "base")
    build_sft(options.out, options.seed)
    build_reward(options.out, options.seed)
    for name, value in summary(options.out).items():
        print(f"{name:46s} {value:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
