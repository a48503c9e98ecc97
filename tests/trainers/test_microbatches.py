"""How an update is cut, and how its numbers come together again."""

import pytest
import torch

from ppo_lib.models.world import ALONE
from ppo_lib.trainers.microbatches import Meter, minibatches


def cut(count=7, size=3, epochs=3, seed=0):
    return list(minibatches(count, size, epochs, torch.Generator().manual_seed(seed)))


def test_every_epoch_takes_every_row_once_the_first_in_order_and_the_others_each_in_their_own():
    pieces = cut()
    assert [len(rows) for rows in pieces] == [3, 3, 1] * 3
    first, second, third = ([row for rows in pieces[i : i + 3] for row in rows] for i in (0, 3, 6))
    assert first == list(range(7))
    assert sorted(second) == sorted(third) == first
    assert first != second != third != first
    assert cut(seed=1)[:3] == pieces[:3]
    assert cut(seed=1)[3:] != pieces[3:]


def test_one_epoch_draws_no_random_number():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    list(minibatches(7, 3, 1, generator))
    assert torch.equal(generator.get_state(), before)


def test_a_meter_weighs_microbatches_averages_steps_and_keeps_the_largest_ratio():
    meter = Meter(ALONE)
    for losses, ratios in (((1.0, 5.0), (1.0, 1.5)), ((2.0, 2.0), (3.0, 0.2))):  # two steps of two microbatches
        for weight, loss, ratio in zip((0.25, 0.75), losses, ratios, strict=True):
            meter.add(weight, torch.tensor([[ratio, 1.0]]), {"loss": torch.tensor(loss, requires_grad=True)})
        meter.step(grad_norm=2 * losses[0])
    means = meter.means()
    assert means["loss"] == pytest.approx((0.25 * 1 + 0.75 * 5 + 2) / 2)
    assert means["grad_norm"] == pytest.approx(3)
    assert means["ratio_max"] == 3
    assert means["ratio_first_error"] == meter.first_error == 0.5  # of the first step alone: later ones may move
