"""The verifiable reward: which numbers it reads, and that it reads every answer of the real GSM8K files."""

from decimal import Decimal
from pathlib import Path

import pytest

from ppo_lib.book.jsonl import read_jsonl
from ppo_lib.run.judge_names import ExactAnswer, last_number, marked_number

GSM8K = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k"


@pytest.mark.parametrize(
    ("text", "marked", "last"),
    [
        ("48 + 24 = 72 clips.\n#### 72", "72", "72"),
        ("#### 1,234", "1234", "1234"),
        ("#### $1,234.50 in all.", "1234.50", "1234.50"),
        ("####72", "72", "72"),
        ("#### -3", "-3", "-3"),
        ("#### .5", "0.5", "0.5"),
        ("#### 7 no, #### 8", "8", "8"),  # the last mark counts
        ("#### 8, which is 3 more than 5", "8", "5"),  # and the number right behind it
        ("The answer is 72.", None, "72"),
        ("10-4", None, "4"),  # a dash between numbers is no sign
        ("it fell by -4", None, "-4"),
        ("#### many", None, None),
        ("", None, None),
    ],
)
def test_the_number_behind_the_mark_and_the_last_number(text, marked, last):
    assert marked_number(text) == (None if marked is None else Decimal(marked))
    assert last_number(text) == (None if last is None else Decimal(last))


def test_the_exact_number_is_worth_1_and_everything_else_0():
    reward = ExactAnswer(["clips?", "eggs?"], ["48 + 24 = 72\n#### 72", "#### 1,000"])
    said = ["#### 72", "#### 72.0", "#### 71", "72", "", "#### 1000"]
    assert reward(["clips?"] * 6, said) == [1, 1, 0, 0, 0, 0]
    assert reward(["eggs?"], ["so #### 1000"]) == [1]
    lenient = ExactAnswer(["clips?"], ["72"], lenient=True)
    assert lenient(["clips?"] * 3, ["72", "it is 72.", "#### 72, or 73"]) == [1, 1, 0]


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="holds no number"):
        ExactAnswer(["why?"], ["because"])
    with pytest.raises(ValueError, match="two answers, 1 and 2"):
        ExactAnswer(["a", "a"], ["#### 1", "#### 2"])
    with pytest.raises(ValueError, match="no answer is known to the prompt 'b'"):
        ExactAnswer(["a"], ["#### 1"])(["b"], ["#### 1"])


@pytest.mark.skipif(not GSM8K.is_dir(), reason="needs ../shared/data/gsm8k, which is not here")
@pytest.mark.parametrize(("file", "count"), [("train.jsonl", 7473), ("test.jsonl", 1319)])
def test_every_answer_of_gsm8k_is_read_as_it_is_written(file, count):
    rows = read_jsonl(GSM8K / file)
    assert len(rows) == count
    for row in rows:
        written = row["answer"].rpartition("####")[2].strip().replace(",", "")
        assert str(marked_number(row["answer"])) == written
        assert last_number(row["answer"]) == marked_number(row["answer"])
    questions, answers = [row["question"] for row in rows], [row["answer"] for row in rows]
    reward = ExactAnswer(questions, answers)
    assert reward(questions, answers) == [1.0] * count
    shifted = [*answers[1:], answers[0]]  # the neighbour's answer is right only where the numbers agree by chance
    assert sum(reward(questions, shifted)) < 0.05 * count
