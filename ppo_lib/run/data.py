"""What the stages learn from: demonstrations, comparisons, prompts and problems, from wherever a configuration says.

A source is one text:

* ``NAME`` or ``NAME:REST`` of a registered source, such as ``stories:FOLDER`` (:mod:`ppo_lib.models.registry`);
* ``OWNER/NAME[/CONFIG]@COMMIT:SPLIT``: a data set of the hub, at that commit (needs the package ``datasets``);
* anything else: a JSONL file.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from ppo_lib.errors import reading
from ppo_lib.models import registry
from ppo_lib.models.hub import HUB_ERRORS, Pinned, how_to_pin, looks_like_a_name, pinned_data, reason
from ppo_lib.trainers.configuration import ConfigError
from ppo_lib.trainers.reward import pairs_from_ranking

Give = TypeVar("Give", bound=Callable[..., Any])
# Under which names data sets keep what is looked for; the first that a row has is taken.
NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "instruction"),
    "response": ("response", "answer", "completion", "messages", "chosen"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "answer": ("answer", "solution"),
}


def load_demonstrations(source: str) -> list[tuple[str, str]]:
    """Pairs of prompt and response.

    Args:
        source: see the module.

    Raises:
        ConfigError: data that cannot be had, is empty, or lacks one of these texts; names the line or row.
    """
    if found := registry.find(source):
        return owned(source, found.demonstrations, "demonstrations")()
    return [(prompt, response) for prompt, response in read_texts(source, ("prompt", "response"))]


def load_pairs(source: str, split: str = "train") -> list[tuple[str, str, str]]:
    """Comparisons ``(prompt, chosen, rejected)``.

    Args:
        source: see the module; a file may hold comparisons or rankings, which give all their pairs.
        split: ``train`` or ``heldout``, of a registered source; files and data sets have one split each.

    Raises:
        ConfigError: as :func:`load_demonstrations`.
    """
    if found := registry.find(source):
        return owned(source, found.pairs, "comparisons")(split)
    if rankings := read_rankings(source):
        return [pair for prompt, ranked in rankings for pair in pairs_from_ranking(prompt, ranked)]
    return [(prompt, good, bad) for prompt, good, bad in read_texts(source, ("prompt", "chosen", "rejected"))]


def read_rankings(source: str) -> list[tuple[str, list[str]]]:
    """Prompts and their responses, the best first, of a file that ``rank`` wrote; nothing where it is no such file.

    Raises:
        ConfigError: a file that begins with a ranking and has a line that is none.
    """
    if pinned_data(source) or not Path(source).is_file():
        return []
    wanted = '{"prompt": ..., "responses": [best, ..., worst]}'
    found: list[tuple[str, list[str]]] = []
    for where, row in read_file(source, wanted):
        prompt, ranked = (row.get("prompt"), row.get("responses")) if isinstance(row, Mapping) else (None, None)
        if ranked is None and not found:
            return []  # comparisons, then, or something else that its reader will refuse
        texts = [text for text in ranked if isinstance(text, str)] if isinstance(ranked, list) else []
        if not isinstance(prompt, str) or not prompt.strip() or len(texts) < 2 or texts != ranked:
            raise ConfigError(f"{where}: is no ranking; each line must be {wanted}, with two responses or more")
        found.append((prompt, texts))
    return found


def load_prompts(source: str, split: str = "train") -> list[str]:
    """Prompts to practise on; arguments and errors as :func:`load_pairs`."""
    if found := registry.find(source):
        return owned(source, found.prompts, "prompts")(split)
    return [prompt for (prompt,) in read_texts(source, ("prompt",))]


def load_problems(source: str) -> list[tuple[str, str]]:
    """Pairs of prompt and the known answer, for :class:`ppo_lib.run.judge_names.ExactAnswer`; errors as above."""
    if found := registry.find(source):
        return owned(source, found.problems, "exact answers")()
    return [(prompt, answer) for prompt, answer in read_texts(source, ("prompt", "answer"))]


def owned(source: str, give: Give | None, what: str) -> Give:
    """The function by which a registered source gives something.

    Raises:
        ConfigError: the source has nothing of the kind.
    """
    if give is None:
        raise ConfigError(f"{source!r} has no {what}; give a JSONL file, a data set of the hub, or '{registry.TOY}'")
    return give


def read_texts(source: str, keys: Sequence[str]) -> list[list[str]]:
    """The texts under ``keys`` of every row; other columns are ignored.

    Raises:
        ConfigError: as :func:`load_demonstrations`.
    """
    pinned = pinned_data(source)
    with reading(source):
        is_file = Path(source).exists() or source.endswith((".jsonl", ".json"))
    if pinned is None and not is_file and looks_like_a_name(source):
        raise ConfigError(f"data {source!r} is no file here; for a data set, {how_to_pin(source, 'dataset')}")
    wanted = "{" + ", ".join(f'"{key}": ...' for key in keys) + "}"
    rows = []
    for where, row in read_hub(source, pinned) if pinned else read_file(source, wanted):
        texts = [text_of(row, key) for key in keys]
        for key, text in zip(keys, texts, strict=True):
            if not isinstance(text, str) or (key == "prompt" and not text.strip()):
                has = known_columns(row) if pinned else ""  # a file can be looked into, a data set not so easily
                raise ConfigError(f"{where}: {key} is {text!r}, but each line must be {wanted}{has}")
        rows.append([str(text) for text in texts])
    if not rows:
        raise ConfigError(f"{Path(source).name}: holds no line; each line must be {wanted}")
    return rows


def known_columns(row: Any) -> str:
    """What a row has instead of what is wanted."""
    return f"; its columns are {', '.join(row)}" if isinstance(row, Mapping) else ""


def text_of(row: Any, key: str) -> Any:
    """What a row holds under ``key``: a text, or the part of a conversation that ``key`` means; else what is there.

    A conversation is a list of ``{"role": ..., "content": ...}``. Its last message is the response, and the one before
    it the prompt, where the row has no prompt of its own. Several turns are no single prompt, and count as missing.
    """
    if not isinstance(row, Mapping):
        return None
    name = next((name for name in NAMES[key] if name in row), None)
    if name is None and key == "prompt":
        name = next((name for name in ("messages", "chosen") if is_conversation(row.get(name))), None)
        return prompt_of(row[name]) if name else None
    value: Any = row.get(name) if name else None
    if not is_conversation(value):
        return value
    return prompt_of([*value, {}]) if key == "prompt" else value[-1]["content"]


def is_conversation(value: Any) -> bool:
    """Whether ``value`` is a list of messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(m, Mapping) and "content" in m for m in value)


def prompt_of(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The user's message, where exactly one stands before the last message."""
    return messages[0]["content"] if len(messages) == 2 and messages[0].get("role") == "user" else None


def read_file(source: str, wanted: str) -> Iterator[tuple[str, Any]]:
    """The rows of a JSONL file with their places; blank lines are skipped.

    Raises:
        ConfigError: no such file, or a line that is not JSON.
    """
    path = Path(source)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines, see ppo_lib.book.jsonl.parse_lines
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(
            f"cannot read the data {source!r}: {why}; give '{registry.TOY}', a JSONL file, or OWNER/NAME@COMMIT:SPLIT"
        ) from error
    for number, line in enumerate(lines, start=1):
        where = f"{path.name}, line {number}"
        if line.strip():
            try:
                yield where, json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{where}: is not JSON; each line must be {wanted}") from error


def read_hub(source: str, pinned: Pinned) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """The rows of a data set of the hub with their places.

    Raises:
        ConfigError: the package ``datasets`` is missing, or there is no network, no such commit or no such split.
    """
    try:
        from datasets import exceptions
    except ImportError as error:
        raise ConfigError(
            f"data {source!r} is a data set of the hub, for which the package datasets is missing; "
            "pip install datasets, or give a JSONL file"
        ) from error
    try:
        data = prepared(replace(pinned, split=None)).as_dataset(split=pinned.split)
    except (*HUB_ERRORS, exceptions.DatasetsError) as error:
        why = reason(error)
        if isinstance(error, ValueError) and not isinstance(error, (OSError, ConfigError)):
            # An unknown configuration or split: datasets names those that there are, but in a notation of its own.
            why = why.rstrip(".") + "; write OWNER/NAME/CONFIG@COMMIT:SPLIT, without /CONFIG where there is only one"
        raise ConfigError(f"data {source!r} cannot be loaded: {why}") from error
    return ((f"{source}, row {number}", row) for number, row in enumerate(data))


@lru_cache(maxsize=8)  # what is pinned never changes, and a recipe reads the same data set many times
def prepared(pinned: Pinned) -> Any:
    """A data set of the hub with all its splits, in the local cache; a ``datasets.DatasetBuilder``.

    Raises:
        ConfigError: the hub cannot be reached, and the cache has another commit.
        OSError, ValueError, DatasetsError: it cannot be had for another reason.
    """
    from datasets import load_dataset_builder

    builder = load_dataset_builder(pinned.name, pinned.config, revision=pinned.commit)
    if builder.hash != pinned.commit:  # without a hub, datasets takes the newest that its cache has, and only warns
        raise ConfigError(
            f"the hub did not give it, and the newest in the local cache is another commit, {builder.hash}; "
            "try again with a network"
        )
    builder.download_and_prepare()
    return builder
