"""What assistive software stumbles over is mended in the built pages, once, and nothing else is touched."""

import pytest

from scripts.book_access import SIDEBAR, TABLE, mend_pages, mended

LIST = "<dt>f(<dl>\n<dd>x,</dd>\n<dd>y,</dd>\n</dl>\n)</dt>"


@pytest.mark.parametrize(
    ("page", "better"),
    [
        ('<th class="head"><p></p></th>', '<td class="head"></td>'),
        ('<th style="text-align:left"></th>', '<td style="text-align:left"></td>'),
        (f"{TABLE}=", '<div class="table-scroll" tabindex="0" style='),
        (f"{SIDEBAR}=", '<div id="pst-primary-sidebar" role="navigation" aria-label="Book" class='),
        ('<div class="citation" id="a" role="doc-biblioentry">', '<div class="citation" id="a">'),
        ('<div role="list" class="citation-list">', '<div class="citation-list">'),
        ("<title>Proximal: PPO &#8212; Proximal</title>", "<title>Proximal: PPO</title>"),
        (LIST, '<dt>f(<div><div class="sig-line">x,</div>\n<div class="sig-line">y,</div>\n</div>\n)</dt>'),
    ],
)
def test_a_fault_is_mended_once(page, better):
    assert mended(page) == better
    assert mended(better) == better


@pytest.mark.parametrize(
    "page",
    [
        "<th>t</th>",
        "<title>8. Clipping &#8212; Proximal</title>",
        "<th><p>policy</p></th>",
        '<div role="list" class="others">',
        '<dl class="simple glossary"><dt>a</dt><dd>b</dd></dl>',
        "<dl><dt>a</dt><dd>b</dd></dl>",
    ],
)
def test_what_is_no_fault_stays(page):
    assert mended(page) == page


def test_every_page_of_a_site_is_mended(tmp_path):
    (tmp_path / "book").mkdir()
    for name in ("index.html", "book/index.html"):
        (tmp_path / name).write_text("<th></th>")
    mend_pages(tmp_path)
    assert {path.read_text() for path in tmp_path.rglob("*.html")} == {"<td></td>"}
