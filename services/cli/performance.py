"""``driftline windows show --metric``: accuracy and what else outcomes tell, by window."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from services.cli.output import fail, print_json, stdout

if TYPE_CHECKING:
    from services.performance.report import WindowReading
    from services.performance.windows import Window
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
        metrics: Names; numbers, or one of the tables.
        segments: Segmentations all of whose parts are shown.
        parts: Single parts, ``SEGMENTATION=VALUE``.
        version: This version only.
        role: This role only.
        period: What to add up to.
        selection: Event times.
        last: So many periods; None for the usual number.
        estimate: Whether estimates without labels are shown.
        reference: The part that groups are compared with; None for the best.
        as_json: Print JSON.
    """

    deployment_id: str
    metrics: Sequence[str]
    segments: Sequence[str]
    parts: Sequence[str]
    version: str | None
    role: str | None
    period: Period
    selection: Selection
    last: int | None
    estimate: bool
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
    from services.cli.performance_json import window_document
    from services.cli.performance_tables import show_metrics, show_tables
    from services.deployments.store import get_deployment
    from services.performance.belief import concept_alarms
    from services.performance.names import TABLES, names_for
    from services.performance.report import read_window
    from services.performance.windows import ALL, performance_windows
    from services.windows import baselines_by_digest

    if request.role is not None:
        _check(request.role, _ROLES, "--role", "role")
    settings = kafka_settings()
    spec = get_deployment(settings, request.deployment_id).spec
    for name in request.metrics:
        _check(name, names_for(spec.task), "--metric", "metric")
    if spec.outcomes is None:
        fail(
            f"{spec.deployment_id!r} expects no outcomes, so nothing is known of its accuracy: add outcomes to its "
            "specification, outcomes: {horizon: 30d} for those that are known within 30 days, apply it again "
            "(driftline deployment apply FILE), and publish them: driftline publish outcomes DEPLOYMENT FILE"
        )
    found = performance_windows(
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
    segments, parts = _parts(request, spec, found)
    numbers = [name for name in request.metrics if name not in TABLES.get(spec.task, ())]
    most = request.last or (len(found) if request.as_json else _SHOWN if numbers else 1)
    found = [window for window in found if not parts or set(parts) & set(window.parts)]
    starts = sorted({window.start_us for window in found})[-most:]
    shown = [window for window in found if window.start_us in set(starts)]
    baselines = baselines_by_digest(settings, spec.deployment_id)
    alarms = concept_alarms(settings, spec.deployment_id) if request.estimate else []
    readings = [read_window(window, parts or [ALL], baselines, alarms) for window in shown]
    if request.as_json:
        print_json([window_document(reading, request, segments, baselines) for reading in readings])
        return
    if numbers:
        show_metrics(readings, numbers, request)
    show_tables(readings, [name for name in request.metrics if name not in numbers], request, segments, baselines)
    _say_what_is_left(readings, len({window.start_us for window in found}), len(starts))


def _say_what_is_left(readings: Sequence[WindowReading], periods: int, shown: int) -> None:
    if shown < periods:
        stdout.print(
            f"[dim]the last {shown} of {periods:,}; more: --last N, --by month, --from TIME[/]", highlight=False
        )


def _parts(request: Request, spec: DeploymentSpec, windows: Sequence[Window]) -> tuple[list[str], list[str]]:
    """The segmentations to compare groups of, and the parts whose metrics are shown."""
    from services.performance.names import FAIRNESS
    from services.performance.windows import parts_of, segments_of

    known = segments_of(windows)
    for segment in request.segments:
        if not known:
            _no_parts("--segment", segment)
        _check(segment, known, "--segment", "segmentation")
    every = [part for segment in known for part in parts_of(windows, segment)]
    for part in [*request.parts, *([request.reference] if request.reference else [])]:
        hint = "--reference" if part == request.reference and part not in request.parts else "--part"
        if not every:
            _no_parts(hint, part)
        _check(part, every, hint, "part of the traffic")
    shown = [part for segment in request.segments for part in parts_of(windows, segment)]
    shown += [part for part in request.parts if part not in shown]
    if FAIRNESS not in request.metrics:
        return [], shown
    declared = spec.outcomes.fairness if spec.outcomes else ()
    segments = list(request.segments) or list(dict.fromkeys(part.split("=", 1)[0] for part in request.parts))
    segments = segments or [segment for segment in declared if segment in known]
    if not segments:
        named = f"one of {_listed(known)}" if known else "after segments are declared in the specification"
        raise typer.BadParameter(f"fairness compares groups: say which, --segment NAME, {named}", param_hint="--metric")
    return segments, shown


def _no_parts(hint: str, name: str) -> None:
    raise typer.BadParameter(
        f"there is no {name[:80]!r}: the windows have no parts of the traffic; declare segments in the specification",
        param_hint=hint,
    )


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
