"""Pages that do not execute show what a fresh computation gives."""

import re

from scripts.store_explorers import FOLDER, PAGES, fresh, problems
from tests.pages.book import ROOT


def test_stored_explorers_are_fresh():
    assert problems() == []


def test_a_changed_number_is_noticed(monkeypatch, tmp_path):
    for name in PAGES:
        (tmp_path / name).write_text(fresh(name).replace("2.4", "2.5", 1), encoding="utf-8")
    monkeypatch.setattr("scripts.store_explorers.FOLDER", tmp_path)
    assert problems() == [f"{name} differs from a fresh computation" for name in sorted(PAGES)]


def test_every_stored_explorer_has_its_page():
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md"))
    assert set(re.findall(rf":file: {FOLDER.name}/(\S+)", pages)) == set(PAGES)
