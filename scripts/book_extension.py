"""What the book asks of Sphinx besides its extensions: no button without an address, terms as links, the wheel inside.

Notebooks are read in editors that know nothing of this book: there a term is an ordinary link into the glossary,
``[advantage](../book/glossary.md#term-advantage)``. On the page it becomes the glossary's own reference, which Sphinx
checks. Jupyter Book loads this module by ``local_extensions`` in ``_config.yml``.
"""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from scripts.book_access import mend_pages
from scripts.book_address import (
    BRANCH,
    ROOT,
    SOURCES,
    WHEELS,
    book_address,
    repository,
)
from scripts.book_icons import make_smaller
from scripts.book_tips import write_tips
from scripts.library_package import build_wheel

LINK = re.compile(r"\[(?P<words>[^\[\]]+)\]\((?:\.\./book/)?glossary\.md#term-(?P<slug>[\w-]+)\)")
BUTTON, FIRST = '<a href="#how-to-read">Run it yourself</a>', "chapters/00_rl_for_llms"
COLAB = "https://colab.research.google.com/github"
GLOSSARY = re.compile(r"^```\{glossary\}\n(?P<terms>.*?)^```$", re.MULTILINE | re.DOTALL)


def slug(term: str) -> str:
    """The end of a term's anchor, as Sphinx makes it."""
    return re.sub(r"[^a-z0-9]+", "-", term.lower()).strip("-")


def terms() -> dict[str, str]:
    """The glossary's terms by their slugs."""
    found = GLOSSARY.search((ROOT / "book" / "glossary.md").read_text(encoding="utf-8"))
    assert found, "book/glossary.md holds no glossary"
    lines = [line for line in found["terms"].splitlines() if line and not line.startswith((" ", ":"))]
    return {slug(line): line.strip() for line in lines}


def as_roles(text: str, known: dict[str, str]) -> str:
    """Links into the glossary as references that Sphinx knows; one to no term stays, and Sphinx reports it."""

    def role(link: re.Match[str]) -> str:
        term = known.get(link["slug"])
        return f"{{term}}`{link['words']} <{term}>`" if term else link[0]

    return LINK.sub(role, text)


def as_links(text: str, folder: str = "../book/") -> str:
    """References to the glossary as ordinary links: how they are stored."""
    return re.sub(
        r"\{term\}`(?P<words>[^`<]+?)(?:\s*<(?P<term>[^`>]+)>)?`",
        lambda found: f"[{found['words']}]({folder}glossary.md#term-{slug(found['term'] or found['words'])})",
        text,
    )


def with_colab(text: str) -> str:
    """The start page, its second button leading to Colab as soon as the book has an address."""
    if not (url := repository()):
        return text
    assert BUTTON in text, "book/index.md has no second button"
    where = f"{COLAB}/{url.removeprefix('https://github.com/')}/blob/{BRANCH}/{SOURCES}/{FIRST}.ipynb"
    return text.replace(BUTTON, f'<a href="{where}">Run it in Colab</a>')


def read_source(app: Any, docname: str, source: list[str]) -> None:
    """Sphinx's event for each source, notebooks as the JSON that they are."""
    text = as_roles(source[0], terms())
    source[0] = with_colab(text) if docname == "book/index" else text


def set_address(app: Any, config: Any) -> None:
    """Buttons to repository and Colab where there is an address, and none where they would lead nowhere."""
    options = config.html_theme_options
    options["repository_url"] = repository()
    options["use_repository_button"] = bool(repository())
    if repository():
        options["repository_branch"], options["path_to_docs"] = BRANCH, SOURCES
    else:
        options.pop("launch_buttons", None)
    config.html_baseurl = f"{book_address()}/" if book_address() else ""


def with_breaks(contents: str) -> str:
    """A page's contents list whose long names of functions go on in a new line after a dot or an underscore.

    >>> with_breaks('<span class="pre">clipped_policy_loss()</span>')
    '<span class="pre">clipped_<wbr/>policy_<wbr/>loss()</span>'
    """
    names = re.compile(r'(<span class="pre">)([^<]+)(</span>)')
    return names.sub(lambda one: one[1] + re.sub(r"([._])(?=\w)", r"\1<wbr/>", one[2]) + one[3], contents)


def break_names(app: Any, pagename: str, templatename: str, context: dict[str, Any], document: Any) -> None:
    """Sphinx's event for each page, after the theme's: its contents list breaks names where they have a seam."""
    if theirs := context.get("generate_toc_html"):

        def ours(kind: str = "html") -> Any:
            made = theirs(kind)
            return made if kind == "raw" else with_breaks(str(made))  # the theme's is a tree

        context["generate_toc_html"] = ours


def name_start_page(app: Any, pagename: str, templatename: str, context: dict[str, Any], document: Any) -> None:
    """Sphinx's event for each page: the start page is called for what the book is about."""
    if pagename == app.config.root_doc:
        context["title"] = f"{context['docstitle']}: PPO for language models"


LOST = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="robots" content="noindex">
<meta name="color-scheme" content="light dark"><title>No such page</title></head>
<body style="max-width: 40rem; margin: 4rem auto; padding: 0 1rem; font: 1.1rem/1.6 system-ui, sans-serif">
<h1>No such page</h1>
<p>The book has no page of this address; it may have another name by now.</p>
<p><a href="{address}/">The book's start</a> has the map of the chapters,
<a href="{address}/search.html">the search</a> finds words and symbols.</p>
</body>
</html>
"""


def write_lost_page(folder: Path, address: str) -> None:
    """What GitHub's pages show for an address that is none, at whatever depth: so its links are whole ones."""
    if address:
        (folder / "404.html").write_text(LOST.format(address=address), encoding="utf-8")


def finish(app: Any, error: Exception | None) -> None:
    """The site carries its library, and GitHub's pages are to show it as it is."""
    if error is None and app.builder.name == "html":
        build_wheel(Path(app.outdir) / WHEELS)
        make_smaller(Path(app.outdir))
        mend_pages(Path(app.outdir))
        write_tips(Path(app.outdir))
        write_lost_page(Path(app.outdir), book_address())
        (Path(app.outdir) / ".nojekyll").touch()


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this."""
    for name in ("scripts.book_reference", "scripts.book_search", "scripts.book_tips"):
        app.setup_extension(name)
    app.connect("config-inited", set_address, priority=100)  # before the theme reads its options
    app.connect("source-read", read_source)
    app.connect("html-page-context", name_start_page, priority=400)  # before the description takes the title
    app.connect("html-page-context", break_names, priority=900)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
