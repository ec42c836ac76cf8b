"""What a baseline knows of outcomes, as plots and tables of its page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from services.deployments.figures import BLUE, GREY, LAYOUT, ORANGE, as_html
from services.deployments.outcome_summary import (
    EARLY_NOTE,
    LEADING,
    OutcomeSummary,
    metric_text,
    outcome_lines,
)
from streams.outcomes.ages import age_text
from streams.statistics.performance.calibration import ReliabilityCurve
from streams.statistics.performance.pairs import BINARY, MULTICLASS
from streams.statistics.performance.shares import wilson

_UNITS = ((86_400_000_000, "days"), (3_600_000_000, "hours"), (60_000_000, "minutes"), (1_000_000, "seconds"))


@dataclass(frozen=True, slots=True)
class OutcomeSection:
    """What the page shows; texts are not escaped, figures are HTML.

    Attributes:
        lines: Sentences.
        metrics: Name, and value with interval.
        figures: Title, what is to be seen, and the plot.
        heads: Of the table by age.
        by_age: Its rows.
        note: Why early outcomes are compared with early ones.
    """

    lines: list[str]
    metrics: list[tuple[str, str]]
    figures: list[tuple[str, str, str]]
    heads: list[str]
    by_age: list[list[str]]
    note: str


def outcome_section(found: OutcomeSummary) -> OutcomeSection:
    """Everything that the page says of outcomes."""
    leading = LEADING.get(found.task)
    figures = [
        (
            "How late outcomes are known",
            "Share of the predictions by age; the dashed line is the age at which a cohort is final.",
            as_html(_delay_figure(found)),
        )
    ]
    if leading is not None:
        figures.append(
            (
                f"What early outcomes show: {leading.replace('_', ' ')}",
                "Of the outcomes known up to an age, with 95 % intervals; the dashed line is the final figure.",
                as_html(_age_figure(found, leading)),
            )
        )
    if found.reliability is not None:
        shown = "scores" if found.task == BINARY else "the largest probabilities"
        figures.append(
            (
                "Do scores mean what they say?",
                f"Groups of {shown}, with 95 % intervals; on the dotted line they come true as often as they say.",
                as_html(_reliability_figure(found.reliability, found.task)),
            )
        )
    columns = [] if leading is None else [leading, *(["prevalence"] if found.task == BINARY else [])]
    return OutcomeSection(
        lines=outcome_lines(found),
        metrics=[
            (name.replace("_", " "), metric_text(metric))
            for name, metric in found.metrics.items()
            if metric.value is not None
        ],
        figures=figures,
        heads=["Outcomes known up to the age of", "Known", "Outcomes", *(name.capitalize() for name in columns)],
        by_age=[
            [
                age_text(each.age_us),
                f"{each.known:.1%}",
                f"{each.pairs:,}",
                *(metric_text(each.metrics.get(name)) for name in columns),
            ]
            for each in found.by_age
        ],
        note=f"{EARLY_NOTE[0].upper()}{EARLY_NOTE[1:]}.",
    )


def _unit(found: OutcomeSummary) -> tuple[int, str]:
    """The unit of time in which ages are shown, microseconds, and its name."""
    final_us = found.reference.final_age_us
    return next(((size, name) for size, name in _UNITS if final_us >= 2 * size), (1_000, "milliseconds"))


def _shown_until(found: OutcomeSummary) -> int:
    """Beyond the final age next to nothing happens: half as long again is shown."""
    return max(min(int(1.5 * found.reference.final_age_us), found.reference.horizon_ms * 1000), 1_000)


def _delay_figure(found: OutcomeSummary) -> go.Figure:
    size, name = _unit(found)
    until = _shown_until(found)
    ages, known = found.curve.ages_us, found.curve.known
    kept = ages <= until
    x = np.append(ages[kept], until)
    y = np.append(known[kept], np.interp(until, ages, known))
    figure = go.Figure()
    figure.add_scatter(
        x=x / size,
        y=y,
        customdata=[age_text(age) for age in x.tolist()],
        mode="lines",
        line={"color": BLUE, "width": 2},
        fill="tozeroy",
        fillcolor="rgba(0,114,178,0.12)",
        hovertemplate="%{customdata}: %{y:.1%}<extra></extra>",
    )
    figure.add_vline(x=found.reference.final_age_us / size, line={"color": ORANGE, "dash": "dash", "width": 1.5})
    figure.update_layout(
        **LAYOUT,
        xaxis={"title": f"age, {name}", "rangemode": "tozero"},
        yaxis={"tickformat": ".0%", "range": [0, 1]},
    )
    return figure


def _age_figure(found: OutcomeSummary, name: str) -> go.Figure:
    size, unit = _unit(found)
    # the last is as old as the horizon, but nothing changes after the final age
    ages = [min(each.age_us, found.reference.final_age_us) / size for each in found.by_age]
    metrics = [each.metrics.get(name) for each in found.by_age]
    shown = [
        (age, each.age_us, m.value, m.value if m.low is None else m.low, m.value if m.high is None else m.high)
        for age, m, each in zip(ages, metrics, found.by_age, strict=True)
        if m is not None and m.value is not None
    ]
    figure = go.Figure()
    if shown:
        values = [value for _, _, value, _, _ in shown]
        figure.add_scatter(
            x=[age for age, *_ in shown],
            y=values,
            customdata=[age_text(age_us) for _, age_us, *_ in shown],
            error_y=_bars(values, [low for *_, low, _ in shown], [high for *_, high in shown]),
            mode="lines+markers",
            line={"color": BLUE, "width": 1.5},
            hovertemplate="up to %{customdata}: %{y:.3f}<extra></extra>",
        )
        figure.add_hline(y=values[-1], line={"color": ORANGE, "dash": "dash", "width": 1.5})
    figure.update_layout(**LAYOUT, xaxis={"title": f"age, {unit}", "rangemode": "tozero"})
    return figure


def _bars(values: list[float], lows: list[float], highs: list[float]) -> dict[str, object]:
    """Intervals as plotly wants them: how far they reach up and down."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, high in zip(values, highs, strict=True)],
        "arrayminus": [value - low for value, low in zip(values, lows, strict=True)],
        "thickness": 1,
        "width": 3,
    }


def _reliability_figure(curve: ReliabilityCurve, task: str) -> go.Figure:
    assert task in (BINARY, MULTICLASS), "only classes have probabilities"
    observed = curve.observed.tolist()
    limits = [wilson(share, rows) for share, rows in zip(observed, curve.rows.tolist(), strict=True)]
    top = min(1.0, 1.05 * max([*curve.predicted.tolist(), *(high for _, high in limits)]))
    figure = go.Figure()
    figure.add_scatter(
        x=[0, top], y=[0, top], mode="lines", line={"color": GREY, "dash": "dot", "width": 1.5}, hoverinfo="skip"
    )
    figure.add_scatter(
        x=curve.predicted,
        y=observed,
        customdata=np.round(curve.rows),
        error_y=_bars(observed, [low for low, _ in limits], [high for _, high in limits]),
        mode="markers",
        marker={"color": BLUE, "size": 7},
        hovertemplate="said %{x:.1%}, came true %{y:.1%} of %{customdata:,}<extra></extra>",
    )
    figure.update_layout(
        **LAYOUT,
        xaxis={"title": "predicted", "tickformat": ".0%", "range": [0, top]},
        yaxis={"title": "came true", "tickformat": ".0%", "range": [0, top]},
    )
    return figure
