"""Run the chapters and store them as the book shows them, or check that they are stored that way.

    python scripts/execute_notebooks.py                              # all chapters
    python scripts/execute_notebooks.py chapters/01_sft.ipynb        # one
    python scripts/execute_notebooks.py --check                      # run nothing, report what is not in order

A stored notebook holds the outputs of one run from top to bottom in static form (see ENVIRONMENT), and nothing that
changes from run to run: no timings, no widget state, no random cell ids. nbval then proves the outputs.
"""

import argparse
import hashlib
import os
import sys
import time
from collections import Counter
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # as a script it lies on no path of packages
from scripts.book_address import install_source  # noqa: E402
from scripts.book_extension import as_links  # noqa: E402

CHAPTERS = ROOT / "chapters"

# The one setting under which notebooks are stored and compared; conftest.py and the Makefile use the same.
ENVIRONMENT = {
    "BOOK_STATIC": "1",  # explorers in the form that needs no kernel
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",  # a thread that waits by spinning starves the other on a busy machine
    "GOMP_SPINCOUNT": "0",
    "TQDM_DISABLE": "1",  # a progress bar is for a waiting reader; its timings never compare
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "PYTHONHASHSEED": "0",
}
MAX_LINES, MAX_WIDTH, MAX_CODE_CELLS, CELL_SECONDS = 25, 92, 60, 120
KEPT_METADATA = ("tags", "exercise", "mystnb")
# What the folds of an exercise are called on the page, by the cell's tag.
FOLDS = {
    "check": {"code_prompt_show": "Show the check", "code_prompt_hide": "Hide the check"},
    "solution": {"code_prompt_show": "Show a solution", "code_prompt_hide": "Hide the solution"},
}


def chapter_paths(named: list[str]) -> list[Path]:
    """The named notebooks, or all chapters in the book's order, and after them the pages that execute."""
    if named:
        return [Path(name).resolve() for name in named]
    return [*sorted(CHAPTERS.glob("[0-9][0-9]_*.ipynb")), *sorted((ROOT / "book").glob("*.ipynb"))]


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Strip what changes from run to run, and name each cell by its content."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        if "colab" in (tags := cell.metadata.get("tags", [])):
            cell.source = install_source(tags)
        if cell.cell_type == "markdown":
            cell.source = as_links(cell.source)
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in KEPT_METADATA if key in cell.metadata})
        digest = hashlib.sha1(f"{cell.cell_type}:{cell.source}".encode()).hexdigest()[:10]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        for tag in FOLDS.keys() & set(cell.metadata.get("tags", [])):
            cell.metadata["mystnb"] = nbformat.from_dict(FOLDS[tag])
        if cell.cell_type != "code":
            cell.pop("attachments", None)
            continue
        cell.outputs = merged(cell.outputs)
        for output in cell.outputs:
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
    return notebook


def merged(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Neighboring pieces of one stream joined: how a kernel cuts its prints into messages is chance."""
    result: list[nbformat.NotebookNode] = []
    for output in outputs:
        last = result[-1] if result else None
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
        else:
            result.append(output)
    return result


def execute(path: Path) -> float:
    """Run one notebook from top to bottom and store it; returns the seconds it took.

    Raises:
        RuntimeError: a cell failed; the message names the chapter and the cell, and the file stays as it was.
    """
    notebook = clean(nbformat.read(path, as_version=4))
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    running = ["no cell yet"]

    def remember(cell: nbformat.NotebookNode, cell_index: int) -> None:
        first = next(iter(cell.source.strip().splitlines()), "(empty)")
        running[0] = f"cell {cell_index} ({first!r})"

    client.on_cell_start = remember
    started = time.perf_counter()
    try:
        client.execute()
    except CellExecutionError as error:
        raise RuntimeError(f"{path.name}, {running[0]} stopped:\n{error}") from None
    except (CellTimeoutError, DeadKernelError) as error:
        raise RuntimeError(f"{path.name}, {running[0]}: {type(error).__name__}: {error}") from None
    nbformat.write(clean(notebook), path)
    return time.perf_counter() - started


def problems(path: Path) -> list[str]:
    """What is not in order in a stored notebook: one sentence for each, naming the cell."""
    notebook = nbformat.read(path, as_version=4)
    code = [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    found = []
    if len(code) > MAX_CODE_CELLS:
        found.append(f"{len(code)} code cells, and at most {MAX_CODE_CELLS} are allowed")
    if [cell.get("execution_count") for _, cell in code] != list(range(1, len(code) + 1)):
        found.append("the code cells were not all run once from top to bottom; use scripts/execute_notebooks.py")
    for i, cell in code:
        lines = cell.source.splitlines()
        if not cell.source.strip():
            found.append(f"cell {i} is empty")
        if len(lines) > MAX_LINES:
            found.append(f"cell {i} has {len(lines)} lines, and at most {MAX_LINES} are allowed")
        if any(len(line) > MAX_WIDTH for line in lines):
            found.append(f"cell {i} has a line of more than {MAX_WIDTH} characters")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {i} stores an error: {output.ename}")
            if output.output_type == "stream" and output.name == "stderr":
                found.append(f"cell {i} stores output on stderr: {output.text[:60]!r}")
            if any("widget" in kind for kind in output.get("data", {})):
                found.append(f"cell {i} stores a widget, dead without a kernel")
    if nbformat.writes(clean(nbformat.from_dict(notebook))) != nbformat.writes(nbformat.read(path, as_version=4)):
        found.append("metadata, cell ids or output pieces are not clean; use scripts/execute_notebooks.py")
    return found


def main() -> int:
    """Execute or check the chapters named on the command line; 0 when all went well."""
    parser = argparse.ArgumentParser(description="Run the chapters and store their outputs.")
    parser.add_argument("notebooks", nargs="*", help="which ones; all of chapters/ by default")
    parser.add_argument("--check", action="store_true", help="run nothing; report what is not executed or not clean")
    parser.add_argument("--clean", action="store_true", help="run nothing; only strip and rename, keeping the outputs")
    options = parser.parse_args()
    os.environ.update({key: os.environ.get(key) or value for key, value in ENVIRONMENT.items()})
    # The kernel of this environment, and ppo_lib as it stands here.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    failed = False
    for path in chapter_paths(options.notebooks):
        if options.check:
            found = problems(path)
            failed = failed or bool(found)
            print("\n".join(f"{path.name}: {sentence}" for sentence in found) or f"{path.name}: in order")
            continue
        if options.clean:
            nbformat.write(clean(nbformat.read(path, as_version=4)), path)
            continue
        print(f"{path.name} …", end=" ", flush=True)
        try:
            print(f"{execute(path):.0f} s", flush=True)
        except RuntimeError as error:
            failed = True
            print(f"failed\n{error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
