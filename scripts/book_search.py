"""Greek letters in the book's search: ε finds the pages that say what it is, then all that have it in a formula.

Sphinx indexes a formula as the words of its LaTeX, in which ``\\rho_t`` is the word ``rho_t``. Here each letter of
a formula counts as itself and as its name besides, and the pages where one looks a symbol up have index entries for
both, which Sphinx ranks first.
"""

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.search.en import SearchEnglish
from sphinx.util import logging

NAMES = ["alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "pi", "rho", "sigma", "tau", "phi", "psi"]
LETTERS = dict(zip(NAMES, "αβγδεθλπρστφψ", strict=True))
COMMAND = re.compile(rf"\\(?:var)?({'|'.join(NAMES)})(?![a-zA-Z])")
# Where one looks a symbol up: the glossary's term, and the section of the hyperparameters that has its knob.
TERMS = {
    "ε": "clip width",
    "λ": "GAE",
    "γ": "discount",
    "ρ": "probability ratio",
    "β": "KL coefficient",
    "δ": "TD error",
    "π": "policy",
    "τ": "temperature",
}
KNOBS = {
    "ε": "the-policy-s-loss",
    "ρ": "the-policy-s-loss",
    "β": "reward-and-rubber-band",
    "γ": "credit-and-critic",
    "λ": "credit-and-critic",
}
NOTATION = "symbols"


class Greek(SearchEnglish):
    """English, and the Greek letters of formulas."""

    def split(self, text: str) -> list[str]:
        """The words of a text; for ``\\rho_t`` also ``ρ`` and ``rho``."""
        names = COMMAND.findall(text)
        return [*super().split(text), *names, *(LETTERS[name] for name in names)]


def places(docname: str, terms: dict[str, str]) -> dict[str, str]:
    """The symbols that a page explains, and where.

    Args:
        docname: of the page.
        terms: the glossary's anchors, by term.
    """
    return {
        "book/notation": dict.fromkeys(TERMS, NOTATION),
        "book/glossary": {symbol: terms.get(term, "") for symbol, term in TERMS.items()},
        "book/hyperparameters": KNOBS,
    }.get(docname, {})


def add_entries(app: Any, document: nodes.document) -> None:
    """Sphinx's event for each page that was read: index entries of the symbols that it explains."""
    docname, names = app.env.docname, {symbol: name for name, symbol in LETTERS.items()}
    known = app.env.get_domain("std").objects.items()
    terms = {term: place for (kind, term), (page, place) in known if kind == "term" and page == docname}
    for symbol, place in places(docname, terms).items():
        if place not in document.ids:
            logging.getLogger(__name__).warning("%s explains %s nowhere: it has no place %r", docname, symbol, place)
        entries = [("single", word, place, "main", None) for word in (symbol, names[symbol])]
        document.append(addnodes.index("", entries=entries))


def add_script(app: Any, pagename: str, *_: Any) -> None:
    """Sphinx's event for each page: what the page of results quotes."""
    if pagename == "search":
        app.add_js_file("search.js")


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_search_language(Greek)
    app.connect("doctree-read", add_entries)
    app.connect("html-page-context", add_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
