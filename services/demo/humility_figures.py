"""Plots of what humility did."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from services.demo.accuracy_figures import error_bars
from services.demo.humility import PROMISED, Coverage, Decisions
from services.demo.looks import LAYOUT
from services.deployments.figures import BLUE, GREY, ORANGE

_GREEN = "#009e73"
_SERIES = (
    ("without", "without humility: all that the model said", GREY, "dot"),
    ("with", "with humility: what was served", BLUE, "solid"),
    ("refused", "what was refused", ORANGE, "dash"),
    ("routed", "what went to people", _GREEN, "dash"),
)


def decisions_figure(months: Sequence[Decisions]) -> go.Figure:
    """Accuracy by month: without and with humility, and of what was not answered."""
    figure = go.Figure()
    for name, title, colour, dash in _SERIES:
        numbers = [month.accuracy[name] for month in months]
        figure.add_scatter(
            x=[month.label for month in months],
            y=[each["value"] for each in numbers],
            error_y=error_bars(numbers),
            name=title,
            mode="lines+markers",
            line={"color": colour, "width": 2.5 if name == "with" else 1.5, "dash": dash},
            marker={"size": 8 if name == "with" else 6},
            text=[f"{each['rows']:,} outcomes" for each in numbers],
            hovertemplate="%{x}: %{y:.3f}, %{text}<extra></extra>",
        )
    layout = {**LAYOUT, "margin": {**LAYOUT["margin"], "t": 70}}
    axis = {"title": "share of right predictions"}
    figure.update_layout(**layout, height=420, xaxis={"type": "category"}, yaxis=axis)
    return figure


def coverage_figure(months: Sequence[Coverage]) -> go.Figure:
    """Share of arrivals inside of their interval by month, static against adaptive."""
    figure = go.Figure()
    labels = [month.label for month in months]
    static, adaptive = [month.static for month in months], [month.adaptive for month in months]
    for numbers, title, colour in (
        (static, "static: as wide as March asks for", ORANGE),
        (adaptive, "adaptive: learns from every flight that lands", BLUE),
    ):
        figure.add_scatter(
            x=labels,
            y=[each["value"] for each in numbers],
            error_y=error_bars(numbers),
            name=title,
            mode="lines+markers",
            line={"color": colour, "width": 2.5},
            marker={"size": 8},
        )
    figure.add_hline(y=PROMISED, line={"color": GREY, "width": 1.5, "dash": "dot"})
    layout = {**LAYOUT, "margin": {**LAYOUT["margin"], "t": 60}}
    axis = {"title": "share inside", "tickformat": ".0%"}
    figure.update_layout(**layout, height=380, xaxis={"type": "category"}, yaxis=axis)
    return figure
