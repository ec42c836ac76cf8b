"""How the plots of a page look, and how they get into it."""

from __future__ import annotations

import html

import plotly.graph_objects as go
import plotly.io

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#999999"
"""Okabe and Ito: safe for colour-blind eyes."""

LAYOUT = {
    "template": "plotly_white",
    "font": {"family": "system-ui, sans-serif", "size": 12},
    "margin": {"l": 55, "r": 15, "t": 10, "b": 45},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "height": 230,
    "showlegend": False,
}
_CONFIG = {"displaylogo": False, "responsive": True, "displayModeBar": False}

_LONGEST_LABEL = 40


def as_html(figure: go.Figure) -> str:
    """A figure as a part of a page that has plotly's script."""
    return str(plotly.io.to_html(figure, include_plotlyjs=False, full_html=False, config=_CONFIG))


def plain(text: str) -> str:
    """A label that plotly shows as it is: it reads a small HTML of its own."""
    shown = text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
    return html.escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown), quote=False)
