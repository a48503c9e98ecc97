"""Prose and comments of a chapter state only numbers that its cells computed."""

from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from tests.pages.book import CHAPTERS, ROOT
from tests.pages.prose_numbers import ranges_that_miss, unknown_in_prose

NOTEBOOKS = [*CHAPTERS, *sorted((ROOT / "book").glob("*.ipynb"))]
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.mark.notebook
@each_notebook
def test_every_number_of_the_prose_stands_in_a_cell_of_its_section(path: Path):
    assert list(unknown_in_prose(nbformat.read(path, as_version=4).cells)) == []


@pytest.mark.notebook
@each_notebook
def test_every_range_of_a_comment_holds_a_number_of_the_output_before_it(path: Path):
    assert list(ranges_that_miss(nbformat.read(path, as_version=4).cells)) == []


def code(source: str, output: str, *tags: str):
    cell = v4.new_code_cell(source, outputs=[v4.new_output("stream", text=output)])
    cell.metadata["tags"] = list(tags)
    return cell


@pytest.mark.parametrize(
    ("prose", "output"),
    [
        ("It rises to 1.43.", "score 1.4281"),
        ("It falls to −1.4.", "-1.3998"),
        ("About 66 % are right.", "accuracy 0.658"),
        ("It pays 12,000.5 in all.", "12000.5"),
        ("A price of 0.1 and a formula $0.25$; with 0.25 nothing moves.", "0.1"),
        ("Given 0.01, it may rise to 0.012. <!-- numbers: 0.01 0.012 -->", ""),
        ("As `x = 7.5` says, chapter 3.2 and TRL 1.12.0 and [one](a-7.5.html) differ.", ""),
        ("### 7.5 is the title\n\n| **Time** | 1.2 GB |", ""),
    ],
)
def test_what_a_cell_knows_may_be_said(prose, output):
    assert list(unknown_in_prose([v4.new_markdown_cell(prose), code("pass", output)])) == []


@pytest.mark.parametrize(
    ("prose", "output", "number"),
    [
        ("It falls to −1.9.", "score -1.434", "−1.9"),
        ("Differences within 0.01.", "0.017", "0.01"),
        ("About 71 % are right.", "accuracy 0.658", "71 %"),
        ("It ends at 1.43. <!-- numbers: 1.44 -->", "1.4", "1.43"),
    ],
)
def test_what_no_cell_knows_is_found(prose, output, number):
    (found,) = unknown_in_prose([v4.new_markdown_cell(prose), code("pass  # 0.01 −1.9 71 1.43", output)])
    assert found.startswith(f"{number} in “…")


def test_two_digits_have_to_stand_in_the_same_section_and_three_anywhere():
    cells = [code("", "0.7 and 0.735"), v4.new_markdown_cell("## Next\n\nNow 0.7, as before 0.735.")]
    (found,) = unknown_in_prose(cells)
    assert found.startswith("0.7 in")


@pytest.mark.parametrize(("output", "misses"), [("end 3.847", 1), ("end 2.5", 0), ("from 4.1 to 5.6", 0), ("none", 0)])
def test_a_range_in_a_comment_is_held_to_the_live_output_before_it(output, misses):
    cells = [code("train()", output, "nbval-ignore-output"), code("# Five seeds gave 0.9 to 2.9.\nassert x", "")]
    assert len(list(ranges_that_miss(cells))) == misses
    cells[0].metadata["tags"] = []
    assert list(ranges_that_miss(cells)) == []
