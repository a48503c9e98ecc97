"""Files that are whole or not there: how everything in a run's folder is written.

A process may be killed between any two instructions. So a file or folder is written under a temporary name, pushed to
the disk, and then renamed, which the file system does in one step.
"""

import os
import shutil
from pathlib import Path

from ppo_lib.errors import writing

TEMPORARY = ".tmp-"
LOCK = f"{TEMPORARY}lock"


def sync(path: Path) -> None:
    """Push a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new one, never a part.

    Raises:
        BadInput: the system refuses, as on a full disk.
    """
    temporary = path.with_name(TEMPORARY + path.name)
    with writing(path):
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)


def replace_folder(temporary: Path, final: Path) -> None:
    """Give a finished folder its final name; an older folder of that name goes first."""
    mode = temporary.stat().st_mode & 0o666  # the writers of weights give them to nobody but their owner
    for path in sorted(temporary.rglob("*")):
        if path.is_file():
            path.chmod(mode)
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


def sweep(folder: Path) -> None:
    """Remove what a process that was killed has left half written or half removed."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.name == LOCK:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def make_folder(path: Path) -> list[Path]:
    """Make a folder with those above it; returns the ones that were not there, the highest first.

    Raises:
        BadInput: the system refuses.
    """
    absent = [folder for folder in (path, *path.parents) if not folder.exists()]
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return absent[::-1]


def remove_empty(folders: list[Path]) -> None:
    """Remove those folders again, as far as nothing stands in them."""
    for folder in reversed(folders):
        try:
            folder.rmdir()
        except OSError:
            return
