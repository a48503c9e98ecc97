"""Small mistakes, made by a tool: how many of them does a test notice?

    make mutate                                     # formulas and trainers; what was tried before is not tried again
    make mutate ARGS="formulas --processes 2"       # one room, two mistakes at a time
    make mutate ARGS="trainers/ppo trainers/sft"    # some modules
    make mutate ARGS=--report                       # only write the summary anew

cosmic-ray puts every mistake of `CHANGES` into a module, one at a time: another sign, a number one too high, ``<=`` for
``<``, a condition turned around. Each is tried as `tests/mutating.py` tries those that people thought of, in a copy and
a fork, by the quick tests that run the changed line, the shortest first. What came out is kept in `STATE`, so that a
run can be broken off; a mistake that survived is tried again once its tests have changed. The summary is
`benchmarks/results/mutation.txt`; `scripts/equivalent.yaml` says which survivors change nothing, and why.
"""

import argparse
import ast
import gc
import hashlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import mutating  # noqa: E402
from mutating import Package, Trial  # noqa: E402

STATE = ROOT / "_build" / "mutation"
SUMMARY = ROOT / "benchmarks" / "results" / "mutation.txt"
EQUIVALENT = ROOT / "scripts" / "equivalent.yaml"
ROOMS = ("formulas", "trainers")
AROUND = 40  # characters of a line that are shown before and after what differs

# Tests of a module besides those in its mirror image, tests/ROOM/test_MODULE.py.
ALSO = {
    "formulas/dpo": ["trainers/test_dpo.py"],
    "formulas/grpo": ["trainers/test_grpo.py"],
    "formulas/masking": ["formulas/test_losses.py", "formulas/test_advantages.py", "formulas/test_rewards.py"],
    "trainers/experience": ["trainers/test_ppo.py"],
    "trainers/grpo": ["trainers/test_ppo.py"],
    "trainers/judging": ["trainers/test_ppo.py", "run/test_judges.py"],
    "trainers/optimizer": ["trainers/test_loss_scale.py", "trainers/test_sft.py"],
    "trainers/plain_yaml": ["trainers/test_configuration.py"],
    "trainers/microbatches": ["trainers/test_ppo.py"],
    "trainers/ppo": ["trainers/test_loss_scale.py", "trainers/test_grpo.py"],
}

# What is changed into what. Of cosmic-ray's operators those that a person might have written: `a << b` for `a - b`
# raises a TypeError in any test and proves nothing about them.
ARITHMETIC = {
    "Add": "Sub", "Sub": "Add", "Mul": "Div", "Div": "Mul", "FloorDiv": "Mul", "Mod": "Mul", "Pow": "Mul",
    "BitOr": "BitAnd", "BitAnd": "BitOr",
}  # fmt: skip
COMPARISONS = {
    "Lt": ("LtE", "GtE"), "LtE": ("Lt", "Gt"), "Gt": ("GtE", "LtE"), "GtE": ("Gt", "Lt"),
    "Eq": ("NotEq",), "NotEq": ("Eq",), "Is": ("IsNot",), "IsNot": ("Is",),
}  # fmt: skip
CHANGES = (
    *(f"ReplaceBinaryOperator_{a}_{b}" for a, b in ARITHMETIC.items()),
    *(f"ReplaceComparisonOperator_{a}_{b}" for a, others in COMPARISONS.items() for b in others),
    *(f"ReplaceUnaryOperator_Delete_{sign}" for sign in ("USub", "Not", "Invert")),
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "NumberReplacer"),
    *("RemoveDecorator", "ZeroIterationForLoop"),
)


def alike(one: str, other: str) -> int:
    """With how many characters two texts begin alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


class Mutant(NamedTuple):
    """A module with one mistake: its text, and the line of it that differs, as it was and as it is."""

    text: str
    line: int
    before: str
    after: str

    @property
    def change(self) -> str:
        """What differs, with a few characters around it."""
        start = alike(self.before, self.after)
        end = alike(self.before[start:][::-1], self.after[start:][::-1])
        first, last = max(0, start - AROUND), max(0, end - AROUND)
        a, b = (text[first : len(text) - last] for text in (self.before, self.after))
        return f"{a}  ->  {b}"


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


# What is tried


def without_annotations(text: str) -> str:
    """The same code without the annotations, which nothing executes."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(0)
    return ast.unparse(tree)


def compared(right: str, wrong: str) -> Mutant | None:
    """The mistake between two texts of a module, both as `ast.unparse` lays them out; None if there is none."""
    if without_annotations(right) == without_annotations(wrong):
        return None
    old, new = right.splitlines(), wrong.splitlines()
    line = next(at for at, (a, b) in enumerate(itertools.zip_longest(old, new)) if a != b)
    after = new[line].strip() if len(new) == len(old) else "(gone)"
    return Mutant(wrong, line + 1, old[line].strip(), after)


def mutants(source: str) -> list[Mutant]:
    """Every mistake of `CHANGES` in a module, none twice."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    right, found = ast.unparse(ast.parse(source)), {}
    for change in CHANGES:
        for place in itertools.count():
            try:
                code = mutate_code(source, get_operator(f"core/{change}")(), place)
                if code is None:
                    break
                wrong = ast.unparse(ast.parse(code))
            except (AttributeError, SyntaxError):  # its own stumbling over `except a.B`, and `**x` made into `*x`
                continue
            if wrong not in found and (mutant := compared(right, wrong)):
                found[wrong] = mutant
    return list(found.values())


def mirrored(module: str) -> list[str]:
    room, name = module.split("/")
    files = [f"{room}/test_{name}.py", *ALSO.get(module, [])]
    return [f"tests/{file}" for file in files if (ROOT / "tests" / file).exists()]


class Lines:
    """A plugin of pytest: which tests run which line of a file, and how long each takes."""

    def __init__(self, file: Path) -> None:
        import coverage

        self.file, self.seconds = file, dict[str, float]()
        self.coverage = coverage.Coverage(data_file=None, include=[str(file)], config_file=False)

    def pytest_runtest_protocol(self, item: Any) -> None:
        self.coverage.switch_context(item.nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            raise RuntimeError(f"{report.nodeid} is red without a mistake")
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration

    def found(self) -> dict[str, Any]:
        """``seconds`` of the tests, and ``tests`` by line, from the longest list of tests to none."""
        lines = self.coverage.get_data().contexts_by_lineno(str(self.file))
        return {
            "seconds": self.seconds,
            "tests": {str(at): [name for name in names if name] for at, names in lines.items()},
        }


def look(package: Package, file: Path, tests: list[str]) -> dict[str, Any]:
    """Run the tests of an unchanged module once, in a fork, and take down which run which line."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        package.copy_to(folder)
        child = os.fork()
        if child == 0:
            code = 98
            try:
                lines = Lines(folder / file)
                lines.coverage.start()
                code = mutating.run_tests(folder, package.name, tests, 3000, [lines])
                lines.coverage.stop()
                (folder / "lines.json").write_text(json.dumps(lines.found()), encoding="utf-8")
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            reds = folder / "reds"
            raise SystemExit(
                f"{file}: its tests are not green without a mistake (exit code {code}; "
                f"{reds.read_text() if reds.exists() else 'they did not run'})"
            )
        return json.loads((folder / "lines.json").read_text(encoding="utf-8"))


def chosen_tests(line: int, seen: dict[str, Any]) -> list[str]:
    """Tests that run a line, the shortest first; all of them for a line that runs when the module is imported."""
    names = seen["tests"].get(str(line)) or list(seen["seconds"])
    return sorted(names, key=lambda name: seen["seconds"].get(name, 0.0))


# Trying


def known(module: str) -> dict[str, dict[str, Any]]:
    """What earlier runs have found out, by the mutant's digest; the last word counts."""
    file = STATE / f"{module.replace('/', '.')}.jsonl"
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines()) if file.exists() else ()
    return {row["mutant"]: row for row in rows}


def try_module(package: Package, module: str, processes: int, budget: float) -> None:
    """Try what is not known yet, one line a mutant; stops at ``budget``, a time of the monotonic clock."""
    file = Path(package.name, f"{module}.py")
    tests = mirrored(module)
    version = digest(*((ROOT / test).read_text(encoding="utf-8") for test in tests))
    found = known(module)
    every = {digest(mutant.text): mutant for mutant in mutants(package.sources[package.root / file])}
    left = {
        key: mutant
        for key, mutant in every.items()
        if key not in found or (found[key]["result"] == "survived" and found[key]["tests"] != version)
    }
    print(f"{module}: {len(every)} mistakes, {len(left)} to be tried", flush=True)
    if not left or time.monotonic() > budget:
        return
    seen = look(package, file, tests)

    def trials() -> Iterator[Trial]:
        for key, mutant in left.items():
            names = chosen_tests(mutant.line, seen)
            limit = 30 + int(10 * sum(seen["seconds"].get(name, 0.0) for name in names))
            yield Trial(key, ["-x", *names], file, mutant.text, limit)

    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / f"{module.replace('/', '.')}.jsonl").open("a", encoding="utf-8") as out:
        for trial, code, _, _ in mutating.run_all(package, trials(), processes):
            result = {0: "survived", -14: "by the limit"}.get(code, "noticed")
            row = {"mutant": trial.name, "result": result, "tests": version, "change": left[trial.name].change}
            print(json.dumps(row), file=out, flush=True)
            if result == "survived":
                print(f"  survived  {left[trial.name].change}", flush=True)
            if time.monotonic() > budget:
                print("  the time is used up; the next run goes on here")
                os._exit(3)


# What came out


def equivalent() -> dict[str, dict[str, str]]:
    return yaml.safe_load(EQUIVALENT.read_text(encoding="utf-8")) or {}


def summary(results: dict[str, list[dict[str, Any]]], judged: dict[str, dict[str, str]]) -> str:
    """A line for each module and for each survivor; a judged one does not count against the tests."""
    lines, total = [], [0, 0, 0]
    head = f"{'module':26s}{'mistakes':>9s}{'noticed':>9s}{'(by a limit)':>14s}{'change nothing':>16s}{'survived':>10s}"
    survivors = []
    for module, rows in results.items():
        lived = [row["change"] for row in rows if row["result"] == "survived"]
        reasons = judged.get(module, {})
        harmless = sum(change in reasons for change in lived)
        noticed, limit = len(rows) - len(lived), sum(row["result"] == "by the limit" for row in rows)
        lines.append(f"{module:26s}{len(rows):9d}{noticed:9d}{limit:14d}{harmless:16d}{len(lived) - harmless:10d}")
        total = [a + b for a, b in zip(total, (len(rows), noticed, harmless), strict=True)]
        survivors += [f"{module}: {c}\n    {reasons.get(c, 'NOT JUDGED')}" for c in sorted(lived)]
    share = total[1] / max(1, total[0] - total[2])
    last = f"{total[1]} of {total[0] - total[2]} mistakes that change something are noticed: {share:.1%}"
    return "\n".join([head, *lines, "", last, "", "Survivors:", *survivors, ""])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", nargs="*", default=list(ROOMS), help="rooms or modules, such as formulas or trainers/ppo"
    )
    parser.add_argument("--processes", type=int, default=2, help="mistakes that are tried at a time")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop then; the next run goes on")
    parser.add_argument("--report", action="store_true", help="try nothing, only write the summary")
    options = parser.parse_args(argv)
    package = Package(ROOT, "ppo_lib")
    every = [
        f"{file.parent.name}/{file.stem}"
        for file in package.sources
        if file.parent.name in ROOMS and file.stem != "__init__"
    ]
    chosen = [
        module for module in every if any(module == what or module.startswith(f"{what}/") for what in options.what)
    ]
    if not chosen:
        print(f"mutate: there is no module {' or '.join(options.what)}; there are {', '.join(every)}")
        return 2
    if not options.report:
        os.environ |= {"HF_HUB_OFFLINE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TOKENIZERS_PARALLELISM": "false"}
        import hypothesis
        import peft
        import torch
        import transformers  # imported here, once, for all forks

        torch.set_num_threads(1)  # a fork of a process with threads could hang
        assert all((hypothesis, peft, transformers.AutoModelForCausalLM, transformers.AutoTokenizer))
        gc.freeze()
        budget = time.monotonic() + 60 * options.minutes
        for module in chosen:
            try_module(package, module, options.processes, budget)
    results = {}
    for module in filter(known, every):
        source = package.sources[package.root / package.name / f"{module}.py"]
        there, found = {digest(mutant.text): mutant.change for mutant in mutants(source)}, known(module)
        if set(there) <= set(found):
            results[module] = [found[key] | {"change": change} for key, change in there.items()]
    left = [module for module in every if module not in results]
    text = summary(results, equivalent()) + (f"\nNot tried to their end: {', '.join(left)}\n" if left else "")
    SUMMARY.write_text(text, encoding="utf-8")
    print(SUMMARY.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
