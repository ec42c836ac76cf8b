"""``driftline windows``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.output import JSON_OPTION, print_json, print_table, safe, stdout
from services.cli.performance import Request, complete_metric, complete_role, show_performance
from services.cli.publish import DeploymentArgument, FromOption, ToOption, selection_of

if TYPE_CHECKING:
    from driftline.codec import Record
    from services.windows import Period, PeriodSummary, StreamCounts

_SHOWN = 12
_LINES = 150
"""Of many streams fewer windows are shown unless more are asked for."""

_USUAL = {"psi": "PSI", "total_variation": "TV", "kolmogorov_smirnov": "KS", "wasserstein": "W1"}
_TITLES = {
    "psi": "PSI",
    "total_variation": "TV",
    "jensen_shannon": "Jensen-Shannon",
    "hellinger": "Hellinger",
    "kl": "KL",
    "chi_square": "chi-square",
    "kolmogorov_smirnov": "KS",
    "wasserstein": "Wasserstein",
}
_SIGNS = {"kolmogorov_smirnov": "+", "wasserstein": "±"}
"""How the distance of the values may differ from that of the bins."""

_DASH = "–"

windows_app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False
)


@windows_app.callback()
def windows() -> None:
    """Show how far each window of event time is from the baseline, and how well its predictions turned out."""


@windows_app.command(
    epilog=(
        "Examples:\n\n  driftline windows show delays\n\n  driftline windows show delays --by month --stream temp\n\n"
        "  driftline windows show delays --by day --parts\n\n"
        "  driftline windows show delays --stream temp --last 1 --effects all\n\n"
        "  driftline windows show delays --from 2024-04-01 --to 2024-04-02 --json\n\n"
        "  driftline windows show delays --metric accuracy --by month --plot\n\n"
        "  driftline windows show delays --metric accuracy --metric brier --segment carrier=UA --role challenger\n\n"
        "  driftline windows show delays --metric accuracy --segment carrier --by month --last 1\n\n"
        "  driftline windows show delays --metric calibration --metric confusion --by month\n\n"
        "  driftline windows show delays --metric fairness --segment carrier --by month --reference carrier=UA\n\n"
        "  driftline windows show delays --metric equal_opportunity --segment carrier --by month\n\n"
        "PSI (nats), total variation TV and Kolmogorov-Smirnov KS (0 to 1) and Wasserstein W1 (in the feature's own "
        "unit) describe; they never raise an alarm. After PSI stands its 95 % interval, without the bias few rows give "
        "the value itself. Bins hide where within them the values lie: --effects all says by how much the distance of "
        "the values themselves may differ. A window is open while rows may still come.\n\n"
        "With --metric: what outcomes tell of the predictions of each window, with 95 % intervals, beside the share of "
        "predictions whose outcome is known and beside the reference at the same ages of outcomes, since early "
        "outcomes are no fair sample, and beside what the scores alone promised, which is not to be believed once the "
        "relation between inputs and outcome has changed. Metrics have scikit-learn's names, measures of groups those "
        "of fairlearn; an unknown one lists those there are."
    )
)
def show(
    deployment_id: DeploymentArgument,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete_metric,
            help="Instead of effect sizes: accuracy, roc_auc, mae …, coverage, calibration, confusion, fairness, or "
            "one of its measures; repeatable.",
        ),
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", "--model-version", metavar="V", help="This model version only.")
    ] = None,
    role: Annotated[
        str | None,
        typer.Option(
            metavar="champion|challenger", autocompletion=complete_role, help="Of a metric: versions of this role only."
        ),
    ] = None,
    segment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=VALUE]", help="Of a metric: every part of this segmentation, or this one; repeatable."
        ),
    ] = None,
    estimate: Annotated[
        bool | None,
        typer.Option(
            "--estimate/--no-estimate", help="Of a metric: what scores alone promise, before outcomes come; shown."
        ),
    ] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Of a metric: also draw it over time.")] = False,
    reference: Annotated[
        str | None,
        typer.Option(metavar="NAME=VALUE", help="Of fairness: the part to compare with; default: the best treated."),
    ] = None,
    stream: Annotated[
        list[str] | None, typer.Option(help="A feature, prediction, prediction_label or probability:CLASS; repeatable.")
    ] = None,
    by: Annotated[str, typer.Option(metavar="window|day|week|month", help="Add windows up, UTC.")] = "window",
    from_time: FromOption = None,
    to_time: ToOption = None,
    last: Annotated[
        int | None,
        typer.Option(min=1, help="The last so many periods only; default 12, fewer of many streams, all for JSON."),
    ] = None,
    parts: Annotated[
        bool, typer.Option("--parts", help="Also parts of the traffic (segments); of a --stream they are always shown.")
    ] = False,
    effects: Annotated[
        str, typer.Option(metavar="usual|all", help="all: every distance with its interval, a line each.")
    ] = "usual",
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Show effect sizes per window and stream, or with --metric accuracy; the latest revision of each window."""
    period = _period(by)
    if metric:
        _refuse("with --metric", {"--stream": stream, "--parts": parts, "--effects": effects != "usual"})
        show_performance(
            Request(
                deployment_id=deployment_id,
                metrics=list(dict.fromkeys(metric)),
                segments=list(dict.fromkeys(segment or ())),
                version=version,
                role=role,
                period=period,
                selection=selection_of(from_time, to_time, None),
                last=last,
                estimate=estimate is not False,
                plot=plot,
                reference=reference,
                as_json=as_json,
            )
        )
        return
    _refuse(
        "without --metric",
        {
            "--role": role,
            "--segment": segment,
            "--estimate": estimate is not None,
            "--plot": plot,
            "--reference": reference,
        },
    )
    from services.cli.context import kafka_settings
    from services.deployments.store import get_deployment
    from services.windows import baselines_by_digest, document, latest_windows, summarise

    if effects not in ("usual", "all"):
        raise typer.BadParameter(f"expected usual or all, came {effects[:40]!r}", param_hint="--effects")
    selection = selection_of(from_time, to_time, None)
    settings = kafka_settings()
    get_deployment(settings, deployment_id)
    records = latest_windows(settings, deployment_id, version=version, from_us=selection.from_us, to_us=selection.to_us)
    if not records and not as_json:
        stdout.print("no windows yet: nothing was published, or the worker has not come to it", highlight=False)
        return
    streams = _streams(records, stream)
    most = last or (None if as_json else _SHOWN)
    periods = summarise(records, baselines_by_digest(settings, deployment_id), period, streams=streams, last=most)
    if as_json:
        print_json([document(p) for p in periods])
        return
    hidden = 0
    if not parts and not stream:
        hidden = len({s.label for p in periods for s in p.streams if s.segment})
        periods = [dataclasses.replace(p, streams=tuple(s for s in p.streams if not s.segment)) for p in periods]
    if last is None:
        lines = max(len(p.streams) for p in periods) * (1 if effects == "usual" else len(_TITLES))
        periods = periods[-max(1, _LINES // max(lines, 1)) :]
    (_table if effects == "usual" else _long_table)(periods, period)
    more = f"; {hidden:,} streams of parts of the traffic: --parts" if hidden else ""
    stdout.print(f"[dim]the last {len(periods)}; more: --last N, --by day, --from TIME{more}[/]", highlight=False)


def _refuse(when: str, options: Mapping[str, object]) -> None:
    for name, value in options.items():
        if value:
            raise typer.BadParameter(f"has no meaning {when}: leave it out, or see --help", param_hint=name)


def _period(by: str) -> Period:
    from services.windows import PERIODS

    for period in PERIODS:
        if period == by:
            return period
    raise typer.BadParameter(f"expected {', '.join(PERIODS)}, came {by[:40]!r}", param_hint="--by")


def _streams(records: Sequence[Record], asked: Sequence[str] | None) -> set[str] | None:
    if not asked or not records:
        return None
    import difflib

    known = {stream["name"] for record in records for stream in record["streams"]}
    for name in asked:
        if name not in known:
            close = difflib.get_close_matches(name, known, 3) or sorted(known)[:8]
            raise typer.BadParameter(f"no stream {name[:80]!r}; there are {', '.join(close)}", param_hint="--stream")
    return set(asked)


def _table(periods: Sequence[PeriodSummary], period: Period) -> None:
    """One line per stream."""
    several, watched = _several(periods), any(s.importance is not None for p in periods for s in p.streams)
    psi, *others = _USUAL.values()
    numbers = [psi, "95 %", *others, *(["importance"] if watched else [])]
    rows = []
    for p in periods:
        lead = _lead(p, period, several=several)
        for s in p.streams:
            importance = [number_text(s.importance)] if watched else []
            sizes = [_size(s, name) for name in _USUAL]
            rows.append([*lead, s.label, sizes[0], _interval(s, "psi"), *sizes[1:], *importance])
            lead = [""] * len(lead)
    _print(periods, [*_heads(several=several), *numbers], rows, ("from", "rows", *numbers))


def _long_table(periods: Sequence[PeriodSummary], period: Period) -> None:
    """One line per stream and distance."""
    several = _several(periods)
    rows = []
    for p in periods:
        lead = _lead(p, period, several=several)
        for s in p.streams:
            label = s.label
            for name, title in _TITLES.items():
                if s.effects is not None and s.effects.get(name) is None:
                    continue  # a distance that needs an order, of categories
                hidden = f"{_SIGNS[name]} {_size(s, name + '_error')}" if name in _SIGNS else ""
                rows.append([*lead, label, title, _size(s, name), _interval(s, name), hidden])
                lead, label = [""] * len(lead), ""
    numbers = ("value", "95 %", "hidden by bins")
    _print(periods, [*_heads(several=several), "distance", *numbers], rows, ("from", "rows", *numbers))


def _print(
    periods: Sequence[PeriodSummary], heads: Sequence[str], rows: list[list[str]], numbers: Sequence[str]
) -> None:
    stdout.print(f"[bold]{safe(periods[0].deployment_id)}[/] against its baseline, event time UTC", highlight=False)
    print_table(heads, rows, numbers=numbers)


def _several(periods: Sequence[PeriodSummary]) -> bool:
    return len({p.model_version for p in periods}) > 1


def _heads(*, several: bool) -> list[str]:
    return ["from", *(["version"] if several else []), "rows", "stream"]


def _lead(p: PeriodSummary, period: Period, *, several: bool) -> list[str]:
    version = [p.model_version] if several else []
    return [period_label(p.start_us, period), *version, f"{p.rows:,}" if p.status == "final" else f"open {p.rows:,}"]


def period_label(start_us: int, period: Period) -> str:
    """Where a period begins, no longer than it takes."""
    from services.event_time import rfc3339

    start = rfc3339(start_us)
    minute = start.removesuffix(":00Z").replace("T", " ") if start.endswith(":00Z") else start
    return minute if period == "window" else start[:7] if period == "month" else start[:10]


def _size(stream: StreamCounts, name: str) -> str:
    return number_text(None if stream.effects is None else stream.effects.get(name))


def _interval(stream: StreamCounts, name: str) -> str:
    ends = None if stream.effects is None else stream.effects["intervals"].get(name)
    return _DASH if ends is None else f"{number_text(ends[0])}{_DASH}{number_text(ends[1])}"


def number_text(size: float | None) -> str:
    """Three decimals, or three digits of what is larger than one: a Wasserstein distance has the feature's unit."""
    if size is None:
        return _DASH
    return f"{round(size, 3) + 0.0:.3f}" if abs(size) < 10 else f"{size:,.0f}" if abs(size) >= 1000 else f"{size:.3g}"


def interval_text(low: float | None, high: float | None) -> str:
    """Two limits, with a word between them where a dash would read as a sign."""
    if low is None or high is None:
        return _DASH
    ends = [number_text(end) if math.isfinite(end) else "∞" if end > 0 else "-∞" for end in (low, high)]
    return (" to " if low < 0 else _DASH).join(ends)
