"""Run folders under faults: two processes, damage on the disk, changed inputs, longer runs, leftovers of a kill."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import yaml

from ppo_lib.errors import BadInput
from ppo_lib.run.checkpoints import load_checkpoint, save_checkpoint, saved_checkpoints
from ppo_lib.run.files import LOCK, TEMPORARY
from ppo_lib.run.fitting import Interrupted, deferred_signals, fit
from ppo_lib.run.folders import RunFolder
from ppo_lib.run.inputs import PLACE, WHOLE, fingerprint, fingerprints
from ppo_lib.run.locking import locked
from ppo_lib.trainers.configuration import ConfigError, option
from tests.run.test_folders import Walk, WalkConfig, contents, run_all

HOLDER = """
import sys, time
from pathlib import Path
from ppo_lib.run.locking import locked
with locked(Path(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(600)
"""


@dataclass(frozen=True)
class LongWalkConfig(WalkConfig):
    iterations: int = option(6, help="iterations", minimum=1)
    data: str = option("", help="a file")


class LongWalk(Walk):
    """A walk whose number of iterations has the name that PPO's has."""

    def __init__(self, iterations=6, on_step=None, data=""):
        super().__init__(LongWalkConfig(iterations=iterations, data=data), on_step)
        self.iterations = iterations


def whole(folder):
    """The content of an unbroken walk."""
    run_all(folder)
    return contents(folder)


def stopped(folder, at=5, trainer=Walk, every=1):
    """A run of five that was stopped before its end: checkpoints of the iterations before ``at``, the last two."""

    def stop(walk):
        if walk.iteration == at:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        run_all(folder, trainer(on_step=stop), every=every)


def change(path, change):
    """Rewrite a checkpoint's values as a person or a fault would."""
    values = json.loads((path / "values.json").read_text())
    values = change(values) or values
    (path / "values.json").write_text(json.dumps(values))


# Two processes


def test_a_second_process_is_refused_and_the_lock_dies_with_the_first(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BadInput, match=f"run' is in use by process {holder.pid} on .*; wait until it has ended"):
        run_all(folder)
    assert [path.name for path in folder.iterdir()] == [LOCK]
    holder.kill()
    holder.wait()
    assert len(run_all(folder)) == 5
    assert not (folder / LOCK).exists()


def test_a_run_is_held_while_its_iterations_are_read(tmp_path):
    rows = fit(Walk(), RunFolder(tmp_path / "run"), progress=False)
    next(rows)
    with pytest.raises(BadInput, match=f"in use by process {os.getpid()} on "):
        run_all(tmp_path / "run", resume=True)
    rows.close()
    run_all(tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == whole(tmp_path / "whole")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_worker_that_outlives_its_run_does_not_keep_the_lock(tmp_path):
    """As a pool of a user's reward function, whose parent was killed."""
    reader, writer = os.pipe()
    with locked(tmp_path, "run"):
        worker = os.fork()
        if worker == 0:
            os.read(reader, 1)  # until it is told to end
            os._exit(0)
    # What the parent held it has let go here; a copy in the worker would keep it.
    with locked(tmp_path, "run"):
        pass
    os.write(writer, b"x")
    os.waitpid(worker, 0)


def test_a_lock_that_was_removed_while_another_waited_is_taken_anew(tmp_path):
    with locked(tmp_path, "run"):
        (tmp_path / LOCK).unlink()
        with locked(tmp_path, "run"):
            assert (tmp_path / LOCK).exists()
    assert list(tmp_path.iterdir()) == []


# Damage


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


DAMAGE = {
    "a bit of a tensor": lambda path: flip(path / "tensors.safetensors"),
    "a cut tensor": lambda path: os.truncate(path / "tensors.safetensors", 60),
    "no tensors": lambda path: (path / "tensors.safetensors").unlink(),
    "no values": lambda path: (path / "values.json").unlink(),
    "a list": lambda path: (path / "values.json").write_text("[1]"),
    "null": lambda path: (path / "values.json").write_text("null"),
    "empty": lambda path: (path / "values.json").write_text(""),
    "no keys": lambda path: (path / "values.json").write_text("{}"),
    "deep": lambda path: (path / "values.json").write_text("[" * 100_000),
    "not text": lambda path: (path / "values.json").write_bytes(b"\xff\xfe"),
    "another iteration": lambda path: change(path, lambda v: v["trainer"].update(iteration=999)),
    "iteration in words": lambda path: change(path, lambda v: v["trainer"].update(iteration="four")),
    "no iteration": lambda path: change(path, lambda v: v["trainer"].clear()),
    "other sizes": lambda path: change(path, lambda v: v["sizes"].update({"metrics.jsonl": 7})),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_of_a_damaged_checkpoint_the_one_before_goes_on_with_a_warning(tmp_path, kind):
    stopped(tmp_path / "run")
    last = saved_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert last.name == "000004"
    DAMAGE[kind](last)
    with pytest.warns(UserWarning, match="checkpoint 000004 of 'run' cannot be used .* went back to checkpoint 000003"):
        run_all(tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == whole(tmp_path / "whole")


def without_sums(values):
    """As versions before the checksums wrote it."""
    return {key: value for key, value in values.items() if key not in ("sha256", "sums", "config", "inputs")}


@pytest.mark.parametrize("key", ["trainer", "iteration", "another", "generator"])
def test_of_a_checkpoint_without_checksums_what_does_not_fit_is_noticed_as_well(tmp_path, key):
    stopped(tmp_path / "run")
    last = saved_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    tensors, values = load_checkpoint(last)
    if key == "trainer":
        del values["trainer"]
    if key == "iteration":
        values["trainer"]["iteration"] = None
    if key == "another":
        values["trainer"]["iteration"] = 3
    if key == "generator":
        del tensors["generator"]
    save_checkpoint(last.parent, 4, tensors, values)
    change(last, without_sums)
    with pytest.warns(UserWarning, match="went back to checkpoint 000003"):
        run_all(tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == whole(tmp_path / "whole")


def test_a_checkpoint_of_an_older_version_is_taken_as_it_is(tmp_path):
    stopped(tmp_path / "run")
    for path in saved_checkpoints(tmp_path / "run" / "checkpoints"):
        change(path, without_sums)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [row["iteration"] for row in run_all(tmp_path / "run", resume=True)] == [5]
    assert contents(tmp_path / "run") == whole(tmp_path / "whole")


def test_when_all_checkpoints_are_damaged_it_is_said_and_nothing_is_touched(tmp_path):
    stopped(tmp_path / "run")
    for path in saved_checkpoints(tmp_path / "run" / "checkpoints"):
        flip(path / "tensors.safetensors")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"no checkpoint of 'run' can be used: .* 000004 .* in another folder"):
        run_all(tmp_path / "run", resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("line", "goes_back_to"), [(3, "000003"), (0, None)])
def test_a_line_of_metrics_that_was_changed_is_noticed(tmp_path, line, goes_back_to):
    """Of the same length: no size tells. In what the checkpoint before had seen, too, nothing can go on."""
    stopped(tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = b"x" * (len(lines[line]) - 1) + b"\n"
    path.write_bytes(b"".join(lines))
    if goes_back_to is None:
        with pytest.raises(ConfigError, match=r"bytes of metrics\.jsonl are not those that stood there"):
            run_all(tmp_path / "run", resume=True)
        return
    with pytest.warns(UserWarning, match=f"went back to checkpoint {goes_back_to}"):
        run_all(tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == whole(tmp_path / "whole")


def test_a_folder_of_another_name_is_no_checkpoint(tmp_path):
    stopped(tmp_path / "run")
    for name in ("²", "12²", "notes", "٣", "-5"):
        (tmp_path / "run" / "checkpoints" / name).mkdir()
    run_all(tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == whole(tmp_path / "whole")


@pytest.mark.parametrize("content", ["", "[]", "null", "{", None])
def test_a_model_or_manifest_that_is_gone_is_written_again_from_the_last_checkpoint(tmp_path, content):
    run_all(tmp_path / "run")
    if content is None:
        shutil.rmtree(tmp_path / "run" / "model")
    else:
        (tmp_path / "run" / "manifest.json").write_text(content)
    assert not RunFolder(tmp_path / "run", resume=True).finished
    assert run_all(tmp_path / "run", resume=True) == []
    assert RunFolder(tmp_path / "run", resume=True).finished
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["iterations"] == 5
    assert contents(tmp_path / "run") == whole(tmp_path / "whole")


def test_without_checkpoints_a_run_begins_again_and_keeps_its_old_metrics(tmp_path):
    stopped(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    old = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.warns(UserWarning, match=r"no checkpoint, so it begins again .* kept in metrics\.old\.jsonl"):
        assert len(run_all(tmp_path / "run", resume=True)) == 5
    assert (tmp_path / "run" / "metrics.old.jsonl").read_bytes() == old
    assert contents(tmp_path / "run") == whole(tmp_path / "whole")


def test_what_a_killed_process_left_behind_is_swept(tmp_path):
    stopped(tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copytree(checkpoints / "000003", checkpoints / "000002")  # killed before the old one was removed
    for place in (checkpoints / f"{TEMPORARY}removed-000001", tmp_path / "run" / f"{TEMPORARY}model"):
        place.mkdir()
        (place / "half").write_text("x")
    (tmp_path / "run" / f"{TEMPORARY}config.yaml").write_text("half")
    run_all(tmp_path / "run", resume=True, every=100)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["000004", "000005"]
    left = [path for path in (tmp_path / "run").rglob("*") if path.name.startswith(TEMPORARY)]
    assert left == []


def test_the_weights_of_a_run_can_be_read_by_whom_its_other_files_can(tmp_path):
    run_all(tmp_path / "run")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {
        stat.S_IMODE((tmp_path / "run" / "config.yaml").stat().st_mode)
    }


# Configurations and inputs


@pytest.mark.parametrize("done", [True, False])
def test_a_run_may_be_made_longer_and_equals_one_that_was_begun_so(tmp_path, done):
    if done:
        run_all(tmp_path / "run", LongWalk(6))
    else:
        stopped(tmp_path / "run", trainer=LongWalk)
    (tmp_path / "run" / "evaluation.json").write_text("{}")
    assert run_all(tmp_path / "run", LongWalk(8), resume=True)[-1]["iteration"] == 8
    run_all(tmp_path / "whole", LongWalk(8))
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    assert not (tmp_path / "run" / "evaluation.json").exists()  # it measured another policy
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["iterations"] == 8


def test_a_run_may_not_be_made_shorter(tmp_path):
    run_all(tmp_path / "run", LongWalk(6))
    with pytest.raises(ConfigError, match=r"begun with iterations 6, but now iterations is 4; .*larger"):
        run_all(tmp_path / "run", LongWalk(4), resume=True)


def test_a_configuration_that_was_edited_does_not_go_on_as_if_nothing_were(tmp_path):
    stopped(tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"scale": 0.5}))
    with pytest.raises(ConfigError, match=r"scale 1e-05, but now scale is 0\.5.*config\.yaml was changed"):
        run_all(tmp_path / "run", Walk(replace(WalkConfig(), scale=0.5)), resume=True)


def test_keys_that_an_older_version_did_not_know_have_their_defaults(tmp_path):
    stopped(tmp_path / "run")
    path = tmp_path / "run" / "config.yaml"
    old = yaml.safe_load(path.read_text())
    del old["scale"]
    path.write_text(yaml.safe_dump(old))
    with pytest.raises(ConfigError, match=r"begun with scale 1e-05, but now scale is 0\.5"):
        run_all(tmp_path / "run", Walk(replace(WalkConfig(), scale=0.5)), resume=True)
    run_all(tmp_path / "run", resume=True)
    path.write_text(yaml.safe_dump(old | {"newer": 1}))
    with pytest.raises(ConfigError, match=r"begun with newer 1.*this version does not know that key"):
        run_all(tmp_path / "run", resume=True)


@pytest.mark.parametrize("kind", ["another row", "fewer rows", "gone", "a folder"])
def test_data_that_were_changed_are_named(tmp_path, kind):
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')

    class Reader(LongWalk):
        def __init__(self, on_step=None):
            super().__init__(on_step=on_step, data=str(data))

    stopped(tmp_path / "run", trainer=Reader)
    text = data.read_text()
    if kind in ("gone", "a folder"):
        data.unlink()
    if kind == "a folder":
        data.mkdir()
    if kind == "another row":
        data.write_text(text.replace("b", "c"))
    if kind == "fewer rows":
        data.write_text(text.splitlines(keepends=True)[0])
    with pytest.raises(ConfigError, match=r"the content of data '.*data.jsonl' is not what it was at the checkpoint"):
        run_all(tmp_path / "run", Reader(), resume=True)
    if kind == "a folder":
        data.rmdir()
    data.write_text(text)
    assert run_all(tmp_path / "run", Reader(), resume=True)[-1]["iteration"] == 6


def test_a_fingerprint_sees_weights_and_not_notes(tmp_path):
    model = tmp_path / "model"
    (model / "critic").mkdir(parents=True)
    (model / "critic" / "model.safetensors").write_bytes(b"1234")
    (model / "config.json").write_text("{}")
    first = fingerprint(model)
    (model / "README.md").write_text("notes")
    assert fingerprint(model) == first
    (model / "critic" / "model.safetensors").write_bytes(b"1235")
    assert fingerprint(model) != first
    config = {"model": "../model", "data": "pocket", "prompts": str(tmp_path / "absent"), "seed": 1}
    assert set(fingerprints(config, tmp_path / "run")) == {"model"}


def test_a_fingerprint_of_a_large_file_reads_its_beginning_its_end_and_between(tmp_path):
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        file.truncate(WHOLE + PLACE)  # zeros that take no room
    seen = {fingerprint(path)}
    for place in (0, WHOLE + PLACE - 1, (WHOLE + PLACE) // 2):
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(b"x")
        seen.add(fingerprint(path))
    assert len(seen) >= 3


# Refusals that leave nothing


def test_what_is_refused_leaves_nothing_behind(tmp_path):
    run = RunFolder(tmp_path / "a" / "b")

    def refuse():
        with run.held({"seed": 1}):
            run.begin({"seed": 1})
            assert (tmp_path / "a" / "b" / "config.yaml").exists()
            raise ConfigError("too late")

    with pytest.raises(ConfigError, match="too late"):
        refuse()
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_first_iteration_failed_does_not_bar_the_corrected_one(tmp_path):
    def fail(trainer):
        raise ValueError("no reward")

    with pytest.raises(ValueError, match="no reward"):
        run_all(tmp_path / "run", Walk(on_step=fail))
    assert list(tmp_path.iterdir()) == []
    run_all(tmp_path / "run", Walk(replace(WalkConfig(), seed=1)))


def test_a_relative_folder_stays_where_it_was_when_a_reward_function_goes_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    def go(trainer):
        os.chdir(tmp_path / "elsewhere")

    run_all("run", Walk(on_step=go))
    assert RunFolder(tmp_path / "run", resume=True).finished
    assert list((tmp_path / "elsewhere").iterdir()) == []


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["state", "record"])
def test_a_signal_while_a_checkpoint_is_written_stops_the_run_there(tmp_path, monkeypatch, number, moment):
    """A job that is preempted must not train on until it is killed."""

    class Slow(Walk):
        def state(self):
            if self.iteration == 2 and moment == "state":
                os.kill(os.getpid(), number)
            return super().state()

        def samples(self):
            if self.iteration == 2 and moment == "record":
                os.kill(os.getpid(), number)
            return super().samples()

    with pytest.raises(Interrupted, match="after iteration 2 of 5"):
        run_all(tmp_path / "run", Slow(), every=2 if moment == "state" else 100)
    assert [path.name for path in saved_checkpoints(tmp_path / "run" / "checkpoints")] == ["000002"]
    run_all(tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == whole(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_between_two_iterations_stops_after_the_next(tmp_path, number):
    """As while metrics are sent to a tracker."""
    before = signal.getsignal(number)
    seen = []

    def run():
        with deferred_signals():
            for metrics in fit(Walk(), RunFolder(tmp_path / "run"), 100, progress=False):
                seen.append(metrics["iteration"])
                if metrics["iteration"] == 2:
                    os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match="after iteration 3 of 5"):
        run()
    assert seen == [1, 2, 3]
    assert signal.getsignal(number) == before
    assert saved_checkpoints(tmp_path / "run" / "checkpoints")[-1].name == "000003"


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 kB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("left", range(0, 32_000, 4_000))
def test_on_a_full_disk_the_last_good_checkpoint_stays_and_the_run_goes_on_when_there_is_room(
    small_disk, tmp_path, left
):
    class Heavy(Walk):
        def state(self):
            tensors, values = super().state()
            return {**tensors, "weights": torch.zeros(4_000)}, values

    def fill(trainer):
        if trainer.iteration == 3:
            room = shutil.disk_usage(small_disk).free - left
            (small_disk / "ballast").write_bytes(b"x" * max(0, room))

    with pytest.raises(BadInput, match=r"No space left on device.*make room there .* --resume"):
        run_all(small_disk / "run", Heavy(on_step=fill), every=1)
    saved = saved_checkpoints(small_disk / "run" / "checkpoints")
    assert load_checkpoint(saved[-1])[1]["trainer"]["iteration"] in (2, 3, 4)
    (small_disk / "ballast").unlink()
    run_all(small_disk / "run", Heavy(), resume=True, every=1)
    assert contents(small_disk / "run") == whole(tmp_path / "whole")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(BadInput, match="cannot be written: Permission denied; give a folder that you may write to"):
        run_all(tmp_path / "run")


@pytest.mark.parametrize("name", ["file/run", "/proc/run"])
def test_a_place_that_takes_no_folder_is_refused_before_anything_is_loaded(tmp_path, name):
    (tmp_path / "file").write_text("")
    run = RunFolder(tmp_path / name)
    with pytest.raises(BadInput, match="cannot be written"), run.held({"seed": 0}):
        pytest.fail("the work has begun")
    assert Path(tmp_path / "file").read_text() == ""
