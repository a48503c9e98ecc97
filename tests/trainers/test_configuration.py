"""Configurations: what is accepted; each refusal names the key, the value and the range."""

import warnings
from dataclasses import dataclass

import pytest

from ppo_lib.trainers.configuration import (
    ConfigError,
    GRPOConfig,
    PPOConfig,
    apply_overrides,
    check_config,
    load_recipe,
    load_yaml,
    option,
    parse_yaml,
    read_config,
    same_option,
    to_mapping,
)


@dataclass(frozen=True)
class Example:
    steps: int = option(10, help="iterations", minimum=1)
    epsilon: float = option(0.2, help="clip width", above=0.0)
    gamma: float = option(1.0, help="discount", minimum=0.0, maximum=1.0)
    kind: str = option("k1", help="estimator", choices=("k1", "k2", "k3"))
    whiten: bool = option(True, help="whiten advantages")
    target: float | None = option(None, help="KL target in nats", above=0.0)


def test_keys_that_are_not_given_keep_their_defaults():
    assert read_config(Example, {}) == read_config(Example, None) == Example()
    assert read_config(Example, {"steps": 3}) == Example(steps=3)


def test_the_same_option_has_the_range_and_meaning_of_the_other_and_only_what_changes_is_its_own():
    @dataclass(frozen=True)
    class Other:
        gamma: float = same_option(Example, "gamma")
        epsilon: float = same_option(Example, "epsilon", default=0.3)

        def __post_init__(self) -> None:
            check_config(self)

    assert Other() == Other(gamma=1.0, epsilon=0.3)
    for name in ("gamma", "epsilon"):
        assert Other.__dataclass_fields__[name].metadata == Example.__dataclass_fields__[name].metadata
    with pytest.raises(ConfigError, match=r"gamma is 1\.5, but must be a number at least 0 and at most 1"):
        Other(gamma=1.5)
    assert Example.__dataclass_fields__["epsilon"].default == 0.2


def test_to_mapping_is_the_inverse_of_read_config():
    config = Example(steps=4, target=6.0)
    assert read_config(Example, to_mapping(config)) == config


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("2", 2.0), (".5", 0.5), ("1.0e-2", 0.01)])
def test_a_float_may_be_written_as_people_write_numbers(text, value):
    read = read_config(Example, parse_yaml(f"epsilon: {text}", "text")).epsilon
    assert read == value
    assert isinstance(read, float)


def test_an_optional_field_takes_null_and_a_value():
    assert read_config(Example, {"target": None}).target is None
    assert read_config(Example, {"target": 6}).target == 6.0


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"epsilonn": 0.1}, ["epsilonn", "0.1", "did you mean 'epsilon'"]),
        ({"zzz": 1}, ["zzz", "known keys", "gamma"]),
        ({"steps": 0}, ["steps", "0", "a whole number at least 1"]),
        ({"steps": True}, ["steps", "True", "whole number"]),
        ({"steps": 2.0}, ["steps", "2.0", "whole number"]),
        ({"steps": "2"}, ["steps", "'2'", "whole number"]),
        ({"steps": None}, ["steps", "None"]),
        ({"epsilon": 0}, ["epsilon", "0", "a number above 0"]),
        ({"epsilon": True}, ["epsilon", "True", "a number"]),
        ({"epsilon": "small"}, ["epsilon", "small", "a number"]),
        ({"epsilon": float("nan")}, ["epsilon", "nan"]),
        ({"epsilon": float("inf")}, ["epsilon", "inf"]),
        ({"gamma": 1.01}, ["gamma", "1.01", "at least 0 and at most 1"]),
        ({"gamma": [1]}, ["gamma", "[1]"]),
        ({"kind": "k4"}, ["kind", "k4", "one of k1, k2, k3"]),
        ({"kind": 1}, ["kind", "1", "one of k1"]),
        ({"whiten": 1}, ["whiten", "1", "true or false"]),
        ({"whiten": "yes please"}, ["whiten", "true or false"]),
        ({"target": -1.0}, ["target", "-1.0", "above 0", "or null"]),
    ],
)
def test_a_refusal_names_place_key_value_and_range(mapping, words):
    with pytest.raises(ConfigError) as caught:
        read_config(Example, mapping, where="run.yaml")
    message = str(caught.value)
    assert message.startswith("run.yaml: ")
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_key_that_is_refused_on_purpose_gives_the_reason():
    with pytest.raises(ConfigError, match=r"top_k \(value 50\) is refused: .*log-probs"):
        read_config(PPOConfig, {"top_k": 50})


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_a_biased_estimate_in_the_reward_is_warned_about(kind):
    for config in (PPOConfig, GRPOConfig):
        with pytest.warns(UserWarning, match=rf"^kl_estimator is {kind}, which is biased in the reward: .* use k1, or"):
            config(kl_in="reward", kl_estimator=kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PPOConfig(kl_in="loss", kl_estimator=kind)
        PPOConfig(kl_in="reward", kl_estimator="k1")
        PPOConfig(kl_in="reward", kl_estimator=kind, beta=0.0)  # nothing is charged


def test_something_that_is_not_a_mapping_is_refused():
    with pytest.raises(ConfigError, match="keys and values"):
        read_config(Example, [1, 2])  # type: ignore[arg-type]


def test_a_rule_between_fields_becomes_a_config_error_that_names_the_file():
    @dataclass(frozen=True)
    class Linked:
        rollout: int = option(8, help="responses")
        minibatch: int = option(4, help="responses")

        def __post_init__(self):
            if self.rollout % self.minibatch:
                raise ValueError(f"rollout is {self.rollout}, not a multiple of minibatch {self.minibatch}")

    with pytest.raises(ConfigError, match=r"run\.yaml: rollout is 8, not a multiple"):
        read_config(Linked, {"minibatch": 3}, where="run.yaml")


def test_a_config_made_in_python_is_checked_as_well():
    check_config(Example())
    with pytest.raises(ConfigError, match=r"Example: gamma is 2\.0"):
        check_config(Example(gamma=2.0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1\n- 2", "keys and values"),
        ("1: 2", "keys and values"),
        ("seed: 1\nseed: 2", "given twice"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_text_that_is_not_a_plain_mapping_is_refused_in_one_line(text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        parse_yaml(text, "run.yaml")
    assert "\n" not in str(caught.value)


def test_an_empty_file_is_an_empty_config(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing\n")
    assert load_yaml(path) == {}


def test_a_file_that_is_missing_or_not_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_yaml(tmp_path / "missing.yaml")
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_yaml(path)


def test_overrides_reach_into_sections_and_leave_the_original_alone():
    original = {"seed": 1, "ppo": {"beta": 0.1}}
    changed = apply_overrides(original, ["seed=2", "ppo.beta=1e-3", "ppo.kind=k3", "ppo.target=null"])
    assert changed == {"seed": 2, "ppo": {"beta": "1e-3", "kind": "k3", "target": None}}
    assert original == {"seed": 1, "ppo": {"beta": 0.1}}


@pytest.mark.parametrize("setting", ["beta", "=1", ".beta=1", "seed.x=1", "beta=[1"])
def test_a_setting_that_is_not_key_value_is_refused(setting):
    with pytest.raises(ConfigError, match="--set"):
        apply_overrides({"seed": 1}, [setting])


def test_the_pocket_recipe_has_a_section_for_each_stage_and_an_unknown_recipe_is_refused():
    assert list(load_recipe("pocket")) == ["sft", "reward", "ppo", "grpo", "dpo"]
    with pytest.raises(ConfigError, match=r"known recipes: .*pocket"):
        load_recipe("pockets")
    with pytest.raises(ConfigError, match="known recipes"):
        load_recipe("../configuration")
