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


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("1:30", "steps"),
        ("6:00", "steps"),
        ("017", "steps"),
        ("0b11", "steps"),
        ("0x10", "steps"),
        ("1_000", "steps"),
        ("\uff11\uff12", "steps"),
        ("1:30.5", "epsilon"),
        ("1_0.5", "epsilon"),
        ("\uff10.\uff11", "epsilon"),
        (".inf", "epsilon"),
        (".nan", "epsilon"),
        ("2024-01-01", "steps"),
    ],
)
def test_numbers_that_would_surprise_are_refused(text, key):
    """YAML 1.1 reads 1:30 as 90 and 017 as 15."""
    with pytest.raises(ConfigError, match=rf"{key} is .* but must be"):
        read_config(Example, parse_yaml(f"{key}: {text}", "text"))
    with pytest.raises(ConfigError, match=rf"{key} is .* but must be"):
        read_config(Example, apply_overrides({}, [f"{key}={text}"]))


def test_an_alias_or_two_are_fine():
    text = "common: &c {seed: 1}\nsft: {<<: *c, epochs: 2}\nppo: *c\n"
    assert parse_yaml(text, "text") == {"common": {"seed": 1}, "sft": {"seed": 1, "epochs": 2}, "ppo": {"seed": 1}}


def test_an_alias_bomb_is_refused_before_it_is_read():
    """Nine levels of nine: nine to the ninth of parts, in a few hundred bytes."""
    levels = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    with pytest.raises(ConfigError, match="repeats named parts"):
        parse_yaml("\n".join(levels), "bomb.yaml")


@pytest.mark.parametrize("seed", [2**63 - 1, 0])
def test_seeds_have_the_range_of_the_generators(seed):
    assert PPOConfig(seed=seed).seed == seed
    with pytest.raises(ConfigError, match=r"seed is .* at most 9223372036854775807"):
        PPOConfig(seed=2**63)


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
        ({"steps": 10**24}, ["steps", "at most 1000000000"]),
        ({"steps": 10**400}, ["steps", "at most 1000000000"]),
        ({"epsilon": 10**400}, ["epsilon", "a number"]),
        ({"epsilon": "0.1"}, ["epsilon", "'0.1'", "a number"]),
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
        ("a: !!bool maybe", "tag 'tag:yaml.org,2002:bool'; leave tags out"),
        ("a: !!int x", "leave tags out"),
        ("a: &a {b: *a}", "&a holds itself"),
        ("a: &a [*a]", "&a holds itself"),
        ("&a {*a : 1}", "&a holds itself"),
        ("&a [1, &b {c: *a}]", "&a holds itself"),
        ("a: &a [1]\nb: [" + "*a, " * 21 + "]", "repeats named parts"),
        ("[" * 3000 + "]" * 3000, "nested more than 20 levels deep"),
        ("{a: " * 3000 + "1" + "}" * 3000, "nested more than 20 levels deep"),
        ("a: " + "- " * 100 + "1", "not valid YAML|nested"),
        ("\x00", "not valid YAML"),
        ("- " + "x" * 100_000, "keys and values"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_text_that_is_not_a_plain_mapping_is_refused_in_one_line(text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        parse_yaml(text, "run.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "null\n", "---\n"])
def test_a_file_that_says_nothing_is_refused(tmp_path, text):
    """Who gives one has probably named the wrong file."""
    path = tmp_path / "empty.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"empty\.yaml: says nothing; write keys and values"):
        load_yaml(path)
    path.write_text("{}")
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
    assert changed == {"seed": 2, "ppo": {"beta": 1e-3, "kind": "k3", "target": None}}
    assert original == {"seed": 1, "ppo": {"beta": 0.1}}


@pytest.mark.parametrize(
    "text",
    [
        " Think step by step.",
        " Answer:",
        "a: b: c",
        "key: value",
        "*star",
        "%d",
        "017",
        "1:30",
        "# no comment",
        "-",
        "12",
        "yes",
        " 0.5",
    ],
)
def test_a_text_is_taken_as_it_stands(text):
    """Blanks, colons and all: what a setting says is what is used."""
    assert apply_overrides({}, [f"prompt_suffix={text}"]) == {"prompt_suffix": text}
    assert read_config(PPOConfig, apply_overrides({}, [f"prompt_suffix={text}"])).prompt_suffix == text


def test_quotes_and_brackets_are_read_as_yaml():
    settings = ["a=' 1'", 'b="x\\n"', "c={d: 1}", "e=[1, 2]", "f=null", "g=false"]
    assert apply_overrides({}, settings) == {
        "a": " 1", "b": "x\n", "c": {"d": 1}, "e": [1, 2], "f": None, "g": False
    }  # fmt: skip


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
