"""Sampling: the right distribution, the right stop, and log-probs that agree with it."""

import math

import pytest
import torch
from tiny import ARCHITECTURES, EOS, PAD, byte_tokenizer, randomise

from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.tokens import pad_pairs
from ppo_lib.sampling.rollout import REFUSED_SAMPLING, draw, generate_text, sample
from ppo_lib.trainers.configuration import ConfigError, PPOConfig, read_config

PROMPTS = [[5, 6, 7, 8], [9], [10, 11]]
MANY_EOS = [EOS, *range(2, 60)]  # a random model hardly hits one id; of many it hits some


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_first_tokens_follow_the_softmax_at_the_temperature(build_tiny, temperature):
    """Pearson's statistic of 4000 draws over the likely tokens: within 5 deviations of its mean (p < 1e-5)."""
    backbone, draws = build_tiny(), 4000
    first = sample(backbone, [PROMPTS[0]] * draws, 1, temperature, None, seeded()).batch.responses[:, 0]
    state = backbone.hidden_states(pad_pairs([PROMPTS[0]], [[EOS]], PAD))[:, -2]
    expected = draws * torch.softmax(backbone.logits(state)[0] / temperature, dim=-1)
    counts = torch.bincount(first, minlength=len(expected)).double()
    likely = expected >= 5  # the rule for Pearson's statistic; the rest goes into one cell
    expected = torch.cat([expected[likely], expected[~likely].sum().view(1)])
    counts = torch.cat([counts[likely], counts[~likely].sum().view(1)])
    freedom = len(expected) - 1
    statistic = float(((counts - expected).square() / expected).sum())
    assert freedom > 5
    assert abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)


def test_another_temperature_would_be_noticed(build_tiny):
    """The check of the test above has power: draws at 1.0 do not look like draws at 1.3."""
    backbone, draws = build_tiny(), 4000
    first = sample(backbone, [PROMPTS[0]] * draws, 1, 1.0, None, seeded()).batch.responses[:, 0]
    state = backbone.hidden_states(pad_pairs([PROMPTS[0]], [[EOS]], PAD))[:, -2]
    expected = draws * torch.softmax(backbone.logits(state)[0] / 1.3, dim=-1)
    counts = torch.bincount(first, minlength=len(expected)).double()
    likely = expected >= 5
    statistic = float(((counts - expected).square() / expected)[likely].sum())
    assert statistic > float(likely.sum()) + 10 * math.sqrt(2 * float(likely.sum()))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_the_cache_samples_from_the_distribution_that_evaluate_scores(
    build_tiny, monkeypatch, architecture, pad_is_eos
):
    """At every step the cached logits of rows that still run equal those of one pass over the finished batch."""
    backbone = build_tiny(architecture, pad_is_eos=pad_is_eos, eos=MANY_EOS)
    policy = ActorCritic(backbone)
    randomise(policy.parameters_to_train(), scale=0.2)
    seen, logits = [], type(backbone).logits

    def spy(self, hidden):
        seen.append(logits(self, hidden))
        return seen[-1]

    with monkeypatch.context() as patch:
        patch.setattr(type(backbone), "logits", spy)
        sampled = sample(backbone, PROMPTS, 12, 0.8, "policy", seeded(3))
    batch = sampled.batch
    cached = torch.log_softmax(torch.stack(seen, dim=1) / 0.8, dim=-1)
    cached = cached.gather(-1, batch.responses.unsqueeze(-1)).squeeze(-1) * batch.mask
    assert len(set(batch.response_lengths.tolist())) > 1
    with torch.no_grad():
        torch.testing.assert_close(policy.evaluate(batch, 0.8).logprobs, cached, atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(sampled.logprobs, cached, atol=2e-5, rtol=2e-5)  # zero in the padding, too


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("merge", [False, True])
def test_both_ways_of_decoding_report_the_log_probs_that_they_drew_from(build_tiny, static, merge):
    backbone = build_tiny(eos=MANY_EOS)
    policy = ActorCritic(backbone)
    randomise(policy.parameters_to_train(), scale=0.2)
    usual = sample(backbone, PROMPTS, 12, 0.8, "policy", seeded(3))
    backbone.merge_adapter = merge
    sampled = sample(backbone, PROMPTS, 12, 0.8, "policy", seeded(3), static_cache=static)
    assert torch.equal(sampled.batch.sequences, usual.batch.sequences)
    assert sampled.logprobs.shape == sampled.batch.responses.shape
    with torch.no_grad():
        scored = policy.evaluate(sampled.batch, 0.8).logprobs
    torch.testing.assert_close(sampled.logprobs, scored, atol=2e-5, rtol=2e-5)
    greedy = sample(backbone, PROMPTS, 12, 0, "policy", static_cache=static)
    assert not greedy.logprobs.any()


@pytest.mark.parametrize("pad_is_eos", [False, True])
def test_lengths_are_explicit_and_end_with_the_first_eos(build_tiny, pad_is_eos):
    backbone = build_tiny(pad_is_eos=pad_is_eos, eos=MANY_EOS)
    sampled = sample(backbone, PROMPTS * 20, 10, 1.0, None, seeded())
    batch = sampled.batch
    assert batch.responses.shape[1] == int(batch.response_lengths.max())
    assert 0.3 < sampled.finished.float().mean() < 1
    for ids, length, finished in zip(
        batch.responses.tolist(), batch.response_lengths.tolist(), sampled.finished.tolist(), strict=True
    ):
        ends = [i for i, token in enumerate(ids[:length]) if token in MANY_EOS]
        assert ends == ([length - 1] if finished else [])
        assert finished or length == 10
    first = batch.sequences[:, : batch.prompt_width]
    assert [row[len(row) - n :].tolist() for row, n in zip(first, batch.prompt_lengths, strict=True)] == PROMPTS * 20


def test_a_response_may_be_its_eos_alone(build_tiny):
    backbone = build_tiny(eos=list(range(258)))
    sampled = sample(backbone, PROMPTS, 10, 1.0, None, seeded())
    assert sampled.batch.response_lengths.tolist() == [1, 1, 1]
    assert sampled.finished.all()
    assert sampled.batch.responses.shape == (3, 1)


def test_a_response_that_does_not_end_is_cut_off_at_the_budget(build_tiny):
    sampled = sample(build_tiny(), PROMPTS, 5, 1.0, None, seeded())
    assert sampled.batch.response_lengths.tolist() == [5, 5, 5]
    assert not sampled.finished.any()


def test_greedy_is_deterministic_and_takes_the_likeliest_token(build_tiny):
    backbone = build_tiny()
    first, second = (sample(backbone, PROMPTS, 6, 0.0, None, seeded(seed)).batch for seed in (0, 1))
    assert torch.equal(first.sequences, second.sequences)
    hidden = backbone.hidden_states(first)[:, first.prompt_width - 1 : -1]
    assert torch.equal(backbone.logits(hidden).argmax(-1), first.responses)


def test_a_seed_decides_the_sample(build_tiny):
    backbone = build_tiny()
    a, b, c = (sample(backbone, PROMPTS, 6, 1.0, None, seeded(seed)).batch.sequences for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_the_adapter_named_is_the_one_that_speaks(build_tiny):
    backbone = build_tiny()
    backbone.add_adapter("policy")
    before = sample(backbone, PROMPTS, 6, 0.0, "policy").batch.sequences
    randomise(backbone.adapter_parameters("policy"))
    assert not torch.equal(sample(backbone, PROMPTS, 6, 0.0, "policy").batch.sequences, before)
    assert torch.equal(sample(backbone, PROMPTS, 6, 0.0, None).batch.sequences, before)


def test_sampling_leaves_no_graph_and_no_other_randomness_behind(build_tiny):
    backbone = build_tiny()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    sample(backbone, PROMPTS, 3, 1.0, None, seeded())
    assert torch.rand(1) == expected


def test_text_of_a_prompt_does_not_depend_on_its_company(build_tiny):
    backbone = build_tiny(eos=MANY_EOS)
    prompts = ["Hello", "a much longer prompt than the others", "x"]
    together = generate_text(backbone, prompts, 8)
    assert together == [generate_text(backbone, [prompt], 8)[0] for prompt in prompts]
    assert generate_text(backbone, prompts, 8, 1.0, seed=1) == generate_text(backbone, prompts, 8, 1.0, seed=1)


@pytest.mark.parametrize("option", REFUSED_SAMPLING)
def test_sampling_that_the_logprobs_do_not_score_is_refused_with_the_reason(build_tiny, option):
    with pytest.raises(ValueError, match=f"{option} samples from another distribution"):
        sample(build_tiny(), PROMPTS, 3, adapter=None, **{option: 1})
    with pytest.raises(ConfigError, match=f"{option} .*refused.*another distribution"):
        read_config(PPOConfig, {option: 1})


def test_the_list_of_refusals_has_the_usual_ones():
    assert {"top_k", "top_p", "min_length", "min_new_tokens", "repetition_penalty"} <= set(REFUSED_SAMPLING)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((PROMPTS, 0), {}, ["max_new_tokens is 0", "at least 1"]),
        ((PROMPTS, 3), {"temperature": -1.0}, ["temperature -1.0", "at least 0"]),
        ((PROMPTS, 3), {"temperature": math.nan}, ["temperature nan"]),
        ((PROMPTS, 93), {}, ["4 tokens", "max_new_tokens is 93", "context is 96"]),
        (([], 3), {}, ["prompts is empty"]),
        (([[5], []], 3), {}, ["prompts", "empty one"]),
        ((PROMPTS, 3), {"adapter": "policy"}, ["no adapter 'policy'"]),
        ((PROMPTS, 3), {"beams": 4}, ["'beams' is not an option of sample"]),
    ],
)
def test_refusals(build_tiny, arguments, options, words):
    with pytest.raises(ValueError, match=words[0]) as error:
        sample(build_tiny(), *arguments, **{"adapter": None, **options})
    assert all(word in str(error.value) for word in words), error.value


def test_prompt_and_budget_may_fill_the_context_exactly(build_tiny):
    assert sample(build_tiny("gpt2"), PROMPTS, 92, 1.0, None, seeded()).batch.sequences.shape == (3, 96)


def test_the_tokenizer_of_the_tests_is_reversible():
    tokenizer = byte_tokenizer()
    text = "Any tèxt, 一 bytes\n at all"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.parametrize(
    ("prompts", "options", "words"),
    [
        ([[5]], {"temperature": float("inf")}, "temperature inf; they must be"),
        ([[5]], {"temperature": "1"}, "temperature '1'; they must be"),
        ([[5]], {"temperature": None}, "temperature None; they must be"),
        ([[5, 258]], {}, "prompt 0 holds the token 258, but token ids are whole numbers from 0 to 257"),
        ([[5], [-1]], {}, "prompt 1 holds the token -1"),
        ([[5.0]], {}, r"prompt 0 holds the token 5\.0"),
        (
            [[5]],
            {"noise": torch.zeros(1, 3)},
            r"noise has shape \(1, 3\), but must be .* = \(1, 2\)",
        ),
        ([[5]], {"noise": torch.ones(1, 2)}, r"numbers in \[0, 1\)"),
        ([[5]], {"noise": torch.full((1, 2), torch.nan)}, r"numbers in \[0, 1\)"),
    ],
)
def test_numbers_and_ids_that_cannot_be_sampled_with_are_refused(build_tiny, prompts, options, words):
    with pytest.raises(ValueError, match=words):
        sample(build_tiny(), prompts, 2, adapter=None, **options)


def test_one_text_in_place_of_a_list_is_refused(build_tiny):
    with pytest.raises(ValueError, match="would be read letter by letter; give a list of texts"):
        generate_text(build_tiny(), "one text")


@pytest.mark.parametrize(
    ("chances", "point", "token"),
    [
        ([0.0, 1.0], 0.0, 1),  # never one of probability 0
        ([0.5, 0.0, 0.5], 0.5, 2),
        ([0.2, 0.2], 0.4, 0),  # what does not add up to 1 is stretched to it
        ([0.2, 0.2], 0.6, 1),
        ([1.0, 0.0], 1.0, 1),  # no such point is drawn; if rounding made one, there would still be a token
    ],
)
def test_the_token_is_where_the_point_falls_in_the_cumulative_distribution(chances, point, token):
    drawn = draw(torch.tensor([chances], dtype=torch.float64), point=torch.tensor([point], dtype=torch.float64))
    assert drawn.tolist() == [token]
