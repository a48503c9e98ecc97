"""Before and after: win rates, greedy shares, held-out pairs; on tiny models whose answers can be counted."""

import json
from dataclasses import replace

import pytest

from ppo_lib.book.intervals import share, wins
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.run.cli import main
from ppo_lib.run.evaluation import EvaluationConfig, before_and_after, format_table, reward_accuracy
from ppo_lib.trainers.configuration import PPOConfig, RewardConfig


def longest(prompts, responses):
    """A judge that likes long answers."""
    return [float(len(response)) for response in responses]


@pytest.fixture
def run(tiny_folder, tmp_path, monkeypatch):
    """A configuration, and a saved policy that differs from its model: its end of text is likelier."""
    (tmp_path / "judge_of_length.py").write_text("from run.test_evaluation import longest as score\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [{"prompt": text, "answer": "#### 4"} for text in ("a", "bc", "d e", "fgh", "ij")]
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    config = PPOConfig(
        model=str(tiny_folder()), prompts=str(tmp_path / "prompts.jsonl"), reward_model="judge_of_length:score",
        rollout_batch=2, minibatch=2, microbatch=2, max_new_tokens=8, lora_rank=2, device="cpu",
    )  # fmt: skip
    policy = ActorCritic(Backbone.from_pretrained(config.model), 2)
    for name, parameter in policy.backbone.causal_lm.named_parameters():
        if "lora_B.policy" in name:
            parameter.data.fill_(0.05)
    policy.save_pretrained(tmp_path / "policy")
    return config, tmp_path / "policy"


def test_all_prompts_are_answered_once_and_the_means_are_those_of_the_answers(run):
    config, policy = run
    result = before_and_after(config, policy, how=EvaluationConfig(count=5))
    assert result["prompts"] == len(result["rows"]) == 5
    assert not result["heldout"]
    for when in ("before", "after"):
        scores = [row[f"score {when}"] for row in result["rows"]]
        assert scores == longest(None, [row[f"response {when}"] for row in result["rows"]])
        assert result[when]["score_mean"] == pytest.approx(sum(scores) / 5)
    assert result["before"]["kl_k1"] == 0
    assert result["after"]["kl_k1"] != 0
    pairs = zip(*([row[f"score {when}"] for row in result["rows"]] for when in ("before", "after")), strict=True)
    assert result["wins"]["score"] == wins(*zip(*pairs, strict=True))


def test_greedy_answers_are_the_same_for_every_seed_and_measure_no_kl(run):
    config, policy = run
    one, two = (before_and_after(config, policy, how=EvaluationConfig(temperature=0, seed=seed)) for seed in (1, 2))
    assert one["rows"] == two["rows"]
    assert one["greedy"]
    assert "kl_k1" not in one["before"]
    assert "greedy" in format_table(one)


def test_another_temperature_than_that_of_training_is_refused(run):
    config, policy = run
    with pytest.raises(ValueError, match=r"evaluation\.temperature is 0\.5, but must be ppo\.temperature"):
        before_and_after(config, policy, how=EvaluationConfig(temperature=0.5))


def test_a_second_judge_is_measured_and_verifiable_shares_come_with_intervals(run):
    config, policy = run
    config = replace(config, reward_model="exact_answer", second_judge="judge_of_length:score")
    result = before_and_after(config, policy, how=EvaluationConfig(temperature=0, prompts=config.prompts))
    assert result["heldout"]
    assert set(result["wins"]) == {"score", "second"}
    assert result["correct"] == {"score": {"before": share(0, 5), "after": share(0, 5)}}  # nobody answers 4
    told = format_table(result)
    assert "second judge" in told
    assert "right by the proxy score: 0.0% (95 % interval 0.0% to 43.4%, n = 5) -> 0.0%" in told


def test_a_reward_model_is_measured_on_pairs_held_out(tiny_folder, tmp_path):
    sft = tiny_folder()
    model = RewardModel(Backbone.from_pretrained(sft), 2)
    model.head.weight.data.normal_(generator=None)
    model.save_pretrained(tmp_path / "reward")
    rows = [("a", "yes", "no"), ("b", "good", "bad"), ("c", "fine", "poor")]
    both = [*rows, *((prompt, worse, better) for prompt, better, worse in rows)]  # right in exactly one of two
    lines = [json.dumps(dict(zip(("prompt", "chosen", "rejected"), row, strict=True))) for row in both]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    config = RewardConfig(data=str(tmp_path / "pairs.jsonl"), lora_rank=2, device="cpu")
    assert reward_accuracy(config, tmp_path / "reward", sft) is None  # no pairs were held out
    how = EvaluationConfig(pairs=config.data)
    assert reward_accuracy(config, tmp_path / "reward", sft, how) == share(3, 6)

    too_long = {"prompt": "d", "chosen": "very " * 50, "rejected": "no"}
    (tmp_path / "pairs.jsonl").write_text("\n".join([*lines, json.dumps(too_long)]))
    with pytest.raises(ValueError, match="30"):
        reward_accuracy(replace(config, max_length=30), tmp_path / "reward", sft, how)
    config = replace(config, max_length=30, drop_longer=True)
    assert reward_accuracy(config, tmp_path / "reward", sft, how) == share(3, 6)


def test_a_recipe_of_ppo_alone_runs_through_align_and_reports_its_shares(run, tmp_path, capsys):
    config, _ = run
    recipe = f"""
ppo: {{model: {config.model}, prompts: {config.prompts}, reward_model: exact_answer, second_judge: last_number,
      prompt_suffix: " =", iterations: 2, rollout_batch: 4, minibatch: 2, microbatch: 2, epochs: 1, max_new_tokens: 4,
      lora_rank: 2, device: cpu}}
evaluation: {{prompts: {config.prompts}, temperature: 0, count: 3}}
"""
    (tmp_path / "recipe.yaml").write_text(recipe)
    out = tmp_path / "run"
    assert main(["align", "--config", str(tmp_path / "recipe.yaml"), "--out", str(out), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "On 3 held-out prompts, greedy" in said
    assert "right by the second judge" in said
    metrics = json.loads((out / "ppo" / "metrics.jsonl").read_text().splitlines()[0])
    assert {"score_mean", "second_mean"} <= set(metrics)
    sample = json.loads((out / "ppo" / "samples.jsonl").read_text().splitlines()[0])
    assert sample["prompt"].endswith(" =")
    assert (out / "report.html").exists()
    assert not (out / "sft").exists()
