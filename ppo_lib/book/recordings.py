"""Recorded runs: metrics, samples and manifest of runs that the book shows, as package data.

A recording is a folder with ``metrics.jsonl.gz``, ``samples.jsonl.gz`` and ``manifest.json`` below
``ppo_lib/recorded``. A notebook that is alone in Colab finds them too, since they are installed
with the package.
"""

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from ppo_lib.book.jsonl import finite, parse_lines


@dataclass(frozen=True)
class RecordedRun:
    """What a run left behind.

    Attributes:
        metrics: one row per iteration.
        samples: rows of text samples, each with its ``iteration``.
        manifest: commit, seed, configuration, hardware, seconds, versions.
    """

    metrics: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    manifest: dict[str, Any]

    def column(self, metric: str) -> list[float]:
        """One metric over the iterations; rows without it (or with null) give NaN.

        Raises:
            KeyError: no row has that metric.
        """
        if not any(metric in row for row in self.metrics):
            known = ", ".join(self.metrics[0]) if self.metrics else "none"
            raise KeyError(f"no metric {metric!r} was recorded; recorded are: {known}")
        values = (row.get(metric) for row in self.metrics)
        return [float("nan") if value is None else float(value) for value in values]


def list_recorded() -> list[str]:
    """The names of all recorded runs, sorted; a name may hold slashes."""
    return sorted(recorded_below(files("ppo_lib").joinpath("recorded"), ""))


def recorded_below(folder: Traversable, prefix: str) -> list[str]:
    """Names of the folders that hold a manifest, at any depth."""
    if not folder.is_dir():
        return []
    names = [prefix.rstrip("/")] if folder.joinpath("manifest.json").is_file() else []
    for child in folder.iterdir():
        if child.is_dir():
            names += recorded_below(child, f"{prefix}{child.name}/")
    return names


def load_recorded(name: str) -> RecordedRun:
    """A recorded run that comes with the package.

    Raises:
        ValueError: no run of that name; lists those there are.
    """
    known = list_recorded()
    if name not in known:
        raise ValueError(f"no recorded run {name!r}; recorded runs: {', '.join(known) or 'none'}")
    folder = files("ppo_lib").joinpath("recorded").joinpath(*name.split("/"))

    def rows(file: str) -> list[dict[str, Any]]:
        packed = folder.joinpath(file)
        return parse_lines(gzip.decompress(packed.read_bytes()).decode(), file) if packed.is_file() else []

    description = json.loads(folder.joinpath("manifest.json").read_text(encoding="utf-8"))
    return RecordedRun(rows("metrics.jsonl.gz"), rows("samples.jsonl.gz"), description)


def save_recorded(
    name_or_dir: str | Path,
    metrics: Iterable[Mapping[str, Any]],
    samples: Iterable[Mapping[str, Any]],
    manifest: Mapping[str, Any],
    digits: int = 5,
) -> Path:
    """Write a recorded run; the same rows give the same bytes.

    Args:
        name_or_dir: a name below ``ppo_lib/recorded`` (text), or any folder (a Path).
        metrics, samples, manifest: as in :class:`RecordedRun`.
        digits: significant digits that numbers keep.

    Returns:
        The folder written.

    Raises:
        ValueError: a name that is empty or leads out of ``ppo_lib/recorded``.
    """
    if isinstance(name_or_dir, str):
        if not name_or_dir or any(part in ("", ".", "..") for part in name_or_dir.split("/")):
            raise ValueError(f"name is {name_or_dir!r}, but must be parts joined by '/', such as 'pocket/seed0'")
        folder = Path(__file__).parents[1] / "recorded" / name_or_dir
    else:
        folder = name_or_dir
    folder.mkdir(parents=True, exist_ok=True)
    for file, rows in (("metrics.jsonl.gz", metrics), ("samples.jsonl.gz", samples)):
        lines = [json.dumps(finite(round_floats(row, digits)), ensure_ascii=False) + "\n" for row in rows]
        # No time stamp in the header: recording twice changes nothing.
        (folder / file).write_bytes(gzip.compress("".join(lines).encode(), 9, mtime=0))
    text = json.dumps(finite(manifest), indent=2, ensure_ascii=False) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")
    return folder


def round_floats(value: Any, digits: int) -> Any:
    """A copy in which floats keep ``digits`` significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, Mapping):
        return {key: round_floats(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [round_floats(item, digits) for item in value]
    return value
