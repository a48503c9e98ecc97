"""What a run was begun on: fingerprints of its model, data and judges, so that a resumed run is the same run."""

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ppo_lib.errors import reading
from ppo_lib.models import registry

JUDGES = ("reward_model", "heldout_judge")  # of configurations: what may be a function in a module
KEYS = ("model", "data", "prompts", "reward_model", "heldout_judge")  # of configurations: what may lie in files
READ = (".safetensors", ".json", ".jsonl", ".yaml", ".txt", ".model", ".jinja")  # not a folder's notes and pictures
WHOLE = 2**26  # bytes: larger files are read in places
PLACES, PLACE = 64, 2**20


def fingerprints(config: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """A checksum for each key of a configuration that names a file or folder of this machine.

    What the hub holds is pinned by its commit, and a function's module may well be mended while its run stands: see
    :func:`sources`.

    Args:
        config: of one stage.
        folder: of the run; what begins with ``..`` is looked for from there, too.
    """
    found = {}
    for key in KEYS:
        name = config.get(key)
        if isinstance(name, str) and (place := place_of(name, folder)):
            with reading(name):
                found[key] = fingerprint(place)
    return found


def sources(config: Mapping[str, Any]) -> dict[str, str]:
    """A checksum of the module of each judge that is a function, ``package.module:function``, and has been imported."""
    found = {}
    for key in JUDGES:
        module, _, function = str(config.get(key)).partition(":")
        file = getattr(sys.modules.get(module), "__file__", None) if function else None
        if file and Path(file).is_file():
            with reading(file):
                found[key] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return found


def place_of(name: str, folder: Path) -> Path | None:
    """The file or folder that a text of a configuration names; None for other texts."""
    names = [name]
    if ":" in name and registry.find(name):
        names = [name.partition(":")[2]]  # the folder of ``stories:FOLDER``
    if name.startswith(".."):
        names.append(os.path.normpath(folder / name))
    with reading(name):
        return next((Path(one) for one in names if one and (Path(one).is_file() or Path(one).is_dir())), None)


def fingerprint(place: Path) -> str:
    """A checksum of a file, or of the files of a folder that models, judges and data consist of."""
    total = hashlib.sha256()
    files = sorted(path for path in place.rglob("*") if path.suffix in READ) if place.is_dir() else [place]
    for path in files:
        total.update(f"{path.relative_to(place)} {path.stat().st_size}\n".encode(errors="surrogateescape"))
        for part in parts(path):
            total.update(part)
    return total.hexdigest()


def parts(path: Path) -> Iterator[bytes]:
    """A file's content; of a large one, beginning, end and places between: other weights differ everywhere."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if size <= WHOLE:
            yield file.read()
            return
        for place in range(PLACES):
            file.seek(place * (size - PLACE) // (PLACES - 1))
            yield file.read(PLACE)
