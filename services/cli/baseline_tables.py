"""Baselines as tables on a terminal, and differences between them as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from services.cli.output import print_table, safe, stdout
from services.deployments.comparison import StreamComparison
from services.deployments.outcome_comparison import AGES, OutcomeDifference
from services.deployments.outcome_summary import (
    EARLY_NOTE,
    LEADING,
    OutcomeSummary,
    metric_text,
    outcome_lines,
    summarise_outcomes,
)
from services.deployments.summary import StreamSummary, arming_lines, summarise
from services.event_time import rfc3339
from streams.baseline import Baseline
from streams.outcomes.ages import age_text
from streams.statistics.performance.pairs import BINARY

_MARGIN_NOTE = (
    "margin: differences up to it (total variation) are of no interest, or within the error of a reference of this "
    "size; variance x: rows that are worth one independent row, for the typical alternative"
)


_HEADS = ("rows", "missing", "margin", "from", "variance x", "weight")


def show_baseline(item: Baseline, result: str, *, show_all: bool) -> None:
    """Print what a baseline says; ``result`` is what was done with it."""
    stdout.print(
        f"[bold]{safe(item.deployment_id)}@{safe(item.model_version)}[/] {result}: {item.rows:,} rows, events "
        f"{rfc3339(item.first_event_us)} to {rfc3339(item.last_event_us)}, from {safe(item.source)}",
        highlight=False,
        soft_wrap=True,
    )
    found = [summarise(stream) for stream in item.streams]
    seasons = any(each.season for each in found)
    print_table(
        ["stream", "kind", *(["season"] if seasons else []), *_HEADS],
        [_row(each, seasons) for each in found if show_all or _is_main(each.stream.role, each.stream.segment)],
        numbers=("rows", "missing", "margin", "variance x", "weight"),
    )
    if not show_all:
        _show_others(found)
    outcomes = summarise_outcomes(item)
    if outcomes is not None:
        show_outcomes(outcomes)
    for monitor, text in arming_lines(item):
        stdout.print(f"[bold]{safe(monitor)}[/]: {safe(text)}", highlight=False, soft_wrap=True)
    stdout.print(f"[dim]{_MARGIN_NOTE}\nsha256 {item.digest}[/]", highlight=False)


def show_outcomes(found: OutcomeSummary) -> None:
    """Print what a baseline knows of outcomes: metrics, and what it had shown at each age."""
    for line in outcome_lines(found):
        stdout.print(safe(line), highlight=False, soft_wrap=True)
    if found.metrics:
        shown = [(name, metric_text(metric)) for name, metric in found.metrics.items() if metric.value is not None]
        print_table(["metric", "value (95 %)"], shown)
    leading = LEADING.get(found.task)
    heads = ["outcomes known up to the age of", "known", "outcomes", *([leading, "prevalence"] if leading else [])]
    if found.task != BINARY:
        heads = [head for head in heads if head != "prevalence"]
    rows = []
    for at in found.by_age:
        values = [metric_text(at.metrics.get(name)) for name in heads[3:]]
        rows.append((age_text(at.age_us), f"{at.known:.1%}", f"{at.pairs:,}", *values))
    print_table(heads, rows, numbers=("known", "outcomes"))
    stdout.print(f"[dim]{EARLY_NOTE}[/]\n", highlight=False, soft_wrap=True)


def _is_main(role: str, segment: str) -> bool:
    """Whether a stream has a row of its own without ``--all``."""
    return not segment and role not in ("quality", "association")


def _row(item: StreamSummary, seasons: bool) -> Sequence[object]:
    stream = item.stream
    return (
        stream.label,
        stream.layout.name,
        *([item.season.replace("_", " ")] if seasons else []),
        "" if item.rows is None else f"{item.rows:,}",
        "" if item.missing_share is None else f"{item.missing_share:.1%}",
        f"{stream.margin_tv:.3f}",
        item.margin_source,
        f"{item.inflation:,.1f}",
        f"{stream.importance:.3g}",
    )


def _show_others(found: Sequence[StreamSummary]) -> None:
    groups: dict[str, list[StreamSummary]] = {}
    for item in found:
        stream = item.stream
        if not _is_main(stream.role, stream.segment):
            what = f"part {stream.segment}" if stream.segment else stream.role
            groups.setdefault(what, []).append(item)
    for what, items in groups.items():
        margins = [item.stream.margin_tv for item in items]
        inflation = [item.inflation for item in items]
        stdout.print(
            f"{safe(what)}: {len(items)} streams, margin {_range(margins, '.3f')}, variance x "
            f"{_range(inflation, ',.1f')}",
            highlight=False,
            soft_wrap=True,
        )
    if groups:
        stdout.print("[dim]each of them: --all[/]\n", highlight=False)


def _range(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} – {high}"


def head_document(item: Baseline) -> dict[str, Any]:
    """What a baseline is, for machines."""
    return {
        "deployment": item.deployment_id,
        "version": item.model_version,
        "digest": item.digest,
        "rows": item.rows,
        "source": item.source,
    }


def difference_document(item: StreamComparison) -> dict[str, Any]:
    """How a stream differs, for machines."""

    def side(stream: Any) -> dict[str, Any] | None:
        if stream is None:
            return None
        found = summarise(stream)
        return {
            "rows": found.rows,
            "margin_tv": float(stream.margin_tv),
            "variance_inflation": found.inflation,
            "season": found.season,
        }

    distance = item.distance
    return {
        "stream": item.label,
        "role": item.role,
        "comparison": item.kind or ("new" if item.first is None else "gone"),
        "note": item.note,
        "total_variation": None if distance is None else distance.total_variation,
        "tv_low": None if distance is None else distance.low,
        "tv_high": None if distance is None else distance.high,
        "tv_at_least": None if distance is None else distance.at_least,
        "psi": None if distance is None else distance.psi,
        "new_categories": list(item.new_categories),
        "lost_categories": list(item.lost_categories),
        "first": side(item.first),
        "second": side(item.second),
    }


def show_differences(before: Baseline, after: Baseline, found: Sequence[StreamComparison], *, show_all: bool) -> None:
    """Print how two baselines differ; without ``show_all`` derived streams only where they do."""
    for word, item in (("from", before), ("to", after)):
        stdout.print(
            f"{word} [bold]{safe(item.deployment_id)}@{safe(item.model_version)}[/] {item.digest[:12]}: {item.rows:,} "
            f"rows, events {rfc3339(item.first_event_us)} to {rfc3339(item.last_event_us)}, {safe(item.source)}",
            highlight=False,
            soft_wrap=True,
        )
    shown = [
        item
        for item in found
        if show_all
        or _is_main(item.role, next(s for s in (item.second, item.first) if s is not None).segment)
        or item.distance is None
        or item.distance.low > 0
    ]
    print_table(
        ["stream", "TV", "95 %", "PSI", "margin", "variance x", "comparison"],
        [_difference_row(item) for item in shown],
        numbers=("TV", "95 %", "PSI", "margin", "variance x"),
    )
    if len(shown) < len(found):
        stdout.print(
            f"[dim]{len(found) - len(shown)} streams of quality, association and parts show no difference: --all[/]",
            highlight=False,
        )
    for each in shown:
        for what, names in (("new", each.new_categories), ("lost", each.lost_categories)):
            if names:
                listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
                stdout.print(f"{safe(each.label)}: {what} {safe(listed)}", highlight=False, soft_wrap=True)


def show_outcome_differences(found: Sequence[OutcomeDifference]) -> None:
    """Print what the outcomes of two baselines show; nothing where neither has any."""
    if not found:
        return
    rows = []
    for each in found:
        is_age = each.name in AGES
        change = "" if each.change is None or is_age else f"{each.change:+.3f}"
        limits = "" if each.low is None or each.high is None else f"{each.low:+.3f} – {each.high:+.3f}"
        rows.append((each.name, each.first, each.second, change, limits, each.verdict))
    print_table(["outcomes", "first (95 %)", "second (95 %)", "change", "95 %", ""], rows, numbers=("change",))


def _difference_row(item: StreamComparison) -> Sequence[object]:
    distance = item.distance
    if item.first is None or item.second is None:
        kind = "only in the second" if item.first is None else "only in the first"
    else:
        kind = f"{item.kind}: {item.note}" if item.note else item.kind
    return (
        item.label,
        "" if distance is None else f"{distance.total_variation:.3f}",
        "" if distance is None else f"{distance.low:.3f} – {distance.high:.3f}",
        "" if distance is None else f"{distance.psi:.3f}",
        _change(item, lambda s: f"{s.stream.margin_tv:.3f}"),
        _change(item, lambda s: f"{s.inflation:,.1f}"),
        kind,
    )


def _change(item: StreamComparison, text: Callable[[StreamSummary], str]) -> str:
    """A property in both, as ``before → after`` where it differs."""
    sides = [text(summarise(stream)) for stream in (item.first, item.second) if stream is not None]
    return " → ".join(dict.fromkeys(sides))
