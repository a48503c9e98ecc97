"""Read who imports whom in ppo_lib, and draw its rooms.

    python scripts/draw_house.py            # print the picture
    python scripts/draw_house.py --write    # put it into CONTRIBUTING.md

Every import counts: those inside functions, those for type checkers alone, and modules that are named in a text, as for
``importlib``. ``tests/test_house.py`` holds the rooms to their order by the same reading.
"""

import argparse
import ast
import graphlib
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# In the order of imports: a room imports from those before it and from itself. The package's own two files import all,
# and what lies below all rooms is for all to import.
ROOMS = ("formulas", "models", "sampling", "trainers", "parallel", "pocket", "book", "run")
BELOW = ("errors", "versions")
OPEN, CLOSE = "<!-- scripts/draw_house.py --write -->", "<!-- end of the picture -->"


@dataclass(frozen=True)
class Arrow:
    """One module that needs another.

    Attributes:
        source, target: full names.
        line: where, in the source.
        named: the target stands there as a text, which somebody may hand to ``importlib``.
    """

    source: str
    target: str
    line: int
    named: bool = False

    def __str__(self) -> str:
        return f"{self.source} (line {self.line}) {'names' if self.named else 'imports'} {self.target}"


@dataclass(frozen=True)
class House:
    """The modules of a package with their lengths in lines, and all arrows between them."""

    package: str
    lines: dict[str, int]
    arrows: tuple[Arrow, ...]

    def room(self, module: str) -> str:
        """The room that a module stands in; empty for the package's own files."""
        return module.removeprefix(self.package).strip(".").partition(".")[0].removeprefix("__main__")

    def floor(self, module: str) -> int:
        """How high a module's room lies; -1 is below all rooms, and the package's own files stand above all.

        Raises:
            ValueError: it stands in no room.
        """
        room = self.room(module)
        if module in {f"{self.package}.{name}" for name in BELOW}:
            return -1
        if room and room not in ROOMS:
            raise ValueError(f"{module} stands in no room; there are {', '.join(ROOMS)}")
        return ROOMS.index(room) if room else len(ROOMS)

    def backward(self) -> list[Arrow]:
        """The arrows from a lower room to a higher one."""
        return [arrow for arrow in self.arrows if self.floor(arrow.source) < self.floor(arrow.target)]

    def circle(self) -> list[str]:
        """Modules that need each other in a circle, the first one again at the end; empty where there is none."""
        needs: dict[str, set[str]] = {module: set() for module in self.lines}
        for arrow in self.arrows:
            needs[arrow.source].add(arrow.target)
        try:
            graphlib.TopologicalSorter(needs).prepare()
        except graphlib.CycleError as error:
            return list(error.args[1])[::-1]
        return []

    def without(self, pairs: Iterable[tuple[str, str]]) -> "House":
        """The same house less some arrows that name their target."""
        left = set(pairs)
        kept = (arrow for arrow in self.arrows if not (arrow.named and (arrow.source, arrow.target) in left))
        return House(self.package, self.lines, tuple(kept))


def read_house(folder: Path) -> House:
    """Read the package in a folder."""
    package = folder.name
    files = {name_of(path.relative_to(folder.parent)): path for path in sorted(folder.rglob("*.py"))}
    texts = {module: path.read_text(encoding="utf-8") for module, path in files.items()}
    arrows: list[Arrow] = []
    for module, text in texts.items():
        is_package = files[module].name == "__init__.py"
        found = {
            arrow: None
            for arrow in arrows_of(module, is_package, ast.parse(text), set(files))
            if arrow.target != module and arrow.target.partition(".")[0] == package
        }
        arrows += found
    return House(package, {module: len(text.splitlines()) for module, text in texts.items()}, tuple(arrows))


def name_of(path: Path) -> str:
    """``ppo_lib/models/tokens.py`` as a module's name."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows_of(module: str, is_package: bool, tree: ast.AST, modules: set[str]) -> Iterator[Arrow]:
    """All that a module imports, wherever the import stands, and all modules that one of its texts names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Arrow(module, alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative: one dot is the package that the module stands in
                parents = module.split(".")[: None if is_package and node.level == 1 else is_package - node.level]
                base = ".".join([*parents, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Arrow(module, inner if inner in modules else base, node.lineno)
        elif isinstance(node, ast.Constant) and node.value in modules and "." in str(node.value):
            yield Arrow(module, str(node.value), node.lineno, named=True)  # the package's own name says nothing


def picture(house: House) -> str:
    """Rooms with their files and lines, which other rooms each imports from, and what stands in them.

    Lines are rounded to hundreds, so that not every edit changes the picture.
    """
    wide = max(map(len, ROOMS)) + 2
    rows, shelves = [f"{'room':{wide}}{'files':>5}{'lines':>8}   imports from"], []
    for floor, room in enumerate(ROOMS):
        inside = [module for module in house.lines if house.room(module) == room]
        count = sum(house.lines[module] for module in inside)
        needed = {house.room(arrow.target) for arrow in house.arrows if house.room(arrow.source) == room}
        marks = "  ".join(other if other in needed else " " * len(other) for other in ROOMS[:floor])
        rows.append(f"{room:{wide}}{len(inside):5}{round(count, -2):8,}   {marks}".rstrip())
        own = [module.removeprefix(f"{house.package}.{room}").strip(".") for module in inside]
        words = sorted({word.partition(".")[0] + "/" * ("." in word) for word in own if word})
        words = [word for word in words if f"{word}/" not in words]  # a folder has a file of its own name
        text = textwrap.fill(" ".join(words), 108, break_long_words=False, break_on_hyphens=False)
        shelves.append(f"{room:{wide}}{text}".replace("\n", "\n" + " " * wide))
    low = [short(module) for module in house.lines if house.floor(module) < 0]
    if low:
        shelves += ["", f"Below all rooms: {', '.join(low)}"]
    named = [arrow for arrow in house.backward() if arrow.named]
    if named:
        pairs = ", ".join(f"{short(arrow.source)} -> {short(arrow.target)}" for arrow in named)
        shelves += ["", f"By name, when first asked for: {pairs}"]
    return "\n".join([*rows, "", *shelves])


def short(module: str) -> str:
    """A module's name without the package's."""
    return module.partition(".")[2]


def main() -> int:
    """Print the picture, or write it."""
    parser = argparse.ArgumentParser(description="Draw the rooms of ppo_lib.")
    parser.add_argument("--write", action="store_true", help="put the picture into CONTRIBUTING.md")
    options = parser.parse_args()
    drawn = picture(read_house(ROOT / "ppo_lib"))
    if options.write:
        page = ROOT / "CONTRIBUTING.md"
        page.write_text(replaced(page.read_text(encoding="utf-8"), drawn), encoding="utf-8")
    else:
        print(drawn)
    return 0


def replaced(page: str, drawn: str) -> str:
    """The page with this picture between its marks.

    Raises:
        ValueError: the marks are not there, once each and in order.
    """
    before, opened, rest = page.partition(OPEN)
    _, closed, after = rest.partition(CLOSE)
    if not opened or not closed or OPEN in rest or CLOSE in after:
        raise ValueError(f"the page must hold {OPEN!r} and after it {CLOSE!r}, once each")
    return f"{before}{OPEN}\n```\n{drawn}\n```\n{CLOSE}{after}"


if __name__ == "__main__":
    sys.exit(main())
