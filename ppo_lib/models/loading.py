"""Reading models from folders in hub format, GGUF files, a model hub, or the package itself; refusing what cannot work.

Weights are read from safetensors and GGUF only, and no code that comes with a model is run.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from ppo_lib.errors import BadInput, reading
from ppo_lib.models import registry
from ppo_lib.models.gguf import gguf_shape, is_gguf, load_gguf
from ppo_lib.models.hub import HUB_ERRORS, how_to_pin, looks_like_a_name, pinned_model, reason

# What transformers raises when a model cannot be had or is no such model.
LOADING_ERRORS: tuple[type[Exception], ...] = (*HUB_ERRORS, KeyError, ImportError, SafetensorError)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def load_causal_lm(path: str | Path, dtype: str = "float32") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer.

    Args:
        path: a folder in hub format, a GGUF file, ``OWNER/NAME@COMMIT`` on the hub, or ``"pocket:sft"``, ``"smollm2"``
            and the like (:mod:`ppo_lib.models.registry`).
        dtype: one of ``DTYPES``.

    Raises:
        ValueError: what cannot work, with the reason: no such model, not a causal language model, no safetensors.
    """
    if dtype not in DTYPES:
        raise BadInput(f"dtype is {dtype!r}, but must be one of {', '.join(DTYPES)}")
    _, tokenizer = load_shape(path)
    where, revision = locate(path)
    load: Any = AutoModelForCausalLM.from_pretrained  # its annotations forget the report
    with refusals(path):
        if isinstance(where, Path) and is_gguf(where):
            causal_lm, report = load_gguf(where, DTYPES[dtype])
        else:
            causal_lm, report = load(
                where,
                revision=revision,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        if report["missing_keys"]:  # transformers would go on with random numbers in their place
            raise ValueError(f"its weights lack {', '.join(sorted(report['missing_keys'])[:3])}")
    return causal_lm, tokenizer


def load_shape(path: str | Path) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """The configuration and the tokenizer of a causal language model, without its weights; errors as above."""
    transformers_logging.disable_progress_bar()  # a bar per weight is noise in a notebook; downloads keep theirs
    where, revision = locate(path)
    with refusals(path):
        if isinstance(where, Path) and is_gguf(where):
            config, tokenizer = gguf_shape(where)
        else:
            config = AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False)
            tokenizer = None  # read once it is known that the model can be
        if config.is_encoder_decoder or type(config) not in AutoModelForCausalLM._model_mapping:
            raise ValueError(f"it is a {config.model_type!r} model, which is not a causal language model")
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False)
        return config, tokenizer


@contextmanager
def refusals(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong while a model is loaded into one sentence with its name."""
    try:
        yield
    except LOADING_ERRORS as error:
        raise BadInput(f"model {str(path)!r} cannot be loaded: {reason(error)}") from error


def locate(path: str | Path) -> tuple[Path | str, str | None]:
    """Where a model lies, for transformers: a folder or a GGUF file, or a repository of the hub and its commit.

    Raises:
        ValueError: no such folder, and no name that is pinned to a commit.
    """
    found = resolve(path)
    if pinned := pinned_model(str(found)):
        return pinned.name, pinned.commit
    place = Path(found)
    with reading(path):
        if place.is_dir() or is_gguf(place):
            return place, None
    remedy = how_to_pin(str(path)) if looks_like_a_name(str(path)) else "write OWNER/NAME@COMMIT"
    raise BadInput(
        f"model {str(path)!r} cannot be loaded: there is no such folder; give a folder in hub format, a "
        f".gguf file, 'smollm2' or '{registry.TOY}:sft', or, if a model of the hub is meant, {remedy}"
    )


def resolve(path: str | Path) -> Path | str:
    """Where a model lies that a registered source holds; anything else is returned as it came."""
    name = registry.exact_model(str(path))
    return registry.find_model(name) or (path if name == str(path) else name)


def eos_token_ids(causal_lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends a response: a model may have several (a chat model's end of turn, say).

    Raises:
        ValueError: there is none.
    """
    ids = getattr(causal_lm.generation_config, "eos_token_id", None)
    if ids is None:
        ids = tokenizer.eos_token_id
    if ids is None:
        raise BadInput("the model has no EOS token, so no response could ever end; set tokenizer.eos_token")
    ids = [ids] if isinstance(ids, int) else list(ids)
    if tokenizer.eos_token_id in ids:  # the tokenizer's own EOS first: it is the one that is appended
        ids.insert(0, ids.pop(ids.index(tokenizer.eos_token_id)))
    return ids


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON file of a folder that should be ``what``.

    Raises:
        ValueError: it is not there, or cannot be read.
    """
    try:
        with reading(path):
            if path.is_file():
                return dict(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{str(path)!r} is not JSON ({error}); was the folder saved to the end?") from error
    raise BadInput(f"{str(path.parent)!r} is not {what}: it has no {path.name}")


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{str(path)!r} cannot be read: {error}; was the folder saved to the end?") from error


def base_name(folder: str | Path) -> str:
    """The name of the model that the adapter in a folder was made for, pinned where it came from the hub."""
    config = read_json(Path(folder) / "adapter_config.json", "a PEFT adapter folder")
    name, revision = config["base_model_name_or_path"], config.get("revision")
    return f"{name}@{revision}" if revision and not Path(name).is_dir() else str(name)
