"""What several tests share: tiny models with random weights, saved to disk as a hub model would be, for every
architecture that is promised; prompts and rewards; and checks of what a training step may do.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, PreTrainedTokenizerFast

from ppo_lib.trainers.optimizer import Trainer, warmup_then_decay

EOS, PAD = 0, 1  # ids in the byte-level vocabulary below
MANY_EOS = [EOS, *range(2, 40)]  # so that answers end, and are of many lengths
PROMPTS = ["Hi", "What is it?", "a", "Tell me more of that", "bcd", "Why?", "no"]
# Metrics that differ from run to run.
TIMES = ("seconds_rollout", "seconds_update", "tokens_per_second", "pairs_per_second", "peak_memory_bytes")
VOCAB_SIZE = 258

# Two layers, grouped-query attention, windows shorter than a response: small, but with every feature switched on.
_LLAMA_LIKE = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 96,
}
_GPT_LIKE = {**_LLAMA_LIKE, "num_key_value_heads": 2}
ARCHITECTURES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("LlamaConfig", _LLAMA_LIKE),
    "qwen2": ("Qwen2Config", _LLAMA_LIKE),
    "qwen3": ("Qwen3Config", {**_LLAMA_LIKE, "head_dim": 8}),
    "gpt2": ("GPT2Config", {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 96}),
    "gpt_neox": ("GPTNeoXConfig", _GPT_LIKE),
    "gemma": ("GemmaConfig", {**_LLAMA_LIKE, "head_dim": 8}),
    "gemma2": (
        "Gemma2Config",
        {**_LLAMA_LIKE, "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8, "final_logit_softcapping": 2.0},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            **_LLAMA_LIKE,
            "head_dim": 8,
            "sliding_window": 4,
            "query_pre_attn_scalar": 8,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "phi": ("PhiConfig", {**_GPT_LIKE, "partial_rotary_factor": 0.5}),
}


def byte_tokenizer(pad_is_eos: bool = False) -> PreTrainedTokenizerFast:
    """Every byte is a token, after the two special ones; nothing was trained, so nothing can be unknown."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<eos>", "<pad>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>" if pad_is_eos else "<pad>"
    )


def save_tiny(
    folder: Path, architecture: str = "llama", pad_is_eos: bool = False, eos: object = EOS, **options: object
) -> Path:
    """Write a tiny model of the architecture, and its tokenizer, in hub format."""
    name, sizes = ARCHITECTURES[architecture]
    special = {"eos_token_id": eos, "bos_token_id": None, "pad_token_id": EOS if pad_is_eos else PAD}
    config = getattr(transformers, name)(**{**sizes, "vocab_size": VOCAB_SIZE, **special, **options})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # the usual initialisation is so small that all tokens would be equally likely
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
        model.get_output_embeddings().weight.mul_(4)
    model.generation_config.eos_token_id = eos
    model.save_pretrained(str(folder))
    byte_tokenizer(pad_is_eos).save_pretrained(str(folder))
    return folder


def randomise(parameters: list[torch.nn.Parameter], seed: int = 0, scale: float = 0.3) -> None:
    """Fill adapters and heads with noise, since fresh ones change nothing and would hide what is to be tested."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def count_vowels(prompts: list[str], responses: list[str]) -> list[float]:
    """A reward that a policy can learn to raise."""
    return [float(sum(response.count(vowel) for vowel in "aeiou")) for response in responses]


def length(prompts: list[str], responses: list[str]) -> list[float]:
    """A reward that differs from answer to answer."""
    return [len(response) / 10 for response in responses]


def plain(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that a seed decides."""
    return {key: value for key, value in metrics.items() if key not in TIMES}


def copies(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors as they are now."""
    return [x.detach().clone() for x in tensors]


def check_equal_updates(updates: list[tuple[dict[str, float], list[torch.Tensor]]]) -> None:
    """Metrics and parameters after a step, made in several ways in float64, are equal but for rounding."""
    (metrics, parameters), *others = updates
    assert others
    for other_metrics, other_parameters in others:
        assert other_metrics == pytest.approx(metrics, abs=1e-6)
        for a, b in zip(parameters, other_parameters, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


def check_schedule(trainer: Trainer, steps: int) -> None:
    """Every step is taken, and reported, at the learning rate that the schedule has for it."""
    for done in range(steps):
        expected = trainer.config.learning_rate * warmup_then_decay(done, trainer.iterations)
        assert trainer.step()["learning_rate"] == pytest.approx(expected)
        assert trainer.optimizer.adam.param_groups[0]["lr"] == pytest.approx(expected)
    assert 0 < expected < trainer.config.learning_rate


def check_goes_on(trainer: Trainer, resumed: Trainer, before: int, after: int) -> None:
    """A trainer that is given the state of another makes the steps, bit for bit, that the other makes.

    Args:
        trainer: has not made a step yet.
        resumed: is given its state.
        before: steps until then.
        after: steps to compare.
    """
    first = [trainer.step() for _ in range(before)]
    state = trainer.state()
    expected = [plain(trainer.step()) for _ in range(after)]
    assert [metrics["iteration"] for metrics in first + expected] == list(range(1, before + after + 1))
    resumed.load_state(*state)
    assert resumed.iteration == before
    assert [plain(resumed.step()) for _ in range(after)] == expected


@contextmanager
def only_these_move(
    own: Iterable[torch.Tensor], *modules: torch.nn.Module, perhaps: Iterable[torch.Tensor] = ()
) -> Iterator[None]:
    """What is done in the block moves each of ``own``, and nothing else in the modules: that stays bit for bit.

    Args:
        own: parameters that have to move.
        modules: whose other parameters and buffers have to stay, without a gradient.
        perhaps: parameters that may move.
    """
    own = list(own)
    free = {id(x) for x in (*own, *perhaps)}
    state = [pair for module in modules for pair in (*module.named_parameters(), *module.named_buffers())]
    others = [(name, x) for name, x in state if id(x) not in free]
    assert own
    assert others
    mine, before = copies(own), copies(x for _, x in others)
    yield
    for (name, x), old in zip(others, before, strict=True):
        assert torch.equal(x, old), name
        assert x.grad is None, name
    assert not any(torch.equal(a, b) for a, b in zip(own, mine, strict=True))


GARBAGE = (math.nan, math.inf, -math.inf, 1e30)  # what may stand in the padding


def ragged(seed: int, rows: int = 3, width: int = 5, shortest: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Random numbers ``(B, T)`` in float64 and a right-padded mask with at least ``shortest`` tokens per row."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, width + 1, (rows, 1), generator=generator)
    x = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return x, (torch.arange(width) < lengths).double()


def save_classifier(folder, labels, template="{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"):
    """A tiny random reward model in the form in which people publish them."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_labels=labels, eos_token_id=EOS, pad_token_id=PAD, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder
