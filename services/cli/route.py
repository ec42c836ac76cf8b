"""``driftline route``: who is told of what, why, and whether the routing file says what was meant."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.output import JSON_OPTION, fail, note, print_json, safe, stdout

if TYPE_CHECKING:
    from services.alerting.policy.explaining import KnownSilence
    from services.alerting.policy.model import Policy

_EXAMPLES = """
Examples:

  driftline route check routing.yaml --strict

  driftline route show --config routing.yaml

  driftline route explain 5f0c1f7e --config routing.yaml

  driftline route explain -l deployment=fraud-1 -l severity=critical -l tag.region=eu --at 2026-12-24T23:00

  driftline route test cases.yaml --config routing.yaml

Secrets are not read, except by check: all this can be done where they are not. Without --config (or
DRIFTLINE_ALERTING_CONFIG) the receivers of the environment are meant; --running asks the running service instead.

Exit status: 0 done; 1 a case of test failed, or check --strict warned; 2 a file is refused.
"""
EXAMPLES = _EXAMPLES

route_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Say who is told of what, and check the routing file.",
    epilog=_EXAMPLES,
)

_Json = Annotated[bool, JSON_OPTION]
_Config = Annotated[
    Path | None, typer.Option("--config", help="The routing file.", envvar="DRIFTLINE_ALERTING_CONFIG", dir_okay=False)
]
_Running = Annotated[bool, typer.Option("--running", help="Ask the running service what is in force there.")]


@route_app.command("show", epilog="Example: driftline route show --config routing.yaml")
def show_routes(config: _Config = None, running: _Running = False, as_json: _Json = False) -> None:
    """Show receivers, roles and the tree of routes, with what routes inherit filled in."""
    from services.cli.route_output import print_policy, print_tree

    if running:
        from services.cli.alerting_client import alerting_client

        found = alerting_client().get("route")
        if as_json:
            print_json(found)
            return
        print_tree(found)
        return
    policy = _policy(config)
    if as_json:
        from services.alerting.api.routes import plain

        print_json(plain(policy))
        return
    print_policy(policy, _now_ms())


@route_app.command("explain", epilog="Example: driftline route explain -l deployment=credit -l severity=error")
def explain_route(
    alert: Annotated[
        str | None,
        typer.Argument(
            metavar="ALERT",
            help="An alert on the topic, by its id or the beginning of it; or a file with one, as `driftline alerts "
            "show` prints it with --json (- for standard input).",
            show_default=False,
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="NAME=VALUE", help="A label, in place of an alert or of one of its own."),
    ] = None,
    config: _Config = None,
    at: Annotated[
        str | None, typer.Option(help="As if it fired then: 2026-12-24T23:00, in UTC; otherwise now.")
    ] = None,
    running: _Running = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the running service for silences.")] = False,
    as_json: _Json = False,
) -> None:
    """Say who would be told of an alert, when and why: routes, roles, waits, silences, digests, escalation."""
    from services.cli.route_output import print_explanation

    asked = _asked(alert, label or [])
    if running:
        if at is not None:
            fail("--at and --running do not go together: the running service answers for now", code=2)
        from services.cli.alerting_client import alerting_client

        client = alerting_client()
        found = [
            each
            for labels in asked
            for each in client.post("route", "explain", body={"labels": labels})["explanations"]
        ]
    else:
        found = _explained(_policy(config), asked, at, offline=offline)
    if as_json:
        print_json(found[0] if len(found) == 1 else found)
        return
    for explanation in found:
        print_explanation(explanation)


def _explained(policy: Policy, asked: Sequence[Mapping[str, str]], at: str | None, *, offline: bool) -> list[Any]:
    from services.alerting.api.routes import plain
    from services.alerting.policy.explaining import explain

    silences = [] if offline else _silences()
    now_ms = _now_ms() if at is None else _moment(at)
    return [plain(explain(policy, labels, now_ms, silences)) for labels in asked]


def _asked(alert: str | None, given: Sequence[str]) -> list[dict[str, str]]:
    """The labels that are asked about: of an alert, with those that are given on top."""
    from services.alerting.policy.cases import wrong_label

    own: dict[str, str] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign:
            fail(f"--label: expected NAME=VALUE, such as deployment=credit, came {text!r}", code=2)
        if problem := wrong_label(name.strip(), value):
            fail(f"--label {name.strip()}: {problem}", code=2)
        own[name.strip()] = value
    if alert is None:
        if not own:
            fail(
                "name an alert, a file, or labels: driftline route explain -l deployment=credit -l severity=error",
                code=2,
            )
        if "severity" not in own:
            note("no severity is given, so the least severity of receivers is left out of account")
        return [own]
    path = Path(alert)
    found = _of_file(alert, path) if alert == "-" or path.is_file() else _of_topic(alert)
    distinct = {json.dumps({**labels, **own}, sort_keys=True): {**labels, **own} for labels in found}
    return list(distinct.values())


def _of_file(name: str, path: Path) -> list[dict[str, str]]:
    try:
        document = json.loads(sys.stdin.read() if name == "-" else path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not JSON"
        fail(f"{name}: expected an alert as `driftline alerts show --json` prints it: {why}", code=2)
    records = document if isinstance(document, list) else [document]
    if not records:
        fail(f"{name}: there is no alert in it", code=2)
    return [_labels(name, record) for record in records]


def _labels(name: str, record: Any) -> dict[str, str]:
    from services.alerting.policy.cases import wrong_label
    from services.alerting.policy.labels import labels_of

    if isinstance(record, dict) and isinstance(record.get("labels"), dict):
        labels = {str(label): str(value) for label, value in record["labels"].items()}
        for label, value in labels.items():
            if problem := wrong_label(label, value):
                fail(f"{name}: labels.{label}: {problem}", code=2)
        return labels
    try:
        return labels_of(record)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        missing = f": the field {error} is missing" if isinstance(error, KeyError) else ""
        fail(
            f'{name}: expected an alert as `driftline alerts show --json` prints it, or {{"labels": {{…}}}}{missing}',
            code=2,
        )


def _of_topic(alert: str) -> list[dict[str, str]]:
    from driftline.settings import KafkaSettings
    from services.alerting.alerts import read_alerts
    from services.alerting.policy.labels import labels_of

    found = list(read_alerts(KafkaSettings.from_environment()))
    matching = [a for a in found if a["id"] == alert] or [a for a in found if a["incident_key"] == alert]
    if not matching and len(alert) >= 4:
        matching = [a for a in found if a["id"].startswith(alert)]
        if len({(a["incident_key"], a["episode"]) for a in matching}) > 1:
            fail(f"{alert!r} is the beginning of {len(matching)} ids: give more of it")
    if not matching:
        fail(
            f"no alert among {len(found)} has the id {alert!r}, and there is no such file: `driftline alerts list` "
            "shows them"
        )
    return [labels_of(record) for record in matching]


def _silences() -> list[KnownSilence]:
    """Those that the running service knows; what keeps it from telling is told, and is no error."""
    import datetime as dt

    from services.alerting.policy.explaining import KnownSilence
    from services.alerting.policy.matching import parse_match
    from services.cli.alerting_client import alerting_client
    from services.cli.incidents import pages
    from services.errors import ServicesError

    try:
        found, more = pages(alerting_client(), "silences", "silences", 1000)
    except ServicesError as error:
        note(f"silences are not known: {str(error).splitlines()[0]}")
        return []
    if more:
        note("there are more than 1,000 silences: the older ones are left out")

    def milliseconds(text: str) -> int:
        return round(dt.datetime.fromisoformat(text).timestamp() * 1000)

    return [
        KnownSilence(
            each["id"],
            parse_match(each["match"], "silence"),
            each["author"],
            each["reason"],
            milliseconds(each["starts"]),
            milliseconds(each["ends"]),
        )
        for each in found
        if not each["incident"]
    ]


@route_app.command("test", epilog="Example: driftline route test cases.yaml --config routing.yaml")
def run_cases(
    files: Annotated[
        list[Path], typer.Argument(metavar="CASES…", help="YAML: cases: [{labels: {…}, expect: [RECEIVER…]}].")
    ],
    config: _Config = None,
    at: Annotated[
        str | None, typer.Option(help="As if it were then, for cases that do not say; otherwise now.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Run cases: labels, and who must be told. Exit status 1 if one fails."""
    from services.alerting.policy.cases import judge, load_cases

    policy = _policy(config)
    now_ms = _now_ms() if at is None else _moment(at)
    verdicts = [(path, judge(policy, case, now_ms)) for path in files for case in load_cases(path, policy)]
    failed = sum(1 for _, verdict in verdicts if verdict.wrong)
    if as_json:
        rows = [
            {
                "file": str(path),
                "line": v.case.line,
                "name": v.case.name,
                "passed": not v.wrong,
                "told": v.told,
                "wrong": v.wrong,
            }
            for path, v in verdicts
        ]
        print_json({"passed": len(verdicts) - failed, "failed": failed, "cases": rows})
    else:
        for path, verdict in verdicts:
            mark = "[red]FAIL[/]" if verdict.wrong else "[green]ok[/]  "
            stdout.print(f"{mark} {safe(verdict.case.name)}", soft_wrap=True, highlight=False)
            for text in verdict.wrong:
                stdout.print(f"     {safe(path)}:{verdict.case.line}: {safe(text)}", soft_wrap=True, highlight=False)
        stdout.print(f"{len(verdicts) - failed} passed, {failed} failed", highlight=False)
    if failed:
        raise typer.Exit(1)


@route_app.command("check", epilog="Example: driftline route check routing.yaml --strict")
def check_files(
    files: Annotated[list[Path] | None, typer.Argument(metavar="FILE…", help="Routing files.")] = None,
    config: _Config = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 if there are warnings.")] = False,
    without_secrets: Annotated[
        bool, typer.Option("--without-secrets", help="Do not read secrets: where they are not.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Refuse a file that cannot be used, with every line that is wrong; warn of what is probably not meant."""
    from services.alerting.policy.linting import lint_at
    from services.alerting.policy.loading import load_policy
    from services.alerting.policy.problems import PolicyError
    from services.cli.output import show_error
    from services.cli.route_output import summary

    paths: list[Path | None] = [*files] if files else [config]
    rows: list[dict[str, Any]] = []
    for path in paths:
        problems: tuple[str, ...] = ()
        warnings: tuple[str, ...] = ()
        said = ""
        try:
            policy = load_policy(path, os.environ, read_secrets=not without_secrets)
        except PolicyError as error:
            problems = error.problems
            if not as_json:
                show_error(str(error))
        else:
            warnings = (*policy.warnings, *lint_at(policy, _now_ms()))
            said = summary(policy)
        name = "the environment" if path is None else str(path)
        rows.append({"file": name, "good": not problems, "problems": problems, "warnings": warnings})
        if not as_json and not problems:
            stdout.print(f"[green]good[/] {safe(name)}: {safe(said)}", soft_wrap=True, highlight=False)
            for warning in warnings:
                stdout.print(f"  [yellow]warning[/] {safe(warning)}", soft_wrap=True, highlight=False)
    if as_json:
        print_json(rows)
    if any(row["problems"] for row in rows):
        raise typer.Exit(2)
    if strict and any(row["warnings"] for row in rows):
        raise typer.Exit(1)


def _policy(config: Path | None) -> Policy:
    from services.alerting.policy.loading import load_policy

    return load_policy(config, os.environ, read_secrets=False)


def _now_ms() -> int:
    from services.alerting.clock import Clock

    return Clock().now_ms()


def _moment(text: str) -> int:
    from zoneinfo import ZoneInfo

    from services.alerting.policy.schedules import parse_moment

    try:
        return parse_moment(text, ZoneInfo("UTC"))
    except ValueError as error:
        fail(f"--at: {error}, came {text!r}", code=2)
