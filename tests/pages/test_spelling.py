"""One spelling in all prose: the American one, which is that of the field's terms (normalize, behavior, labeled)."""

import re
from pathlib import Path

import pytest

from tests.pages.book import ROOT

BRITISH = (
    "behaviour colour favour flavour honour neighbour centred centre grey towards afterwards practise "
    "practising instalment licence labelled labelling modelled modelling cancelled cancelling judgement "
    "artefact catalogue sceptic analysed analysing maximise maximising minimise minimising optimise optimising "
    "optimisation normalise normalising normalisation generalise generalisation recognise recognising "
    "realise realising summarise initialise regularise regularisation penalise organise tokenise"
)
WORD = re.compile(r"(?<![A-Za-z])(?:" + "|".join(BRITISH.split()) + r"|for ever\b)", re.IGNORECASE)
# Titles of others, and a word that web browsers know in this spelling alone.
SPELLED_BY_OTHERS = ("LLM Generalisation and Diversity", "{LLM} generalisation and diversity", "aria-labelledby")
FOLDERS, KINDS = ("chapters", "book", "ppo_lib", "scripts", "benchmarks"), {".ipynb", ".md", ".py", ".css", ".js"}


def texts() -> list[Path]:
    """What people read: pages, notebooks and the library's own words; not others' scripts, nor the changelog's past."""
    found = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.suffix in KINDS]
    roots = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    return [path for path in [*found, *roots] if "vendor" not in path.parts and path.name != "phrases.py"]


def british_words(text: str) -> list[str]:
    """Words of the list, each with what stands around it."""
    for title in SPELLED_BY_OTHERS:
        text = text.replace(title, "")
    return [text[max(0, found.start() - 30) : found.end() + 20] for found in WORD.finditer(text)]


@pytest.mark.parametrize("text", ["a colour", "Neighbouring", "is maximised", "for ever", "over_optimised"])
def test_british_spelling_is_found(text):
    assert british_words(text)


@pytest.mark.parametrize("text", ["the center", "for every token", "a toward step", SPELLED_BY_OTHERS[0]])
def test_american_spelling_and_titles_of_others_are_left_alone(text):
    assert british_words(text) == []


def test_all_prose_is_in_american_spelling():
    found = {str(path.relative_to(ROOT)): british_words(path.read_text(encoding="utf-8")) for path in texts()}
    assert {path: words for path, words in found.items() if words} == {}
