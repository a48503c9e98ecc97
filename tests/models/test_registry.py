"""A source is found by its name, is imported when its name is first asked for, and nobody else's name finds one."""

import subprocess
import sys
from pathlib import Path

import pytest

from ppo_lib.models import registry


@pytest.mark.parametrize(
    "text",
    ["", ":", "pockets", "data/pocket", "pocket:", "runs/pocket.jsonl", "stories", "stories:", "module:function"],
)
def test_a_text_that_names_no_source_finds_none(text):
    assert registry.find(text) is None
    assert registry.find_model(text) is None


def test_the_toy_world_has_models_texts_a_reward_model_and_a_gold_score():
    found = registry.find(registry.TOY)
    assert found.held_out
    assert found.problems is None
    assert found.judge is None
    assert {registry.find_model(f"{registry.TOY}:{which}").name for which in ("base", "sft")} == {"base", "sft"}
    assert (found.reward_model() / "reward_head.safetensors").is_file()
    assert not set(found.prompts("train")) & set(found.prompts("heldout"))
    assert len(found.pairs("heldout")[0]) == 3
    assert len(found.demonstrations()[0]) == 2
    assert found.gold(["What is the capital of France?"], ["Paris."]) == [1.0]


def test_a_model_that_a_source_lacks_is_refused_naming_those_it_has():
    with pytest.raises(
        ValueError, match=r"'pocket:huge' is not an embedded model; there are pocket:base and pocket:sft"
    ):
        registry.find_model("pocket:huge")


def test_what_follows_the_colon_is_for_the_source_to_read(tmp_path):
    with pytest.raises(ValueError, match=r"stories/\*.jsonl"):
        registry.find(f"stories:{tmp_path}").prompts("train")
    assert registry.find_model(f"stories:{tmp_path}") is None


def test_a_source_of_ones_own_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr(registry, "_makers", dict(registry._makers))
    mine = registry.Source(lambda: [("a", "b")], lambda split: [], lambda split: [split], model=Path)
    registry.register("mine", lambda rest: mine if rest in ("", "here") else None)
    assert registry.find("mine") is registry.find("mine:here") is mine
    assert registry.find("mine:there") is None
    assert registry.find_model("mine:there") == Path("there")


def test_nothing_is_imported_before_its_name_is_asked_for():
    code = (
        "import sys; from ppo_lib.models import registry; assert 'torch' not in sys.modules; "
        "registry.find('a.jsonl'); assert not any('ppo_lib.pocket' in name for name in sys.modules); "
        "registry.find('pocket'); assert 'ppo_lib.pocket.source' in sys.modules; "
        "assert 'ppo_lib.run.stories' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
