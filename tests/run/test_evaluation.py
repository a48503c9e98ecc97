"""Before and after: win rates, greedy shares, held-out pairs; on tiny models whose answers can be counted."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import randomise

from ppo_lib.book.intervals import proportion, wilson_interval, wins
from ppo_lib.book.jsonl import read_jsonl
from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone
from ppo_lib.models.reward_model import RewardModel
from ppo_lib.run.cli import main
from ppo_lib.run.evaluation import (
    EvaluationConfig,
    before_and_after,
    format_table,
    load_evaluation,
    reward_accuracy,
    save_evaluation,
)
from ppo_lib.run.report import before_and_after_section
from ppo_lib.sampling.rollout import sample
from ppo_lib.trainers.configuration import PPOConfig, RewardConfig
from ppo_lib.trainers.reward import RewardTrainer, pairs_from_ranking


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


def test_a_heldout_judge_is_measured_and_verifiable_shares_come_with_intervals(run):
    config, policy = run
    config = replace(config, reward_model="exact_answer", heldout_judge="judge_of_length:score")
    result = before_and_after(config, policy, how=EvaluationConfig(temperature=0, prompts=config.prompts))
    assert result["heldout"]
    assert set(result["wins"]) == {"score", "heldout"}
    assert result["correct"] == {"score": {"before": proportion(0, 5), "after": proportion(0, 5)}}  # nobody answers 4
    told = format_table(result)
    assert "held-out judge" in told
    assert "right by the proxy score: 0.0% (95 % interval 0.0% to 43.4%, n = 5) -> 0.0%" in told


def test_prompts_on_which_a_watching_judge_failed_count_for_nobody(run, tmp_path):
    config, policy = run
    (tmp_path / "judge_that_fails.py").write_text(
        "def some(prompts, responses):\n"
        "    return [float('nan') if p == 'bc' else float(len(r)) for p, r in zip(prompts, responses)]\n\n\n"
        "def never(prompts, responses):\n    raise OSError('the judge is away')\n"
    )
    whole = before_and_after(replace(config, heldout_judge="judge_of_length:score"), policy)
    kept = [row for row in whole["rows"] if row["prompt"] != "bc"]
    with pytest.warns(UserWarning, match="'heldout', which only watches, failed"):
        some = before_and_after(replace(config, heldout_judge="judge_that_fails:some"), policy)
    assert some["wins"]["heldout"] == wins([r["heldout before"] for r in kept], [r["heldout after"] for r in kept])
    for when in ("before", "after"):
        mean = sum(row[f"heldout {when}"] for row in kept) / 4
        assert some[when]["heldout_mean"] == pytest.approx(mean)
    with pytest.warns(UserWarning, match="the judge is away"):
        never = before_and_after(replace(config, heldout_judge="judge_that_fails:never"), policy)
    assert set(never["wins"]) == {"score"}
    for result in (some, never):
        save_evaluation(tmp_path / "evaluation.json", result)
        again = load_evaluation(tmp_path / "evaluation.json")
        assert format_table(again) == format_table(result)
        assert "Verdict" in before_and_after_section(tmp_path)
    assert "held-out judge" not in format_table(never)


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
    assert reward_accuracy(config, tmp_path / "reward", sft, how) == proportion(3, 6) | {"groups": 6}

    too_long = {"prompt": "d", "chosen": "very " * 50, "rejected": "no"}
    (tmp_path / "pairs.jsonl").write_text("\n".join([*lines, json.dumps(too_long)]))
    with pytest.raises(ValueError, match="30"):
        reward_accuracy(replace(config, max_length=30), tmp_path / "reward", sft, how)
    config = replace(config, max_length=30, drop_longer=True)
    assert reward_accuracy(config, tmp_path / "reward", sft, how) == proportion(3, 6) | {"groups": 6}


def test_the_interval_knows_that_pairs_of_one_ranking_resemble_each_other(tiny_folder, tmp_path, monkeypatch):
    """Four rankings of six pairs, each right as a whole or not at all, tell no more than four pairs would."""
    sft = tiny_folder()
    RewardModel(Backbone.from_pretrained(sft), 2).save_pretrained(tmp_path / "reward")
    pairs = [pair for prompt in "abcd" for pair in pairs_from_ranking(prompt, ["w", "x", "y", "z"])]
    lines = [json.dumps(dict(zip(("prompt", "chosen", "rejected"), pair, strict=True))) for pair in pairs]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    right = torch.tensor([float(prompt in "ab") for prompt, _, _ in pairs])
    monkeypatch.setattr(RewardTrainer, "score_pairs", lambda self, pairs: (right, 1 - right))
    config = RewardConfig(data=str(tmp_path / "pairs.jsonl"), lora_rank=2, device="cpu")
    found = reward_accuracy(config, tmp_path / "reward", sft, EvaluationConfig(pairs=config.data))
    assert (found["share"], found["count"], found["groups"]) == (0.5, 24, 4)
    low, high = wilson_interval(1.5, 3)  # as many as its variance allows: with 4 groups, one freedom goes to the mean
    assert found["low"] == pytest.approx(low, abs=0.02)
    assert found["high"] == pytest.approx(high, abs=0.02)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_heldout_judge_reads_truncated_answers_as_truncated(run, tmp_path, temperature):
    """A reward model of our own, which reads a score at the EOS where there is one."""
    config, policy = run
    judge = RewardModel(Backbone.from_pretrained(config.model), 2)
    randomise(judge.parameters_to_train(), seed=1)
    judge.save_pretrained(tmp_path / "judge")
    config = replace(config, heldout_judge=str(tmp_path / "judge"), max_new_tokens=3)
    result = before_and_after(config, policy, how=EvaluationConfig(temperature=temperature, count=5))
    assert result["before"]["eos_rate"] < 1
    backbone = Backbone.from_pretrained(config.model)
    drawn = sample(backbone, backbone.encode_prompts([row["prompt"] for row in result["rows"]]), 3, 0.0, None)
    if temperature == 0:
        found = [row["heldout before"] for row in result["rows"]]
        assert found == pytest.approx(judge.score_batch(drawn.batch).tolist(), abs=1e-5)
    ended = judge.scores(*zip(*((row["prompt"], row["response before"]) for row in result["rows"]), strict=True))
    assert result["before"]["heldout_mean"] != pytest.approx(sum(ended) / len(ended), abs=1e-3)


def test_a_recipe_of_ppo_alone_runs_through_align_and_reports_its_shares(run, tmp_path, capsys):
    config, _ = run
    recipe = f"""
ppo: {{model: {config.model}, prompts: {config.prompts}, reward_model: exact_answer, heldout_judge: last_number,
      prompt_suffix: " =", iterations: 2, rollout_batch: 4, minibatch: 2, microbatch: 2, epochs: 1, max_new_tokens: 4,
      lora_rank: 2, device: cpu}}
evaluation: {{prompts: {config.prompts}, temperature: 0, count: 3}}
"""
    (tmp_path / "recipe.yaml").write_text(recipe)
    out = tmp_path / "run"
    assert main(["align", "--config", str(tmp_path / "recipe.yaml"), "--out", str(out), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "On 3 held-out prompts, greedy" in said
    assert "right by the held-out judge" in said
    metrics = read_jsonl(out / "ppo" / "metrics.jsonl")[0]
    assert {"score_mean", "heldout_mean"} <= set(metrics)
    sample = read_jsonl(out / "ppo" / "samples.jsonl")[0]
    assert sample["prompt"].endswith(" =")
    assert (out / "report.html").exists()
    assert not (out / "sft").exists()
