"""How heavy is an explorer, and how long does a step of its slider take until the picture is painted?

    python benchmarks/bench_explorers.py                       # or: make bench SCRIPT=bench_explorers; needs Chromium
    python benchmarks/bench_explorers.py --pages _build/html   # the sizes of built pages, too

A step moves one slider by one, as an arrow key does. Three times: mean CPU milliseconds of the page's main thread
(scripts, style, layout, paint), and medians of the wall milliseconds until the script is done and until the browser has
painted. The last two grow with whatever else the machine does; a frame at 60 Hz is 16.7 ms.
"""

import argparse
import gzip
import random
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from ppo_lib.book import explorers
from ppo_lib.book.explorers import Explorer

ROOT = Path(__file__).resolve().parents[1]
STEPS, WARM_UP = 60, 20
PAGE = """<!DOCTYPE html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>Explorer</title>
<link rel="stylesheet" href="web/explorers.css"><script src="web/explorers.js"></script></head><body>{}</body></html>"""
# A browser hands over input at the beginning of a frame, and so does this. A task posted then runs once the frame is
# painted.
WALK = """async (points) => {
  const inputs = [...document.querySelectorAll("section.explorer input[type=range]")];
  const found = [];
  for (const point of points) {
    await new Promise((done) => requestAnimationFrame(done));
    const start = performance.now();
    inputs.forEach((input, i) => { input.value = point[i]; });
    inputs[0].dispatchEvent(new Event("input", { bubbles: true }));
    const scripted = performance.now();
    await new Promise((done) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = done;
      port2.postMessage(0);
    });
    found.push([scripted - start, performance.now() - start]);
  }
  return found;
}"""


def walk(explorer: Explorer, steps: int) -> list[list[int]]:
    """Slider positions, each one step of one slider away from the last."""
    chance = random.Random(0)
    sizes = [len(parameter.grid) for parameter in explorer.parameters]
    position = [parameter.grid.index(parameter.start) for parameter in explorer.parameters]
    found = []
    for _ in range(steps):
        slider = chance.choice([i for i, size in enumerate(sizes) if size > 1])
        up = position[slider] + chance.choice((-1, 1))
        position[slider] = up if 0 <= up < sizes[slider] else max(0, position[slider] - 1) or 1
        found.append(list(position))
    return found


def measure(page: Any, explorer: Explorer) -> tuple[float, float, float]:
    """CPU of a step, and medians of the time to the end of the script and to the painted picture, in milliseconds."""
    page.wait_for_function("document.querySelector('section.explorer').dataset.frame !== undefined")
    points = walk(explorer, WARM_UP + STEPS)
    page.evaluate(WALK, points[:WARM_UP])
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def busy() -> float:
        found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        return float(found["TaskDuration"])

    before = busy()
    times = page.evaluate(WALK, points[WARM_UP:])
    cpu = 1000 * (busy() - before) / STEPS
    scripted, painted = (statistics.median(column) for column in zip(*times, strict=True))
    return cpu, scripted, painted


def pages(folder: Path) -> None:
    """Sizes of built pages, heaviest first."""
    found = [(len(gzip.compress(path.read_bytes())), path) for path in folder.glob("*/*.html")]
    print(f"\n{'page':45s} {'kB':>8s} {'kB gz':>8s}")
    for packed, path in sorted(found, reverse=True):
        print(f"{path.relative_to(folder)!s:45s} {path.stat().st_size / 1000:8.0f} {packed / 1000:8.0f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=Path, help="folder of the built book")
    parser.add_argument("names", nargs="*", help="explorers to measure, all by default")
    options = parser.parse_args()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("playwright is not installed; pip install -r requirements.txt brings it")
        return 2
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print("there is no Chromium here; install the package chromium")
        return 2
    print(f"{'explorer':20s} {'frames':>6s} {'kB':>6s} {'kB gz':>6s} {'CPU ms':>7s} {'script':>7s} {'painted':>8s}")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        (Path(folder) / "web").symlink_to(ROOT / "book" / "web")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for function in explorers.ALL:
            if options.names and function.__name__ not in options.names:
                continue
            explorer = function()
            html = explorer.html()
            file = Path(folder) / "page.html"
            file.write_text(PAGE.format(html), encoding="utf-8")
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(file.as_uri())
            times = measure(page, explorer)
            page.close()
            sizes = len(html.encode()) / 1000, len(gzip.compress(html.encode())) / 1000
            frames = sum(1 for _ in explorer.settings())
            print(f"{function.__name__:20s} {frames:6d} {sizes[0]:6.0f} {sizes[1]:6.1f}", end="")
            print("{:8.1f}{:8.1f}{:9.1f}".format(*times), flush=True)
        browser.close()
    if options.pages:
        pages(options.pages)
    return 0


if __name__ == "__main__":
    sys.exit(main())
