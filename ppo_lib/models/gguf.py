"""Models in one GGUF file, the form of llama.cpp: read by transformers, which turns rounded weights into floats.

The weights of such a file are mostly rounded to a few bits. Here they become ordinary tensors again, so everything that
works on a model of a folder works on them; what the rounding has lost stays lost.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils.import_utils import is_gguf_available

from ppo_lib.errors import BadInput, reading

MAGIC = b"GGUF"


def is_gguf(path: Path) -> bool:
    """Whether a path is meant as such a file, by its name."""
    with reading(path):
        return path.suffix == ".gguf" and path.is_file()


def gguf_shape(file: Path) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Configuration and tokenizer of the model in a file.

    Raises:
        ValueError: no GGUF file, a torn one, or one of an architecture that cannot be read.
    """
    with reading(file):
        stamp = file.stat()
    config, tokenizer = _shape(file, stamp.st_size, stamp.st_mtime_ns)
    return copy.deepcopy(config), copy.deepcopy(tokenizer)


@lru_cache(maxsize=4)  # a run asks several times, and reading a vocabulary takes seconds
def _shape(file: Path, size: int, changed: int) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    with gguf_refusals(file):
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        return config, AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def load_gguf(file: Path, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """The model in a file, and transformers' report on what it found; errors as :func:`gguf_shape`.

    It can be trained, merged and saved like any other: nothing in it remembers that its weights were rounded.
    """
    config, _ = gguf_shape(file)
    load: Any = AutoModelForCausalLM.from_pretrained
    # Left alone, transformers keeps weights rounded where it can, and warns of it in half precision where it cannot.
    options = {"dtype": dtype, "quantization_config": GgufConfig(dequantize=True), "output_loading_info": True}
    with gguf_refusals(file):
        model, report = load(file.parent, gguf_file=file.name, config=config, **options)
    for owner, name in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(owner, name):
            delattr(owner, name)  # else save_pretrained refuses
    model.is_quantized = False
    model.config.name_or_path = ""
    return model, report


@contextmanager
def gguf_refusals(file: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into one sentence; its reader raises whatever a torn file leads to."""
    if not is_gguf_available():
        raise BadInput(f"{str(file)!r} is a GGUF file, for which the package gguf is missing; pip install gguf")
    with reading(file), file.open("rb") as head:
        if head.read(4) != MAGIC:
            raise BadInput(f"{str(file)!r} is no GGUF file: it does not begin with {MAGIC.decode()}; give another one")
    try:
        with read_once():
            yield
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        if "architecture" in why:
            raise BadInput(
                f"{str(file)!r} cannot be used: {why.rstrip('.')}; give a model of the Llama type, or a folder in hub "
                "format"
            ) from error
        raise BadInput(
            f"{str(file)!r} cannot be read to its end ({type(error).__name__}: {why}); was it downloaded whole?"
        ) from error


@contextmanager
def read_once() -> Iterator[None]:
    """While transformers reads a file: parse it once and not three times, look its names up once and not once a layer,
    and show no bar. Left alone, it spends more time on these than on the weights."""
    import gguf

    reading_gguf: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    faster: list[tuple[Any, str, Any]] = [
        (gguf, "GGUFReader", lru_cache(maxsize=1)(gguf.GGUFReader)),
        (gguf, "get_tensor_name_map", lru_cache(maxsize=1)(gguf.get_tensor_name_map)),
        (reading_gguf, "tqdm", partial(reading_gguf.tqdm, disable=True)),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in faster]
    try:
        for module, name, value in faster:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
