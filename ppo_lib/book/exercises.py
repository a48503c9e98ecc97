"""Exercises that check themselves: a checker is a function of assertions, and an attempt never stops the notebook.

A checker says what is wrong in words a learner can use::

    def check_td_errors(attempt):
        got = attempt(rewards, values, gamma=0.9)
        equal("the TD errors", got, [0.09, 0.25, 1.0], hint="V(s_{t+1}) is 0 after the last token")

    try_it(check_td_errors, td_errors)        # prints "not yet: …" or "correct"
"""

from collections.abc import Callable
from typing import Any

import torch


def equal(what: str, got: Any, wanted: Any, tolerance: float = 1e-6, hint: str = "") -> None:
    """Assert that ``got`` is ``wanted``, number by number, or say in one sentence where they differ.

    Args:
        what: what is compared, to open the sentence: "the TD errors".
        got: the learner's answer: a number, text, a list or a tensor.
        wanted: the right answer.
        tolerance: largest absolute difference that still passes.
        hint: where to look, added to the sentence.

    Raises:
        AssertionError: they differ.
    """
    tail = f" ({hint})" if hint else ""
    if got is None:
        raise AssertionError(f"{what}: nothing there yet{tail}")
    if isinstance(wanted, str | bool) or isinstance(got, str):
        if got != wanted:
            raise AssertionError(f"{what}: got {got!r}, which is not it{tail}")
        return
    try:
        mine, right = (torch.as_tensor(value, dtype=torch.float64).detach() for value in (got, wanted))
    except (TypeError, ValueError, RuntimeError):
        raise AssertionError(f"{what}: expected numbers, got {type(got).__name__}{tail}") from None
    if mine.shape != right.shape:
        raise AssertionError(f"{what}: expected shape {tuple(right.shape)}, got {tuple(mine.shape)}{tail}")
    wrong = ~torch.isclose(mine, right, rtol=0.0, atol=tolerance, equal_nan=True)
    if bool(wrong.any()):
        place = tuple(int(i) for i in wrong.nonzero()[0])
        where = f" at index {place[0] if len(place) == 1 else place}" if place else ""
        raise AssertionError(f"{what}{where}: expected {right[place].item():.4g}, got {mine[place].item():.4g}{tail}")


def try_it(check: Callable[[Any], None], attempt: Any) -> None:
    """Run ``check`` on ``attempt`` (a function, a number, a word) and print "correct" or "not yet: …" and why."""
    try:
        if attempt is None or attempt is ...:
            raise AssertionError("nothing there yet; write your answer in the cell above")
        check(attempt)
    except AssertionError as error:
        print(f"not yet: {error}")
    except Exception as error:
        name = getattr(attempt, "__name__", "your answer")
        print(f"not yet: {name} stopped with {type(error).__name__}: {error}")
    else:
        print("correct")
