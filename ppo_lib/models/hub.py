"""Names on the Hugging Face hub, pinned to a commit, and what to say when one of them cannot be had.

A model is written ``OWNER/NAME@COMMIT`` and a data set ``OWNER/NAME[/CONFIG]@COMMIT:SPLIT``. The commit is needed: a
name alone gives today one model and tomorrow, after somebody's upload, another.
"""

import re
from dataclasses import dataclass

from huggingface_hub import HfApi, constants, get_session
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ppo_lib.errors import BadInput
from ppo_lib.models.registry import TOY

NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
MODEL = re.compile(rf"{NAME}@(?P<commit>[0-9a-f]{{40}})")
DATA = re.compile(rf"{NAME}(?:/(?P<config>[\w.-]+))?@(?P<commit>[0-9a-f]{{40}}):(?P<split>[\w.%\[\]:+-]+)")
LOOKS_LIKE_A_NAME = re.compile(rf"{NAME}(?:/[\w.-]+)?(?:@[^:]*)?(?::.*)?")
UNREACHABLE = "the hub cannot be reached (no network, one that broke off, or HF_HUB_OFFLINE is set)"
OFFLINE = (
    f"{UNREACHABLE} and the files are not in its local cache; "
    f"give a local folder or file, or use --recipe {TOY}, which needs no network"
)
# What the hub's client raises: errors of its own, and as they come those of its HTTP library, which has changed before.
HUB_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, HfHubHTTPError.__bases__[0])


@dataclass(frozen=True)
class Pinned:
    """A repository of the hub at one commit; ``config`` and ``split`` only for data sets."""

    name: str
    commit: str
    config: str | None = None
    split: str | None = None


def pinned_model(text: str) -> Pinned | None:
    """``OWNER/NAME@COMMIT`` taken apart; None where ``text`` is not written so."""
    found = MODEL.fullmatch(text)
    return Pinned(**found.groupdict()) if found else None


def pinned_data(text: str) -> Pinned | None:
    """``OWNER/NAME[/CONFIG]@COMMIT:SPLIT`` taken apart; None where ``text`` is not written so."""
    found = DATA.fullmatch(text)
    return Pinned(**found.groupdict()) if found else None


def looks_like_a_name(text: str) -> bool:
    """Whether somebody may have meant a repository of the hub, pinned or not."""
    return LOOKS_LIKE_A_NAME.fullmatch(text) is not None


def how_to_pin(text: str, kind: str = "model") -> str:
    """What to write instead of a name that is not pinned to a commit."""
    name = "/".join(re.split("[@:]", text)[0].split("/")[:2])
    wanted = f"{name}@COMMIT" + (":SPLIT" if kind == "dataset" else "")
    flag = " --dataset" if kind == "dataset" else ""
    return f"write {wanted} with the commit's 40 digits, which `python -m ppo_lib pin {name}{flag}` prints"


def current(name: str, kind: str = "model") -> Pinned:
    """The commit that the hub gives today for ``OWNER/NAME``, with the name that it has there: it may have moved.

    Args:
        name: of the repository.
        kind: ``model`` or ``dataset``.

    Raises:
        ValueError: the hub does not know it, does not let us in, or cannot be reached.
    """
    try:
        found = HfApi().repo_info(name, repo_type=kind)
    except HUB_ERRORS as error:
        why = reason(error)
        if why == OFFLINE:  # no cache knows what is the newest
            why = f"{UNREACHABLE}; try again with a network, or take the commit from the repository's page"
        raise BadInput(f"{kind} {name!r} cannot be pinned: {why}") from error
    if found.sha is None:
        raise BadInput(f"{kind} {name!r} cannot be pinned: the hub names no commit for it")
    return Pinned(found.id, str(found.sha))


def reachable(seconds: float = 3.0) -> bool:
    """Whether the hub answers at all, asked once and as its client asks: through a proxy where there is one."""
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=seconds)
    except HUB_ERRORS:
        return False
    return True


def reason(error: BaseException) -> str:
    """Why something could not be had, with the remedy, in words of one sentence.

    What the hub's client raises is often wrapped by another library; the first known cause decides.
    """
    for cause in causes(error):
        if isinstance(cause, GatedRepoError):
            return "its owner asks readers to agree to terms first; do so on its page, then `hf auth login`"
        if isinstance(cause, RevisionNotFoundError):
            return "that commit is not there (any more); pin another one, see `python -m ppo_lib pin OWNER/NAME`"
        # The second is an error of the package datasets, which may be missing.
        if isinstance(cause, RepositoryNotFoundError) or type(cause).__name__ == "DatasetNotFoundError":
            return "the hub has no such repository, or it is private; check the spelling, or `hf auth login`"
        if isinstance(cause, (LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError)) or cut_off(cause):
            return OFFLINE
        if isinstance(cause, HfHubHTTPError):
            return f"the hub answered with an error ({' '.join(str(cause).split())[:200]}); try again later"
    return " ".join(str(error).split())[:300]


def causes(error: BaseException) -> list[BaseException]:
    """The error and what it came from, outermost last, so that the root cause is seen first."""
    chain, seen = [error], {id(error)}
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and id(cause) not in seen:
        chain.append(cause)
        seen.add(id(cause))
    return chain[::-1]


def cut_off(error: BaseException) -> bool:
    """A connection that failed or broke, in the words of the hub client's HTTP library, whatever its package's name.

    Older hub clients close theirs when they cannot connect, and then try again with the closed one.
    """
    closed = isinstance(error, RuntimeError) and "client has been closed" in str(error)
    return closed or "TransportError" in (cls.__name__ for cls in type(error).__mro__)
