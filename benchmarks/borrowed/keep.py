"""Turn what a borrowed card brought back into recorded runs of the package.

    python benchmarks/borrowed/keep.py RUN --tokenizer DIR --name capitals/h200

RUN is the folder that capitals.py wrote; DIR holds the model's tokenizer, by whose vocabulary the language of every
answer is measured (english.py). Stored are ``NAME/rankings`` (the reward model's training, and every ranking), and
``NAME/beta_B/seed_S`` for each PPO run: metrics, every sampled answer with proxy and gold score, the greedy answers to
six questions on the way, and in the manifest what was measured before and after.
"""

import argparse
import json
import re
from pathlib import Path

from english import explain, known_words
from transformers import AutoTokenizer

from ppo_lib.book.recordings import save_recorded
from ppo_lib.pocket.gold import verdict
from ppo_lib.pocket.questions import find_question


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--name", default="capitals/h200")
    options = parser.parse_args()
    words = known_words(AutoTokenizer.from_pretrained(options.tokenizer))
    summary, about = json.loads((options.run / "summary.json").read_text()), None
    for folder in sorted(options.run.glob("ppo-*")):
        about = json.loads((folder / "manifest.json").read_text())
        about["config"].pop("reward_model", None)  # capitals.py hands the judge over itself, whatever the name there
        answers = [
            row
            | {"gold": sum(explain(row["prompt"], row["response"], words).values())}
            | {"right": verdict(find_question(row["prompt"]), row["response"]) == "right"}
            for row in rows(folder / "samples.jsonl")
        ]
        greedy = [row | {"greedy": True} for row in rows(folder / "shown.jsonl")]
        found = json.loads((folder / "summary.json").read_text())
        about["measured"] = {key: found[key] for key in found if key.startswith(("before_", "after_", "seconds_"))}
        _, beta, seed = re.split(r"ppo-beta|-seed", folder.name)
        seed, _, tag = seed.partition("-")
        name = f"{options.name}/beta_{beta}{'_' + tag if tag else ''}/seed_{seed}"
        print(save_recorded(name, rows(folder / "metrics.jsonl"), answers + greedy, about, digits=4))
    ranked = [
        {"split": split, **row}
        for split in ("train", "heldout")
        for row in rows(options.run / f"rankings-{split}.jsonl")
    ]
    kept = {key: about[key] for key in ("commit", "hardware", "versions", "device")} | {"seed": 0, "measured": summary}
    kept["config"] = {**summary.pop("ranked_with"), **summary.pop("reward_config")}
    kept["seconds"] = summary["seconds_rank"] + summary["seconds_reward"]
    print(save_recorded(f"{options.name}/rankings", rows(options.run / "reward-metrics.jsonl"), ranked, kept, digits=4))


if __name__ == "__main__":
    main()
