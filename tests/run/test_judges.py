"""Judges by their name: which there are, and that a published reward model is read as its authors meant it."""

import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import byte_tokenizer, randomise, save_classifier
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.world import World
from ppo_lib.run.judge_names import ExactAnswer, PublishedRewardModel, check_judge, form_of, load_judge, own_folder
from ppo_lib.run.stages import ppo_trainer
from ppo_lib.trainers.configuration import PPOConfig
from ppo_lib.trainers.judging import judge as judged

CPU = torch.device("cpu")


@pytest.fixture
def published(tmp_path):
    """A tiny random reward model in the form in which people publish them."""
    return save_classifier(tmp_path / "judge", labels=1)


def test_a_published_reward_model_scores_the_conversation_whatever_else_is_in_the_batch(published):
    judge = PublishedRewardModel(str(published), CPU, microbatch=2)
    prompts, responses = ["hi", "how are you?", "hi"], ["yes", "fine, thank you very much", "no"]
    together = judge(prompts, responses)
    model = AutoModelForSequenceClassification.from_pretrained(published).eval()
    for prompt, response, score in zip(prompts, responses, together, strict=True):
        ids = byte_tokenizer()(f"<user>{prompt}<assistant>{response}", return_tensors="pt").input_ids
        with torch.no_grad():
            assert score == pytest.approx(float(model(ids).logits[0, 0]), abs=1e-5)
    assert len(set(together)) == 3


def test_it_serves_as_reward_and_as_heldout_judge(published, build_tiny):
    judge = load_judge(str(published), PPOConfig(), build_tiny())
    assert isinstance(judge, PublishedRewardModel)


@pytest.mark.parametrize(
    ("labels", "template", "words"), [(3, "{{ messages }}", "one output"), (1, None, "no chat template")]
)
def test_what_is_no_reward_model_is_refused(tmp_path, labels, template, words):
    folder = save_classifier(tmp_path / "judge", labels, template)
    with pytest.raises(ValueError, match=words):
        PublishedRewardModel(str(folder), CPU)


def test_a_language_model_is_no_reward_model(tiny_folder):
    with pytest.raises(ValueError, match="is no reward model"):  # its head would be random numbers
        PublishedRewardModel(str(tiny_folder()), CPU)


def test_a_judge_is_checked_without_its_weights(published, tmp_path):
    (published / "model.safetensors").unlink()
    check_judge(str(published), PPOConfig(), "heldout_judge")
    check_judge("pocket", PPOConfig(), "heldout_judge")
    check_judge("os.path:join", PPOConfig(), "heldout_judge")
    bad = {
        str(save_classifier(tmp_path / "three", labels=3)): "one output",
        str(save_classifier(tmp_path / "mute", labels=1, template=None)): "no chat template",
        "owner/model@" + "0" * 40: "cannot be loaded: the hub cannot be reached",
        "nobody": "heldout_judge is 'nobody', but must be",
        "os.path:nothing": "cannot be imported",
        "last_number": "'pocket' has no exact answers",
    }
    for name, words in bad.items():
        with pytest.raises(ValueError, match=words):
            check_judge(name, PPOConfig(), "heldout_judge")


def test_a_reward_model_without_its_head_is_refused(published):
    weights = load_file(published / "model.safetensors")
    del weights["score.weight"]  # transformers would go on with random numbers in its place
    save_file(weights, published / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="is no reward model"):
        PublishedRewardModel(str(published), CPU)


def test_a_damaged_one_is_refused(published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "copy")
    (folder / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"judge .* cannot be loaded"):
        PublishedRewardModel(str(folder), CPU)


def test_the_verifiable_rewards_read_the_answers_beside_the_prompts(tmp_path, build_tiny):
    file = tmp_path / "problems.jsonl"
    file.write_text('{"question": "2 + 2?", "answer": "#### 4"}\n')
    config = PPOConfig(prompts=str(file), prompt_suffix=" Think.")
    strict, lenient = (load_judge(name, config, build_tiny()) for name in ("exact_answer", "last_number"))
    assert isinstance(strict, ExactAnswer)
    asked = ["2 + 2? Think."] * 2
    assert strict(asked, ["#### 4", "4"]) == [1, 0]
    assert lenient(asked, ["#### 4", "4"]) == [1, 1]


def test_an_unknown_name_is_refused_naming_the_key_and_what_it_may_be(build_tiny):
    with pytest.raises(ValueError, match="heldout_judge is 'nobody', but must be 'pocket', a folder") as error:
        load_judge("nobody", PPOConfig(), build_tiny(), key="heldout_judge")
    assert "OWNER/NAME@COMMIT" in str(error.value)


# ------------------------------------------------------------------------------------- padding, forms, limits of judges

ENDS_IN_EOS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
GPT = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 96}
LONG, SHORT = ["Hi", "What is it that you want?"], ["a longer answer than that", "no"]


def classifier(folder, pad, template, kind="LlamaConfig", side="right", **sizes):
    """A random reward model whose tokenizer has the pad token that is named, or none."""
    names = ["<pad>", "<eos>"] if pad == "<pad>" else ["<eos>", "<x>"]
    tokenizer = Tokenizer(BPE({t: i for i, t in enumerate([*names, *sorted(ByteLevel.alphabet())])}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token=pad, padding_side=side)
    fast.chat_template = template
    config = getattr(transformers, kind)(
        **{"vocab_size": 258, "num_labels": 1, "bos_token_id": None, **(sizes or SIZES)},
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def alone(folder, prompts, responses):
    """What plain transformers says to each conversation by itself."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    scores = []
    for prompt, response in zip(prompts, responses, strict=True):
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        text = tokenizer.apply_chat_template(chat, tokenize=False)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            scores.append(float(model.eval()(ids, attention_mask=torch.ones_like(ids)).logits[0, 0]))
    return scores


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["LlamaConfig", "GPT2Config"])
@pytest.mark.parametrize("pad", ["<pad>", "<eos>", None], ids=["pad is token 0", "pad is the EOS", "no pad"])
def test_a_published_judge_says_what_it_says_to_that_conversation_alone(tmp_path, pad, kind, side):
    folder = classifier(tmp_path, pad, ENDS_IN_EOS, kind, side, **(GPT if kind == "GPT2Config" else {}))
    judge = PublishedRewardModel(str(folder), CPU)
    assert judge(LONG, SHORT) == pytest.approx(alone(folder, LONG, SHORT), abs=1e-4)
    assert judge(LONG[::-1], SHORT[::-1]) == pytest.approx(alone(folder, LONG, SHORT)[::-1], abs=1e-4)


def test_a_text_beyond_a_published_judges_context_loses_its_beginning(tmp_path):
    folder = classifier(tmp_path, "<pad>", ENDS_IN_EOS, "GPT2Config", **{**GPT, "n_positions": 32})
    judge = PublishedRewardModel(str(folder), CPU)
    assert judge.context_length == 32
    same_end = judge(["a" * 50, "b" * 60], ["x" * 40] * 2)
    assert same_end[0] == pytest.approx(same_end[1], abs=1e-6)
    assert judge(["a"], ["y" * 40]) != pytest.approx(same_end[:1], abs=1e-6)


TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
TEMPLATE = TURNS + "{% if add_generation_prompt %}[answer]{% endif %}"


def chat_folder(tiny_folder, folder):
    shutil.copytree(tiny_folder(), folder)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("own", [True, False], ids=["on the policy's model", "on a model of its own"])
@pytest.mark.parametrize("chat", [True, False], ids=["judge in chat form", "judge without"])
def test_a_judge_of_our_own_reads_in_the_form_in_which_it_was_trained(tiny_folder, tmp_path, monkeypatch, chat, own):
    base = chat_folder(tiny_folder, tmp_path / "chat")
    model = RewardModel(Backbone.from_pretrained(base, chat_template=chat), 2)
    randomise(model.parameters_to_train())
    model.save_pretrained(tmp_path / "judge")
    wanted = model.scores(["Hi"], ["yes"])
    policy = Backbone.from_pretrained(base if own else tiny_folder("qwen2"), chat_template=own and not chat)
    judge = load_judge(str(tmp_path / "judge"), PPOConfig(), policy)
    assert (judge.backbone is policy) == own
    assert judge.chat_template == chat
    batch = policy.encode_pairs(["Hi"], ["yes"])
    scores = judged(judge, policy, ["Hi"], ["yes"], batch, finished=torch.tensor([True]))
    assert scores.tolist() == pytest.approx(wanted, abs=1e-6)


def test_an_old_judge_that_does_not_say_its_form_has_that_of_its_run(tiny_folder, tmp_path):
    base = chat_folder(tiny_folder, tmp_path / "chat")
    RewardModel(Backbone.from_pretrained(base), 2).save_pretrained(tmp_path / "run" / "model")
    head = tmp_path / "run" / "model" / "reward_head.safetensors"
    save_file(load_file(head), head)  # without a note
    assert form_of(head.parent) is None
    (tmp_path / "run" / "config.yaml").write_text("chat_template: true\n")
    assert form_of(head.parent) is True
    assert own_folder(str(tmp_path / "run")) == head.parent  # a run's folder is its model's


def test_whichever_token_ended_an_answer_the_judge_reads_the_one_that_it_was_taught(tiny_folder, tmp_path):
    tilde = byte_tokenizer().convert_tokens_to_ids("~")
    backbone = Backbone.from_pretrained(tiny_folder(eos=[0, tilde]))
    model = RewardModel(backbone, 2)
    randomise(model.parameters_to_train())
    batch = backbone.encode_pairs(LONG, SHORT)
    scores = model.score_batch(batch)
    for i, n in enumerate(batch.response_lengths.tolist()):
        batch.sequences[i, batch.prompt_width + n - 1] = tilde
    assert backbone.response_texts(batch) == SHORT
    assert torch.equal(model.score_batch(batch), scores)


def test_a_policy_is_no_judge(build_tiny, tmp_path):
    ActorCritic(build_tiny(), 2).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a policy, which writes texts and scores none; give a reward model"):
        load_judge(str(tmp_path), PPOConfig(), build_tiny())


def test_a_judge_of_a_short_context_is_announced_and_stops_no_run(tiny_folder, tmp_path):
    short = tiny_folder("gpt2", n_positions=24)
    model = RewardModel(Backbone.from_pretrained(short), 2)
    randomise(model.parameters_to_train())
    model.save_pretrained(tmp_path / "judge")
    config = PPOConfig(
        reward_model=str(tmp_path / "judge"), rollout_batch=2, minibatch=2, microbatch=2, max_new_tokens=40, epochs=1,
        prompts=str(tmp_path / "none"),
    )  # fmt: skip
    told = []
    world = World()
    world.say = told.append
    trainer = ppo_trainer(config, Backbone.from_pretrained(tiny_folder()), ["Hi", "What?"], world=world)
    assert any("judge reads 24 tokens, but a prompt and its answer may have 45" in text for text in told)
    assert trainer.step()["iteration"] == 1
    with pytest.raises(ValueError, match="context of the reward model's backbone"):  # whoever asks by hand is told
        model.scores(["a"], ["x" * 40])
