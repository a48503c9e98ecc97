"""What shapes alone tell about a GPU that is not there: nothing here is measured, all of it is simulated.

Tensors on PyTorch's device ``meta`` have a shape, a dtype and a size, but no numbers. Models of the recipes' sizes run
on them in seconds, and whoever asks for a number is found out, as he would be while a CUDA graph is recorded.
"""

from contextlib import contextmanager
from functools import partial

import pytest
import torch
import transformers
from tiny import byte_tokenizer
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ppo_lib.backbone import Backbone
from ppo_lib.decoding import Decoder, supports_static_cache
from ppo_lib.rollout import pick_at

# SmolLM2-135M and Qwen2.5-0.5B, which the recipes and the benchmarks take, and others that are promised.
SMOL = transformers.LlamaConfig(
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1_536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
    eos_token_id=0,
)
QWEN = transformers.Qwen2Config(
    vocab_size=151_936,
    hidden_size=896,
    intermediate_size=4_864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    tie_word_embeddings=True,
    eos_token_id=0,
)
SHALLOW = {"num_hidden_layers": 2, "eos_token_id": 0}
OTHERS = {
    "qwen3": transformers.Qwen3Config(**SHALLOW),
    "gpt2": transformers.GPT2Config(**SHALLOW),
    "gpt_neox": transformers.GPTNeoXConfig(**SHALLOW),
    "gemma": transformers.GemmaConfig(**SHALLOW),
    "phi": transformers.PhiConfig(**SHALLOW),
}


@pytest.fixture
def on_meta(monkeypatch):
    """A function that makes a backbone of a configuration, without numbers, in bfloat16 or as told."""
    monkeypatch.setattr("ppo_lib.backbone.check_forward", lambda backbone: None)  # it reads numbers

    def build(config: PreTrainedConfig, dtype: torch.dtype = torch.bfloat16) -> Backbone:
        with torch.device("meta"):
            return Backbone(AutoModelForCausalLM.from_config(config, dtype=dtype), byte_tokenizer(), "random")

    return build


class NoAnswers(TorchDispatchMode):
    """Refuses operators that look at the host, or at a boolean mask for positions: a GPU has to wait for those."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves((args, kwargs, result)):
            assert not isinstance(x, Tensor) or x.device.type == "meta", f"{func} needs the host"
        if func.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_):
            assert not any(x is not None and x.dtype == torch.bool for x in args[1]), f"{func} looks up positions"
        return result


class NoLists(TorchFunctionMode):
    """Refuses tensors that are made of numbers of the host, which would have to be copied."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        lists = torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor
        assert func not in lists, f"{func} copies from the host"
        return func(*args, **(kwargs or {}))


@contextmanager
def recording():
    """Refuses what a CUDA graph cannot record: an answer for the host, a shape that depends on one, a copy from it.

    Most of that fails on ``meta`` of itself; the two modes refuse the rest.
    """
    with NoLists(), NoAnswers():
        yield


def decoder_on_meta(backbone: Backbone, rows: int, prompt: int, response: int, temperature: float = 1.0) -> Decoder:
    """A decoder of the library after a prefill that is left out: the prompts' keys and values have their shapes."""
    config = backbone.causal_lm.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    with torch.device("meta"):
        sequences = torch.zeros(rows, prompt + response, dtype=torch.long)
        noise = torch.rand(rows, response, dtype=torch.float64)
        keys = torch.zeros(rows, heads, prompt, size, dtype=backbone.causal_lm.dtype)
        prefilled = [(keys, keys)] * config.num_hidden_layers
    next_tokens = partial(pick_at, backbone, temperature, noise)
    return Decoder(backbone, sequences, sequences == 0, sequences[:, 0], prefilled, next_tokens, prompt)


@pytest.mark.parametrize("config", [SMOL, QWEN, *OTHERS.values()], ids=["smollm2", "qwen2.5", *OTHERS])
def test_a_step_asks_the_device_nothing(on_meta, config):
    backbone = on_meta(config)
    backbone.add_adapter("policy", rank=32)
    assert supports_static_cache(backbone)
    for temperature, widths in ((0.0, [128]), (1.0, [128, 256, 320])):
        decoder = decoder_on_meta(backbone, rows=8, prompt=64, response=255, temperature=temperature)
        with torch.no_grad(), backbone.adapter("policy"), recording():
            for width in widths:
                decoder.slots.visible = width
                decoder.step()


ASKS = {
    "a condition": lambda x: bool(x.any()),
    "a number": lambda x: x.sum().item(),
    "a copy to the host": lambda x: x.cpu(),
    "a list": lambda x: x.tolist(),
    "a choice of rows": lambda x: x[x > 0],
    "positions": lambda x: x.nonzero(),
    "different values": lambda x: x.unique(),
    "an assignment to chosen rows": lambda x: x.__setitem__(x > 0, 0),
    "repeats": lambda x: x.repeat_interleave(x),
    "a tensor made on the host": lambda x: torch.tensor([3], device=x.device),
    "an index made on the host": lambda x: x[torch.tensor([0, 1])],
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_whoever_asks_is_found_out(ask):
    x = torch.zeros(4, dtype=torch.long, device="meta")
    with recording(), pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
        ask(x)


@pytest.mark.parametrize("rotary", ["dynamic", "longrope"])
def test_models_whose_rotary_positions_depend_on_the_longest_row_are_left_to_the_growing_cache(on_meta, rotary):
    settings = {"rope_type": rotary, "factor": 2.0, "original_max_position_embeddings": 512, "rope_theta": 1e4}
    if rotary == "longrope":
        settings |= {"short_factor": [1.0] * 32, "long_factor": [2.0] * 32}
    backbone = on_meta(transformers.LlamaConfig(**{**SHALLOW, "rope_parameters": settings}, head_dim=64))
    assert not supports_static_cache(backbone)


@pytest.mark.parametrize("response", [1, 255, 256])
def test_rows_of_the_mask_begin_where_attention_kernels_want_them(on_meta, response):
    decoder = decoder_on_meta(on_meta(OTHERS["qwen3"]), rows=8, prompt=64, response=response)
    columns = decoder.mask.shape[-1]
    assert columns % 8 == 0
    assert 0 <= columns - 64 - response < 8
    assert all(x.shape[2] == columns for layer in decoder.slots.layers for x in layer)
