"""Write the explorers of pages that do not execute: their static form as HTML, which the page takes in as it is.

    python scripts/store_explorers.py            # compute and write book/explorers/
    python scripts/store_explorers.py --check    # write nothing, say what differs from a fresh computation

tests/book/explorers/test_pages.py holds the stored forms to a fresh computation, as nbval does for the notebooks.
"""

import argparse
import sys
from pathlib import Path

from ppo_lib.book import explorers

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "book" / "explorers"


# The file that a page takes in: what it shows.
PAGES = {"answers.html": explorers.three_answers, "start.html": explorers.beta_answers}


def fresh(name: str) -> str:
    """The static form as it is computed now."""
    return PAGES[name]().html() + "\n"


def problems() -> list[str]:
    """Stored forms that are missing, changed, or belong to no page."""
    found = {path.name for path in FOLDER.glob("*.html")}
    stale = [name for name in sorted(found & set(PAGES)) if (FOLDER / name).read_text(encoding="utf-8") != fresh(name)]
    return [f"{name} is missing or belongs to no page" for name in sorted(found ^ set(PAGES))] + [
        f"{name} differs from a fresh computation" for name in stale
    ]


def main() -> int:
    """Write or check; 0 when all is as computed."""
    parser = argparse.ArgumentParser(description="Store the explorers of pages that do not execute.")
    parser.add_argument("--check", action="store_true", help="write nothing")
    if not parser.parse_args().check:
        FOLDER.mkdir(exist_ok=True)
        for name in PAGES:
            (FOLDER / name).write_text(fresh(name), encoding="utf-8")
    found = problems()
    print("\n".join(found) or f"{FOLDER.name}/: as computed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
