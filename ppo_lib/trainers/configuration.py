"""The knobs of every trainer, each with its meaning and its range; and how they are read from YAML.

    config = read_config(PPOConfig, load_yaml("ppo.yaml"), where="ppo.yaml")

A field is a ``str``, ``int``, ``float`` or ``bool``, or one of these ``| None``. Everything else is refused with one
sentence that names the key, the value and the range. ``book/hyperparameters`` tells what each knob does.
"""

import dataclasses
import difflib
import functools
import math
import reprlib
import types
import typing
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ppo_lib.errors import BadInput
from ppo_lib.formulas.grpo import AVERAGES, SCALES
from ppo_lib.models.actor_critic import CRITIC, FINETUNE
from ppo_lib.models.registry import TOY
from ppo_lib.sampling.rollout import REFUSED_SAMPLING
from ppo_lib.trainers.plain_yaml import Refused, load_plain

DTYPES = ("float32", "bfloat16", "float16", "auto")  # what configurations may ask for
MOST = 10**9  # of whole numbers that count something
MOST_FLOAT = 1e300  # so that no whole number is too large for one, and infinities are none
MOST_SEED = 2**63 - 1  # that all generators take as it is
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}

T = TypeVar("T")


class ConfigError(BadInput):
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
    if (most := highest(field, kind)) is not None:
        bounds.append(f"at most {most}" if kind is int else f"at most {most:g}")
    return WORDS[kind] + (" " + " and ".join(bounds) if bounds else "")


def highest(field: "dataclasses.Field[Any]", kind: type) -> float | None:
    """The inclusive upper bound of a number; whole numbers always have one."""
    if field.metadata.get("maximum") is not None or kind is not int:
        return field.metadata.get("maximum")
    return MOST_SEED if field.name == "seed" else MOST


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
    if result is None or not in_range(result, field, kind):
        wanted = describe_range(field, kind) + (", or null" if optional else "")
        raise ConfigError(f"{where}: {field.name} is {value!r}, but must be {wanted}")
    return result


def cast(value: Any, kind: type) -> Any:
    """``value`` as ``kind`` when nothing is lost or guessed, else None."""
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > MOST_FLOAT:
            return None
        return None if math.isnan(value) else float(value)
    if kind is int and isinstance(value, bool):
        return None
    return value if isinstance(value, kind) else None


def in_range(value: Any, field: "dataclasses.Field[Any]", kind: type) -> bool:
    """True where ``value`` lies within the bounds and the choices of the field."""
    limits = field.metadata
    choices, above = limits.get("choices"), limits.get("above")
    minimum, maximum = limits.get("minimum"), highest(field, kind)
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
            raise ConfigError(f"{where}: unknown key {key!r} (value {value!r}); {suggestion(str(key), fields, value)}")
        values[key] = convert(value, fields[key], hints[key], where)
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def suggestion(key: str, known: Iterable[str], value: object = None) -> str:
    """``did you mean 'beta'?`` when a known key is close, else the list of known keys.

    Under the name of a stage, ``ppo.beta``, a key is known where there are several; here it comes as a mapping.
    """
    if isinstance(value, Mapping) and len(value) == 1:
        return f"if the key {next(iter(value))!r} is meant, give it without {key + '.'!r}"
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else "known keys: " + ", ".join(known)


def to_mapping(config: Any) -> dict[str, Any]:
    """The configuration as plain keys and values: the inverse of :func:`read_config`."""
    return dataclasses.asdict(config)


def defaults_of(config: Any) -> dict[str, Any]:
    """The default of each key of a configuration."""
    return {field.name: field.default for field in dataclasses.fields(config)}


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
    except Refused as error:
        raise ConfigError(f"{where}: not valid YAML: {error}") from error
    if content is None:
        raise ConfigError(f"{where}: says nothing; write keys and values, such as 'seed: 1', or {{}} for all defaults")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{where}: must hold keys and values, such as 'seed: 1', but holds {reprlib.repr(content)}")
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
        value = value_of(text, setting)
        is_text = key in text_keys() and isinstance(value, (bool, int, float))  # yes and 12 are texts there
        target[key] = text if is_text else value
    return result


@functools.cache
def text_keys() -> set[str]:
    """The keys that hold a text in every stage that has them."""
    hints = [typing.get_type_hints(stage) for stage in (SFTConfig, RewardConfig, PPOConfig, GRPOConfig, DPOConfig)]
    return {key for stage in hints for key, kind in stage.items() if all(each.get(key, kind) is str for each in hints)}


def value_of(text: str, setting: str) -> Any:
    """What stands behind the ``=`` of a setting: a number, true, false, null, YAML in quotes or brackets; else a text.

    A text is taken as it stands, blanks and colons included: ``prompt_suffix= Answer:``.

    Raises:
        ConfigError: quotes or brackets that are not valid YAML.
    """
    try:
        value = load_plain(text)
    except Refused as error:
        if text.strip()[:1] in tuple("\"'[{"):
            raise ConfigError(f"--set {setting!r}: the value is not valid YAML: {error}") from error
        return text
    is_yaml = text.strip()[:1] in tuple("\"'[{") or isinstance(value, (bool, int, float)) or not text.strip("~ ")
    return value if is_yaml or text.strip().lower() == "null" else text


def load_recipe(name: str) -> dict[str, Any]:
    """A recipe that comes with the package: keys and values of its stages, a section each (``sft``, ``ppo``, ...).

    Raises:
        ConfigError: no such recipe.
    """
    folder = Path(__file__).parents[1] / "recipes"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"no recipe {name!r}; known recipes: {', '.join(known)}")
    return load_yaml(folder / f"{name}.yaml")


@dataclass(frozen=True)
class SFTConfig:
    """Knobs of supervised fine-tuning."""

    model: str = option(f"{TOY}:base", help=f"the base model: {TOY}:base, a folder in hub format, or OWNER/NAME@COMMIT")
    data: str = option(TOY, help=f"demonstrations, see ppo_lib.run.data: {TOY}, a JSONL file, a data set")
    chat_template: bool = option(False, help="put prompts into the tokenizer's chat template, as -Instruct models want")
    epochs: int = option(2, minimum=1, help="passes over the demonstrations")
    max_steps: int | None = option(None, minimum=1, help="stop after so many optimizer steps; null: after the epochs")
    batch: int = option(64, minimum=1, help="demonstrations per optimizer step")
    microbatch: int = option(64, minimum=1, help="demonstrations per forward pass; less memory, same result")
    learning_rate: float = option(1e-3, above=0.0, help="peak of the schedule")
    max_grad_norm: float = option(1.0, above=0.0, help="longer gradients are scaled down to this")
    lora_rank: int = option(0, minimum=0, help="rank of an adapter that is merged at the end; 0 trains all weights")
    max_length: int | None = option(None, minimum=2, help="refuse demonstrations of more tokens than this")
    drop_longer: bool = option(False, help="leave out what is longer than max_length, instead of refusing it")
    gradient_checkpointing: bool = option(False, help="compute activations twice instead of keeping them")
    seed: int = option(0, minimum=0, help="of the order of the data")
    device: str = option("auto", help="cpu, cuda, or auto for a GPU where there is one")
    dtype: str = option("float32", choices=DTYPES, help="of the weights; auto: bfloat16 where the GPU computes in it")

    def __post_init__(self) -> None:
        check_config(self)


@dataclass(frozen=True)
class RewardConfig:
    """Knobs of reward-model training."""

    model: str = option(f"{TOY}:sft", help=f"the SFT model: {TOY}:sft, a folder in hub format, or OWNER/NAME@COMMIT")
    data: str = option(TOY, help=f"comparisons, see ppo_lib.run.data: {TOY}, a JSONL file, a data set")
    chat_template: bool = same_option(SFTConfig, "chat_template")
    epochs: int = option(1, minimum=1, help="passes over the pairs; reward models overfit early")
    max_steps: int | None = same_option(SFTConfig, "max_steps")
    batch: int = option(64, minimum=1, help="pairs per optimizer step, about: rankings stay whole")
    microbatch: int = option(64, minimum=1, help="pairs per forward pass; less memory, same result")
    learning_rate: float = same_option(SFTConfig, "learning_rate")
    max_grad_norm: float = same_option(SFTConfig, "max_grad_norm")
    lora_rank: int = option(8, minimum=1, help="rank of the reward adapter")
    max_length: int | None = option(None, minimum=2, help="refuse pairs of more tokens than this")
    drop_longer: bool = same_option(SFTConfig, "drop_longer")
    gradient_checkpointing: bool = same_option(SFTConfig, "gradient_checkpointing")
    seed: int = option(0, minimum=0, help="of the adapter and the order of the data")
    device: str = same_option(SFTConfig, "device")
    dtype: str = option("float32", choices=DTYPES, help="of the backbone; auto: bfloat16 where the GPU computes in it")

    def __post_init__(self) -> None:
        check_config(self)


@dataclass(frozen=True)
class PPOConfig:
    """Knobs of PPO. ``book/hyperparameters`` tells what each does when it is too low or too high."""

    model: str = option(f"{TOY}:sft", help=f"the SFT model: {TOY}:sft, a folder in hub format, or OWNER/NAME@COMMIT")
    prompts: str = option(TOY, help=f"see ppo_lib.run.data: {TOY}, a JSONL file, a data set")
    prompt_suffix: str = option("", help="text put after every prompt, such as the wanted form of the answer")
    chat_template: bool = option(False, help="put prompts into the tokenizer's chat template, as -Instruct models want")
    max_prompt_tokens: int | None = option(None, minimum=1, help="leave out longer prompts; null refuses them")
    reward_model: str = option(TOY, help=f"what is maximized, see ppo_lib.run.judge_names: {TOY}, a folder, a function")
    heldout_judge: str | None = option(
        None, help="measured and never trained on, see ppo_lib.run.judge_names; null for none"
    )
    iterations: int = option(50, minimum=1, help="rollout batches in all")
    rollout_batch: int = option(64, minimum=1, help="responses sampled per iteration")
    minibatch: int = option(32, minimum=1, help="responses per optimizer step")
    microbatch: int = option(32, minimum=1, help="responses per forward pass; less memory, same result")
    gradient_checkpointing: bool = option(False, help="compute activations twice instead of keeping them")
    share_prefix: bool = option(True, help="read what all prompts begin with once, not in every row; same result")
    fused_lora: bool = option(True, help="an adapted layer in three products instead of five kernels; same result")
    fused_blocks: bool = option(True, help="on a GPU, norms and rotary embeddings in few kernels; same result")
    merge_adapter: bool | None = option(
        None, help="sample with the adapter added to a copy of the weights; null does so on a GPU"
    )
    tf32: bool = option(False, help="let a GPU round the factors of float32 products to TF32, which is faster")
    epochs: int = option(4, minimum=1, help="passes over each rollout batch")
    max_new_tokens: int = option(48, minimum=1, help="longest response, in tokens")
    temperature: float = option(1.0, above=0.0, help="of sampling; log-probs are those of the sampled distribution")
    epsilon: float | None = option(0.2, minimum=0.0, help="clip width of the ratio; null for no clip")
    dual_clip: float | None = option(None, above=1.0, help="bound on bad tokens that got likelier; null for none")
    gamma: float = option(1.0, minimum=0.0, maximum=1.0, help="discount per token")
    lam: float = option(0.95, minimum=0.0, maximum=1.0, help="GAE's mixing of short and long horizons")
    beta: float = option(0.1, minimum=0.0, help="strength of the KL rubber band, reward per nat")
    kl_estimator: str = option("k1", choices=("k1", "k2", "k3"), help="per-token estimate of the KL")
    kl_in: str = option("reward", choices=("reward", "loss"), help="where the KL acts")
    kl_target: float | None = option(None, above=0.0, help="adapt beta toward this KL (nats per response); null: fixed")
    kl_horizon: float = option(1000.0, above=0.0, help="responses over which beta adapts by 20 %")
    value_coef: float = option(0.1, minimum=0.0, help="c1, weight of the critic's loss")
    entropy_coef: float = option(0.0, minimum=0.0, help="c2, weight of the entropy bonus")
    value_clip: float | None = option(0.2, minimum=0.0, help="how far a value may move per batch; null for no limit")
    whiten_advantages: bool = option(True, help="scale advantages to mean 0, variance 1 over the rollout batch")
    whiten_rewards: bool = option(False, help="scale augmented rewards to variance 1, mean kept")
    normalize_scores: bool = option(True, help="use the reward model's calibrated scores, not its raw ones")
    missing_eos_penalty: float = option(0.0, minimum=0.0, help="taken off the score of a truncated response")
    learning_rate: float = option(1e-3, above=0.0, help="constant; about 1e-3 for LoRA, 1e-6 to 1e-5 for full")
    max_grad_norm: float = option(1.0, above=0.0, help="longer gradients are scaled down to this")
    finetune: str = option("lora", choices=FINETUNE, help="train adapters, or all weights of a copy of the model")
    critic: str = option("shared", choices=CRITIC, help="a head on the actor's states, or a network of its own too")
    lora_rank: int = option(8, minimum=1, help="rank of the adapters; finetune: full has none")
    seed: int = option(0, minimum=0, help="of adapter, prompts and sampling")
    device: str = option("auto", help="cpu, cuda, or auto for a GPU where there is one")
    dtype: str = option("float32", choices=DTYPES, help="of the backbone; auto: bfloat16 where the GPU computes in it")

    def __post_init__(self) -> None:
        check_config(self)
        if self.rollout_batch % self.minibatch:
            raise ConfigError(
                f"minibatch is {self.minibatch}, but must divide rollout_batch, which is {self.rollout_batch}"
            )
        if self.microbatch > self.minibatch:
            raise ConfigError(
                f"microbatch is {self.microbatch}, but must be at most minibatch, which is {self.minibatch}"
            )
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ConfigError("kl_estimator is k1, whose gradient is zero on average; with kl_in: loss use k2 or k3")
        if self.kl_in == "reward" and self.kl_estimator != "k1" and self.beta > 0:
            warnings.warn(
                f"kl_estimator is {self.kl_estimator}, which is biased in the reward: as a charge on sampled tokens it "
                "does not pull along the gradient of the KL; with kl_in: reward use k1, or kl_in: loss with k2",
                stacklevel=3,
            )
        if self.kl_target is not None and self.beta == 0:
            raise ConfigError("beta is 0, but kl_target multiplies it up or down; start above 0 (0.1 is usual)")
        if self.finetune == "full" and self.dtype == "float16":
            raise ConfigError(
                "dtype is float16, in which gradients of all weights underflow; with finetune: full use bfloat16 or "
                "float32, or use finetune: lora"
            )

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps that the three batch sizes mean, in all."""
        return self.iterations * self.epochs * (self.rollout_batch // self.minibatch)


# Keys that other trainers have and this one refuses, with the reason (read by read_config).
PPOConfig.refused = REFUSED_SAMPLING  # type: ignore[attr-defined]


@dataclass(frozen=True)
class GRPOConfig:
    """Knobs of GRPO; those that it shares with PPO mean the same there. ``book/hyperparameters`` has both."""

    model: str = same_option(PPOConfig, "model")
    prompts: str = same_option(PPOConfig, "prompts")
    reward_model: str = same_option(PPOConfig, "reward_model")
    iterations: int = same_option(PPOConfig, "iterations")
    group_size: int = option(8, minimum=2, help="responses per prompt")
    rollout_batch: int = option(64, minimum=2, help="responses sampled per iteration, all groups together")
    minibatch: int = same_option(PPOConfig, "minibatch")
    microbatch: int = same_option(PPOConfig, "microbatch")
    epochs: int = same_option(PPOConfig, "epochs")
    max_new_tokens: int = same_option(PPOConfig, "max_new_tokens")
    temperature: float = same_option(PPOConfig, "temperature")
    scale: str = option("group", choices=SCALES, help="divide advantages by their group's standard deviation, or not")
    average: str = option("response", choices=AVERAGES, help="what a response's loss is divided by")
    epsilon: float = option(0.2, minimum=0.0, help="clip width of the ratio")
    beta: float = option(0.1, minimum=0.0, help="strength of the KL rubber band")
    kl_estimator: str = same_option(PPOConfig, "kl_estimator", default="k3")
    kl_in: str = option("loss", choices=("loss", "reward"), help="where the KL acts")
    normalize_scores: bool = same_option(PPOConfig, "normalize_scores")
    missing_eos_penalty: float = same_option(PPOConfig, "missing_eos_penalty")
    learning_rate: float = option(1e-3, above=0.0, help="constant")
    max_grad_norm: float = same_option(PPOConfig, "max_grad_norm")
    lora_rank: int = option(8, minimum=1, help="rank of the actor's adapter")
    merge_adapter: bool | None = same_option(PPOConfig, "merge_adapter")
    seed: int = same_option(PPOConfig, "seed")
    device: str = same_option(PPOConfig, "device")
    dtype: str = same_option(PPOConfig, "dtype")

    # Knobs of PPO that whoever builds any stage asks for, and that are none here.
    chat_template: ClassVar[bool] = False
    gradient_checkpointing: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_config(self)
        if self.rollout_batch % self.group_size:
            raise ConfigError(
                f"group_size is {self.group_size}, but must divide rollout_batch, which is {self.rollout_batch}"
            )
        self.rollout()  # the checks of the batch sizes and of the KL are PPO's

    def rollout(self) -> PPOConfig:
        """What the rollout needs, in PPO's terms."""
        shared = {field.name for field in fields(PPOConfig)}
        return PPOConfig(**{name: value for name, value in asdict(self).items() if name in shared})


@dataclass(frozen=True)
class DPOConfig:
    """Knobs of DPO. ``book/hyperparameters`` tells what each does when it is too low or too high."""

    model: str = same_option(RewardConfig, "model")
    data: str = same_option(RewardConfig, "data")
    epochs: int = option(1, minimum=1, help="passes over the pairs")
    batch: int = option(64, minimum=1, help="pairs per optimizer step")
    microbatch: int = same_option(RewardConfig, "microbatch")
    beta: float = option(0.1, above=0.0, help="strength of the KL rubber band, utility of the labelers per nat")
    learning_rate: float = same_option(RewardConfig, "learning_rate")
    max_grad_norm: float = same_option(RewardConfig, "max_grad_norm")
    lora_rank: int = option(8, minimum=1, help="rank of the actor's adapter")
    max_length: int | None = same_option(RewardConfig, "max_length")
    seed: int = same_option(RewardConfig, "seed")
    device: str = same_option(RewardConfig, "device")
    dtype: str = same_option(RewardConfig, "dtype")

    # Knobs of the reward model that whoever builds any stage asks for, and that are none here.
    chat_template: ClassVar[bool] = False
    drop_longer: ClassVar[bool] = False
    gradient_checkpointing: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_config(self)


# Keys of other stages that people will bring along, each with the reason why these two have none (read by read_config).
NOT_YET = "there is no such key here yet; leave it out"
GRPOConfig.refused = {  # type: ignore[attr-defined]
    **REFUSED_SAMPLING,
    **dict.fromkeys(
        ("finetune", "critic", "value_coef", "value_clip", "gamma", "lam"), "GRPO has no critic; leave it out"
    ),
    **dict.fromkeys(("chat_template", "gradient_checkpointing", "max_prompt_tokens", "prompt_suffix"), NOT_YET),
    "heldout_judge": NOT_YET,
}
DPOConfig.refused = dict.fromkeys(  # type: ignore[attr-defined]
    ("chat_template", "drop_longer", "gradient_checkpointing", "max_steps"), NOT_YET
)
