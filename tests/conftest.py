"""Fixtures of the library's tests; see ``tiny.py`` for the models."""

from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import torch
from tiny import save_tiny

from ppo_lib.models.backbone import Backbone

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no mistake of the code
hypothesis.settings.load_profile("untimed")
torch.set_num_threads(1)  # the models are so small that threads only cost


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that gives the folder of a tiny model; each kind is made once."""
    made: dict[str, Path] = {}

    def folder(architecture: str = "llama", **options: object) -> Path:
        key = repr((architecture, sorted(options.items())))
        if key not in made:
            made[key] = save_tiny(tmp_path_factory.mktemp(architecture), architecture, **options)
        return made[key]

    return folder


@pytest.fixture(scope="session")
def build_tiny(tiny_folder: Callable[..., Path]) -> Callable[..., Backbone]:
    """A function that loads a fresh tiny backbone from its folder, through the door that users take."""

    def build(architecture: str = "llama", dtype: str = "float32", **options: object) -> Backbone:
        return Backbone.from_pretrained(tiny_folder(architecture, **options), dtype=dtype)

    return build
