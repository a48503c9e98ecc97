"""Configurations: plain dataclasses whose fields say what they mean and which values they take.

    @dataclass(frozen=True)
    class PPOConfig:
        epsilon: float = option(0.2, help="clip width of the ratio", above=0.0)

    config = read_config(PPOConfig, load_yaml("ppo.yaml"), where="ppo.yaml")

A field is a ``str``, ``int``, ``float`` or ``bool``, or one of these ``| None``. Everything
else is refused with one sentence that names the key, the value and the range.
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ppo_lib.trainers.options import DTYPES, ConfigError, check_config, convert, describe_range, option, same_option

__all__ = [
    "DTYPES",
    "ConfigError",
    "apply_overrides",
    "check_config",
    "describe_range",
    "load_recipe",
    "load_yaml",
    "option",
    "parse_yaml",
    "read_config",
    "same_option",
    "suggestion",
    "to_mapping",
]

T = TypeVar("T")


def read_config(cls: type[T], mapping: Mapping[str, Any] | None, where: str = "config") -> T:
    """An instance of the dataclass ``cls`` from keys and values; other keys keep their defaults.

    Args:
        cls: a dataclass whose fields were made with :func:`option`. An attribute ``refused`` may
            give the reason for each key that people bring from elsewhere and that is not wanted.
        mapping: keys and values, as YAML gives them; None is an empty mapping.
        where: the place to name in errors, such as a file or a section.

    Raises:
        ConfigError: an unknown key, a wrong type, or a value outside its range; also when
            ``__post_init__`` of ``cls`` raises ValueError.
    """
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where}: holds {mapping!r}, but must hold keys and values")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    values = {}
    reasons: Mapping[str, str] = getattr(cls, "refused", {})
    for key, value in mapping.items():
        if key in reasons:
            raise ConfigError(f"{where}: {key} (value {value!r}) is refused: {reasons[key]}")
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {key!r} (value {value!r}); {suggestion(str(key), fields)}")
        values[key] = convert(value, fields[key], hints[key], where)
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def suggestion(key: str, known: Iterable[str]) -> str:
    """``did you mean 'beta'?`` when a known key is close, else the list of known keys."""
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else "known keys: " + ", ".join(known)


def to_mapping(config: Any) -> dict[str, Any]:
    """The configuration as plain keys and values: the inverse of :func:`read_config`."""
    return dataclasses.asdict(config)


def load_plain(text: str) -> Any:
    """YAML as plain values, read safely; a key given twice is an error, not a silent last word.

    Raises:
        yaml.YAMLError: not YAML, a tag that asks for an object, or a key given twice.
    """
    nodes = [yaml.compose(text, Loader=yaml.SafeLoader)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            for key in keys:
                if isinstance(key, str) and keys.count(key) > 1:
                    raise yaml.YAMLError(f"key {key!r} is given twice")
            nodes += [value for _, value in node.value]
    return yaml.safe_load(text)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The keys and values of a YAML file, read safely.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"cannot read the configuration {str(path)!r}: {reason}") from error
    return parse_yaml(text, where=path.name)


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The keys and values of YAML text; errors as for :func:`load_yaml`."""
    try:
        content = load_plain(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{where}: must hold keys and values, such as 'seed: 1', but holds {content!r}")
    return content


def apply_overrides(mapping: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """A copy of ``mapping`` with ``key=value`` settings put in; ``section.key=value`` also.

    Raises:
        ConfigError: a setting without ``=`` or key, or whose section is a plain value.
    """
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in mapping.items()}
    for setting in settings:
        path, equals, text = setting.partition("=")
        *sections, key = path.strip().split(".")
        if not equals or not key or not all(sections):
            raise ConfigError(f"--set {setting!r}: must be key=value, such as beta=0.1")
        target: Any = result
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {setting!r}: {section!r} is not a section")
        try:
            target[key] = load_plain(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {setting!r}: the value is not valid YAML") from error
    return result


def load_recipe(name: str) -> dict[str, Any]:
    """The sections ``sft``, ``reward`` and ``ppo`` of a recipe that comes with the package.

    Raises:
        ConfigError: no such recipe.
    """
    folder = Path(__file__).parents[1] / "recipes"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"no recipe {name!r}; known recipes: {', '.join(known)}")
    return load_yaml(folder / f"{name}.yaml")
