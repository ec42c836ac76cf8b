"""``driftline route`` says who is told and why, and its exit status can be relied upon."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli import output
from services.cli.route import route_app

Run = Callable[..., Any]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setattr(output.stdout, "width", 300)
    monkeypatch.chdir(tmp_path)
    for name in ("DRIFTLINE_ALERTING_CONFIG", "DRIFTLINE_ALERTING_URL", "DRIFTLINE_ALERTING_CONNECTION_FILE"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments, **options: CliRunner().invoke(route_app, list(map(str, arguments)), **options)


@pytest.fixture
def file(write: Callable[[str], Path], whole: str) -> Path:
    return write(whole)


def test_a_good_file_is_good_and_its_warnings_are_told(run: Run, file: Path) -> None:
    result = run("check", file, env={"TOKEN": "xoxb-canary"})
    assert result.exit_code == 0
    assert "8 receivers, 5 routes" in result.stdout and "warning line 43: route/2: a critical alert" in result.stdout
    assert run("check", file, "--strict", env={"TOKEN": "xoxb-canary"}).exit_code == 1
    (row,) = json.loads(run("check", file, "--json", "--without-secrets").stdout)
    assert row["good"] is True and len(row["warnings"]) == 3 and row["problems"] == []


def test_a_bad_file_is_refused_with_status_2_and_every_line(run: Run, file: Path) -> None:
    file.write_text(
        file.read_text()
        .replace("[mail]\ninhibit", "[mial]\ninhibit")
        .replace("role:on-call]\n      esc", "x]\n      esc")
    )
    result = run("check", file, "--without-secrets")
    assert result.exit_code == 2
    assert "2 problems" in result.stderr and "did you mean 'mail'?" in result.stderr
    (row,) = json.loads(run("check", file, "--without-secrets", "--json").stdout)
    assert row["good"] is False and len(row["problems"]) == 2
    assert run("check", file, env={"TOKEN": ""}).exit_code == 2, "a missing secret is a problem where secrets are read"


def test_the_tree_is_shown_as_it_was_understood(run: Run, file: Path) -> None:
    result = run("show", "--config", file)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert any("route/criticals" in line and "severity: critical" in line and "role:on-call" in line for line in lines)
    assert any("pager" in line and "error and worse" in line for line in lines)
    assert any("route/3" in line and "digest at 09:00 mon-fri Europe/Zurich" in line for line in lines)
    assert any("office-hours" in line and "mon-fri 08:00-18:00" in line for line in lines)
    shown = json.loads(run("show", "--config", file, "--json").stdout)
    assert shown["route"]["routes"][0]["notify"] == ["role:on-call"]
    assert "canary" not in result.stdout + json.dumps(shown)


def test_labels_are_explained(run: Run, file: Path) -> None:
    asked = ("-l", "severity=critical", "-l", "tag.region=eu", "-l", "deployment=credit", "--at", "2026-12-01T22:00")
    result = run("explain", *asked, "--config", file, "--offline")
    assert result.exit_code == 0
    words = result.stdout
    assert "muted by maintenance release until Wed 2026-12-02 01:00:00 UTC: by ada: store" in words
    assert "✓ route/criticals" in words and "→ tells" in words
    assert "deployment is 'credit': fraud-*" in words
    assert "pager (pagerduty)" in words and "route/criticals, role on-call" in words
    assert "standard, step 2" in words and "1h30m" in words
    found = json.loads(run("explain", *asked, "--config", file, "--offline", "--json").stdout)
    assert [each["receiver"] for each in found["told"]] == ["pager", "chat"]
    assert found["labels"]["tag.region"] == "eu"


def test_an_alert_in_a_file_is_explained(run: Run, file: Path, make_alert: Any, tmp_path: Path) -> None:
    alert = tmp_path / "alert.json"
    alert.write_text(
        json.dumps([make_alert(1, severity="info"), make_alert(1, "resolved", severity="info")], default=str)
    )
    found = json.loads(run("explain", alert, "--config", file, "--offline", "--json").stdout)
    assert [each["receiver"] for each in found["told"]] == ["mail"], "one answer for what has the same labels"
    piped = run(
        "explain", "-", "-l", "severity=error", "--config", file, "--offline", "--json", input=alert.read_text()
    )
    assert [each["receiver"] for each in json.loads(piped.stdout)["told"]] == ["chat"]
    alert.write_text(json.dumps({"labels": {"severity": "info"}}))
    assert (
        json.loads(run("explain", alert, "--config", file, "--offline", "--json").stdout)["told"][0]["receiver"]
        == "mail"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name an alert, a file, or labels"),
        (("-l", "severity"), "expected NAME=VALUE"),
        (("-l", "severity=bad"), "there is no such severity"),
        (("-l", "deploymnt=x"), "did you mean 'deployment'"),
        (("-l", "severity=info", "--at", "soon"), "expected a moment such as"),
        (("broken.json",), "it is not JSON"),
        (("half.json",), "the field 'causes' is missing"),
        (("list.json",), "there is no alert in it"),
        (("number.json",), "expected an alert as"),
        (("-l", "severity=info", "--config", "nowhere.yaml"), "No such file"),
    ],
)
def test_what_cannot_be_explained_is_refused(run: Run, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    for name, text in (("broken", "{"), ("half", '{"deployment_id": "x"}'), ("list", "[]"), ("number", "5")):
        (tmp_path / f"{name}.json").write_text(text)
    result = run("explain", *arguments, "--offline")
    shown = result.stderr + str(result.exception or "")
    assert result.exit_code != 0 and said in shown, shown


def test_hostile_labels_are_harmless_on_a_terminal(run: Run, file: Path) -> None:
    hostile = "\x1b[31m[bold]x[/]\u202e" + "a" * 5000
    result = run("explain", "-l", f"deployment={hostile}", "-l", "severity=info", "--config", file, "--offline")
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout and "\u202e" not in result.stdout and "[bold]x" in result.stdout
    assert max(map(len, result.stdout.splitlines())) < 600


def test_cases_pass_or_fail_by_exit_status(run: Run, file: Path, tmp_path: Path) -> None:
    cases = tmp_path / "cases.yaml"
    cases.write_text(
        "cases:\n  - {name: low, labels: {severity: info}, expect: [mail]}\n"
        "  - {name: high, labels: {severity: error}, expect: [pager]}\n"
    )
    result = run("test", cases, "--config", file)
    assert result.exit_code == 1
    assert "ok   low" in result.stdout and "FAIL high" in result.stdout and "1 passed, 1 failed" in result.stdout
    assert "cases.yaml:3: not told: pager (it came to route)" in result.stdout
    found = json.loads(run("test", cases, "--config", file, "--json").stdout)
    assert (found["passed"], found["failed"], found["cases"][1]["told"]) == (1, 1, ["chat"])
    cases.write_text(cases.read_text().replace("[pager]", "[chat]"))
    assert run("test", cases, "--config", file).exit_code == 0


def test_an_alert_on_the_topic_is_explained(
    run: Run, file: Path, cluster: Any, make_alert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIFTLINE_BOOTSTRAP_SERVERS", cluster.settings.bootstrap_servers)
    monkeypatch.setenv("DRIFTLINE_TOPIC_PREFIX", cluster.prefix)
    alert = make_alert(1, severity="info")
    cluster.publish(alert, make_alert(2, severity="error"))
    for named in (alert["id"], alert["id"][:12], alert["incident_key"]):
        found = json.loads(run("explain", named, "--config", file, "--offline", "--json").stdout)
        assert [each["receiver"] for each in found["told"]] == ["mail"]
    nothing = run("explain", "nothing-like-that", "--config", file, "--offline")
    assert nothing.exit_code == 1 and "no alert among 2 has the id 'nothing-like-that'" in nothing.stderr


def test_the_running_service_is_asked_for_its_routes_and_its_silences(
    run: Run, file: Path, start_service: Any, eventually: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the connection file, as on this machine; a reload that is refused is seen."""
    from services.cli.alerting_client import alerting_client

    monkeypatch.setenv("TOKEN", "xoxb-canary")
    file.write_text(
        "receivers: [{name: mail, type: email, host: 127.0.0.1, port: 9, security: none, sender: a@b, to: c@d}]\n"
        "route: {notify: [mail], routes: [{name: low, match: {severity: info}, group_wait: 5m}]}\n"
    )
    connection = tmp_path / "alerting.json"
    start_service(policy_file=file, port=0, connection_file=connection)
    monkeypatch.setenv("DRIFTLINE_ALERTING_CONNECTION_FILE", str(connection))
    result = run("show", "--running")
    assert result.exit_code == 0, result.exception
    shown = result.stdout
    assert "route/low" in shown and "5m" in shown
    (told,) = json.loads(run("explain", "-l", "severity=info", "--running", "--json").stdout)["told"]
    assert (told["receiver"], told["route"]) == ("mail", "route/low")
    assert "mail (email): after 5m" in run("explain", "-l", "severity=info", "--running").stdout

    made = alerting_client().post(
        "silences", body={"match": {"deployment": "cred*"}, "duration": "1h", "reason": "move"}
    )
    asked = ("explain", "-l", "severity=info", "-l", "deployment=credit", "--config", file)
    assert f"muted by silence {made['id']}" in run(*asked).stdout
    assert "muted" not in run(*asked, "--offline").stdout

    good = file.read_text()
    file.write_text(good.replace("[mail]", "[nobody]"))
    eventually(lambda: "stays in force" in run("show", "--running").stdout)
    file.write_text(good)
    eventually(lambda: "stays in force" not in run("show", "--running").stdout)
