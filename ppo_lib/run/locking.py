"""One process for one run folder: a lock that dies with the process that holds it."""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ppo_lib.errors import BadInput, writing
from ppo_lib.run.files import LOCK

HELD: set[int] = set()  # descriptors of this process's locks; a fork closes its copies


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Hold a folder for this process while the block runs; nothing of it is left behind.

    The system lets go of the lock when the process ends, in whatever way. Children that the process forks do not
    inherit it, or a worker of a user's reward function could hold the folder of a run that was killed.

    Args:
        folder: to be held; it exists.
        name: of the folder, for people.

    Raises:
        BadInput: another process holds it, or it cannot be written to.
    """
    path = folder / LOCK
    with writing(name):
        descriptor = take(path, name)
    try:
        yield
    finally:
        HELD.discard(descriptor)
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def take(path: Path, name: str) -> int:
    """The descriptor of a lock file that this process now holds; errors as above."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise BadInput(
                f"{name!r} is in use by {holder}; wait until it has ended, or give another folder"
            ) from error
        except OSError:  # a file system without locks: better a run without than none
            pass
        if same_file(descriptor, path):
            break
        os.close(descriptor)  # the one who held it has just removed it
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
    HELD.add(descriptor)
    return descriptor


def same_file(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one that carries the name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def let_go() -> None:
    """In a child: close the copies of its parent's descriptors, which else would keep the locks."""
    for descriptor in HELD:
        with suppress(OSError):
            os.close(descriptor)
    HELD.clear()


os.register_at_fork(after_in_child=let_go)
