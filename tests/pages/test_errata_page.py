"""The corrections page: all twenty are there, and each names a heading or a test that exists and shows it."""

import ast
import re
from pathlib import Path

import pytest

from tests.pages.book import CHAPTERS, ROOT, cells

PAGE = ROOT / "book/errata.md"
_, *ENTRIES = re.split(r"^(?=## )", PAGE.read_text(encoding="utf-8"), flags=re.M)
HEADINGS = re.findall(r'\[chapter (\d+), "([^"]+)"\]\(\.\./(chapters/\S+\.ipynb)#([^)]*)\)', " ".join(ENTRIES))
TESTS = re.findall(r"\[`(tests/[\w/]+\.py)::(\w+)`\]\(\.\./([^)]+)\)", " ".join(ENTRIES))


def headings(path: Path) -> list[str]:
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    return [found.strip() for found in re.findall(r"^#{1,3} (.+)$", text, re.M)]


def slug(heading: str) -> str:
    """The anchor that MyST makes of a heading, as GitHub does."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_all_twenty_are_there_in_order() -> None:
    assert [int(re.match(r"## (\d+)\. ", entry)[1]) for entry in ENTRIES] == list(range(1, 21))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.splitlines()[0][3:])
def test_each_says_what_was_said_what_is_right_and_where_to_see_it(entry: str) -> None:
    assert re.findall(r"^\*\*(\w+):\*\*", entry, re.M) == ["Said", "Right", "See"]
    see = entry.split("**See:**")[1]
    links = re.findall(r"\]\(", see)
    assert links
    assert len(links) == len(re.findall(r'\[chapter \d+, "|\[`tests/[\w/]+\.py::\w+`\]', see)), "a link of another form"


@pytest.mark.parametrize(("number", "heading", "path", "anchor"), HEADINGS)
def test_the_chapters_have_the_headings_that_the_page_names(number: str, heading: str, path: str, anchor: str) -> None:
    assert Path(path).name.startswith(f"{int(number):02d}_")
    assert heading in headings(ROOT / path)
    assert anchor == slug(heading)


@pytest.mark.parametrize(("path", "name", "target"), TESTS)
def test_the_tests_that_the_page_names_exist(path: str, name: str, target: str) -> None:
    assert path == target
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_every_test_of_a_correction_is_named_by_its_entry() -> None:
    tree = ast.parse((ROOT / "tests/formulas/test_errata.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            assert node.name in ENTRIES[int(node.name.split("_")[1]) - 1]


@pytest.mark.notebook
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_margin_notes_of_corrections_lead_to_the_page(path: Path) -> None:
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    for number, note in re.findall(r"^```\{margin\} Correction (\d+)\n(.*?)^```", text, re.M | re.S):
        assert 1 <= int(number) <= 20
        assert "](../book/errata.md)" in note, f"the note on correction {number} has no link to the page"
