"""Which weights an adapter was trained on: a few of them are kept beside it, and compared when it is loaded.

An adapter is a difference. On other weights of the same shape it means nothing, and no shape, no name and no loss says
so: a folder whose model was trained anew has the old name. A few numbers of a few layers do.
"""

import json
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel

from ppo_lib.models.world import ALONE, World

NOTE = "base"  # the key of the note beside an adapter's tensors
LAYERS, PLACES = 4, 8
ROUNDING = 2.5e-7  # of a weight: an adapter merged in float32 differs so much between processors


def base_note(causal_lm: PreTrainedModel, world: World = ALONE) -> dict[str, str]:
    """The note that is kept beside an adapter: numbers of its base; none where a process holds parts of it only."""
    paths = [path for path, module in causal_lm.named_modules() if isinstance(module, BaseTunerLayer)]
    chosen = paths[:: max(1, len(paths) // LAYERS)][:LAYERS]
    if any(world.is_part(weight_at(causal_lm, path)) for path in chosen):
        return {}
    numbers = {path: some_of(weight_at(causal_lm, path)) for path in chosen}
    return {NOTE: json.dumps({"dtype": str(causal_lm.dtype).removeprefix("torch."), "weights": numbers})}


def changed_layer(note: Any, causal_lm: PreTrainedModel, world: World = ALONE) -> str | None:
    """The first layer whose weights are not those that an adapter was trained on; None where none is known.

    Weights in another precision are the same as far as the coarser of the two can tell.

    Args:
        note: as :func:`base_note` gave it; None for an adapter without.
        causal_lm: the model that the adapter is put on, with or without adapters.
        world: the processes that may hold a part each of it.
    """
    try:
        kept = json.loads(note)
        steps = [torch.finfo(dtype).eps for dtype in (getattr(torch, kept["dtype"]), causal_lm.dtype)]
        for path, numbers in kept["weights"].items():
            weight = weight_at(causal_lm, path)
            if world.is_part(weight):
                return None
            old, new = torch.tensor(numbers, dtype=torch.float64), torch.tensor(some_of(weight), dtype=torch.float64)
            if not bool(((old - new).abs() <= 4 * max(*steps, ROUNDING) * old.abs().max()).all()):
                return str(path)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError):  # no note, or one of somebody else
        return None
    return None


def weight_at(causal_lm: PreTrainedModel, path: str) -> Tensor:
    """The weight of a layer, without what an adapter adds."""
    module: Any = causal_lm.get_submodule(path)
    layer: Any = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    weight: Tensor = layer.weight
    return weight


def some_of(weight: Tensor) -> list[float]:
    """Numbers from places all over a tensor, the same places for the same shape."""
    flat = weight.detach().flatten()
    places = [place * (flat.numel() - 1) // (PLACES - 1) for place in range(PLACES)]
    return [float(number) for number in flat[places].tolist()]
