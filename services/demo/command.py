"""``driftline demo``: the whole pipeline on real data, through the commands and calls a user has."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from driftline.codec import decode
from driftline.settings import KafkaSettings
from driftline.topics import baseline_key
from services.cli.output import JSON_OPTION, fail, print_json, stderr, stdout
from services.demo.days import Verdict, read_days
from services.demo.flights import DemonstrationFiles, data_folder, write_files
from services.demo.receivers import PAGERDUTY, SLACK_WEBHOOK, RecordingReceiver
from services.demo.story import BASELINE_PAGE, Step, Story, when
from services.errors import ServicesError
from services.kafka import latest_by_key, read_to_end
from services.positions import stream_positions
from streams.baseline import Baseline
from streams.deployment import COUNTERS
from streams.statistics.distances import baseline_of_used_bins, population_stability_index

VERSION = "2013-03"
WHAT_IF = "segments=[origin]"
"""What the back-test tries: each airport watched on its own as well, under the same budget."""

SETTLE_SECONDS = 120.0


class DemonstrationError(ServicesError):
    """A step of the demonstration failed; the message carries what it said."""


class Commands:
    """Runs ``driftline`` commands as a user would, and remembers them.

    Args:
        environment: Environment variables of every command.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = {**os.environ, **environment}
        self.steps: list[Step] = []

    def run(self, *words: str, may_fail: bool = False) -> Any:
        """Run one command with ``--json``; returns what it printed.

        Raises:
            DemonstrationError: It failed, and was not allowed to.
        """
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "services.cli.main", *words, "--json"],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self.steps.append(Step(" ".join(("driftline", *map(_short, words))), time.monotonic() - started))
        if done.returncode != 0 and not may_fail:
            raise DemonstrationError(
                f"'driftline {' '.join(words)}' failed: {done.stderr.strip() or done.stdout.strip()}"
            )
        return _documents(done.stdout)


def _short(word: str) -> str:
    return Path(word).name if os.sep in word else word


def _documents(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def demo(
    work_dir: Annotated[
        Path | None, typer.Option(help="Keep the broker's data and the files here; otherwise a folder that goes away.")
    ] = None,
    report: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("demo-report.html"),
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """See it all work on real data: a year of flights through Kafka, to alerts and a verified audit.

    Everything runs on this machine: an embedded Kafka, a worker, alerting and governance, and local stand-ins for Slack
    and PagerDuty that record what they get. Writes demo-report.html, demo-baseline.html and demo-report.json.

    Examples:
        driftline demo

        driftline demo --work-dir /tmp/driftline-demo --json
    """
    try:
        import sklearn  # noqa: F401 (only to say what is missing before anything starts)

        data_folder()
    except ImportError as error:
        fail(f"the demonstration needs the package {error.name!r}: pip install 'driftline-platform[demo]'")
    folder = Path(tempfile.mkdtemp(prefix="driftline-demo-")) if work_dir is None else work_dir
    try:
        story = run_demonstration(folder, report.with_name(BASELINE_PAGE))
        from services.demo.report import write_report

        write_report(story, report)
        report.with_suffix(".json").write_text(json.dumps(story.to_json(), indent=2), "utf-8")
    except ServicesError as error:
        fail(str(error))
    finally:
        if work_dir is None:
            shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        print_json(story.to_json())
    else:
        from services.demo.terminal import tell

        tell(story, report, stdout)
    raise typer.Exit(1 if story.problems() else 0)


@contextmanager
def _saying(what: str) -> Iterator[None]:
    """A line that says what is being done, with the time it takes."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        progress.add_task(what, total=None)
        started = time.monotonic()
        yield
    stderr.print(f"[green]✓[/] {what} [dim]{time.monotonic() - started:.1f} s[/]")


def run_demonstration(folder: Path, baseline_page: Path) -> Story:
    """Run it in a folder, and collect what happened; the page about the baseline goes where it is told.

    Raises:
        ServicesError: A step failed.
    """
    from services.supervisor import Supervisor

    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with _saying("prepare the flights, train the model on January and February"):
        files = write_files(folder)
    with RecordingReceiver() as receiver:
        environment = {
            "DRIFTLINE_SLACK_WEBHOOK_URL": receiver.slack_webhook_url,
            "DRIFTLINE_PAGERDUTY_URL": receiver.pagerduty_url,
            "DRIFTLINE_PAGERDUTY_ROUTING_KEY": secrets.token_hex(16),
            "DRIFTLINE_GOVERNANCE_DATABASE_URL": f"sqlite:///{folder / 'governance.db'}",
            "DRIFTLINE_ALERTING_DATABASE_URL": f"sqlite:///{folder / 'alerting.db'}",
            "DRIFTLINE_AUDIT_KEY_FILE": str(folder / "audit-key"),
            "DRIFTLINE_ACTOR": "demonstration",
        }
        supervisor = Supervisor(folder / "run", environment=environment, broker=True)
        with _saying("start Kafka, one worker, alerting and governance (driftline up)"):
            supervisor.start()
            supervisor.wait_ready()
        try:
            environment["DRIFTLINE_BOOTSTRAP_SERVERS"] = supervisor.bootstrap_servers
            commands = Commands(environment)
            settings = KafkaSettings.from_environment({**os.environ, **environment})
            counts = _publish(commands, settings, files, baseline_page)
            return _collect(commands, settings, receiver, files, counts, started)
        finally:
            with _saying("stop everything"):
                supervisor.stop()


def _publish(
    commands: Commands, settings: KafkaSettings, files: DemonstrationFiles, baseline_page: Path
) -> dict[str, int]:
    with _saying("driftline deployment apply flights.yaml"):
        commands.run("deployment", "apply", str(files.specification), "--reason", "watch the late-arrival model")
    with _saying(f"driftline baseline build: March, {files.reference_rows:,} rows"):
        commands.run(
            "baseline", "build", "flights", str(files.reference),
            "--version", VERSION, "--report", str(baseline_page),
        )  # fmt: skip
    with _saying(f"driftline publish predictions: April to December, {files.prediction_rows:,} rows"):
        sent = commands.run("publish", "predictions", "flights", str(files.predictions), "--version", VERSION)
    with _saying(f"driftline publish outcomes: {files.outcome_rows:,} rows"):
        labelled = commands.run("publish", "outcomes", "flights", str(files.outcomes))
    with _saying("wait until the worker has applied everything"):
        _settle(settings)
    return {"published": sent["published"], "outcomes": labelled["published"]}


def _settle(settings: KafkaSettings) -> None:
    """Wait until the streams have applied every message that is there.

    Raises:
        DemonstrationError: They have not after a while.
    """
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        if _behind(settings) == 0:
            return
        time.sleep(0.3)
    raise DemonstrationError(f"the worker was still {_behind(settings)} messages behind after {SETTLE_SECONDS:.0f} s")


def _behind(settings: KafkaSettings) -> int:
    return sum(position.lag for position in stream_positions(settings))


def _collect(
    commands: Commands,
    settings: KafkaSettings,
    receiver: RecordingReceiver,
    files: DemonstrationFiles,
    counts: Mapping[str, int],
    started: float,
) -> Story:
    folder = files.predictions.parent
    months, psi, daily = _effects(settings)
    with _saying("driftline budget flights"):
        budget = commands.run("budget", "flights")
    with _saying("driftline backtest flights: what if each airport had been watched on its own?"):
        what_if = commands.run("backtest", "flights", "--set", WHAT_IF, "--baseline", str(files.reference))
    watched = [stream.label for stream in _baseline(settings).streams]
    with _saying("driftline baseline build: December is the new normal, open alarms are closed"):
        commands.run(
            "baseline", "build", "flights", str(files.predictions),
            "--version", VERSION, "--from", "2013-12-01",
        )  # fmt: skip
        _wait_for_resolution(settings)
    alerts = _alerts(settings)
    with _saying("wait for the notifications"):
        receiver.wait_for(len(alerts), PAGERDUTY, timeout_seconds=60)
        receiver.wait_for(len(alerts), SLACK_WEBHOOK, timeout_seconds=60)
    with _saying("driftline audit verify; then a copy with one flipped byte"):
        verification = _verify(commands)
        export = folder / "audit.jsonl"
        commands.run("audit", "export", str(export))
        altered = folder / "audit-altered.jsonl"
        flip_one_byte(export, altered)
        tampered = commands.run("audit", "verify", "--file", str(altered), may_fail=True)
    deployment = _deployment_counters(settings)
    return Story(
        steps=commands.steps,
        published=counts["published"],
        applied=deployment["rows"],
        outcomes_published=counts["outcomes"],
        outcomes_applied=deployment["outcome_rows"],
        dead_letters=sum(position.facts.get("dead_letters", 0) for position in stream_positions(settings)),
        months=months,
        psi=psi,
        daily_psi=daily,
        alerts=alerts,
        verdicts=_verdicts(alerts, files),
        watched=watched,
        budget=budget,
        what_if=what_if,
        slack=[received.body for received in receiver.accepted(SLACK_WEBHOOK)],
        pagerduty=[received.body for received in receiver.accepted(PAGERDUTY)],
        verification=verification,
        tampered=tampered,
        seconds=time.monotonic() - started,
    )


def _effects(settings: KafkaSettings) -> tuple[list[str], dict[str, list[float]], dict[str, list[tuple[str, float]]]]:
    """PSI of every stream by month, from sums of the windows' counts, and by day."""
    latest: dict[str, Mapping[str, Any]] = {}
    for message in read_to_end(settings, settings.topics.windows):
        name, record = decode(message.value())
        if name == "WindowSummary":
            latest[record["id"]] = record
    reference = {stream.name: stream.counts for stream in _baseline(settings).streams if not stream.segment}
    sums: dict[str, dict[str, Any]] = {}
    daily: dict[str, list[tuple[str, float]]] = {}
    for window in sorted(latest.values(), key=lambda record: record["window_start_us"]):
        day = when(window["window_start_us"])[:10]
        for stream in window["streams"]:
            if stream["segment"]:
                continue
            counts = np.array(stream["counts"])
            month = sums.setdefault(stream["name"], {})
            month[day[:7]] = month.get(day[:7], 0) + counts
            if stream["effects"] is not None:
                daily.setdefault(stream["name"], []).append((day, stream["effects"]["psi"]))
    # the year's last hours belong to January in UTC; a month of a few rows would only confuse
    months = sorted({month for by_month in sums.values() for month, counts in by_month.items() if counts.sum() > 1000})
    psi = {name: [_psi(sums[name][month], reference[name]) for month in months] for name in sums}
    return months, psi, daily


def _psi(counts: Any, reference: Any) -> float:
    return float(population_stability_index(counts, baseline_of_used_bins(counts, reference)))


def _baseline(settings: KafkaSettings) -> Baseline:
    message = latest_by_key(settings, settings.topics.baselines)[baseline_key("flights", VERSION)]
    return Baseline.from_record(decode(message.value())[1])


def _alerts(settings: KafkaSettings) -> list[Mapping[str, Any]]:
    by_id = {}
    for message in read_to_end(settings, settings.topics.alerts):
        record = decode(message.value())[1]
        by_id[record["id"]] = record
    return sorted(by_id.values(), key=lambda alert: (alert["detection_time_us"], alert["status"] != "firing"))


def _verdicts(alerts: Sequence[Mapping[str, Any]], files: DemonstrationFiles) -> dict[str, Verdict | None]:
    """What daily figures say of each alarm, by its id."""
    figures = read_days(files.reference, files.predictions)
    return {alert["id"]: figures.verdict_on(alert) for alert in alerts if alert["status"] == "firing"}


def _wait_for_resolution(settings: KafkaSettings) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        alerts = _alerts(settings)
        firing = {alert["incident_key"] for alert in alerts if alert["status"] == "firing"}
        if firing <= {alert["incident_key"] for alert in alerts if alert["status"] == "resolved"}:
            return
        time.sleep(0.3)


def _verify(commands: Commands) -> Any:
    """Verify until every record is under a checkpoint: the ledger seals about once a second."""
    result = commands.run("audit", "verify", may_fail=True)
    for _ in range(10):
        if not result["ok"] or result["sealed"] == result["records"]:
            break
        commands.steps.pop()
        time.sleep(1)
        result = commands.run("audit", "verify", may_fail=True)
    return result


def flip_one_byte(original: Path, altered: Path) -> None:
    """Copy an export with one bit of one byte changed, in the middle record's exact bytes."""
    lines = original.read_text("utf-8").splitlines(keepends=True)
    records = [i for i, line in enumerate(lines) if "value" in json.loads(line)]
    chosen = records[len(records) // 2]
    document = json.loads(lines[chosen])
    value = bytearray(base64.b64decode(document["value"]))
    value[len(value) // 2] ^= 1
    document["value"] = base64.b64encode(bytes(value)).decode()
    lines[chosen] = json.dumps(document) + "\n"
    altered.write_text("".join(lines), "utf-8")


def _deployment_counters(settings: KafkaSettings) -> dict[str, int]:
    totals: dict[str, int] = {}
    for key, message in latest_by_key(settings, settings.topics.streams_state).items():
        if key.startswith(b"deployment/"):
            fields = decode(message.value())[1]["fields"]
            for name in COUNTERS:
                totals[name] = totals.get(name, 0) + fields[name]
    return totals
