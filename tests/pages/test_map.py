"""The start page and the notes for instructors know which chapters exist, and say so of those that do not."""

import re

import nbformat
import pytest

from tests.pages.book import CHAPTERS, ROOT, toc_files

MAP = (ROOT / "book/index.md").read_text(encoding="utf-8")
NOTES = (ROOT / "book/instructors.md").read_text(encoding="utf-8")
THERE = {int(path.name[:2]): path.name for path in CHAPTERS}


def test_the_map_has_all_thirteen_and_links_those_that_exist() -> None:
    rows = re.findall(r"^\| (?:\[(\d+)\. [^]]+\]\(\.\./chapters/(\S+)\)|(\d+)\. [^|]+) \|.*\| ([^|]+) \|$", MAP, re.M)
    assert [int(linked or plain) for linked, _, plain, _ in rows] == list(range(13))
    for linked, name, plain, cure in rows:
        assert THERE.get(int(linked or plain), "") == name
        assert (cure == "*to come*") == (not linked)


def test_the_notes_for_instructors_have_one_section_for_each_chapter_that_exists() -> None:
    sections = re.findall(r"^### \[Chapter (\d+): [^]]+\]\(\.\./chapters/(\S+)\)", NOTES, re.M)
    assert {int(number): name for number, name in sections} == THERE
    for section in re.split(r"^### ", NOTES, flags=re.M)[1:]:
        found = re.findall(r"^- \*\*(.+?):\*\*", section, re.M)
        assert found == ["Plan", "Ask before running", "Common misconceptions", "Show live", "Exercise"]


def test_the_notes_name_the_chapters_that_are_still_to_come() -> None:
    sentence = re.search(r"^(Chapters? [^.]+?) (?:is|are) still to come", NOTES, re.M)
    missing = {int(number) for number in re.findall(r"\b(\d+) \(", sentence[1])} if sentence else set()
    assert missing == set(range(13)) - set(THERE)


@pytest.mark.parametrize(("chapter", "number"), re.findall(r"\b((\d+)\.[1-9])\b", NOTES))
def test_the_exercises_that_the_notes_name_exist(chapter: str, number: str) -> None:
    text = (ROOT / "chapters" / THERE[int(number)]).read_text(encoding="utf-8")
    assert f"### Exercise {chapter}:" in text


def chapter_text(number: int) -> str:
    cells = nbformat.read(ROOT / "chapters" / THERE[number], as_version=4).cells
    return "\n".join(cell.source for cell in cells)


def test_the_notes_call_the_chapters_by_their_titles() -> None:
    for number, title in re.findall(r"^### \[Chapter (\d+): ([^]]+)\]", NOTES, re.M):
        heading = re.search(r"^# \d+\. (.+)$", chapter_text(int(number)), re.M)
        assert heading is not None
        assert title in (heading[1], heading[1].split(":")[0], heading[1].split(",")[0])


def test_the_sections_that_the_plans_name_exist() -> None:
    for number, rest in re.findall(r"chapter (\d+)((?:(?!chapter \d)[^|\n])*)", NOTES.split("## Plans")[1]):
        for section in re.findall(r'"([^"]+)"', rest):
            assert re.search(rf"^##+ {re.escape(section)}$", chapter_text(int(number)), re.M), (number, section)


@pytest.mark.parametrize("number", THERE)
def test_what_the_notes_say_of_all_chapters_holds(number: int) -> None:
    """Three exercises, an explorer, a drawing, a bug, and five lines that end with an open question or what to take."""
    text = chapter_text(number)
    assert len(re.findall(r"^### Exercise ", text, re.M)) == 3
    assert "ppo_lib.book.diagrams" in text
    assert "explorers." in text
    assert re.search(r"^## What goes wrong$", text, re.M)
    assert re.search(r"^## (In five lines|What you take with you)$", text, re.M)


def test_pages_link_only_to_what_exists() -> None:
    for page in (ROOT / "book").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        targets = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text)
        assert [target for target in targets if not (page.parent / target).is_file()] == [], page.name


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = {name.removeprefix("book/") for name in toc_files() if name.startswith("book/")}
    assert {page.stem for page in (ROOT / "book").glob("*.md")} <= listed
