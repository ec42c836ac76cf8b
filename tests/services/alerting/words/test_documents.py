"""docs/alerting.md and docs/runbook.md say what there is: the example loads, every alarm has its section."""

import re
from pathlib import Path
from typing import Any

import pytest

from services.alerting.api.table import ENDPOINTS
from services.alerting.metrics import Metrics
from services.alerting.policy.loading import load_policy
from services.alerting.policy.routing import assignments
from services.alerting.watch import alarms
from services.alerting.words.links import runbook_anchor

DOCS = Path(__file__).parents[4] / "docs"
ALERTING, RUNBOOK = (DOCS.joinpath(name).read_text("utf-8") for name in ("alerting.md", "runbook.md"))
SECTIONS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
MONITORS = [
    "data_drift",
    "prediction_drift",
    "data_quality",
    "service",
    "concept_drift",
    "labels",
    "fairness",
    "humility",
    "detector:adwin:prediction",
    "system:streams-lag",
    "system:topic-silent:predictions",
    "system:dead-letters",
    "system:channel-failing:mail",
    "system:database",
    "system:kafka",
]


@pytest.mark.parametrize("monitor", MONITORS)
def test_every_alarm_has_a_section_that_its_link_leads_to(make_signal: Any, monitor: str) -> None:
    section = SECTIONS[runbook_anchor(make_signal(monitor=monitor))]
    questions = ("What it means", "How sure", "What to look at", "What to do", "How it ends")
    assert re.findall(r"^\*\*(.+?)\.\*\*", section, re.MULTILINE) == list(questions)


@pytest.mark.parametrize(
    "alarm",
    [
        alarms.streams_lag(1, 1, 1, 1),
        alarms.topic_silent("outcomes", 1, 1),
        alarms.dead_letters(2, 1),
        alarms.channel_failing("mail", 1, 1, 1),
        alarms.disk_nearly_full(1, 2),
        alarms.database_slow(11, 10),
        alarms.kafka_away(1, 1),
    ],
    ids=lambda alarm: alarm.name,
)
def test_what_driftline_says_of_itself_names_a_section(alarm: alarms.Alarm) -> None:
    assert alarm.words.runbook in SECTIONS


def test_a_monitor_nobody_documented_has_no_link(make_signal: Any) -> None:
    assert runbook_anchor(make_signal(monitor="something else")) == ""


def test_the_example_of_a_routing_file_does_what_it_says(tmp_path: Path, make_signal: Any) -> None:
    (block,) = re.findall(r"```yaml\n(# routing.yaml\n.*?)```", ALERTING, re.DOTALL)
    for secret in re.findall(r"/run/secrets/(\w+)", block):
        (tmp_path / secret).write_text("0123456789abcdef0123456789abcdef")
        (tmp_path / secret).chmod(0o600)
    path = tmp_path / "routing.yaml"
    path.write_text(block.replace("/run/secrets/", f"{tmp_path}/"))
    policy = load_policy(path, {})
    assert policy.warnings == ()
    told = {
        severity: {a.receiver for a in assignments(policy, make_signal(severity=severity).labels)}
        for severity in ("critical", "error", "info")
    }
    assert told == {"critical": {"pager", "risk-chat"}, "error": {"risk-chat"}, "info": {"mail"}}
    assert policy.receivers["pager"].fallback == "mail" and "standard" in policy.escalations


def test_every_metric_and_address_that_is_named_exists() -> None:
    names = set(re.findall(r"driftline_alerting_\w+", ALERTING))
    exposed = Metrics().text().decode()
    assert names and not [name for name in names if f"# TYPE {name}" not in exposed.replace("_total ", " ")]
    paths = {re.sub(r"\{\w+\}", "ID", endpoint.path) for endpoint in ENDPOINTS}
    named = set(re.findall(r"(?:POST )?`?(/(?:api/v1|metrics|hooks)[\w/.-]*)", ALERTING.replace("RECEIVER", "ID")))
    assert named <= paths, named - paths
