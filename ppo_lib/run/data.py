"""What the stages learn from: demonstrations, comparisons, prompts and problems, from wherever a configuration says.

A source is one text:

* ``NAME`` or ``NAME:REST`` of a registered source, such as ``stories:FOLDER`` (:mod:`ppo_lib.models.registry`);
* ``OWNER/NAME[/CONFIG]@COMMIT:SPLIT``: a data set of the hub, at that commit (needs the package ``datasets``);
* anything else: a JSONL file.
"""

import json
import re
import reprlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from ppo_lib.errors import reading
from ppo_lib.models import registry
from ppo_lib.models.hub import HUB_ERRORS, Pinned, how_to_pin, looks_like_a_name, pinned_data, reason
from ppo_lib.run.rows import LeftOut, Missing, check_characters, texts_of
from ppo_lib.trainers.configuration import ConfigError
from ppo_lib.trainers.reward import pairs_from_ranking

Give = TypeVar("Give", bound=Callable[..., Any])
Say = Callable[[str], None]
LINE_END = re.compile(r"\r\n|\n|\r")  # not splitlines, see ppo_lib.book.jsonl.parse_lines; a lone \r is an old Mac's


def warn(text: str) -> None:
    """Say it as a warning, where nobody else does."""
    warnings.warn(text, stacklevel=3)


def quiet(text: str) -> None:
    """Say nothing: what is read a second time has been said."""


def load_demonstrations(source: str, say: Say = warn) -> list[tuple[str, str]]:
    """Pairs of prompt and response.

    Args:
        source: see the module.
        say: is told how many rows were left out, and why.

    Raises:
        ConfigError: data that cannot be had, is empty, or lacks one of these texts; names the line or row.
    """
    if found := registry.find(source):
        return owned(source, found.demonstrations, "demonstrations")()
    return [(prompt, response) for prompt, response in read_texts(source, ("prompt", "response"), say)]


def load_pairs(source: str, split: str = "train", say: Say = warn) -> list[tuple[str, str, str]]:
    """Comparisons ``(prompt, chosen, rejected)``.

    Args:
        source: see the module; a file may hold comparisons or rankings, which give all their pairs.
        split: ``train`` or ``heldout``, of a registered source; files and data sets have one split each.
        say: as for :func:`load_demonstrations`.

    Raises:
        ConfigError: as :func:`load_demonstrations`.
    """
    if found := registry.find(source):
        return owned(source, found.pairs, "comparisons")(split)
    if rankings := read_rankings(source):
        return [pair for prompt, ranked in rankings for pair in pairs_from_ranking(prompt, ranked)]
    return [(prompt, good, bad) for prompt, good, bad in read_texts(source, ("prompt", "chosen", "rejected"), say)]


def load_pairs_to_learn(source: str, say: Say = warn) -> list[tuple[str, str, str]]:
    """The same to train on: says how many contradict each other.

    Raises:
        ConfigError: as :func:`load_pairs`; and pairs that contradict each other altogether.
    """
    pairs, name = load_pairs(source, say=say), Path(source).name
    if registry.find(source):  # its labelers are noisy on purpose
        return pairs
    opposed = contradictions(pairs)
    if opposed == len(pairs):
        raise ConfigError(
            f"{name}: each of its {len(pairs)} pairs stands there in both orders, as often in one as in the other, so "
            "that nothing can be learned; leave one order out"
        )
    if opposed:
        say(f"{name}: {opposed} of {len(pairs)} pairs contradict each other (both orders), and stay")
    return pairs


def contradictions(pairs: Sequence[tuple[str, str, str]]) -> int:
    """How many pairs are outweighed by the same pair in the other order."""
    count = Counter(pairs)
    return sum(2 * min(n, count[p, b, a]) for (p, a, b), n in count.items() if a < b)


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


def load_prompts(source: str, split: str = "train", say: Say = warn) -> list[str]:
    """Prompts to practice on; arguments and errors as :func:`load_pairs`."""
    if found := registry.find(source):
        return owned(source, found.prompts, "prompts")(split)
    return [prompt for (prompt,) in read_texts(source, ("prompt",), say)]


def load_problems(source: str, say: Say = warn) -> list[tuple[str, str]]:
    """Pairs of prompt and the known answer, for :class:`ppo_lib.run.judge_names.ExactAnswer`; errors as above."""
    if found := registry.find(source):
        return owned(source, found.problems, "exact answers")()
    return [(prompt, answer) for prompt, answer in read_texts(source, ("prompt", "answer"), say)]


def owned(source: str, give: Give | None, what: str) -> Give:
    """The function by which a registered source gives something.

    Raises:
        ConfigError: the source has nothing of the kind.
    """
    if give is None:
        raise ConfigError(f"{source!r} has no {what}; give a JSONL file, a data set of the hub, or '{registry.TOY}'")
    return give


def read_texts(source: str, keys: tuple[str, ...], say: Say) -> list[list[str]]:
    """The texts under ``keys`` of every row that can be read without losing meaning; other columns are ignored.

    Raises:
        ConfigError: as :func:`load_demonstrations`.
    """
    pinned = pinned_data(source)
    with reading(source):
        is_file = Path(source).exists() or source.endswith((".jsonl", ".json"))
    if pinned is None and not is_file and looks_like_a_name(source):
        raise ConfigError(f"data {source!r} is no file here; for a data set, {how_to_pin(source, 'dataset')}")
    wanted = "{" + ", ".join(f'"{key}": ...' for key in keys) + "}"
    rows, left_out, first, name = [], Counter[str](), "", Path(source).name
    for where, row in read_hub(source, pinned) if pinned else read_file(source, wanted):
        try:
            texts = texts_of(row, keys)
        except LeftOut as reason:
            left_out[str(reason)] += 1
            first = first or where
            continue
        except Missing as missing:
            has = known_columns(row) if pinned else ""  # a file can be looked into, a data set not so easily
            value = reprlib.repr(missing.value)
            raise ConfigError(f"{where}: {missing.key} is {value}, but each line must be {wanted}{has}") from missing
        check_characters(texts, where)
        rows.append(texts)
    count = left_out.total()
    reasons = ", ".join(f"{n:,} with {reason}" for reason, n in left_out.most_common())
    if not rows and count:
        raise ConfigError(f"{first}: none of the {count:,} rows can be used: {reasons}; each line must be {wanted}")
    if not rows:
        raise ConfigError(f"{name}: holds no line; each line must be {wanted}")
    if count:
        say(
            f"{name}: {count:,} of {count + len(rows):,} rows left out: {reasons}; the first is {first.split(', ')[-1]}"
        )
    return rows


def known_columns(row: Any) -> str:
    """What a row has instead of what is wanted."""
    return f"; its columns are {', '.join(row)}" if isinstance(row, Mapping) else ""


def read_file(source: str, wanted: str) -> Iterator[tuple[str, Any]]:
    """The rows of a JSONL file with their places; blank lines are skipped.

    Raises:
        ConfigError: no such file, or a line that is not JSON, names a column twice, or is nested beyond all use.
    """
    path = Path(source)
    try:
        lines = LINE_END.split(path.read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(
            f"cannot read the data {source!r}: {why}; give '{registry.TOY}', a JSONL file, or OWNER/NAME@COMMIT:SPLIT"
        ) from error
    for number, line in enumerate(lines, start=1):
        where = f"{path.name}, line {number}"
        if line.strip():
            try:
                yield where, json.loads(line, object_pairs_hook=once)
            except Twice as error:
                raise ConfigError(f"{where}: has {str(error)!r} twice; give each column once") from error
            except RecursionError as error:
                raise ConfigError(f"{where}: is nested too deep to be read; each line must be {wanted}") from error
            except ValueError as error:
                raise ConfigError(f"{where}: is not JSON; each line must be {wanted}") from error


class Twice(Exception):
    """A JSON object with one key twice; its message is the key."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of two values under one key Python would keep the last, without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise Twice(next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1))
    return found


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
