"""The pages about the library hold its public names; formulas and the functions that they are lead to each other."""

import ast
import re
from types import SimpleNamespace

import nbformat
import pytest

import ppo_lib
from scripts import book_extension, book_reference
from scripts.book_reference import FORMULAS, anchor, bare, chapter_number
from tests.pages.book import ROOT, built_book, toc_files

LIBRARY = ["formulas", "models", "sampling", "trainers"]
INSIDE = {"ppo_lib.formulas.masking"}  # all but its three formulas serve the checks of the others


def functions_of(module: str) -> list[str]:
    """The public functions and classes that a module defines."""
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    return [
        node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"
    ]


def documented() -> list[str]:
    """Full names of what the pages are to hold: the vocabulary, and all public names of the formulas."""
    modules = [f"ppo_lib.formulas.{path.stem}" for path in (ROOT / "ppo_lib" / "formulas").glob("[a-z]*.py")]
    formulas = {f"{module}.{name}" for module in modules if module not in INSIDE for name in functions_of(module)}
    return sorted(formulas | {f"{module}.{name}" for name, module in ppo_lib._HOMES.items()})


def page_of(name: str) -> str:
    return (built_book() / "book" / "library" / f"{name.split('.')[1]}.html").read_text(encoding="utf-8")


def test_the_library_has_a_page_for_each_of_its_rooms_that_holds_a_word_of_the_vocabulary():
    assert {name.split(".")[1] for name in documented()} == set(LIBRARY)
    assert [name for name in toc_files() if name.startswith("book/library/")] == [f"book/library/{r}" for r in LIBRARY]


@pytest.mark.parametrize("name", documented())
def test_a_public_name_has_an_entry_with_words(name):
    entry = page_of(name).partition(f'id="{name}"')[2].partition("</dt>")[2]
    assert re.match(r"\s*<dd>\s*<p>.{20,}", entry), f"{name} has no entry on its page, or one without a text"


@pytest.mark.parametrize(("name", "chapter", "latex"), [(name, *entry) for name, entry in FORMULAS.items()])
def test_a_formula_is_one_of_its_chapter_and_a_function_of_the_library(name, chapter, latex):
    cells = nbformat.read(ROOT / f"{chapter}.ipynb", as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert sum(bare(latex) in bare(formula) for formula in re.findall(r"\$\$(.*?)\$\$", text, re.DOTALL)) == 1
    assert any(full.startswith("ppo_lib.formulas.") and full.endswith(f".{name}") for full in documented())


@pytest.mark.parametrize(("name", "chapter"), [(name, entry[0]) for name, entry in FORMULAS.items()])
def test_formula_and_function_lead_to_each_other_on_the_built_pages(name, chapter):
    (full,) = [full for full in documented() if full.endswith(f".{name}")]
    page = (built_book() / f"{chapter}.html").read_text(encoding="utf-8")
    formula = page.partition(f'id="{anchor(name)}"')[2]
    number, _, below = formula.partition("</div>")
    assert re.search(rf"\({chapter_number(chapter)}\.\d+\)<", number), "the formula has no number of its chapter"
    assert f'href="../book/library/formulas.html#{full}"' in below[:400]
    entry = page_of(full).partition(f'id="{full}"')[2]
    assert f'href="../../{chapter}.html#{anchor(name)}"' in entry.partition('<dt class="sig')[0]


def test_names_of_the_library_in_a_text_lead_to_their_entries_and_others_do_not():
    page = (built_book() / "chapters" / "10_ppo_training_loop.html").read_text(encoding="utf-8")
    assert 'href="../book/library/trainers.html#ppo_lib.trainers.ppo.PPOTrainer"' in page
    article = page.partition("<article")[2].partition("</article")[0]
    linked = re.findall(r"<a [^>]*library/[^>]*><code[^>]*><span class=\"pre\">([^<]+)", article)
    words = {full.rpartition(".")[2] for full in documented()} | {"TokenBatch", "Sampled"}
    assert {name.removesuffix("()") for name in linked} <= words
    assert len(linked) >= 5
    assert not re.search(r"<h\d[^>]*>[^\n]*library/\w+\.html#ppo_lib", page), "a heading is no place for such a link"


def test_a_formula_is_known_however_it_is_laid_out():
    assert bare("\\begin{aligned}\nA &= b\\, \\hat c\n\\end{aligned}") == bare(
        r"\begin{aligned}A = b\hat c\end{aligned}"
    )
    assert bare(r"a \; b") != bare(r"a c")


def test_a_page_that_is_no_chapter_has_no_number_and_a_formula_that_is_gone_warns(caplog):
    with pytest.raises(ValueError, match=r"'book/notation' is no chapter"):
        chapter_number("book/notation")
    assert chapter_number("chapters/07_critic_and_gae") == 7
    lines: list[str] = ["text"]
    book_reference.tell_origin(None, "function", "ppo_lib.formulas.advantages.gae", object, None, lines)
    assert lines[-1] == "Derived in :ref:`chapter 7 <formula-gae>`."
    document = SimpleNamespace(findall=lambda kind: [])
    app = SimpleNamespace(env=SimpleNamespace(docname="chapters/08_clipping"))
    book_reference.number_formulas(app, document)
    assert "chapters/08_clipping has 0 formulas with" in caplog.text


def test_a_long_name_in_a_page_s_contents_list_breaks_at_its_seams():
    made = book_extension.with_breaks('<a href="#a_b.c_d"><span class="pre">clipped_policy_loss()</span></a>')
    assert made == '<a href="#a_b.c_d"><span class="pre">clipped_<wbr/>policy_<wbr/>loss()</span></a>'
    page = (built_book() / "book" / "library" / "formulas.html").read_text(encoding="utf-8")
    assert '<span class="pre">clipped_<wbr/>policy_<wbr/>loss()</span>' in page
