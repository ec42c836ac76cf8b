"""``driftline windows``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.output import JSON_OPTION, print_json, print_table, safe, stdout
from services.cli.publish import DeploymentArgument, FromOption, ToOption, selection_of

if TYPE_CHECKING:
    from driftline.codec import Record
    from services.windows import Period, PeriodSummary

_SHOWN = 12
_EFFECTS = ("psi", "jensen_shannon", "total_variation")

windows_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


@windows_app.callback()
def windows() -> None:
    """Show how far each window of event time is from the baseline."""


@windows_app.command(
    epilog=(
        "Examples:\n\n  driftline windows show delays\n\n  driftline windows show delays --by month --stream temp\n\n"
        "  driftline windows show delays --from 2024-04-01 --to 2024-04-02 --json\n\n"
        "PSI (nats), Jensen-Shannon distance and total variation (0 to 1) describe; they never raise an alarm. "
        "A window is open while rows may still come."
    )
)
def show(
    deployment_id: DeploymentArgument,
    version: Annotated[str | None, typer.Option(metavar="V", help="This model version only.")] = None,
    stream: Annotated[
        list[str] | None, typer.Option(help="A feature, prediction, prediction_label or probability:CLASS; repeatable.")
    ] = None,
    by: Annotated[str, typer.Option(metavar="window|day|week|month", help="Add windows up, UTC.")] = "window",
    from_time: FromOption = None,
    to_time: ToOption = None,
    last: Annotated[
        int | None, typer.Option(min=1, help="The last so many periods only; default 12, all for JSON.")
    ] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Show effect sizes per window and stream, the latest revision of each window."""
    from services.cli.context import kafka_settings
    from services.deployments.store import get_deployment
    from services.windows import baselines_by_digest, document, latest_windows, summarise

    period = _period(by)
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
    _table(periods, period)
    stdout.print(f"[dim]the last {len(periods)}; more: --last N, --by day, --from TIME[/]", highlight=False)


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
    from services.event_time import rfc3339

    several = len({p.model_version for p in periods}) > 1
    heads = ["from", *(["version"] if several else []), "rows", "state", "stream", "PSI", "JS", "TV"]
    rows = []
    for p in periods:
        start = rfc3339(p.start_us)
        label = start if period == "window" else start[:7] if period == "month" else start[:10]
        lead = [label, *([p.model_version] if several else []), f"{p.rows:,}", "" if p.status == "final" else "open"]
        for s in p.streams:
            effects = [
                f"{s.effects[k]:.3f}" if s.effects else "–" for k in ("psi", "jensen_shannon", "total_variation")
            ]
            rows.append([*lead, s.name, *effects])
            lead = [""] * len(lead)
    first = periods[0]
    stdout.print(f"[bold]{safe(first.deployment_id)}[/] against its baseline, event time UTC", highlight=False)
    print_table(heads, rows, numbers=("rows", "PSI", "JS", "TV"))
