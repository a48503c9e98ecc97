"""Single functions beside those of TRL, torchtune, veRL and OpenRLHF, on a CPU, row by row of ``table.py``.

Their modules are imported from the released packages as they are. Packages that those import and that this machine
lacks (ray, flash_attn, deepspeed) are replaced by empty ones: no function compared here uses them.
"""

import importlib
import importlib.util
import os
import sys
import types
from functools import cache
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

# Packages that this machine lacks, and parts of veRL that only configure and track its runs.
EMPTY = ("ray", "flash_attn", "deepspeed", "omegaconf", "tensordict", "verl.workers", "verl.trainer.config")


class Empty(MetaPathFinder, Loader):
    """Finds packages that are not needed, and gives modules with nothing in them."""

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=True) if f"{name}.".startswith(tuple(f"{e}." for e in EMPTY)) else None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = anything
        return module

    def exec_module(self, module):
        pass


def anything(name):
    """Whatever is asked of an empty module; it has no special names."""
    if name.startswith("__"):
        raise AttributeError(name)
    return MagicMock()


@cache
def place_of(package: str) -> Path:
    """Where an installed package lies; it is not imported, and remembered for when a bare one bears its name."""
    return Path(next(iter(importlib.util.find_spec(package).submodule_search_locations)))


def bare(patch, name: str):
    """A package whose modules can be imported though its own ``__init__`` is not run."""
    root, *parts = name.split(".")
    package = types.ModuleType(name)
    package.__path__ = [str(place_of(root).joinpath(*parts))]
    package.__getattr__ = anything
    patch.setitem(sys.modules, name, package)
    if parts:
        setattr(sys.modules[name.rpartition(".")[0]], parts[-1], package)


def from_file(patch, name: str, *parts: str):
    """A module by its file, under a name of its own."""
    spec = importlib.util.spec_from_file_location(name, place_of(parts[0]).joinpath(*parts[1:]))
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def peers():
    for name in ("torchtune", "openrlhf", "verl"):
        place_of(name)
    with pytest.MonkeyPatch.context() as patch:
        trl = importlib.import_module("trl.experimental.ppo.ppo_trainer")  # before anything is emptied
        tune, controller = (
            from_file(patch, "tune_rewards", "torchtune", "rlhf", "rewards.py"),
            from_file(patch, "open_kl", "openrlhf", "trainer", "ppo_utils", "kl_controller.py"),
        )
        patch.setattr(sys, "meta_path", [Empty(), *sys.meta_path])
        patch.setattr(torch, "compile", lambda function=None, **_: function or (lambda f: f))
        root = types.ModuleType("torchtune")
        root.rlhf = tune
        patch.setitem(sys.modules, "torchtune", root)
        tune_loss = from_file(patch, "tune_loss", "torchtune", "rlhf", "loss", "ppo.py").PPOLoss
        for name in ("openrlhf", "openrlhf.models", "verl", "verl.utils", "verl.trainer", "verl.trainer.ppo"):
            bare(patch, name)
        yield types.SimpleNamespace(
            trl=trl,
            tune=tune,
            tune_loss=tune_loss,
            verl=importlib.import_module("verl.trainer.ppo.core_algos"),
            verl_torch=importlib.import_module("verl.utils.torch_functional"),
            open=importlib.import_module("openrlhf.models.utils"),
            open_loss=importlib.import_module("openrlhf.models.loss"),
            open_kl=controller,
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
    advantages[3, 1] = -1e-3  # of a negative one the clip has no ceiling
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
        verl = p.verl_torch.masked_whiten(x, e.mask, shift)
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
