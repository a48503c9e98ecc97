"""The theme's icons, without the two thousand that no page shows: they were half of a first visit's weight.

The theme's ``fontawesome.js`` draws icons from a table of all that there are. What is built gets a copy with those that
a page or a script of the site names, ``fa-bars``, by name or by one of the other names that an icon has.
"""

import re
from pathlib import Path

ICON = re.compile(
    r'(?:"(?P<quoted>[^"]+)"|(?P<name>[\w$]+)):'
    r'\[\d+,\d+,\[(?P<others>[^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?'
)
CLASS = re.compile(r"\bfa-([a-z0-9-]+)")


def used_icons(html: Path) -> set[str]:
    """The names of icons that pages and scripts of a built site mention."""
    scripts = [path for path in (html / "_static").rglob("*.js") if path.name != "fontawesome.js"]
    return {name for path in [*html.rglob("*.html"), *scripts] for name in CLASS.findall(path.read_text("utf-8"))}


def subset(script: str, used: set[str]) -> str:
    """The script with the icons that are used, in every style that they have.

    Raises:
        ValueError: it holds no table of icons, or none of those: the theme has another one than was known.
    """
    kept = set()

    def keep(icon: re.Match[str]) -> str:
        names = {icon["quoted"] or icon["name"], *re.findall(r'"([^"]+)"', icon["others"])}
        kept.update(names & used)
        return icon[0] if names & used else ""

    smaller = ICON.sub(keep, script)
    if not kept:
        raise ValueError("fontawesome.js holds none of the icons that pages show: does the theme have a new one?")
    return smaller


def make_smaller(html: Path) -> None:
    """Replace the script of a built site by one with the icons that the site shows."""
    script = html / "_static" / "scripts" / "fontawesome.js"
    script.write_text(subset(script.read_text("utf-8"), used_icons(html)), "utf-8")
    script.with_suffix(".js.map").unlink(missing_ok=True)
