"""Write the picture of README and the card that those see who share a page of the book.

    python scripts/store_card.py            # book/drawings/rubber_band.svg, and book/web/card.png (needs Chromium)

A test holds the first to a fresh drawing. The second is a photograph of it, 1200 by 630 pixels as such cards are, and
differs between machines with their fonts.
"""

import shutil
from pathlib import Path

from ppo_lib.book import diagrams

BOOK = Path(__file__).resolve().parent.parent / "book"
PICTURE, CARD, SIZE = BOOK / "drawings" / "rubber_band.svg", BOOK / "web" / "card.png", (1200, 630)
PAGE = """<body style="margin:0;display:flex;background:#fff;color:#222;font-family:system-ui,sans-serif">
<div style="flex:1;padding:90px 0 0 70px"><h1 style="font-size:84px;margin:0">Proximal</h1>
<p style="font-size:38px;line-height:1.4">PPO for language models:<br>a book whose every claim<br>is a cell that ran</p>
</div><div style="width:480px;padding:12px 50px 0 0">{picture}</div>"""


def picture() -> str:
    """The drawing as a file of its own: dark on white, wherever it is shown."""
    start, end, rest = diagrams.ALL["rubber_band"]().svg().partition(">")
    return f'{start} color="#222"{end}<rect width="100%" height="100%" rx="8" fill="#fff"/>{rest}\n'


def store_card() -> None:
    """The card, as Chromium shows it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--headless", "--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        page.set_content(PAGE.format(picture=picture()))
        page.screenshot(path=CARD)
        browser.close()


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    store_card()
