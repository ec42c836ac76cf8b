"""``driftline windows show --metric``: accuracy and what else outcomes tell, by window."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from services.cli.output import fail, print_json, safe, stdout

if TYPE_CHECKING:
    from services.performance.report import WindowReading
    from services.performance.windows import WindowRecords
    from services.publish.reading import Selection
    from services.windows import Period
    from streams.specification import DeploymentSpec

_SHOWN = 12
_ROLES = ("champion", "challenger")


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for.

    Attributes:
        deployment_id: The deployment.
        metrics: Names; numbers, measures of groups, or one of the tables.
        segments: Segmentations all of whose parts are shown, and single parts, ``SEGMENTATION=VALUE``.
        version: This version only.
        role: This role only.
        period: What to add up to.
        selection: Event times.
        last: So many periods; None for the usual number.
        estimate: Whether estimates without labels are shown.
        plot: Whether metrics are drawn over time.
        reference: The part that groups are compared with; None for the best.
        as_json: Print JSON.
    """

    deployment_id: str
    metrics: Sequence[str]
    segments: Sequence[str]
    version: str | None
    role: str | None
    period: Period
    selection: Selection
    last: int | None
    estimate: bool
    plot: bool
    reference: str | None
    as_json: bool


def complete_metric(incomplete: str) -> list[str]:
    """Names of metrics for the shell."""
    from services.performance.names import every_name

    return [name for name in every_name() if name.startswith(incomplete)]


def complete_role(incomplete: str) -> list[str]:
    """Roles for the shell."""
    return [role for role in _ROLES if role.startswith(incomplete)]


def show_performance(request: Request) -> None:
    """Print metrics of accuracy windows."""
    from services.cli.context import kafka_settings
    from services.cli.fairness_tables import show_measures
    from services.cli.performance_json import window_document
    from services.cli.performance_notes import notes
    from services.cli.performance_tables import show_metrics, show_tables
    from services.deployments.store import get_deployment
    from services.performance.belief import concept_alarms
    from services.performance.names import TABLES, full_name, names_for, of_groups
    from services.performance.report import read_window
    from services.performance.windows import ALL, grouped_windows, merge_group, parts_of
    from services.windows import baselines_by_digest

    if request.role is not None:
        _check(request.role, _ROLES, "--role", "role")
    settings = kafka_settings()
    spec = get_deployment(settings, request.deployment_id).spec
    request = dataclasses.replace(request, metrics=list(dict.fromkeys(map(full_name, request.metrics))))
    for name in request.metrics:
        _check(name, names_for(spec.task), "--metric", "metric")
    if spec.outcomes is None:
        fail(
            f"{spec.deployment_id!r} expects no outcomes, so nothing is known of its accuracy: add outcomes to its "
            "specification, outcomes: {horizon: 30d} for those that are known within 30 days, apply it again "
            "(driftline deployment apply FILE), and publish them: driftline publish outcomes DEPLOYMENT FILE"
        )
    found = grouped_windows(
        settings,
        spec,
        by=request.period,
        version=request.version,
        role=request.role,
        from_us=request.selection.from_us,
        to_us=request.selection.to_us,
    )
    if not found:
        if request.as_json:
            print_json([])
        else:
            stdout.print(_nothing_yet(request, spec), highlight=False, soft_wrap=True, markup=False)
        return
    parts = _parts(request, found)
    segments = _compared(request, spec, found)
    measures = [name for name in request.metrics if name in of_groups(spec.task)]
    tables = [name for name in request.metrics if name in TABLES.get(spec.task, ())]
    numbers = [name for name in request.metrics if name not in (*measures, *tables)]
    most = request.last or (len(found) if request.as_json else _SHOWN if numbers or measures else 1)
    found = [group for group in found if not parts or group.parts & set(parts)]
    starts = sorted({group.start_us for group in found})[-most:]
    wanted = {*parts, *(part for segment in segments for part in parts_of(found, segment))}
    shown = [merge_group(group, spec, wanted) for group in found if group.start_us in set(starts)]
    baselines = baselines_by_digest(settings, spec.deployment_id)
    alarms = concept_alarms(settings, spec.deployment_id) if request.estimate else []
    readings = [read_window(window, parts or [ALL], baselines, alarms) for window in shown]
    if request.as_json:
        print_json([window_document(reading, request, segments, baselines) for reading in readings])
        return
    if numbers:
        show_metrics(readings, numbers, request)
    if measures:
        show_measures(readings, measures, request, segments)
    show_tables(readings, tables, request, segments, baselines)
    for line in notes(readings, numbers, request):
        stdout.print(f"[dim]{safe(line)}[/]", highlight=False, soft_wrap=True)
    _say_what_is_left(readings, len({group.start_us for group in found}), len(starts))


def _say_what_is_left(readings: Sequence[WindowReading], periods: int, shown: int) -> None:
    if shown < periods:
        stdout.print(
            f"[dim]the last {shown} of {periods:,}; more: --last N, --by month, --from TIME[/]", highlight=False
        )


def _parts(request: Request, windows: Sequence[WindowRecords]) -> list[str]:
    """The parts whose metrics are shown: of whole segmentations, and single ones."""
    from services.performance.windows import parts_of, segments_of

    known = segments_of(windows)
    shown: list[str] = []
    for name in request.segments:
        segmentation, single, _ = name.partition("=")
        if not known:
            raise typer.BadParameter(
                f"there is no {name[:80]!r}: the windows have no parts of the traffic; declare segments in the "
                "specification",
                param_hint="--segment",
            )
        _check(segmentation, known, "--segment", "segmentation")
        every = parts_of(windows, segmentation)
        if single:
            _check(name, every, "--segment", "part of the traffic")
        shown += [name] if single else every
    return list(dict.fromkeys(shown))


def _compared(request: Request, spec: DeploymentSpec, windows: Sequence[WindowRecords]) -> list[str]:
    """The segmentations whose parts are compared as groups; none unless it was asked for."""
    from services.performance.names import FAIRNESS, of_groups
    from services.performance.windows import parts_of, segments_of

    known = segments_of(windows)
    if request.reference is not None:
        _check(
            request.reference,
            [part for segment in known for part in parts_of(windows, segment)],
            "--reference",
            "part of the traffic",
        )
    if not {FAIRNESS, *of_groups(spec.task)} & set(request.metrics):
        return []
    declared = spec.outcomes.fairness if spec.outcomes else ()
    asked = list(dict.fromkeys(name.partition("=")[0] for name in request.segments))
    if not asked and request.reference is not None:
        asked = [request.reference.partition("=")[0]]
    segments = asked or [segment for segment in declared if segment in known]
    if not segments:
        named = f"one of {_listed(known)}" if known else "after segments are declared in the specification"
        raise typer.BadParameter(f"fairness compares groups: say which, --segment NAME, {named}", param_hint="--metric")
    return segments


def _check(name: str, known: Collection[str], hint: str, what: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, 3, 0.5)
        offer = f"did you mean {' or '.join(map(_plain, close))}? there" if close else "there"
        raise typer.BadParameter(f"no {what} {name[:80]!r}; {offer} are {_listed(known)}", param_hint=hint)


def _listed(names: Collection[str]) -> str:
    most = 40
    listed = ", ".join(map(_plain, list(names)[:most]))
    return listed + (f" and {len(names) - most} more" if len(names) > most else "")


def _plain(name: str) -> str:
    """A name from data in an error message, which is printed as it is."""
    return name if name.isprintable() else repr(name)


def _nothing_yet(request: Request, spec: DeploymentSpec) -> str:
    limits = [
        *(["--version"] if request.version else []),
        *(["--role"] if request.role else []),
        *(["--from and --to"] if request.selection.from_us or request.selection.to_us else []),
    ]
    if limits:
        return f"no accuracy windows with these {', '.join(limits)}"
    return (
        f"no accuracy windows of {spec.deployment_id!r} yet: they come with predictions that a worker has read and "
        "with their outcomes: driftline publish outcomes DEPLOYMENT FILE; driftline status says whether a worker runs"
    )
