"""The reference pages say what the code says: knobs, defaults and ranges; code excerpts that exist."""

import ast
import dataclasses
import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

from ppo_lib.configuration import describe_range
from ppo_lib.ppo import PPOConfig

ROOT = Path(__file__).parents[2]
ROWS = re.findall(
    r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", (ROOT / "book/hyperparameters.md").read_text(encoding="utf-8"), re.M
)
FIELDS = {field.name: field for field in dataclasses.fields(PPOConfig)}
HINTS = typing.get_type_hints(PPOConfig)
EXCERPTS = re.findall(
    r"```\{literalinclude\} \.\./(\S+)\n(.*?)```", (ROOT / "book/details.md").read_text(encoding="utf-8"), re.S
)


def test_every_knob_is_on_the_page_once() -> None:
    assert sorted(name for name, _, _ in ROWS) == sorted(FIELDS)


@pytest.mark.parametrize(("name", "default", "values"), ROWS)
def test_default_and_range_on_the_page_are_those_of_the_code(name: str, default: str, values: str) -> None:
    field, hint = FIELDS[name], HINTS[name]
    kinds: list[Any] = [kind for kind in typing.get_args(hint) or (hint,) if kind is not types.NoneType]
    optional = types.NoneType in typing.get_args(hint)
    assert yaml.safe_load(default) == field.default
    assert values.strip() == describe_range(field, kinds[0]) + (", or null" if optional else "")


@pytest.mark.parametrize(("path", "options"), EXCERPTS)
def test_excerpts_of_the_details_page_exist(path: str, options: str) -> None:
    source = (ROOT / path).read_text(encoding="utf-8")
    for marker in re.findall(r":(?:start|end)-at: (.+)", options):
        assert marker in source, f"{path} no longer holds {marker!r}"
    for name in re.findall(r":pyobject: (\S+)", options):
        tree: Any = ast.parse(source)
        for part in name.split("."):
            tree = next((node for node in tree.body if getattr(node, "name", None) == part), None)
            assert tree is not None, f"{path} no longer defines {name}"


def test_details_are_numbered_in_order() -> None:
    text = (ROOT / "book/details.md").read_text(encoding="utf-8")
    assert [int(n) for n in re.findall(r"^### (\d+)\.", text, re.M)] == list(range(1, 34))
