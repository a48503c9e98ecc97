"""What several tests of models need."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import randomise

from ppo_lib.models.actor_critic import ActorCritic
from ppo_lib.models.backbone import Backbone


@pytest.fixture
def policy_folder(build_tiny: Callable[..., Backbone], tmp_path: Path) -> Path:
    """The folder of a policy whose adapter changes something."""
    policy = ActorCritic(build_tiny(), 4)
    randomise(policy.parameters_to_train(), scale=0.1)
    policy.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"
