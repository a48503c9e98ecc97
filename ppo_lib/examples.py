"""What the stages learn from: demonstrations, comparisons and prompts, of the pocket atlas or from a JSONL file."""

import json
from collections.abc import Sequence
from pathlib import Path

from ppo_lib import pocket
from ppo_lib.configuration import ConfigError


def load_demonstrations(source: str) -> list[tuple[str, str]]:
    """Pairs of prompt and response.

    Args:
        source: ``pocket``, or a JSONL file whose lines are ``{"prompt": ..., "response": ...}``.

    Raises:
        ConfigError: no such file, no line, or a line without these texts; names the line.
    """
    if source == "pocket":
        return pocket.demonstrations()
    return [(prompt, response) for prompt, response in read_texts(source, ("prompt", "response"))]


def load_pairs(source: str) -> list[tuple[str, str, str]]:
    """Comparisons ``(prompt, chosen, rejected)``; ``pocket``, or JSONL with these keys. Errors as above."""
    if source == "pocket":
        return pocket.preference_pairs("train")
    return [(prompt, good, bad) for prompt, good, bad in read_texts(source, ("prompt", "chosen", "rejected"))]


def load_prompts(source: str, split: str = "train") -> list[str]:
    """Prompts to practise on; ``pocket`` (of the given split), or JSONL with the key ``prompt``. Errors as above."""
    if source == "pocket":
        return pocket.prompts(split)
    return [prompt for (prompt,) in read_texts(source, ("prompt",))]


def read_texts(source: str, keys: Sequence[str]) -> list[list[str]]:
    """The texts under ``keys`` of every line of a JSONL file; blank lines are skipped, other keys ignored."""
    path = Path(source)
    wanted = "{" + ", ".join(f'"{key}": ...' for key in keys) + "}"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"cannot read the data {source!r}: {reason}; give 'pocket' or a JSONL file") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path.name}, line {number}: is not JSON; each line must be {wanted}") from error
        texts = [row.get(key) if isinstance(row, dict) else None for key in keys]
        for key, text in zip(keys, texts, strict=True):
            if not isinstance(text, str) or (key == "prompt" and not text.strip()):
                raise ConfigError(f"{path.name}, line {number}: {key} is {text!r}, but each line must be {wanted}")
        rows.append([str(text) for text in texts])
    if not rows:
        raise ConfigError(f"{path.name}: holds no line; each line must be {wanted}")
    return rows
