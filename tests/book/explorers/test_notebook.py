"""The live form where people run it: a real JupyterLab, and Colab's way of injecting an output."""

import os
import shutil
import socket
import subprocess
import sys
import time

import nbformat
import pytest

from ppo_lib.book.explorers import live
from tests.book.explorers.grid import explorer, texts_of
from tests.pages.book import ROOT, launched_chromium

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# What Colab does with an HTML output: it goes into a frame of its own, where its scripts are made anew, since those
# that come with innerHTML never run. Each update of an Output widget does so again.
COLAB = """(html) => {
  const place = document.getElementById("output");
  place.innerHTML = html;
  for (const dead of place.querySelectorAll("script")) {
    const script = document.createElement("script");
    script.textContent = dead.textContent;
    dead.replaceWith(script);
  }
}"""


@pytest.fixture(scope="module")
def browser():
    with launched_chromium() as launched:
        yield launched


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab that holds one notebook with one explorer."""
    if shutil.which("jupyter-lab", path=os.path.dirname(sys.executable)) is None:
        pytest.skip("JupyterLab is not installed in this environment")
    cell = nbformat.v4.new_code_cell("from ppo_lib.book import explorers\n\nexplorers.gae()")
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), tmp_path / "live.ipynb")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    environment.pop("BOOK_STATIC", None)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--allow-root"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={tmp_path}", "--LabApp.news_url="]
    with open(tmp_path / "lab.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        for _ in range(120):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/lab/tree/live.ipynb"
        server.terminate()
        server.wait(timeout=30)


def test_a_slider_moved_in_jupyterlab_moves_number_and_figure(browser, lab):
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(120_000)
    page.goto(lab)
    page.locator(".jp-CodeCell").first.click()
    prompt = page.locator(".jp-CodeCell .jp-InputPrompt").first
    for _ in range(12):
        # Until the kernel has connected, JupyterLab forgets what it was asked to run: ask until the cell is marked.
        page.keyboard.press("Control+Enter")
        page.wait_for_timeout(5_000)
        if prompt.inner_text().strip("[ ]:"):
            break
    page.wait_for_selector(".explorer-live table")
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length === 2")
    page.locator(".noUi-handle").first.focus()
    for _ in range(7):
        page.keyboard.press("ArrowLeft")
    one = explorer("gae")
    wanted = one.frame(gamma=0.83)  # not a point of the grid
    page.wait_for_function(
        "texts => texts.every(text => document.querySelector('.explorer-live').innerText.includes(text))",
        arg=[text for text in texts_of(wanted) if text],
    )
    heights = [list(drawn.y) for drawn in wanted.curves if drawn.panel == 0]
    page.wait_for_function(
        "ys => JSON.stringify([...document.querySelector('.js-plotly-plot').data.map(t => [...t.y])]) === ys",
        arg=str(heights).replace(" ", "").replace(".0,", ",").replace(".0]", "]"),
    )
    page.close()


def test_the_snippet_waits_for_its_plotly_as_in_colab(browser):
    """plotly.js comes late, and the output is injected twice: no "Plotly is not defined", the second figure stays."""
    bundle = (ROOT / "book" / "web" / "vendor" / "plotly" / "plotly-basic.min.js").read_bytes()
    page, complaints = browser.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def late(route):
        time.sleep(0.5)
        route.fulfill(body=bundle, content_type="text/javascript", headers={"Access-Control-Allow-Origin": "*"})

    page.route(live.PLOTLY_URL, late)
    page.set_content('<div id="output"></div>')
    one = explorer("clip")
    for ratio in (1.5, 0.77):
        html = live.bundle(one, one.frame(ratio=ratio), 0)["text/html"]
        page.evaluate(COLAB, html)
        page.wait_for_function(
            "ratio => document.querySelector('#output .js-plotly-plot')?.data.at(-1).x[0] === ratio", arg=ratio
        )
    assert complaints == []
    page.close()
