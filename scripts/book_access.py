"""What theme and docutils write that screen readers and keyboards stumble over, mended in the built pages.

Found by axe on every page; ``tests/pages/test_browser.py`` runs it again.
"""

import re
from pathlib import Path

# An empty corner of a table is no heading of its row or column.
CORNER = re.compile(r"<th(?P<attributes>[^>]*)>\s*(?:<p>\s*</p>)?\s*</th>")
# A long signature's lines stand in a list of definitions that defines nothing.
LINES = re.compile(r"<dl>\s*(?P<lines>(?:<dd>.*?</dd>\s*)+)</dl>", re.DOTALL)
# What is as wide as it likes is scrolled by keyboard as well.
TABLE = '<div class="table-scroll" style'
# The list of pages is a place to jump to, with the book's name and the search above it.
SIDEBAR = '<div id="pst-primary-sidebar" class'
# A deprecated role, and a list that holds other things than items.
ROLES = re.compile(r' role="doc-biblioentry"|(?<=<div) role="list"(?= class="citation-list")')
# A title that begins with the book's name need not end with it.
TITLE = re.compile(r"<title>(?P<name>\w+)(?P<rest>[^<]*?) &#8212; (?P=name)</title>")


def mended(page: str) -> str:
    """A built page with these faults away; one without them stays as it is.

    >>> mended("<th></th>")
    '<td></td>'
    """
    page = CORNER.sub(lambda corner: f"<td{corner['attributes']}></td>", page)
    page = LINES.sub(lambda found: f"<div>{of_a_signature(found['lines'])}</div>", page)
    page = page.replace(TABLE, TABLE.replace(" style", ' tabindex="0" style'))
    page = page.replace(SIDEBAR, SIDEBAR.replace(" class", ' role="navigation" aria-label="Book" class'))
    page = TITLE.sub(r"<title>\g<name>\g<rest></title>", page)
    return ROLES.sub("", page)


def of_a_signature(lines: str) -> str:
    """The items of a list as lines that are set in."""
    return lines.replace("<dd>", '<div class="sig-line">').replace("</dd>", "</div>")


def mend_pages(html: Path) -> None:
    """Mend every page of a built site."""
    for path in html.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        if (better := mended(page)) != page:
            path.write_text(better, encoding="utf-8")
