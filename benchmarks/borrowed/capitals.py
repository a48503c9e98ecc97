"""The whole chain on a real model, in one process: rankings, reward model, PPO, and what it did.

    python benchmarks/borrowed/capitals.py rank   --model DIR --out DIR                # rankings of the model's answers
    python benchmarks/borrowed/capitals.py reward --model DIR --out DIR                # the reward model on them
    python benchmarks/borrowed/capitals.py ppo    --model DIR --out DIR --beta 0.05 --seed 0
    ... --tiny                                                                         # few and short: proves it runs

The model answers the atlas's questions about capitals several times each; the atlas's labelers, whose utility is
written down (with the language measured as in english.py), rank the answers; a reward model learns from the rankings
alone; PPO climbs it. The gold score watches and is never trained on. Countries that are held out are asked at the end.
Everything is written as it comes: metrics, every sampled answer, tables, seconds of each stage, a manifest.
"""

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path
from unittest import mock

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from english import explain, known_words

from ppo_lib.book.intervals import proportion
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.pocket import labelers
from ppo_lib.pocket.gold import verdict
from ppo_lib.pocket.questions import find_question, questions
from ppo_lib.run.manifests import manifest
from ppo_lib.sampling.rollout import generate_text
from ppo_lib.trainers.configuration import PPOConfig, RewardConfig
from ppo_lib.trainers.ppo import PPOTrainer
from ppo_lib.trainers.reward import RewardTrainer

ANSWERS, NEW_TOKENS, SHOWN = 4, 48, 6


def asked(heldout: bool) -> list[str]:
    """Questions about capitals, shuffled once and for all; both wordings of a country are held out, or neither."""
    chosen = [q.prompt for q in questions() if q.kind == "capital" and q.heldout == heldout]
    random.Random(0).shuffle(chosen)
    return chosen


def gold_of(backbone: Backbone):
    """The gold score for answers of a model, as a function of two lists."""
    words = known_words(backbone.tokenizer)
    return lambda prompts, texts: [sum(explain(p, t, words).values()) for p, t in zip(prompts, texts, strict=True)]


def right(prompts: list[str], texts: list[str]) -> list[bool]:
    """Whether each answer names the true capital, and no other of the atlas."""
    return [verdict(find_question(p), t) == "right" for p, t in zip(prompts, texts, strict=True)]


def note(out: Path, **facts) -> None:
    """Add to ``summary.json``, and say it."""
    file = out / "summary.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | facts, indent=1) + "\n")
    print(json.dumps(facts)[:600], flush=True)


def append(file: Path, rows: list[dict]) -> None:
    with file.open("a") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def rank(options, backbone: Backbone) -> None:
    """Answers to every question, ranked; sets with fewer than four different answers are left out."""
    start, gold, rng = time.perf_counter(), gold_of(backbone), random.Random(0)
    rounds, tries = (1, 4) if options.tiny else (options.rounds, 6)
    with mock.patch.object(labelers, "gold_score", lambda p, t: gold([p], [t])[0]):
        for split in ("train", "heldout"):
            prompts, rankings, answers = asked(split == "heldout")[: 6 if options.tiny else None], [], 0
            for number in range(rounds):
                many, drawn = [p for p in prompts for _ in range(tries)], []
                chunk = 1024 if options.device == "cuda" else 64
                for start_of in range(0, len(many), chunk):
                    drawn += generate_text(
                        backbone,
                        many[start_of : start_of + chunk],
                        options.new_tokens,
                        1.0,
                        seed=1000 * number + start_of,
                    )
                for i, prompt in enumerate(prompts):
                    texts = drawn[i * tries : (i + 1) * tries]
                    different = list(dict.fromkeys(texts))[:ANSWERS]
                    answers += len(texts)
                    if len(different) == ANSWERS:
                        rankings.append(labelers.rank(prompt, different, rng))
            append(options.out / f"rankings-{split}.jsonl", [vars(r) for r in rankings])
            pairs = [pair for ranking in rankings for pair in ranking.pairs()]
            note(options.out, **{f"rankings_{split}": len(rankings), f"answers_{split}": answers,
                                 f"best_accuracy_{split}": labelers.best_accuracy(pairs),
                                 f"utility_accuracy_{split}": labelers.utility_accuracy(pairs)})  # fmt: skip
    settings = {
        "rounds": rounds,
        "tries": tries,
        "answers": ANSWERS,
        "new_tokens": options.new_tokens,
        "temperature": 1.0,
    }
    settings |= {"length_bias": labelers.LENGTH_BIAS, "noise": labelers.NOISE}
    note(options.out, ranked_with=settings, seconds_rank=time.perf_counter() - start)


def read_pairs(out: Path, split: str) -> list[tuple[str, str, str]]:
    rows = [
        json.loads(line) for line in (out / f"rankings-{split}.jsonl").read_text(encoding="utf-8").split("\n") if line
    ]
    return [pair for row in rows for pair in labelers.Ranking(row["prompt"], tuple(row["responses"])).pairs()]


def reward(options, backbone: Backbone) -> None:
    """The reward model: trained on the rankings, measured on held-out countries, calibrated on fresh answers."""
    start, train, heldout = time.perf_counter(), *(read_pairs(options.out, s) for s in ("train", "heldout"))
    config = RewardConfig(batch=48, microbatch=48, learning_rate=options.reward_rate, lora_rank=8, epochs=1,
                          chat_template=True, device=options.device, seed=0)  # fmt: skip
    model = RewardModel(backbone, config.lora_rank, seed=0)
    trainer = RewardTrainer(config, model, train)
    while trainer.iteration < trainer.iterations:
        append(options.out / "reward-metrics.jsonl", [trainer.step()])
    with torch.no_grad():
        chosen, rejected = zip(*(
            (a.cpu(), b.cpu())
            for i in range(0, len(heldout), 48)
            for a, b in [trainer.score_pairs(heldout[i : i + 48])]
        ), strict=True)  # fmt: skip
    gaps = (torch.cat(chosen) - torch.cat(rejected)).tolist()
    append(options.out / "reward-heldout.jsonl", [
        {"prompt": p, "chosen": a, "rejected": b, "gap": gap} for (p, a, b), gap in zip(heldout, gaps, strict=True)
    ])  # fmt: skip
    prompts = (asked(False) * 2)[: 6 if options.tiny else 256]
    model.calibrate(prompts, generate_text(backbone, prompts, options.new_tokens, 1.0, seed=77))
    model.save_pretrained(options.out / "reward")
    note(options.out, reward_config=vars(config), reward_steps=trainer.iterations, reward_pairs=len(train),
         reward_accuracy=proportion(sum(gap > 0 for gap in gaps), len(gaps)),
         reward_mean=float(model.mean), reward_std=float(model.std),
         seconds_reward=time.perf_counter() - start)  # fmt: skip


def measure(options, config, policy, judge, gold, heldout: bool) -> dict:
    """Means over all questions of a part, each answered twice at temperature 1 and once greedily."""
    prompts = asked(heldout)[: 6 if options.tiny else None]
    trainer = PPOTrainer(config, policy, prompts, judge)
    generator = torch.Generator(trainer.device).manual_seed(5)
    seen = [trainer.collect(range(len(prompts)), generator) for _ in range(1 if options.tiny else 2)]
    texts, scores = [t for e in seen for t in e.texts], [s for e in seen for s in e.scores.tolist()]
    twice = [p for e in seen for p in e.prompts]
    kl = [float(k) for e in seen for k in ((e.logprobs - e.ref_logprobs) * e.batch.mask).sum(1)]
    actor, greedy = policy.actor, []
    for i in range(0, len(prompts), 64):
        greedy += generate_text(actor.backbone, prompts[i : i + 64], options.new_tokens, 0.0, actor.adapter)
    mean = lambda xs: sum(map(float, xs)) / len(xs)  # noqa: E731
    return {
        "questions": len(prompts), "score": mean(scores), "gold": mean(gold(twice, texts)), "kl": mean(kl),
        "right": proportion(sum(right(twice, texts)), len(texts)),
        "greedy_right": proportion(sum(right(prompts, greedy)), len(prompts)),
        "greedy_gold": mean(gold(prompts, greedy)),
        "finished": mean([f for e in seen for f in e.finished.tolist()]),
        "length": mean([n for e in seen for n in e.batch.response_lengths.tolist()]),
        "words": mean([len(t.split()) for t in texts]),
        "examples": [list(row) for row in zip(prompts[:12], texts[:12], greedy[:12], strict=True)],
    }  # fmt: skip


def ppo(options, backbone: Backbone) -> None:
    """PPO on the reward model; before, meanwhile and after, on training and on held-out countries apart."""
    out = options.out / f"ppo-beta{options.beta}-seed{options.seed}{options.tag}"
    out.mkdir(parents=True, exist_ok=True)
    start, gold = time.perf_counter(), gold_of(backbone)
    rows = 4 if options.tiny else options.rows
    config = PPOConfig(iterations=options.iterations, rollout_batch=rows, minibatch=rows // 2, microbatch=rows // 2,
                       epochs=2, max_new_tokens=options.new_tokens, beta=options.beta, missing_eos_penalty=0.5,
                       learning_rate=options.rate, lora_rank=8, seed=options.seed, device=options.device,
                       dtype=options.dtype, chat_template=True, model="SmolLM2-135M-Instruct",
                       prompts="capitals")  # fmt: skip
    judge = RewardModel.from_pretrained(options.out / "reward", backbone)
    policy = ActorCritic(backbone, config.lora_rank, config.seed)
    trainer = PPOTrainer(config, policy, asked(False), judge, gold=gold)
    torch.manual_seed(options.seed)
    facts = {"settings": vars(config)}
    for part in ("train", "heldout"):
        facts[f"before_{part}"] = measure(options, config, policy, judge, gold, part == "heldout")
    note(out, **facts, seconds_before=time.perf_counter() - start)
    start, collect = time.perf_counter(), trainer.collect
    latest = []
    trainer.collect = lambda *given: latest.append(collect(*given)) or latest[-1]  # all answers, not a few
    shown = asked(False)[: SHOWN // 2] + asked(True)[: SHOWN // 2]
    for _ in range(options.iterations):
        metrics = trainer.step()
        experience = latest.pop()
        metrics["right"] = sum(right(experience.prompts, experience.texts)) / rows
        append(out / "metrics.jsonl", [metrics])
        append(out / "samples.jsonl", [
            {"iteration": trainer.iteration, "prompt": p, "response": t, "score": round(s, 3), "finished": f}
            for p, t, s, f in zip(experience.prompts, experience.texts, experience.scores.tolist(),
                                  experience.finished.tolist(), strict=True)
        ])  # fmt: skip
        if trainer.iteration % 5 == 0 or trainer.iteration == 1:
            texts = generate_text(backbone, shown, options.new_tokens, 0.0, policy.actor.adapter)
            append(out / "shown.jsonl", [{"iteration": trainer.iteration, "prompt": p, "response": t}
                                         for p, t in zip(shown, texts, strict=True)])  # fmt: skip
            kept = ("iteration", "score_mean", "gold_mean", "right", "kl_k1", "eos_rate", "response_length",
                    "seconds_rollout", "seconds_update", "ratio_first_error")  # fmt: skip
            print(json.dumps({k: round(metrics[k], 4) for k in kept}), flush=True)
        if time.perf_counter() - start > options.seconds:
            print("no more time: stopped at iteration", trainer.iteration, flush=True)
            break
    seconds = time.perf_counter() - start
    facts = {"seconds_ppo": seconds, "iterations": trainer.iteration, "peak_memory_bytes": metrics["peak_memory_bytes"]}
    start = time.perf_counter()
    for part in ("train", "heldout"):
        facts[f"after_{part}"] = measure(options, config, policy, judge, gold, part == "heldout")
    trainer.save(out / "model")
    about = manifest(vars(config), seconds, device=str(trainer.device))
    note(out, **facts, seconds_after=time.perf_counter() - start)
    (out / "manifest.json").write_text(json.dumps(about, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", choices=["rank", "reward", "ppo"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--beta", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--reward-rate", type=float, default=5e-4)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS)
    parser.add_argument("--seconds", type=float, default=1e9, help="PPO begins no iteration after these")
    parser.add_argument("--tag", default="")
    parser.add_argument("--tf32", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    if options.tf32:
        torch.set_float32_matmul_precision("high")
    if options.tiny:
        options.iterations, options.new_tokens = 2, 8
    torch.backends.cuda.enable_cudnn_sdp(False)  # its backward may give NaN in bfloat16 with a mask
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, {options.device}", flush=True)
    for stage in options.stages:
        start = time.perf_counter()
        backbone = Backbone.from_pretrained(options.model, options.device, options.dtype, chat_template=True)
        print(f"{stage}: loaded in {time.perf_counter() - start:.1f} s", flush=True)
        {"rank": rank, "reward": reward, "ppo": ppo}[stage](options, backbone)


if __name__ == "__main__":
    main()
