"""How many kernels a GPU would have to launch for a decoding step and for a microbatch, and what the host would ask it.

    python benchmarks/bench_counts.py > benchmarks/results/counts.txt

Small models are bound by launches and not by arithmetic, and launches can be counted without a card: models of the
depth of SmolLM2-135M and Qwen2.5-0.5B, narrow, on a CPU, and every operator that computes (views, allocations and
what autograd does on the host are none) counts as one kernel. A fused norm counts as the one kernel forward and the
one backward that PyTorch has for it on a GPU, since on a CPU it takes the steps one by one. Of other operators a GPU
fuses some that are counted as several and launches several for some that are counted as one, such as a sum; counts of
two versions compare.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from ppo_lib.models import norms
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.tokens import pad_pairs
from ppo_lib.sampling import decoding
from ppo_lib.sampling.rollout import sample

NARROW = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "eos_token_id": 0}
SHAPES = {
    "SmolLM2-135M": ("LlamaConfig", {"num_hidden_layers": 30, "num_attention_heads": 4, "num_key_value_heads": 2}),
    "Qwen2.5-0.5B": ("Qwen2Config", {"num_hidden_layers": 24, "num_attention_heads": 4, "num_key_value_heads": 2}),
}
# They make no kernel: a tensor in the same memory, memory alone, or nothing at all.
NO_KERNEL = {
    *("view", "_unsafe_view", "t", "transpose", "permute", "expand", "unsqueeze", "squeeze", "slice", "select"),
    *("split", "split_with_sizes", "unbind", "chunk", "unfold", "detach", "alias", "as_strided"),
    *("reshape", "_reshape_alias"),
    *("empty", "empty_like", "new_empty", "empty_strided", "lift_fresh", "is_same_size"),
}


class Kernels(TorchDispatchMode):
    """Counts the operators that compute, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in NO_KERNEL:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@torch.library.custom_op("counts::rms_norm", mutates_args=())
def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return nn.functional.rms_norm(x, weight.shape, weight, eps)


@torch.library.custom_op("counts::rms_norm_backward", mutates_args=())
def norm_backward(g: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    scale = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
    g, x = g * weight, x * scale
    return scale * (g - x * (g * x).mean(-1, keepdim=True))


def keep(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.eps = inputs[2]


norm.register_autograd(lambda ctx, g: (norm_backward(g, *ctx.saved_tensors, ctx.eps), None, None), setup_context=keep)


class AsOnCUDA(norms.RMSNorm):
    """The fused norm, its kernels counted as they are on a GPU."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        eps = norms.epsilon(self)
        assert eps is not None
        return norm(hidden_states, self.weight, eps)


@contextmanager
def kernels() -> Iterator[Counter[str]]:
    """The kernels of what is done in the block, by name."""
    with Kernels() as mode:
        yield mode.found


def build(name: str, fused_blocks: bool = True, **options: Any) -> ActorCritic:
    """Actor and critic on a narrow model of that depth, its blocks fused as on a GPU."""
    kind, sizes = SHAPES[name]
    config = getattr(transformers, kind)(**NARROW, **sizes)
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w0", pad_token="w1")
    torch.manual_seed(0)
    backbone = Backbone(AutoModelForCausalLM.from_config(config), fast, "random")
    for key, value in options.items():
        setattr(backbone, key, value)
    if fused_blocks:
        backbone.fuse_blocks()
        for module in backbone.modules():
            if isinstance(module, norms.RMSNorm):
                module.__class__ = AsOnCUDA
    policy = ActorCritic(backbone, lora_rank=4)
    backbone.eos_token_ids = [-1]
    return policy


def decode_step(policy: ActorCritic, merge: bool = True) -> Counter[str]:
    """Kernels of one step of the decoder that a GPU records, the adapter merged into the weights or beside them."""
    policy.backbone.merge_adapter = merge
    found: list[Counter[str]] = []
    step = decoding.Decoder.step

    def counted(decoder: decoding.Decoder) -> None:
        with kernels() as seen:
            step(decoder)
        found.append(seen)

    decoding.Decoder.step = counted  # type: ignore[method-assign]
    try:
        sample(policy.backbone, [[5, 6, 7], [8, 9]], 4, 1.0, "policy", torch.Generator(), static_cache=True)
    finally:
        decoding.Decoder.step = step  # type: ignore[method-assign]
    return found[-1]


def microbatch(policy: ActorCritic) -> Counter[str]:
    """Kernels of one microbatch of an update, forward and backward, with ragged rows and gradients to add to."""
    batch = pad_pairs([[5, 6, 7], [8, 9]], [[3, 4], [7, 8, 9]], 1)
    for _ in range(2):
        with kernels() as seen:
            new = policy.evaluate(batch, entropy=False)
            (new.logprobs.sum() + new.values.sum()).backward()
    return seen


def main() -> None:
    print(f"torch {torch.__version__}, transformers {transformers.__version__}\n")
    print(f"{'':16}{'decode':>10}{'adapter':>10}{'unfused':>10}{'plain':>10}{'update':>10}{'unfused':>10}{'plain':>10}")
    for name in SHAPES:
        policy, unfused = build(name), build(name, fused_blocks=False)
        plain = build(name, fused_blocks=False, fused_lora=False)
        decode = [decode_step(policy), decode_step(policy, False), decode_step(unfused), decode_step(plain, False)]
        update = [microbatch(each) for each in (policy, unfused, plain)]
        print(f"{name:16}" + "".join(f"{c.total():10,}" for c in decode + update))
        print("   update: " + ", ".join(f"{n} {c}" for n, c in update[0].most_common(24)))
        print("   decode: " + ", ".join(f"{n} {c}" for n, c in decode[0].most_common(24)))


if __name__ == "__main__":
    main()
