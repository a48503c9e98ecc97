"""SECURITY.md, line by line: what runs code, and what is only read."""

import ast
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from jinja2.exceptions import SecurityError

from ppo_lib.errors import BadInput
from ppo_lib.models.loading import load_causal_lm
from ppo_lib.run.checkpoints import load_checkpoint, save_checkpoint
from ppo_lib.run.data import load_demonstrations
from ppo_lib.run.judge_names import PublishedRewardModel, import_function
from ppo_lib.run.report import write_report
from ppo_lib.trainers.configuration import ConfigError, load_yaml
from tests.tiny import byte_tokenizer, save_classifier, save_tiny

ROOT = Path(__file__).parents[2]
LIBRARY = sorted((ROOT / "ppo_lib").rglob("*.py"))


class Bomb:
    """What a pickle would run."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path, monkeypatch):
    """The tests below all try to make a file of this name."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "ran").exists()


def test_a_configuration_may_import_a_python_function(tmp_path, monkeypatch):
    (tmp_path / "judge_of_security.py").write_text("def f(prompts, responses):\n    return [0.0] * len(responses)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert import_function("judge_of_security:f")(["a"], ["b"]) == [0.0]


@pytest.mark.parametrize("tag", ["!!python/object/apply:pathlib.Path.touch", "!!python/name:os.system", "!ruby/object"])
def test_nothing_else_in_a_configuration_runs_code(tmp_path, tag):
    (tmp_path / "evil.yaml").write_text(f"seed: {tag} [ran]\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_yaml(tmp_path / "evil.yaml")


@pytest.mark.parametrize("load", [load_causal_lm, lambda path: PublishedRewardModel(str(path), torch.device("cpu"))])
def test_weights_are_read_from_safetensors_only(tmp_path, load):
    folder = save_tiny(tmp_path / "model") if load is load_causal_lm else save_classifier(tmp_path / "model", 1)
    for path in Path(folder).glob("*.safetensors*"):
        path.unlink()
    (Path(folder) / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BadInput, match="cannot be loaded"):
        load(folder)


@pytest.mark.parametrize("load", [load_causal_lm, lambda path: PublishedRewardModel(str(path), torch.device("cpu"))])
def test_code_that_comes_with_a_model_is_not_run(tmp_path, load):
    folder = Path(save_tiny(tmp_path / "model") if load is load_causal_lm else save_classifier(tmp_path / "model", 1))
    (folder / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    config = json.loads((folder / "config.json").read_text())
    names = ("AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification")
    config |= {"model_type": "evil", "auto_map": dict.fromkeys(names, "evil.Evil")}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput):
        load(folder)


def test_every_call_that_could_run_a_models_code_says_no():
    """Each ``from_pretrained`` of transformers says so in its own words, or is given options that do."""
    said = set()
    for path in LIBRARY:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                said |= {ast.unparse(k.value) for k in node.keywords if k.arg == "trust_remote_code"}
            if isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                said |= {ast.unparse(v) for k, v in pairs if k is not None and ast.unparse(k) == "'trust_remote_code'"}
    assert said == {"False"}


def test_nothing_is_unpickled(tmp_path):
    for path in LIBRARY:
        text = path.read_text(encoding="utf-8")
        for word in ("import pickle", "torch.load(", "joblib", "import shelve", "eval(compile", "yaml.unsafe"):
            assert word not in text, path
    saved = save_checkpoint(tmp_path / "run" / "checkpoints", 1, {"x": torch.ones(2)}, {})
    for name in ("tensors.safetensors", "values.json"):
        copy = tmp_path / "run" / "checkpoints" / "000002"
        shutil.copytree(saved, copy)
        (copy / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(BadInput, match="cannot be used"):
            load_checkpoint(copy)
        shutil.rmtree(copy)


def test_data_are_lines_of_json_of_which_nothing_is_run(tmp_path):
    (tmp_path / "data.jsonl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(BadInput):
        load_demonstrations(str(tmp_path / "data.jsonl"))
    text = "__import__('pathlib').Path('ran').touch()"
    (tmp_path / "data.jsonl").write_text(json.dumps({"prompt": text, "response": text}) + "\n")
    assert load_demonstrations(str(tmp_path / "data.jsonl")) == [(text, text)]


def test_what_models_write_is_text_in_reports(tmp_path):
    nasty = '<script>alert(1)</script><img src="https://example.org/x" onerror="alert(1)">'
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": nasty}))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"iteration": 1, "loss": 1.0}) + "\n")
    (tmp_path / "samples.jsonl").write_text(json.dumps({"iteration": 1, nasty: nasty, "response": nasty}) + "\n")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "<img" not in page


def test_a_chat_template_runs_in_a_sandbox():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(SecurityError):
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)


def test_the_page_names_only_what_a_test_here_proves():
    """Its lines are those under two headings; each of them stands above."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    lines = [line for line in text.partition("## Reporting")[0].split("\n") if line.startswith("- ")]
    assert len(lines) == 7
