"""The recipes that come with the package: every key is known, everything from the hub is pinned, stages fit."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import LlamaConfig

import ppo_lib
from ppo_lib.models import hub, registry
from ppo_lib.run.commands import check_standing, read_recipe, spread
from ppo_lib.run.memory import plan_memory
from ppo_lib.run.stages import CONFIGS
from ppo_lib.trainers.configuration import load_recipe, read_config, to_mapping

RECIPES = sorted(path.stem for path in (Path(ppo_lib.__file__).parent / "recipes").glob("*.yaml"))


def test_these_are_the_recipes():
    assert RECIPES == ["capitals", "gsm8k", "pocket", "preferences", "stories"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_section_of_a_recipe_is_a_configuration(name):
    configs, how = read_recipe(load_recipe(name), name)
    stages = {"gsm8k": ["ppo"], "capitals": ["rank", "reward", "ppo"]}
    assert list(configs) == stages.get(name, ["sft", "reward", "ppo"])
    for config in configs.values():
        assert config.seed == 0
    for stage in set(load_recipe(name)) - {*configs, "evaluation"}:  # those that train alone runs
        assert read_config(CONFIGS[stage], load_recipe(name)[stage]).seed == 0
    assert how.temperature in (0, configs["ppo"].temperature)


@pytest.mark.parametrize("name", ["gsm8k", "preferences"])
def test_whatever_comes_from_the_hub_is_pinned(name):
    configs, how = read_recipe(load_recipe(name), name)
    mappings = {**load_recipe(name), "evaluation": to_mapping(how)}
    for section in mappings.values():
        for key, value in section.items():
            if key == "model" or (key == "heldout_judge" and name == "preferences"):
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


def test_the_stages_of_preferences_fit_a_t4_even_where_long_prompts_meet_long_answers():
    """By the memory plan's arithmetic, in float32. Padded to its longest prompt and longest answer, a microbatch may
    be nearly twice as wide as the longest text."""
    smollm2 = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=49_152, tie_word_embeddings=True,
    )  # fmt: skip
    free, heldout_judge = 15e9, 2 * 1.73e9  # of 16 GB; float16
    configs, _ = read_recipe(load_recipe("preferences"), "preferences")
    ppo = replace(configs["ppo"], dtype="float32")
    assert plan_memory(smollm2, ppo, ppo.max_prompt_tokens, configs["reward"].lora_rank).total + heldout_judge < free
    for stage, texts in (("sft", 1), ("reward", 2)):  # a pair is two answers
        rows, length = texts * configs[stage].microbatch, configs[stage].max_length
        same = replace(ppo, rollout_batch=rows, minibatch=rows, microbatch=rows, max_new_tokens=length)
        assert plan_memory(smollm2, same, length).total < free


def test_gsm8k_is_measured_greedily_on_the_whole_test_set_with_the_published_sizes():
    configs, how = read_recipe(load_recipe("gsm8k"), "gsm8k")
    ppo = configs["ppo"]
    assert (how.temperature, how.count) == (0, 1319)
    assert (ppo.rollout_batch, ppo.max_prompt_tokens, ppo.max_new_tokens) == (256, 1024, 512)


def test_the_stories_recipe_takes_its_folders_by_four_settings():
    wanted = ["model=M", "data=stories:D", "prompts=stories:D", "heldout_judge=stories:D"]
    assert spread(wanted, load_recipe("stories")) == [
        *("sft.model=M", "reward.model=M", "ppo.model=M", "sft.data=stories:D", "reward.data=stories:D"),
        *("ppo.prompts=stories:D", "ppo.heldout_judge=stories:D"),
    ]
    assert all(registry.find(load_recipe("stories")[stage]["data"]) for stage in ("sft", "reward"))


def test_a_setting_that_no_stage_knows_is_refused():
    with pytest.raises(ValueError, match="no stage has the key 'betaa'; did you mean 'beta'"):
        spread(["betaa=1"], load_recipe("pocket"))


def test_align_leaves_the_sections_of_other_stages_alone():
    pocket = load_recipe("pocket")
    assert {"grpo", "dpo"} <= set(pocket)
    assert spread(["beta=0.3"], pocket) == ["ppo.beta=0.3"]
    assert list(read_recipe(pocket, "pocket")[0]) == ["sft", "reward", "ppo"]
    assert list(read_recipe({"ppo": {}, "grpo": {}}, "mine.yaml")[0]) == ["ppo"]


@pytest.mark.parametrize("sections", [{}, {"sft": {}}, {"sft": {}, "ppo": {}}, {"evaluation": {}}, {"grpo": {}}])
def test_a_recipe_with_other_stages_is_refused(sections):
    with pytest.raises(
        ValueError, match="align needs sft, reward, ppo; or rank, reward, ppo; or all four; or ppo alone"
    ):
        read_recipe(sections, "mine.yaml")


def test_what_a_stage_makes_itself_cannot_be_set():
    configs, _ = read_recipe(load_recipe("capitals"), "capitals")
    for setting in ("data=x.jsonl", "reward.data=x.jsonl", "ppo.reward_model=x"):
        with pytest.raises(ValueError, match="align makes what"):
            check_standing([setting], configs)
    check_standing(["model=x", "reward.model=x", "ppo.model=x", "rank.labeler=a:b"], configs)
    with pytest.raises(ValueError, match=r"align makes what ppo\.model"):
        check_standing(["ppo.model=x"], read_recipe(load_recipe("pocket"), "pocket")[0])
