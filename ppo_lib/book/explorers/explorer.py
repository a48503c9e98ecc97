"""An explorer as a notebook shows it: live widgets where a kernel and ipywidgets are, else the static form."""

import os

from ppo_lib.book.explorers.core import Sliders
from ppo_lib.book.explorers.static import html


class Explorer(Sliders):
    """Sliders and the function that they move; the last line of a cell shows it."""

    def html(self) -> str:
        """The static form: the whole grid, readable without a script."""
        return html(self)

    def __repr__(self) -> str:
        return self.text()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if not os.environ.get("BOOK_STATIC"):
            try:
                import ipywidgets  # noqa: F401
            except ImportError:
                pass  # without widgets the static form still shows the start
            else:
                from ppo_lib.book.explorers.live import show

                show(self)
                return
        display({"text/html": self.html(), "text/plain": self.text()}, raw=True)
