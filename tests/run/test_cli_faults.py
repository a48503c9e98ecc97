"""The command line under faults: a user's function, kills and signals of real processes, what is refused first."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from ppo_lib.book.jsonl import read_jsonl
from ppo_lib.errors import Diverged
from ppo_lib.run import commands, fitting, stages
from ppo_lib.run.cli import main
from ppo_lib.trainers.optimizer import Optimizer
from tests.run.test_cli import importable, metrics_of, refused, train, world  # noqa: F401  (fixtures)

ROOT = Path(stages.__file__).parents[2]
HEAD = (
    "import os, time\n\ncalls = []\n\n\ndef mine(prompts, responses):\n    calls.append(1)\n    if len(calls) == 3:\n"
)
TAIL = "\n    return [float(len(r)) for r in responses]\n"


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """Writes a module with a reward function whose third call does something else; gives the setting that names it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(body):
        (tmp_path / "judge_here.py").write_text(f"{HEAD}        {body}{TAIL}")
        monkeypatch.delitem(sys.modules, "judge_here", raising=False)
        return ["--set", "reward_model=judge_here:mine", "--checkpoint-every", "1"]

    return write


def check_it_goes_on(world, tmp_path, judge):  # noqa: F811
    """The run whose function was mended ends like one that never failed."""
    mended = judge("pass")
    assert train(world, "ppo", tmp_path / "run", *mended, "--resume") == 0
    assert train(world, "ppo", tmp_path / "whole", *mended) == 0
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return None", "returned None of type NoneType for 4 responses; return a list of one number per response"),
        ("return [1.0]", "returned 1 scores for 4 responses; return one for each"),
        ("return [float('nan')] * 4", "is nan; it must be finite"),
        ("return [1e300] * 4", "is 1e+300; it must be finite, and at most 1e+12 in absolute value"),
        ("return [-1e13] * 4", "is -10000000000000.0; it must be finite"),
        ("return ['1'] * 4", "returned ['1', '1', '1', '1'] of type list"),
        ("return dict.fromkeys(responses)", "of type dict"),
        ("import torch; return torch.ones(4, 1)", "of type Tensor"),
        ("import torch; return torch.tensor(1.0)", "of type Tensor"),
        ("import numpy; return numpy.ones((4, 1))", "of type ndarray"),
        ("return [[1.0]] * 4", "returned [[1.0], [1.0], [1.0], [1.0]]"),
    ],
)
def test_what_a_reward_function_gives_wrongly_is_told_with_its_place_and_the_run_goes_on(
    world, tmp_path, capsys, judge, body, words  # noqa: F811
):  # fmt: skip
    line = refused(capsys, train(world, "ppo", tmp_path / "run", *judge(body)))
    assert words in line
    assert "judge_here.py, line 6" in line
    if words.endswith("each") or "is nan" in words:  # once for each of the two ways
        check_it_goes_on(world, tmp_path, judge)


@pytest.mark.parametrize("body", ["import torch; return torch.ones(4)", "import numpy; return numpy.ones(4)"])
def test_a_row_of_numbers_of_any_make_is_taken(world, tmp_path, judge, body):  # noqa: F811
    assert train(world, "ppo", tmp_path / "run", *judge(body)) == 0


def test_a_fault_in_a_reward_function_is_told_before_its_traceback(world, tmp_path, capsys, judge):  # noqa: F811
    with pytest.raises(ZeroDivisionError) as caught:
        train(world, "ppo", tmp_path / "run", *judge("1 / 0"))
    said = capsys.readouterr().err
    assert "ppo_lib: the reward function judge_here:mine (judge_here.py, line 9) raised ZeroDivisionError" in said
    assert "on 4 responses, the first of them '" in said
    assert "mend it, and go on with --resume" in said
    assert caught.traceback[-1].path.name == "judge_here.py"
    assert caught.value.__notes__ == []  # it is not said twice
    check_it_goes_on(world, tmp_path, judge)


def test_a_reward_function_that_ends_the_process_is_an_error(world, tmp_path, judge):  # noqa: F811
    words = r"judge_here:mine called sys\.exit\(0\) \(judge_here\.py, line 9\) on 4 responses, the first of them"
    with pytest.raises(RuntimeError, match=words):
        train(world, "ppo", tmp_path / "run", *judge("raise SystemExit(0)"))
    check_it_goes_on(world, tmp_path, judge)


def test_ctrl_c_in_a_reward_function_that_hangs_says_where_it_was(world, tmp_path, capsys, judge):  # noqa: F811
    """The first Ctrl-C waits for the iteration; the second one ends the function."""
    body = "os.kill(os.getpid(), 2); os.kill(os.getpid(), 2); time.sleep(60)"
    assert train(world, "ppo", tmp_path / "run", *judge(body)) == 130
    said = capsys.readouterr().err
    assert "stopped in the reward function judge_here:mine (judge_here.py, line 9), asked about 4 responses" in said
    check_it_goes_on(world, tmp_path, judge)


def test_a_reward_function_that_goes_to_another_folder_moves_nothing(world, tmp_path, monkeypatch, judge):  # noqa: F811
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    arguments = judge(f"os.chdir({str(tmp_path / 'elsewhere')!r})")
    assert main(["train", "ppo", "--config", world["recipe"], "--quiet", "--out", "run", *arguments]) == 0
    assert Path.cwd() == tmp_path / "here"
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (tmp_path / "here" / "run" / "model").is_dir()


def test_a_run_that_diverges_is_one_sentence_with_iteration_and_checkpoint(world, tmp_path, monkeypatch, capsys):  # noqa: F811
    step, steps = Optimizer.step, []

    def burst(self, scale=1.0):
        steps.append(1)
        if len(steps) < 3:
            return step(self, scale)
        raise Diverged("the gradient's norm is nan; lower the learning rate")

    monkeypatch.setattr(Optimizer, "step", burst)
    told = "ppo_lib: iteration 3: the gradient's norm is nan; lower the learning rate; "
    assert train(world, "sft", tmp_path / "run", "--checkpoint-every", "1") == 1
    assert capsys.readouterr().err == f"{told}000002 is the last checkpoint\n"
    assert (tmp_path / "run" / "checkpoints" / "000002").is_dir()
    steps.clear()
    assert train(world, "sft", tmp_path / "other", "--checkpoint-every", "3") == 1
    assert capsys.readouterr().err == f"{told}no checkpoint had been written yet\n"


def test_each_stage_counts_its_own_peak_of_a_gpu(world, tmp_path, monkeypatch):  # noqa: F811
    asked = []
    monkeypatch.setattr(fitting.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(fitting, "forget_peak", asked.append)
    monkeypatch.setattr(stages, "pick_device", lambda name: "cpu", raising=False)
    assert train(world, "sft", tmp_path / "run", "--set", "device=cpu") == 0
    assert [device.type for device in asked] == ["cuda"]


@pytest.mark.parametrize("command", [["train", "ppo"], pytest.param(["align"], marks=pytest.mark.slow)])
def test_another_beta_is_refused_before_anything_is_loaded(world, tmp_path, monkeypatch, capsys, command):  # noqa: F811
    def load(*arguments, **options):
        pytest.fail("it was loaded")

    out = ["--config", world["recipe"], "--quiet", "--out", str(tmp_path / "run")]
    assert main([*command, *out]) == 0
    (tmp_path / "run" / "manifest.json").unlink(missing_ok=True)
    for name in ("memory_plan", "build", "check_inputs"):
        monkeypatch.setattr(commands, name, load)
    capsys.readouterr()
    setting = "beta=0.7" if command == ["train", "ppo"] else "ppo.beta=0.7"
    line = refused(capsys, main([*command, *out, "--resume", "--set", setting]))
    assert "beta 0.1, but now" in line
    (tmp_path / "file").write_text("")
    line = refused(capsys, main([*command, "--config", world["recipe"], "--out", str(tmp_path / "file" / "run")]))
    assert "cannot be written" in line


@pytest.mark.slow
def test_an_aligned_run_is_made_longer(world, tmp_path, monkeypatch, capsys):  # noqa: F811
    out = ["--config", world["recipe"], "--quiet", "--out", str(tmp_path / "run"), "--set"]
    assert main(["align", *out, "iterations=2"]) == 0
    before = (tmp_path / "run" / "sft" / "metrics.jsonl").read_bytes()
    assert main(["align", *out, "iterations=4", "--resume"]) == 0
    assert [row["iteration"] for row in metrics_of(tmp_path / "run" / "ppo")] == [1, 2, 3, 4]
    assert (tmp_path / "run" / "sft" / "metrics.jsonl").read_bytes() == before
    assert "iterations: 4" in (tmp_path / "run" / "config.yaml").read_text()
    capsys.readouterr()
    line = refused(capsys, main(["align", *out, "iterations=3", "--resume"]))
    assert "begun with ppo.iterations 4, but now ppo.iterations is 3" in line


def test_prompts_that_were_changed_are_named(world, tmp_path, capsys, judge):  # noqa: F811
    data = tmp_path / "prompts.jsonl"
    data.write_text(Path(world["prompts"]).read_text())
    arguments = ["--set", f"prompts={data}"]
    with pytest.raises(ZeroDivisionError):
        train(world, "ppo", tmp_path / "run", *judge("1 / 0"), *arguments)
    data.write_text("\n".join(data.read_text().split("\n")[1:]))
    capsys.readouterr()
    line = refused(capsys, train(world, "ppo", tmp_path / "run", *judge("pass"), *arguments, "--resume"))
    assert "the content of prompts" in line
    assert "prompts.jsonl' is not what it was at the checkpoint" in line


def test_a_function_that_was_mended_is_named_and_goes_on(world, tmp_path, judge):  # noqa: F811
    with pytest.raises(ZeroDivisionError):
        train(world, "ppo", tmp_path / "run", *judge("1 / 0"))
    with pytest.warns(
        UserWarning, match="the module of reward_model 'judge_here:mine' has changed since the checkpoint"
    ):
        assert train(world, "ppo", tmp_path / "run", *judge("pass"), "--resume") == 0


def test_a_function_that_is_as_it_was_is_not_spoken_of(world, tmp_path, judge):  # noqa: F811
    with pytest.raises(ZeroDivisionError):
        train(world, "ppo", tmp_path / "run", *judge("1 / 0"))
    with warnings.catch_warnings(record=True) as said, contextlib.suppress(ZeroDivisionError):
        warnings.simplefilter("always")
        train(world, "ppo", tmp_path / "run", *judge("1 / 0"), "--resume")
    assert not [warning for warning in said if "the module of" in str(warning.message)]


# Real processes

STAGES = ("sft", "reward", "dpo", "ppo", "grpo")
MOMENTS = 20


@pytest.fixture(scope="module")
def server(world):  # noqa: F811
    """A process that has imported everything, and forks a run for each line; imports would be most of the time."""
    code = (
        "import os, sys, json, torch, signal\nimport ppo_lib.run.commands\nfrom ppo_lib.run.cli import main\n"
        "torch.set_num_threads(1)\nprint('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        sys.stdout = sys.stderr = open(os.devnull, 'w')\n"
        "        code = 99\n"
        "        try:\n            code = main(json.loads(line))\n"
        "        finally:\n            os._exit(code)\n"
        "    print(child, flush=True)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{world['folder']}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.stdin.close()
    process.wait()


def run_and_signal(server, arguments, after=None, number=signal.SIGKILL):
    """The exit code of a run that gets a signal after so many seconds; None: none."""
    server.stdin.write(json.dumps(arguments) + "\n")
    server.stdin.flush()
    child = int(server.stdout.readline())
    if after is not None:
        after() if callable(after) else time.sleep(after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
    return int(server.stdout.readline())


def bytes_of(folder):
    """Samples and weights, to the last bit; the adapter's file names the model by its path, which is the same."""
    files = [path for path in sorted((folder / "model").rglob("*")) if path.is_file()]
    content = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    if (folder / "samples.jsonl").exists():
        content["samples.jsonl"] = (folder / "samples.jsonl").read_bytes()
    return content


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_twenty_random_moments_a_stage_ends_with_the_same_bits(world, tmp_path, server, stage):  # noqa: F811
    """Each kill is followed by a resume, which the next kill may hit; moments are drawn over the time of a run."""
    generator = random.Random(f"moments of {stage}")
    command = ["train", stage, "--config", world["recipe"], "--quiet", "--checkpoint-every", "1", "--out"]
    seed = ["--set", "seed=7"]
    start = time.monotonic()
    assert run_and_signal(server, [*command, str(tmp_path / "whole"), *seed]) == 0
    length = time.monotonic() - start
    kills = 0
    for folder in (tmp_path / f"killed{i}" for i in range(5 * MOMENTS)):  # one each: a finished run is not killed again
        for _ in range(2):
            code = run_and_signal(server, [*command, str(folder), *seed, "--resume"], generator.uniform(0.05, length))
            kills += code == -signal.SIGKILL
            assert code in (0, -signal.SIGKILL)
        assert run_and_signal(server, [*command, str(folder), *seed, "--resume"]) == 0
        assert metrics_of(folder) == metrics_of(tmp_path / "whole")
        assert bytes_of(folder) == bytes_of(tmp_path / "whole")
        if kills >= MOMENTS:
            break
    assert kills >= MOMENTS


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_within_one_step_and_with_a_checkpoint(world, tmp_path, server, number):  # noqa: F811
    """Sent when so many lines of metrics stand there; no iteration that was done is lost."""
    generator = random.Random(int(number))
    command = ["train", "ppo", "--config", world["recipe"], "--quiet", "--set", "iterations=100", "--out"]
    for i in range(3):
        path, target = tmp_path / f"stopped{i}" / "metrics.jsonl", generator.randint(1, 20)

        def reached(path=path, target=target):
            patience = time.monotonic() + 120
            while not path.exists() or path.read_bytes().count(b"\n") < target:
                assert time.monotonic() < patience, "the run does not get on"
                time.sleep(0.001)

        assert run_and_signal(server, [*command, str(path.parent)], reached, number) == 128 + number
        rows = read_jsonl(path)
        assert target <= len(rows) < 100
        saved = sorted(path.name for path in (path.parent / "checkpoints").iterdir())
        assert saved[-1] == f"{rows[-1]['iteration']:06d}"
