"""The recipes that come with the package: every key is known, everything from the hub is pinned, stages fit."""

from pathlib import Path

import pytest

from ppo_lib import hub
from ppo_lib.commands import read_recipe, spread
from ppo_lib.configuration import load_recipe, to_mapping
from ppo_lib.examples import stories_folder

RECIPES = sorted(path.stem for path in (Path(hub.__file__).parent / "recipes").glob("*.yaml"))


def test_these_are_the_recipes():
    assert RECIPES == ["gsm8k", "pocket", "preferences", "stories"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_section_of_a_recipe_is_a_configuration(name):
    configs, how = read_recipe(load_recipe(name), name)
    assert list(configs) == (["ppo"] if name == "gsm8k" else ["sft", "reward", "ppo"])
    for config in configs.values():
        assert config.seed == 0
    assert how.temperature in (0, configs["ppo"].temperature)


@pytest.mark.parametrize("name", ["gsm8k", "preferences"])
def test_whatever_comes_from_the_hub_is_pinned(name):
    configs, how = read_recipe(load_recipe(name), name)
    mappings = {**load_recipe(name), "evaluation": to_mapping(how)}
    for section in mappings.values():
        for key, value in section.items():
            if key == "model" or (key == "second_judge" and name == "preferences"):
                assert hub.pinned_model(value), f"{key}: {value}"
            if key in ("data", "prompts", "pairs") and value is not None:
                assert hub.pinned_data(value), f"{key}: {value}"
    assert configs["ppo"].chat_template


@pytest.mark.parametrize("name", ["gsm8k", "preferences"])
def test_nothing_is_measured_on_what_was_trained_on(name):
    configs, how = read_recipe(load_recipe(name), name)
    trained = {hub.pinned_data(configs["ppo"].prompts).split}
    if "reward" in configs:
        trained |= {hub.pinned_data(configs[stage].data).split.partition("[")[0] for stage in ("sft", "reward")}
    for source in filter(None, (how.prompts, how.pairs)):
        assert hub.pinned_data(source).split not in trained


def test_gsm8k_is_measured_greedily_on_the_whole_test_set_with_the_published_sizes():
    configs, how = read_recipe(load_recipe("gsm8k"), "gsm8k")
    ppo = configs["ppo"]
    assert (how.temperature, how.count) == (0, 1319)
    assert (ppo.rollout_batch, ppo.max_prompt_tokens, ppo.max_new_tokens) == (256, 1024, 512)


def test_the_stories_recipe_takes_its_folders_by_four_settings():
    wanted = ["model=M", "data=stories:D", "prompts=stories:D", "second_judge=stories:D"]
    assert spread(wanted, load_recipe("stories")) == [
        *("sft.model=M", "reward.model=M", "ppo.model=M", "sft.data=stories:D", "reward.data=stories:D"),
        *("ppo.prompts=stories:D", "ppo.second_judge=stories:D"),
    ]
    assert all(stories_folder(load_recipe("stories")[stage]["data"]) for stage in ("sft", "reward"))


def test_a_setting_that_no_stage_knows_is_refused():
    with pytest.raises(ValueError, match="no stage has the key 'betaa'; did you mean 'beta'"):
        spread(["betaa=1"], load_recipe("pocket"))


@pytest.mark.parametrize("sections", [{}, {"sft": {}}, {"sft": {}, "ppo": {}}, {"evaluation": {}}])
def test_a_recipe_with_other_stages_is_refused(sections):
    with pytest.raises(ValueError, match="align needs sft, reward, ppo, or ppo alone"):
        read_recipe(sections, "mine.yaml")
