"""A sampler samples what the scorer scores, or it is not used: windows, ALiBi, recurrent states, and a broken cache."""

import warnings

import pytest
import torch
from tiny import ARCHITECTURES, save_tiny

from ppo_lib.errors import BadInput
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.prefix import shortest_window
from ppo_lib.sampling import decoding
from ppo_lib.sampling.agreement import STEPS, Witness
from ppo_lib.sampling.decoding import Slots, supports_static_cache
from ppo_lib.sampling.rollout import sample

LLAMA = ARCHITECTURES["llama"][1]
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
GPT_NEO = {
    "num_layers": 2,
    "num_heads": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 96,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 4,
}
WINDOWS = {
    "mistral": ("MistralConfig", {**LLAMA, "sliding_window": 4}),
    "phi3": ("Phi3Config", {**LLAMA, "sliding_window": 4}),
    "starcoder2": ("Starcoder2Config", {**LLAMA, "sliding_window": 4}),
    "gpt_neo": ("GPTNeoConfig", GPT_NEO),
    "mixtral": ("MixtralConfig", {**LLAMA, **EXPERTS, "sliding_window": 4}),
    "qwen2": ("Qwen2Config", {**LLAMA, "sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1}),
}
SEES_ALL = {
    "mistral": ("MistralConfig", {**LLAMA, "sliding_window": None}),
    "beyond": ("MistralConfig", {**LLAMA, "sliding_window": 96}),
    "unused": ("Qwen2Config", {**LLAMA, "sliding_window": 4, "use_sliding_window": False}),
    "global": ("GPTNeoConfig", {**GPT_NEO, "attention_types": [[["global"], 2]]}),
    "mixtral": ("MixtralConfig", {**LLAMA, **EXPERTS, "sliding_window": None}),
}


def build(tmp_path, monkeypatch, kind, **options):
    monkeypatch.setitem(ARCHITECTURES, "tried", kind)
    return Backbone.from_pretrained(save_tiny(tmp_path / "model", "tried", **options))


@pytest.mark.parametrize("kind", WINDOWS.values(), ids=WINDOWS)
def test_windows_by_any_name_are_left_to_the_growing_cache_which_samples_what_is_scored(tmp_path, monkeypatch, kind):
    backbone = build(tmp_path, monkeypatch, kind)
    assert shortest_window(backbone.causal_lm.config) == 4
    assert not supports_static_cache(backbone)
    batch = sample(backbone, [[5, 6, 7, 8, 9, 10, 11], [12, 13]], 12, 0.0, None).batch  # well beyond the window
    with torch.no_grad():
        scored = backbone.logits(backbone.hidden_states(batch)[:, batch.prompt_width - 1 : -1]).argmax(dim=-1)
    mask = batch.mask.bool()
    assert torch.equal(scored[mask], batch.responses[mask])


@pytest.mark.parametrize("kind", SEES_ALL.values(), ids=SEES_ALL)
def test_models_without_a_window_of_effect_may_use_the_cache_of_fixed_size(tmp_path, monkeypatch, kind):
    backbone = build(tmp_path, monkeypatch, kind)
    assert shortest_window(backbone.causal_lm.config) is None
    assert supports_static_cache(backbone)


def test_alibi_is_left_to_the_growing_cache(tmp_path, monkeypatch):
    backbone = build(tmp_path, monkeypatch, ("BloomConfig", {"n_layer": 2, "n_head": 2, "hidden_size": 16}))
    assert not supports_static_cache(backbone)
    with pytest.raises(ValueError, match="static_cache is set, but"):
        sample(backbone, [[5, 6]], 2, 0.0, None, static_cache=True)


def test_a_cache_that_forgets_is_found_out_by_trying_and_said_once(build_tiny, monkeypatch):
    update = Slots.update

    def forget(self, *what):
        keys, values = update(self, *what)
        return keys, values.roll(1, dims=2)

    monkeypatch.setattr(Slots, "update", forget)
    backbone = build_tiny()
    with pytest.warns(UserWarning, match=r"\(llama\) samples from a cache of fixed size what it does not score"):
        assert not supports_static_cache(backbone)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not supports_static_cache(backbone)


def test_the_witness_takes_given_tokens_none_of_which_ends_a_response(build_tiny):
    backbone = build_tiny(eos=[0, 5, 6])
    witness = Witness(backbone)
    assert not {0, 5, 6} & set(witness.tokens)
    batch = decoding.decode_few(backbone, witness)
    assert batch.response_lengths.tolist() == [STEPS, STEPS]
    assert len(witness.logits) == STEPS
    assert witness.agrees(batch)
    witness.logits[-1] = witness.logits[-1].flip(-1)
    assert not witness.agrees(batch)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (
            ("MambaConfig", {"num_hidden_layers": 2, "hidden_size": 16, "state_size": 4}),
            "keeps no keys and values|samples from its cache what it does not score",
        ),
        (("RobertaConfig", {**LLAMA, "is_decoder": False, "max_position_embeddings": 98}), "take another model|wrong"),
    ],
    ids=["recurrent", "bidirectional"],
)
def test_models_that_cannot_be_sampled_from_are_refused_in_a_sentence(tmp_path, monkeypatch, kind, words):
    with pytest.raises(BadInput, match=words):
        build(tmp_path, monkeypatch, kind)


def test_a_model_that_reads_what_comes_later_is_refused(build_tiny, monkeypatch):
    backbone = build_tiny()
    hidden_states = Backbone.hidden_states

    def look_ahead(self, batch, adapter=None):
        hidden = hidden_states(self, batch, adapter)
        return hidden * (1 + 0.1 * (batch.sequences[:, -1:, None] == 1))  # the last token moves all before it

    monkeypatch.setattr(Backbone, "hidden_states", look_ahead)
    with pytest.raises(BadInput, match="reads tokens that come later, so it is no causal language model"):
        Backbone(backbone.causal_lm, backbone.tokenizer, "peeking")
