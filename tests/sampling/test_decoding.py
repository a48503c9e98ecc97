"""Decoding with a cache of fixed size gives the tokens of a growing one: padding, ends and retired rows included."""

from itertools import product

import pytest
import torch
from tiny import ARCHITECTURES, EOS, randomise

from ppo_lib.sampling import decoding
from ppo_lib.sampling.decoding import Decoder, by_graphs, supports_static_cache
from ppo_lib.sampling.rollout import sample

PROMPTS = [[5, 6, 7, 8], [9], [10, 11], [12] * 7]
MANY_EOS = [EOS, *range(2, 60)]
FULL_ATTENTION = [name for name in ARCHITECTURES if name not in ("gemma2", "gemma3")]


def noise(steps: int, rows: int = len(PROMPTS)) -> torch.Tensor:
    return torch.rand(rows, steps, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def same(a, b) -> None:
    assert torch.equal(a.batch.sequences, b.batch.sequences)
    assert torch.equal(a.batch.prompt_lengths, b.batch.prompt_lengths)
    assert torch.equal(a.batch.response_lengths, b.batch.response_lengths)
    assert torch.equal(a.finished, b.finished)
    assert a.batch.prompt_width == b.batch.prompt_width


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("eos", [EOS, MANY_EOS], ids=["nothing ends", "rows end at different times"])
@pytest.mark.parametrize("architecture", FULL_ATTENTION)
def test_the_same_tokens_as_with_a_growing_cache(build_tiny, monkeypatch, architecture, eos, temperature):
    monkeypatch.setattr(decoding, "BLOCK", 8)  # attention widens twice on the way
    monkeypatch.setattr(decoding, "LOOK", 3)
    backbone = build_tiny(architecture, eos=eos)
    backbone.add_adapter("policy")
    randomise(backbone.adapter_parameters("policy"))
    for adapter in (None, "policy"):
        growing, fixed = (
            sample(backbone, PROMPTS, 20, temperature, adapter, noise=noise(20), static_cache=static)
            for static in (False, True)
        )
        same(growing, fixed)
    assert growing.batch.responses.shape[1] > 9 or eos is MANY_EOS


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_small_budgets_and_responses_of_an_eos_alone(build_tiny, budget):
    for backbone in (build_tiny(), build_tiny(eos=list(range(258)))):
        growing, fixed = (
            sample(backbone, PROMPTS, budget, 1.0, None, noise=noise(budget), static_cache=static)
            for static in (False, True)
        )
        same(growing, fixed)


def test_no_step_is_taken_after_the_look_that_finds_all_rows_ended(build_tiny, monkeypatch):
    steps, step = [], Decoder.step
    ending, backbone = build_tiny(eos=list(range(258))), build_tiny(eos=MANY_EOS)
    assert supports_static_cache(ending)
    assert supports_static_cache(backbone)  # tried before the steps are counted
    monkeypatch.setattr(Decoder, "step", lambda self: (steps.append(1), step(self)))
    sample(ending, PROMPTS, 80, 1.0, None, noise=noise(80), static_cache=True)
    assert steps == []
    fixed = sample(backbone, PROMPTS, 80, 1.0, None, noise=noise(80), static_cache=True)
    longest = fixed.batch.responses.shape[1]
    assert fixed.finished.all()
    assert longest - 1 <= len(steps) <= longest - 1 + decoding.LOOK
    assert len(steps) < 79


@pytest.mark.parametrize("eos", [EOS, MANY_EOS], ids=["nothing ends", "all rows end early"])
@pytest.mark.parametrize("rows", [1, 2, 6, 15, 16, 20])  # torch draws 16 normal numbers otherwise than 15
def test_a_seed_gives_the_same_tokens_and_leaves_the_same_state_with_both_caches(build_tiny, monkeypatch, eos, rows):
    """The growing cache as it always drew: one number per row and step; and torch's own generator likewise."""
    monkeypatch.setattr(decoding, "BLOCK", 8)
    backbone, prompts = build_tiny(eos=eos), [PROMPTS[i % len(PROMPTS)] for i in range(rows)]
    for budget, temperature in product((1, 2, 17), (0.0, 0.7, 2.0)):
        by_hand, growing, fixed = (torch.Generator().manual_seed(7) for _ in range(3))
        states = []
        for _ in range(2):  # two draws in a row
            one, other = (
                sample(backbone, prompts, budget, temperature, None, generator, static_cache=static)
                for generator, static in ((growing, False), (fixed, True))
            )
            same(one, other)
            steps = one.batch.responses.shape[1] if temperature else 0
            numbers = [torch.rand(rows, 1, dtype=torch.float64, generator=by_hand) for _ in range(steps)]
            if numbers:
                point = torch.cat([*numbers, torch.zeros(rows, budget - steps)], dim=1)
                same(one, sample(backbone, prompts, budget, temperature, None, noise=point))
            states.append([generator.get_state() for generator in (by_hand, growing, fixed)])
        assert all(torch.equal(x, state[0]) for state in states for x in state)
        for static in (False, True):
            torch.manual_seed(7)
            for state in states:
                one = sample(backbone, prompts, budget, temperature, None, static_cache=static)
                assert torch.equal(torch.get_rng_state(), state[0])
            same(one, other)


def test_the_budget_changes_neither_tokens_nor_state_where_no_response_needs_it(build_tiny):
    backbone, seen = build_tiny(eos=MANY_EOS), []
    for budget, static in product((60, 80), (False, True)):
        generator = torch.Generator().manual_seed(0)
        sampled = sample(backbone, PROMPTS, budget, 1.0, None, generator, static_cache=static)
        assert sampled.finished.all()
        seen.append((sampled, generator.get_state()))
    for sampled, state in seen[1:]:
        same(sampled, seen[0][0])
        assert torch.equal(state, seen[0][1])


def test_a_generator_decides_the_sample_too(build_tiny):
    backbone = build_tiny()
    a, b, c = (
        sample(backbone, PROMPTS, 6, 1.0, None, torch.Generator().manual_seed(seed), static_cache=True).batch.sequences
        for seed in (0, 0, 1)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("architecture", ["gemma2", "gemma3"])
def test_models_with_sliding_windows_are_left_to_the_growing_cache(build_tiny, architecture):
    backbone = build_tiny(architecture)
    assert not supports_static_cache(backbone)
    with pytest.raises(ValueError, match=r"static_cache is set, but .* do not see all"):
        sample(backbone, PROMPTS, 3, 1.0, None, static_cache=True)


def test_all_addresses_stay_the_same_from_step_to_step(build_tiny):
    """What a CUDA graph needs: a step writes into the tensors that it found."""
    seen = []

    class Watched(Decoder):
        def step(self) -> None:
            super().step()
            tensors = [x for x in vars(self).values() if isinstance(x, torch.Tensor)]
            slots = [self.slots.column, *(x for layer in self.slots.layers for x in layer)]
            seen.append([x.data_ptr() for x in (*tensors, *slots)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ppo_lib.sampling.rollout.Decoder", Watched)
        sample(build_tiny(), PROMPTS, 6, 1.0, None, noise=noise(6), static_cache=True)
    assert len(seen) == 5
    assert all(pointers == seen[0] for pointers in seen)


@pytest.mark.parametrize("eos", [EOS, MANY_EOS], ids=["nothing ends", "rows end at different times"])
def test_each_width_is_recorded_once_after_a_step_and_replayed_as_it_was(build_tiny, monkeypatch, eos):
    """What can be seen without a GPU: a stand-in for a graph, which replays a step of the width that it was made at."""
    monkeypatch.setattr(decoding, "BLOCK", 8)
    recorded, replayed, taken = [], [], []

    class Recorded(Decoder):
        def __init__(self, *args) -> None:
            super().__init__(*args)
            self.recording = True

        def step(self) -> None:
            super().step()
            taken.append(self.slots.visible)

        def record(self):
            width = self.slots.visible
            assert taken[-1] == width  # the kernels of this width have run
            recorded.append(width)

            def replay() -> None:
                assert self.slots.visible == width
                replayed.append(width)
                self.step()

            return replay

    backbone = build_tiny(eos=eos)
    growing = sample(backbone, PROMPTS, 20, 1.0, None, noise=noise(20))
    monkeypatch.setattr("ppo_lib.sampling.rollout.Decoder", Recorded)
    same(growing, sample(backbone, PROMPTS, 20, 1.0, None, noise=noise(20), static_cache=True))
    assert recorded == sorted(set(recorded)) == sorted(set(taken))
    assert len(replayed) + len(recorded) == len(taken)
    assert len(recorded) >= 2


def test_sampling_in_slices_of_rows_changes_nothing(build_tiny, monkeypatch):
    backbone = build_tiny()
    whole = sample(backbone, PROMPTS, 6, 1.0, None, noise=noise(6))
    monkeypatch.setattr("ppo_lib.sampling.rollout.MAX_LOGITS", 300)  # one row at a time
    same(whole, sample(backbone, PROMPTS, 6, 1.0, None, noise=noise(6)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_replays_the_same_tokens_from_a_graph(tiny_folder, monkeypatch):
    from ppo_lib.models.backbone import Backbone

    monkeypatch.setattr(decoding, "BLOCK", 16)  # several graphs, which share their memory
    backbone = Backbone.from_pretrained(tiny_folder(eos=MANY_EOS), device="cuda")
    growing, fixed = (
        sample(backbone, PROMPTS, 60, 1.0, None, noise=noise(60).cuda(), static_cache=static)
        for static in (False, True)
    )
    same(growing, fixed)


def test_graphs_are_for_gpus_and_can_be_switched_off(build_tiny, monkeypatch):
    backbone = build_tiny()
    assert by_graphs(backbone, torch.device("cuda"))
    assert not by_graphs(backbone, torch.device("cpu"))
    monkeypatch.setenv("PPO_LIB_CUDA_GRAPHS", "0")
    assert not by_graphs(backbone, torch.device("cuda"))
    monkeypatch.setenv("PPO_LIB_CUDA_GRAPHS", "1")
    monkeypatch.setattr(decoding, "supports_static_cache", lambda backbone: False)
    assert not by_graphs(backbone, torch.device("cuda"))


def test_a_step_that_cannot_be_recorded_ends_with_the_way_around(build_tiny, monkeypatch):
    def refuse():
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", refuse)
    start = Decoder.__init__
    monkeypatch.setattr(Decoder, "__init__", lambda self, *a: (start(self, *a), setattr(self, "recording", True))[0])
    with pytest.raises(ValueError, match=r"\(operation not permitted .* capturing\); set .*PPO_LIB_CUDA_GRAPHS=0"):
        sample(build_tiny(), PROMPTS, 8, 1.0, None, noise=noise(8), static_cache=True)
