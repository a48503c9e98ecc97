"""Files of model folders: what is written twice is the same twice."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ppo_lib.models.files import notes_in, save_tensors

NOTES = {"format": "pt", "base": '{"dtype": "float32", "of": "ä"}', "more": "x", "other": "y" * 13}
TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(3, dtype=torch.bfloat16), "c": torch.tensor([1, 2])}


def test_tensors_and_notes_come_back(tmp_path):
    save_tensors(TENSORS, tmp_path / "a.safetensors", NOTES)
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) and found[name].dtype == TENSORS[name].dtype for name in TENSORS)
    assert notes_in(tmp_path / "a.safetensors") == NOTES
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        assert sorted(file.keys()) == ["a", "b", "c"]


def test_the_same_content_gives_the_same_bytes_in_every_process(tmp_path):
    code = "from tests.models.test_files import *; import sys; from pathlib import Path; "
    code += "save_tensors(TENSORS, Path(sys.argv[1]), NOTES)"
    for i in range(3):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / str(i))], check=True, env=os.environ)
    for i in range(40):
        save_tensors(TENSORS, tmp_path / "here", NOTES)
        assert (tmp_path / "here").read_bytes() == (tmp_path / str(i % 3)).read_bytes()


def test_safetensors_alone_would_not_do():
    """If it puts notes in order one day, the function is no longer needed."""
    from safetensors.torch import save

    assert len({save(TENSORS, metadata=NOTES) for _ in range(40)}) > 1


@pytest.mark.parametrize("length", range(8))
def test_the_header_is_as_long_as_it_says(tmp_path, length):
    save_tensors(TENSORS, tmp_path / "a", {"note": "ü" * length})
    content = (tmp_path / "a").read_bytes()
    assert int.from_bytes(content[:8], "little") % 8 == 0
    assert notes_in(tmp_path / "a") == {"note": "ü" * length}
    save_file(load_file(tmp_path / "a"), tmp_path / "b")
    assert torch.equal(load_file(tmp_path / "b")["b"], TENSORS["b"])
