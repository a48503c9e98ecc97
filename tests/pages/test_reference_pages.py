"""The reference pages say what the code says: knobs, defaults and ranges; code excerpts that exist."""

import ast
import dataclasses
import re
import types
import typing
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from ppo_lib.pocket import gold
from ppo_lib.run.evaluation import EvaluationConfig
from ppo_lib.run.ranking import RankConfig
from ppo_lib.trainers.configuration import (
    MOST,
    MOST_SEED,
    DPOConfig,
    GRPOConfig,
    PPOConfig,
    RewardConfig,
    SFTConfig,
    describe_range,
    load_recipe,
)

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book/hyperparameters.md").read_text(encoding="utf-8")
STAGES: dict[str, Any] = {
    "SFT": SFTConfig,
    "Ranking": RankConfig,
    "Reward model": RewardConfig,
    "Evaluation": EvaluationConfig,
}
CONFIGS = STAGES | {"DPO": DPOConfig, "GRPO": GRPOConfig}  # by the title of their section; the others are PPO's
ROWS = [
    (CONFIGS.get(section.split("\n")[0], PPOConfig), *row)
    for section in re.split(r"^## ", PAGE, flags=re.M)
    for row in re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", section, re.M)
]
EXCERPTS = re.findall(
    r"```\{literalinclude\} \.\./(\S+)\n(.*?)```", (ROOT / "book/details.md").read_text(encoding="utf-8"), re.S
)


def knobs(config: type) -> dict[str, Any]:
    return {field.name: field for field in dataclasses.fields(config)}


def described(config: type, name: str) -> tuple[Any, str]:
    """Default and values of a knob, as the code has them."""
    field, hint = knobs(config)[name], typing.get_type_hints(config)[name]
    kinds: list[Any] = [kind for kind in typing.get_args(hint) or (hint,) if kind is not types.NoneType]
    optional = types.NoneType in typing.get_args(hint)
    values = describe_range(field, kinds[0])
    for most in (MOST, MOST_SEED):  # said once on the page, and not in every row
        values = values.replace(f" and at most {most}", "")
    return field.default, values + (", or null" if optional else "")


def test_every_knob_of_ppo_is_on_the_page_once() -> None:
    assert sorted(name for config, name, _, _ in ROWS if config is PPOConfig) == sorted(knobs(PPOConfig))


@pytest.mark.parametrize("config", STAGES.values())
def test_every_knob_of_the_other_stages_is_in_their_section_once(config: type) -> None:
    assert sorted(name for owner, name, _, _ in ROWS if owner is config) == sorted(knobs(config))


def test_the_recipes_columns_say_what_the_recipes_say() -> None:
    _, _, section = PAGE.partition("## What others set")
    header, _, *rows = [line.strip("|").split("|") for line in section.split("\n") if line.startswith("|")]
    assert len(rows) > 10
    for name, *values in rows:
        key = name.strip()
        for recipe, value in zip(header[1:5], values, strict=False):
            wanted = load_recipe(recipe.strip())["ppo"].get(key, getattr(PPOConfig(), key))
            assert float(value) == pytest.approx(float(wanted)), f"{key} of {recipe}"


@pytest.mark.parametrize("config", [DPOConfig, GRPOConfig])
def test_what_the_other_methods_do_not_share_with_ppo_is_in_their_section_once(config: type) -> None:
    own = [
        name
        for name in knobs(config)
        if name not in knobs(PPOConfig) or described(config, name) != described(PPOConfig, name)
    ]
    listed = [name for owner, name, _, _ in ROWS if owner is config]
    assert len(listed) == len(set(listed))
    assert set(own) <= set(listed) <= set(knobs(config))


@pytest.mark.parametrize(("config", "name", "default", "values"), ROWS)
def test_default_and_range_on_the_page_are_those_of_the_code(
    config: type, name: str, default: str, values: str
) -> None:
    assert (yaml.safe_load(default), values.strip()) == described(config, name)


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
    assert [int(n) for n in re.findall(r"^### (\d+)\.", text, re.M)] == list(range(1, 35))


def test_every_detail_shows_the_line_of_code_that_decides_it() -> None:
    """The page promises it for each; an excerpt of one line or more, between its heading and the next."""
    text = (ROOT / "book/details.md").read_text(encoding="utf-8").split("## See also")[0]
    without = [entry.splitlines()[0] for entry in re.split(r"^### ", text, flags=re.M)[1:] if "```" not in entry]
    assert without == []


def test_the_list_of_references_holds_every_work_that_a_chapter_or_page_cites() -> None:
    """Links to papers anywhere, and whatever else stands in a list of references."""
    listed = set(re.findall(r"url = \{(.+?)\}", (ROOT / "book/references.bib").read_text(encoding="utf-8")))
    texts = [page.read_text(encoding="utf-8") for page in (ROOT / "book").glob("*.md")]
    for path in [*(ROOT / "chapters").glob("*.ipynb"), *(ROOT / "book").glob("*.ipynb")]:
        cells = nbformat.read(path, as_version=4).cells
        texts.append("\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown"))
    cited = set(re.findall(r"\]\((https?://(?:arxiv\.org|doi\.org|dl\.acm\.org)/[^)]+)\)", "\n".join(texts)))
    for text in texts:
        cited |= set(re.findall(r"\]\((https?://[^)]+)\)", text.partition("\n## References")[2]))
    code = {link for link in cited if "github.com" in link or link.startswith("https://huggingface.co/docs")}
    assert sorted(cited - code - listed) == []


def test_the_glossary_gives_the_gold_score_the_weights_that_the_code_has() -> None:
    entry = (ROOT / "book/glossary.md").read_text(encoding="utf-8").split("\ngold score\n")[1].split("\n\n")[0]
    said = {float(number.replace("−", "-")) for number in re.findall(r"−?\d+(?:\.\d+)?", entry)}
    weights = (gold.RIGHT, gold.WRONG, gold.FALSE_SENTENCE, gold.FULL_SENTENCE, gold.COURTESY, gold.FAWNING)
    assert {*weights, gold.GIBBERISH, gold.UNFINISHED, gold.REPEATED, gold.RAMBLE} <= said
