"""Adapter folders, as this library and as PEFT write them: checked before they are used, and merged where asked.

A folder is refused for whatever in it would otherwise be ignored and so change what it means.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from ppo_lib.errors import BadInput, reading
from ppo_lib.models import registry
from ppo_lib.models.bases import NOTE, changed_layer
from ppo_lib.models.files import load_tensors, not_finite, notes_in, number_at, read_json, text_at

KIND = "a PEFT adapter folder"
CONFIG, WEIGHTS, REWARD_HEAD = "adapter_config.json", "adapter_model.safetensors", "reward_head.safetensors"
MOST_RANK = 65_536
# Keys of PEFT that change what an adapter adds, each with the value that changes nothing.
PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "use_rslora": (False, None),
    "use_dora": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": ([], None),
    "layers_to_transform": ([], None),
    "layer_replication": ([], None),
    "target_parameters": ([], None),
    "trainable_token_indices": ([], {}, None),
    "lora_bias": (False, None),
    # The others (pissa, olora, corda, loftq, lora_ga) take away from the base's weights what the adapter begins with.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", None),
    "alora_invocation_tokens": (None,),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
}


@dataclass(frozen=True)
class AdapterSettings:
    """What an adapter of this library is: its base, its rank, and its scale times rank."""

    base: str
    rank: int
    alpha: float


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and no model of its own."""
    with reading(folder):
        return (folder / CONFIG).is_file() and not list(folder.glob("model*.safetensors"))


def read_settings(folder: str | Path) -> AdapterSettings:
    """The settings of a plain LoRA adapter; what changes its meaning and is not known here is refused.

    Raises:
        BadInput: no adapter there, or one of another kind; names the file, the key and the value.
    """
    path = Path(folder) / CONFIG
    config = read_json(path, KIND)
    if config.get("peft_type") != "LORA":
        raise BadInput(f"{str(path)!r}: peft_type is {config.get('peft_type')!r}, but only LORA is known here")
    for key, values in PLAIN.items():
        if config.get(key) not in values:
            raise BadInput(
                f"{str(path)!r}: {key} is {config[key]!r}, but only plain LoRA can be loaded beside other adapters; "
                "give the folder as model, where it is merged into its base, or merge it by PEFT's merge_and_unload"
            )
    rank = number_at(config, "r", path, 1, MOST_RANK)
    if rank != int(rank):
        raise BadInput(f"{str(path)!r}: r is {rank!r}, but must be a whole number; save the folder again")
    alpha = number_at(config, "lora_alpha", path, 1e-6, 1e6)
    return AdapterSettings(base_name(folder), int(rank), alpha)


def base_name(folder: str | Path, file: str = CONFIG) -> str:
    """The name of the model that the adapter in a folder was made for, pinned where it came from the hub.

    A folder that is not found where its name says is looked for beside the adapter and above: both may have been moved.

    Args:
        folder: the adapter's.
        file: which of its files names the base.

    Raises:
        BadInput: no such file, or no name in it.
    """
    path = Path(folder) / file
    config = read_json(path, KIND)
    name, revision = text_at(config, "base_model_name_or_path", path), config.get("revision")
    if revision is not None and not isinstance(revision, str):
        raise BadInput(f"{str(path)!r}: revision is {revision!r}, but must be text; save the folder again")
    return found_base(Path(folder), name) or (f"{name}@{revision}" if revision else name)


def found_base(folder: Path, name: str) -> str | None:
    """The folder of that name: where it says, or relative to the adapter's or one above; None where there is none."""
    with reading(folder):
        if Path(name).exists() or registry.find_model(name) is not None:
            return name
        # After a move: relative to the adapter's folder or one above; of align, the model of the stage before.
        beside = [] if Path(name).is_absolute() else [parent / name for parent in folder.absolute().parents]
        if Path(name).parts[-2:] == ("sft", "model"):
            beside.append(folder.absolute().parent.parent / "sft" / "model")
        return next((str(place) for place in beside if place.is_dir()), None)


def same_model(one: str, other: str) -> bool:
    """Whether two names mean one model: the same text, or the same folder."""
    one, other = registry.exact_model(one), registry.exact_model(other)
    if one == other:
        return True
    places = [Path(registry.find_model(name) or name) for name in (one, other)]
    return all(place.exists() for place in places) and places[0].samefile(places[1])


def merge(causal_lm: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The base model with an adapter added to its weights, by PEFT: any of the kinds that can be merged.

    Args:
        causal_lm: the model that the adapter was made for, changed in place.
        folder: the adapter's.

    Raises:
        BadInput: no safetensors, another model's adapter, or a kind that cannot be merged.
    """
    path = folder / CONFIG
    config = read_json(path, KIND)
    with reading(folder):
        if not (folder / WEIGHTS).is_file():
            raise BadInput(f"{str(folder)!r} has no {WEIGHTS}; weights are read from safetensors alone")
    if (folder / REWARD_HEAD).exists():
        raise BadInput(
            f"{str(folder)!r} holds a reward model, which scores texts and writes none; give it as reward_model, and "
            "as model a policy or the SFT model that it stands on"
        )
    if config.get("peft_type") == "LORA":
        number_at(config, "r", path, 1, MOST_RANK)
        number_at(config, "lora_alpha", path, 1e-6, 1e6)
    tensors = load_tensors(folder / WEIGHTS)
    if layer := changed_layer(notes_in(folder / WEIGHTS).get(NOTE), causal_lm):
        raise other_weights(folder, str(causal_lm.config.name_or_path), layer)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model: Any = PeftModel.from_pretrained(causal_lm, str(folder), torch_device="cpu")
            there = sum("lora_" in key or "ia3_" in key or "modules_to_save" in key for key in model.state_dict())
            missing = [str(warning.message) for warning in said if "missing adapter keys" in str(warning.message)]
            if missing or there < len(tensors):
                raise ValueError("its tensors are not those of this model's layers")
            merged = model.merge_and_unload()
            vars(merged).pop("peft_config", None)  # PEFT before 0.19 leaves it, as if there still were adapters
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # PEFT's own words for what it cannot take
        why = " ".join(str(error).split())[:200]
        raise BadInput(
            f"the adapter in {str(folder)!r} cannot be merged into {causal_lm.config.name_or_path!r}: {why}; give the "
            "model that it was made for, or merge it with the PEFT that wrote it"
        ) from error
    check_finite(merged, folder)
    return merged.requires_grad_(False)


def other_weights(folder: str | Path, base: str, layer: str) -> BadInput:
    """What is said of an adapter that was trained on another model of the same shape."""
    return BadInput(
        f"the adapter in {str(folder)!r} was trained on other weights than those of {base!r} (they differ in {layer}); "
        f"give the very model that it was trained on, or train it anew on {base!r}"
    )


def check_finite(model: nn.Module, folder: str | Path) -> None:
    """Refuse weights that are NaN or infinite, by their names."""
    if (key := not_finite(model.state_dict())) is not None:
        raise BadInput(f"model {str(folder)!r}: the weights {key} hold NaN or infinity; save or download it again")
