"""Single functions beside those of TRL, torchtune, veRL and OpenRLHF, on a CPU, row by row of ``table.py``.

Their modules are imported from the released packages as they are. Packages that those import and that this machine
lacks (ray, flash_attn, deepspeed) are replaced by empty ones: no function compared here uses them.
"""

import importlib
import importlib.util
import os
import sys
import types
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from unittest.mock import MagicMock

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import pytest
import torch

if importlib.util.find_spec("verl") is None:
    pytest.skip("make test-peers installs the other trainers beside the project", allow_module_level=True)

from ppo_lib.formulas.advantages import gae
from ppo_lib.formulas.kl import AdaptiveKL, kl_estimate
from ppo_lib.formulas.losses import clipped_policy_loss, value_loss
from ppo_lib.formulas.masking import whiten
from ppo_lib.formulas.rewards import augmented_rewards
from tests.peers.table import PEERS, ROWS, SAME

ABSENT = ("ray", "flash_attn", "deepspeed", "pylatexenc", "omegaconf", "tensordict", "torchao", "hydra", "codetiming")


class Empty(MetaPathFinder, Loader):
    """Finds packages that are not installed, and gives modules with nothing in them."""

    def find_spec(self, name, path, target=None):
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in ABSENT else None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: MagicMock() if not name.startswith("__") else None
        return module

    def exec_module(self, module):
        pass


def from_file(name: str, *parts: str):
    """A module of an installed package by its file, where the package itself cannot be imported."""
    root = Path(importlib.util.find_spec(name.partition(".")[0]).origin or "").parent
    spec = importlib.util.spec_from_file_location(name, root.joinpath(*parts))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def peers():
    sys.meta_path.append(Empty())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda function=None, **_: function or (lambda f: f))
        package = types.ModuleType("openrlhf.models")
        package.__path__ = [str(Path(importlib.util.find_spec("openrlhf").origin).parent / "models")]
        patch.setitem(sys.modules, "openrlhf.models", package)
        open_utils = importlib.import_module("openrlhf.models.utils")
        open_loss = importlib.import_module("openrlhf.models.loss")
        open_kl = from_file("openrlhf.kl", "trainer", "ppo_utils", "kl_controller.py")
        tune_root = types.ModuleType("torchtune")
        place = next(Path(p) / "torchtune" for p in sys.path if (Path(p) / "torchtune").is_dir())
        rewards_spec = importlib.util.spec_from_file_location("tune_rewards", place / "rlhf" / "rewards.py")
        tune = importlib.util.module_from_spec(rewards_spec)
        rewards_spec.loader.exec_module(tune)
        tune_root.rlhf = tune
        patch.setitem(sys.modules, "torchtune", tune_root)
        loss_spec = importlib.util.spec_from_file_location("tune_loss", place / "rlhf" / "loss" / "ppo.py")
        tune_loss = importlib.util.module_from_spec(loss_spec)
        loss_spec.loader.exec_module(tune_loss)
        yield types.SimpleNamespace(
            trl=importlib.import_module("trl.experimental.ppo.ppo_trainer"),
            tune=tune,
            tune_loss=tune_loss.PPOLoss,
            verl=importlib.import_module("verl.trainer.ppo.core_algos"),
            open=open_utils,
            open_loss=open_loss,
            open_kl=open_kl,
        )


def example():
    """Numbers that touch every branch: clipped ratios both ways, a token 30 nats off, padding of any length."""
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(6, 7, generator=generator, dtype=torch.float64) for _ in range(7)]
    logprobs, ref, old, advantages, values, old_values, returns = draw
    lengths = torch.tensor([1, 2, 4, 6, 7, 7])
    mask = (torch.arange(7) < lengths[:, None]).double()
    logprobs[4, 2], ref[4, 2] = -30.0, -0.5
    ref[5, 2], old[3, 1], logprobs[3, 1] = -40.0, -35.0, -1.0
    advantages[3, 1] = 1e-3  # of a positive one: nothing but the clip's ceiling is seen
    advantages[4, 2] = -1.0
    return types.SimpleNamespace(
        logprobs=logprobs, ref=ref, old=old, advantages=advantages, values=values, old_values=old_values,
        returns=returns, mask=mask, lengths=lengths, scores=torch.randn(6, generator=generator, dtype=torch.float64),
    )  # fmt: skip


def kl(kind):
    def pair(p, e):
        ours = kl_estimate(e.logprobs, e.ref, kind) * e.mask
        verl = p.verl.kl_penalty(e.logprobs, e.ref, kind) * e.mask
        return ours, None, None, verl, p.open.compute_approx_kl(e.logprobs, e.ref, kl_estimator=kind) * e.mask

    return pair


def rewards(p, e):
    small = (e.logprobs - e.ref).clamp(-5, 5) * e.mask
    ours = augmented_rewards(e.scores, small, e.mask, 0.1)
    tune, _, _ = p.tune.get_rewards_ppo(e.scores, small, torch.zeros_like(small), 0.1, e.lengths - 1)
    return ours, None, tune, None, p.open.compute_reward(e.scores, 0.1, small, e.mask)


def of_gae(part):
    def pair(p, e):
        values, given = e.values * e.mask, e.returns * e.mask
        raw, returns = gae(given, values, e.mask, 0.95, 0.9)
        tune = p.tune.estimate_advantages(values.clone(), given.clone(), 0.95, 0.9, e.mask.bool())
        verl = p.verl.compute_gae_advantage_return(given, values, e.mask, 0.95, 0.9)
        ours = (whiten(raw, e.mask), returns)[part]
        return ours, None, tune[part] * e.mask, verl[part] * e.mask, None

    return pair


def whitened(shift):
    def pair(p, e):
        ours, x = whiten(e.values, e.mask, shift_mean=shift), e.values * e.mask
        verl = importlib.import_module("verl.utils.torch_functional").masked_whiten(x, e.mask, shift)
        tune, trl = p.tune.whiten(x, e.mask, shift), p.trl.masked_whiten(x, e.mask.bool(), shift)
        return ours, trl * e.mask, tune * e.mask, verl * e.mask, None

    return pair


def policy(dual):
    def pair(p, e):
        old = e.logprobs - (e.logprobs - e.old).clamp(-5, 5) if dual else e.old
        ours = clipped_policy_loss(e.logprobs, old, e.advantages, e.mask, 0.2, dual).loss
        verl = p.verl.compute_policy_loss(old, e.logprobs, e.advantages, e.mask, 0.2, clip_ratio_c=dual or 1e9)[0]
        theirs = p.open_loss.PolicyLoss(dual_clip=dual)(e.logprobs, old, e.advantages, e.mask)
        tune = None
        if not dual:
            zeros = torch.zeros_like(e.values)
            tune = p.tune_loss(epsilon=0.2)(
                old, e.logprobs, e.advantages, zeros, zeros, zeros, e.mask.bool(), e.mask.bool()
            )[1]
        return ours, None, tune, verl, theirs[0] if isinstance(theirs, tuple) else theirs

    return pair


def value(p, e):
    ours = value_loss(e.values, e.returns, e.mask, e.old_values, 0.2)
    zeros = torch.zeros_like(e.values)
    tune = p.tune_loss(value_clip_range=0.2)(
        zeros, zeros, zeros, e.old_values, e.values, e.returns, e.mask.bool(), e.mask.bool()
    )[2]
    verl = p.verl.compute_value_loss(e.values, e.returns, e.old_values, e.mask, 0.2)[0]
    theirs = p.open_loss.ValueLoss(clip_eps=0.2)(e.values, e.old_values, e.returns, e.mask)
    return ours, None, tune, verl, theirs[0] if isinstance(theirs, tuple) else theirs


def beta(p, e):
    found = []
    for make in (AdaptiveKL, p.verl.AdaptiveKLController, p.open_kl.AdaptiveKLController):
        controller = make(0.1, 6.0, 1000)
        for current in (2.0, 6.5, 40.0, 5.9):
            controller.update(current, 64)
        found.append(torch.tensor(getattr(controller, "beta", getattr(controller, "value", None)), dtype=torch.float64))
    return found[0], None, None, found[1], found[2]


COMPARED = {
    "k1": kl("k1"),
    "k2": kl("k2"),
    "k3": kl("k3"),
    "augmented rewards": rewards,
    "GAE: returns": of_gae(1),
    "GAE: advantages": of_gae(0),
    "whitening": whitened(True),
    "whitening, mean kept": whitened(False),
    "policy loss": policy(None),
    "dual clip": policy(3.0),
    "value loss": value,
    "adaptive beta": beta,
}
HALVED = "differs, because the square is halved"


def test_these_are_the_releases_that_the_table_names():
    assert tuple(f"{name} {version(name.lower())}" for name in ("TRL", "torchtune", "veRL", "OpenRLHF")) == PEERS
    assert list(COMPARED) == list(ROWS)


@pytest.mark.parametrize("what", COMPARED)
def test_every_row_of_the_table_is_as_it_says(peers, what):
    ours, *theirs = COMPARED[what](peers, example())
    assert bool(torch.isfinite(ours).all())
    for peer, verdict, number in zip(PEERS, ROWS[what], theirs, strict=True):
        assert (number is None) == (verdict == ""), peer
        if number is None:
            continue
        tolerance = 1e-6 if number.dtype == torch.float32 else 1e-7
        equal = torch.allclose(number.double(), ours, atol=tolerance, rtol=tolerance)
        assert equal == (verdict == SAME), (peer, number, ours)
        if verdict == HALVED:
            torch.testing.assert_close(2 * number.double(), ours, atol=1e-9, rtol=0)
