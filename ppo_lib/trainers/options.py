"""Fields of a configuration that know their meaning, their type and their range."""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

DTYPES = ("float32", "bfloat16", "float16", "auto")  # what configurations may ask for
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one sentence for its writer."""


def option(
    default: Any,
    *,
    help: str,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    choices: Sequence[Any] | None = None,
) -> Any:
    """A dataclass field with its meaning and its range.

    Args:
        default: the value when the key is not given.
        help: what the field means, with its unit.
        minimum, maximum: inclusive bounds of a number.
        above: exclusive lower bound of a number.
        choices: the only values allowed.

    Returns:
        A :func:`dataclasses.field` carrying the range as metadata.
    """
    limits = {"minimum": minimum, "maximum": maximum, "above": above, "choices": choices}
    return dataclasses.field(default=default, metadata={"help": help, **limits})


def same_option(config: type, name: str, **changes: Any) -> Any:
    """A dataclass field like one of another configuration.

    Args:
        config: a dataclass whose fields were made with :func:`option`.
        name: the field's name there.
        changes: arguments of :func:`option` that differ here.

    Returns:
        A field with that one's default, meaning and range, but for the changes.
    """
    field = {field.name: field for field in dataclasses.fields(config)}[name]
    return option(**{"default": field.default, **field.metadata, **changes})


def describe_range(field: "dataclasses.Field[Any]", kind: type) -> str:
    """The values a field takes, in words: ``a number above 0 and at most 1``."""
    limits = field.metadata
    if limits.get("choices"):
        return "one of " + ", ".join(map(str, limits["choices"]))
    bounds = []
    if limits.get("above") is not None:
        bounds.append(f"above {limits['above']:g}")
    if limits.get("minimum") is not None:
        bounds.append(f"at least {limits['minimum']:g}")
    if limits.get("maximum") is not None:
        bounds.append(f"at most {limits['maximum']:g}")
    return WORDS[kind] + (" " + " and ".join(bounds) if bounds else "")


def convert(value: Any, field: "dataclasses.Field[Any]", annotation: Any, where: str) -> Any:
    """``value`` as the field wants it.

    Raises:
        ConfigError: another type, or outside the field's range.
    """
    kinds = [kind for kind in typing.get_args(annotation) if kind is not types.NoneType] or [annotation]
    optional = types.NoneType in typing.get_args(annotation)
    kind = kinds[0] if kinds[0] in WORDS else str
    if value is None and optional:
        return None
    result = cast(value, kind)
    if result is None or not in_range(result, field):
        wanted = describe_range(field, kind) + (", or null" if optional else "")
        raise ConfigError(f"{where}: {field.name} is {value!r}, but must be {wanted}")
    return result


def cast(value: Any, kind: type) -> Any:
    """``value`` as ``kind`` when nothing is lost or guessed, else None."""
    if kind is float:
        # YAML 1.1 reads 1e-4 (no dot) as text; people mean the number.
        if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        return float(value)
    if kind is int and isinstance(value, bool):
        return None
    return value if isinstance(value, kind) else None


def in_range(value: Any, field: "dataclasses.Field[Any]") -> bool:
    """True where ``value`` lies within the bounds and the choices of the field."""
    limits = field.metadata
    choices, above = limits.get("choices"), limits.get("above")
    minimum, maximum = limits.get("minimum"), limits.get("maximum")
    return (
        (choices is None or value in choices)
        and (above is None or value > above)
        and (minimum is None or value >= minimum)
        and (maximum is None or value <= maximum)
    )


def check_config(config: Any, where: str | None = None) -> None:
    """Check every field of a configuration made in Python, say from ``__post_init__``.

    Raises:
        ConfigError: a wrong type, or a value outside its range.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        convert(getattr(config, field.name), field, hints[field.name], where or type(config).__name__)
