"""The frozen model: what may be loaded, what its adapters change, and log-probs without a (B, T, V) tensor."""

import json
import math
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import errors
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file, save_file
from tiny import ARCHITECTURES, EOS, PAD, VOCAB_SIZE, byte_tokenizer, randomise, save_tiny
from transformers import AutoModelForCausalLM, BertConfig, BertModel, CohereConfig, T5Config, T5ForConditionalGeneration

from ppo_lib.errors import BadInput
from ppo_lib.models import backbone as backbone_module
from ppo_lib.models import loading
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import pad_pairs
from ppo_lib.trainers.configuration import PPOConfig, RewardConfig, SFTConfig
from ppo_lib.trainers.ppo import PPOTrainer
from ppo_lib.trainers.reward import RewardTrainer
from ppo_lib.trainers.sft import SFTTrainer

PROMPTS = [[5, 6, 7, 8], [9], [10, 11]]
RESPONSES = [[12, EOS], [13, 14, 15, 16, 17, 18, EOS], [EOS]]


def small_batch():
    return pad_pairs(PROMPTS, RESPONSES, PAD)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hidden_states_and_head_give_the_models_own_logits(build_tiny, tiny_folder, architecture):
    backbone, batch = build_tiny(architecture), small_batch()
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder(architecture)).eval()
    for i, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):  # alone, without any padding
        with torch.no_grad():
            own = plain(torch.tensor([[*prompt, *response]])).logits[0]
            ours = backbone.logits(backbone.hidden_states(batch))[i][batch.attention_mask[i].bool()]
        torch.testing.assert_close(ours, own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_adapter_tensors_are_trainable_and_the_output_head_has_none(build_tiny, architecture):
    backbone = build_tiny(architecture)
    assert not any(p.requires_grad for p in backbone.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone.add_adapter("policy", rank=2)
        backbone.add_adapter("reward", rank=3)
    trainable = {id(p) for p in backbone.parameters() if p.requires_grad}
    listed = [*backbone.adapter_parameters("policy"), *backbone.adapter_parameters("reward")]
    assert trainable == {id(p) for p in listed}
    assert not any("lora" in name for name, _ in backbone.causal_lm.get_output_embeddings().named_modules())


def test_a_fresh_adapter_changes_nothing_and_each_works_alone(build_tiny):
    backbone, batch = build_tiny(), small_batch()
    plain = backbone.hidden_states(batch)
    backbone.add_adapter("policy")
    backbone.add_adapter("reward")
    assert torch.equal(backbone.hidden_states(batch, "policy"), plain)
    randomise(backbone.adapter_parameters("policy"))
    assert not torch.allclose(backbone.hidden_states(batch, "policy"), plain, atol=1e-3)
    assert torch.equal(backbone.hidden_states(batch, "reward"), plain)
    assert torch.equal(backbone.hidden_states(batch), plain)
    with backbone.adapter("policy"):  # a role within a role, and back again
        with backbone.adapter(None):
            assert torch.equal(backbone.hidden_states(batch), plain)
        inside = backbone.hidden_states(batch, "policy")
    assert torch.equal(inside, backbone.hidden_states(batch, "policy"))


def test_switching_roles_loses_no_gradient_of_a_graph_built_before(build_tiny):
    backbone, batch = build_tiny(), small_batch()
    backbone.add_adapter("policy")
    backbone.add_adapter("reward")
    randomise(backbone.adapter_parameters("policy"))
    hidden = backbone.hidden_states(batch, "policy")
    backbone.hidden_states(batch, "reward")
    hidden.square().mean().backward()
    assert all(p.grad is not None for p in backbone.adapter_parameters("policy"))
    assert all(p.grad is None for p in backbone.adapter_parameters("reward"))


def test_dropout_stays_off_also_in_training_mode(build_tiny):
    backbone, batch = build_tiny("gpt2"), small_batch()  # GPT-2's configuration has dropout 0.1
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    assert torch.equal(backbone.hidden_states(batch), backbone.hidden_states(batch))


def test_the_seed_of_an_adapter_decides_its_weights_and_disturbs_no_other_randomness(build_tiny):
    first, second, third = build_tiny(), build_tiny(), build_tiny()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first.add_adapter("policy", seed=5)
    assert torch.rand(1) == expected
    second.add_adapter("policy", seed=5)
    third.add_adapter("policy", seed=6)
    a, b, c = (torch.cat([p.flatten() for p in x.adapter_parameters("policy")]) for x in (first, second, third))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("architecture", "dtype", "close"),
    [
        ("llama", "float64", {"atol": 1e-12, "rtol": 1e-10}),
        ("gemma2", "float32", {"atol": 1e-5, "rtol": 1e-3}),  # its logits are capped in slices, too
    ],
)
def test_logprobs_in_slices_equal_those_of_the_whole_with_their_gradients(
    build_tiny, monkeypatch, architecture, dtype, close
):
    backbone, batch = build_tiny(architecture, dtype=dtype), small_batch()
    backbone.add_adapter("policy")
    randomise(backbone.adapter_parameters("policy"))
    results = []
    for limit in (2**26, 3 * VOCAB_SIZE, 1):  # one slice, slices of three tokens, one token each
        monkeypatch.setattr(backbone_module, "MAX_LOGITS", limit)
        hidden = backbone.hidden_states(batch, "policy")[:, batch.prompt_width - 1 : -1]
        hidden.retain_grad()
        logprobs, entropy = backbone.token_logprobs(hidden, batch.responses, batch.mask, 0.7, entropy_grad=True)
        (logprobs.sum() + 0.1 * entropy.square().sum()).backward()
        grads = [p.grad.clone() for p in backbone.adapter_parameters("policy")]
        results.append([logprobs.detach(), entropy.detach(), hidden.grad, *grads])
        for parameter in backbone.adapter_parameters("policy"):
            parameter.grad = None
    whole = torch.log_softmax(backbone.logits(backbone.hidden_states(batch, "policy")) / 0.7, dim=-1)
    whole = whole[:, batch.prompt_width - 1 : -1].detach()
    by_hand = whole.gather(-1, batch.responses.unsqueeze(-1)).squeeze(-1) * batch.mask
    torch.testing.assert_close(results[0][0], by_hand, **close)
    torch.testing.assert_close(
        results[0][1], torch.distributions.Categorical(logits=whole).entropy() * batch.mask, **close
    )
    for sliced in results[1:]:
        for a, b in zip(results[0], sliced, strict=True):
            torch.testing.assert_close(a, b, **close)


def test_hidden_states_of_padding_reach_no_logprob_and_no_gradient(build_tiny):
    backbone, batch = build_tiny(), small_batch()
    hidden = backbone.hidden_states(batch)[:, batch.prompt_width - 1 : -1]
    results = []
    for filling in (0.0, float("nan"), float("inf")):
        leaf = hidden.masked_fill(batch.mask.unsqueeze(-1) == 0, filling).requires_grad_()
        logprobs, entropy = backbone.token_logprobs(leaf, batch.responses, batch.mask, entropy_grad=True)
        (logprobs.sum() + entropy.sum()).backward()
        results.append((logprobs.detach(), entropy.detach(), leaf.grad))
    for dirty in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], dirty, strict=True))
    assert (results[0][0][batch.mask == 0] == 0).all()


def test_the_entropy_carries_a_gradient_only_when_asked(build_tiny):
    backbone, batch = build_tiny(), small_batch()
    hidden = backbone.hidden_states(batch)[:, batch.prompt_width - 1 : -1].requires_grad_()
    assert not backbone.token_logprobs(hidden, batch.responses, batch.mask)[1].requires_grad
    assert backbone.token_logprobs(hidden, batch.responses, batch.mask, entropy_grad=True)[1].requires_grad


@pytest.mark.parametrize(("dtype", "adapter"), [("bfloat16", "bfloat16"), ("float16", "float32")])
def test_half_precision_weights_keep_logprobs_in_float32(build_tiny, dtype, adapter):
    backbone, batch = build_tiny(dtype=dtype), small_batch()
    backbone.add_adapter("policy")
    assert {p.dtype for p in backbone.adapter_parameters("policy")} == {getattr(torch, adapter)}
    randomise(backbone.adapter_parameters("policy"))
    hidden = backbone.hidden_states(batch, "policy")[:, batch.prompt_width - 1 : -1]
    assert hidden.dtype == getattr(torch, dtype)
    logprobs, _ = backbone.token_logprobs(hidden, batch.responses, batch.mask)
    assert logprobs.dtype == torch.float32
    logprobs.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in backbone.adapter_parameters("policy"))


# ---------------------------------------------------------------------------------------------------- what others load


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_adapter_loads_in_plain_peft_and_the_merged_model_in_plain_transformers(
    build_tiny, tiny_folder, tmp_path, architecture
):
    backbone, batch = build_tiny(architecture), small_batch()
    backbone.add_adapter("policy", rank=4, alpha=6)
    randomise(backbone.adapter_parameters("policy"), scale=0.1)
    backbone.save_adapter("policy", tmp_path / "adapter")
    backbone.merged("policy").save_pretrained(tmp_path / "merged")
    ids = batch.sequences[:1, :4]  # the first row's prompt, which has no padding
    with torch.no_grad():
        ours = backbone.logits(backbone.hidden_states(batch, "policy"))[:1, :4]
        base = AutoModelForCausalLM.from_pretrained(tiny_folder(architecture))
        plain = base(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(ids).logits
        peft = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(ids).logits
    assert not torch.allclose(ours, plain, atol=1e-2)
    torch.testing.assert_close(peft, ours, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(merged, ours, atol=1e-4, rtol=1e-4)  # the sum is taken before instead of after


@pytest.mark.slow
def test_the_same_adapter_gives_the_same_files_in_every_process(tiny_folder, tmp_path):
    """PEFT keeps names of layers in a set, whose order depends on the process's hash seed."""
    program = (
        "import sys; from ppo_lib.models.backbone import Backbone; backbone = Backbone.from_pretrained(sys.argv[1]); "
        "backbone.add_adapter('policy'); backbone.save_adapter('policy', sys.argv[2])"
    )
    model, written = tiny_folder(), []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", program, str(model), str(folder)], check=True, env=environment)
        written.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert written[0] == written[1]


def test_an_adapter_comes_back_as_it_was_saved(build_tiny, tmp_path):
    backbone = build_tiny()
    backbone.add_adapter("policy", rank=4, alpha=6)
    randomise(backbone.adapter_parameters("policy"))
    backbone.save_adapter("policy", tmp_path)
    other = build_tiny()
    other.load_adapter("reward", tmp_path)  # under another name, too
    assert torch.equal(other.hidden_states(small_batch(), "reward"), backbone.hidden_states(small_batch(), "policy"))


def test_adapters_that_do_not_fit_are_refused_and_leave_nothing_behind(build_tiny, tmp_path):
    other = build_tiny("qwen3")
    other.add_adapter("policy")
    other.save_adapter("policy", tmp_path)
    backbone = build_tiny("gpt2")
    with pytest.raises(ValueError, match="made for another model"):
        backbone.load_adapter("policy", tmp_path)
    backbone.add_adapter("policy")
    with pytest.raises(ValueError, match="'policy' of rank 8 is already there"):
        backbone.add_adapter("policy")
    with pytest.raises(ValueError, match="no adapter 'reward'"):
        backbone.hidden_states(small_batch(), "reward")
    with pytest.raises(ValueError, match="lora_rank is 0"):
        backbone.add_adapter("reward", rank=0)
    with pytest.raises(ValueError, match="not a PEFT adapter folder"):
        backbone.load_adapter("reward", tmp_path / "nothing")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True}))
    with pytest.raises(ValueError, match="only plain LoRA"):
        build_tiny("qwen3").load_adapter("policy", tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="cannot be read"):
        build_tiny("qwen3").load_adapter("policy", tmp_path)


# -------------------------------------------------------------------------------------------------- EOS, pad and limits


def test_pad_may_be_the_eos(build_tiny):
    backbone = build_tiny(pad_is_eos=True)
    assert backbone.pad_token_id == backbone.eos_token_ids[0] == EOS


def test_several_eos_ids_are_kept_the_tokenizers_own_first(build_tiny):
    assert build_tiny(eos=[7, EOS, 9]).eos_token_ids == [EOS, 7, 9]


def test_the_context_length_is_the_models(build_tiny):
    assert {architecture: build_tiny(architecture).context_length for architecture in ARCHITECTURES} == dict.fromkeys(
        ARCHITECTURES, 96
    )


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def edit(path: Path, **changes: object) -> None:
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "absent"}))


def test_a_model_without_eos_is_refused(tiny_folder, tmp_path):
    folder = copy_of(tiny_folder(), tmp_path / "model")
    edit(folder / "config.json", eos_token_id=None)
    edit(folder / "generation_config.json", eos_token_id=None)
    edit(folder / "tokenizer_config.json", eos_token="absent")
    with pytest.raises(ValueError, match="no EOS token"):
        Backbone.from_pretrained(folder)


def test_what_cannot_be_loaded_is_refused_with_its_name(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (tmp_path / "missing", "pocket:nothing"):
        with pytest.raises(ValueError, match=str(name)):
            Backbone.from_pretrained(name)
    with pytest.raises(ValueError, match="dtype is 'int8', but must be one of float32"):
        Backbone.from_pretrained(tiny_folder(), dtype="int8")


COMMIT = "0123456789abcdef" * 2 + "01234567"


def test_a_model_of_the_hub_without_a_network_is_refused_naming_what_works_offline():
    # The tests run with HF_HUB_OFFLINE=1: this is the hub client's own refusal, passed on by transformers.
    with pytest.raises(ValueError, match=r"owner/model@\w+' cannot be loaded: the hub cannot be reached") as error:
        Backbone.from_pretrained(f"owner/model@{COMMIT}")
    assert "--recipe pocket" in str(error.value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (errors.RevisionNotFoundError, "that commit is not there"),
        (errors.RepositoryNotFoundError, "no such repository"),
    ],
)
def test_a_commit_or_repository_that_is_gone_is_refused(monkeypatch, kind, words):
    # The hub's client has changed its HTTP library before: of a response it reads no more than this.
    answer = SimpleNamespace(
        status_code=404, headers={}, request=SimpleNamespace(url="https://hub.invalid", method="GET")
    )

    def fetch(where, revision, **options):
        assert (where, revision) == ("owner/model", COMMIT)
        try:
            raise kind("404", response=answer)
        except kind as error:
            raise OSError("owner/model is not a valid model identifier") from error  # as transformers tells it

    monkeypatch.setattr(loading.AutoConfig, "from_pretrained", fetch)
    with pytest.raises(ValueError, match=words):
        Backbone.from_pretrained(f"owner/model@{COMMIT}")


@pytest.mark.parametrize("name", ["owner/model", "owner/model@main", f"owner/model@{COMMIT[:12]}"])
def test_a_model_that_is_neither_here_nor_pinned_is_refused_with_what_to_write(name):
    with pytest.raises(ValueError, match="no such folder") as error:
        Backbone.from_pretrained(name)
    assert "python -m ppo_lib pin owner/model" in str(error.value)


def test_an_adapter_of_a_pinned_model_finds_its_base_again_in_peft_and_here(build_tiny, tmp_path):
    backbone = build_tiny()
    backbone.name = f"owner/model@{COMMIT}"
    backbone.add_adapter("policy")
    backbone.save_adapter("policy", tmp_path)
    config = PeftConfig.from_pretrained(tmp_path)
    assert (config.base_model_name_or_path, config.revision) == ("owner/model", COMMIT)
    assert loading.base_name(tmp_path) == backbone.name


# ------------------------------------------------------------------------------------------------------- chat template

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<reply>{% endif %}"
)


@pytest.fixture
def chat_folder(tiny_folder, tmp_path):
    """A tiny chat model: a tokenizer with a template, and three ids that end a turn."""
    folder = copy_of(tiny_folder(eos=[7, EOS, 9]), tmp_path / "chat")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def test_prompts_are_put_into_the_chat_template_and_answers_are_not(chat_folder):
    plain = Backbone.from_pretrained(chat_folder)
    chat = Backbone.from_pretrained(chat_folder, chat_template=True)
    assert chat.encode_prompts(["hi"]) == plain.encode_prompts(["<user>hi<reply>"])
    prompts, responses = chat.pair_ids(["hi"], ["yes"])
    assert prompts == chat.encode_prompts(["hi"])
    assert responses == [[*chat.tokenizer("yes")["input_ids"], EOS]]
    batch = chat.encode_pairs(["hi", "hello"], ["yes", "no"])
    assert batch.prompt_lengths.tolist() == [len(ids) for ids in chat.encode_prompts(["hi", "hello"])]
    assert chat.eos_token_ids == [EOS, 7, 9]


def test_every_stage_reads_prompts_in_the_chat_form(chat_folder):
    """What is trained, scored and sampled begins with the same tokens; plain prompts would be another world."""
    backbone, for_reward, for_ppo = (Backbone.from_pretrained(chat_folder, chat_template=True) for _ in range(3))
    wanted = backbone.encode_prompts(["hi"])[0]
    seen = []
    body = type(backbone).hidden_states

    def look(self, batch, adapter=None):
        seen.append(batch.sequences[0, : batch.prompt_width].tolist())
        return body(self, batch, adapter)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(backbone), "hidden_states", look)
        SFTTrainer(SFTConfig(lora_rank=2), backbone, [("hi", "yes")]).loss(["hi"], ["yes"])
        model = RewardModel(for_reward)
        RewardTrainer(RewardConfig(), model, [("hi", "yes", "no")]).evaluate([("hi", "yes", "no")])
        model.scores(["hi"], ["yes"])
        config = PPOConfig(rollout_batch=1, minibatch=1, microbatch=1, epochs=1, max_new_tokens=2)
        PPOTrainer(config, ActorCritic(for_ppo), ["hi"], lambda prompts, responses: [float(prompts == ["hi"])]).step()
    assert len(seen) >= 5
    assert all(ids == wanted for ids in seen)


def test_a_chat_template_that_is_missing_is_refused_with_the_remedy(tiny_folder):
    with pytest.raises(ValueError, match="no chat template") as error:
        Backbone.from_pretrained(tiny_folder(), chat_template=True)
    assert "chat_template: false" in str(error.value)


def test_a_folder_with_pickled_weights_only_is_refused(tiny_folder, tmp_path):
    folder = copy_of(tiny_folder(), tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="safetensors"):
        Backbone.from_pretrained(folder)


def test_a_folder_whose_weights_are_damaged_or_lack_a_part_is_refused(tiny_folder, tmp_path):
    folder = copy_of(tiny_folder(), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    lost = next(key for key in weights if "layers.1" in key)
    save_file({k: v for k, v in weights.items() if k != lost}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="its weights lack") as error:
        Backbone.from_pretrained(folder)
    assert lost in str(error.value)
    (folder / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="cannot be loaded"):
        Backbone.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["t5", "bert", "no tokenizer"])
def test_other_kinds_of_models_are_refused(tiny_folder, tmp_path, kind):
    sizes = {"num_heads": 2, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "vocab_size": 300}
    if kind == "t5":
        T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(tmp_path)
    elif kind == "bert":
        BertModel(
            BertConfig(vocab_size=300, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
        ).save_pretrained(tmp_path)
    else:
        copy_of(tiny_folder(), tmp_path / "model")
        for file in (tmp_path / "model").glob("tokenizer*"):
            file.unlink()
    with pytest.raises(ValueError, match="cannot be loaded"):
        Backbone.from_pretrained(tmp_path / "model" if kind == "no tokenizer" else tmp_path)


def test_a_model_that_changes_its_logits_after_the_head_is_refused(tmp_path):
    folder = save_tiny(tmp_path / "llama")
    config = CohereConfig(  # scales its logits by 1/16
        **ARCHITECTURES["llama"][1], vocab_size=VOCAB_SIZE, eos_token_id=EOS, bos_token_id=None, pad_token_id=PAD
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    with pytest.raises(ValueError, match="changes its logits"):
        Backbone.from_pretrained(folder)


def test_a_model_that_cannot_do_with_left_padding_is_refused(tiny_folder):
    causal_lm = AutoModelForCausalLM.from_pretrained(tiny_folder("gpt2"))
    forward = causal_lm.base_model.forward
    causal_lm.base_model.forward = lambda *ids, position_ids=None, **inputs: forward(
        *ids, **inputs
    )  # deaf to positions
    with pytest.raises(ValueError, match="padded on the left"):
        Backbone(causal_lm, byte_tokenizer(), "deaf")


# ------------------------------------------------------------------------------------------ tokens outside the model


def changed(tiny_folder, tmp_path, change_tokenizer=None, **config):
    """A copy of a tiny model with another tokenizer or configuration."""
    folder = copy_of(tiny_folder(), tmp_path / "changed")
    if change_tokenizer:
        tokenizer = byte_tokenizer()
        change_tokenizer(tokenizer)
        tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def test_float64_with_a_softmax_in_float32_is_refused_with_the_reason(tiny_folder):
    own = AutoModelForCausalLM.from_pretrained(tiny_folder(), dtype=torch.float64, attn_implementation="eager")
    with pytest.raises(
        BadInput, match="gives NaN where a prompt is padded: its attention \\(eager\\) takes the softmax"
    ):
        Backbone(own, byte_tokenizer(), "tiny")
    Backbone.from_pretrained(tiny_folder(), dtype="float64")


def test_a_pad_token_that_the_model_does_not_know_pads_nothing(tiny_folder, tmp_path):
    folder = changed(tiny_folder, tmp_path, lambda t: t.add_special_tokens({"pad_token": "[PAD]"}))
    backbone = Backbone.from_pretrained(folder)
    assert backbone.tokenizer.pad_token_id == backbone.vocab_size == 258
    assert backbone.pad_token_id == EOS
    batch = backbone.encode_pairs(["Hi", "What is it?"], ["yes", "n"])
    alone = backbone.encode_pairs(["Hi"], ["yes"])
    hidden = [backbone.hidden_states(x)[0, -3:] for x in (batch, alone)]
    torch.testing.assert_close(*hidden, atol=1e-5, rtol=1e-4)


def test_a_token_that_the_model_does_not_know_is_refused_with_its_text(tiny_folder, tmp_path):
    folder = changed(tiny_folder, tmp_path, lambda t: t.add_tokens(["<|user|>"]))
    backbone = Backbone.from_pretrained(folder)
    for read in (
        lambda: backbone.encode_prompts(["a", "<|user|>b"]),
        lambda: backbone.encode_pairs(["a"], ["<|user|>"]),
    ):
        with pytest.raises(BadInput, match=r"has the token 258 \('<\|user\|>'\), but model .* knows 258 tokens"):
            read()


def test_an_eos_beyond_the_vocabulary_is_left_out_or_refused(tiny_folder, tmp_path):
    folder = changed(tiny_folder, tmp_path)
    generation = folder / "generation_config.json"
    generation.write_text(json.dumps({"eos_token_id": [7, 300]}))
    assert Backbone.from_pretrained(folder).eos_token_ids == [EOS, 7]  # the tokenizer's own is one, listed or not
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    tokenizer.save_pretrained(folder)
    generation.write_text(json.dumps({"eos_token_id": 300}))
    with pytest.raises(BadInput, match=r"EOS tokens \[258, 300\] are outside of the model's vocabulary of 258"):
        Backbone.from_pretrained(folder)


def test_weights_that_are_nan_are_named(tiny_folder, tmp_path):
    folder = changed(tiny_folder, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = math.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"the weights model.norm.weight hold NaN or infinity"):
        Backbone.from_pretrained(folder)


def test_rotary_positions_that_turn_with_the_longest_row_limit_the_context(tiny_folder, tmp_path):
    rotary = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
    assert Backbone.from_pretrained(changed(tiny_folder, tmp_path, rope_parameters=rotary)).context_length == 64


def test_an_adapter_counts_twice_and_begins_by_its_seed(build_tiny):
    backbone = build_tiny()
    for name, seed in (("a", 0), ("b", 1)):
        backbone.add_adapter(name, rank=4, seed=seed)
    layer = backbone.causal_lm.model.layers[0].self_attn.q_proj
    assert layer.scaling == {"a": 2.0, "b": 2.0}
    assert not torch.equal(layer.lora_A["a"].weight, layer.lora_A["b"].weight)
    first, again, other = (
        RewardModel(build_tiny(), 4, seed=seed).backbone.adapter_parameters("reward")[0] for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_merged_model_generates_as_its_base_does(build_tiny):
    backbone = build_tiny()
    backbone.causal_lm.generation_config.eos_token_id = [0, 7]
    assert backbone.merged(None).generation_config.eos_token_id == [0, 7]
