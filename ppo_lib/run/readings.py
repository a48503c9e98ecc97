"""What a report reads from a run's folder, which anybody may have written or damaged: each fault is one sentence."""

import json
import math
import reprlib
from itertools import islice
from pathlib import Path
from typing import Any

from ppo_lib.book.drawing import spaced
from ppo_lib.book.jsonl import finite, is_number, stream_rows
from ppo_lib.errors import reading
from ppo_lib.trainers.configuration import ConfigError, load_yaml

SHOWN_SAMPLES = 4  # at each of first, middle and last iteration


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of metrics that belong to an iteration, in numbers; what is not finite is None.

    Raises:
        ConfigError: a line that is no row of numbers; names it.
    """
    rows = []
    for number, (_, row) in enumerate(stream_rows(path), start=1):
        for key, value in row.items():
            if value is not None and not is_metric(value):
                raise ConfigError(
                    f"{path.name}: line {number}: {key} is {reprlib.repr(value)}, but must be a number; mend or remove "
                    "that line"
                )
        if row.get("iteration") is not None:
            rows.append(finite(row))
    return rows


def is_metric(value: Any) -> bool:
    """Whether this is a number that a chart can show, or one that was not finite."""
    return is_number(value) or (isinstance(value, float) and not math.isfinite(value))


def read_settings(path: Path) -> dict[str, Any]:
    """The configuration of a run; nothing where it has none.

    Raises:
        ConfigError: it is no configuration.
    """
    with reading(path):
        config = load_yaml(path) if path.exists() else {}
    for key in ("epochs", "rollout_batch", "minibatch"):
        if not isinstance(config.get(key, 1), int):
            raise ConfigError(f"{path.name}: {key} is {reprlib.repr(config[key])}, but must be a whole number")
    return config


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a finished run, else nothing; a damaged one is refused."""
    with reading(path):
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else "{}"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path.name} in {path.parent.name!r} is not JSON; remove it to report on the rest"
        ) from error
    if not isinstance(found, dict) or not is_number(found.get("seconds", 0)):
        raise ConfigError(
            f"{path.name} in {path.parent.name!r} is no manifest of a run; remove it to report on the rest"
        )
    return found


def choose_samples(path: Path) -> list[dict[str, Any]]:
    """A few responses of the first, the middle and the last iteration; of the others only their place is kept.

    Raises:
        ConfigError: a line without an iteration; names it.
    """
    first: dict[float, int] = {}  # iteration: the byte where its first row begins
    for number, (place, row) in enumerate(stream_rows(path), start=1):
        iteration: Any = row.get("iteration")
        if not is_number(iteration):
            raise ConfigError(
                f"{path.name}: line {number}: iteration is {reprlib.repr(iteration)}, but must be a number; mend or "
                "remove that line"
            )
        first.setdefault(iteration, place)
    iterations = sorted(first)
    rows = []
    for iteration in [iterations[i] for i in spaced(len(iterations), 3)]:
        with open(path, "rb") as file:
            file.seek(first[iteration])
            following = (json.loads(line) for line in file if line.endswith(b"\n"))
            rows += [row for row in islice(following, SHOWN_SAMPLES) if row["iteration"] == iteration]
    return rows
