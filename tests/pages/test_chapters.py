"""The stored notebooks are what the book may show: executed, clean, in the book, and of one form."""

import re
from pathlib import Path

import pytest

from scripts.book_address import BESIDES, install_source
from scripts.execute_notebooks import problems
from tests.pages.book import CHAPTERS, ROOT, cells, toc_files

pytestmark = pytest.mark.notebook
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
SECTIONS = ("## What goes wrong", "## Exercises", "## How others do it", "## References")


def test_the_table_of_contents_lists_every_chapter_once_and_only_files_that_exist():
    listed = toc_files()
    assert sorted(set(listed)) == sorted(listed)
    chapters = [name for name in listed if name.startswith("chapters/")]
    assert chapters == [f"chapters/{path.stem}" for path in CHAPTERS]
    missing = [name for name in listed if not any((ROOT / f"{name}{end}").is_file() for end in (".md", ".ipynb"))]
    assert not missing


@each_chapter
def test_a_chapter_is_executed_clean_and_within_its_limits(path: Path):
    assert problems(path) == []


@each_chapter
def test_a_chapter_opens_with_its_title_and_its_box(path: Path):
    first = cells(path, "markdown")[0].source
    assert first.startswith(f"# {int(path.stem[:2])}. ")
    entries = re.findall(r"^\| \*\*(.+?)\*\* \|", first, flags=re.MULTILINE)
    assert entries[:4] == ["Question", "You need", "You get", "Time"]


@each_chapter
def test_the_first_code_cell_and_only_it_installs_the_package(path: Path):
    first, *others = cells(path)
    assert first.source == install_source(first.metadata.tags)
    assert {"colab", "remove-cell"} <= set(first.metadata.tags) <= {"colab", "remove-cell", *BESIDES}
    assert not [cell for cell in others if re.search(r"pip install|google\.colab", cell.source)]


@each_chapter
def test_a_chapter_ends_with_exercises_failure_peers_and_references(path: Path):
    headings = re.findall(r"^## .+$", "\n".join(cell.source for cell in cells(path, "markdown")), flags=re.MULTILINE)
    assert [heading for heading in SECTIONS if heading not in headings] == []
    assert headings[-1] == "## References"


@each_chapter
def test_links_to_chapters_and_pages_lead_somewhere(path: Path):
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    targets = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text)
    assert [target for target in targets if not (path.parent / target).is_file()] == []


@each_chapter
def test_what_nbval_does_not_compare_is_followed_by_an_assertion(path: Path):
    """A cell that trains live is not compared; the next code cell asserts a band that broken training would miss."""
    code = cells(path)
    for cell, following in zip(code, [*code[1:], None], strict=True):
        tags = cell.metadata.get("tags", [])
        assert "nbval-skip" not in tags
        if "nbval-ignore-output" in tags:
            assert following is not None
            assert re.search(r"^\s*assert ", following.source, flags=re.MULTILINE), cell.source[:80]


@each_chapter
def test_outputs_hold_no_path_of_a_machine(path: Path):
    outputs = "\n".join(str(cell.outputs) for cell in cells(path))
    assert not re.search(r"(?<![\w.])/(root|home|work|tmp|Users)/", outputs)


@each_chapter
def test_an_optional_part_says_so_and_is_closed_before_the_next_heading(path: Path):
    """A fold that spans cells is one HTML element: a heading inside would break the page's sections."""
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    for piece in text.split("<details")[1:]:
        summary, rest = piece.split("</summary>", 1)
        assert re.search(r"<summary>Optional[:,] \w", summary), summary
        assert "</details>" in rest
        assert not re.search(r"^#", rest.split("</details>", 1)[0], flags=re.MULTILINE)
    assert text.count("<details") == text.count("</details>")


@each_chapter
def test_a_fold_says_what_it_hides(path: Path):
    folded = [cell for cell in cells(path) if {"hide-input", "hide-cell"} & set(cell.metadata.get("tags", []))]
    nameless = [cell.source[:60] for cell in folded if "code_prompt_show" not in cell.metadata.get("mystnb", {})]
    assert nameless == []


@each_chapter
def test_a_chapter_asks_for_predictions_in_one_form(path: Path):
    """The reader is to guess before a result is shown, and to see at a glance where."""
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    story = text.split("## Exercises")[0]
    assert len(re.findall(r"\*\*Predict\.?\*\*", story)) >= 2
    assert not re.search(r"Before you (look|read on|scroll)", story)
