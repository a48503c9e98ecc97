"""Recognizing the base model's habit: a multiple-choice quiz instead of an answer."""

import re

_OPTIONS = re.compile(r"\bA\)\s*\S.*\bB\)\s*\S", re.DOTALL)


def is_quiz(text: str) -> bool:
    """Whether a text offers options "A) ... B) ..." instead of answering."""
    return _OPTIONS.search(text) is not None
