"""An EPUB 3 file from pages that a browser has set: one XHTML file a page, a contents list, formulas as MathML.

Source: EPUB 3.3, W3C Recommendation: the container (section 4), the package document (5), the navigation document (7).
"""

import re
import uuid
from html import escape
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

# In the browser: a page of the document as XHTML. A formula keeps the MathML that MathJax holds for screen readers.
AS_XHTML = r"""name => {
  const page = document.getElementById(name).cloneNode(true);
  page.querySelectorAll("mjx-container").forEach(set => {
    const math = set.querySelector("math");
    if (set.getAttribute("display") === "true") math.setAttribute("display", "block");
    set.replaceWith(math);
  });
  page.querySelectorAll("*").forEach(one => [...one.attributes].forEach(({ name }) => {
    if (name.startsWith("data-") || /[^\w:.-]/.test(name)) one.removeAttribute(name);
  }));
  // EPUB allows a picture that holds links to be a document, not a group.
  page.querySelectorAll('svg[role="group"]').forEach(one => one.setAttribute("role", "document"));
  return new XMLSerializer().serializeToString(page);
}"""
CONTAINER = """<?xml version="1.0" encoding="utf-8"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="book/package.opf" media-type="application/oebps-package+xml"/></rootfiles></container>
"""
PAGE = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops" lang="en" xml:lang="en"><head>
<title>{title}</title><link rel="stylesheet" type="text/css" href="book.css"/></head><body>{body}</body></html>
"""
PACKAGE = """<?xml version="1.0" encoding="utf-8"?>
<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id" xml:lang="en">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="id">urn:uuid:{uuid}</dc:identifier>
<dc:title>Proximal</dc:title><dc:creator>The Proximal maintainers</dc:creator><dc:language>en</dc:language>
<meta property="dcterms:modified">2026-01-01T00:00:00Z</meta></metadata>
<manifest><item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="css" href="book.css" media-type="text/css"/>
{items}</manifest><spine>{spine}</spine></package>
"""


def file_of(page: str) -> str:
    """The file of a page in the archive."""
    return page.replace("/", "-") + ".xhtml"


def with_files(body: str, owner: dict[str, str]) -> str:
    """Links to another page's places lead into that page's file."""
    return re.sub(r'href="#([^"]+)"', lambda found: f'href="{owner[found[1]]}#{found[1]}"', body)


def properties(body: str) -> str:
    """What EPUB wants said of a file before a reader opens it."""
    said = [word for word in ("mathml", "svg") if ("<math" if word == "mathml" else "<svg") in body]
    return f' properties="{" ".join(said)}"' if said else ""


def navigation(rows: list[tuple[str, str, str]]) -> str:
    """The contents list, parts as headings over their pages."""
    lines, last = [], ""
    for part, page, title in rows:
        if part != last:
            lines.append(("</ol></li>" if last else "") + f"<li><span>{escape(part)}</span><ol>")
            last = part
        lines.append(f'<li><a href="{file_of(page)}">{escape(title)}</a></li>')
    body = "".join(lines) + ("</ol></li>" if last else "")
    return f'<nav epub:type="toc" id="toc"><h1>Contents</h1><ol>{body}</ol></nav>'


def write_epub(path: Path, rows: list[tuple[str, str, str]], chapters: dict[str, str], styles: str) -> None:
    """Write the archive.

    Args:
        path: the file to write.
        rows: part, page and title, in reading order.
        chapters: a page's XHTML element.
        styles: one style sheet for all.
    """
    owner = {name: file_of(page) for page, body in chapters.items() for name in re.findall(r'\sid="([^"]+)"', body)}
    bodies = {page: with_files(body, owner) for page, body in chapters.items()}
    items = "\n".join(
        f'<item id="p{i}" href="{file_of(page)}" media-type="application/xhtml+xml"{properties(bodies[page])}/>'
        for i, (_, page, _) in enumerate(rows)
    )
    spine = "".join(f'<itemref idref="p{i}"/>' for i in range(len(rows)))
    known = uuid.uuid5(uuid.NAMESPACE_URL, "proximal")
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", "application/epub+zip", ZIP_STORED)  # first and unpacked: a reader looks there
        archive.writestr("META-INF/container.xml", CONTAINER)
        archive.writestr("book/package.opf", PACKAGE.format(uuid=known, items=items, spine=spine))
        archive.writestr("book/nav.xhtml", PAGE.format(title="Contents", body=navigation(rows)))
        archive.writestr("book/book.css", styles)
        for _, page, title in rows:
            archive.writestr(f"book/{file_of(page)}", PAGE.format(title=escape(title), body=bodies[page]))
