"""Checkers say what is wrong in words, and never stop a notebook."""

import pytest
import torch

from ppo_lib.book.exercises import equal, try_it


def check_double(attempt):
    equal("the doubled numbers", attempt(torch.tensor([1.0, 2.0])), [2.0, 4.0], hint="multiply by 2")


def said(capsys, check, attempt) -> str:
    try_it(check, attempt)
    return capsys.readouterr().out.strip()


def test_the_right_answer_is_correct(capsys):
    assert said(capsys, check_double, lambda x: 2 * x) == "correct"


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (None, "nothing there yet; write your answer in the cell above"),
        (..., "nothing there yet; write your answer in the cell above"),
        (lambda x: None, "the doubled numbers: nothing there yet (multiply by 2)"),
        (lambda x: 3 * x, "the doubled numbers at index 0: expected 2, got 3 (multiply by 2)"),
        (lambda x: x[:1], "the doubled numbers: expected shape (2,), got (1,) (multiply by 2)"),
        (lambda x: "four", "the doubled numbers: got 'four', which is not it (multiply by 2)"),
        (lambda x: {}, "the doubled numbers: expected numbers, got dict (multiply by 2)"),
        (lambda x: x * float("nan"), "the doubled numbers at index 0: expected 2, got nan (multiply by 2)"),
        (7, "your answer stopped with TypeError: 'int' object is not callable"),
    ],
)
def test_a_wrong_answer_is_told_why(capsys, attempt, message):
    assert said(capsys, check_double, attempt) == f"not yet: {message}"


def test_a_prediction_is_checked_without_giving_it_away(capsys):
    def check_largest(attempt):
        equal("the largest advantage", attempt, "sleepy")

    assert said(capsys, check_largest, "very") == "not yet: the largest advantage: got 'very', which is not it"
    assert said(capsys, check_largest, "sleepy") == "correct"


def test_a_tolerance_is_kept():
    equal("x", 1.0005, 1.0, tolerance=1e-3)
    with pytest.raises(AssertionError, match=r"expected 1, got 1\.002"):
        equal("x", 1.002, 1.0, tolerance=1e-3)
