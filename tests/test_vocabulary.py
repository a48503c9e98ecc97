"""``from ppo_lib import gae``: the book's words are there, cheap until they are used, and the same in both lists."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import ppo_lib

# What a notebook needs and a formula does not; each takes a second or more to import, or may be missing.
HEAVY = ("torchvision", "datasets", "plotly", "IPython", "ipywidgets", "matplotlib")
MEASURE = """
import json, sys, time
start = time.perf_counter()
import ppo_lib
seconds, torch = time.perf_counter() - start, "torch" in sys.modules
for name in ppo_lib.__all__:
    getattr(ppo_lib, name)
print(json.dumps({"seconds": seconds, "torch": torch, "modules": sorted({m.partition(".")[0] for m in sys.modules})}))
"""


def test_the_package_costs_nothing_and_its_words_load_nothing_of_a_notebook():
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["seconds"] < 0.3
    assert not found["torch"]
    assert "torch" in found["modules"]
    assert [name for name in HEAVY if name in found["modules"]] == []


def test_every_word_is_the_one_of_its_room():
    assert len(ppo_lib.__all__) == len(set(ppo_lib.__all__))
    for name in ppo_lib.__all__:
        assert getattr(ppo_lib, name).__name__ == name
        assert getattr(ppo_lib, name).__module__ == ppo_lib._HOMES[name]
    assert set(ppo_lib.__all__) <= set(dir(ppo_lib))


def test_editors_are_told_the_same_as_python():
    tree = ast.parse(Path(ppo_lib.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    told = {alias.asname: node.module for node in block.body for alias in node.names}
    assert told == ppo_lib._HOMES


def test_a_word_that_is_not_there_is_refused_as_python_does():
    with pytest.raises(AttributeError, match="module 'ppo_lib' has no attribute 'gea'"):
        ppo_lib.gea  # noqa: B018
    with pytest.raises(ImportError):
        from ppo_lib import gea  # noqa: F401
