"""All pages of the built book as one document, for paper: what is left out, and where its links lead.

What needs a screen is taken away: the code that a page folds away (imports, plotting, checks, solutions), the tables
folded below figures, buttons and scripts. Optional parts are printed open; an explorer is its start frame, which each
page holds as a still picture. Names of places get their page's name before them, since two pages may use one.
"""

import re
import sys
from pathlib import Path
from typing import Any

import yaml
from bs4 import BeautifulSoup, Comment, Tag

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from scripts.book_address import book_address, version  # noqa: E402

LEFT_OUT = (
    "What the pages fold away is left out here: code (imports, plotting, checks and solutions of the exercises) and "
    "the numbers under figures. Sliders stand where they start. All of it is in the book's notebooks."
)
NAMING = ("for", "aria-labelledby", "aria-describedby", "aria-controls")  # attributes that name a place of the page
STYLES = ("pygments.css", "book.css", "explorers.css", "print.css")
REMOVED = (
    "a.headerlink, script, style, button, template, p.buttons, a.explorer-share, details:not(.optional), "
    "div.cell.tag_remove-cell, .tip"
)
URL = re.compile(r"url\(#([^)]+)\)")


def parts() -> list[tuple[str, list[str]]]:
    """The parts of the book and the pages of each, in reading order; the start page stands alone before them."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [
        ("", [toc["root"]]),
        *((part["caption"], [chapter["file"] for chapter in part["chapters"]]) for part in toc["parts"]),
    ]


def place(page: str, name: str = "") -> str:
    """The name of a page's place in the whole: ``chapters/01_sft``, ``loss`` is ``chapters-01_sft--loss``."""
    return page.replace("/", "-") + (f"--{name}" if name else "")


def new_target(href: str, page: str, pages: set[str]) -> str | None:
    """Where a link of a page leads in the whole book; None where only the site has that.

    >>> new_target("06_kl.html#k3", "chapters/01_sft", {"chapters/01_sft", "chapters/06_kl"})
    '#chapters-06_kl--k3'
    """
    if re.match(r"[a-z]+:", href):
        return href
    path, _, name = href.partition("#")
    if not path:
        return "#" + place(page, name)
    where = Path(page).parent
    for step in path.split("/"):
        where = where.parent if step == ".." else where / step
    if where.as_posix().removesuffix(".html") in pages:
        return "#" + place(where.as_posix().removesuffix(".html"), name)
    return f"{book_address()}/{where.as_posix()}{'#' if name else ''}{name}" if book_address() else None


def unfold(soup: BeautifulSoup, article: Tag) -> None:
    """Take away what needs a screen; optional parts stay, under their title."""
    for gone in article.select(REMOVED):
        if not gone.decomposed:
            gone.decompose()
    for remark in article.find_all(string=lambda text: isinstance(text, Comment)):
        remark.extract()
    for fold in article.select("details.optional"):
        fold.name = "div"
        if summary := fold.find("summary"):
            summary.name = "p"
            summary["class"] = "optional-title"
    for cell in article.select("div.cell"):  # one whose code is folded away, and that shows nothing
        if not cell.get_text(strip=True) and not cell.find(["svg", "img"]):
            cell.decompose()


def one_page(html: Path, page: str, pages: set[str]) -> Tag:
    """A page's article, ready to stand in the whole: its places and links renamed."""
    soup = BeautifulSoup((html / f"{page}.html").read_text(encoding="utf-8"), "html.parser")
    article = soup.select_one("article.bd-article")
    assert article, f"{page}.html has no article"
    unfold(soup, article)
    for tag in article.find_all(True):
        rename(tag, page, pages, html)
    article["id"], article["class"] = place(page), ["page"]
    return article


def rename(tag: Tag, page: str, pages: set[str], html: Path) -> None:
    """Places, links, labels and pictures of one element, for the whole book."""
    if "id" in tag.attrs:
        tag["id"] = place(page, str(tag["id"]))
    for key in NAMING:
        if key in tag.attrs:
            tag[key] = " ".join(place(page, name) for name in str(tag[key]).split())
    if tag.name in ("a", "use") and (href := tag.get("href") or tag.get("xlink:href")):
        target = new_target(str(href), page, pages)
        tag.attrs.pop("xlink:href", None)
        if target is None:
            del tag["href"]
        else:
            tag["href"] = target
    if tag.name == "img" and not re.match(r"[a-z]+:", str(tag["src"])):
        tag["src"] = (html / page).parent.joinpath(str(tag["src"])).resolve().as_uri()
    for key, value in tag.attrs.items():
        if isinstance(value, str) and "url(#" in value:
            tag[key] = URL.sub(lambda found: f"url(#{place(page, found[1])})", value)


def contents(articles: dict[str, Tag]) -> tuple[str, list[tuple[str, str, str]]]:
    """The contents list as HTML, and its lines: part, page, title."""
    lines, rows = [], []
    for caption, names in parts():
        if caption:
            lines.append(f'<li class="part">{caption}</li>')
        for name in names:
            heading = articles[name].find("h1")
            assert heading, f"{name} has no title"
            title = " ".join(heading.get_text().split())
            rows.append((caption, name, title))
            lines.append(
                f'<li><a href="#{place(name)}">{title}</a><span class="at" data-of="{place(name)}"></span></li>'
            )
    return f'<nav class="contents"><h1>Contents</h1><ul>{"".join(lines)}</ul></nav>', rows


def whole_book(html: Path) -> tuple[str, list[tuple[str, str, str]]]:
    """The document, and the lines of its contents list (part, page, title).

    Args:
        html: the folder of the built book.
    """
    config: dict[str, Any] = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    pages = {name for _, names in parts() for name in names}
    articles = {name: one_page(html, name, pages) for _, names in parts() for name in names}
    drop_dead_links(articles)
    listed, rows = contents(articles)
    styles = "".join(f'<link rel="stylesheet" href="{(html / "_static" / name).as_uri()}">' for name in STYLES)
    mathjax, settings = (
        (html / "_static/vendor/mathjax/tex-chtml-full.js").as_uri(),
        mathjax_settings(html, pages),
    )
    address = f'<p><a href="{book_address()}">{book_address()}</a></p>' if book_address() else ""
    title = f"""<section class="title-page"><p class="title">{config["title"]}</p>
<p class="subtitle">An executable book on PPO for language models</p><p>{config["author"]}</p>
<p>Version {version()}</p>{address}<p class="left-out">{LEFT_OUT}</p></section>"""
    body = "\n".join(str(articles[name]) for _, name, _ in rows)
    return (
        f'<!DOCTYPE html><html lang="en" data-theme="light"><head><meta charset="utf-8">'
        f"<title>{config['title']}</title>"
        f"{styles}{settings}"
        f'<script defer src="{mathjax}"></script></head><body>{title}{listed}<main>{body}</main></body></html>',
        rows,
    )


def mathjax_settings(html: Path, pages: set[str]) -> str:
    """What the pages with formulas tell MathJax: which elements hold them."""
    told = re.compile(r"<script>window\.MathJax = .*?</script>", re.DOTALL)
    found = {one for page in pages for one in told.findall((html / f"{page}.html").read_text(encoding="utf-8"))}
    assert len(found) == 1, f"the pages tell MathJax {len(found)} different things"
    return found.pop()


def drop_dead_links(articles: dict[str, Tag]) -> None:
    """A link into what was left out becomes its words; one in a drawing that stays says in words where it leads."""
    known = {str(tag["id"]) for article in articles.values() for tag in [article, *article.find_all(id=True)]}
    for article in articles.values():
        for link in article.find_all("a"):
            drawn = link.find_parent("svg") is not None
            href = str(link.get("href", ""))
            if not href or (href.startswith("#") and href[1:] not in known):
                link.name = "g" if drawn else "span"
                for key in ("href", "download"):
                    link.attrs.pop(key, None)
            elif drawn and not link.find("title"):
                title = Tag(name="title")
                title.string = ": ".join(text.get_text() for text in link.find_all("text"))
                link.insert(0, title)
