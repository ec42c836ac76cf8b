"""``driftline alerts list`` and ``show`` on a real topic."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from services.alerting.alerts import alerts_app
from services.cli import output


@pytest.fixture
def run(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DRIFTLINE_BOOTSTRAP_SERVERS", cluster.settings.bootstrap_servers)
    monkeypatch.setenv("DRIFTLINE_TOPIC_PREFIX", cluster.prefix)
    monkeypatch.setattr(output.stdout, "width", 250)

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(alerts_app, list(arguments))

    return call


def found(result: Any) -> list[tuple[str, str]]:
    return [(row["deployment_id"], row["status"]) for row in json.loads(result.stdout)]


def test_incidents_are_listed_newest_first_and_can_be_narrowed_down(cluster: Any, run: Any, make_alert: Any) -> None:
    later = {"detection_time_us": make_alert()["detection_time_us"] + 1}
    latest = {"detection_time_us": make_alert()["detection_time_us"] + 2}
    cluster.publish(
        make_alert(1),
        make_alert(1),
        make_alert(1, "resolved"),
        make_alert(2, deployment_id="fraud", severity="critical", **later),
    )
    cluster.publish_raw(b"this is no alert")
    cluster.publish(make_alert(3, deployment_id="churn", **latest))
    assert found(run("list", "--json")) == [("churn", "firing"), ("fraud", "firing"), ("credit", "resolved")]
    assert found(run("list", "--json", "--limit", "1")) == [("churn", "firing")]
    assert found(run("list", "--json", "--status", "resolved")) == [("credit", "resolved")]
    assert found(run("list", "--json", "--severity", "critical")) == [("fraud", "firing")]
    assert found(run("list", "--json", "--deployment", "churn")) == [("churn", "firing")]
    assert found(run("list", "--json", "--deployment", "none")) == []
    table = run("list")
    assert table.exit_code == 0


def test_an_alert_is_shown_by_id_beginning_of_id_and_incident(cluster: Any, run: Any, make_alert: Any) -> None:
    firing, resolved = make_alert(), make_alert(status="resolved", causes=[])
    cluster.publish(firing, resolved)
    for name in (firing["id"], firing["id"][:8]):
        (shown,) = json.loads(run("show", name, "--json").stdout)
        assert shown["id"] == firing["id"]
        assert shown["text"]["causes"][0].startswith("temperature: 62 % of rows lie above")
    both = json.loads(run("show", firing["incident_key"], "--json").stdout)
    assert [record["status"] for record in both] == ["firing", "resolved"]


def test_an_unknown_alert_is_an_error(cluster: Any, run: Any, make_alert: Any) -> None:
    cluster.publish(make_alert())
    assert run("show", "nothing-like-it").exit_code == 1


def test_hostile_names_are_harmless_on_the_terminal(cluster: Any, run: Any, make_alert: Any) -> None:
    name = "[bold red]x[/] \x1b[31m\x07\u202e[link=file:///etc/passwd]y"
    alert = make_alert(deployment_id=name, owner=name, monitor=name, model_version=name, id="abcd1234" + name)
    alert["causes"][0]["stream"] = name
    cluster.publish(alert)
    for result in (run("list"), run("show", alert["id"])):
        assert result.exit_code == 0
        assert "\x07" not in result.output and "\u202e" not in result.output
