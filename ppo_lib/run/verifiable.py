"""A reward that no model gives: the exact final number is right, or it is not.

GSM8K writes a solution step by step and ends it with ``#### 72``. The documents' verifiable reward compares the number
after the last such mark with the known one: equal is 1, everything else 0, also the right number in another form.
"""

import re
from collections.abc import Sequence
from decimal import Decimal

NUMBER = r"(?:(?<!\w)[-+])?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"  # in "3-4" the dash is no sign
MARKED = re.compile(rf"####\s*({NUMBER})")
ANY = re.compile(NUMBER)
NO_DIGITS = str.maketrans("", "", "$,+")


def marked_number(text: str) -> Decimal | None:
    """The number after the last ``####``, or None.

    >>> marked_number("48 + 24 = 72 clips. #### 72")
    Decimal('72')
    """
    found = MARKED.findall(text)
    return Decimal(found[-1].translate(NO_DIGITS)) if found else None


def last_number(text: str) -> Decimal | None:
    """The last number of the text, marked or not, or None: what a lenient reader would take for the answer."""
    found = ANY.findall(text)
    return Decimal(found[-1].translate(NO_DIGITS)) if found else None


class ExactAnswer:
    """Reward function: 1 where the response's final number equals the known one, else 0.

    Args:
        prompts: the problems, as PPO's prompts.
        answers: their solutions, which end in ``#### number``, or are the number alone.
        lenient: take the last number of the response, marked or not. Train on the strict form, and measure both: what
            rises in the strict one alone is the format, not the arithmetic.

    Raises:
        ValueError: an answer without a number, or two answers to the same prompt.
    """

    def __init__(self, prompts: Sequence[str], answers: Sequence[str], lenient: bool = False) -> None:
        self.read = last_number if lenient else marked_number
        self.known: dict[str, Decimal] = {}
        for prompt, answer in zip(prompts, answers, strict=True):
            number = marked_number(answer)
            number = last_number(answer) if number is None else number
            if number is None:
                raise ValueError(f"the answer {answer[-40:]!r} to {prompt[:40]!r} holds no number to compare with")
            if self.known.setdefault(prompt, number) != number:
                raise ValueError(f"the prompt {prompt[:40]!r} has two answers, {self.known[prompt]} and {number}")

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """Scores, 0.0 or 1.0.

        Raises:
            ValueError: a prompt whose answer is not known.
        """
        unknown = [prompt for prompt in prompts if prompt not in self.known]
        if unknown:
            raise ValueError(
                f"no answer is known to the prompt {unknown[0][:60]!r}; give the data set that it came from"
            )
        return [
            float(self.read(response) == self.known[prompt])
            for prompt, response in zip(prompts, responses, strict=True)
        ]
