"""Mistakes on purpose: their place in a package, by function and expression, and whether the tests notice them.

A place is named by what the code says and not by where it stands: the function ``clipped_policy_loss`` is looked for
in every module of the package, and in it the expression ``-masked_mean(...)``. Code is compared as syntax trees. So a
function may move to another module, and its text may be laid out anew, without a change in the table of mutations.

In the expression or statement that is looked for,

    _  _1  _2    stand for any one expression, and the same name for the same expression;
    ...          stands in a list, once, for any number of its members: arguments (those with keywords as well),
                 elements, operands of ``and``, statements;

and in what takes its place they stand for what they have matched. Everything else stands for itself.
"""

import ast
import builtins
import contextlib
import importlib
import io
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

WILDCARD = re.compile(r"_\d*")
NOT_COMPARED = {"ctx", "kind", "type_comment"}
LIMIT = 300  # seconds for the tests of one mutation: a mistake may well be a loop without an end


class Mutation(NamedTuple):
    """One mistake.

    Attributes:
        name: of the mistake.
        where: a function, ``Class.method``, class or name of a module; ``module:name`` where several modules have it.
        right: the expression or statement there, as a pattern.
        wrong: what takes its place; ``pass`` deletes a statement, and ``a; b`` are two.
        place: which one, counted from 1 in the order of the text, where the pattern matches several.
    """

    name: str
    where: str
    right: str
    wrong: str
    place: int | None = None


# (test module that must notice, in whatever folder; which of its tests, as for pytest's -k): mutations.
# Where several folders have a module of that name, all are run; -k knows the folders' names as well.
Table = dict[tuple[str, str], list[Mutation]]


class Trial(NamedTuple):
    """Tests that are run on a copy of the package: what pytest is told, and of which file the copy has a new text."""

    name: str
    options: list[str]
    file: Path | None = None
    text: str = ""
    limit: int = 0  # seconds; 0: ``LIMIT``


class MutationError(ValueError):
    """A mutation that cannot be made as it is written, or that has no tests."""


# Matching


def is_rest(node: Any) -> bool:
    """Whether this is ``...``, as an expression or as a statement."""
    node = node.value if isinstance(node, ast.Expr) else node
    return isinstance(node, ast.Constant) and node.value is ...


def is_wildcard(node: Any) -> bool:
    return isinstance(node, ast.Name) and WILDCARD.fullmatch(node.id) is not None


def matches(pattern: Any, node: Any, found: dict[str, Any]) -> bool:
    """Whether a part of a tree fits a part of a pattern; ``found`` takes down what the wildcards stand for."""
    if is_wildcard(pattern):
        if not isinstance(node, ast.expr):
            return False
        return ast.unparse(found.setdefault(pattern.id, node)) == ast.unparse(node)
    if type(pattern) is not type(node):
        return False
    if isinstance(pattern, list):
        rest = next((at for at, part in enumerate(pattern) if is_rest(part)), None)
        if rest is None:
            return len(pattern) == len(node) and all(matches(p, n, found) for p, n in zip(pattern, node, strict=True))
        end = len(node) - len(pattern[rest + 1 :])
        if end < rest:
            return False
        found["..."] = node[rest:end]
        return matches(pattern[:rest], node[:rest], found) and matches(pattern[rest + 1 :], node[end:], found)
    if isinstance(pattern, ast.Call):  # keywords in any order
        wanted, given = ({keyword.arg: keyword.value for keyword in call.keywords} for call in (pattern, node))
        more = [keyword for keyword in node.keywords if keyword.arg not in wanted]
        if any(map(is_rest, pattern.args)):
            found["keywords of ..."] = more
        elif more:
            return False
        if not all(name in given and matches(value, given[name], found) for name, value in wanted.items()):
            return False
        return matches(pattern.func, node.func, found) and matches(pattern.args, node.args, found)
    if isinstance(pattern, ast.AST):
        fields = [field for field in pattern._fields if field not in NOT_COMPARED]
        return all(matches(getattr(pattern, field, None), getattr(node, field, None), found) for field in fields)
    return pattern == node


class Filled(ast.NodeTransformer):
    """Puts into the replacement what the wildcards of the pattern have matched."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found

    def visit_Name(self, node: ast.Name) -> Any:
        return self.found[node.id] if is_wildcard(node) else node

    def visit_Constant(self, node: ast.Constant) -> Any:
        return self.found["..."] if is_rest(node) else node

    def visit_Expr(self, node: ast.Expr) -> Any:
        return self.found["..."] if is_rest(node) else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> Any:
        if any(map(is_rest, node.args)):
            node.keywords += self.found.get("keywords of ...", [])
        return self.generic_visit(node)


class Swapped(ast.NodeTransformer):
    """Puts something else in the place of one node."""

    def __init__(self, old: ast.AST, new: Any) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else self.generic_visit(node)


def as_trees(right: str, wrong: str) -> tuple[Any, list[Any]]:
    """An expression and the expression in its place, or a statement and the statements in its place."""
    try:
        old, new = ast.parse(right).body, ast.parse(wrong).body
    except SyntaxError as error:
        raise MutationError(f"{error.text!r} is no Python: {error.msg}") from None
    if len(old) != 1 or not new:
        raise MutationError(f"one statement or expression is replaced by one or more, and not {right!r} by {wrong!r}")
    if sum(is_rest(node) and isinstance(node, ast.expr) for node in ast.walk(old[0])) > 1:
        raise MutationError(f"{right!r} has ... more than once")
    if len(new) == 1 and isinstance(old[0], ast.Expr) and isinstance(new[0], ast.Expr):
        return old[0].value, [new[0].value]
    return old[0], new


def known_names(module: ast.Module, scope: ast.AST) -> set[str]:
    """Names that mean something in a part of a module."""
    imports = [node for node in ast.walk(module) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {(alias.asname or alias.name).partition(".")[0] for node in imports for alias in node.names}
    names |= set(dir(builtins)) | {name for name, _ in definitions(module)}
    names |= {node.id for node in ast.walk(scope) if isinstance(node, ast.Name)}
    return names | {node.arg for node in ast.walk(scope) if isinstance(node, ast.arg)}


def replace_in(module: ast.Module, scope: ast.AST, mutation: Mutation) -> None:
    """Make the mistake in the tree of a module, in the part of it that is ``scope``."""
    pattern, wrong = as_trees(mutation.right, mutation.wrong)
    places = []
    for node in ast.walk(scope):
        found: dict[str, Any] = {}
        if matches(pattern, node, found):
            places.append((node, found))
    places.sort(key=lambda place: (place[0].lineno, place[0].col_offset))
    if not places:
        raise MutationError(f"nothing in {mutation.where} matches {mutation.right!r}")
    if mutation.place is None and len(places) > 1:
        lines = ", ".join(str(node.lineno) for node, _ in places)
        count = f"{len(places)} places in {mutation.where} (lines {lines})"
        raise MutationError(f"{mutation.right!r} matches {count}; say which")
    if mutation.place is not None and not 1 <= mutation.place <= len(places):
        raise MutationError(f"there is no place {mutation.place} of {len(places)} for {mutation.right!r}")
    node, found = places[(mutation.place or 1) - 1]
    used = {
        name.id for part in wrong for name in ast.walk(part) if isinstance(name, ast.Name) and not is_wildcard(name)
    }
    if unknown := sorted(used - known_names(module, scope)):  # a NameError would turn any test red
        raise MutationError(f"{mutation.wrong!r} has {unknown[0]}, which {mutation.where} does not know")
    try:
        new = [Filled(found).visit(part) for part in wrong]
    except KeyError as error:
        raise MutationError(f"{mutation.wrong!r} has {error.args[0]}, which {mutation.right!r} has not") from None
    Swapped(node, new if isinstance(node, ast.stmt) else new[0]).visit(module)


# The package


def definitions(node: ast.AST, within: str = "", local: bool = False) -> Iterator[tuple[str, ast.AST]]:
    """Qualified name and node of all functions, classes, and names that are assigned outside of functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield within + child.name, child
            yield from definitions(child, f"{within}{child.name}.", local or not isinstance(child, ast.ClassDef))
        elif not isinstance(child, ast.expr):
            if isinstance(child, ast.Assign | ast.AnnAssign) and not local:
                targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                names = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
                yield from ((within + name, child) for name in names)
            yield from definitions(child, within, local)


class Package:
    """The modules of a package, and the tests beside it.

    Args:
        root: the folder that holds the package and ``tests``.
        name: of the package.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name = root, name
        self.sources = {file: file.read_text(encoding="utf-8") for file in sorted((root / name).rglob("*.py"))}
        trees = {file: ast.parse(source) for file, source in self.sources.items()}
        self.texts = {file: ast.unparse(tree) for file, tree in trees.items()}  # without comments, as after a change
        self.names = {file: [name for name, _ in definitions(tree)] for file, tree in trees.items()}

    def module(self, file: Path) -> str:
        return ".".join(file.relative_to(self.root).with_suffix("").parts).removesuffix(".__init__")

    def file_of(self, where: str) -> Path:
        """The one file that defines a name."""
        hint, _, name = where.rpartition(":")
        files = [file for file in self.texts if f".{self.module(file)}".endswith(f".{hint}" if hint else "")]
        found = [file for file in files for defined in self.names[file] if defined == name]
        if not found:
            raise MutationError(f"{self.name} has no {where}")
        if len(found) > 1:
            modules = ", ".join(map(self.module, found))
            raise MutationError(f"{where} is defined {len(found)} times ({modules}); say where, as in module:{name}")
        return found[0]

    def tests_named(self, module: str) -> list[str]:
        files = sorted((self.root / "tests").rglob(f"{module}.py"))
        if not files:
            raise MutationError(f"there is no test module {module}")
        return [str(file.relative_to(self.root)) for file in files]

    def trial(self, mutation: Mutation, tests: str, which: str) -> Trial:
        """Make a mistake, on paper."""
        try:
            file = self.file_of(mutation.where)
            tree = ast.parse(self.sources[file])
            scope = dict(definitions(tree))[mutation.where.rpartition(":")[2]]
            replace_in(tree, scope, mutation)
            text = ast.unparse(tree)
            if text == self.texts[file]:
                raise MutationError("it changes nothing")
            try:
                compile(text, file.name, "exec")
            except SyntaxError as error:
                raise MutationError(f"with {mutation.wrong!r} it is no Python: {error.msg}") from None
            options = ["-x", "-k", which, *self.tests_named(tests)]
            return Trial(mutation.name, options, file.relative_to(self.root), text)
        except MutationError as error:
            raise MutationError(f"{mutation.name}: {error}") from None

    def trials(self, table: Table) -> list[Trial]:
        """All mistakes of a table, on paper.

        Raises:
            MutationError: with one line for each mutation that cannot be made.
        """
        trials, errors, names = [], [], set()
        for (tests, which), mutations in table.items():
            for mutation in mutations:
                if mutation.name in names:
                    errors.append(f"{mutation.name}: there are two of that name")
                names.add(mutation.name)
                try:
                    trials.append(self.trial(mutation, tests, which))
                except MutationError as error:
                    errors.append(str(error))
        if errors:
            raise MutationError("\n".join(errors))
        return trials

    def copy_to(self, folder: Path) -> None:
        """The package, its tests and pytest's settings; recorded runs, hundreds of files, are left out."""
        for part in (self.name, "tests"):
            ignored = shutil.ignore_patterns("recorded", "__pycache__")
            shutil.copytree(self.root / part, folder / part, ignore=ignored)
        shutil.copy(self.root / "pyproject.toml", folder)
        for file, text in self.texts.items():
            (folder / file.relative_to(self.root)).write_text(text, encoding="utf-8")


# Trying


class Reds:
    """A plugin of pytest that takes down which tests fail."""

    def __init__(self) -> None:
        self.tests: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.tests.append(report.nodeid)


def run_tests(folder: Path, package: str, options: list[str], limit: int, plugins: Sequence[Any] = ()) -> int:
    """In a fork: pytest on a copy. Gives pytest's exit code, and leaves the names of the red tests in a file."""
    import pytest

    signal.alarm(limit)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    reds = Reds()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = pytest.main(["-q", "-m", "not slow", "-p", "no:cacheprovider", *options], plugins=[reds, *plugins])
    Path("reds").write_text("\n".join(reds.tests), encoding="utf-8")
    imported = importlib.import_module(package).__file__
    return int(code) if imported and Path(imported).is_relative_to(folder) else 99


def start(package: Package, folder: Path, trial: Trial) -> int:
    """Begin a trial in a fork of this process, whose id is returned."""
    if trial.file:
        (folder / trial.file).unlink()  # a link to the unchanged file
        (folder / trial.file).write_text(trial.text, encoding="utf-8")
    child = os.fork()
    if child == 0:
        try:
            os._exit(run_tests(folder, package.name, trial.options, trial.limit or LIMIT))
        except BaseException:
            traceback.print_exc()
            os._exit(98)
    return child


def run_all(
    package: Package, trials: Iterable[Trial], processes: int | None = None
) -> Iterator[tuple[Trial, int, list[str], float]]:
    """Run trials, each in a copy and a fork of its own.

    Args:
        processes: trials at a time; as many as there are processors (4 at most) if None.

    Yields:
        trial, pytest's exit code, the names of the red tests, and seconds, in the order in which trials end.
    """
    waiting = list(reversed(list(trials)))
    running: dict[int, tuple[Trial, Path, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        unchanged = Path(temporary).resolve() / "unchanged"
        package.copy_to(unchanged)
        at_once = processes or min(4, os.cpu_count() or 1)
        while waiting or running:
            if waiting and len(running) < at_once:
                trial, folder = waiting.pop(), unchanged.with_name(f"copy{len(waiting)}")
                shutil.copytree(unchanged, folder, copy_function=os.link)
                running[start(package, folder, trial)] = trial, folder, time.perf_counter()
            else:
                child, status = os.wait()
                trial, folder, begin = running.pop(child)
                reds = folder / "reds"
                names = reds.read_text(encoding="utf-8").splitlines() if reds.exists() else []
                yield trial, os.waitstatus_to_exitcode(status), names, time.perf_counter() - begin
                shutil.rmtree(folder)


def try_all(package: Package, trials: list[Trial]) -> int:
    """Run all trials and print a line for each; gives an exit code, 1 when a mistake has survived.

    At last the tests that were red run on unchanged copies, where all must pass: else it was not the mistake that they
    have noticed.
    """
    begin, failures = time.perf_counter(), 0
    noticed: dict[str, str] = {}  # test: a mistake that it has noticed
    for trial, code, reds, seconds in run_all(package, trials):
        result = {0: "SURVIVED", 1: "noticed"}.get(code, f"the tests did not run (exit code {code})")
        print(f"{trial.name:50s} {result}  ({seconds:.1f} s)", flush=True)
        failures += code != 1
        noticed |= dict.fromkeys(reds, trial.name)
    files = sorted({test.partition("::")[0] for test in noticed})
    controls = [Trial(file, [test for test in noticed if test.startswith(f"{file}::")]) for file in files]
    for control, code, reds, _ in run_all(package, controls):
        if code not in (0, 1):
            print(f"{control.name}: without a mistake, its tests did not run (exit code {code})")
        for test in reds:
            print(f"{noticed[test]:50s} NOT PROVED: without it, {test} is red as well")
        failures += code != 0
    print(f"{len(trials)} mutations, {failures} not noticed, {time.perf_counter() - begin:.0f} s")
    return 1 if failures or not trials else 0
