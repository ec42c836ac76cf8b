"""``demo-report.html``: the run in one self-contained page, with plots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import plotly.graph_objects as go
import plotly.offline

from services.alerting.words.message import describe_alert
from services.demo.accuracy import FAIRNESS_RATES, groups, lesson, limits, periods, worst
from services.demo.accuracy_figures import accuracy_figure, calibration_figure, delay_figure
from services.demo.flights import SCHEDULE, WEATHER
from services.demo.humility import PROMISED
from services.demo.humility_figures import coverage_figure, decisions_figure
from services.demo.humility_tables import ACCURACIES
from services.demo.looks import LAYOUT
from services.demo.story import BASELINE_PAGE, PREDICTION_STREAMS, Story
from services.demo.wording import cause_label, delay_text, when
from services.deployments.figures import BLUE, GREY, ORANGE, as_html, plain


def write_report(story: Story, path: Path) -> None:
    """Write the page; it works without a network."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["when"] = when
    environment.filters["delay"] = delay_text
    environment.filters["limits"] = limits
    environment.filters["label"] = cause_label
    environment.filters["pretty"] = lambda document: json.dumps(document, indent=2, ensure_ascii=False)
    months = periods(story.accuracy, by="month")
    lowest = worst(months)
    figures = {
        "heatmap": _heatmap(story),
        "timeline": _timeline(story),
        "accuracy": accuracy_figure(months, periods(story.accuracy_by_day, by="day"), story.concept_alarms),
        "delays": delay_figure(story.delays, story.references, lowest),
        "decisions": decisions_figure(story.humility.months),
        "coverage": coverage_figure(story.humility.coverage),
    }
    if lowest is not None:
        figures["calibration"] = calibration_figure(lowest)
    figures |= {alert["id"]: _cause_figure(alert) for alert in story.firing}
    html = {name: as_html(figure) for name, figure in figures.items()}
    segment, compared = ("", []) if lowest is None else groups(lowest)
    page = environment.get_template("report.html").render(
        story=story,
        plotly=plotly.offline.get_plotlyjs(),
        figures=html,
        months=months,
        worst=lowest,
        lesson=lesson(months, story.concept_alarms),
        segment=segment,
        groups=compared,
        rates=FAIRNESS_RATES,
        alarms=[
            {
                "alert": alert,
                "text": describe_alert(dict(alert)),
                "figure": html[alert["id"]],
                "verdict": story.verdicts.get(alert["id"]),
            }
            for alert in story.firing
        ],
        schedule=SCHEDULE,
        weather=WEATHER,
        account=story.budget["deployments"][0],
        baseline_page=BASELINE_PAGE,
        humility=story.humility,
        accuracies=ACCURACIES,
        promised=PROMISED,
        humility_alarms=[(alert, describe_alert(dict(alert))) for alert in story.humility_alarms],
        resolved=[alert for alert in story.alerts if alert["status"] == "resolved"],
    )
    path.write_text(page, "utf-8")


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
    layout = {**LAYOUT, "margin": {**LAYOUT["margin"], "l": 120}}
    figure.update_layout(**layout, height=90 + 30 * len(names), yaxis_autorange="reversed")
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
    for alert in story.firing:
        change, detected = when(alert["change_time_us"]), when(alert["detection_time_us"])
        figure.add_vrect(x0=change, x1=detected, fillcolor=ORANGE, opacity=0.05, line_width=0)
        figure.add_vline(x=detected, line={"color": ORANGE, "width": 1, "dash": "dot"})
    top = max((psi for days in story.daily_psi.values() for _, psi in days), default=1.0)
    figure.add_scatter(
        x=[when(alert["detection_time_us"]) for alert in story.firing],
        y=[2 * top] * len(story.firing),
        text=[plain(f"{alert['monitor']}: {cause_label(alert['causes'][0])}") for alert in story.firing],
        name="alarms",
        mode="markers",
        marker={"symbol": "triangle-down", "size": 9, "color": ORANGE},
        hovertemplate="%{x}: %{text}<extra></extra>",
    )
    layout = {**LAYOUT, "margin": {"l": 70, "r": 20, "t": 20, "b": 50}, "legend": {"bgcolor": "rgba(0,0,0,0)"}}
    figure.update_layout(**layout, height=480, yaxis={"title": "PSI of the day", "type": "log"})
    return figure


def _cause_figure(alert: Mapping[str, Any]) -> go.Figure:
    cause = alert["causes"][0]
    observed = np.array(cause["observed"], dtype=float)
    expected = np.array(cause["expected"])
    kept = [i for i, label in enumerate(cause["bins"]) if label and (observed[i] > 0 or expected[i] > 2e-4)]
    labels = [plain(cause["bins"][i]) for i in kept]
    figure = go.Figure()
    figure.add_bar(x=labels, y=expected[kept], name="expected", marker_color=GREY)
    figure.add_bar(x=labels, y=observed[kept] / observed.sum(), name="observed", marker_color=BLUE)
    figure.update_layout(
        **{**LAYOUT, "margin": {**LAYOUT["margin"], "t": 70}},
        height=320,
        barmode="group",
        title={"text": f"{plain(cause_label(cause))}: {cause['rows']:,} rows since the change", "font": {"size": 14}},
        yaxis={"tickformat": ".0%"},
    )
    return figure
