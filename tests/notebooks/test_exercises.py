"""Every exercise fails as a stub, with a message that helps, and passes as its solution.

The stored outputs are read here, and nbval computes them again: together they prove both states.
"""

import ast
import re
from itertools import groupby
from pathlib import Path

import pytest

from tests.pages.book import CHAPTERS, cells

pytestmark = pytest.mark.notebook
STATES = ["exercise", "check", "solution"]


def exercises(path: Path) -> list[tuple[str, list]]:
    """The exercises of a chapter: each a name and its neighbouring cells."""
    marked = [cell for cell in cells(path) if "exercise" in cell.metadata]
    return [(name, list(group)) for name, group in groupby(marked, key=lambda cell: cell.metadata.exercise)]


EXERCISES = [pytest.param(path, name, id=f"{path.stem}-{name}") for path in CHAPTERS for name, _ in exercises(path)]


def printed(cell) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream").strip()


def defined(source: str) -> set[str]:
    """The names that a cell defines at its top level."""
    body = ast.parse(source).body
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    assigned = {target.id for node in body if isinstance(node, ast.Assign) for target in node.targets}
    return functions | assigned


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_has_two_or_three_exercises(path: Path):
    assert 2 <= len(exercises(path)) <= 4


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_exercises_are_announced_with_difficulty_and_minutes(path: Path):
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    number = int(path.stem[:2])
    titles = re.findall(rf"^### Exercise {number}\.(\d+): ", text, flags=re.MULTILINE)
    assert titles == [str(i + 1) for i in range(len(exercises(path)))]
    assert len(re.findall(r"^\*Difficulty \d of 5, about \d+ minutes?\.\*", text, flags=re.MULTILINE)) == len(titles)


@pytest.mark.parametrize(("path", "name"), EXERCISES)
def test_an_exercise_is_stub_check_and_solution_in_this_order(path: Path, name: str):
    group = dict(exercises(path))[name]
    assert [next(tag for tag in cell.metadata.tags if tag in STATES) for cell in group] == STATES
    stub, check, solution = group
    assert name in defined(stub.source)
    assert f"check_{name}" in defined(check.source)
    assert name in defined(solution.source)
    assert "hide-input" in check.metadata.tags, "the check's code holds the answer: fold it"
    assert "hide-cell" in solution.metadata.tags
    for cell in (check, solution):
        assert cell.source.rstrip().endswith(f"try_it(check_{name}, {name})")


@pytest.mark.parametrize(("path", "name"), EXERCISES)
def test_the_stub_fails_its_check_and_gets_no_hint(path: Path, name: str):
    _, check, _ = dict(exercises(path))[name]
    message = printed(check)
    assert message.startswith("not yet: ")
    assert len(message) > len("not yet: ") + 15
    assert message.endswith(("nothing there yet", "in the cell above")), "a stub is no attempt"


@pytest.mark.parametrize(("path", "name"), EXERCISES)
def test_the_solution_passes_the_same_check(path: Path, name: str):
    *_, solution = dict(exercises(path))[name]
    assert printed(solution).splitlines()[-1] == "correct"
