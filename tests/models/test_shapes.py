"""What shapes alone tell about a GPU that is not there: nothing here is measured, all of it is simulated.

Tensors on PyTorch's device ``meta`` have a shape, a dtype and a size, but no numbers. Models of the recipes' sizes run
on them in seconds, and whoever asks for a number is found out, as he would be while a CUDA graph is recorded.
"""

import math
import weakref
from collections.abc import Iterable
from contextlib import contextmanager
from functools import partial
from typing import Any

import host_requests
import pytest
import torch
import transformers
from tiny import byte_tokenizer
from torch import Tensor
from torch.fx.experimental import _config as fx_config
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import MAX_LOGITS, Backbone
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import TokenBatch
from ppo_lib.run.memory import bytes_per_logit, plan_memory
from ppo_lib.sampling.decoding import Decoder, supports_static_cache
from ppo_lib.sampling.rollout import pick_at
from ppo_lib.trainers.configuration import PPOConfig, RewardConfig, SFTConfig, load_recipe, read_config

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
STAGES = {"sft": SFTConfig, "reward": RewardConfig, "ppo": PPOConfig}
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
    monkeypatch.setattr("ppo_lib.models.backbone.check_forward", lambda backbone: None)  # it reads numbers

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
    **host_requests.ASKS,
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


class Held(TorchDispatchMode):
    """Counts the bytes of all tensors that are held, and the most at once; it sees no workspace of a kernel."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.now, self.peak, self.largest = 0, 0, 0
        self.storages: set[int] = set()
        for x in tensors:
            self.note(x)
        self.largest = 0  # of those that are made from now on

    def note(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        if storage._cdata not in self.storages:
            self.storages.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak, self.largest = max(self.peak, self.now), max(self.largest, storage.nbytes())
            weakref.finalize(storage, self.forget, storage._cdata, storage.nbytes())

    def forget(self, key: int, size: int) -> None:
        self.storages.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor):
                self.note(x)
        return result


def efficient_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
    """A GPU's memory-efficient kernel, as PyTorch calls it with a mask, which becomes numbers in each layer.

    Other kernels keep as much or less; only the one that writes scores down keeps more, and no dtype here needs it.
    """
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.where(attn_mask, 0.0, torch.full((), -math.inf, dtype=query.dtype, device=query.device))
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(query, key, value, attn_mask, torch.is_grad_enabled(), dropout_p, is_causal, scale=scale)[0]


@pytest.fixture
def training(monkeypatch):
    """Lets a microbatch go forward and back without numbers: it is padded, and yet every response token counts."""

    def longest(batch: TokenBatch) -> None:  # instead of reading the lengths
        rows, width = batch.sequences.shape
        batch.lengths = [(1, width - batch.prompt_width)] * rows

    monkeypatch.setattr(TokenBatch, "__post_init__", longest)
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", efficient_attention)
    with fx_config.patch(meta_nonzero_assume_all_nonzero=True):  # an index by a mask takes every place
        yield


def microbatch(rows: int, prompt: int, response: int) -> TokenBatch:
    with torch.device("meta"):
        lengths = torch.ones(rows, dtype=torch.long)
        return TokenBatch(torch.zeros(rows, prompt + response, dtype=torch.long), lengths, lengths, prompt)


def trained(kind: type[Any], backbone: Backbone, rank: int) -> Any:
    with torch.device("meta"):
        return kind(backbone, rank)


def moments(parameters: list[torch.nn.Parameter]) -> list[Tensor]:
    return [torch.zeros_like(p) for p in parameters for _ in (0, 1)]


def one_update(policy: ActorCritic, batch: TokenBatch, entropy_grad: bool = False) -> tuple[Held, int]:
    """What a microbatch of PPO holds, and how much of it is kept between forward and backward pass.

    The losses themselves read numbers and are left out: they work on ``(B, T)`` numbers only.
    """
    held = Held([*policy.parameters(), *policy.buffers(), *moments(policy.parameters_to_train())])
    before = held.now
    with held:
        seen = policy.evaluate(batch, entropy_grad=entropy_grad)
        kept = held.now - before
        (seen.logprobs + seen.values + seen.entropy).sum().backward()
    return held, kept


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
@pytest.mark.parametrize("config", [SMOL, QWEN], ids=["smollm2", "qwen2.5"])
def test_the_memory_plan_is_what_an_update_of_ppo_holds(on_meta, training, config, again):
    """In bfloat16, as on a large card: 16 rows of 64 + 512 tokens, rank 32."""
    rows, prompt, response = 16, 64, 512
    backbone = on_meta(config)
    backbone.gradient_checkpointing = again
    held, kept = one_update(trained(ActorCritic, backbone, 32), microbatch(rows, prompt, response))
    batches = {"rollout_batch": rows, "minibatch": rows, "microbatch": rows, "max_new_tokens": response}
    knobs = PPOConfig(**batches, lora_rank=32, dtype="bfloat16", gradient_checkpointing=again)
    plan = plan_memory(config, knobs, prompt)
    assert plan.update > plan.rollout
    assert again or 0.98 < plan.activations / kept < 1.05
    # Computed again, a block is there only after the logits are gone; the plan adds them up.
    assert 0.9 < plan.total / held.peak < (1.4 if again else 1.1)
    assert held.peak <= 1.5 * (plan.weights + plan.cache + max(kept, plan.activations))
    assert held.largest <= 4 * MAX_LOGITS < 4 * rows * response * config.vocab_size  # never a whole batch of logits


def test_logits_of_one_slice_are_there_twice_and_five_times_with_the_entropys_gradient(on_meta, training):
    shallow = transformers.LlamaConfig(**{**SMOL.to_dict(), "num_hidden_layers": 1})
    batch = microbatch(8, 4, 512)
    peaks = [one_update(trained(ActorCritic, on_meta(shallow), 4), batch, grad)[0].peak for grad in (False, True)]
    slices = [MAX_LOGITS * bytes_per_logit(torch.bfloat16, grad) for grad in (False, True)]
    assert peaks[1] - peaks[0] == pytest.approx(slices[1] - slices[0], rel=0.02)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_of_the_recipe_for_small_cards_fits_a_t4(on_meta, training, stage):
    """``preferences.yaml`` in float32, every row as long as it may be. PyTorch's context and workspaces come on top."""
    config = read_config(STAGES[stage], load_recipe("preferences")[stage])
    backbone = on_meta(SMOL, torch.float32)
    if stage == "reward":
        model = trained(RewardModel, backbone, config.lora_rank)
        held = Held([*model.parameters(), *model.buffers(), *moments(model.parameters_to_train())])
        with held:
            batch = microbatch(2 * config.microbatch, 64, config.max_length - 64)  # a pair is two answers
            model.head(backbone.hidden_states(batch, "reward")[:, -1]).sum().backward()
    elif stage == "sft":  # the same as PPO, but for the value head
        batch = microbatch(config.microbatch, 64, config.max_length - 64)
        held, _ = one_update(trained(ActorCritic, backbone, config.lora_rank), batch)
    else:
        trained(RewardModel, backbone, config.lora_rank)
        batch = microbatch(config.microbatch, config.max_prompt_tokens, config.max_new_tokens)
        held, _ = one_update(trained(ActorCritic, backbone, config.lora_rank), batch)
    judge = 2 * 1_720_000_000 if stage == "ppo" else 0  # parameters of the held-out judge, which reads in float16
    assert 4e9 < held.peak + judge < 11e9
