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
MODULES = {  # who registers which name
    TOY: "ppo_lib.pocket.source",
    "stories": "ppo_lib.run.stories",
    "smollm2": "ppo_lib.models.smollm2",
    "capitals": "ppo_lib.pocket.capitals",
}

Judge = Callable[[list[str], list[str]], list[float]]  # (prompts, responses) -> one score each
Labeler = Callable[[str, list[str]], list[int]]  # (prompt, responses) -> their numbers, the best first


@dataclass(frozen=True)
class Source:
    """What is to be had under one name; each is a function, called when it is needed, or None where there is no such.

    Attributes:
        demonstrations: gives pairs of prompt and response.
        pairs: gives comparisons ``(prompt, chosen, rejected)`` of a split, ``train`` or ``heldout``.
        prompts: gives the prompts of a split.
        problems: gives pairs of prompt and exact answer.
        model: gives the folder, file or hub name of a language model, ``NAME:WHICH`` in a configuration; ValueError for
            an unknown one.
        default_model: gives the exact name of the model that ``NAME`` alone stands for on this machine.
        about: gives a sentence on that choice.
        reward_model: gives the folder of a reward model in this library's form.
        judge: gives a function that scores responses, where no model does.
        labeler: gives a function that ranks responses to a prompt, from a seed of its moods.
        gold: scores responses by their true quality, where that is known.
        held_out: whether the split ``heldout`` is kept back from training.
    """

    demonstrations: Callable[[], list[tuple[str, str]]] | None = None
    pairs: Callable[[str], list[tuple[str, str, str]]] | None = None
    prompts: Callable[[str], list[str]] | None = None
    problems: Callable[[], list[tuple[str, str]]] | None = None
    model: Callable[[str], Path | str] | None = None
    default_model: Callable[[], str] | None = None
    about: Callable[[], str] | None = None
    reward_model: Callable[[], Path] | None = None
    judge: Callable[[], Judge] | None = None
    labeler: Callable[[int], Labeler] | None = None
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


def find_model(text: str) -> Path | str | None:
    """Where the language model lies that ``NAME:WHICH`` names, or None; ValueError where a source lacks that one."""
    name, _, which = text.partition(":")
    source = find(name) if which else None
    return source.model(which) if source and source.model else None


def exact_model(text: str) -> str:
    """The name under which a model is the same on every machine, where ``text`` leaves that open.

    A source's bare name stands for what the source has here, and a source's name for one of the hub for that.
    """
    source = find(text)
    if source and source.default_model:
        return source.default_model()
    found = find_model(text)
    return found if isinstance(found, str) else text
