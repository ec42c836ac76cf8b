"""``driftline demo``: the whole pipeline on real data, through the commands and calls a user has."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from driftline.settings import KafkaSettings
from services.cli.output import JSON_OPTION, fail, print_json, stdout
from services.demo.collecting import (
    alert_records,
    backlog,
    daily_verdicts,
    delay_figures,
    deployment_counters,
    drift_figures,
    firing_and_resolved,
    verify,
    watched_streams,
)
from services.demo.commands import Commands, DemonstrationError, saying, wait_until
from services.demo.flights import (
    NEW_NORMAL,
    DemonstrationFiles,
    data_folder,
    load_flights,
    write_delay_files,
    write_files,
)
from services.demo.humility import humility_facts
from services.demo.on_call import OnCall, write_routing
from services.demo.receivers import RecordingReceiver
from services.demo.replay import Replay
from services.demo.serving import ServingApplication
from services.demo.specifications import DELAYS
from services.demo.specifications import LATE as DEPLOYMENT
from services.demo.story import BASELINE_PAGE, Flow, Step, Story
from services.demo.tampering import flip_one_byte
from services.errors import ServicesError
from services.event_time import parse_moment
from services.publish.publishing import FilePublisher
from services.publish.reading import Selection
from streams.specification import DeploymentSpec

VERSION = "2013-03"
DELAYS_VERSION = "2013-03-minutes"
DELAY_PARTS = 4
"""How often a day the adaptive intervals hear of flights that landed: as often as they are told anew."""

WHAT_IF = "outcomes.margin=0.05"
"""What the back-test tries: only larger changes of losses, calibration and outcomes are of interest."""

SETTLE_SECONDS = 120.0
_CATCH_UP_DAYS = 7
"""After so many days of history the worker is waited for, which also reads what comes as it comes."""

_MONTHLY = ("--metric", "accuracy", "--metric", "calibration", "--metric", "fairness", "--by", "month", "--estimate")
_DAILY = ("--metric", "accuracy", "--by", "day", "--estimate")


def demo(
    work_dir: Annotated[
        Path | None, typer.Option(help="Keep the broker's data and the files here; otherwise a folder that goes away.")
    ] = None,
    report: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("demo-report.html"),
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """See it all work on real data: a year of flights through Kafka, to alerts and a verified audit.

    Everything runs on this machine: an embedded Kafka, a worker, alerting and governance, and local stand-ins for Slack
    and PagerDuty that record what they get. Somebody acknowledges an incident on the way. Writes demo-report.html,
    demo-baseline.html and demo-report.json.

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

        tell(story, report, stdout, work_dir)
    raise typer.Exit(1 if story.problems() else 0)


def run_demonstration(folder: Path, baseline_page: Path) -> Story:
    """Run it in a folder, and collect what happened; the page about the baseline goes where it is told.

    Raises:
        ServicesError: A step failed.
    """
    from services.supervisor import Supervisor

    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with saying("prepare the flights, train two models on January and February"):
        flights = load_flights()
        files, delays = write_files(folder, flights), write_delay_files(folder, flights)
    with RecordingReceiver() as receiver:
        environment = {
            "DRIFTLINE_ALERTING_CONFIG": str(write_routing(folder)),
            "DRIFTLINE_ALERTING_CONNECTION_FILE": str(folder / "run" / "alerting.json"),
            "DRIFTLINE_SLACK_API_URL": receiver.slack_api_url,
            "DEMONSTRATION_SLACK_TOKEN": f"xoxb-{secrets.token_hex(16)}",
            "DRIFTLINE_PAGERDUTY_URL": receiver.pagerduty_url,
            "DRIFTLINE_PAGERDUTY_ROUTING_KEY": secrets.token_hex(16),
            "DRIFTLINE_GOVERNANCE_DATABASE_URL": f"sqlite:///{folder / 'governance.db'}",
            "DRIFTLINE_ALERTING_DATABASE_URL": f"sqlite:///{folder / 'alerting.db'}",
            "DRIFTLINE_AUDIT_KEY_FILE": str(folder / "audit-key"),
            "DRIFTLINE_ACTOR": "demonstration",
        }
        supervisor = Supervisor(folder / "run", environment=environment, broker=True)
        with saying("start Kafka, one worker, alerting and governance (driftline up)"):
            supervisor.start()
            supervisor.wait_ready()
        try:
            environment["DRIFTLINE_BOOTSTRAP_SERVERS"] = supervisor.bootstrap_servers
            settings = KafkaSettings.from_environment({**os.environ, **environment})
            commands = Commands(environment)
            on_call = OnCall(commands, receiver, supervisor.connection_file)
            demonstration = Demonstration(commands, settings, files, delays, on_call)
            demonstration.publish(baseline_page)
            return demonstration.collect(started)
        finally:
            with saying("stop everything"):
                supervisor.stop()


@dataclass(slots=True)
class Published:
    """Rows of one deployment that Kafka acknowledged."""

    predictions: int = 0
    outcomes: int = 0

    def add(self, predictions: int, outcomes: int) -> int:
        """Count more of them; how many these are."""
        self.predictions += predictions
        self.outcomes += outcomes
        return predictions + outcomes


class Demonstration:
    """The steps of a run, against a broker and services that are up.

    Args:
        commands: Runs commands.
        settings: How to reach Kafka.
        files: What is published of the classifier, which asks the humility rules before it answers.
        delays: What is published of the regression, whose intervals the streams keep.
        on_call: Somebody who is told of incidents.
    """

    def __init__(
        self,
        commands: Commands,
        settings: KafkaSettings,
        files: DemonstrationFiles,
        delays: DemonstrationFiles,
        on_call: OnCall,
    ) -> None:
        self._on_call = on_call
        self._commands, self._settings, self._files, self._delay_files = commands, settings, files, delays
        self._published = {DEPLOYMENT: Published(), DELAYS: Published()}
        self._decided: Counter[str] = Counter()
        self._references: dict[str, str] = {}
        self._shown: list[Mapping[str, Any]] = []

    def publish(self, baseline_page: Path) -> None:
        """Say what is watched and what is normal, and publish the year; May becomes what is normal on its way.

        Raises:
            ServicesError: A step failed.
        """
        from services.deployments.store import get_deployment

        run, files, delays = self._commands.run, self._files, self._delay_files
        with saying("driftline deployment apply flights.yaml, delays.yaml"):
            run("deployment", "apply", str(files.specification), "--reason", "watch the late-arrival model")
            run("deployment", "apply", str(delays.specification), "--reason", "promise intervals of the delay")
        with saying(f"driftline baseline build: March with its outcomes, twice {files.reference_rows:,} rows"):
            built = run(
                "baseline", "build", DEPLOYMENT, str(files.reference),
                "--version", VERSION, "--report", str(baseline_page),
            )  # fmt: skip
            self._references[built["digest"]] = "March"
            run("baseline", "build", DELAYS, str(delays.reference), "--version", DELAYS_VERSION)
        with saying("driftline humility show: what is guaranteed, fitted to March"):
            self._shown = [run("humility", "show", name) for name in (DEPLOYMENT, DELAYS)]
        specs = {name: get_deployment(self._settings, name).spec for name in (DEPLOYMENT, DELAYS)}
        replays = {
            DEPLOYMENT: Replay(specs[DEPLOYMENT], files, VERSION),
            DELAYS: Replay(specs[DELAYS], delays, DELAYS_VERSION, parts=DELAY_PARTS),
        }
        end = parse_moment(NEW_NORMAL[1])
        self._play(specs, replays, "April and May", Selection(None, end))
        with saying("driftline incidents ack: somebody takes an incident; Slack, PagerDuty and the audit are told"):
            self._on_call.take_one()
        with saying("driftline baseline build: May, from the topics, is the new normal; open alarms are closed"):
            built = run(
                "baseline", "build", DEPLOYMENT, "--from-topic", "--version", VERSION,
                "--from", NEW_NORMAL[0], "--to", NEW_NORMAL[1], "--reason", "the trouble of April is over",
            )  # fmt: skip
            self._references[built["digest"]] = "May"
            if not wait_until(self._all_resolved, SETTLE_SECONDS):
                raise DemonstrationError("the new baseline did not close the open alarms: is the worker well?")
        self._play(specs, replays, "June to December", Selection(end, None))

    def _play(
        self, specs: Mapping[str, DeploymentSpec], replays: Mapping[str, Replay], months: str, selection: Selection
    ) -> None:
        settings, topics = self._settings, self._settings.topics
        with saying(f"decide and publish predictions, and outcomes as they came, day by day: {months}"):
            started, rows = time.monotonic(), 0
            with (
                ServingApplication(settings, DEPLOYMENT, VERSION, self._files.predictions.parent / "spool") as serving,
                FilePublisher(settings, specs[DELAYS], topic=topics.predictions) as delays,
                FilePublisher(settings, specs[DEPLOYMENT], topic=topics.outcomes) as arrivals,
                FilePublisher(settings, specs[DELAYS], topic=topics.outcomes) as minutes,
            ):
                sinks: dict[str, tuple[ServingApplication | FilePublisher, FilePublisher]] = {
                    DEPLOYMENT: (serving, arrivals),
                    DELAYS: (delays, minutes),
                }
                days = sorted({day for replay in replays.values() for day in replay.days(selection)})
                for number, day in enumerate(days, 1):
                    for name, replay in replays.items():
                        replay.publish(day, *sinks[name])
                    if number % _CATCH_UP_DAYS == 0:
                        self._settle()
                for name, (predictions, outcomes) in sinks.items():
                    rows += self._published[name].add(predictions.delivered, outcomes.delivered)
                self._decided.update(serving.decided)
            self._settle()
            call = f"Client.decide_many, Client.log_predictions, Client.log_outcomes: {months}, {rows:,} rows"
            self._commands.steps.append(Step(call, time.monotonic() - started))

    def _settle(self) -> None:
        """Wait until the streams have applied every message that is there.

        Raises:
            DemonstrationError: They have not after a while.
        """
        if not wait_until(lambda: backlog(self._settings) == 0, SETTLE_SECONDS, step_seconds=0.05):
            raise DemonstrationError(
                f"the worker was still {backlog(self._settings)} messages behind after {SETTLE_SECONDS:.0f} s"
            )

    def _all_resolved(self) -> bool:
        firing, resolved = firing_and_resolved(self._settings, DEPLOYMENT)
        return firing <= resolved

    def collect(self, started: float) -> Story:
        """Everything that happened.

        Args:
            started: When the run began, by ``time.monotonic()``.

        Raises:
            ServicesError: A step failed.
        """
        run, settings, folder = self._commands.run, self._settings, self._files.predictions.parent
        months, psi, daily = drift_figures(settings, DEPLOYMENT)
        with ThreadPoolExecutor(1) as beside:
            # it takes longest of what is left, and the worker's core is idle
            tried = beside.submit(run, "backtest", DEPLOYMENT, "--set", WHAT_IF)
            with saying("driftline windows show flights --metric accuracy --metric calibration --metric fairness"):
                accuracy = run("windows", "show", DEPLOYMENT, *_MONTHLY)
                accuracy_by_day = run("windows", "show", DEPLOYMENT, *_DAILY)
            with saying("driftline budget flights"):
                budget = run("budget", DEPLOYMENT)
            with saying("driftline humility report: what each rule caught and cost, how often intervals held"):
                (report,), (minutes,) = (run("humility", "report", name) for name in (DEPLOYMENT, DELAYS))
                widths = run("windows", "show", DELAYS, "--metric", "adaptive_width", "--by", "month")
                humility = humility_facts(report, minutes, widths, dict(self._decided), self._shown)
            with saying("driftline backtest flights, meanwhile: what if only larger changes of accuracy mattered?"):
                what_if = tried.result()
        every = alert_records(settings)
        alerts = [alert for alert in every if alert["deployment_id"] == DEPLOYMENT]
        with saying("driftline incidents list: every alarm is in an incident, and everybody was told"):
            incidents = self._on_call.settle(len({(alert["incident_key"], alert["episode"]) for alert in every}))
        with saying("driftline audit verify; then a copy with one flipped byte"):
            verification = verify(self._commands)
            export = folder / "audit.jsonl"
            run("audit", "export", str(export))
            notified = self._on_call.notified(incidents, export)
            altered = folder / "audit-altered.jsonl"
            flip_one_byte(export, altered)
            tampered = run("audit", "verify", "--file", str(altered), may_fail=True)
        counters, dead_letters = deployment_counters(settings)
        return Story(
            steps=self._commands.steps,
            flow=self._flow(DEPLOYMENT, self._files, counters),
            minutes=self._flow(DELAYS, self._delay_files, counters),
            dead_letters=dead_letters,
            months=months,
            psi=psi,
            daily_psi=daily,
            alerts=alerts,
            minutes_alerts=[alert for alert in every if alert["deployment_id"] == DELAYS],
            humility=humility,
            verdicts=daily_verdicts(alerts, self._files, self._references, NEW_NORMAL),
            references=self._references,
            watched=watched_streams(settings, DEPLOYMENT, VERSION),
            accuracy=accuracy,
            accuracy_by_day=accuracy_by_day,
            delays=delay_figures(settings, DEPLOYMENT),
            budget=budget,
            what_if=what_if,
            notified=notified,
            verification=verification,
            tampered=tampered,
            seconds=time.monotonic() - started,
        )

    def _flow(self, name: str, files: DemonstrationFiles, counters: Mapping[str, Mapping[str, int]]) -> Flow:
        published, counted = self._published[name], counters[name]
        return Flow(
            name=name,
            expected=files.prediction_rows,
            published=published.predictions,
            applied=counted["rows"],
            outcomes_expected=files.outcome_rows,
            outcomes_published=published.outcomes,
            outcomes_applied=counted["outcome_rows"],
        )
