"""How the plots of the demonstration's page look, by day and by night: the page colours text and grids."""

from __future__ import annotations

from typing import Any

_CLEAR = "rgba(0,0,0,0)"

LAYOUT: dict[str, Any] = {
    "template": "plotly_white",
    "font": {"family": "system-ui, sans-serif", "size": 13},
    "margin": {"l": 60, "r": 20, "t": 40, "b": 50},
    "paper_bgcolor": _CLEAR,
    "plot_bgcolor": _CLEAR,
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "bgcolor": _CLEAR},
    "dragmode": False,
}
