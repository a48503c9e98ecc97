"""What a term means and which work is cited, shown where one points at it; and what a page is about, for others.

The built site gets one script, ``_static/tips_data.js``, with the glossary's entries and the list of references; it is
loaded when the first tip is wanted, by ``book/web/tips.js``, from a disk as well as from a server. Each page gets a
description, and where the book has an address a card for those who share it.
"""

import json
import re
from html import escape, unescape
from pathlib import Path
from typing import Any

from docutils import nodes

from scripts.book_address import book_address

TERMS = re.compile(r'(?P<names>(?:<dt id="term-.*?</dt>\s*)+)<dd>(?P<meaning>.*?)</dd>', re.DOTALL)
PLACE = re.compile(r'<dt id="(term-[^"]+)"')
WORK = re.compile(r'<div class="citation".*?<p>(?P<text>.*?)</p>', re.DOTALL)
LINK = re.compile(r'href="(?P<address>https?://[^"]+)"')
TITLE, CARD, LONGEST = "Proximal: PPO for language models, in cells that run", "_static/card.png", 200


def plain(html: str) -> str:
    """The words of a piece of HTML, formulas as TeX between their delimiters."""
    return " ".join(unescape(re.sub(r"<[^>]+>", "", html)).split())


def glossary(page: str) -> dict[str, str]:
    """What each term of the built glossary means, by its anchor."""
    return {place: plain(found["meaning"]) for found in TERMS.finditer(page) for place in PLACE.findall(found["names"])}


def works(page: str) -> dict[str, str]:
    """The works of the built list of references, by the address that each names."""
    return {
        link["address"]: plain(found["text"]) for found in WORK.finditer(page) for link in LINK.finditer(found["text"])
    }


def write_tips(html: Path) -> None:
    """The script with all tips, into a built site.

    Raises:
        ValueError: the built pages hold no terms or no works: the theme writes them in another form than was known.
    """
    terms = glossary((html / "book" / "glossary.html").read_text("utf-8"))
    cited = works((html / "book" / "references.html").read_text("utf-8"))
    if not terms or not cited:
        raise ValueError(f"the built pages hold {len(terms)} terms and {len(cited)} works, but must hold some of both")
    data = json.dumps({"terms": terms, "works": cited}, ensure_ascii=False)
    (html / "_static" / "tips_data.js").write_text(f"window.bookTips = {data};\n", "utf-8")


def description(document: nodes.document) -> str:
    """What a page is about: a chapter's question, else the first paragraph."""
    for row in document.findall(nodes.row):
        if len(row.children) > 1 and row.children[0].astext() == "Question":
            text = row.children[1].astext()
            break
    else:
        text = next((one.astext() for one in document.findall(nodes.paragraph) if len(one.astext()) > 40), "")
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: text.rindex(" ", 0, LONGEST)].rstrip(",;:") + " …"


def add_description(app: Any, pagename: str, templatename: str, context: dict[str, Any], document: Any) -> None:
    """Sphinx's event for each page: description, and the card where the book has an address."""
    if document is None:
        return
    about, title = escape(description(document)), escape(plain(context.get("title", "")))
    tags = [f'<meta name="description" content="{about}">']
    if address := book_address():
        shared = {
            "type": "article",
            "site_name": TITLE,
            "title": title,
            "description": about,
            "url": f"{address}/{pagename}.html",
            "image": f"{address}/{CARD}",
        }
        tags += [f'<meta property="og:{name}" content="{content}">' for name, content in shared.items()]
        tags.append('<meta name="twitter:card" content="summary_large_image">')
    context["metatags"] = context.get("metatags", "") + "\n".join(tags)


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("html-page-context", add_description)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
