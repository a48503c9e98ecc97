"""Checkpoints: a folder ``000012`` with ``tensors.safetensors`` and ``values.json``, and how damage to one is noticed.

Nothing is ever unpickled. By hand, since what accelerate and transformers save is pickled in part, and is not cut to
the same line as the metrics beside it. Every checkpoint holds checksums of its tensors and of its values, and of the
lines of metrics and samples that stood when it was written; a bit that has flipped on the disk would else go on
training unseen.
"""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ppo_lib.errors import BadInput
from ppo_lib.run.files import TEMPORARY, remove_folder, replace_folder

Tensors = dict[str, torch.Tensor]
Values = dict[str, Any]
KEPT = 2  # checkpoints: if the last one is damaged, the one before goes on
SUMS = "sha256"  # the key of a checkpoint's values under which its checksums stand


class Log:
    """A file that only grows, with the checksum of what has been read of it.

    Args:
        path: the file; an absent one is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.sum = path, 0, hashlib.sha256()

    def read_on(self, size: int | None = None) -> str:
        """Read to the end, or until ``size`` bytes are read in all; returns the checksum of those."""
        if self.path.exists():
            with open(self.path, "rb") as file:
                file.seek(self.size)
                while part := file.read(2**20 if size is None else min(2**20, size - self.size)):
                    self.sum.update(part)
                    self.size += len(part)
        return self.sum.hexdigest()


def save_checkpoint(folder: Path, iteration: int, tensors: Tensors, values: Values, keep: int = KEPT) -> Path:
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
    sums = {"tensors": Log(temporary / "tensors.safetensors").read_on(), "values": sum_of(values)}
    (temporary / "values.json").write_text(json.dumps({**values, SUMS: sums}), encoding="utf-8")
    replace_folder(temporary, final)
    drop_old(folder, keep)
    return final


def sum_of(values: Values) -> str:
    """The checksum of values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def drop_old(folder: Path, keep: int = KEPT) -> None:
    """Remove all but the last ``keep`` checkpoints."""
    for old in saved_checkpoints(folder)[:-keep]:
        remove_folder(old)


def saved_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, oldest first."""
    found = (path for path in folder.glob("*") if re.fullmatch("[0-9]+", path.name))
    return sorted(found, key=lambda path: int(path.name))


def load_checkpoint(path: Path) -> tuple[Tensors, Values]:
    """The tensors and values of one checkpoint.

    Raises:
        BadInput: a file is missing or damaged.
    """
    try:
        values = json.loads((path / "values.json").read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("values.json holds no keys")
        sums = values.pop(SUMS, None)
        found = {"tensors": Log(path / "tensors.safetensors").read_on(), "values": sum_of(values)}
        if sums not in (None, found):  # older versions wrote none
            raise ValueError("its content is not what was written: the checksums differ")
        return load_file(path / "tensors.safetensors"), values
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, why: str) -> BadInput:
    """The refusal of a checkpoint."""
    return BadInput(
        f"checkpoint {path.name} of {path.parent.parent.name!r} cannot be used ({why}); "
        "remove that checkpoint folder to resume from the one before"
    )
