"""Actor, critic, reference and reward model on one backbone; nothing depends on padding or company."""

import json
import warnings

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny import ARCHITECTURES, EOS, PAD, randomise
from transformers import AutoModelForCausalLM, AutoTokenizer

from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import TokenBatch, encode_pairs, pad_pairs
from ppo_lib.sampling.rollout import generate_text

PROMPTS = [[5, 6, 7, 8], [9], [10, 11]]
RESPONSES = [[12, 30, EOS], [13, 14, 15, 16, 17, 18, EOS], [EOS]]
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}  # float32: other shapes, other kernels, other rounding


def small_batch(pad: int = PAD, rows=(0, 1, 2)) -> TokenBatch:
    return pad_pairs([PROMPTS[i] for i in rows], [RESPONSES[i] for i in rows], pad)


def widened(batch: TokenBatch, left: int, right: int, filler: int) -> TokenBatch:
    """The same batch with more padding, made of another token."""
    sides = [torch.full((len(batch), n), filler) for n in (left, right)]
    sequences = torch.cat([sides[0], batch.sequences, sides[1]], dim=1)
    return TokenBatch(sequences, batch.prompt_lengths, batch.response_lengths, batch.prompt_width + left)


@pytest.fixture
def build_policy(build_tiny):
    def build(*arguments, **options):
        policy = ActorCritic(build_tiny(*arguments, **options))
        randomise(policy.parameters_to_train(), scale=0.2)
        return policy

    return build


@pytest.fixture
def build_reward_model(build_tiny):
    def build(*arguments, **options):
        model = RewardModel(build_tiny(*arguments, **options))
        randomise(model.parameters_to_train(), seed=1, scale=0.2)
        return model

    return build


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_and_company_change_no_logprob_value_or_score(build_tiny, architecture):
    backbone = build_tiny(architecture)
    policy, reward_model = ActorCritic(backbone), RewardModel(backbone)
    randomise([*policy.parameters_to_train(), *reward_model.parameters_to_train()], scale=0.2)

    @torch.no_grad()
    def read(batch):
        return *policy.evaluate(batch, 0.8), policy.reference_logprobs(batch, 0.8), reward_model(batch)

    batch = small_batch()
    together = read(batch)
    assert all(float(x.abs().max()) > 0.01 for x in together)  # there is something to be changed
    for padded in (widened(batch, 5, 3, PAD), widened(batch, 0, 1, EOS), widened(batch, 20, 0, 77)):
        for before, after in zip(together, read(padded), strict=True):
            torch.testing.assert_close(after[:, : before.shape[1]] if after.dim() == 2 else after, before, **TOLERANCE)
    for row, response in enumerate(RESPONSES):
        for before, alone in zip(together, read(small_batch(rows=[row])), strict=True):
            expected = before[row, : len(response)] if before.dim() == 2 else before[row]
            torch.testing.assert_close(alone[0], expected, **TOLERANCE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_evaluate_is_forward_without_its_logits(build_policy, architecture):
    policy, batch = build_policy(architecture), small_batch()
    mask = batch.mask
    with torch.no_grad():
        output, seen = policy(batch, temperature=0.7), policy.evaluate(batch, temperature=0.7)
    logp = torch.log_softmax(output.logits, dim=-1)
    assert output.logits.shape == (3, 7, 258)
    torch.testing.assert_close(seen.logprobs, logp.gather(-1, batch.responses.unsqueeze(-1)).squeeze(-1) * mask)
    torch.testing.assert_close(seen.values, output.values * mask)
    torch.testing.assert_close(seen.entropy, -(logp.exp() * logp).sum(-1) * mask)


def test_a_token_is_scored_by_the_state_before_it(build_policy):
    """Changing a response token changes the values and log-probs after it, its own log-prob, but not its own value."""
    policy, batch = build_policy(), small_batch(rows=[1])
    changed = small_batch(rows=[1])
    changed.sequences[0, batch.prompt_width + 3] = 99
    with torch.no_grad():
        before, after = policy.evaluate(batch), policy.evaluate(changed)
    same = [torch.isclose(a, b, atol=1e-6)[0].tolist() for a, b in zip(before, after, strict=True)]
    logprobs, values, entropy = same
    assert values == [True] * 4 + [False] * 3
    assert entropy == [True] * 4 + [False] * 3
    assert logprobs == [True] * 3 + [False] * 4


def test_the_first_value_is_read_before_any_response_token(build_policy):
    policy = build_policy()
    first, second = small_batch(rows=[0]), pad_pairs([PROMPTS[0]], [[77, EOS]], PAD)
    with torch.no_grad():
        values = policy.evaluate(first).values[0, 0], policy.evaluate(second).values[0, 0]
    torch.testing.assert_close(*values)


def test_temperature_divides_the_logits_everywhere(build_policy):
    policy, batch = build_policy(), small_batch()
    with torch.no_grad():
        plain = policy(batch).logits
        for name, logits in (("policy", plain), (None, policy.backbone.logits(policy.reference(batch)))):
            expected = torch.log_softmax(logits / 0.5, dim=-1).gather(-1, batch.responses.unsqueeze(-1)).squeeze(-1)
            seen = policy.evaluate(batch, 0.5).logprobs if name else policy.reference_logprobs(batch, 0.5)
            torch.testing.assert_close(seen, expected * batch.mask)


def test_a_fresh_actor_is_the_reference_and_its_critic_says_0(build_tiny):
    policy, batch = ActorCritic(build_tiny()), small_batch()
    seen = policy.evaluate(batch)
    assert torch.equal(seen.logprobs, policy.reference_logprobs(batch))
    assert torch.equal(seen.values, torch.zeros_like(seen.values))


def test_the_reference_does_not_follow_the_actor(build_policy):
    policy, batch = build_policy(), small_batch()
    before = policy.reference_logprobs(batch)
    randomise(policy.parameters_to_train(), seed=9)
    assert torch.equal(policy.reference_logprobs(batch), before)
    assert not before.requires_grad


def test_gradients_reach_adapter_and_value_head_only(build_policy):
    policy, batch = build_policy(), small_batch()
    reward_model = RewardModel(policy.backbone)
    seen = policy.evaluate(batch)
    (seen.logprobs.sum() + seen.values.sum()).backward()
    moved = {id(p) for p in [*policy.parameters(), *reward_model.parameters()] if p.grad is not None}
    assert moved == {id(p) for p in policy.parameters_to_train()}


@pytest.mark.parametrize("kind", ["evaluate", "score"])
def test_what_stands_in_padding_columns_is_not_read(build_policy, build_reward_model, kind):
    """Any token id in the padding, gradients included: the whole model is differentiated."""
    results = []
    for pad in (PAD, EOS, 200):
        if kind == "evaluate":
            model = build_policy()
            total = sum(x.sum() for x in model.evaluate(small_batch(pad)))
        else:
            model = build_reward_model()
            total = model(small_batch(pad)).sum()
        total.backward()
        results.append([total.detach(), *(p.grad for p in model.parameters_to_train())])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_score_is_read_at_the_last_counted_token(build_reward_model):
    model, batch = build_reward_model(), small_batch()
    with torch.no_grad():
        hidden = model.backbone.hidden_states(batch, "reward")
        at = [batch.prompt_width + len(response) - 1 for response in RESPONSES]
        by_hand = torch.stack([model.head(hidden[row, column])[0] for row, column in enumerate(at)])
        wrong = model.head(hidden[:, -1]).squeeze(-1)  # "the last token" of the documents: a pad token
    torch.testing.assert_close(model(batch), by_hand)
    assert not torch.allclose(wrong, by_hand, atol=1e-3)


def test_a_response_without_tokens_has_no_score(build_reward_model):
    batch = TokenBatch(torch.ones(2, 5).long(), torch.tensor([2, 2]), torch.tensor([3, 0]), 2)
    with pytest.raises(ValueError, match="row 1 counts no token"):
        build_reward_model()(batch)


def test_scores_of_texts_are_those_of_their_tokens_in_any_microbatch(build_reward_model):
    model = build_reward_model()
    prompts, responses = ["What?", "Why is it so?", "x"], ["yes", "", "no no no"]
    scores = model.scores(prompts, responses)
    for microbatch in (1, 2):
        batch = encode_pairs(model.backbone.tokenizer, prompts, responses, EOS, PAD)
        assert model.score_batch(batch, microbatch).tolist() == pytest.approx(scores, abs=1e-5)


def test_a_response_that_was_cut_off_is_scored_without_an_eos(build_reward_model):
    """Text and tokens alike: the score is read at the last token that was written."""
    model = build_reward_model()
    texts = ["What?", "Why is it so?", "x"], ["yes", "", "no no no"]
    batch = encode_pairs(model.backbone.tokenizer, *texts, EOS, PAD)
    cut = TokenBatch(batch.sequences, batch.prompt_lengths, torch.tensor([3, 1, 9]), batch.prompt_width)
    scores = model.scores(*texts, finished=[False, True, True])
    assert scores == pytest.approx(model.score_batch(cut).tolist(), abs=1e-5)
    assert scores[0] != pytest.approx(model.scores(*texts)[0], abs=1e-3)
    assert scores[1:] == pytest.approx(model.scores(*texts)[1:], abs=1e-5)
    assert model.scores(*texts, finished=[False] * 3)[1] == pytest.approx(scores[1], abs=1e-5)  # nothing but its EOS


def test_a_pair_longer_than_the_context_is_refused_and_one_that_fills_it_is_not(build_reward_model):
    model = build_reward_model("gpt2")
    assert len(model.scores(["ab"], ["x" * 93])) == 1  # 2 + 93 + the EOS = 96
    assert len(model.scores(["ab"], ["x" * 94], finished=[False])) == 1
    for finished in (None, [True, True]):
        with pytest.raises(ValueError, match=r"pair 1 \('ab'...\) has 97 tokens, but the context .* is 96; lower"):
            model.scores(["a", "ab"], ["short", "x" * 94], finished=finished)


def test_calibration_gives_mean_0_and_deviation_1_on_what_it_was_given(build_reward_model):
    model = build_reward_model()
    prompts, responses = ["a", "bb", "ccc", "d"], ["one", "two", "three", "four"]
    raw = torch.tensor(model.scores(prompts, responses))
    model.calibrate(prompts, responses)
    normalised = torch.tensor(model.scores(prompts, responses))
    torch.testing.assert_close(normalised, (raw - raw.mean()) / raw.std(), atol=1e-5, rtol=1e-4)
    model.calibrate(prompts, responses)  # a second time starts from the raw scores
    torch.testing.assert_close(torch.tensor(model.scores(prompts, responses)), normalised, atol=1e-5, rtol=1e-4)
    for few in (1, 2):
        with pytest.raises(ValueError, match="cannot fix a scale"):
            model.calibrate(["a"] * few, ["same"] * few)


def test_a_fresh_reward_model_scores_0(build_tiny):
    assert RewardModel(build_tiny()).scores(["a", "b"], ["c", "d"]) == [0.0, 0.0]


# ------------------------------------------------------------------------------------------------------ save and load


def test_actor_critic_round_trip_in_three_ways(build_policy, build_tiny, tiny_folder, tmp_path):
    policy, batch = build_policy(), small_batch()
    policy.save_pretrained(tmp_path, merged=True)
    with torch.no_grad():
        expected, logits = policy.evaluate(batch), policy(batch).logits[0, 0]
        for loaded in (ActorCritic.from_pretrained(tmp_path), ActorCritic.from_pretrained(tmp_path, build_tiny())):
            for a, b in zip(loaded.evaluate(batch), expected, strict=True):
                assert torch.equal(a, b)
            assert torch.equal(loaded.reference_logprobs(batch), policy.reference_logprobs(batch))
        base = AutoModelForCausalLM.from_pretrained(tiny_folder())
        ids = torch.tensor([PROMPTS[0]])
        peft = PeftModel.from_pretrained(base, tmp_path).eval()(ids).logits[0, -1]
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(ids).logits[0, -1]
    torch.testing.assert_close(peft, logits, **TOLERANCE)
    torch.testing.assert_close(merged, logits, atol=1e-4, rtol=1e-4)
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "merged")("ab").input_ids == policy.backbone.tokenizer("ab").input_ids
    )
    assert set(load_file(tmp_path / "value_head.safetensors")) == {"weight", "bias"}
    assert not list(tmp_path.rglob("*.bin")) + list(tmp_path.rglob("*.pt"))  # nothing is pickled


def test_no_hub_is_asked_about_the_base_of_an_adapter(build_tiny, tmp_path, monkeypatch):
    """PEFT would ask for its newest commit, whatever commit is pinned, and warns where it cannot."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    backbone = build_tiny()
    backbone.causal_lm.name_or_path, backbone.name = "owner/model", "owner/model@" + "0" * 40
    backbone.add_adapter("policy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone.save_adapter("policy", tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["revision"] == "0" * 40


def test_reward_model_round_trip_alone_and_on_a_shared_backbone(build_reward_model, build_policy, tmp_path):
    model = build_reward_model()
    texts = (["a", "bb", "c"], ["one", "two", "three"])
    model.calibrate(*texts)
    model.save_pretrained(tmp_path)
    scores = model.scores(*texts)
    assert RewardModel.from_pretrained(tmp_path).scores(*texts) == scores
    policy = build_policy()
    before = policy.evaluate(small_batch())
    shared = RewardModel.from_pretrained(tmp_path, policy.backbone)
    assert shared.scores(*texts) == scores
    assert all(torch.equal(a, b) for a, b in zip(policy.evaluate(small_batch()), before, strict=True))


def test_loading_refuses_what_is_not_there_or_does_not_fit(build_policy, build_reward_model, build_tiny, tmp_path):
    build_policy().save_pretrained(tmp_path / "policy")
    build_reward_model().save_pretrained(tmp_path / "reward")
    for cls in (ActorCritic, RewardModel):
        with pytest.raises(ValueError, match="nowhere"):
            cls.from_pretrained(tmp_path / "nowhere")
        with pytest.raises(ValueError, match="another model"):
            cls.from_pretrained(tmp_path / ("policy" if cls is ActorCritic else "reward"), build_tiny("gpt2"))
    with pytest.raises(ValueError, match="reward_head"):
        RewardModel.from_pretrained(tmp_path / "policy")
    with pytest.raises(ValueError, match="value_head"):
        ActorCritic.from_pretrained(tmp_path / "reward")
    config = json.loads((tmp_path / "policy" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (tmp_path / "policy" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="gone"):
        ActorCritic.from_pretrained(tmp_path / "policy")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_trained_actor_speaks_as_its_merged_model(build_policy, tmp_path, architecture):
    """Greedy text of the actor equals that of plain transformers' generate on the merged model."""
    policy = build_policy(architecture)
    policy.save_pretrained(tmp_path, merged=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    ids = tokenizer("Hello", return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=8, do_sample=False, attention_mask=torch.ones_like(ids))[0, ids.shape[1] :]
    expected = tokenizer.decode(out, skip_special_tokens=True)
    assert generate_text(policy.backbone, ["Hello", "other company"], 8, adapter="policy")[0] == expected


# ------------------------------------------------------------------------------------------------ which adapter it is


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_an_adapter_that_is_there_already_is_taken_only_when_asked_for(build_tiny, critic):
    """A trained adapter of rank 8 must not pass for a fresh one of rank 2, and is left as it was by the refusal."""
    backbone = build_tiny()
    policy, reward_model = ActorCritic(backbone, critic=critic), RewardModel(backbone)
    randomise([*policy.parameters_to_train(), *reward_model.parameters_to_train()])
    before = [x.clone() for x in backbone.state_dict().values()]
    for kind, name in ((ActorCritic, "policy"), (RewardModel, "reward")):
        for rank in (2, 8):
            with pytest.raises(ValueError, match=rf"^adapter '{name}' of rank 8 is already there; .* by reuse=True$"):
                kind(backbone, lora_rank=rank)
    again, judge = ActorCritic(backbone, lora_rank=2, critic=critic, reuse=True), RewardModel(backbone, 2, reuse=True)
    assert all(torch.equal(a, b) for a, b in zip(backbone.state_dict().values(), before, strict=True))
    heads = len([*again.value_head.parameters()])
    for mine, other in ((again, policy), (judge, reward_model)):
        adapters = zip(mine.parameters_to_train()[:-heads], other.parameters_to_train()[:-heads], strict=True)
        assert all(a is b for a, b in adapters)
    ActorCritic(backbone, lora_rank=2, finetune="full", critic=critic)  # has copies of its own


def test_a_critic_of_its_own_does_not_begin_with_the_actors_random_half(build_tiny):
    a, b = (build_tiny() for _ in range(2))
    ActorCritic(a, seed=3, critic="separate")
    ActorCritic(b, seed=3)

    def halves(backbone, name):
        return [p for key, p in backbone.named_parameters() if f"lora_A.{name}." in key]

    pairs = list(zip(halves(a, "policy"), halves(a, "critic"), halves(b, "policy"), strict=True))
    assert len(pairs) == 14
    assert not any(torch.equal(policy, critic) for policy, critic, _ in pairs)
    assert all(torch.equal(policy, alone) for policy, _, alone in pairs)  # as it always began
