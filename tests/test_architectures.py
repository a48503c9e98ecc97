"""Every architecture that transformers offers as a causal language model works, or is refused in a sentence."""

import pytest
from transformers.utils import logging

from ppo_lib.sampling.decoding import Slots
from scripts.architectures import CLOSE, OPEN, PAGE, NoTinyModel, Verdict, architectures, judge, table

KINDS = architectures()
HANDFUL = {
    "mistral": "growing",  # a sliding window that no list of layers names
    "bloom": "growing",  # ALiBi
    "mixtral": "fixed",  # experts in one tensor
    "deepseek_v3": "fixed",  # keys and values of different sizes
    "opt": "fixed",  # learned positions
    "falcon": "fixed",  # adds to the output of a layer in place
    "phimoe": "fixed",  # a router that is a linear layer by its class
    "mamba": "(mamba, float32)",  # recurrent; which of the two refusals it meets depends on the version of transformers
    "cohere": "changes its logits after the output head",
    "bert": "(bert, float32)",
}


@pytest.fixture(autouse=True)
def quiet():
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@pytest.mark.parametrize("name", HANDFUL)
def test_a_handful_of_each_sort(name):
    verdict = judge(KINDS[name])
    assert verdict.works == (HANDFUL[name] in ("growing", "fixed"))
    if verdict.works:
        assert verdict.static == (HANDFUL[name] == "fixed")
    else:
        assert HANDFUL[name] in verdict.why


def listed() -> dict[str, str]:
    """The architectures on the page, each with what stands behind it."""
    part = PAGE.read_text(encoding="utf-8").partition(OPEN)[2].partition(CLOSE)[0]
    rows = [line.strip("| ").split(" | ", 1) for line in part.splitlines() if line.startswith("| `")]
    found = {name.strip("`"): said for name, said in rows}
    untried = part.partition("Not tried:")[2].replace("`", "").strip(" .\n")
    return found | dict.fromkeys(untried.split(", "), "not tried")


def test_the_page_lists_every_architecture_once():
    """Of the transformers that it was made with; a newer one may have more."""
    page = listed()
    assert len(page) > 150
    assert len(set(page) & set(KINDS)) > 100
    for name, kind in HANDFUL.items():
        assert kind in page[name] or "growing" in page[name]


def test_a_broken_cache_of_fixed_size_is_not_counted_as_one(monkeypatch):
    update = Slots.update
    monkeypatch.setattr(Slots, "update", lambda self, *what: tuple(x * 1.1 for x in update(self, *what)))
    assert judge(KINDS["llama"]).static is False


def test_the_table_has_a_row_for_each():
    text = table([Verdict("a", True, True), Verdict("b", False, why="no | way")], {"c": "why"})
    assert "| `a` | growing and fixed |" in text
    assert "| `b` | no / way |" in text
    assert "Not tried: `c`." in text


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_architecture_works_or_is_refused_in_a_sentence_as_the_page_says(name):
    page = listed().get(name)
    try:
        verdict = judge(KINDS[name])
    except NoTinyModel:
        pytest.skip("no tiny model can be made of sizes")
    if page is not None:
        assert verdict.works == page.startswith("growing")
        assert verdict.static == (page == "growing and fixed")
    if not verdict.works:
        assert 40 < len(verdict.why) < 600
        assert verdict.why.startswith(("model 'model'", f"a '{name}' model"))
