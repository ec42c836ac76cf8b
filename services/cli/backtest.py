"""``driftline backtest``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.output import JSON_OPTION, note, print_json, print_table, safe, stderr, stdout
from services.cli.publish import DeploymentArgument, FromOption, ToOption, selection_of

if TYPE_CHECKING:
    from driftline.settings import KafkaSettings
    from services.backtest.alarms import Pair
    from services.backtest.replay import Progress
    from services.backtest.run import BackTest
    from streams.baseline import Baseline
    from streams.specification import DeploymentSpec

EXAMPLES = (
    "Examples:\n\n  driftline backtest delays --set margin=0.02\n\n"
    "  driftline backtest delays --set false_alarms.count=5 --set features.temp.importance=3\n\n"
    "  driftline backtest delays --from 2024-04-01 --to 2024-05-01 --spec changed.yaml --json\n\n"
    "  driftline backtest delays --baseline quiet-quarter.csv\n\n"
    "Fields are named as in the specification (driftline deployment show DEPLOYMENT); a value is read as YAML, nothing "
    "after = leaves the field out. The messages are applied in the order in which the workers applied them, with the "
    "specifications and baselines that were in force then, so far as --set, --spec and --baseline do not replace them. "
    "A message counts whole if one of its events is in the range. Nothing is written to any topic."
)

_SHORTEST_DIGEST = 6


def backtest(
    deployment_id: DeploymentArgument,
    from_time: FromOption = None,
    to_time: ToOption = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="A field of the specification, by its path; repeatable."),
    ] = None,
    spec_file: Annotated[
        Path | None, typer.Option("--spec", dir_okay=False, help="Another specification, in YAML or JSON.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|VERSION|DIGEST",
            help="Another baseline: built from a file, that of another version, or one by its digest.",
        ),
    ] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Say which alarms other settings would have raised, beside those that were.

    Without --from it begins at the deployment's first message; with unchanged settings the alarms are then exactly
    those that were raised.
    """
    from services.backtest.run import backtest as run
    from services.backtest.settings import WhatIf, parse_assignment
    from services.cli.context import kafka_settings
    from services.deployments.checking import load_specification
    from services.deployments.store import get_deployment, load_deployments

    selection = selection_of(from_time, to_time, None)
    wanted = [parse_assignment(text) for text in assignments or ()]
    specification = None if spec_file is None else load_specification(spec_file)
    settings = kafka_settings()
    spec = get_deployment(settings, deployment_id).spec
    fleet = {name: deployment.spec for name, deployment in load_deployments(settings).items()}
    what_if = WhatIf(wanted, specification, None, fleet)
    if baseline is not None:
        other = _other_baseline(settings, what_if.spec(spec), baseline)
        what_if = WhatIf(wanted, specification, other, fleet)
    with _progress(deployment_id, quiet=as_json) as progress:
        found = run(
            settings, deployment_id, what_if, from_us=selection.from_us, to_us=selection.to_us, progress=progress
        )
    if as_json:
        print_json(_document(found))
    else:
        _show(found)


def _other_baseline(settings: KafkaSettings, spec: DeploymentSpec, text: str) -> Baseline:
    """The baseline that a file, a version or the beginning of a digest names."""
    from services.deployments.baselines import load_baselines
    from services.windows import baselines_by_digest

    in_force = {item.baseline.model_version: item.baseline for item in load_baselines(settings, spec.deployment_id)}
    if text in in_force:
        return in_force[text]
    if Path(text).is_file():
        return _built(spec, Path(text), list(in_force)[-1] if in_force else "")
    if len(text) >= _SHORTEST_DIGEST:
        known = baselines_by_digest(settings, spec.deployment_id)
        matching = [each for digest, each in known.items() if digest.startswith(text.lower())]
        if len(matching) == 1:
            return matching[0]
    versions = ", ".join(in_force) or "none"
    raise typer.BadParameter(
        f"expected a file with reference predictions, a version with a baseline ({versions}) or at least "
        f"{_SHORTEST_DIGEST} characters of the digest of one that is still on its topic, came {text[:80]!r}",
        param_hint="--baseline",
    )


def _built(spec: DeploymentSpec, file: Path, version: str) -> Baseline:
    """A baseline from a file, under the settings to try."""
    from services.publish.files import open_file
    from services.publish.reading import Selection, read_reference, source_text
    from streams.reference import build_baseline

    selection = Selection(None, None, None)
    columns = read_reference(open_file(file, None), spec, version, selection=selection)
    source = source_text(file, selection, sum(batch.rows for batch in columns))
    return build_baseline(spec, version, columns, source=source)


@contextmanager
def _progress(what: str, *, quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal, nothing elsewhere."""
    import time

    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    if quiet or not stderr.is_terminal:
        yield lambda done, total, rows: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]:,} rows, {task.fields[rate]:,.0f} rows/s"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task(safe(what), total=None, rows=0, rate=0.0)

        def advance(done: int, total: int, rows: int) -> None:
            rate = rows / max(time.monotonic() - began, 1e-3)
            bar.update(task, completed=done, total=total, rows=rows, rate=rate)

        yield advance


def _show(found: BackTest) -> None:
    from services.event_time import rfc3339

    for change in found.changes:
        before, after = (safe("not given" if v is None else v) for v in (change.before, change.after))
        stdout.print(f"  {safe(change.field)}: {before} → [bold]{after}[/]", highlight=False)
    if found.pairs:
        times = ["change began", "noticed", "was noticed", "evidence", "resolved"]
        print_table(["", "monitor", "causes", *times], [_row(pair) for pair in found.pairs], numbers=times)
    several = len({threshold.model_version for threshold in found.thresholds}) > 1
    thresholds = ", ".join(
        f"{t.monitor} {t.nats:.1f} nats" + (f" ({t.model_version})" if several else "") for t in found.thresholds
    )
    promised = f"Promise: {found.promise}." + (f" Thresholds: {thresholds}." if thresholds else "")
    stdout.print(safe(promised), highlight=False)
    stdout.print(safe(summary(found)), highlight=False)
    rate = found.rows / max(found.seconds, 1e-3)
    stdout.print(
        f"[dim]{found.rows:,} rows, events {rfc3339(found.first_us)} to {rfc3339(found.last_us)}, in "
        f"{found.seconds:.1f} s ({rate:,.0f} rows/s); nothing was written[/]",
        highlight=False,
    )
    for each in found.notes:
        note(f"note: {each}")


def _row(pair: Pair) -> tuple[str, ...]:
    alarm = pair.shown
    alert = alarm.firing
    return (
        _verdict(pair),
        alert["monitor"],
        ", ".join(alarm.causes[:3]) + (" …" if len(alarm.causes) > 3 else ""),
        _when(alert["change_time_us"]),
        "–" if pair.would is None else _when(pair.would.noticed_us),
        "–" if pair.did is None else _when(pair.did.noticed_us),
        f"{alert['log_evidence_nats']:.1f} of {alert['threshold_nats']:.1f}" if alert["threshold_nats"] else "–",
        "open" if alarm.resolved_us is None else _when(alarm.resolved_us),
    )


def _verdict(pair: Pair) -> str:
    from services.alerting.message import format_span

    return pair.verdict if not pair.by_us else f"{format_span(abs(pair.by_us))} {pair.verdict}"


def _when(time_us: int) -> str:
    from services.event_time import rfc3339

    return rfc3339(time_us)[:16].replace("T", " ")


def summary(found: BackTest) -> str:
    """What came out, in a sentence."""
    would = sum(pair.would is not None for pair in found.pairs)
    did = sum(pair.did is not None for pair in found.pairs)
    number = {
        verdict: sum(pair.verdict == verdict for pair in found.pairs)
        for verdict in ("same", "earlier", "later", "new", "gone")
    }
    settings = "these settings" if found.changes or found.baseline_digest else "the settings in force"
    parts = [f"{n} {verdict}" for verdict, n in number.items() if n]
    raised = f"{would} alarm{'' if would == 1 else 's'}"
    return f"With {settings} {raised} would have been raised where {did} {'was' if did == 1 else 'were'}" + (
        f": {', '.join(parts)}." if parts else "."
    )


def _document(found: BackTest) -> dict[str, Any]:
    return {
        "deployment": found.deployment_id,
        "first_event_us": found.first_us,
        "last_event_us": found.last_us,
        "messages": found.messages,
        "rows": found.rows,
        "refused_messages": found.refused,
        "seconds": found.seconds,
        "changes": [{"field": c.field, "before": c.before, "after": c.after} for c in found.changes],
        "baseline_digest": found.baseline_digest,
        "false_alarms": found.promise,
        "thresholds": [
            {"version": t.model_version, "monitor": t.monitor, "threshold_nats": t.nats} for t in found.thresholds
        ],
        "alarms": [
            {
                "verdict": pair.verdict,
                "later_by_us": None if pair.would is None or pair.did is None else pair.by_us,
                "would_be": None if pair.would is None else pair.would.document(),
                "was": None if pair.did is None else pair.did.document(),
            }
            for pair in found.pairs
        ],
        "summary": summary(found),
        "notes": found.notes,
    }
