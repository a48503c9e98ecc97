"""Reductions over counted tokens: right numbers, and a padding that changes nothing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import GARBAGE, ragged

from ppo_lib.formulas.masking import check_numbers, check_right_padded, masked_mean, masked_var, trusted, whiten

FUNCTIONS = {
    "masked_mean": masked_mean,
    "masked_var": masked_var,
    "masked_var_biased": lambda x, mask: masked_var(x, mask, unbiased=False),
    "whiten": whiten,
    "whiten_scale_only": lambda x, mask: whiten(x, mask, shift_mean=False),
}


def test_the_mean_is_over_tokens_not_over_responses():
    x = torch.tensor([[1.0, 2.0, 3.0], [10.0, 99.0, 99.0]])
    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    assert masked_mean(x, mask) == 4.0  # (1 + 2 + 3 + 10) / 4, not ((1 + 2 + 3) / 3 + 10) / 2 = 6


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_equal_to_the_statistics_of_the_counted_numbers(seed):
    x, mask = ragged(seed)
    counted = x[mask.bool()]
    torch.testing.assert_close(masked_mean(x, mask), counted.mean())
    torch.testing.assert_close(masked_var(x, mask, unbiased=False), counted.var(correction=0))
    if len(counted) > 1:
        torch.testing.assert_close(masked_var(x, mask), counted.var())


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_whitening_gives_mean_0_and_variance_1_and_forgets_scale_and_shift(seed, scale, shift):
    x, mask = ragged(seed, rows=3, width=5, shortest=2)
    white = whiten(x * scale + shift, mask)
    torch.testing.assert_close(masked_mean(white, mask), torch.zeros((), dtype=x.dtype), atol=1e-8, rtol=0)
    # rsqrt(var + 1e-8) falls short of 1 by 1e-8 / (2 var) of the variance given to it
    torch.testing.assert_close(masked_var(white, mask), torch.ones((), dtype=x.dtype), atol=1e-3, rtol=0)
    torch.testing.assert_close(white, whiten(x, mask), atol=1e-3, rtol=1e-3)


def test_whitening_uses_the_unbiased_variance_and_the_documented_epsilon():
    x, mask = torch.tensor([[1.0, 3.0]], dtype=torch.float64), torch.ones(1, 2)
    torch.testing.assert_close(whiten(x, mask), torch.tensor([[-1.0, 1.0]], dtype=torch.float64) / (2 + 1e-8) ** 0.5)
    assert torch.equal(
        whiten(torch.full((1, 3), 7.0), torch.ones(1, 3)), torch.zeros(1, 3)
    )  # constant: no division by 0


def test_without_shift_the_mean_is_kept():
    x, mask = ragged(3, shortest=2)
    torch.testing.assert_close(masked_mean(whiten(x, mask, shift_mean=False), mask), masked_mean(x, mask))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("garbage", GARBAGE)
def test_padding_changes_no_result_and_no_gradient(name, garbage):
    x, mask = ragged(1, rows=4, width=6, shortest=2)
    results = []
    for filling in (0.0, garbage):
        leaf = x.masked_fill(mask == 0, filling).requires_grad_()
        result = FUNCTIONS[name](leaf, mask)
        (result * x).sum().backward()  # uneven weights: the sum of whitened numbers has no gradient
        results.append((result.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert (results[1][1][mask == 0] == 0).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_those_of_finite_differences(name):
    x, mask = ragged(2, rows=3, width=4, shortest=2)
    assert torch.autograd.gradcheck(lambda v: FUNCTIONS[name](v, mask), x.requires_grad_())


def test_bool_int_and_float_masks_mean_the_same():
    x, mask = ragged(5)
    for kind in (torch.bool, torch.int64, torch.float32):
        assert masked_mean(x, mask.to(kind)) == masked_mean(x, mask)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("x", "mask", "words"),
    [
        (torch.zeros(2, 3), torch.ones(2, 4), ["x", "(2, 3)", "(2, 4)"]),
        (torch.zeros(3), torch.ones(2, 4), ["x", "(3,)", "(2, 4)"]),
        (torch.zeros(3), torch.ones(3), ["mask", "(3,)", "(B, T)"]),
        (torch.zeros(2, 3), torch.zeros(2, 3), ["mask", "(2, 3)", "empty"]),
        (torch.zeros(2, 3), torch.full((2, 3), 0.5), ["mask", "0 and 1"]),
        (torch.zeros(2, 3), torch.full((2, 3), math.nan), ["mask", "0 and 1"]),
        (torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3), ["x", "int64", "floating"]),
        (torch.full((2, 3), math.nan), torch.ones(2, 3), ["x", "NaN or infinite"]),
        (torch.full((2, 3), math.inf), torch.ones(2, 3), ["x", "NaN or infinite"]),
        ([1.0], torch.ones(2, 3), ["x", "list", "(2, 3)"]),
        (torch.zeros(2, 3), [[1, 1, 1]], ["mask", "list", "(B, T)"]),
    ],
)
def test_refusals_name_the_argument_the_shape_given_and_the_shape_wanted(name, x, mask, words):
    with pytest.raises(ValueError, match=r"mask|x has|x is") as error:
        FUNCTIONS[name](x, mask)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("function", [masked_var, whiten])
def test_an_unbiased_variance_of_one_token_is_refused(function):
    with pytest.raises(ValueError, match="one token"):
        function(torch.ones(1, 1), torch.ones(1, 1))
    assert masked_var(torch.ones(1, 1), torch.ones(1, 1), unbiased=False) == 0


def test_a_hole_in_a_response_is_refused_where_order_matters():
    with pytest.raises(ValueError, match="row 1 counts a token after padding"):
        check_right_padded(torch.tensor([[1.0, 1, 0], [1, 0, 1]]))


def test_trusted_numbers_are_not_looked_at_and_trust_ends_with_its_block():
    x, mask = torch.tensor([[1.0, math.nan]]), torch.ones(1, 2)
    with trusted():
        assert math.isnan(masked_mean(x, mask))  # no question to the device, so no refusal
        assert masked_mean(torch.tensor([[3.0, math.nan]]), torch.tensor([[1.0, 0.0]])) == 3  # padding is still padding
        with pytest.raises(ValueError, match="x has shape"):  # a shape is known without asking
            masked_mean(torch.ones(2, 2), mask)
    with pytest.raises(ValueError, match="x is NaN"):
        masked_mean(x, mask)
    with pytest.raises(ZeroDivisionError), trusted():
        _ = 1 / 0
    with pytest.raises(ValueError, match="empty"):
        masked_mean(torch.ones(1, 2), torch.zeros(1, 2))


def test_a_hole_is_found_in_its_row_wherever_it_is():
    for mask in ([[1, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 1]], [[1, 1, 0, 0], [1, 1, 0, 1], [0, 1, 0, 0]]):
        with pytest.raises(ValueError, match="mask row 1 counts a token after padding"):
            check_right_padded(torch.tensor(mask))
    rows = [[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]
    assert check_right_padded(torch.tensor(rows)).tolist() == [[bool(x) for x in row] for row in rows]


def test_a_number_may_be_a_tensor_of_one_element_and_of_no_other_size():
    check_numbers(beta=torch.tensor(0.1), epsilon=torch.tensor([0.2]), clip=3)
    for several in (torch.zeros(0), torch.zeros(2)):
        with pytest.raises(ValueError, match=r"beta is .* but must be a number"):
            check_numbers(beta=several)
