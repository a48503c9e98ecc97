"""Packages that are too old are refused when the library is imported."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ppo_lib import versions

ROOT = Path(__file__).resolve().parents[1]


def test_the_least_versions_are_those_that_the_project_declares():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pairs = dict(
        re.fullmatch(r"(\w+)>=([\d.]+)", line).groups()
        for line in declared
        if line.partition(">")[0] in versions.NEEDED
    )
    assert pairs == versions.NEEDED


@pytest.mark.parametrize(("package", "least"), versions.NEEDED.items())
def test_an_older_package_is_named_with_both_versions_and_the_remedy(monkeypatch, package, least):
    known = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.9.1+cpu" if name == package else known(name))
    with pytest.raises(
        ImportError, match=f"needs {package} {least} or newer, and 0.9.1.cpu is installed here; install it by"
    ):
        versions.check()


@pytest.mark.parametrize(
    ("version", "fits"), [("5.17.0", True), ("5.17", True), ("10.0rc1", True), ("5.16.9", False), ("4.57.1", False)]
)
def test_versions_are_compared_number_by_number(version, fits):
    assert (versions.release(version) >= versions.release("5.17")) == fits


def test_a_version_is_older_only_if_it_is_there_and_below(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.21.0")
    assert [versions.older("peft", least) for least in ("0.21", "0.21.0", "0.20", "0.22")] == ["", "", "", "0.21.0"]

    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert versions.older("peft", "0.22") == ""


def test_the_least_versions_themselves_are_taken(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", versions.NEEDED.__getitem__)
    versions.check()


def test_a_package_that_is_absent_is_left_to_who_imports_it(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    versions.check()


def test_it_is_looked_at_when_the_library_is_imported():
    code = "import importlib.metadata as m; m.version = lambda name: '1.0'; import ppo_lib"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "ImportError: ppo_lib needs torch" in done.stderr
