"""Every mistake that ``mutations.py`` makes on purpose is noticed by a test, and ``mutating.py`` finds its place."""

import os
import subprocess
import sys
from pathlib import Path

import mutating
import mutations
import pytest
from mutating import Mutation, MutationError, Package

forks = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="mutations are tried in forks, which this system does not have"
)


@forks
@pytest.mark.slow
def test_the_tests_notice_every_mutation():
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, mutations.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_mutation_finds_its_place_and_its_tests():
    assert Package(mutations.ROOT, "ppo_lib").trials(mutations.MUTATIONS)


def plant(root: Path, **files: str) -> Package:
    """A package ``little`` of a few modules and tests, from keywords like ``room__sums`` and ``test_sums``."""
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\nmarkers = ['slow: takes long']\n")
    for name, text in {"__init__": "", "test_f": "", **files}.items():
        folder = root / ("tests/room" if name.startswith("test_") else "little")
        file = folder / f"{name.replace('__', '/') if name != '__init__' else name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return Package(root, "little")


def mutated(package: Package, right: str, wrong: str, where: str = "f", place: int | None = None) -> str:
    """The text of the one module that changes."""
    return package.trial(Mutation("mistake", where, right, wrong, place), "test_f", "").text


# name: (function body, what stands there, what shall stand there, body afterwards)
CASES = {
    "space, line breaks, comments and parentheses": ("return (a  # so\n  +b)", "a+(b)", "a - b", "return a - b"),
    "quotes": ("return a['k']", 'a["k"]', "a['l']", "return a['l']"),
    "an operator in a longer sum": ("return a * b + c - b", "_ + c", "_ - c", "return a * b - c - b"),
    "any expression, kept": ("return -g(a).h()", "-_", "_", "return g(a).h()"),
    "two expressions, swapped": ("return (a, b)", "(_1, _2)", "(_2, _1)", "return (b, a)"),
    "the same expression twice": ("return a + b, a + a", "_ + _", "2 * _", "return (a + b, 2 * a)"),
    "all arguments, kept": ("return g(a, *b, k=c, **d)", "g(...)", "-g(...)", "return -g(a, *b, k=c, **d)"),
    "no argument": ("return g()", "g(...)", "h(...)", "return h()"),
    "the arguments that follow": ("return g(a, b, k=c)", "g(a, ...)", "g(b, ...)", "return g(b, b, k=c)"),
    "the last argument": ("return g(a, b, c)", "g(..., c)", "g(...)", "return g(a, b)"),
    "a keyword among others": ("return g(a, k=1, m=2)", "g(..., m=2)", "g(...)", "return g(a, k=1)"),
    "keywords in another order": ("return g(k=1, m=2)", "g(m=2, k=_)", "_", "return 1"),
    "some elements": ("return [a, b, c]", "[a, ...]", "[...]", "return [b, c]"),
    "operands of and": ("return a and b and c", "a and ...", "not a and ...", "return not a and b and c"),
    "part of an index": ("return a[:, b - 1:-1]", "_[:, b - 1 : -1]", "_[:, b:]", "return a[:, b:]"),
    "any index": ("return a[:, None]", "a[_]", "a", "return a"),
    "a name that is assigned to": ("a = b\nreturn a", "a = _", "a = 0", "a = 0\nreturn a"),
    "a constant and not its equals": ("return (1.0, True, 1)", "1", "2", "return (1.0, True, 2)"),
    "a whole condition": ("if a > b and c:\n    g()", "a > b and c", "False", "if False:\n    g()"),
    "a statement deleted": ("if a:\n    g(a)\nreturn a", "g(a)", "pass", "if a:\n    pass\nreturn a"),
    "a statement with any body deleted": ("if a:\n    g()\n    h()\nreturn a", "if a: ...", "pass", "pass\nreturn a"),
    "a body kept": ("if a:\n    g()\n    h()", "if a: ...", "while b: ...", "while b:\n    g()\n    h()"),
    "one statement by two": ("g(a)\nreturn a", "g(a)", "g(a); h(a)", "g(a)\nh(a)\nreturn a"),
    "an expression and not what only holds it": ("g(g(a))\nreturn g", "g(a)", "a", "g(a)\nreturn g"),
    "inside an f-string": ("return f'{a!r:>{b}} or {c}'", "b", "9", "return f'{a!r:>{9}} or {c}'"),
}


@pytest.mark.parametrize(("body", "right", "wrong", "after"), CASES.values(), ids=CASES)
def test_an_expression_or_statement_is_replaced_where_the_pattern_matches(tmp_path, body, right, wrong, after):
    def function(body: str) -> str:
        return "g = h = max\n\ndef f(a, b, c):\n" + "".join(f"    {line}\n" for line in body.splitlines())

    package = plant(tmp_path, sums=function(body))
    assert mutated(package, right, wrong) + "\n" == function(after)


PLACES = """
HIGH, LOW = (11, -12)
if HIGH:
    TABLE: dict = {'a': 13}

class Sum:
    unit = 21

    def __init__(self):
        self.unit = 22

    @property
    def total(self):

        def inner(k=23):
            return k + 24
        return inner()

    class Part:

        def total(self):
            return 25

async def total(unit=31):
    return unit"""


@pytest.mark.parametrize(
    ("where", "right"),
    [
        ("HIGH", "11"),
        ("LOW", "-12"),
        ("TABLE", "13"),
        ("Sum", "21"),
        ("Sum.unit", "21"),
        ("Sum.__init__", "22"),
        ("Sum.total", "23"),
        ("Sum.total.inner", "24"),
        ("Sum.Part", "25"),
        ("Sum.Part.total", "25"),
        ("total", "31"),
        ("places:total", "31"),
        ("little.places:total", "31"),
    ],
)
def test_a_place_is_a_function_method_class_or_name_of_a_module(tmp_path, where, right):
    package = plant(tmp_path, places=PLACES)
    assert mutated(package, right, "99", where) == PLACES.strip().replace(right, "99")


def test_functions_and_their_tests_may_move_and_be_laid_out_anew(tmp_path):
    mutation = Mutation("sum: sign", "total", "a + g(...)", "a - g(...)")
    moved = "def other(): ...\n\ndef total(a, b):\n    return (  # moved\n        a\n        + g(b, k=1)\n    )\n"
    for name, text in {"sums": "def total(a, b):\n    return a + g(b, k=1)\n", "attic__adding": moved}.items():
        root = tmp_path / name
        root.mkdir()
        trial = plant(root, **{name: text}, test_sums="").trial(mutation, "test_sums", "three")
        assert trial.file == Path("little", *name.split("__")).with_suffix(".py")
        assert trial.text.endswith("return a - g(b, k=1)")
        assert trial.options == ["-x", "-k", "three", os.path.join("tests", "room", "test_sums.py")]


def test_one_of_several_places_is_counted_in_the_order_of_the_text(tmp_path):
    package = plant(tmp_path, sums="def f(a, b):\n    return [a for a in g(a + 1)] if a + 1 else (a + 1) * b\n")
    texts = [mutated(package, "a + 1", "b", place=place) for place in (1, 2, 3)]
    assert [text.splitlines()[1].strip() for text in texts] == [
        "return [a for a in g(b)] if a + 1 else (a + 1) * b",
        "return [a for a in g(a + 1)] if b else (a + 1) * b",
        "return [a for a in g(a + 1)] if a + 1 else b * b",
    ]


REFUSALS = {
    "no such place": (("f", "a - b", "a"), "nothing in f matches 'a - b'"),
    "two places": (("f", "a + 1", "a"), r"'a \+ 1' matches 2 places in f \(lines 3, 6\); say which"),
    "a place too many": (("f", "a + 1", "a", 3), "there is no place 3 of 2"),
    "the place before the first": (("f", "a + 1", "a", 0), "there is no place 0 of 2"),
    "no such function": (("g", "a", "b"), "little has no g"),
    "a method without its class": (("method", "a", "b"), "little has no method"),
    "a local name": (("f.a", "a", "b"), "little has no f.a"),
    "two modules": (("twice", "1", "2"), r"twice is defined 2 times \(little.first, little.second\); say where"),
    "another module": (("second:f", "a + 1", "a"), "little has no second:f"),
    "half the name of a module": (("econd:twice", "1", "2"), "little has no econd:twice"),
    "one class, two definitions": (
        ("Sum.total", "1", "2"),
        r"Sum.total is defined 2 times \(little.first, little.first",
    ),
    "no pattern": (("f", "", "b"), "one statement or expression is replaced by one or more"),
    "no replacement": (("f", "a", ""), "one statement or expression is replaced by one or more"),
    "two statements": (("f", "a; b", "b"), "one statement or expression is replaced by one or more"),
    "no Python": (("f", "a +", "b"), "is no Python"),
    "two rests": (("f", "g(...)(...)", "b"), r"has \.\.\. more than once"),
    "what no wildcard has matched": (("f", "_1 * 2", "_2 * 2"), "'_2 \\* 2' has _2, which '_1 \\* 2' has not"),
    "a rest that the pattern has not": (("f", "a * 2", "max(...)"), r"has \.\.\., which 'a \* 2' has not"),
    "a name of another function": (("f", "a * 2", "self * 2"), r"'self \* 2' has self, which f does not know"),
    "nothing changes": (("f", "a * 2", "(a*2)"), "it changes nothing"),
    "what Python refuses": (("f", "return _", "continue"), "it is no Python: 'continue' not properly in loop"),
}


@pytest.mark.parametrize(("mutation", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_mutation_that_cannot_be_made_is_named(tmp_path, mutation, message):
    first = """
        def f(a, b):
            b = a + 1
            # A line of the file, and not of the tree.

            b = a + 1
            return a * 2
        def twice(): return 1
        class Sum:
            def method(self): pass
            @property
            def total(self): return 1
            @total.setter
            def total(self, value): pass
    """
    package = plant(tmp_path, first="if True:" + first, second="def twice(): return 1\n")
    with pytest.raises(MutationError, match=f"^mistake: .*{message}"):
        package.trial(Mutation("mistake", *mutation), "test_f", "")


def test_the_module_tells_functions_of_one_name_apart(tmp_path):
    package = plant(tmp_path, room__first="def f(): return 1\n", second="def f(): return 1\n")
    for where in ("first:f", "room.first:f", "little.room.first:f", "second:f"):
        trial = package.trial(Mutation("mistake", where, "1", "2"), "test_f", "")
        assert trial.file == Path("little", "second.py" if "second" in where else "room/first.py")


def test_all_that_is_wrong_with_a_table_is_said_at_once(tmp_path):
    package = plant(tmp_path, sums="def f(): return 1\n")
    table = {
        ("test_f", ""): [
            Mutation("one", "f", "1", "2"),
            Mutation("two", "f", "3", "2"),
            Mutation("one", "f", "1", "3"),
        ],
        ("test_g", ""): [Mutation("three", "f", "1", "2")],
    }
    with pytest.raises(MutationError) as caught:
        package.trials(table)
    assert str(caught.value).splitlines() == [
        "two: nothing in f matches '3'",
        "one: there are two of that name",
        "three: there is no test module test_g",
    ]


def run(root: Path, table: mutating.Table, limit: int = 300) -> tuple[int, list[str]]:
    """``try_all`` on a planted package, in a process of its own: exit code and sorted lines, without seconds."""
    program = (
        "import sys; from pathlib import Path; import mutating; from mutating import Mutation\n"
        f"mutating.LIMIT = {limit}; package = mutating.Package(Path(sys.argv[1]), 'little')\n"
        f"sys.exit(mutating.try_all(package, package.trials({table!r})))"
    )
    path = os.pathsep.join(filter(None, [str(Path(mutating.__file__).parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-c", program, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    lines = [" ".join(line.partition("  (")[0].split()) for line in done.stdout.splitlines()]
    assert lines, done.stderr
    return done.returncode, [*sorted(lines[:-1]), lines[-1].rpartition(",")[0]]


SUMS = "ONE = 1\n\ndef add(a, b):\n    while a < 0:\n        a += ONE\n    return a + b  # a comment\n"
TESTS = """
from pathlib import Path
import pytest
from little.sums import add
def test_two(): assert add(1, 1) == 2
def test_deaf(): add(1, 1)
def test_empty(): assert add(0, 0) == 0
def test_always_red(): assert add(1, 1) == 3
@pytest.fixture
def broken(): assert add(1, 1) == 2
def test_fixture(broken): pass
@pytest.mark.slow
def test_slow(): assert add(1, 1) == 2
"""
SIGN = "add", "a + b", "a - b"


@forks
def test_a_mutation_is_noticed_when_a_test_that_else_passes_turns_red(tmp_path):
    plant(tmp_path, sums=SUMS, test_sums=TESTS)
    table = {
        ("test_sums", "two"): [Mutation("sign", *SIGN)],
        ("test_sums", "deaf or two"): [Mutation("other sign", *SIGN)],
        ("test_sums", "fixture"): [Mutation("sign in a fixture", *SIGN)],
    }
    noticed = ["other sign noticed", "sign in a fixture noticed", "sign noticed"]
    assert run(tmp_path, table) == (0, [*noticed, "3 mutations, 0 not noticed"])
    assert (tmp_path / "little/sums.py").read_text() == SUMS


@forks
def test_a_mutation_is_not_noticed_by_tests_that_cannot_tell(tmp_path):
    plant(tmp_path, sums=SUMS, test_sums=TESTS)
    table = {
        ("test_sums", "deaf"): [Mutation("a test that cannot fail", *SIGN)],
        ("test_sums", "empty"): [Mutation("a test of zeros", *SIGN)],
        ("test_sums", "slow"): [Mutation("a slow test only", *SIGN)],
        ("test_sums", "nobody"): [Mutation("no test of that name", *SIGN)],
        ("test_sums", "red"): [Mutation("a test that is red anyway", *SIGN)],
        ("test_sums", "two"): [Mutation("the module breaks", "ONE", "1", "1 / 0")],
    }
    code, lines = run(tmp_path, table)
    assert code == 1
    assert lines == [
        "a slow test only the tests did not run (exit code 5)",
        "a test of zeros SURVIVED",
        "a test that cannot fail SURVIVED",
        "a test that is red anyway NOT PROVED: without it, tests/room/test_sums.py::test_always_red is red as well",
        "a test that is red anyway noticed",
        "no test of that name the tests did not run (exit code 5)",
        "the module breaks the tests did not run (exit code 2)",
        "6 mutations, 6 not noticed",
    ]
    assert run(tmp_path, {}) == (1, ["0 mutations, 0 not noticed"])


@pytest.mark.slow
@forks
def test_a_loop_without_an_end_is_ended(tmp_path):
    plant(tmp_path, sums=SUMS, test_sums=TESTS)
    table = {("test_sums", "two"): [Mutation("no end", "add", "a < 0", "True")]}
    lines = ["no end the tests did not run (exit code -14)", "1 mutations, 1 not noticed"]
    assert run(tmp_path, table, limit=3) == (1, lines)


@forks
def test_test_modules_of_one_name_are_told_apart_by_their_folders(tmp_path):
    plant(tmp_path, sums=SUMS, test_sums="def test_nothing(): pass\n")
    (tmp_path / "tests/room/__init__.py").touch()
    (tmp_path / "tests/test_sums.py").write_text(TESTS)
    table = {
        ("test_sums", "two and not room"): [Mutation("outside", *SIGN)],
        ("test_sums", "room"): [Mutation("in the room", *SIGN)],
    }
    lines = ["in the room SURVIVED", "outside noticed", "2 mutations, 1 not noticed"]
    assert run(tmp_path, table) == (1, lines)
