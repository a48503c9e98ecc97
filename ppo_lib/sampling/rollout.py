"""Sampling responses.

The loop is short because PPO needs little: sample from the policy's own distribution, at a temperature, until every
response has ended. What other samplers offer beyond that (top-k, top-p, a minimum length) samples from a *different*
distribution than the one whose log-probs PPO compares, and is refused.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from ppo_lib.errors import BadInput
from ppo_lib.models.backbone import MAX_LOGITS, Backbone
from ppo_lib.models.caches import cache_of, read_on
from ppo_lib.models.prefix import Prefix, prefix_layout, states_after_prefix
from ppo_lib.models.tokens import TokenBatch, pad_pairs
from ppo_lib.models.world import ALONE, World
from ppo_lib.sampling.decoding import Decoder, by_graphs, supports_static_cache

_OTHER_DISTRIBUTIONS = (
    *("top_k", "top_p", "min_p", "typical_p"),
    *("min_length", "min_new_tokens", "repetition_penalty", "num_beams"),
)
REFUSED_SAMPLING = {
    key: f"{key} samples from another distribution than the log-probs score, so the ratio of the first step would "
    "not be 1 and the KL could come out negative; leave it out and use temperature"
    for key in _OTHER_DISTRIBUTIONS
}


@dataclass
class Sampled:
    """What :func:`sample` returns.

    Attributes:
        batch: prompts and responses with explicit lengths.
        finished: ``(B,)`` boolean: the response ended with an EOS, instead of being cut off by the budget.
        logprobs: ``(B, T)`` float32, of each token in the distribution that it was drawn from; zero in the padding,
            and everywhere at temperature 0.
    """

    batch: TokenBatch
    finished: Tensor
    logprobs: Tensor


@torch.no_grad()
def sample(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 1.0,
    adapter: str | None = "policy",
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    static_cache: bool | None = None,
    world: World = ALONE,
    **refused: object,
) -> Sampled:
    """Sample one response for each prompt.

    The random numbers belong to rows and steps. Of several processes, each draws those of the whole batch and uses the
    ones of its rows: what is sampled depends neither on how many processes there are, nor on budget and cache.

    Args:
        backbone: the model.
        prompts: token ids, from :func:`ppo_lib.models.tokens.encode_prompts`.
        max_new_tokens: budget; a response that does not end within it is truncated.
        temperature: above 0 to sample; 0 takes the likeliest token.
        adapter: the role that samples: ``"policy"``, or ``None`` for the reference; on a GPU merged into a copy of
            the weights meanwhile; see :attr:`ppo_lib.models.backbone.Backbone.merge_adapter`.
        generator: source of randomness, on any device; torch's own for the backbone's if not given. It gives
            one number per row and step until the last response has ended, and is left in the state after them.
        noise: ``(B, max_new_tokens)`` in [0, 1), the random number that decides each token, in place of a generator's.
        static_cache: decode with a cache of fixed size, as CUDA graphs on a GPU (:mod:`ppo_lib.sampling.decoding`):
            from one seed the same tokens, sooner. ``None`` does so on a GPU, for models whose layers all see
            everything, unless ``PPO_LIB_CUDA_GRAPHS`` is 0 in the environment.
        world: the processes that share the rows; every one of them gets all responses.

    Returns:
        :class:`Sampled`, whose response width is the longest response's length.

    Raises:
        ValueError: no prompt or an empty one, a budget below 1, a negative temperature, prompt and budget beyond the
            model's context, or a sampling option that the log-probs do not score.
    """
    for option in refused:
        raise BadInput(REFUSED_SAMPLING.get(option, f"{option!r} is not an option of sample"))
    numbers = isinstance(temperature, (int, float)) and isinstance(max_new_tokens, int)
    if not numbers or max_new_tokens < 1 or not 0 <= temperature < math.inf:
        raise BadInput(
            f"max_new_tokens is {max_new_tokens!r} and temperature {temperature!r}; they must be a whole number of at "
            "least 1, and a number of at least 0 and not infinite"
        )
    if not prompts or not all(prompts):
        raise BadInput("prompts is empty or holds an empty one; a response needs something to answer")
    rows, width = len(prompts), max(map(len, prompts))
    check_ids(prompts, backbone.vocab_size)
    if noise is not None and (noise.shape != (rows, max_new_tokens) or not bool(((noise >= 0) & (noise < 1)).all())):
        raise BadInput(
            f"noise has shape {tuple(noise.shape)}, but must be (B, max_new_tokens) = ({rows}, {max_new_tokens}) of "
            "numbers in [0, 1)"
        )
    if backbone.context_length is not None and width + max_new_tokens > backbone.context_length:
        raise BadInput(
            f"the longest prompt has {width} tokens and max_new_tokens is {max_new_tokens}, but the model's context is "
            f"{backbone.context_length}; shorten one of them"
        )
    if static_cache and not supports_static_cache(backbone):
        raise ValueError(
            f"static_cache is set, but {backbone.name!r} is sharded or has layers that do not see all; leave it out"
        )
    drawing = noise is None and temperature > 0
    source = generator or default_generator(backbone.device)
    before = source.get_state()
    if drawing:
        noise = random_numbers(max_new_tokens, rows, source).T.to(backbone.device)
    own = world.share(range(rows))
    part = None if noise is None else noise[own.start : own.stop]
    sampled = decode(backbone, [prompts[i] for i in own], max_new_tokens, temperature, adapter, part, static_cache)
    if world.size > 1:
        pairs = zip(sampled.batch.responses, sampled.batch.response_lengths.tolist(), strict=True)
        responses = world.gather([row[:n].tolist() for row, n in pairs])
        finished = world.gather(sampled.finished.tolist())
        batch = pad_pairs(prompts, responses, backbone.pad_token_id).to(backbone.device)
        logprobs = pad_sequence([torch.tensor(row) for row in world.gather(sampled.logprobs.tolist())], True)
        logprobs = logprobs[:, : batch.responses.shape[1]].to(backbone.device)
        sampled = Sampled(batch, torch.tensor(finished, device=backbone.device), logprobs)
    if drawing:  # numbers for steps that no response needed go back: a budget must not change what follows
        source.set_state(before)
        random_numbers(sampled.batch.responses.shape[1], rows, source)
    return sampled


def check_ids(prompts: Sequence[Sequence[int]], vocabulary: int) -> None:
    """Refuse token ids that are none, or that the model does not know."""
    for row, ids in enumerate(prompts):
        for token in ids:
            if not isinstance(token, int) or not 0 <= token < vocabulary:
                raise BadInput(
                    f"prompt {row} holds the token {token!r}, but token ids are whole numbers from 0 to "
                    f"{vocabulary - 1} here; encode texts by backbone.encode_prompts"
                )


def decode(
    backbone: Backbone,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float,
    adapter: str | None,
    noise: Tensor | None,
    static_cache: bool | None,
) -> Sampled:
    """The loop of :func:`sample`, whose arguments it takes: token after token until every response has ended."""
    rows, width = len(prompts), max(map(len, prompts))
    device = backbone.device
    eos = torch.tensor(backbone.eos_token_ids, device=device)
    sequences = torch.full((rows, width + max_new_tokens), backbone.pad_token_id, device=device)
    for row, ids in zip(sequences, prompts, strict=True):
        row[width - len(ids) : width] = torch.tensor(ids, device=device)
    prompt_lengths = torch.tensor([len(ids) for ids in prompts], device=device)
    attention = torch.arange(width + max_new_tokens, device=device) >= (width - prompt_lengths).unsqueeze(1)
    asked = pad_pairs(prompts, [[]] * rows, backbone.pad_token_id).to(device)
    shared = backbone.worth_sharing(rows, asked.shared)
    if shared:
        attention[:, :width] = prefix_layout(asked, shared)
    positions = (attention.cumsum(dim=1) - 1).clamp(min=0)

    if static_cache is None:
        static_cache = by_graphs(backbone, device)
    finished = torch.zeros(rows, dtype=torch.bool, device=device)
    lengths = torch.zeros(rows, dtype=torch.long, device=device)
    logprobs = torch.zeros(rows, max_new_tokens, device=device)
    cache: Any = None
    start, end = 0, width
    with backbone.sampling(adapter):
        for step in range(max_new_tokens):
            if shared and step == 0:
                hidden, cache = read_prompts(backbone, asked, shared)
            else:
                output = read_on(
                    backbone.body,
                    cache,
                    input_ids=sequences[:, start:end],
                    attention_mask=attention[:, :end].long(),
                    position_ids=positions[:, start:end],
                )
                hidden, cache = output.last_hidden_state[:, -1], cache_of(output)
                del output
            point = None if noise is None else noise[:, step]
            tokens, chosen = pick(backbone, hidden, temperature, point)
            logprobs[:, step] = chosen.masked_fill(finished, 0.0)
            if static_cache:
                prefilled = [(layer.keys, layer.values) for layer in cache.layers]
                next_tokens = partial(pick_at, backbone, temperature, noise)
                decoder = Decoder(backbone, sequences, attention, tokens, prefilled, next_tokens, width, logprobs)
                del cache, prefilled  # the decoder has its own copy of the prompts' keys and values
                batch, ended = decoder.run(max_new_tokens - 1)
                return Sampled(replace(batch, shared=asked.shared), ended, logprobs[:, : batch.responses.shape[1]])
            sequences[:, end] = torch.where(finished, sequences[:, end], tokens)
            lengths += ~finished
            finished |= torch.isin(tokens, eos)
            start, end = end, end + 1
            left = (~finished).sum()
            backbone.world.add(left)  # of a sharded model, every process takes as many steps as the longest needs
            if not left:
                break
    batch = TokenBatch(sequences[:, :end], prompt_lengths, lengths, width, asked.shared)
    return Sampled(batch, finished, logprobs[:, : end - width])


def read_prompts(backbone: Backbone, asked: TokenBatch, shared: int) -> tuple[Tensor, Any]:
    """States ``(B, H)`` of the prompts' last tokens, and the cache behind them; their shared beginning is read once."""
    prefix = Prefix(keep=True)
    states = states_after_prefix(backbone.body, asked, shared, prefix, backbone.causal_lm.dtype)
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(prefix.whole):
        cache.update(keys, values, layer)
    return states[:, -1], cache


def pick(backbone: Backbone, hidden: Tensor, temperature: float, point: Tensor | None) -> tuple[Tensor, Tensor]:
    """The next token of each row and its log-prob, ``(B,)`` each, from its last hidden state, ``(B, H)``.

    Args:
        backbone, temperature: as :func:`sample` takes them.
        hidden: in the role that samples.
        point: ``(B,)`` float64 in [0, 1), the random numbers; None takes the likeliest token, as temperature 0 does,
            and nothing else could have come: its log-prob is 0.
    """
    if temperature == 0 or point is None:
        return backbone.logits(hidden).argmax(dim=-1), torch.zeros(len(hidden), device=hidden.device)
    size = max(1, MAX_LOGITS // backbone.causal_lm.config.get_text_config().vocab_size)  # rows at once
    parts = []
    for states, part in zip(hidden.split(size), point.split(size), strict=True):
        probabilities = torch.softmax(backbone.logits(states) / temperature, dim=-1)
        tokens = draw(probabilities, point=part)
        parts.append((tokens, probabilities.gather(1, tokens.unsqueeze(1)).squeeze(1).log().float()))
    tokens, logprobs = (torch.cat(column) for column in zip(*parts, strict=True))
    return tokens, logprobs


def pick_at(
    backbone: Backbone, temperature: float, noise: Tensor | None, hidden: Tensor, number: Tensor
) -> tuple[Tensor, Tensor]:
    """The token of that number, a tensor ``(1,)``, in each row: :func:`pick` with a column of the noise ``(B, T)``."""
    point = None if noise is None else noise.index_select(1, number).squeeze(1)
    return pick(backbone, hidden, temperature, point)


def draw(probabilities: Tensor, generator: torch.Generator | None = None, point: Tensor | None = None) -> Tensor:
    """Draw one token per row, by inverting the cumulative distribution.

    ``torch.multinomial`` draws as well, but from one seed it draws other tokens on an Intel CPU than on an AMD one.

    Args:
        probabilities: ``(B, V)``.
        generator: source of randomness, on the same device.
        point: ``(B,)`` float64 in [0, 1), where to look in the distribution; drawn if not given.

    Returns:
        ``(B,)`` token ids, never one of probability 0.
    """
    heights = probabilities.double().cumsum(dim=-1)  # float64: thousands of small steps are summed
    if point is None:
        point = torch.rand(len(heights), dtype=torch.float64, device=heights.device, generator=generator)
    tokens = torch.searchsorted(heights, point.unsqueeze(1) * heights[:, -1:], right=True)
    return tokens.squeeze(1).clamp(max=heights.shape[1] - 1)


def generate_text(
    backbone: Backbone,
    prompts: Sequence[str],
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    adapter: str | None = None,
    seed: int = 0,
) -> list[str]:
    """Answer prompts given as text, greedily unless a temperature is set.

    Args:
        backbone: the model.
        prompts: texts.
        max_new_tokens: budget per answer.
        temperature: 0 for the likeliest token at each step.
        adapter: ``"policy"`` for the trained actor, ``None`` for the plain backbone.
        seed: of the sampling.

    Raises:
        ValueError: as :func:`sample` and :func:`ppo_lib.models.tokens.encode_prompts`.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = backbone.encode_prompts(prompts)
    sampled = sample(backbone, ids, max_new_tokens, temperature, adapter, generator)
    return backbone.response_texts(sampled.batch)


def random_numbers(steps: int, rows: int, generator: torch.Generator) -> Tensor:
    """Numbers in [0, 1) for so many steps and rows, ``(steps, rows)`` float64, on the generator's device.

    Drawn step by step: drawn at once, on a GPU the numbers of a step would depend on how many steps there are.
    """
    numbers = torch.empty((steps, rows), dtype=torch.float64, device=generator.device)
    for step in numbers:
        step.uniform_(generator=generator)
    return numbers


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that torch draws from on a device when it is given none."""
    if device.type == "cpu":
        return torch.default_generator
    return torch.get_device_module(device).default_generators[device.index or 0]
