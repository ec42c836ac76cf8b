"""Plots of what outcomes told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from services.demo.accuracy import Numbers, Period, calibration
from services.demo.looks import LAYOUT
from services.demo.wording import cause_label, when
from services.deployments.figures import BLUE, GREY, ORANGE, plain

_GREEN = "#009e73"
_LONGEST_DELAY_HOURS = 12


def accuracy_figure(months: Sequence[Period], days: Sequence[Period], alarms: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Accuracy by day and month beside the reference and the estimate, with the alarms for concept drift."""
    figure = go.Figure()
    figure.add_scatter(
        x=[day.label for day in days],
        y=[day.accuracy["value"] for day in days],
        name="accuracy of a day",
        mode="markers",
        marker={"size": 3, "color": BLUE, "opacity": 0.35},
    )
    middles = [f"{month.label}-15" for month in months]
    figure.add_scatter(
        x=middles,
        y=[month.same_age.get("value") for month in months],
        name="reference at the same ages",
        mode="lines+markers",
        line={"color": GREY, "dash": "dot", "width": 1.5},
        marker={"size": 5},
    )
    figure.add_scatter(
        x=middles,
        y=[month.estimate.get("value") for month in months],
        error_y=error_bars([month.estimate for month in months]),
        name="estimate from scores alone",
        mode="lines+markers",
        line={"color": ORANGE, "dash": "dash", "width": 2},
        marker={"symbol": ["x" if month.doubted else "circle" for month in months], "size": 9},
        text=["not to be believed" if month.doubted else "" for month in months],
        hovertemplate="%{x}: %{y:.3f} %{text}<extra>estimate</extra>",
    )
    figure.add_scatter(
        x=middles,
        y=[month.accuracy["value"] for month in months],
        error_y=error_bars([month.accuracy for month in months]),
        name="accuracy of a month",
        mode="lines+markers",
        line={"color": BLUE, "width": 2.5},
        marker={"size": 9},
        text=[f"{month.coverage:.1%} known" for month in months],
        hovertemplate="%{x}: %{y:.3f}, %{text}<extra>accuracy</extra>",
    )
    for at, alert in enumerate(alarms):
        change, detected = when(alert["change_time_us"]), when(alert["detection_time_us"])
        figure.add_vrect(x0=change, x1=detected, fillcolor=_GREEN, opacity=0.25, line_width=0)
        figure.add_vline(x=detected, line={"color": _GREEN, "width": 1.5})
        figure.add_annotation(
            x=detected,
            y=0.02 + 0.06 * (at % 4),
            yref="paper",
            text=f"{plain(cause_label(alert['causes'][0]))}, {detected[5:10]}",
            showarrow=False,
            xanchor="left",
            yanchor="bottom",
            font={"size": 11},
        )
    figure.update_layout(**{**LAYOUT, "margin": {**LAYOUT["margin"], "t": 70}}, height=460, yaxis={"title": "accuracy"})
    return figure


def calibration_figure(period: Period) -> go.Figure:
    """Shares that came true by mean score, before (the reference) and in a period; on the diagonal both agree."""
    rows = calibration(period)
    x = [row["predicted"] for row in rows]
    top = max([0.1, *(row["high"] for row in rows), *x])
    figure = go.Figure()
    figure.add_scatter(
        x=[0, top], y=[0, top], mode="lines", line={"color": GREY, "width": 1, "dash": "dot"}, showlegend=False
    )
    figure.add_scatter(
        x=x,
        y=[row["reference"] for row in rows],
        name="before: the reference at the same scores",
        mode="lines+markers",
        line={"color": GREY, "width": 2},
        marker={"size": 6},
    )
    figure.add_scatter(
        x=x,
        y=[row["observed"] for row in rows],
        error_y=error_bars([{**row, "value": row["observed"]} for row in rows]),
        name=f"after: {period.label}",
        mode="lines+markers",
        line={"color": BLUE, "width": 2.5},
        marker={"size": 8},
        text=[f"{row['rows']:,.0f} rows" for row in rows],
        hovertemplate="score %{x:.3f}: %{y:.3f}, %{text}<extra></extra>",
    )
    axis = {"range": [0, 1.02 * top], "tickformat": ".0%"}
    figure.update_layout(
        **LAYOUT,
        height=400,
        xaxis={**axis, "title": "mean score"},
        yaxis={**axis, "title": "share that came true"},
    )
    return figure


def delay_figure(delays: Mapping[str, Any], references: Mapping[str, str], period: Period | None) -> go.Figure:
    """Share of predictions whose outcome is known by age: of the references, of a month, and of the others."""
    figure = go.Figure()
    shades = (GREY, _GREEN)
    for at, reference in enumerate(delays["references"]):
        figure.add_scatter(
            x=reference["hours"],
            y=reference["known"],
            name=f"reference {plain(references.get(reference['digest'], reference['digest'][:8]))}",
            mode="lines",
            line={"color": shades[at % len(shades)], "width": 2},
        )
    months = delays["months"]
    for month, known in months.items():
        chosen = period is not None and month == period.label
        figure.add_scatter(
            x=known["hours"],
            y=known["known"],
            name=month,
            mode="markers",
            marker={"size": 9 if chosen else 5, "color": BLUE if chosen else ORANGE, "opacity": 1 if chosen else 0.5},
            showlegend=chosen,
        )
    ages = {"title": "hours from departure as planned", "range": [0, _LONGEST_DELAY_HOURS]}
    figure.update_layout(**LAYOUT, height=340, xaxis=ages, yaxis={"tickformat": ".0%", "range": [0, 1.02]})
    return figure


def error_bars(metrics: Sequence[Numbers]) -> dict[str, Any]:
    """The intervals around values that have one."""

    def side(metric: Numbers, end: str) -> float:
        value, limit = metric.get("value"), metric.get(end)
        return 0.0 if value is None or limit is None else abs(limit - value)

    return {
        "type": "data",
        "symmetric": False,
        "array": [side(metric, "high") for metric in metrics],
        "arrayminus": [side(metric, "low") for metric in metrics],
        "thickness": 1,
        "width": 3,
    }
