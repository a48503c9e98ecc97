"""Bad input, told apart from faults: the one exception of the library's own. It lies below all rooms.

The command line turns :class:`BadInput`, and nothing else, into one line and exit code 2. Whatever else is raised, by
the library or by a user's reward function, is a fault and keeps its traceback. So this class is raised only with a
sentence for the person who gave the input, and never put around code that others wrote.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BadInput(ValueError):
    """What was given cannot be used; the message is one sentence that names the thing, the value and the remedy."""


class Diverged(FloatingPointError):
    """The numbers of a training ran out of their range; the message is one sentence with the remedy."""


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """While the library reads a file of its own or of the user's: what the system refuses is bad input.

    Args:
        path: the file or folder, to be named.

    Raises:
        BadInput: the system refused, with its reason.
    """
    try:
        yield
    except OSError as error:
        raise BadInput(f"{str(path)!r} cannot be read: {error.strerror or error}; see that you may read it") from error


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """The same while a file of the library's own is written, such as in a run's folder.

    The writers of weights and tokenizers are Rust, and tell what the system refused in errors of their own.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, BadInput) or not (isinstance(error, OSError) or "(os error " in str(error)):
            raise
        number = getattr(error, "errno", None)
        full = number in NO_ROOM or any(f"(os error {code})" in str(error) for code in NO_ROOM)
        remedy = (
            "make room there and start again, a run with --resume" if full else "give a folder that you may write to"
        )
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise BadInput(f"{str(path)!r} cannot be written: {why}; {remedy}") from error
