"""Search on the published site, in a browser: Greek letters and names of functions find what explains them."""

import re

import pytest

from scripts.book_search import KNOBS, TERMS, Greek, places
from tests.pages.book import launched_chromium, served_book


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A search on the served book: the titles and addresses that it finds, best first, with what it quotes."""
    with launched_chromium() as browser, served_book(tmp_path_factory.mktemp("site")) as address:

        def search(words: str) -> list[tuple[str, str, str]]:
            page = browser.new_page()
            page.goto(f"{address}/search.html?q={words}")
            page.wait_for_function("document.querySelector('#search-results p')?.textContent.includes('finished')")
            quoted = "[...document.querySelectorAll('ul.search li')].every(row => row.childElementCount > 1)"
            page.wait_for_function(quoted, timeout=20_000)
            rows = "rows => rows.map(r => [r.querySelector('a').textContent, r.querySelector('a').href, r.textContent])"
            found = page.eval_on_selector_all("ul.search li", rows)
            page.close()
            return [(title, href.removeprefix(f"{address}/").partition("?")[0], text) for title, href, text in found]

        yield search


def test_a_greek_letter_of_a_formula_counts_as_itself_and_as_its_name():
    words = Greek({}).split(r"\rho_t = \pi_\theta, 1 - \varepsilon, \lambda, \piano")
    assert {"ρ", "rho", "π", "θ", "ε", "epsilon", "λ", "lambda"} <= set(words)
    assert words.count("π") == 1


def test_symbols_are_looked_up_in_notation_glossary_and_hyperparameters():
    anchors = {term: f"term-{term}" for term in TERMS.values()}
    assert {*"ελγρβδ"} <= set(places("book/notation", {})) & set(places("book/glossary", anchors))
    assert places("book/glossary", anchors)["ε"] == "term-clip width"
    assert places("book/hyperparameters", {}) == KNOBS
    assert places("chapters/08_clipping", {}) == {}


@pytest.mark.browser
@pytest.mark.parametrize("symbol", [*"ελγρβδ", "epsilon"])
def test_a_symbol_finds_first_what_explains_it(results, symbol):
    found = results(symbol)
    pages = ["book/notation.html", "book/glossary.html", *["book/hyperparameters.html"] * (symbol != "δ")]
    assert {href.partition("#")[0] for _, href, _ in found[: len(pages)]} == set(pages), found[:4]
    assert any(href.startswith("chapters/") for _, href, _ in found)


@pytest.mark.browser
def test_a_function_is_found_by_its_name_and_quoted_where_it_stands(results):
    found = results("clipped_policy_loss")
    assert any(
        href.endswith("formulas.html#ppo_lib.formulas.losses.clipped_policy_loss") for _, href, _ in found[:2]
    ), found[:3]


@pytest.mark.browser
def test_no_result_quotes_the_contents_of_its_page(results):
    for words in ("advantage", "reward hacking", "ε"):
        for title, href, text in results(words):
            assert "Contents" not in text, (title, href, text)
            assert len(text.strip()) > len(title) + 20, f"{href} quotes nothing"


@pytest.mark.browser
def test_a_formula_is_quoted_in_letters_and_signs(results):
    quoted = {href: text for symbol in "ερ" for _, href, text in results(symbol)}
    assert "clip width: ε, how far" in quoted["book/glossary.html#term-clip-width"]
    ratio = quoted["book/glossary.html#term-probability-ratio"]
    assert "ρ_t = π_θ(a_t | s_t)/π_old(a_t | s_t)" in " ".join(ratio.replace("|", " | ").split()), ratio
    assert not [text for text in quoted.values() if re.search(r"\\(text|hat|var|math)", text)]
