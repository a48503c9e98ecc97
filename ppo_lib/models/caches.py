"""A model's keys and values, by the name that the installed transformers has for them.

It is ``cache`` from 5.24 on and was ``past_key_values`` before, as an argument and in what a model returns. The old
name still works there, with a warning at every pass.
"""

from inspect import signature
from typing import Any

from torch import nn


def read_on(body: nn.Module, cache: Any, **inputs: Any) -> Any:
    """A forward pass that goes on from a cache and adds to it.

    Args:
        body: a model below its output head.
        cache: what :func:`cache_of` returned, or anything with its methods; ``None`` to begin one.
        inputs: ``input_ids``, ``attention_mask``, ``position_ids``.

    Returns:
        What the model returns.
    """
    return body(**inputs, **{cache_name(type(body)): cache}, use_cache=True)


def cache_name(kind: type[Any]) -> str:
    """What a class of models calls the argument."""
    return "cache" if "cache" in signature(kind.forward).parameters else "past_key_values"


def cache_of(output: Any) -> Any:
    """The cache in what a model returned, or ``None`` where it keeps none."""
    return output["cache"] if "cache" in output else output.get("past_key_values")
