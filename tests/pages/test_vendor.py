"""The scripts that the pages load are the pinned ones, byte by byte, and fit the installed plotly."""

import importlib.util
import re

import pytest

from scripts import vendor_assets
from tests.pages.book import ROOT


def test_every_vendored_file_is_as_pinned():
    assert vendor_assets.problems() == []


def test_a_changed_a_missing_and_a_foreign_file_are_noticed(tmp_path):
    (tmp_path / "SHA256SUMS.json").write_text('{"a.js": "00", "b.js": "11"}')
    (tmp_path / "a.js").write_text("changed")
    (tmp_path / "c.js").write_text("foreign")
    found = vendor_assets.problems(tmp_path)
    assert [line.split()[0] for line in found] == ["b.js", "c.js", "a.js"]


def test_licences_lie_beside_the_scripts():
    for package in ("mathjax", "plotly"):
        assert (vendor_assets.VENDOR / package / "LICENSE").is_file()


def test_plotly_on_the_pages_is_the_version_that_python_speaks():
    if importlib.util.find_spec("plotly") is None:
        pytest.skip("plotly is not installed")
    from plotly.offline import get_plotlyjs_version

    assert vendor_assets.PACKAGES["plotly.js-basic-dist-min"]["version"] == get_plotlyjs_version()
    bundle = (vendor_assets.VENDOR / "plotly" / "plotly-basic.min.js").read_text()
    assert re.search(rf"plotly\.js \(basic[^)]*\) v{re.escape(get_plotlyjs_version())}", bundle[:200])


def test_the_book_loads_the_vendored_mathjax():
    path = re.search(r"mathjax_path: (\S+)", (ROOT / "_config.yml").read_text()).group(1)
    assert (ROOT / "book" / "web" / path).is_file()
