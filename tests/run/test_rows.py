"""What a row of data means: read where nothing gets lost, else left out with its reason."""

import pytest

from ppo_lib.errors import BadInput
from ppo_lib.run.rows import LeftOut, Missing, check_characters, texts_of

PAIR, PAIRS = ("prompt", "response"), ("prompt", "chosen", "rejected")


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [user("Capital?"), answer("Paris."), user("An egg?"), answer("Seven minutes.")]

READ = [
    ({"prompt": "a", "response": "b"}, PAIR, ["a", "b"]),
    ({"instruction": "a", "input": "", "output": "b"}, PAIR, ["a", "b"]),
    ({"messages": [user("a"), answer("b")]}, PAIR, ["a", "b"]),
    ({"messages": [{"role": "system", "content": ""}, user("a"), answer("b")]}, PAIR, ["a", "b"]),
    ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, PAIR, ["a", "b"]),
    ({"prompt": "a", "messages": [user("a"), answer("b")]}, PAIR, ["a", "b"]),
    ({"prompt": [user("a")], "chosen": [answer("b")], "rejected": [answer("c")]}, PAIRS, ["a", "b", "c"]),
    ({"chosen": [user("a"), answer("b")], "rejected": [user("a"), answer("c")]}, PAIRS, ["a", "b", "c"]),
    ({"prompt": "a", "chosen": "b", "rejected": "b "}, PAIRS, ["a", "b", "b "]),
    ({"prompt": "a", "messages": TALK}, ("prompt",), ["a"]),
    ({"prompt": "a", "context": None, "category": "qa"}, ("prompt",), ["a"]),
]
LEFT = [
    ({"prompt": "Capital?", "messages": TALK}, PAIR, "several turns"),
    ({"messages": TALK}, PAIR, "several turns"),
    ({"prompt": "Capital?", "chosen": TALK, "rejected": [*TALK[:-1], answer("Who knows.")]}, PAIRS, "several turns"),
    ({"prompt": [user("a"), answer("b"), user("c")], "response": "d"}, PAIR, "several turns"),
    ({"messages": [SYSTEM, user("a"), answer("b")]}, PAIR, "a system message"),
    ({"system": "Be brief.", "prompt": "a", "response": "b"}, PAIR, "'system', which belongs to the prompt"),
    ({"instruction": "When?", "context": "In 1889.", "response": "1889"}, PAIR, "'context', which belongs"),
    ({"instruction": "Translate", "input": "cat", "output": "Katze"}, PAIR, "'input', which belongs"),
    ({"prompt": "a", "input": "b"}, ("prompt",), "'input', which belongs"),
    ({"messages": [user("a"), answer("b"), user("c")]}, PAIR, "ends with the user"),
    ({"messages": [user("a")]}, PAIR, "ends with the user"),
    ({"prompt": "a", "response": ""}, PAIR, "an empty answer"),
    ({"prompt": "a", "response": " \n"}, PAIR, "an empty answer"),
    ({"prompt": "a", "chosen": "b", "rejected": ""}, PAIRS, "an empty answer"),
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, PAIRS, "a tie"),
    ({"prompt": "x", "messages": [user("a"), answer("b")]}, PAIR, "not the question which the conversation answers"),
    ({"chosen": [user("a"), answer("b")], "rejected": [user("z"), answer("c")]}, PAIRS, "not the question"),
    ({"prompt": "a", "question": "b", "response": "c"}, PAIR, "two prompts, in the columns 'prompt' and 'question'"),
    ({"messages": [user("a"), {"role": "tool", "content": "7"}, answer("b")]}, PAIR, "messages of other roles"),
    ({"messages": [user([{"type": "image"}]), answer("b")]}, PAIR, "not plain text"),
]


@pytest.mark.parametrize(("row", "keys", "texts"), READ)
def test_a_row_of_one_prompt_and_its_answer_is_read_in_every_form(row, keys, texts):
    assert texts_of(row, keys) == texts


@pytest.mark.parametrize(("row", "keys", "words"), LEFT)
def test_a_row_whose_meaning_would_change_is_left_out_with_the_reason(row, keys, words):
    with pytest.raises(LeftOut, match=words):
        texts_of(row, keys)


@pytest.mark.parametrize(
    ("row", "keys", "key"),
    [
        ([1], PAIR, "prompt"),
        ({"response": "b"}, PAIR, "prompt"),
        ({"prompt": "  ", "response": "b"}, PAIR, "prompt"),
        ({"prompt": "a"}, PAIR, "response"),
        ({"prompt": "a", "chosen": 3, "rejected": "c"}, PAIRS, "chosen"),
    ],
)
def test_a_text_that_is_missing_is_named(row, keys, key):
    with pytest.raises(Missing) as missing:
        texts_of(row, keys)
    assert missing.value.key == key


def test_half_characters_are_refused_with_their_place():
    check_characters(["\U0001f600", "a\u2028b"], "here")
    with pytest.raises(BadInput, match=r"there: 'cut \\ud83d' holds half a character"):
        check_characters(["fine", "cut \ud83d"], "there")
