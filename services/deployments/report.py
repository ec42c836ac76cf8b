"""A baseline as one self-contained page: what was learnt from the reference, stream by stream, with plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import plotly.graph_objects as go
import plotly.offline

from services.deployments.figures import BLUE, LAYOUT, as_html, plain
from services.deployments.outcome_figures import outcome_section
from services.deployments.outcome_summary import summarise_outcomes
from services.deployments.summary import StreamSummary, arming_lines, summarise
from services.event_time import rfc3339
from streams.baseline import Baseline, BaselineStream
from streams.statistics.layouts import CategoricalBins, NumericBins
from streams.statistics.seasons import HOUR_OF_WEEK, SeasonalBins

MOST_FIGURES = 200
"""Streams of whole columns beyond these have their row in the table and no plot."""

_NARROW = 1e-6
_SMALLEST_SPAN = 1e-300
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def render_report(baseline: Baseline) -> str:
    """The page as HTML; it works without a network, and whatever a name holds is text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    found = [summarise(stream) for stream in baseline.streams]
    drawn = [item for item in found if _is_drawn(item.stream)][:MOST_FIGURES]
    figures = [as_html(_figure(item.stream)) for item in drawn]
    outcomes = summarise_outcomes(baseline)
    return environment.get_template("baseline.html").render(
        baseline=baseline,
        first=rfc3339(baseline.first_event_us),
        last=rfc3339(baseline.last_event_us),
        arming=arming_lines(baseline),
        plotly=plotly.offline.get_plotlyjs() if figures or outcomes is not None else "",
        outcomes=None if outcomes is None else outcome_section(outcomes),
        figures=list(zip(drawn, figures, strict=True)),
        groups=_groups(found),
        facts=_facts,
        seasons=any(item.season for item in found),
        left_out=sum(_is_drawn(item.stream) for item in found) - len(drawn),
    )


def write_report(baseline: Baseline, path: Path) -> None:
    """Write the page. Raises ``OSError`` where it cannot be written."""
    path.write_text(render_report(baseline), "utf-8")


def _is_drawn(stream: BaselineStream) -> bool:
    """Whether the stream is about values of its own, and about all rows."""
    return isinstance(stream.bins, (NumericBins, CategoricalBins, SeasonalBins)) and not stream.segment


def _groups(found: Sequence[StreamSummary]) -> list[tuple[str, list[StreamSummary]]]:
    """Streams by segment and role, whole columns first."""
    groups: dict[str, list[StreamSummary]] = {}
    for item in found:
        stream = item.stream
        title = f"Part of the traffic: {stream.segment}" if stream.segment else f"{stream.role} streams".capitalize()
        groups.setdefault(title, []).append(item)
    return sorted(groups.items(), key=lambda group: bool(group[1][0].stream.segment))


def _figure(stream: BaselineStream) -> go.Figure:
    if isinstance(stream.bins, SeasonalBins):
        return _seasonal_figure(stream.bins)
    if isinstance(stream.bins, NumericBins) and (density := _density_figure(stream, stream.bins)) is not None:
        return density
    return _bar_figure(stream)


def _density_figure(stream: BaselineStream, bins: NumericBins) -> go.Figure | None:
    """Rows per unit between the edges; None where values pile up at points, which have no density."""
    edges = bins.edges
    if not np.isfinite(edges).all():
        return None
    widths = np.diff(edges)
    span = float(edges[-1] - edges[0])
    rows = stream.counts[bins.remap[1:-1]]
    shown = (widths > 0) & (rows > 0)
    # a constant's only bin is as wide as its number is exact
    if span <= _NARROW**2 * np.abs(edges).max() or span < _SMALLEST_SPAN:
        return None
    if not shown.any() or (widths[shown] < _NARROW * span).any():
        return None
    share = rows[shown] / stream.counts.sum()
    figure = go.Figure(
        go.Bar(
            x=(edges[:-1] + widths / 2)[shown],
            y=share / widths[shown],
            width=widths[shown],
            marker={"color": BLUE, "line": {"color": "white", "width": 0.5}},
            customdata=np.stack([edges[:-1][shown], edges[1:][shown], share], axis=1),
            hovertemplate="%{customdata[0]:.6g} to %{customdata[1]:.6g}: %{customdata[2]:.1%} of rows<extra></extra>",
        )
    )
    figure.update_layout(**LAYOUT, bargap=0, yaxis={"title": "density", "rangemode": "tozero", "showticklabels": False})
    return figure


def _bar_figure(stream: BaselineStream) -> go.Figure:
    """The share of rows in each bin that has any."""
    kept = np.flatnonzero(stream.counts)
    names = stream.bin_labels()
    figure = go.Figure(
        go.Bar(
            x=list(range(len(kept))),
            y=stream.counts[kept] / stream.counts.sum(),
            marker_color=BLUE,
            hovertemplate="%{y:.1%} of rows<extra></extra>",
        )
    )
    labels = [plain(names[at]) for at in kept.tolist()]
    axis = {"tickvals": list(range(len(kept))), "ticktext": labels, "automargin": True}
    figure.update_layout(**LAYOUT, xaxis=axis, yaxis={"tickformat": ".0%", "rangemode": "tozero"})
    return figure


def _seasonal_figure(bins: SeasonalBins) -> go.Figure:
    """The quantiles of each season: the middle, eight and nine tenths of its rows, and 99 %."""
    edges = bins.edges
    x = np.arange(len(edges))
    figure = go.Figure()
    for low, high, opacity in ((1, -2, 0.15), (2, -3, 0.25), (4, -5, 0.4)):
        figure.add_scatter(x=x, y=edges[:, high], mode="lines", line={"width": 0}, hoverinfo="skip")
        figure.add_scatter(
            x=x,
            y=edges[:, low],
            mode="lines",
            line={"width": 0},
            fill="tonexty",
            fillcolor=f"rgba(0,114,178,{opacity})",
            hoverinfo="skip",
        )
    middle = edges[:, 6]
    figure.add_scatter(x=x, y=middle, mode="lines", line={"color": BLUE, "width": 1.5}, hovertemplate="%{y:.6g}")
    weekly = bins.season == HOUR_OF_WEEK
    ticks = list(range(0, len(edges), 24 if weekly else 6))
    text = (
        [_DAYS[hour // 24] for hour in ticks]
        if weekly
        else [f"{'weekend' if hour >= 24 else 'weekday'} {hour % 24}:00" for hour in ticks]
    )
    figure.update_layout(**LAYOUT, xaxis={"tickvals": ticks, "ticktext": text})
    return figure


def _facts(item: StreamSummary) -> dict[str, Any]:
    """What the table says of a stream."""
    stream = item.stream
    return {
        "label": stream.label,
        "kind": stream.layout.name,
        "season": item.season.replace("_", " "),
        "rows": "" if item.rows is None else f"{item.rows:,}",
        "missing": "" if item.missing_share is None else f"{item.missing_share:.1%}",
        "margin": f"{stream.margin_tv:.3f}",
        "margin_source": item.margin_source,
        "inflation": f"{item.inflation:,.1f}",
        "importance": f"{stream.importance:.3g}",
    }
