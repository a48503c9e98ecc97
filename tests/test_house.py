"""Rooms import from lower rooms only, and no modules need each other in a circle: hidden imports are read as well."""

import ast
import json
import re
from pathlib import Path

import pytest

from ppo_lib.models import registry
from scripts.draw_house import BELOW, CLOSE, ROOMS, ROOT, House, picture, read_house, replaced

HOUSE = read_house(ROOT / "ppo_lib")
# What is named in a text and imported when somebody asks for it by its own name: the registry's table, and no more.
ON_DEMAND = {("ppo_lib.models.registry", module) for module in registry.MODULES.values()}
MAY_RUN = ("10_ppo_training_loop", "11_capstone_gpu", "scaling", "your_own_model")  # their subject is the command line


def test_no_arrow_runs_back():
    assert [str(arrow) for arrow in HOUSE.without(ON_DEMAND).backward()] == []


def test_no_modules_need_each_other():
    assert HOUSE.without(ON_DEMAND).circle() == []


def test_only_the_registry_names_what_it_does_not_import():
    named = {(arrow.source, arrow.target) for arrow in HOUSE.arrows if arrow.named and arrow.source != "ppo_lib"}
    assert named == ON_DEMAND


def test_every_module_stands_in_a_room():
    assert {HOUSE.room(module) for module in HOUSE.lines} == {"", *ROOMS, *BELOW}
    assert {module for module in HOUSE.lines if not HOUSE.room(module)} == {"ppo_lib", "ppo_lib.__main__"}


def test_the_picture_in_contributing_is_the_house_as_it_stands():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert replaced(page, picture(HOUSE)) == page, "run python scripts/draw_house.py --write"
    with pytest.raises(ValueError, match="once each"):
        replaced(page.replace(CLOSE, ""), "")
    with pytest.raises(ValueError, match="once each"):
        replaced(page + page, "")


def test_what_lies_below_all_rooms_is_one_module_that_imports_none(tmp_path):
    assert [module for module in HOUSE.lines if HOUSE.floor(module) < 0] == ["ppo_lib.errors", "ppo_lib.versions"]
    (arrow,) = planted(tmp_path, formulas_kl="", errors="from toy.formulas import kl").backward()
    assert (arrow.source, arrow.target) == ("toy.errors", "toy.formulas.kl")
    assert planted(tmp_path / "other", formulas_kl="from toy import errors", errors="").backward() == []


def planted(folder: Path, **files: str) -> House:
    """A package of these files (``models_tokens="import torch"``), with an empty file in each room they stand in."""
    package = folder / "toy"
    for name, text in {"__init__": "", **files}.items():
        room, _, module = name.partition("_") if "_" in name.strip("_") else ("", "", name)
        place = package / room / f"{module}.py"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.with_name("__init__.py").touch()
    return read_house(package)


@pytest.mark.parametrize(
    "hidden",
    [
        "import toy.run.cli",
        "from toy.run import cli",
        "from toy.run.cli import main",
        "from ..run import cli",
        "from ..run.cli import main",
        "def f():\n    from toy.run.cli import main",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from toy.run.cli import main",
        "from importlib import import_module\nimport_module('toy.run.cli')",
        "TABLE = {'cli': 'toy.run.cli'}",
        "class A:\n    try:\n        import toy.run.cli as cli\n    except ImportError:\n        cli = None",
    ],
)
def test_an_arrow_that_runs_back_is_found_however_it_is_hidden(tmp_path, hidden):
    house = planted(tmp_path, models_tokens=hidden, run_cli="main = 1")
    (arrow,) = house.backward()
    assert (arrow.source, arrow.target) == ("toy.models.tokens", "toy.run.cli")
    assert house.circle() == []


def test_the_package_itself_stands_above_all_rooms(tmp_path):
    house = planted(tmp_path, models_tokens="from toy import __version__", models_hub="from toy import models")
    assert [(arrow.source, arrow.target) for arrow in house.backward()] == [("toy.models.tokens", "toy")]


@pytest.mark.parametrize(
    "hidden",
    [
        "from toy.models.tokens import x",
        "def f():\n    from . import tokens",
        "if TYPE_CHECKING:\n    from toy.models.tokens import x",
        "NAME = 'toy.models.tokens'",
    ],
)
def test_a_circle_is_found_however_it_is_hidden(tmp_path, hidden):
    house = planted(
        tmp_path,
        models_hub=hidden,
        models_tokens="from toy.models.linear import x",
        models_linear="import toy.models.hub",
    )
    assert house.backward() == []
    circle = house.circle()
    assert circle[0] == circle[-1]
    assert set(circle) == {"toy.models.hub", "toy.models.tokens", "toy.models.linear"}


def test_what_is_excused_by_name_is_not_excused_as_an_import(tmp_path):
    house = planted(tmp_path, models_hub="NAME = 'toy.run.cli'", run_cli="from toy.models import hub")
    pair = {("toy.models.hub", "toy.run.cli")}
    assert house.circle()
    assert house.without(pair).circle() == house.without(pair).backward() == []
    (tmp_path / "toy/models/hub.py").write_text("NAME = 'toy.run.cli'\nimport toy.run.cli")
    house = read_house(tmp_path / "toy")
    assert house.without(pair).circle()
    assert len(house.without(pair).backward()) == 1


def test_a_module_in_no_room_is_refused(tmp_path):
    house = planted(tmp_path, attic_box="from toy.models import tokens", models_tokens="")
    with pytest.raises(ValueError, match=r"toy\.attic\.box stands in no room"):
        house.backward()


def texts_of(path: Path) -> list[str]:
    """All texts of a module that are not its documentation."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)
    }
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs)
    return [node.value for node in constants if isinstance(node.value, str)]


def test_the_toy_world_is_known_in_its_room_and_in_the_registry():
    """The explorers show recorded runs of it, by the names of those."""
    for path in (ROOT / "ppo_lib").rglob("*.py"):
        place = path.relative_to(ROOT / "ppo_lib")
        if place.parts[0] not in ("pocket", "book") and place != Path("models/registry.py"):
            assert [text for text in texts_of(path) if re.search(rf"\b{registry.TOY}\b", text)] == [], place
    importing = {arrow.source for arrow in HOUSE.arrows if HOUSE.room(arrow.target) == "pocket" and not arrow.named}
    assert {HOUSE.room(module) for module in importing} == {"pocket"}


@pytest.mark.notebook
def test_the_chapters_leave_the_machinery_alone():
    for path in (*ROOT.glob("chapters/*.ipynb"), *ROOT.glob("book/*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        assert path.stem in MAY_RUN or "ppo_lib.run" not in code, path.name
