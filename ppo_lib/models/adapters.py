"""LoRA adapters on a causal language model: added, switched, saved, loaded, and merged into the weights.

An adapter adds ``(alpha / rank) B A`` to the weight of every linear layer but the output head, ``A`` of ``rank`` rows
and ``B`` of ``rank`` columns (Hu et al., 2021). PEFT does the work; here it is held to what this library needs.
"""

import json
import warnings
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft import LoraConfig
from peft.functional import (
    delete_adapter,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_adapter,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ppo_lib.errors import BadInput
from ppo_lib.models.adapter_folders import WEIGHTS, other_weights, read_settings
from ppo_lib.models.bases import NOTE, base_note, changed_layer
from ppo_lib.models.files import load_tensors, notes_in, save_tensors
from ppo_lib.models.hub import pinned_model
from ppo_lib.models.linear import quicken
from ppo_lib.models.lora import quicken_adapters
from ppo_lib.models.world import ALONE, World

EXPERTS = {"gate", "w1", "w2", "w3", "gate_proj", "up_proj", "down_proj"}  # PEFT means fused experts by these names

# The layers with adapters of each model and of each block that was asked for; emptied where adapters come or go.
_layers: WeakKeyDictionary[nn.Module, list[BaseTunerLayer]] = WeakKeyDictionary()


def adapter_names(causal_lm: PreTrainedModel) -> list[str]:
    """The adapters that a model has."""
    return list(getattr(causal_lm, "peft_config", {}))


def adapter_parameters(causal_lm: PreTrainedModel, name: str) -> list[nn.Parameter]:
    """The trainable tensors of one adapter."""
    return [p for key, p in causal_lm.named_parameters() if f".{name}." in key and "lora_" in key]


def adapter_dtype(weights: torch.dtype) -> torch.dtype:
    """The precision in which an adapter computes on weights of a dtype; the optimizer steps a float32 copy of it.

    On bfloat16 weights it is bfloat16: an adapter in float32 would keep a float32 copy of all that it reads. On float16
    weights it is float32, since in float16 small gradients become 0.
    """
    return torch.float32 if weights == torch.float16 else weights


def add_adapter(causal_lm: PreTrainedModel, name: str, base: str, rank: int, alpha: Any, seed: int) -> None:
    """Add an adapter that changes nothing yet: ``B`` is 0.

    Args:
        causal_lm: the model, changed in place.
        name: of the adapter.
        base: name of the model, saved with the adapter.
        rank: LoRA rank.
        alpha: LoRA scale times rank.
        seed: of the adapter's random half, ``A``.

    Raises:
        ValueError: the name is taken, or rank is below 1.
    """
    if rank < 1:
        raise BadInput(f"lora_rank is {rank}, but must be 1 or more")
    if name in adapter_names(causal_lm):
        raise BadInput(f"adapter {name!r} is already there; load the backbone anew for another one")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=adapted_names(causal_lm),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # two adapters are meant
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")  # PEFT sets it for GPT-2
        torch.manual_seed(seed)
        # PEFT itself, not transformers' add_adapter: that one asks for a PEFT of its own time, and pip gives another
        try:
            inject_adapter_in_model(config, causal_lm, name)
        except ValueError as error:  # PEFT's own refusal, such as of layers that a recurrent model reads by hand
            kind, why = causal_lm.config.model_type, " ".join(str(error).split())[:200]
            raise BadInput(f"a {kind!r} model cannot be given an adapter ({why}); take another model") from error
        set_adapter(causal_lm, name)
    _layers.clear()
    quicken(causal_lm)
    quicken_adapters(causal_lm)
    for parameter in adapter_parameters(causal_lm, name):
        parameter.data = parameter.data.to(adapter_dtype(causal_lm.dtype))
    for key, parameter in causal_lm.named_parameters():
        if "lora_" in key:  # PEFT froze those of the other adapters
            parameter.requires_grad_(True)


def adapted_names(causal_lm: PreTrainedModel) -> list[str]:
    """The names of the layers that get adapters: every plain linear layer but the output head.

    A name is the last part of the path where all modules of that name are such layers, else the whole path. Experts
    that are fused into one tensor have none, and neither have the layers beside them whose names PEFT would take for
    the experts' old ones.
    """
    head = causal_lm.get_output_embeddings()
    plain, others = [], set()
    for path, module in causal_lm.named_modules():
        if "base_layer" in path or "lora_" in path or not path:
            continue
        inner = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        router = "Router" in type(inner).__name__  # a linear layer by its class alone: it returns more than a product
        if isinstance(inner, (nn.Linear, Conv1D)) and inner is not head and not router:
            plain.append(path)
        else:
            others.add(path.rpartition(".")[2])
    if any(parameter.dim() == 3 for parameter in causal_lm.parameters()):
        plain = [path for path in plain if path.rpartition(".")[2] not in EXPERTS]
    short = {path: path.rpartition(".")[2] for path in plain}
    names = {last if last not in others and not last.isdigit() else path for path, last in short.items()}
    if not names:
        raise BadInput(
            f"a {causal_lm.config.model_type!r} model has no plain linear layer to adapt; take another model"
        )
    return sorted(names)


def remove_adapter(causal_lm: PreTrainedModel, name: str) -> None:
    """Take an adapter away again."""
    delete_adapter(causal_lm, name, prefix="lora_")
    peft_config: Any = causal_lm.peft_config
    del peft_config[name]
    _layers.clear()


def lora_layers(module: nn.Module) -> list[BaseTunerLayer]:
    """The layers of a model, or of a part of one, that have adapters; looked for once."""
    if module not in _layers:
        _layers[module] = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
    return _layers[module]


def switch_adapter(module: nn.Module, name: str | None) -> None:
    """Let one adapter act, or none, in a model or in a part of one.

    It happens several times per microbatch, so it sets the two marks that PEFT's layers read in their forward pass and
    nothing else. PEFT's own ``enable_adapters`` and ``set_adapter`` take milliseconds for all layers of a model, and
    freeze what they switch off: a graph that was built before would lose its gradient.
    """
    for layer in lora_layers(module):
        layer._disable_adapters = name is None
        if name is not None:
            layer._active_adapter = [name]


def adapter_state(causal_lm: PreTrainedModel, name: str) -> dict[str, Any]:
    """The tensors of one adapter, by the names that PEFT gives them in its files."""
    # No embedding is ever adapted. Left to decide, PEFT would ask the hub about the base model's newest commit.
    state: dict[str, Any] = get_peft_model_state_dict(causal_lm, adapter_name=name, save_embedding_layers=False)
    return state


def write_adapter(causal_lm: PreTrainedModel, name: str, base: str, folder: str | Path, world: World = ALONE) -> None:
    """Write one adapter as a PEFT folder: ``PeftModel.from_pretrained(base, folder)`` loads it."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    state = adapter_state(causal_lm, name)
    tensors = {f"base_model.model.{key}": t.detach().cpu().contiguous() for key, t in state.items()}
    save_tensors(tensors, Path(folder) / WEIGHTS, {"format": "pt"} | base_note(causal_lm, world))
    config: Any = causal_lm.peft_config[name]
    pinned = pinned_model(base)
    config.base_model_name_or_path, config.revision = (pinned.name, pinned.commit) if pinned else (base, None)
    config.save_pretrained(str(folder))
    file = Path(folder) / "adapter_config.json"
    written = json.loads(file.read_text())
    written["target_modules"].sort()  # a set there: its order, and so the file, would change from process to process
    file.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")


def read_adapter(causal_lm: PreTrainedModel, name: str, base: str, folder: str | Path, world: World = ALONE) -> None:
    """Add an adapter and read its weights from a PEFT folder.

    Raises:
        BadInput: no adapter there, one of another kind, or one that was made for another architecture or other weights.
    """
    settings = read_settings(folder)
    saved = load_tensors(Path(folder) / WEIGHTS)
    tensors = {key.removeprefix("base_model.model."): tensor for key, tensor in saved.items()}
    add_adapter(causal_lm, name, base, settings.rank, settings.alpha, seed=0)
    wanted = {k: v.shape for k, v in adapter_state(causal_lm, name).items()}
    if wanted != {k: v.shape for k, v in tensors.items()}:
        remove_adapter(causal_lm, name)
        raise BadInput(f"the adapter in {str(folder)!r} was made for another model than {base!r}")
    if layer := changed_layer(notes_in(Path(folder) / WEIGHTS).get(NOTE), causal_lm, world):
        remove_adapter(causal_lm, name)
        raise other_weights(folder, base, layer)
    set_peft_model_state_dict(causal_lm, tensors, adapter_name=name)


def merged_model(causal_lm: PreTrainedModel, adapter: str | None, world: World = ALONE) -> PreTrainedModel:
    """A plain transformers model on the CPU: the weights, plus what the adapter adds to them (a new copy)."""
    model = AutoModelForCausalLM.from_config(causal_lm.config, dtype=causal_lm.dtype)
    state = {}
    lora: dict[str, Any] = {key: m for key, m in causal_lm.named_modules() if isinstance(m, BaseTunerLayer)}
    for key, tensor in causal_lm.state_dict().items():
        if "lora_" in key:
            continue
        tensor = world.whole(world.own_part(tensor), tensor)
        module = key.partition(".base_layer.")[0]
        if adapter is not None and ".base_layer.weight" in key and module in lora:
            tensor = tensor + lora[module].get_delta_weight(adapter).to(tensor.dtype)
        state[key.replace(".base_layer.", ".")] = tensor.cpu()
    model.load_state_dict(state)
    model.generation_config = causal_lm.generation_config
    return model
