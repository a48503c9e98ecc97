"""The live form: ipywidgets that take any value, and the same function.

Only what ipywidgets 7.7 has, since Colab has that. Each picture stands in an Output widget as a Plotly figure:
JupyterLab and VS Code draw its MIME type themselves; Colab gets a snippet that fetches plotly.js and waits for it
(without waiting it says "Plotly is not defined", googlecolab/colabtools#5889).
"""

import json
import math
from html import escape
from typing import Any

import ipywidgets
from IPython.display import clear_output, display

from ppo_lib.book.explorers.core import Frame, Parameter, Sliders
from ppo_lib.book.explorers.plots import HEIGHT, curves_of, layout, traces
from ppo_lib.book.explorers.static import numbers, tokens_html

PLOTLY_JS = "4.1.1"  # the version that the book vendors, a test holds them together
# The package of npm as it is, of which the book vendors the same file: its checksum is what the browser asks for.
PLOTLY_URL = f"https://cdn.jsdelivr.net/npm/plotly.js-basic-dist-min@{PLOTLY_JS}/plotly-basic.min.js"
PLOTLY_SUM = "sha384-N2HZsG+IG/3J8CwhGGYz/kmzZ0sprpPWwjhor9ZI4lxuf47i9DXK2/NDGxMaJiEb"
# Legible on light and dark notebook themes, neither of which a figure can see.
MIDDLE_GRAY = "#808080"
TINTS = "".join(
    f".explorer-live .tint{level}{{background:rgba({color},{abs(level) * 0.13:.2f});"
    "display:inline-block;margin:2px;padding:1px 5px;border-radius:4px}"
    for level in range(-4, 5)
    for color in (("47,127,193",) if level >= 0 else ("201,102,26",))
)


def control(parameter: Parameter) -> Any:
    """The widget of one parameter: a slider for numbers, a list for texts."""
    name, grid, start = parameter.label, parameter.grid, parameter.start
    look = {
        "description": f"{name} ({parameter.unit})" if parameter.unit else name,
        "style": {"description_width": "initial"},
        "layout": {"width": "28em"},
    }
    if any(isinstance(value, str) for value in grid):
        return ipywidgets.Dropdown(options=list(grid), value=start, **look)
    if parameter.listed:
        return ipywidgets.SelectionSlider(options=[(parameter.text(one), one) for one in grid], value=start, **look)
    low, high = parameter.span or (float(grid[0]), float(grid[-1]))
    if all(isinstance(value, int) for value in grid) and parameter.step is None:
        return ipywidgets.IntSlider(value=start, min=int(low), max=int(high), **look)
    if parameter.log:
        ends = {"min": math.log10(low), "max": math.log10(high), "step": (math.log10(high) - math.log10(low)) / 200}
        return ipywidgets.FloatLogSlider(value=start, base=10, readout_format=".3g", **ends, **look)
    step = parameter.step or 10.0 ** math.floor(math.log10((high - low) / 100))
    return ipywidgets.FloatSlider(value=start, min=low, max=high, step=step, readout_format=".3g", **look)


def bundle(explorer: Sliders, frame: Frame, panel: int) -> dict[str, Any]:
    """One picture for whoever shows it: Plotly's MIME type, and HTML that brings its own plotly.js."""
    drawn = layout(explorer.panels[panel], curves_of(frame, panel))
    drawn["font"] = drawn["font"] | {"color": MIDDLE_GRAY}
    legend = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}
    drawn |= {"showlegend": True, "legend": legend, "height": HEIGHT + 60, "margin": drawn["margin"] | {"t": 60}}
    data = traces(frame, panel)
    figure = {"data": data, "layout": drawn, "config": {"displayModeBar": False}}
    place = f"explorer-{explorer.name}-{panel}"
    arguments = json.dumps([data, drawn, figure["config"]], ensure_ascii=False).replace("<", "\\u003c")
    snippet = (
        f'<div id="{place}"></div><script>(() => {{'
        f'const draw = () => Plotly.newPlot(document.getElementById("{place}"), ...{arguments});'
        "if (window.Plotly) return draw();"
        f'const script = document.createElement("script"); script.src = "{PLOTLY_URL}";'
        f'script.integrity = "{PLOTLY_SUM}"; script.crossOrigin = "anonymous";'
        "script.onload = draw; document.head.append(script);})()</script>"
    )
    plain = ", ".join(f"{trace['name']}: {trace['y']}" for trace in data)
    return {"application/vnd.plotly.v1+json": figure, "text/html": snippet, "text/plain": plain}


def words(explorer: Sliders, frame: Frame) -> str:
    """Sentence, colored tokens and table as HTML."""
    return (
        f'<style>{TINTS}</style><div class="explorer-live"><p>{escape(frame.sentence)}</p>'
        f"{tokens_html(frame.strips)}{numbers(explorer, frame)}</div>"
    )


def build(explorer: Sliders) -> tuple[Any, dict[str, Any], Any, list[Any]]:
    """The widget, and its parts for those who want to drive them: controls by name, words, pictures."""
    controls = {parameter.name: control(parameter) for parameter in explorer.parameters}
    text = ipywidgets.HTML()
    pictures = [
        ipywidgets.Output(
            layout={"flex": "1 1 340px", "width": "340px", "max_width": "640px", "min_height": f"{HEIGHT}px"}
        )
        for _ in explorer.panels
    ]

    def update(_change: Any = None) -> None:
        frame = explorer.frame(**{name: one.value for name, one in controls.items()})
        text.value = words(explorer, frame)
        for panel, output in enumerate(pictures):
            with output:
                clear_output(wait=True)
                display(bundle(explorer, frame, panel), raw=True)

    for one in controls.values():
        one.observe(update, names="value")
    update()
    title = ipywidgets.HTML(f"<strong>{escape(explorer.title)}</strong>")
    row = ipywidgets.Box(pictures, layout={"display": "flex", "flex_flow": "row wrap"})
    return ipywidgets.VBox([title, *controls.values(), row, text]), controls, text, pictures


def show(explorer: Sliders) -> None:
    """Show the live form as the output of the running cell."""
    display(build(explorer)[0])
