"""Pages that do not execute show what a fresh computation gives."""

import re

import pytest

from ppo_lib.book.explorers import answers
from scripts import store_figures
from tests.pages.book import ROOT

PAGES = store_figures.SHELVES["explorers"]


def test_stored_explorers_are_fresh():
    assert store_figures.problems("explorers") == []


def test_a_changed_number_is_noticed(monkeypatch, tmp_path):
    (tmp_path / "explorers").mkdir()
    for name in PAGES:
        other = store_figures.fresh("explorers", name).replace("0", "1", 1)
        (tmp_path / "explorers" / name).write_text(other, encoding="utf-8")
    monkeypatch.setattr(store_figures, "BOOK", tmp_path)
    assert store_figures.problems("explorers") == [f"{name} differs from a fresh one" for name in sorted(PAGES)]


def test_every_stored_explorer_has_its_page():
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "book").glob("*.md"))
    assert set(re.findall(r":file: explorers/(\S+)", pages)) == set(PAGES)


def test_the_three_answers_tell_the_story_that_the_start_page_tells():
    """Imitation errs; PPO is right and liked; without the band the judge likes it even more, and it is the worst."""
    (_, _, *sft), (_, right, *ppo), (_, hacked, *free) = answers.three_answers().cards
    judged, true = ([float(row[i].replace("−", "-")) for row in (sft, ppo, free)] for i in (0, 1))
    assert judged == sorted(judged)
    assert true[2] < true[0] < true[1]
    assert "Apia" in right
    assert "Apia" not in hacked


@pytest.mark.parametrize(("name", "place"), [("score", "the judge says"), ("gold", "in truth it is")])
def test_the_sentence_says_of_both_scores_what_the_numbers_say(name, place):
    words = set()
    for setting in answers.beta_answers().settings():
        now = answers.answer_at(answers.RUNS[setting["beta"]], setting["question"], setting["step"])
        then = answers.answer_at(answers.RUNS[setting["beta"]], setting["question"], 0)
        sentence = answers.frame(**setting).sentence
        if "Word for word" in sentence:
            assert answers.said(now) == answers.said(then)
            continue
        word = re.search(rf"{place} (better|worse|as good)", sentence)[1]
        assert {"better": now[name] > then[name], "worse": now[name] < then[name]}.get(word, now[name] == then[name])
        words.add(word)
    assert {"better", "worse"} <= words
