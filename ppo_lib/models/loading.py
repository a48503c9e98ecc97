"""Reading models from folders in hub format, GGUF files, a model hub, or the package itself; refusing what cannot work.

Weights are read from safetensors and GGUF only, and no code that comes with a model is run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
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
from ppo_lib.models.adapter_folders import base_name, check_finite, is_adapter, merge
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
    if isinstance(where, Path) and is_adapter(where):  # merged, so that any stage can stand on it
        return merge(load_causal_lm(base_name(where), dtype)[0], where), tokenizer
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
    check_finite(causal_lm, path)
    return causal_lm, tokenizer


def load_shape(path: str | Path) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """The configuration and the tokenizer of a causal language model, without its weights; errors as above."""
    transformers_logging.disable_progress_bar()  # a bar per weight is noise in a notebook; downloads keep theirs
    where, revision = locate(path)
    if isinstance(where, Path) and is_adapter(where):
        shape, own = load_shape(base_name(where))
        if (where / "tokenizer_config.json").is_file():
            with refusals(path):
                own = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        return shape, own
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
        if place.is_dir():
            return inside_run(place), None
        if is_gguf(place):
            return place, None
    remedy = how_to_pin(str(path)) if looks_like_a_name(str(path)) else "write OWNER/NAME@COMMIT"
    raise BadInput(
        f"model {str(path)!r} cannot be loaded: there is no such folder; give a folder in hub format, a "
        f".gguf file, 'smollm2' or '{registry.TOY}:sft', or, if a model of the hub is meant, {remedy}"
    )


def inside_run(folder: Path) -> Path:
    """The model's folder, where a run's folder was given: of ``align``, the policy's, or what there is so far.

    Raises:
        BadInput: a run that has not finished.
    """
    if not (folder / "config.yaml").is_file() or (folder / "config.json").is_file():
        return folder
    for part in (".", "ppo", "sft"):
        if (folder / part / "model").is_dir():
            return folder / part / "model"
    raise BadInput(f"{str(folder)!r} is a run that has not finished; go on with --resume, then use it as a model")


def resolve(path: str | Path) -> Path | str:
    """Where a model lies that a registered source holds; anything else is returned as it came."""
    name = registry.exact_model(str(path))
    return registry.find_model(name) or (path if name == str(path) else name)


def eos_token_ids(causal_lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends a response: those that the model lists (a chat model's end of turn, say) and the tokenizer's.

    The tokenizer's own comes first: it is the one that is appended where no chat template says otherwise. One that the
    model has no embedding for can never be sampled, and is left out.

    Raises:
        BadInput: there is none.
    """
    listed = getattr(causal_lm.generation_config, "eos_token_id", None)
    ids = [] if listed is None else [listed] if isinstance(listed, int) else list(listed)
    if tokenizer.eos_token_id is not None:
        ids.insert(0, tokenizer.eos_token_id)
    if not ids:
        raise BadInput("the model has no EOS token, so no response could ever end; set tokenizer.eos_token")
    rows = int(causal_lm.get_input_embeddings().weight.shape[0])  # type: ignore[index]
    usable = [i for i in dict.fromkeys(ids) if isinstance(i, int) and 0 <= i < rows]
    if not usable:
        raise BadInput(
            f"the EOS tokens {ids} are outside of the model's vocabulary of {rows}; give the tokenizer that the model "
            "was trained with, or resize the model's embedding"
        )
    return usable


def usable_pad(tokenizer: PreTrainedTokenizerBase, vocabulary: int, eos: int) -> int:
    """An id to fill the padding with. It is never read, so any that the model has does: often the tokenizer's is none.

    Args:
        tokenizer: whose pad token is taken where the model knows it.
        vocabulary: how many tokens the model knows.
        eos: what is taken otherwise.
    """
    pad = tokenizer.pad_token_id
    return pad if isinstance(pad, int) and 0 <= pad < vocabulary else eos


def context_length(config: PreTrainedConfig) -> int | None:
    """The most tokens that a sequence may have, or None where the model sets no limit.

    Rotary positions of the kinds ``dynamic`` and ``longrope`` turn by other angles once the longest row of a batch is
    beyond a length. Then a token's log-prob would depend on the rows beside it, so that length is the limit here.
    """
    text = config.get_text_config()
    rotary = getattr(text, "rope_parameters", None) or {}
    settings = [value for value in rotary.values() if isinstance(value, dict)] or [rotary]
    limits = [
        setting.get("original_max_position_embeddings")
        for setting in settings
        if setting.get("rope_type") in ("dynamic", "longrope")
    ]
    limits.append(getattr(text, "max_position_embeddings", None))
    return min((limit for limit in limits if isinstance(limit, int)), default=None)
