"""Sources: models, texts and judges that a configuration names in a word, wherever they come from.

``data: pocket`` or ``prompts: stories:FOLDER`` name a source; what follows a colon is for the source to read. A source
registers itself when its module is imported, and :func:`find` imports that module when its name is first asked for. So
nobody else knows a source by its name, and nobody imports one that is not used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

TOY = "pocket"  # what configurations name unless told otherwise: it comes with the package and needs no network
MODULES = {TOY: "ppo_lib.pocket.source", "stories": "ppo_lib.run.stories"}  # who registers which name

Judge = Callable[[list[str], list[str]], list[float]]  # (prompts, responses) -> one score each


@dataclass(frozen=True)
class Source:
    """What is to be had under one name; each is a function, called when it is needed.

    Attributes:
        demonstrations: gives pairs of prompt and response.
        pairs: gives comparisons ``(prompt, chosen, rejected)`` of a split, ``train`` or ``heldout``.
        prompts: gives the prompts of a split.
        problems: gives pairs of prompt and exact answer; None where answers are not exact.
        model: gives the folder of a language model, ``NAME:WHICH`` in a configuration; ValueError for an unknown one.
        reward_model: gives the folder of a reward model in this library's form.
        judge: gives a function that scores responses, where no model does.
        gold: scores responses by their true quality, where that is known.
        held_out: whether the split ``heldout`` is kept back from training.
    """

    demonstrations: Callable[[], list[tuple[str, str]]]
    pairs: Callable[[str], list[tuple[str, str, str]]]
    prompts: Callable[[str], list[str]]
    problems: Callable[[], list[tuple[str, str]]] | None = None
    model: Callable[[str], Path] | None = None
    reward_model: Callable[[], Path] | None = None
    judge: Callable[[], Judge] | None = None
    gold: Judge | None = None
    held_out: bool = True


_makers: dict[str, Callable[[str], Source | None]] = {}


def register(name: str, make: Callable[[str], Source | None]) -> None:
    """Make a source known by its name.

    Args:
        name: without a colon.
        make: from what follows ``NAME:`` in a configuration (empty for the name alone) to the source, or to None for a
            text that names none.
    """
    _makers[name] = make


def find(text: str) -> Source | None:
    """The source that a configuration names with ``NAME`` or ``NAME:REST``; None for a file, a hub's name and so on."""
    name, colon, rest = text.partition(":")
    if colon and not rest:
        return None
    if name not in _makers and name in MODULES:
        import_module(MODULES[name])
    return _makers[name](rest) if name in _makers else None


def find_model(text: str) -> Path | None:
    """The folder of the language model that ``NAME:WHICH`` names, or None; ValueError where a source lacks that one."""
    name, _, which = text.partition(":")
    source = find(name) if which else None
    return source.model(which) if source and source.model else None
