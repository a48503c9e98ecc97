"""Counting what the tests notice of a tool's mistakes: where a mistake is, who may notice it, what is said.

The tool itself has an environment of its own (`make mutate`), and is not asked here.
"""

import ast

import pytest

from scripts.mutate import EQUIVALENT, ROOT, chosen_tests, compared, equivalent, mirrored, summary

RIGHT = """
def f(a: int | None, b=2):
    x: int | str = a + 1
    return x if a else b
"""


def changed(old: str, new: str):
    return compared(ast.unparse(ast.parse(RIGHT)), ast.unparse(ast.parse(RIGHT.replace(old, new))))


def test_a_mistake_is_found_in_its_line_and_shown_as_it_was_and_as_it_is():
    mutant = changed("a + 1", "a - 1")
    assert (mutant.line, mutant.before, mutant.after) == (2, "x: int | str = a + 1", "x: int | str = a - 1")
    assert mutant.change == "x: int | str = a + 1  ->  x: int | str = a - 1"


def test_only_what_differs_is_shown_of_a_long_line():
    long = "y = [" + ", ".join(map(str, range(100))) + "]"
    mutant = compared(long, long.replace(" 50,", " 51,"))
    assert len(mutant.change) < 180
    assert "49, 50, 51, 52" in mutant.change
    assert "49, 51, 51, 52" in mutant.change


@pytest.mark.parametrize(("old", "new"), [("int | None", "int & None"), ("int | str", "int & str"), ("a + 1", "(a+1)")])
def test_annotations_and_blanks_are_no_mistakes(old, new):
    assert changed(old, new) is None


def test_tests_that_run_the_line_are_chosen_and_the_shortest_comes_first():
    seen = {"seconds": {"a": 3.0, "b": 1.0, "c": 2.0}, "tests": {"5": ["a", "c"], "6": []}}
    assert chosen_tests(5, seen) == ["c", "a"]
    assert chosen_tests(6, seen) == ["b", "c", "a"]  # it runs when the module is imported
    assert chosen_tests(7, seen) == ["b", "c", "a"]


def test_the_summary_counts_and_names_who_has_not_been_judged():
    rows = [{"result": "noticed", "change": "1"}] * 7 + [{"result": "by the limit", "change": "2"}]
    rows += [{"result": "survived", "change": "a"}, {"result": "survived", "change": "b"}]
    text = summary({"formulas/kl": rows}, {"formulas/kl": {"a": "it is the same number"}})
    assert text.splitlines()[1].split() == ["formulas/kl", "10", "8", "1", "1", "1"]
    assert "8 of 9 mistakes that change something are noticed: 88.9%" in text
    assert "formulas/kl: a\n    it is the same number" in text
    assert "formulas/kl: b\n    NOT JUDGED" in text


def test_every_module_has_tests_and_every_judgement_is_about_a_line_that_is_there():
    for room in ("formulas", "trainers"):
        for file in (ROOT / "ppo_lib" / room).glob("[a-z]*.py"):
            assert mirrored(f"{room}/{file.stem}"), file
    for module, reasons in equivalent().items():
        text = ast.unparse(ast.parse((ROOT / "ppo_lib" / f"{module}.py").read_text(encoding="utf-8")))
        for change, reason in reasons.items():
            assert change.partition("  ->  ")[0] in text, f"{EQUIVALENT.name}: {module}: {change}"
            assert len(reason) > 20
