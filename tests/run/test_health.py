"""Diagnostics: a healthy run gives no finding, and each symptom gives its own."""

import math
import re

import pytest

from ppo_lib.book.recordings import load_recorded
from ppo_lib.run.health import Band, bands, diagnose
from ppo_lib.trainers.configuration import GRPOConfig, PPOConfig, to_mapping


def healthy(iterations=40):
    """Metrics of a PPO run as a good one looks: smooth, with a little alternating noise."""
    rows = []
    for i in range(iterations):
        done, wobble = i / iterations, 0.02 * (-1) ** i
        rows.append(
            {
                "iteration": i + 1,
                "score_mean": 1.5 * done + wobble,
                "score_std": 1.0,
                "gold_mean": 1.0 * done + wobble,
                "kl_k1": 8 * done + 0.3 + wobble,
                "kl_k3": 8 * done + 0.2,
                "entropy": 1.0 - 0.5 * done,
                "clip_fraction": 0.08,
                "approx_kl": 0.01,
                "ratio_max": 2.0,
                "ratio_first_error": 0.0,
                "policy_loss": -0.01 + wobble,
                "value_loss": 0.5,
                "explained_variance": -0.5 if i < 5 else 0.4,
                "grad_norm": 1.0 + wobble,
                "response_length": 12 + 4 * done,
                "eos_rate": 0.99,
                "beta": 0.1,
            }
        )
    return rows


def changed(metric, value, start=0):
    """The healthy run with one metric changed from an iteration on; ``value`` may use (row, share)."""
    rows = healthy()
    for i, row in enumerate(rows[start:]):
        share = i / max(1, len(rows) - start - 1)
        row[metric] = value(row, share) if callable(value) else value
    return rows


def test_a_healthy_run_has_no_finding():
    assert diagnose(healthy()) == []


@pytest.mark.parametrize("config", [{"epochs": 4}, {"epochs": 1, "rollout_batch": 64, "minibatch": 32}])
def test_a_ratio_that_stays_at_1_over_several_steps_is_found(config):
    (finding,) = diagnose(changed("ratio_max", 1.0 + 1e-6), config)
    assert finding.metric == "ratio_max"
    assert "stays at 1" in finding.symptom
    assert "optimizer holds other parameters" in finding.likely_cause
    assert diagnose(changed("ratio_max", 1.01), config) == []


@pytest.mark.parametrize("config", [{}, {"epochs": 1, "rollout_batch": 64, "minibatch": 64}])
def test_with_a_single_step_per_batch_the_ratio_is_1_and_no_finding(config):
    assert diagnose(changed("ratio_max", 1.0), config) == []


def test_runs_without_a_ratio_are_not_told_about_one():
    """SFT, reward models and DPO have no ratio; a missing column once counted as 0."""
    rows = [{"iteration": i + 1, "loss": 2 - 0.01 * i, "accuracy": 0.8, "grad_norm": 1.0} for i in range(40)]
    assert diagnose(rows, {"epochs": 2, "batch": 32}) == []


def test_a_metric_that_only_some_rows_have_counts_where_it_is_there():
    """A missing value once counted as 0, so an entropy of every second row had collapsed."""
    rows = healthy()
    for row in rows[::2]:
        for metric in ("entropy", "eos_rate", "response_length", "ratio_max", "score_std", "explained_variance"):
            del row[metric]
    assert diagnose(rows, {"epochs": 4}) == []
    for row in rows[1::2]:
        row["entropy"] = 0.001
    (finding,) = diagnose(rows, {"epochs": 4})
    assert finding.metric == "entropy"


def test_a_run_is_told_only_about_metrics_that_it_has():
    for missing in healthy()[0].keys() - {"iteration"}:
        rows = [{name: value for name, value in row.items() if name != missing} for row in healthy()]
        assert diagnose(rows, {"epochs": 4}) == [], missing


def test_one_long_step_and_the_batch_it_threw_far_out_are_found_in_the_recorded_run():
    """Iteration 47 of the recipe's first seed steps far, iteration 48 speaks from out there, 49 is back."""
    run = load_recorded("pocket/beta_0.05/seed_0")
    step, batch = [finding for finding in diagnose(run.metrics, run.manifest["config"]) if not finding.note]
    assert (step.metric, step.iteration) == ("approx_kl", 47)
    assert (batch.metric, batch.iteration) == ("kl_k1", 48)
    assert run.metrics[48]["kl_k1"] < 10 < 30 < batch.value


@pytest.mark.parametrize(("metric", "usual", "leap"), [("approx_kl", 0.01, 0.12), ("kl_k1", 6.0, 19.0)])
def test_a_leap_is_judged_by_what_was_usual_before_it(metric, usual, leap):
    rows = changed(metric, usual)
    rows[25][metric] = leap
    (finding,) = diagnose(rows)
    assert (finding.metric, finding.iteration, finding.value) == (metric, 26, leap)
    assert finding.band == f"near {usual:g}"
    rows[25][metric] = 0.7 * leap
    assert diagnose(rows) == []
    rows = changed(metric, usual)
    rows[9][metric] = leap  # before there is anything to call usual
    assert diagnose(rows) == []


@pytest.mark.parametrize(
    ("rows", "without", "with_them"),
    [
        (lambda: changed("entropy", 0.001, 10), "Raise beta, and read", "Raise beta, add entropy_coef, and read"),
        (lambda: changed("kl_k3", 90.0, 10), "Raise beta; stop early", "Raise beta or set kl_target; stop early"),
        (lambda: changed("score_mean", 0.0), "batch, or lower", "batch, whiten the advantages, or lower"),
        (lambda: changed("entropy", lambda row, share: 1 - 0.95 * share), "beta, or lower", "beta or entropy_coef, or"),
    ],
)
def test_a_remedy_names_only_keys_that_the_configuration_has(rows, without, with_them):
    (plain,) = [f for f in diagnose(rows(), to_mapping(PPOConfig())) if not f.note]
    (grpo,) = [f for f in diagnose(rows(), to_mapping(GRPOConfig())) if not f.note]
    assert with_them in plain.remedy
    assert without in grpo.remedy


def test_empty_and_very_short_runs_have_no_finding():
    assert diagnose([]) == []
    assert diagnose(healthy()[:1]) == []
    assert diagnose(healthy()[:3]) == []


@pytest.mark.parametrize(
    ("metric", "value", "start", "symptom", "remedy"),
    [
        ("ratio_first_error", 1e-3, 0, "not 1 before the first update", "evaluation mode"),
        ("sampling_gap_mean", 0.2, 0, "drawn from another distribution", "merge_adapter: false"),
        ("ratio_max", 90.0, 10, "many times over", "learning_rate"),
        ("clip_fraction", 0.5, 10, "clip stops a large part", "epochs"),
        ("approx_kl", 0.5, 10, "moves the policy far", "learning_rate"),
        ("entropy", 0.001, 20, "hardly varies", "beta"),
        ("entropy", 0.1, 20, "small part of what it was", "entropy_coef"),
        ("explained_variance", -0.4, 0, "worse than a constant", "value_clip"),
        ("score_std", 0.0, 20, "same score", "samples.jsonl"),
        ("kl_k3", lambda row, share: 100 * share, 10, "runs away .* while its score", "kl_target"),
        ("gold_mean", lambda row, share: 0.5 - 3 * share, 15, "gold score falls", "peak"),
        ("eos_rate", lambda row, share: 1 - 0.8 * share, 0, "cut off", "missing_eos_penalty"),
        ("response_length", lambda row, share: 12 + 40 * share, 0, "much longer", "length"),
        ("grad_norm", 100.0, 30, "many times its usual", "max_grad_norm"),
        ("value_loss", math.nan, 12, "not a number", "learning_rate"),
        ("value_loss", math.inf, 12, "not a number", "learning_rate"),
        ("kl_k1", None, 12, "not a number", "reward function"),
        ("gold_mean", None, 12, "not a number", "mend the judge"),
        ("gold_mean", math.nan, 0, "not a number", "mend the judge"),
        ("heldout_mean", None, 12, "not a number", "mend the judge"),
    ],
)
def test_each_symptom_is_found_with_its_remedy(metric, value, start, symptom, remedy):
    findings = [f for f in diagnose(changed(metric, value, start)) if not f.note]
    assert [f.metric for f in findings] == [metric]
    (finding,) = findings
    assert finding.iteration > start
    text = str(finding)
    assert text.startswith("look: ")
    assert remedy in finding.remedy
    assert re.search(symptom, finding.symptom), text


def test_a_negative_k1_beside_a_small_k3_is_noise_and_only_noted():
    rows = healthy()
    rows[0]["kl_k1"] = -0.2
    (finding,) = diagnose(rows)
    assert finding.note
    assert finding.iteration == 1
    assert "Nothing to do" in finding.remedy


def test_a_negative_k1_beside_a_large_k3_means_another_distribution_was_sampled():
    rows = changed("kl_k1", -4.0, 10)
    for row in rows[10:]:
        row["kl_k3"] = 9.0
    findings = [f for f in diagnose(rows) if f.metric == "kl_k1"]
    assert len(findings) == 1
    assert not findings[0].note
    assert "top-k" in findings[0].remedy


@pytest.mark.parametrize(("clip", "remedy"), [(0.0, "Raise learning_rate"), (0.1, "rollout_batch")])
def test_a_flat_score_is_told_apart_by_whether_the_clip_acts(clip, remedy):
    rows = healthy()
    for row in rows:
        row.update(score_mean=0.3, clip_fraction=clip)
    findings = [f for f in diagnose(rows) if f.metric == "score_mean"]
    assert len(findings) == 1
    assert remedy in findings[0].remedy


def test_one_noisy_batch_is_no_finding():
    rows = healthy()
    rows[20]["clip_fraction"] = 0.5
    rows[25]["explained_variance"] = -1.0
    assert diagnose(rows) == []


def test_rounding_of_a_16_bit_backbone_is_allowed_for():
    rows = changed("ratio_first_error", 5e-3)
    assert [f.metric for f in diagnose(rows, {"dtype": "float32"})] == ["ratio_first_error"]
    assert diagnose(rows, {"dtype": "bfloat16"}) == []


@pytest.mark.parametrize(
    ("name", "values", "symptom"),
    [
        ("accuracy", [0.5] * 60, "hardly beats a coin"),
        ("accuracy", [1.0] * 60, "every training pair"),
        ("loss", [2 - 0.05 * min(i, 30) + 0.1 * max(0, i - 30) for i in range(60)], "rises again"),
    ],
)
def test_the_other_stages_have_their_symptoms(name, values, symptom):
    rows = [{"iteration": i + 1, name: value} for i, value in enumerate(values)]
    (finding,) = diagnose(rows)
    assert symptom in finding.symptom


def test_sft_and_reward_runs_that_learn_have_no_finding():
    rows = [
        {"iteration": i + 1, "loss": 2 / (1 + i / 5), "accuracy": 0.5 + 0.3 * i / 60, "grad_norm": 1} for i in range(60)
    ]
    assert diagnose(rows) == []


def test_findings_come_in_the_order_in_which_they_show():
    rows = changed("clip_fraction", 0.5, 20)
    rows[5]["value_loss"] = math.nan
    assert [f.metric for f in diagnose(rows)] == ["value_loss", "clip_fraction"]


def test_every_band_says_what_the_metric_means():
    for name, band in bands().items():
        assert band.low < band.high, name
        assert band.meaning
    assert str(Band(0, 0.3, "")) == "0 to 0.3"
    assert str(Band(0.7, math.inf, "")) == "at least 0.7"
    assert str(Band(-math.inf, 0.1, "")) == "up to 0.1"
    assert str(Band(-math.inf, math.inf, "")) == "any value"
