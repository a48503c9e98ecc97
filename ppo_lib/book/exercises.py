"""Exercises that check themselves: a checker is a function of assertions, and an attempt never stops the notebook.

A checker says what is wrong in words a learner can use, and keeps the answer to itself::

    def check_td_errors(attempt):
        got = attempt(rewards, values, gamma=0.9)
        equal("the TD errors", got, [0.09, 0.25, 1.0], hint="V(s_{t+1}) is 0 after the last token")

    try_it(check_td_errors, td_errors)        # prints "not yet: …" or "correct"

Whoever has not begun hears so and nothing else. The first attempt that fails hears where it differs, from the second on
the hint stands beside it.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

HINT_FROM = 2  # the failed attempt from which on the hint is shown
failures: Counter[str] = Counter()  # by the checker's name: its cell is run again with every attempt


class NotYet(AssertionError):
    """An answer that is not right: one sentence, and a hint that is kept until it is needed."""

    def __init__(self, sentence: str, hint: str = "") -> None:
        super().__init__(sentence)
        self.hint = hint


class NothingYet(NotYet):
    """There is no answer to speak of: not an attempt, and no hint."""


def equal(what: str, got: Any, wanted: Any, tolerance: float = 1e-6, hint: str = "") -> None:
    """Assert that ``got`` is ``wanted``, number by number, or say in one sentence where they differ.

    Args:
        what: what is compared, to open the sentence: "the TD errors".
        got: the learner's answer: a number, text, a list or a tensor.
        wanted: the right answer, which the sentence does not name.
        tolerance: largest absolute difference that still passes.
        hint: where to look, shown from the second failed attempt on.

    Raises:
        NothingYet: ``got`` is None, as of a stub.
        NotYet: they differ.
    """
    if got is None:
        raise NothingYet(f"{what}: nothing there yet")
    if isinstance(wanted, str | bool) or isinstance(got, str):
        if got != wanted:
            raise NotYet(f"{what}: got {got!r}, which is not it", hint)
        return
    try:
        mine, right = (torch.as_tensor(value, dtype=torch.float64).detach() for value in (got, wanted))
    except (TypeError, ValueError, RuntimeError):
        raise NotYet(f"{what}: numbers are asked for, got {type(got).__name__}", hint) from None
    if mine.shape != right.shape:
        raise NotYet(f"{what}: shape {tuple(right.shape)} is asked for, got {tuple(mine.shape)}", hint)
    wrong = ~torch.isclose(mine, right, rtol=0.0, atol=tolerance, equal_nan=True)
    if bool(wrong.any()):
        place = tuple(int(i) for i in wrong.nonzero()[0])
        where = f" at index {place[0] if len(place) == 1 else place}" if place else ""
        raise NotYet(f"{what}{where}: got {mine[place].item():.4g}, which is not it", hint)


def try_it(check: Callable[[Any], None], attempt: Any) -> None:
    """Run ``check`` on ``attempt`` (a function, a number, a word) and print "correct" or "not yet: …" and why."""
    try:
        if attempt is None or attempt is ...:
            raise NothingYet("nothing there yet; write your answer in the cell above")
        check(attempt)
    except NothingYet as error:
        print(f"not yet: {error}")
    except AssertionError as error:
        failures[check.__name__] += 1
        hint = getattr(error, "hint", "") if failures[check.__name__] >= HINT_FROM else ""
        print(f"not yet: {error}" + (f"\nhint: {hint}" if hint else ""))
    except Exception as error:
        failures[check.__name__] += 1
        name = getattr(attempt, "__name__", "your answer")
        print(f"not yet: {name} stopped with {type(error).__name__}: {error}")
    else:
        print("correct")
