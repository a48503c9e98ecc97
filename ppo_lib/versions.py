"""The packages that decide the numbers, and since which versions they fit: looked at when the library is imported."""

import importlib.metadata
import re

NEEDED = {"torch": "2.11", "transformers": "5.17", "peft": "0.18"}  # as pyproject.toml says; a test compares them


def release(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with.

    >>> release("2.13.0+cpu")
    (2, 13, 0)
    """
    return tuple(map(int, re.findall(r"\d+", re.match(r"[\d.]*", version)[0])))  # type: ignore[index]


def older(package: str, least: str) -> str:
    """The version of a package where it is older than ``least``; an empty text where it is not, or not there."""
    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
    return found if release(found) < release(least) else ""


def check() -> None:
    """Refuse packages that are too old; one that is absent is told by whoever imports it.

    Raises:
        ImportError: names the package, its version and the remedy.
    """
    for package, least in NEEDED.items():
        if found := older(package, least):
            raise ImportError(
                f"ppo_lib needs {package} {least} or newer, and {found} is installed here; "
                f"install it by: pip install --upgrade '{package}>={least}'"
            )
