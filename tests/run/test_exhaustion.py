"""Out of memory: the advice fits the place."""

import pytest
import torch

from ppo_lib.run.exhaustion import ELSEWHERE, advice
from ppo_lib.sampling import rollout
from ppo_lib.trainers.ppo import PPOTrainer
from tests.run.test_cli import importable, train, world  # noqa: F401  (fixtures)


def full(*arguments, **options):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore lines")


@pytest.mark.parametrize(
    ("owner", "name", "words"),
    [
        (rollout, "draw", "while responses were sampled; lower batch or max_new_tokens"),
        (PPOTrainer, "loss", "while the model was trained; lower microbatch"),
        (PPOTrainer, "look_again", "while the model was trained; lower microbatch"),
    ],
)
def test_the_advice_is_that_of_the_innermost_place(world, tmp_path, monkeypatch, capsys, owner, name, words):  # noqa: F811
    assert hasattr(owner, name)
    monkeypatch.setattr(owner, name, full)
    assert train(world, "ppo", tmp_path / "run") == 1
    said = capsys.readouterr().err
    assert f"out of memory (CUDA out of memory. Tried to allocate 2 GiB.) {words}" in said
    assert said.count("\n") == 1


def test_elsewhere_it_is_general():
    with pytest.raises(torch.OutOfMemoryError) as caught:
        full()
    assert advice(caught.value) == ELSEWHERE
