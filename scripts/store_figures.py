"""Write what pages show that do not execute: drawings and explorers as HTML, which the page takes in as it is.

    python scripts/store_figures.py            # draw, compute, and write book/drawings/ and book/explorers/
    python scripts/store_figures.py --check    # write nothing, say what differs from a fresh one

A page shows one by the directive ``{raw} html`` with ``:file: drawings/book_map.html``. Tests hold the stored forms to
fresh ones, as nbval does for the notebooks.
"""

import argparse
import sys
from pathlib import Path

from ppo_lib.book import diagrams, explorers

BOOK = Path(__file__).resolve().parent.parent / "book"
SHELVES = {  # folder below book/: file, and what it shows
    "drawings": {f"{name}.html": diagrams.ALL[name] for name in ("book_map", "pipeline")},
    "explorers": {
        "adaptive_beta.html": explorers.adaptive_beta,
        "answers.html": explorers.three_answers,
        "kl_noise.html": explorers.kl_noise,
        "start.html": explorers.beta_answers,
    },
}


def fresh(shelf: str, name: str) -> str:
    """The figure as it is made now."""
    return SHELVES[shelf][name]().html() + "\n"


def problems(shelf: str) -> list[str]:
    """Stored figures that are missing, changed, or belong to no page."""
    folder, wanted = BOOK / shelf, set(SHELVES[shelf])
    found = {path.name for path in folder.glob("*.html")}
    stale = [n for n in sorted(found & wanted) if (folder / n).read_text(encoding="utf-8") != fresh(shelf, n)]
    return [f"{name} is missing or belongs to no page" for name in sorted(found ^ wanted)] + [
        f"{name} differs from a fresh one" for name in stale
    ]


def main() -> int:
    """Write or check; 0 when all is as it is made now."""
    parser = argparse.ArgumentParser(description="Store the figures of pages that do not execute.")
    parser.add_argument("--check", action="store_true", help="write nothing")
    write, wrong = not parser.parse_args().check, False
    for shelf, figures in SHELVES.items():
        if write:
            (BOOK / shelf).mkdir(exist_ok=True)
            for name in figures:
                (BOOK / shelf / name).write_text(fresh(shelf, name), encoding="utf-8")
        found = problems(shelf)
        print("\n".join(found) or f"{shelf}/: as made now")
        wrong = wrong or bool(found)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
