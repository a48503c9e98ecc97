"""Files of model folders, each read once and checked: JSON objects and safetensors. A folder may come from anyone.

What cannot be used is refused in one sentence that names the file, the key, the value and the remedy.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from ppo_lib.errors import BadInput, reading


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON file of a folder that should be ``what``.

    Raises:
        BadInput: it is not there, cannot be read, or holds no keys and values.
    """
    try:
        with reading(path):
            if not path.is_file():
                raise BadInput(f"{str(path.parent)!r} is not {what}: it has no {path.name}")
            content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{str(path)!r} is not JSON ({error}); was the folder saved to the end?") from error
    if not isinstance(content, dict):
        raise BadInput(f"{str(path)!r} holds {str(content)[:40]!r} in place of keys and values; save the folder again")
    return content


def text_at(content: Mapping[str, Any], key: str, path: Path) -> str:
    """The text under a key of such a file."""
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise BadInput(f"{str(path)!r}: {key} is {value!r}, but must be text; save the folder again")
    return value


def number_at(content: Mapping[str, Any], key: str, path: Path, least: float, most: float) -> float:
    """The number under a key of such a file, within bounds."""
    value = content.get(key)
    fine = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not fine or not least <= value <= most:  # type: ignore[operator]
        wanted = f"a number from {least:g} to {most:g}"
        raise BadInput(f"{str(path)!r}: {key} is {value!r}, but must be {wanted}; save the folder again")
    return value  # type: ignore[return-value]


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, all finite.

    Raises:
        BadInput: it is missing or damaged, or a number in it is NaN or infinite.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{str(path)!r} cannot be read: {error}; was the folder saved to the end?") from error
    if (key := not_finite(tensors)) is not None:
        raise BadInput(f"{str(path)!r}: {key} holds NaN or infinity; the training that wrote it went wrong")
    return tensors


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity, or None."""
    for key, tensor in tensors.items():
        counted = tensor.is_floating_point() and tensor.numel() > 0 and not tensor.is_meta
        if counted and not all(math.isfinite(float(end)) for end in tensor.aminmax()):  # NaN comes through both
            return key
    return None


def load_head(path: Path, hidden_size: int, keys: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of a scalar head, by these names.

    Args:
        path: the file.
        hidden_size: of the backbone that the head stands on.
        keys: of its weight ``(1, H)`` and its bias ``(1,)``, and of single numbers after them.

    Raises:
        BadInput: one of them is missing, or has another shape.
    """
    tensors = load_tensors(path)
    for key, shape in zip(keys, [(1, hidden_size), (1,), *[()] * (len(keys) - 2)], strict=True):
        if key not in tensors:
            raise BadInput(f"{str(path)!r} lacks {key}; was the folder saved to the end?")
        if tuple(tensors[key].shape) != shape:
            raise BadInput(
                f"{str(path)!r}: {key} has the shape {tuple(tensors[key].shape)}, but this model needs {shape}; it was "
                "made for another model"
            )
    return tensors


def save_tensors(tensors: Mapping[str, Tensor], path: Path, notes: Mapping[str, str]) -> None:
    """Write a safetensors file with notes beside the tensors; the same content gives the same bytes.

    safetensors writes several notes in an order of chance, so the header is put in order here. Blanks fill it
    up to eight bytes, as the format has it.
    """
    content = save(dict(tensors), metadata=dict(notes))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def notes_in(path: Path) -> dict[str, str]:
    """What was noted beside the tensors of a safetensors file; nothing where the file cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}
