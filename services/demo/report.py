"""``demo-report.html``: the run in one self-contained page, with plots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import plotly.graph_objects as go
import plotly.io

from services.alerting.message import describe_alert
from services.demo.flights import SCHEDULE, WEATHER
from services.demo.story import BASELINE_PAGE, PREDICTION_STREAMS, Story, delay_text, when

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#999999"  # Okabe and Ito: safe for colour-blind eyes
_LAYOUT = {
    "template": "plotly_white",
    "font": {"family": "system-ui, sans-serif", "size": 13},
    "margin": {"l": 120, "r": 20, "t": 40, "b": 50},
    "paper_bgcolor": "rgba(0,0,0,0)",
}


def write_report(story: Story, path: Path) -> None:
    """Write the page; it works without a network."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["when"] = when
    environment.filters["delay"] = delay_text
    environment.filters["pretty"] = lambda document: json.dumps(document, indent=2, ensure_ascii=False)
    figures = [_heatmap(story), _timeline(story), *(_cause_figure(alert) for alert in story.firing)]
    html = [
        plotly.io.to_html(figure, include_plotlyjs="inline" if i == 0 else False, full_html=False, config=_CONFIG)
        for i, figure in enumerate(figures)
    ]
    page = environment.get_template("report.html").render(
        story=story,
        heatmap=html[0],
        timeline=html[1],
        alarms=[
            {
                "alert": alert,
                "text": describe_alert(dict(alert)),
                "figure": figure,
                "verdict": story.verdicts.get(alert["id"]),
            }
            for alert, figure in zip(story.firing, html[2:], strict=True)
        ],
        schedule=SCHEDULE,
        weather=WEATHER,
        account=story.budget["deployments"][0],
        baseline_page=BASELINE_PAGE,
        resolved=[alert for alert in story.alerts if alert["status"] == "resolved"],
    )
    path.write_text(page, "utf-8")


_CONFIG = {"displaylogo": False, "responsive": True, "displayModeBar": False}


def _streams(story: Story) -> list[str]:
    return [name for name in (*SCHEDULE, *WEATHER, *PREDICTION_STREAMS) if name in story.psi]


def _heatmap(story: Story) -> go.Figure:
    names = _streams(story)
    values = np.array([story.psi[name] for name in names])
    figure = go.Figure(
        go.Heatmap(
            z=np.log10(np.maximum(values, 1e-3)),
            x=list(story.months),
            y=names,
            text=[[f"{value:.2f}" for value in row] for row in values],
            texttemplate="%{text}",
            colorscale=[[0.0, "#ffffff"], [0.45, "#fff3e0"], [0.75, "#f6a04d"], [1.0, "#d55e00"]],
            xgap=1,
            ygap=1,
            textfont={"color": "#1d2733"},
            showscale=False,
            hovertemplate="%{y}, %{x}: PSI %{text}<extra></extra>",
        )
    )
    figure.update_layout(**_LAYOUT, height=90 + 30 * len(names), yaxis_autorange="reversed")
    return figure


def _timeline(story: Story) -> go.Figure:
    figure = go.Figure()
    for name in _streams(story):
        days = story.daily_psi.get(name, ())
        shown = name in ("temp", "carrier", "prediction")
        figure.add_scatter(
            x=[day for day, _ in days],
            y=[psi for _, psi in days],
            name=name,
            mode="lines",
            line={"width": 1.5},
            visible=True if shown else "legendonly",
        )
    for i, alert in enumerate(story.firing):
        names = [cause["stream"] for cause in alert["causes"]]
        causes = names[0] if len(names) == 1 else f"{names[0]} + {len(names) - 1}"
        change, detected = when(alert["change_time_us"]), when(alert["detection_time_us"])
        figure.add_vrect(x0=change, x1=detected, fillcolor=_ORANGE, opacity=0.07, line_width=0)
        figure.add_vline(x=detected, line={"color": _ORANGE, "width": 1.5, "dash": "dot"})
        # labels of alarms that follow each other closely must not overlap
        figure.add_annotation(
            x=detected,
            y=1.02 + 0.06 * (i % 4),
            yref="paper",
            text=causes,
            showarrow=False,
            xanchor="left" if i < len(story.firing) / 2 else "right",
            yanchor="bottom",
            font={"size": 11},
        )
    layout = {**_LAYOUT, "margin": {"l": 70, "r": 20, "t": 100, "b": 50}}
    figure.update_layout(**layout, height=480, yaxis={"title": "PSI of the day", "type": "log"})
    return figure


def _cause_figure(alert: Mapping[str, Any]) -> go.Figure:
    cause = alert["causes"][0]
    observed = np.array(cause["observed"], dtype=float)
    expected = np.array(cause["expected"])
    kept = [i for i, label in enumerate(cause["bins"]) if label and (observed[i] > 0 or expected[i] > 2e-4)]
    labels = [cause["bins"][i] for i in kept]
    figure = go.Figure()
    figure.add_bar(x=labels, y=expected[kept], name="expected", marker_color=_GREY)
    figure.add_bar(x=labels, y=observed[kept] / observed.sum(), name="observed", marker_color=_BLUE)
    figure.update_layout(
        **_LAYOUT,
        height=300,
        barmode="group",
        title=f"{cause['stream']}: {cause['rows']:,} rows since the change",
        yaxis={"tickformat": ".0%"},
        legend={"orientation": "h", "y": 1.12, "x": 0.7},
    )
    return figure
