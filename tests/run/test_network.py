"""The recipes that need the hub, run as a user runs them, against a stand-in for it on this machine.

Commands run in processes of their own, with a fresh cache and ``HF_ENDPOINT``, so that huggingface_hub, transformers
and datasets go their real ways. What is proved: both recipes run from the hub, and once more without it from the cache
alone; only pinned commits are asked for; and what cannot be had ends in one sentence.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ppo_lib.models.hub import pinned_data
from ppo_lib.trainers.configuration import load_recipe

pytest.importorskip("datasets", reason="the package datasets is missing, which reads the hub's data sets")

from hub_content import make_hub
from standin_hub import Hub, serving

pytestmark = pytest.mark.slow
RECIPES = ("preferences", "gsm8k")
NOBODY = "http://localhost:1"
GONE = "0" * 40
MODEL, DATA = (load_recipe("gsm8k")["ppo"][key] for key in ("model", "prompts"))
COMMIT = pinned_data(DATA).commit
SMALLER = [
    "device=cpu", "iterations=2", "rollout_batch=4", "minibatch=2", "ppo.microbatch=2", "max_new_tokens=8",
    "evaluation.count=4",
]  # fmt: skip
STEPS = ["max_steps=1", "batch=4"]  # of the stages before PPO
SEVERAL = """
import contextlib, io, json, sys
from ppo_lib.run.cli import main

answers = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.redirect_stderr(text):
        code = main(arguments)  # what it does not catch ends this process
    answers.append((code, text.getvalue().splitlines()[-1]))
print(json.dumps(answers))
"""


def align(recipe: str, out: Path, *settings: str) -> list[str]:
    """The arguments of a small run."""
    settings = (*SMALLER, *(STEPS if recipe == "preferences" else []), *settings)
    return ["align", "--recipe", recipe, "--out", str(out), "--quiet", *(x for s in settings for x in ("--set", s))]


def start(command: list[str], home: Path, endpoint: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    """A process of Python with a cache and a hub of its own, to its end."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "NO_PROXY": "localhost", "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    command = [sys.executable, *command]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def succeed(*calls: tuple) -> None:
    """Commands of the library with their surroundings, beside each other; each has to come to its end."""
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(lambda call: start(["-m", "ppo_lib", *call[0]], *call[1:]), calls):
            assert done.returncode == 0, done.stdout + done.stderr


def answers(commands: list[list[str]], *surroundings: object) -> list[tuple[int, str]]:
    """Exit code and last line of several commands; one process for all, since importing takes longer than they do."""
    done = start(["-c", SEVERAL, json.dumps(commands)], *surroundings)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def refusals(commands: list[list[str]], *surroundings: object) -> list[str]:
    """The one sentence with which each of the commands refuses."""
    told = answers(commands, *surroundings)
    for code, line in told:
        assert code == 2
        assert line.startswith("ppo_lib: ")
    return [line for _, line in told]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The hub with the recipes' models and data sets, at work."""
    with serving(make_hub(tmp_path_factory.mktemp("hub"))) as hub:
        yield hub


@pytest.fixture(scope="module")
def filled(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which both recipes have run, with the cache that they filled."""
    folder = tmp_path_factory.mktemp("filled")
    succeed(*((align(recipe, folder / recipe), folder / "home", hub.endpoint) for recipe in RECIPES))
    return folder


def test_preferences_runs_from_the_hub_through_all_stages(filled):
    result = json.loads((filled / "preferences/evaluation.json").read_text())
    assert result["heldout"]
    assert result["prompts"] == 4
    assert set(result["wins"]) == {"score", "heldout"}
    assert result["reward_accuracy"]["count"] == 5  # of eight held-out pairs, three with an empty answer are left out
    assert result["rows"][0]["prompt"] == "Name 0."
    for stage in ("sft", "reward", "ppo"):
        assert (filled / "preferences" / stage / "model").is_dir()
    assert (filled / "preferences/report.html").is_file()


def test_gsm8k_runs_from_the_hub_and_is_measured_greedily(filled):
    result = json.loads((filled / "gsm8k/evaluation.json").read_text())
    assert result["heldout"]
    assert result["greedy"]
    assert set(result["correct"]) == {"score", "heldout"}
    assert result["rows"][0]["prompt"].startswith("Ann has 1 pears and buys 1000 more.")
    adapter = json.loads((filled / "gsm8k/ppo/model/adapter_config.json").read_text())
    assert f"{adapter['base_model_name_or_path']}@{adapter['revision']}" == MODEL


def test_only_pinned_commits_are_asked_for(hub, filled):
    files = [request for request in hub.asked if "/resolve/" in request or "/tree/" in request]
    assert len(files) > 20
    commits = {repository.commit for repository in hub.repositories.values()} | {GONE}
    assert not [request for request in files if not any(commit in request for commit in commits)]


def test_what_has_run_once_runs_again_without_a_hub_and_gives_the_same(hub, filled, tmp_path):
    home, asked = filled / "home", len(hub.asked)
    succeed(*((align(recipe, tmp_path / recipe), home, NOBODY, True) for recipe in RECIPES))
    for recipe in RECIPES:
        first, second = (json.loads((at / recipe / "evaluation.json").read_text()) for at in (filled, tmp_path))
        assert first == second
    assert len(hub.asked) == asked


def test_pin_prints_what_a_configuration_wants_and_what_is_not_there_is_refused_at_once(hub, filled, tmp_path):
    hub.moved["gsm8k"] = "openai/gsm8k"
    pins = [["pin", "Qwen/Qwen2.5-0.5B-Instruct"], ["pin", "gsm8k", "--dataset"]]
    gone, out, model = "that commit is not there (any more); pin another one", tmp_path / "out", pins[0][1]
    cases = {  # what cannot be, the recipe and what is told
        f"ppo.prompts=openai/gsm8k/main@{GONE}:train": ("gsm8k", gone),
        f"ppo.prompts=openai/gsm9k@{GONE}:train": ("gsm8k", "check the spelling"),
        f"ppo.prompts=openai/gsm8k@{COMMIT}:train": ("gsm8k", "write OWNER/NAME/CONFIG@COMMIT:SPLIT"),
        f"ppo.prompts=openai/gsm8k/main@{COMMIT}:trian": ("gsm8k", "Should be one of ['train', 'test']"),
        f"ppo.model={model}@{GONE}": ("gsm8k", gone),
        f"ppo.heldout_judge=Skywork/Skywork-Reward-V2-Qwen3-1.7B@{GONE}": ("preferences", gone),
        f"ppo.heldout_judge={MODEL}": ("preferences", "is no reward model"),
    }
    runs = [align(recipe, out, setting) for setting, (recipe, _) in cases.items()]
    pinned, moved, *told = answers([*pins, *runs], filled / "home", hub.endpoint)
    assert pinned == [0, MODEL]
    assert moved == [0, f"openai/gsm8k@{COMMIT}:train"]  # by the name that it has now
    for (setting, (_, words)), (code, line) in zip(cases.items(), told, strict=True):
        assert code == 2
        assert setting.partition("=")[2] in line
        assert words in line
    assert not out.exists()  # nothing has begun


def test_without_a_hub_each_refusal_names_the_thing_and_the_remedy(tmp_path):
    (pin,) = refusals([["pin", "openai/gsm8k", "--dataset"]], tmp_path, NOBODY)
    assert "dataset 'openai/gsm8k' cannot be pinned: the hub cannot be reached" in pin
    assert "try again with a network" in pin
    talk, run = ["sample", "--model", MODEL, "--prompt", "Hi"], align("preferences", tmp_path / "a")
    told = refusals([talk, run], tmp_path, NOBODY, True)  # offline: else its client tries again for half a minute
    for what, line in zip((f"model '{MODEL}'", "data 'HuggingFaceH4/ultrafeedback_binarized@"), told, strict=True):
        assert line.startswith(f"ppo_lib: {what}")
        assert "the files are not in its local cache; give a local folder or file, or use --recipe pocket" in line


def test_without_a_hub_another_commit_does_not_stand_in_for_the_one_that_is_named(filled, tmp_path):
    other = f"openai/gsm8k/main@{GONE}:train"
    (told,) = refusals([align("gsm8k", tmp_path / "a", f"ppo.prompts={other}")], filled / "home", NOBODY, True)
    assert f"data '{other}' cannot be loaded" in told
    assert f"the newest in the local cache is another commit, {COMMIT}; try again with a network" in told


def test_a_download_that_breaks_off_is_refused_in_one_sentence(hub, tmp_path):
    hub.broken |= {"tokenizer.json", "main/train-00000-of-00001.parquet"}
    try:
        told = refusals(
            [["sample", "--model", MODEL, "--prompt", "Hi"], align("gsm8k", tmp_path / "a")], tmp_path, hub.endpoint
        )
    finally:
        hub.broken.clear()
    for what, line in zip((f"model '{MODEL}'", f"data '{DATA}'"), told, strict=True):
        assert f"{what} cannot be loaded: the hub cannot be reached" in line
