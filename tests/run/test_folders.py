"""Run folders: whole or absent files, refusals that touch nothing, and resuming from any moment."""

import gzip
import json
import math
import os
import shutil
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from ppo_lib.book.jsonl import append_lines, parse_lines, read_jsonl
from ppo_lib.book.recordings import list_recorded, load_recorded, save_recorded
from ppo_lib.run.checkpoints import load_checkpoint, save_checkpoint, saved_checkpoints
from ppo_lib.run.fitting import Interrupted, fit
from ppo_lib.run.folders import RunFolder
from ppo_lib.run.manifests import manifest
from ppo_lib.run.report import write_report
from ppo_lib.trainers.configuration import ConfigError, option


@dataclass(frozen=True)
class WalkConfig:
    steps: int = option(5, help="iterations", minimum=1)
    scale: float = option(1e-5, help="step length", above=0.0)
    model: str = option("pocket:sft", help="a name or a folder")
    seed: int = option(0, help="of the walk")


class Walk:
    """A trainer that is a random walk: its state is a tensor and a random generator."""

    def __init__(self, config=WalkConfig(), on_step=None):
        self.config, self.on_step = config, on_step
        self.iteration, self.iterations = 0, config.steps
        self.position = torch.zeros(3, dtype=torch.float64)
        self.generator = torch.Generator().manual_seed(config.seed)

    def step(self):
        self.position += self.config.scale * torch.randn(3, generator=self.generator)
        self.iteration += 1
        if self.on_step:
            self.on_step(self)
        return {"iteration": self.iteration, "loss": float(self.position.sum())}

    def samples(self):
        return [{"prompt": "où?", "response": f"at {float(self.position[0])!r}"}]

    def state(self):
        tensors = {"position": self.position, "generator": self.generator.get_state()}
        return tensors, {"iteration": self.iteration}

    def load_state(self, tensors, values):
        self.position = tensors["position"]
        self.generator.set_state(tensors["generator"])
        self.iteration = values["iteration"]

    def save(self, folder):
        (Path(folder) / "position.json").write_text(json.dumps(self.position.tolist()))


def run_all(folder, trainer=None, resume=False, every=2):
    return list(fit(trainer or Walk(), RunFolder(folder, resume), every, progress=False))


def contents(folder):
    """What must be the same however often a run was killed: all but clocks and leftovers."""
    names = ["config.yaml", "metrics.jsonl", "samples.jsonl", "model/position.json"]
    return {name: (folder / name).read_bytes() for name in names}


def test_a_run_leaves_config_metrics_samples_checkpoints_model_and_manifest(tmp_path):
    yielded = run_all(tmp_path / "run")
    run = RunFolder(tmp_path / "run", resume=True)
    assert run.finished
    assert run.metrics() == yielded
    assert [row["iteration"] for row in run.metrics()] == [1, 2, 3, 4, 5]
    assert [row["iteration"] for row in run.samples()] == [1, 2, 3, 4, 5]
    assert (run.path / "config.yaml").read_text().startswith("steps: 5\n")
    assert [p.name for p in saved_checkpoints(run.path / "checkpoints")] == ["000004", "000005"]
    description = json.loads((run.path / "manifest.json").read_text())
    assert description["seed"] == 0
    assert description["iterations"] == 5


@pytest.mark.parametrize("disabled", ["", "1"])
def test_the_environment_can_switch_the_progress_bar_off(tmp_path, monkeypatch, disabled):
    """tqdm's bar for notebooks does not look at TQDM_DISABLE, so the driver does."""
    seen = []

    def bar(*, disable, **kwargs):
        seen.append(disable)
        return tqdm(**kwargs, disable=True)

    monkeypatch.setenv("TQDM_DISABLE", disabled)
    monkeypatch.setattr("ppo_lib.run.fitting.tqdm", bar)
    list(fit(Walk(), RunFolder(tmp_path / "run")))
    assert seen == [bool(disabled)]


def test_a_run_that_waited_for_others_counts_only_its_own_time(tmp_path):
    """The folders of all stages are looked at before the first one starts."""
    run = RunFolder(tmp_path / "run")
    run.started -= 1000  # the stages before it took so long
    list(fit(Walk(), run, progress=False))
    assert json.loads((run.path / "manifest.json").read_text())["seconds"] < 500


def test_a_model_is_calibrated_once_after_the_last_step_and_before_it_is_saved(tmp_path):
    """Also where the run was killed between the two: the step is taken again, from the same state. What was trained is
    saved before that step, too: nothing that happens in it can lose the stage."""
    done, told = [], []

    class Scale(Walk):
        def calibrate(self):
            done.append(f"calibrated at {self.iteration}")
            return "calibrated on 3 answers"

        def save(self, folder):
            done.append("saved")
            if len(done) == 3:
                raise KeyboardInterrupt
            super().save(folder)

    with pytest.raises(KeyboardInterrupt):
        list(fit(Scale(), RunFolder(tmp_path / "run"), progress=False, say=told.append))
    list(fit(Scale(), RunFolder(tmp_path / "run", resume=True), progress=False, say=told.append))
    assert done == ["saved", "calibrated at 5", "saved"] * 2
    assert told == ["calibrated on 3 answers"] * 2
    list(fit(Scale(), RunFolder(tmp_path / "run", resume=True), progress=False, say=told.append))
    assert len(done) == 6


# Where str.splitlines cuts a text and JSON does not: models write these, and JSON keeps most of them as they are.
SEPARATORS = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\r\nj\tk"


class Writer(Walk):
    """A walk that writes such texts, and has a metric of such a name."""

    def step(self):
        return super().step() | {f"odd{SEPARATORS}": 1.0}

    def samples(self):
        return [{"prompt": SEPARATORS, "response": f"{SEPARATORS}{self.iteration}", "score": 1.0}]


def test_texts_with_all_kinds_of_separators_survive_a_run_a_resume_a_report_and_a_recording(tmp_path):
    def stop(trainer):
        if trainer.iteration == 3:
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        run_all(tmp_path / "run", Writer(on_step=stop))
    run_all(tmp_path / "run", Writer(), resume=True)
    run = RunFolder(tmp_path / "run", resume=True)
    assert [row["iteration"] for row in run.metrics()] == [1, 2, 3, 4, 5]
    assert all(f"odd{SEPARATORS}" in row for row in run.metrics())
    assert [row["response"] for row in run.samples()] == [f"{SEPARATORS}{i}" for i in range(1, 6)]
    page = write_report(run.path).read_text(encoding="utf-8")
    assert all(letter in page for letter in SEPARATORS if letter not in "\r")
    saved = save_recorded(tmp_path / "recorded", run.metrics(), run.samples(), {"seed": 0})
    rows = parse_lines(gzip.decompress((saved / "samples.jsonl.gz").read_bytes()).decode(), "samples")
    assert rows == run.samples()


def test_nothing_in_a_run_is_pickled(tmp_path):
    run_all(tmp_path / "run")
    suffixes = {p.suffix for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert suffixes == {".yaml", ".jsonl", ".json", ".safetensors"}


def test_every_line_is_on_disk_when_its_metrics_are_yielded(tmp_path):
    run = RunFolder(tmp_path / "run")
    for count, metrics in enumerate(fit(Walk(), run, progress=False), start=1):
        lines = (run.path / "metrics.jsonl").read_text().split("\n")
        assert len(lines) == count + 1
        assert lines.pop() == ""
        assert json.loads(lines[-1]) == metrics


@pytest.mark.parametrize("name", ["folder", "file"])
def test_a_folder_in_use_is_refused_and_left_as_it_is(tmp_path, name):
    target = tmp_path / name
    if name == "folder":
        target.mkdir()
        (target / "notes.txt").write_text("mine")
    else:
        target.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="not empty" if name == "folder" else "is a file"):
        RunFolder(target)
    with pytest.raises(ConfigError, match=r"no config\.yaml" if name == "folder" else "is a file"):
        RunFolder(target, resume=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert (target / "notes.txt" if name == "folder" else target).read_text() == "mine"


def test_an_empty_folder_and_an_absent_one_are_fine_with_and_without_resume(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, resume in [("empty", False), ("absent", True), ("a/b/c", False)]:
        assert len(run_all(tmp_path / name, resume=resume)) == 5


def test_a_checkpoint_interval_below_one_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ConfigError, match="checkpoint_every is 0"):
        run_all(tmp_path / "run", every=0)
    assert not (tmp_path / "run").exists()


def test_resuming_with_another_config_is_refused_naming_the_key(tmp_path):
    run_all(tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"begun with seed 0, but now seed is 1"):
        run_all(tmp_path / "run", Walk(replace(WalkConfig(), seed=1)), resume=True)
    assert contents(tmp_path / "run") == before


def test_resuming_a_finished_run_does_nothing(tmp_path):
    run_all(tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    assert run_all(tmp_path / "run", resume=True) == []
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before


def test_a_run_stopped_by_its_reader_resumes_to_the_same_end(tmp_path):
    run_all(tmp_path / "whole")
    for stop in range(1, 5):
        folder = tmp_path / f"stopped{stop}"
        for metrics in fit(Walk(), RunFolder(folder), checkpoint_every=2, progress=False):
            if metrics["iteration"] == stop:
                break
        run_all(folder, resume=True)
        assert contents(folder) == contents(tmp_path / "whole")


def test_the_peak_of_memory_is_that_of_the_whole_run_however_often_it_was_resumed(tmp_path, monkeypatch):
    for peak, stop in ((9 * 10**9, 2), (10**9, 5)):  # the first process held more
        monkeypatch.setattr("ppo_lib.run.folders.peak_memory", lambda peak=peak: peak)
        for metrics in fit(Walk(), RunFolder(tmp_path / "run", resume=stop == 5), checkpoint_every=1, progress=False):
            if metrics["iteration"] == stop:
                break
    for _ in fit(Walk(), RunFolder(tmp_path / "run", resume=True), checkpoint_every=1, progress=False):
        pass
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["peak_memory_bytes"] == 9 * 10**9


class Killer:
    """Kills this process with SIGKILL just before its n-th act on the disk (or in its middle)."""

    def __init__(self, after):
        self.left = after

    def patch(self, monkeypatch):
        for module, name in [
            (os, "fsync"),
            (os, "replace"),
            (os, "truncate"),
            (os, "write"),
            (shutil, "rmtree"),
        ]:
            monkeypatch.setattr(module, name, self.wrap(getattr(module, name), name))

    def wrap(self, function, name):
        def wrapped(*args, **kwargs):
            self.left -= 1
            if self.left < 0:
                if name == "write":  # a torn line, as when the power fails
                    function(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return wrapped


def in_a_child(action):
    """Run ``action`` in a forked process; True where it came to its end."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return not os.WIFSIGNALED(status)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_act_on_the_disk_a_run_resumes_to_the_same_end(tmp_path, monkeypatch):
    run_all(tmp_path / "whole")
    wanted = contents(tmp_path / "whole")
    kills = 0
    while True:
        folder = tmp_path / f"killed{kills}"

        def killed_run(resume, after, folder=folder):
            with monkeypatch.context() as patches:
                Killer(after).patch(patches)
                run_all(folder, resume=resume)

        if in_a_child(lambda run=killed_run, after=kills: run(False, after)):
            break  # it came to the end before the killer struck: every moment was tried
        in_a_child(lambda run=killed_run: run(True, 7))  # killed again while it resumes
        run_all(folder, resume=True)
        assert contents(folder) == wanted, f"killed before act {kills}"
        kills += 1
    assert kills > 50


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
def test_a_polite_signal_finishes_the_iteration_and_writes_a_checkpoint(tmp_path, number, kind):
    def interrupt(trainer):
        if trainer.iteration == 3:
            os.kill(os.getpid(), number)

    seen = []
    before = signal.getsignal(number)
    rows = fit(Walk(on_step=interrupt), RunFolder(tmp_path / "run"), 100, progress=False)
    with pytest.raises(Interrupted, match="after iteration 3 of 5; go on with --resume") as caught:
        seen.extend(row["iteration"] for row in rows)
    assert caught.value.signal == number
    assert seen == [1, 2, 3]
    assert signal.getsignal(number) == before
    assert saved_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "000003"
    assert [row["iteration"] for row in run_all(tmp_path / "run", resume=True)] == [4, 5]
    run_all(tmp_path / "whole")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole"), kind


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    def interrupt(trainer):
        if trainer.iteration == 3:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_all(tmp_path / "run", Walk(on_step=interrupt))
    assert len(run_all(tmp_path / "run", resume=True)) == 3  # iterations 3, 4 and 5


def test_a_step_that_fails_leaves_a_run_that_resumes(tmp_path):
    def fail(trainer):
        if trainer.iteration == 4:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run_all(tmp_path / "run", Walk(on_step=fail))
    run_all(tmp_path / "run", resume=True)
    run_all(tmp_path / "whole")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_metrics_file_that_lost_lines_is_refused(tmp_path):
    with pytest.raises(RuntimeError):
        run_all(tmp_path / "run", Walk(on_step=lambda t: stop_at(t, 4)))
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"metrics\.jsonl has 0 bytes"):
        run_all(tmp_path / "run", resume=True)


def stop_at(trainer, iteration):
    if trainer.iteration == iteration:
        raise RuntimeError("stopped")


def test_a_checkpoint_returns_tensors_and_values_bit_for_bit(tmp_path):
    shared = torch.randn(4)
    tensors = {
        "a": shared,
        "b": shared,  # tied weights share memory
        "half": torch.randn(2, 3).bfloat16(),
        "transposed": torch.randn(2, 3).T,
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "generator": torch.Generator().get_state(),
    }
    values = {"beta": 0.1 + 0.2, "order": [3, 1, 2], "nested": {"none": None}}
    path = save_checkpoint(tmp_path, 12, tensors, values)
    assert path.name == "000012"
    loaded, loaded_values = load_checkpoint(path)
    assert loaded_values == values
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_only_the_last_checkpoints_are_kept_and_writing_one_again_replaces_it(tmp_path):
    for iteration in (1, 2, 999_999, 1_000_000, 1_000_000):
        save_checkpoint(tmp_path, iteration, {"x": torch.tensor(iteration)}, {})
    assert [p.name for p in saved_checkpoints(tmp_path)] == ["999999", "1000000"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1000000", "999999"]


def test_a_damaged_checkpoint_is_refused_with_the_remedy(tmp_path):
    path = save_checkpoint(tmp_path / "run" / "checkpoints", 3, {"x": torch.ones(100)}, {})
    with open(path / "tensors.safetensors", "r+b") as file:
        file.truncate(60)
    with pytest.raises(ValueError, match=r"checkpoint 000003 of 'run'.*remove that checkpoint"):
        load_checkpoint(path)


def test_numbers_that_json_cannot_hold_become_null_and_read_as_nan(tmp_path):
    run = RunFolder(tmp_path)
    run.record({"iteration": 1, "loss": float("nan"), "ratio_max": float("inf")}, [])
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss"] is None
    (row,) = run.metrics()
    assert math.isnan(row["loss"])
    assert math.isnan(row["ratio_max"])


def test_a_torn_last_line_is_left_out_but_a_bad_line_in_the_middle_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_lines(path, [{"a": 1}, {"a": "é"}])
    with open(path, "ab") as file:
        file.write('{"a": "é'.encode()[:-1])
    assert read_jsonl(path) == [{"a": 1}, {"a": "é"}]
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl: line 2 is not JSON"):
        read_jsonl(path)


def test_a_manifest_says_what_ran_but_not_on_whose_machine(tmp_path):
    config = {"seed": 3, "model": str(tmp_path / "secret" / "model"), "data": "~/x/pairs.jsonl"}
    description = manifest(config, seconds=1.239, iterations=7)
    assert description["seed"] == 3
    assert description["seconds"] == 1.24
    assert description["iterations"] == 7
    assert description["config"]["model"] == "model"
    assert description["config"]["data"] == "pairs.jsonl"
    assert description["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert description["peak_memory_bytes"] > 0
    assert description["hardware"]["cores"] >= 1
    text = json.dumps(description)
    assert os.uname().nodename not in text
    assert str(tmp_path) not in text
    assert str(Path.home()) + "/" not in text


def test_a_recorded_run_comes_back_rounded_and_with_the_same_bytes(tmp_path, monkeypatch):
    metrics = [{"iteration": 1, "kl_k1": 0.123456789}, {"iteration": 2, "kl_k1": math.nan}]
    samples = [{"iteration": 1, "response": "Paris — où?", "values": [1 / 3, 2.0]}]
    first = save_recorded(tmp_path / "one", metrics, samples, {"seed": 0})
    again = save_recorded(tmp_path / "two", metrics, samples, {"seed": 0})
    for file in ("metrics.jsonl.gz", "samples.jsonl.gz", "manifest.json"):
        assert (first / file).read_bytes() == (again / file).read_bytes()
    (tmp_path / "recorded" / "deep").mkdir(parents=True)
    save_recorded(tmp_path / "recorded" / "deep" / "seed0", metrics, samples, {"seed": 0})
    monkeypatch.setitem(list_recorded.__globals__, "files", lambda package: tmp_path)
    assert list_recorded() == ["deep/seed0"]
    run = load_recorded("deep/seed0")
    assert run.manifest == {"seed": 0}
    assert run.metrics[0] == {"iteration": 1, "kl_k1": 0.12346}
    assert run.samples == [{"iteration": 1, "response": "Paris — où?", "values": [0.33333, 2.0]}]
    column = run.column("kl_k1")
    assert column[0] == 0.12346
    assert math.isnan(column[1])
    with pytest.raises(KeyError, match="recorded are: iteration, kl_k1"):
        run.column("gold_mean")


def test_every_recording_of_the_package_loads_and_says_where_it_came_from():
    for name in list_recorded():
        run = load_recorded(name)
        assert run.metrics or run.samples, name
        assert {"seed", "config", "hardware", "seconds", "versions"} <= set(run.manifest), name


def test_an_unknown_recording_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match="no recorded run 'nothing'; recorded runs: "):
        load_recorded("nothing")


@pytest.mark.parametrize("name", ["", "..", "a//b", "../outside", "/absolute"])
def test_a_recording_cannot_be_written_outside_its_folder(name):
    with pytest.raises(ValueError, match="parts joined by '/'"):
        save_recorded(name, [], [], {})
