"""The path that users take, on a model that nobody in this project made: TinyStories' smallest Llama.

Its traps: pad is the EOS (id 2), and two ids end a text (``eos_token_id: [1, 2]``).
"""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.models.tokens import TokenBatch, encode_prompts
from ppo_lib.sampling.rollout import generate_text, sample
from ppo_lib.trainers.configuration import PPOConfig, RewardConfig, SFTConfig
from ppo_lib.trainers.ppo import PPOTrainer
from ppo_lib.trainers.reward import RewardTrainer
from ppo_lib.trainers.sft import SFTTrainer

STORIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "stories260K"
PROMPTS = ["Once upon a time", "Lily had a red ball. She", "The dog", "One day, a big bear"]

pytestmark = pytest.mark.skipif(not STORIES.is_dir(), reason="needs ../shared/data/stories260K, which is not here")


@pytest.fixture
def backbone() -> Backbone:
    return Backbone.from_pretrained(STORIES)


def test_pad_is_eos_and_two_ids_end_a_text(backbone):
    assert backbone.pad_token_id == 2
    assert backbone.eos_token_ids == [2, 1]
    assert backbone.context_length == 512


def test_it_tells_a_story_as_plain_transformers_does(backbone):
    model = AutoModelForCausalLM.from_pretrained(STORIES)
    together = generate_text(backbone, PROMPTS, 24)
    for prompt, ours in zip(PROMPTS, together, strict=True):
        ids = backbone.tokenizer(prompt, return_tensors="pt").input_ids
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        assert ours == backbone.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_padding_and_company_change_nothing(backbone):
    torch.manual_seed(0)
    policy, reward_model = ActorCritic(backbone), RewardModel(backbone)
    torch.nn.init.normal_(policy.value_head.weight)
    torch.nn.init.normal_(reward_model.head.weight)
    ids = encode_prompts(backbone.tokenizer, PROMPTS)
    batch = sample(backbone, ids, 20, 1.0, "policy", torch.Generator().manual_seed(0)).batch
    wide = TokenBatch(
        torch.cat([torch.full((4, 9), 2), batch.sequences, torch.full((4, 3), 1)], dim=1),
        batch.prompt_lengths,
        batch.response_lengths,
        batch.prompt_width + 9,
    )
    close = {"atol": 1e-4, "rtol": 1e-5}  # one library's products or another's, by the size of the batch
    with torch.no_grad():
        for name in ("logprobs", "values"):
            before, after = (getattr(policy.evaluate(x), name) for x in (batch, wide))
            torch.testing.assert_close(after[:, : before.shape[1]], before, **close)
            for row in range(4):
                alone = getattr(policy.evaluate(batch.select(torch.tensor([row]))), name)[0]
                torch.testing.assert_close(alone, before[row, : len(alone)], **close)
        torch.testing.assert_close(reward_model(wide), reward_model(batch), **close)


def test_the_three_stages_run_through_folders_and_leave_the_base_as_it_was(tmp_path):
    tale = [(prompt, " was happy. They played all day.") for prompt in PROMPTS]
    sft = SFTTrainer(SFTConfig(batch=4, microbatch=2, epochs=4), Backbone.from_pretrained(STORIES), tale)
    first, *_, last = [sft.step()["loss"] for _ in range(4)]
    assert last < first
    sft.save(tmp_path / "sft")

    pairs = [(prompt, " was happy.", " was sad and cried.") for prompt in PROMPTS]
    backbone = Backbone.from_pretrained(tmp_path / "sft")
    comparisons = RewardTrainer(RewardConfig(batch=4, microbatch=4, epochs=6), RewardModel(backbone), pairs)
    for _ in range(6):
        comparisons.step()
    assert comparisons.evaluate(pairs)["accuracy"] == 1
    comparisons.save(tmp_path / "reward")

    backbone = Backbone.from_pretrained(tmp_path / "sft")
    frozen = {key: value.clone() for key, value in backbone.causal_lm.state_dict().items()}
    config = PPOConfig(rollout_batch=8, minibatch=4, microbatch=2, epochs=2, max_new_tokens=12, missing_eos_penalty=1.0)
    reward = RewardModel.from_pretrained(tmp_path / "reward", backbone)
    trainer = PPOTrainer(config, ActorCritic(backbone), PROMPTS, reward)
    metrics = [trainer.step() for _ in range(2)]
    assert metrics[0]["ratio_first_error"] <= 1e-6
    assert metrics[0]["kl_k1"] == 0
    assert metrics[1]["kl_k1"] != 0
    after = {key.replace(".base_layer.", "."): value for key, value in backbone.causal_lm.state_dict().items()}
    assert all(torch.equal(after[key], value) for key, value in frozen.items())
    trainer.save(tmp_path / "policy")
    loaded = ActorCritic.from_pretrained(tmp_path / "policy")  # finds its base by the name that was saved with it
    texts = (generate_text(x.backbone, PROMPTS, 12, adapter="policy") for x in (trainer.policy, loaded))
    assert next(texts) == next(texts)
