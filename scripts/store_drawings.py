"""Write the drawings of pages that do not execute: figures as HTML, which the page takes in as they are.

    python scripts/store_drawings.py            # draw and write book/drawings/
    python scripts/store_drawings.py --check    # write nothing, say what differs from a fresh drawing

A page shows one by the directive ``{raw} html`` with ``:file: drawings/book_map.html``. tests/book/test_diagrams.py
holds the stored forms to a fresh drawing, as nbval does for the notebooks.
"""

import argparse
import sys
from pathlib import Path

from ppo_lib.book import diagrams

FOLDER = Path(__file__).resolve().parent.parent / "book" / "drawings"
NAMES = ("book_map", "pipeline")  # of the drawings that such pages show


def problems() -> list[str]:
    """Stored forms that are missing, changed, or of no drawing."""
    found, wanted = {path.stem for path in FOLDER.glob("*.html")}, set(NAMES)
    stale = [name for name in sorted(found & wanted) if stored(name) != fresh(name)]
    return [f"{name}.html is missing or belongs to no page" for name in sorted(found ^ wanted)] + [
        f"{name}.html differs from a fresh drawing" for name in stale
    ]


def fresh(name: str) -> str:
    """The figure as it is drawn now."""
    return diagrams.ALL[name]().html() + "\n"


def stored(name: str) -> str:
    """The figure as a page shows it."""
    return (FOLDER / f"{name}.html").read_text(encoding="utf-8")


def main() -> int:
    """Write or check; 0 when all is as drawn."""
    parser = argparse.ArgumentParser(description="Store the drawings of pages that do not execute.")
    parser.add_argument("--check", action="store_true", help="write nothing")
    if not parser.parse_args().check:
        FOLDER.mkdir(exist_ok=True)
        for name in NAMES:
            (FOLDER / f"{name}.html").write_text(fresh(name), encoding="utf-8")
    found = problems()
    print("\n".join(found) or f"{FOLDER.name}/: as drawn")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
