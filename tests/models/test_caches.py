"""Keys and values have the name that the installed transformers gives them, and no warning comes of it."""

import warnings

import pytest
import torch
from tiny import ARCHITECTURES
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from ppo_lib.models.caches import cache_name, cache_of, read_on


class Before(nn.Module):
    def forward(self, input_ids, past_key_values=None, use_cache=False):
        return {"past_key_values": (input_ids, past_key_values, use_cache)}


class Since(nn.Module):
    def forward(self, input_ids, cache=None, use_cache=False):
        return {"cache": (input_ids, cache, use_cache)}


@pytest.mark.parametrize(("kind", "name"), [(Before, "past_key_values"), (Since, "cache")])
def test_argument_and_result_by_either_name(kind, name):
    assert cache_name(kind) == name
    assert cache_of(read_on(kind(), "before", input_ids=3)) == (3, "before", True)


def test_a_model_that_keeps_none():
    assert cache_of(BaseModelOutput(last_hidden_state=torch.zeros(1))) is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_installed_transformers_is_called_without_a_warning(build_tiny, architecture):
    backbone = build_tiny(architecture)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        first = read_on(backbone.body, None, input_ids=torch.tensor([[5, 6]]))
        cache = cache_of(first)
        read_on(backbone.body, cache, input_ids=torch.tensor([[7]]))
        whole = read_on(backbone.body, None, input_ids=torch.tensor([[5, 6, 7]]))
    assert cache.get_seq_length() == cache_of(whole).get_seq_length() == 3
