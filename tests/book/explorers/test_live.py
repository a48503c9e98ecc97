"""The live form, without a browser: moving a control shows what the function says, for any value."""

import base64
import hashlib
import json
import re
import sys
from pathlib import Path

import plotly.offline
import pytest

from ppo_lib.book.explorers import live
from scripts.vendor_assets import PACKAGES, VENDOR
from tests.book.explorers.grid import NAMES, explorer, texts_of

# What ipywidgets 7.7, which Colab has, offers.
OLD_WIDGETS = {
    *("FloatSlider", "IntSlider", "FloatLogSlider", "SelectionSlider"),
    *("Dropdown", "HTML", "Output", "Box", "VBox"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_moved_control_shows_a_fresh_frame(name):
    one = explorer(name)
    _, controls, text, _ = live.build(one)
    for parameter in one.parameters:
        control = controls[parameter.name]
        if isinstance(parameter.start, str) or parameter.listed:
            control.value = parameter.grid[-1]
        elif isinstance(control.value, int):
            control.value = int(parameter.grid[-1])
        else:  # a value between the grid's points
            low, high = parameter.span or (parameter.grid[0], parameter.grid[-1])
            control.value = low + 0.618 * (high - low)
    frame = one.frame(**{key: control.value for key, control in controls.items()})
    shown = re.sub(r"&#x27;", "'", text.value)
    for cell in texts_of(frame):
        assert live.escape(cell, quote=False).replace('"', "&quot;") in shown


def test_only_widgets_that_colab_has():
    used = set(re.findall(r"ipywidgets\.(\w+)", Path(live.__file__).read_text(encoding="utf-8")))
    assert used <= OLD_WIDGETS


def test_one_version_of_plotly_everywhere():
    assert plotly.offline.get_plotlyjs_version() == live.PLOTLY_JS
    assert PACKAGES["plotly.js-basic-dist-min"]["version"] == live.PLOTLY_JS


def test_the_browser_is_told_the_checksum_of_the_vendored_plotly():
    vendored = (VENDOR / "plotly" / "plotly-basic.min.js").read_bytes()
    assert "sha384-" + base64.b64encode(hashlib.sha384(vendored).digest()).decode() == live.PLOTLY_SUM
    assert live.PLOTLY_URL.endswith(f"plotly.js-basic-dist-min@{live.PLOTLY_JS}/plotly-basic.min.js")


@pytest.mark.parametrize("name", NAMES)
def test_one_picture_for_everybody(name):
    """JupyterLab's MIME type and Colab's snippet hold the same figure, and the snippet waits for its script."""
    one = explorer(name)
    for panel in range(len(one.panels)):
        bundle = live.bundle(one, one.frame(), panel)
        figure = bundle["application/vnd.plotly.v1+json"]
        assert json.loads(json.dumps(figure["data"])) == figure["data"]
        assert "script.onload = draw" in bundle["text/html"]
        assert live.PLOTLY_URL in bundle["text/html"]
        assert f'script.integrity = "{live.PLOTLY_SUM}"; script.crossOrigin = "anonymous"' in bundle["text/html"]


def displayed(monkeypatch, name) -> list:
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *things, **_: shown.extend(things))
    monkeypatch.setattr("ppo_lib.book.explorers.live.display", lambda *things, **_: shown.extend(things))
    explorer(name)._ipython_display_()
    return shown


def test_the_environment_chooses_the_form(monkeypatch):
    monkeypatch.setenv("BOOK_STATIC", "1")
    (static,) = displayed(monkeypatch, "clip")
    assert set(static) == {"text/html", "text/plain"}
    monkeypatch.delenv("BOOK_STATIC")
    assert type(displayed(monkeypatch, "clip")[-1]).__name__ == "VBox"


def test_without_widgets_the_static_form_appears(monkeypatch):
    monkeypatch.delenv("BOOK_STATIC", raising=False)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    (static,) = displayed(monkeypatch, "clip")
    assert "explorer-clip" in static["text/html"]
