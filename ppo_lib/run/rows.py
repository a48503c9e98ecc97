"""What a row of data means: one prompt and what answers it, or a reason why it cannot be read as that.

Published data come in many forms. A row is read only where nothing of its meaning gets lost: a talk of several turns, a
system message or a context beside the question would be left out without a trace, and the rest trained on.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from ppo_lib.errors import BadInput

# Under which names data sets keep what is looked for; the first that a row has is taken.
NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "instruction"),
    "response": ("response", "answer", "completion", "output", "messages", "conversations", "chosen"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "answer": ("answer", "solution"),
}
TALKS = ("messages", "conversations", "chosen")  # where a prompt may stand if it has no column of its own
# Columns whose text belongs to the prompt, or changes it.
BESIDE = ("context", "input", "system", "system_prompt", "history", "passage", "background", "tools", "images", "image")
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}


class LeftOut(Exception):
    """A row that cannot be read without losing a part of its meaning; the message says why, in a few words."""


class Missing(Exception):
    """A row without one of the texts: its key, and what is there instead."""

    def __init__(self, key: str, value: object) -> None:
        super().__init__(key, value)
        self.key, self.value = key, value


def texts_of(row: Any, keys: Sequence[str]) -> list[str]:
    """The texts of a row under ``keys``, of which the first is ``prompt``.

    A conversation is a list of ``{"role": ..., "content": ...}``, or of ``{"from": ..., "value": ...}``: a question and
    its answer, or the answer alone where the prompt has a column of its own.

    Raises:
        LeftOut: several turns, a system message, a context, no answer, two prompts, a pair without a difference.
        Missing: a text that is not there, or is none.
    """
    if not isinstance(row, Mapping):
        raise Missing(keys[0], None)
    if filled := next((name for name in BESIDE if row.get(name) and str(row[name]).strip()), None):
        raise LeftOut(f"text in the column {filled!r}, which belongs to the prompt (write it there)")
    found = {key: answer_at(row, key) for key in keys if key != "prompt"}
    questions = [question for question, _ in found.values() if question is not None]
    prompt = prompt_at(row, questions)
    if any(question.strip() != prompt.strip() for question in questions):
        raise LeftOut("a prompt that is not the question which the conversation answers")
    answers = [answer for _, answer in found.values()]
    if not all(answer.strip() for answer in answers):
        raise LeftOut("an empty answer")
    if keys[-2:] == ("chosen", "rejected") and answers[0] == answers[1]:
        raise LeftOut("a chosen answer that is the rejected one (a tie)")
    return [prompt, *answers]


def prompt_at(row: Mapping[str, Any], questions: Sequence[str]) -> str:
    """The prompt of a row: in its column, or the question of a conversation."""
    given = {name: row[name] for name in NAMES["prompt"] if row.get(name) is not None}
    if len({str(value) for value in given.values()}) > 1:
        raise LeftOut(f"two prompts, in the columns {' and '.join(map(repr, given))}")
    value = next(iter(given.values()), None)
    if is_conversation(value):
        talk = turns(value)
        if [role for role, _ in talk] != ["user"]:
            raise LeftOut("several turns")
        value = talk[0][1]
    if value is None:
        column = next((name for name in TALKS if is_conversation(row.get(name))), None)
        value = questions[0] if questions else column and split(row[column])[0]
    if not isinstance(value, str) or not value.strip():
        raise Missing("prompt", value)
    return value


def answer_at(row: Mapping[str, Any], key: str) -> tuple[str | None, str]:
    """The text under a key, with the question that it answers where it stands in a conversation."""
    name = next((name for name in NAMES[key] if name in row), None)
    value = row[name] if name else None
    if is_conversation(value):
        return split(value)
    if not isinstance(value, str):
        raise Missing(key, value)
    return None, value


def is_conversation(value: Any) -> TypeGuard[list[Mapping[str, Any]]]:
    """Whether ``value`` is a list of messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(m, Mapping) and content(m) for m in value)


def content(message: Mapping[str, Any]) -> tuple[str, str] | None:
    """Under which keys a message has its role and its text."""
    return next((pair for pair in (("role", "content"), ("from", "value")) if pair[1] in message), None)


def turns(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Role and text of each message, an empty system message left out."""
    found = []
    for message in messages:
        role_at, text_at = content(message) or ("role", "content")
        role, text = ROLES.get(str(message.get(role_at)), str(message.get(role_at))), message[text_at]
        if not isinstance(text, str):
            raise LeftOut("messages that are not plain text")
        if role == "system" and not text.strip():
            continue
        if role == "system":
            raise LeftOut("a system message")
        found.append((role, text))
    return found


def split(messages: Sequence[Mapping[str, Any]]) -> tuple[str | None, str]:
    """Question and answer of a conversation of one turn; the question is None where there is the answer alone."""
    talk = turns(messages)
    roles = [role for role, _ in talk]
    if roles and roles[-1] == "user":
        raise LeftOut("a conversation that ends with the user")
    if roles == ["assistant"]:
        return None, talk[0][1]
    if roles != ["user", "assistant"]:
        raise LeftOut("several turns" if set(roles) <= {"user", "assistant"} else "messages of other roles")
    return talk[0][1], talk[1][1]


def check_characters(texts: Sequence[str], where: str) -> None:
    """Refuse half characters, which JSON can spell and no tokenizer can read."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadInput(
                f"{where}: {text[max(0, error.start - 20) : error.start + 1]!r} holds half a character, as of an emoji "
                "that was cut in two; take it out"
            ) from error
