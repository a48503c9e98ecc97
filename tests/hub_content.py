"""What the stand-in hub has: the models and data sets of the recipes, under their names and commits, but tiny.

The models have random weights, in bfloat16 as published ones do; the data sets have the columns, splits and files of
the real ones, and rows that were made up here.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from standin_hub import Hub, Repository
from tiny import ARCHITECTURES, byte_tokenizer
from transformers import PreTrainedTokenizerFast

from ppo_lib.models.hub import pinned_data, pinned_model
from ppo_lib.trainers.configuration import load_recipe

START, END, NOTHING = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
# ChatML, with a system message that nobody has asked for: SmolLM2's and Qwen2.5's templates both put one in.
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SFT_ROWS = 20_000  # so many the recipe takes of the demonstrations
OTHER_SPLITS = ("test_sft", "train_gen", "test_gen")


def make_hub(folder: Path) -> Hub:
    """The whole hub, written below ``folder``."""
    preferences, gsm8k = load_recipe("preferences"), load_recipe("gsm8k")
    models = {
        preferences["sft"]["model"]: save_smollm2,
        gsm8k["ppo"]["model"]: save_qwen2,
        preferences["ppo"]["heldout_judge"]: save_reward_model,
    }
    data = {preferences["reward"]["data"]: save_ultrafeedback, gsm8k["ppo"]["prompts"]: save_gsm8k}
    repositories: dict[tuple[str, str], Repository] = {}
    for kind, read, wanted in (("models", pinned_model, models), ("datasets", pinned_data, data)):
        for text, save in wanted.items():
            pinned = read(text)
            place = folder / kind / pinned.name
            place.mkdir(parents=True)
            save(place)
            repositories[kind, pinned.name] = Repository(pinned.commit, place)
    return Hub(repositories)


def chat_tokenizer(eos: str = END, pad: str = END, bos: str | None = None) -> PreTrainedTokenizerFast:
    """A byte tokenizer with ChatML's tokens."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [START, END, NOTHING]})
    tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token = eos, pad, bos
    tokenizer.chat_template = CHATML
    return tokenizer


def save_model(folder: Path, kind: Callable, architecture: str, tokenizer: PreTrainedTokenizerFast, **options) -> None:
    """Write a random model in bfloat16 and its tokenizer; some architectures of :mod:`tiny`, with room for a chat."""
    name, sizes = ARCHITECTURES[architecture]
    special = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    special |= {"vocab_size": len(tokenizer), "max_position_embeddings": 8192, "dtype": "bfloat16"}
    config = getattr(transformers, name)(**{**sizes, **special, "pad_token_id": tokenizer.pad_token_id, **options})
    torch.manual_seed(0)
    kind.from_config(config).to(torch.bfloat16).save_pretrained(str(folder), max_shard_size="8KB")
    tokenizer.save_pretrained(str(folder))


def save_smollm2(folder: Path) -> None:
    """SmolLM2-Instruct: a Llama; the end of a turn is EOS and padding in one."""
    save_model(folder, transformers.AutoModelForCausalLM, "llama", chat_tokenizer(bos=START), tie_word_embeddings=True)


def save_qwen2(folder: Path) -> None:
    """Qwen2.5-Instruct: two tokens end a text, one of which is the padding; more embeddings than tokens."""
    tokenizer = chat_tokenizer(pad=NOTHING)
    save_model(folder, transformers.AutoModelForCausalLM, "qwen2", tokenizer, vocab_size=320, tie_word_embeddings=True)
    ids = tokenizer.convert_tokens_to_ids([END, NOTHING])
    transformers.GenerationConfig(eos_token_id=ids, pad_token_id=ids[1], do_sample=True).save_pretrained(str(folder))


def save_reward_model(folder: Path) -> None:
    """Skywork-Reward-V2-Qwen3: a sequence classifier with one output."""
    kind = transformers.AutoModelForSequenceClassification
    save_model(folder, kind, "qwen3", chat_tokenizer(pad=NOTHING), num_labels=1)


def save_ultrafeedback(folder: Path) -> None:
    """UltraFeedback, binarized: six splits, each with all columns."""
    from datasets import Dataset

    def chat(question: str, answer: str) -> list[dict[str, str]]:
        return [{"content": question, "role": "user"}, {"content": answer, "role": "assistant"}]

    def row(i: int) -> dict[str, object]:
        question = f"Name {i}."
        good, bad = chat(question, f"It is {i}."), chat(question, "No." * (i % 3))  # an answer may be empty
        return {
            "prompt": question, "prompt_id": f"{i:064x}", "chosen": good, "rejected": bad, "messages": good,
            "score_chosen": 8.5, "score_rejected": 4.0,
        }  # fmt: skip

    sizes = {"train_prefs": 24, "test_prefs": 8, "train_sft": SFT_ROWS + 5} | dict.fromkeys(OTHER_SPLITS, 4)
    (folder / "data").mkdir()
    for split, size in sizes.items():
        rows = Dataset.from_list([row(i) for i in range(size)])
        rows.to_parquet(folder / f"data/{split}-00000-of-00001.parquet")
    write_card(folder, {"default": {split: f"data/{split}-*" for split in sizes}})


def save_gsm8k(folder: Path) -> None:
    """GSM8K: two configurations, neither of which is the default."""
    from datasets import Dataset

    def problem(i: int) -> dict[str, str]:
        pears, total = 1_000 * i, 1_001 * i
        return {
            "question": f"Ann has {i} pears and buys {pears} more. How many has she now?",
            "answer": f"She has {i} + {pears} = <<{i}+{pears}={total}>>{total} pears.\n#### {total:,}",
        }

    configs = ("main", "socratic")
    for config in configs:
        (folder / config).mkdir()
        for split, size in (("train", 12), ("test", 6)):
            rows = Dataset.from_list([problem(i) for i in range(1, size + 1)])
            rows.to_parquet(folder / f"{config}/{split}-00000-of-00001.parquet")
    write_card(folder, {config: {split: f"{config}/{split}-*" for split in ("train", "test")} for config in configs})


def write_card(folder: Path, configs: dict[str, dict[str, str]]) -> None:
    """The README, whose head says which files are which split."""
    lines = ["---", "configs:"]
    for config, files in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        lines += [line for split, path in files.items() for line in (f"  - split: {split}", f"    path: {path}")]
    (folder / "README.md").write_text("\n".join([*lines, "---", "", "# A data set", ""]))
