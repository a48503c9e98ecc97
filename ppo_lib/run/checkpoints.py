"""Files that are whole or absent: atomic writing, and checkpoints of tensors and plain values.

A process may be killed between any two instructions. So everything is written under a temporary
name, pushed to the disk, and then renamed, which the file system does in one step. A checkpoint is
a folder ``000012`` with ``tensors.safetensors`` and ``values.json``; nothing is ever unpickled.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

TEMPORARY = ".tmp-"

Tensors = dict[str, torch.Tensor]
Values = dict[str, Any]


def sync(path: Path) -> None:
    """Push a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new one, never a part."""
    temporary = path.with_name(TEMPORARY + path.name)
    temporary.write_text(text, encoding="utf-8")
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def replace_folder(temporary: Path, final: Path) -> None:
    """Give a finished folder its final name; an older folder of that name goes first."""
    for path in sorted(temporary.rglob("*")):
        sync(path)
    sync(temporary)
    remove_folder(final)
    os.replace(temporary, final)
    sync(final.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder; one that is half removed never carries its name."""
    if path.exists():
        doomed = path.with_name(f"{TEMPORARY}removed-{path.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(path, doomed)
        shutil.rmtree(doomed)


def save_checkpoint(folder: Path, iteration: int, tensors: Tensors, values: Values, keep: int = 2) -> Path:
    """Write ``folder/000012`` for iteration 12 and keep the last ``keep`` checkpoints.

    Args:
        folder: the folder of all checkpoints; made if absent.
        iteration: iterations done when the state was taken.
        tensors: weights, optimizer moments, generator states: any device, any dtype.
        values: what JSON can hold; floats come back bit for bit.
        keep: checkpoints to keep, this one included.

    Returns:
        The folder of the new checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{iteration:06d}"
    temporary = folder / f"{TEMPORARY}{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    # A copy of each: safetensors refuses tensors that share memory, such as tied embeddings.
    copies = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    save_file(copies, temporary / "tensors.safetensors")
    (temporary / "values.json").write_text(json.dumps(values), encoding="utf-8")
    replace_folder(temporary, final)
    for old in saved_checkpoints(folder)[:-keep]:
        remove_folder(old)
    return final


def saved_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first."""
    return sorted((p for p in folder.glob("*") if p.name.isdigit()), key=lambda p: int(p.name))


def load_checkpoint(path: Path) -> tuple[Tensors, Values]:
    """The tensors and values of one checkpoint.

    Raises:
        ValueError: a file is missing or damaged.
    """
    try:
        values = json.loads((path / "values.json").read_text(encoding="utf-8"))
        return load_file(path / "tensors.safetensors"), values
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"checkpoint {path.name} of {path.parent.parent.name!r} cannot be read ({error}); "
            "remove that checkpoint folder to resume from the one before"
        ) from error
