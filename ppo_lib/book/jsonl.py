"""JSON lines: one row per line, appended whole, read back even when the last line is torn."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ppo_lib.errors import BadInput, reading


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows as JSON lines in one write, so that a reader never sees a half line."""
    lines = [json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    if not lines:
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        content = "".join(lines).encode()
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def finite(value: Any) -> Any:
    """A copy in which NaN and infinities are None: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; an absent file has none, and a torn last line is left out.

    Raises:
        ValueError: a line that is not JSON, other than an unfinished last one.
    """
    with reading(path):
        if not path.exists():
            return []
        text = path.read_text(encoding="utf-8", errors="replace")
    return parse_lines(text, path.name)


def stream_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a JSON-lines file one by one, each with the byte at which it begins, however long the file is.

    Raises:
        ValueError: a line that is not JSON, other than an unfinished last one, or that holds no keys.
    """
    with reading(path):
        if not path.exists():
            return
        with open(path, "rb") as file:
            place = 0
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):
                    yield place, parse_row(line.decode(errors="replace"), path.name, number)
                place += len(line)


def parse_row(line: str, name: str, number: int) -> dict[str, Any]:
    """One row with keys; errors as for :func:`read_jsonl`, naming ``name`` and the line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{name}: line {number} is not JSON: {line[:60]!r}") from error
    if not isinstance(row, dict):
        raise BadInput(f"{name}: line {number} is {line[:60].strip()!r}, but must hold keys and values")
    return row


def parse_lines(text: str, name: str) -> list[dict[str, Any]]:
    """The rows of JSON lines; errors as for :func:`read_jsonl`, naming ``name`` and the line.

    ``str.splitlines`` would be wrong here: it cuts at U+2028, U+0085 and others too, which JSON leaves as they are.
    """
    return [parse_row(line, name, number) for number, line in enumerate(text.split("\n")[:-1], start=1)]


def is_number(x: Any) -> bool:
    """Whether JSON gave a number that a float can hold."""
    return isinstance(x, (int, float)) and abs(x) < 1e300
