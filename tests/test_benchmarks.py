"""The benchmarks run: each in the smallest form that it has, on a CPU. What they measure is not looked at."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppo_lib.book.recordings import load_recorded

ROOT = Path(__file__).resolve().parents[1]


def run(script: str, *options: str) -> str:
    """What a benchmark prints; it has to end well."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_what_is_measured_on_a_gpu_runs_through_on_a_cpu(tmp_path):
    run("bench_gpu", "--tiny", "--out", str(tmp_path / "gpu.json"), "--trl-python", sys.executable)
    found = json.loads((tmp_path / "gpu.json").read_text())
    failed = {name: part for name, part in found.items() if str(part).startswith("failed")}
    assert not failed
    wanted = {"roofs", "rollout 4x8", "iteration 4x8", "iteration 4x8, ragged, microbatch 16", "beside TRL: lora"}
    assert wanted | {f"rollout 4x8, without {lever}" for lever in ("the merged adapter", "norms in one kernel")} <= set(
        found
    )


@pytest.mark.slow
def test_a_learning_curve_is_kept_and_not_made_again(tmp_path):
    file = tmp_path / "curves.json"
    few = ["--sides", "full", "lora", "--seeds", "1", "--iterations", "2", "--file", str(file)]
    assert "lora/0 is done" in run("learning_curve", *few)
    kept = file.read_bytes()
    rows = json.loads(kept)["runs"]["full/0"]["rows"]
    assert [row["episodes"] for row in rows] == [64, 128]
    assert 0 < rows[0]["cpu_seconds"] < rows[1]["cpu_seconds"]
    assert abs(rows[0]["kl"]) < 1e-3  # sampled before anything was learned
    assert "is done" not in run("learning_curve", *few)
    assert file.read_bytes() == kept


@pytest.mark.slow
def test_how_cost_grows_is_measured(tmp_path):
    assert "generation" in run("bench_growth", "--tiny", "--out", str(tmp_path))


@pytest.mark.slow
def test_both_layouts_are_measured_beside_trl_or_without_it():
    table = run("bench_trl", "--work", "tiny", "--rounds", "1", "--contestants", "full", "lora")
    assert "full" in table
    assert "lora" in table


@pytest.mark.parametrize(
    "asked", [("SmolLM2-135M", "lora", "float16", 16, 256), ("Qwen2.5-1.5B", "full", "bfloat16", 1, 64)]
)
def test_the_recorded_plans_are_what_the_memory_plan_says_today(monkeypatch, asked):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import record_plans

    names = ("model", "finetune", "dtype", "microbatch", "tokens")
    rows = load_recorded(record_plans.NAME).metrics
    assert len(rows) == len({tuple(row[name] for name in names) for row in rows}) == 180
    (row,) = (row for row in rows if tuple(row[name] for name in names) == asked)
    assert record_plans.plan(*asked) == pytest.approx({k: v for k, v in row.items() if k not in names}, rel=1e-4)


# Kernels of a decoding step, of one that does not merge, of one whose blocks are transformers' own, and of a
# microbatch's update: benchmarks/results/counts.txt.
CEILINGS = {"SmolLM2-135M": (637, 1_057, 1_122, 3_186), "Qwen2.5-0.5B": (517, 853, 906, 2_562)}


@pytest.mark.slow
@pytest.mark.parametrize("shape", CEILINGS)
def test_no_more_kernels_are_launched_than_were_counted_and_fewer_than_by_peft(monkeypatch, shape):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import bench_counts

    policy, unfused = bench_counts.build(shape), bench_counts.build(shape, fused_blocks=False)
    plain = bench_counts.build(shape, fused_blocks=False, fused_lora=False)
    step, beside, in_blocks, update = CEILINGS[shape]
    assert bench_counts.decode_step(policy).total() <= step < min(beside, in_blocks)
    assert bench_counts.decode_step(policy, False).total() <= beside < bench_counts.decode_step(plain, False).total()
    assert bench_counts.decode_step(unfused).total() <= in_blocks
    updates = [bench_counts.microbatch(each).total() for each in (policy, unfused, plain)]
    assert updates == sorted(set(updates))
    assert updates[0] <= update
    kept = (ROOT / "benchmarks/results/counts.txt").read_text(encoding="utf-8")
    assert all(f"{count:,}" in kept for count in CEILINGS[shape])
