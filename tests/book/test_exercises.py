"""Checkers say what is wrong in words, keep the answer to themselves, and never stop a notebook."""

import pytest
import torch

from ppo_lib.book.exercises import NotYet, equal, failures, try_it

STUB = "nothing there yet; write your answer in the cell above"


def check_double(attempt):
    equal("the doubled numbers", attempt(torch.tensor([1.0, 2.0])), [2.0, 4.0], hint="multiply by 2")


@pytest.fixture(autouse=True)
def nobody_has_tried():
    failures.clear()


def said(capsys, check, attempt) -> str:
    try_it(check, attempt)
    return capsys.readouterr().out.strip()


def test_the_right_answer_is_correct(capsys):
    assert said(capsys, check_double, lambda x: 2 * x) == "correct"


WRONG = [
    (lambda x: 3 * x, "the doubled numbers at index 0: got 3, which is not it"),
    (lambda x: x[:1], "the doubled numbers: shape (2,) is asked for, got (1,)"),
    (lambda x: "four", "the doubled numbers: got 'four', which is not it"),
    (lambda x: {}, "the doubled numbers: numbers are asked for, got dict"),
    (lambda x: x * float("nan"), "the doubled numbers at index 0: got nan, which is not it"),
]


@pytest.mark.parametrize(("attempt", "message"), WRONG)
def test_the_first_wrong_answer_is_told_where_and_the_second_gets_the_hint(capsys, attempt, message):
    assert said(capsys, check_double, attempt) == f"not yet: {message}"
    for _ in range(2):
        assert said(capsys, check_double, attempt) == f"not yet: {message}\nhint: multiply by 2"


@pytest.mark.parametrize(
    ("attempt", "message"), [(None, STUB), (..., STUB), (lambda x: None, "the doubled numbers: nothing there yet")]
)
def test_a_stub_is_no_attempt_and_gets_no_hint_however_often_it_runs(capsys, attempt, message):
    for _ in range(3):
        assert said(capsys, check_double, attempt) == f"not yet: {message}"
    assert said(capsys, check_double, lambda x: 3 * x) == f"not yet: {WRONG[0][1]}"


def test_each_exercise_counts_its_own_attempts(capsys):
    def check_triple(attempt):
        equal("the tripled number", attempt, 3, hint="multiply by 3")

    said(capsys, check_double, lambda x: 3 * x)
    assert said(capsys, check_triple, 4) == "not yet: the tripled number: got 4, which is not it"
    assert said(capsys, check_triple, 4).endswith("hint: multiply by 3")


def test_an_attempt_that_stops_counts_and_does_not_stop_the_notebook(capsys):
    assert said(capsys, check_double, 7) == "not yet: your answer stopped with TypeError: 'int' object is not callable"
    assert said(capsys, check_double, lambda x: 3 * x).endswith("hint: multiply by 2")


def test_a_checker_may_assert_by_itself_and_keep_its_hint_back(capsys):
    def check_even(attempt):
        assert attempt > 0, "the number is not positive"
        if attempt % 2:
            raise NotYet("the number is odd", hint="2, 4, 6")

    assert said(capsys, check_even, -1).splitlines()[0] == "not yet: the number is not positive"
    assert said(capsys, check_even, 3) == "not yet: the number is odd\nhint: 2, 4, 6"


@pytest.mark.parametrize("answer", ["sleepy", True, 0.125, [0.79, 0.97, 1.0]])
def test_no_sentence_names_the_answer(capsys, answer):
    def check_answer(attempt):
        equal("the answer", attempt, answer)

    for wrong in ("very", False, 7.0, [7.0, 7.0, 7.0], [7.0], {}, None):
        message = said(capsys, check_answer, wrong)
        assert not [part for part in (answer if isinstance(answer, list) else [answer]) if str(part) in message]
    assert said(capsys, check_answer, answer) == "correct"


def test_a_tolerance_is_kept():
    equal("x", 1.0005, 1.0, tolerance=1e-3)
    with pytest.raises(AssertionError, match=r"got 1\.002"):
        equal("x", 1.002, 1.0, tolerance=1e-3)
