"""The commands as a person or a script meets them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from confluent_kafka import Producer
from typer.testing import CliRunner, Result

from driftline.settings import KafkaSettings
from services.audit import AuditTrail
from services.governance.checkpoint import SigningKey, create_key, load_key
from services.governance.commands import audit, governance
from services.governance.service import GovernanceService
from services.governance.settings import GovernanceSettings
from services.governance.topic import TopicReader

app = typer.Typer()
app.command("governance")(governance)
app.add_typer(audit, name="audit")

HOSTILE = "\x1b]0;owned\x07\x1b[2J[bold]x[/] \u202egnp.exe \x9b31m \u2028end"

Invoke = Callable[..., Result]


@pytest.fixture
def environment(kafka_settings: KafkaSettings, governance_settings: GovernanceSettings) -> dict[str, str]:
    return {
        "DRIFTLINE_BOOTSTRAP_SERVERS": kafka_settings.bootstrap_servers,
        "DRIFTLINE_TOPIC_PREFIX": kafka_settings.topics.prefix,
        "DRIFTLINE_GOVERNANCE_DATABASE_URL": governance_settings.database_url,
        "DRIFTLINE_AUDIT_KEY_FILE": str(governance_settings.key_file),
        "DRIFTLINE_AUDIT_ORIGIN": governance_settings.origin,
        "DRIFTLINE_GOVERNANCE_SEAL_SECONDS": "0.1",
    }


@pytest.fixture
def invoke(environment: dict[str, str]) -> Invoke:
    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(a) for a in arguments], env=environment)

    return run


@pytest.fixture
def sealed(kafka_settings: KafkaSettings, governance_settings: GovernanceSettings) -> None:
    """Some events on the topic, sealed by a service that has stopped."""
    with AuditTrail(kafka_settings, "cli") as trail:
        for number in range(5):
            trail.record(
                "deployment.applied",
                f"deployment:{number}",
                actor="ada",
                actor_kind="human",
                time_us=1_700_000_000_000_000 + number * 86_400_000_000,
            )
        trail.record("alert.fired", HOSTILE, actor=HOSTILE, reason=HOSTILE, event_id="bad" + HOSTILE)
        trail.record("alert.fired", HOSTILE, actor=HOSTILE, reason=HOSTILE, event_id="bad" + HOSTILE)
    producer = Producer({"bootstrap.servers": kafka_settings.bootstrap_servers})
    producer.produce(kafka_settings.topics.audit, b"\x1b[31mnot avro")
    producer.flush(30)
    stop = threading.Event()
    service = threading.Thread(target=GovernanceService(kafka_settings, governance_settings).run, args=(stop,))
    service.start()
    with TopicReader(kafka_settings, kafka_settings.topics.audit_checkpoints) as reader:
        while reader.watermarks()[1] == 0:
            time.sleep(0.05)
    stop.set()
    service.join(60)


def assert_harmless(text: str) -> None:
    assert not {c for c in text if not (c.isprintable() or c == "\n")}


@pytest.mark.usefixtures("sealed")
def test_verify_says_that_everything_stands(invoke: Invoke, tmp_path: Path) -> None:
    done = invoke("audit", "verify", "--seal-within", "0")
    assert done.exit_code == 0, done.output
    assert "stands: 11 records proven unaltered" in done.stdout
    key = invoke("audit", "key").stdout
    (tmp_path / "audit.pub").write_text(key)
    for given in (key.strip(), tmp_path / "audit.pub"):
        done = invoke("audit", "verify", "--public-key", given, "--json")
        assert done.exit_code == 0, done.output
        document = json.loads(done.stdout)
        assert (document["ok"], document["records"], document["sealed"]) == (True, 11, 11)


@pytest.mark.usefixtures("sealed")
def test_verify_names_the_first_bad_record_and_fails(invoke: Invoke, tmp_path: Path) -> None:
    export = tmp_path / "audit.jsonl"
    done = invoke("audit", "export", export)
    assert done.exit_code == 0 and "11 records" in done.stdout
    assert invoke("audit", "verify", "--file", export).exit_code == 0
    lines = export.read_text().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if line.startswith('{"record"'))
    record: dict[str, Any] = json.loads(lines[at + 5])
    record["value"] = record["value"][:-8] + "AAAAAAA="
    lines[at + 5] = json.dumps(record) + "\n"
    export.write_text("".join(lines))
    done = invoke("audit", "verify", "--file", export)
    assert done.exit_code == 1
    assert "DOES NOT STAND" in done.stdout and "record: 5" in done.stdout and "altered" in done.stdout
    assert_harmless(done.stdout)
    done = invoke("audit", "verify", "--file", export, "--json")
    assert done.exit_code == 1
    assert_harmless(done.stdout)
    first_bad = json.loads(done.stdout)["first_bad"]
    assert (first_bad["kind"], first_bad["index"], first_bad["offset"]) == ("altered", 5, 5)
    assert first_bad["event_id"] == "bad" + HOSTILE


@pytest.mark.usefixtures("sealed")
def test_verify_with_another_key_fails(invoke: Invoke, governance_settings: GovernanceSettings) -> None:
    other = SigningKey.generate(governance_settings.origin).verifier
    done = invoke("audit", "verify", "--public-key", other)
    assert done.exit_code == 1
    assert "wrong_key" in done.stdout


@pytest.mark.usefixtures("sealed")
def test_a_remembered_checkpoint_has_to_be_extended(
    invoke: Invoke, kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    kept, old, new = tmp_path / "kept", tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    invoke("audit", "export", old)
    assert invoke("audit", "verify", "--file", old, "--remember", kept).exit_code == 0
    first = kept.read_text()
    assert first.startswith("example.com/audit\n11\n")
    lines = old.read_text().splitlines()
    without = [json.loads(lines[0]), {"end": "driftline-audit-export/1", "records": 0, "checkpoints": 0}]
    head = json.dumps(without[0]) + "\n"
    without[1]["sha256"] = hashlib.sha256(head.encode()).hexdigest()
    new.write_text(head + json.dumps(without[1]) + "\n")
    assert invoke("audit", "verify", "--file", new).exit_code == 0
    done = invoke("audit", "verify", "--file", new, "--remember", kept)
    assert done.exit_code == 1 and "rolled_back" in done.stdout
    assert kept.read_text() == first
    assert invoke("audit", "verify", "--remember", kept).exit_code == 0


@pytest.mark.usefixtures("sealed")
def test_replay_shows_each_event_once_in_order_and_harmless(invoke: Invoke) -> None:
    done = invoke("audit", "replay")
    assert done.exit_code == 0, done.output
    assert_harmless(done.stdout)
    lines = done.stdout.splitlines()
    actions = [line[26:50].strip() for line in lines[1:]]
    assert actions[:7] == ["deployment.applied"] * 5 + ["alert.fired", "(undecodable)"]
    assert set(actions[7:]) == {"key.created", "governance.started", "governance.stopped"}
    done = invoke("audit", "replay", "--json")
    assert_harmless(done.stdout)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["offset"] for event in events] == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10]
    assert events[5]["subject"] == HOSTILE
    assert "undecodable" in events[6]


@pytest.mark.usefixtures("sealed")
def test_replay_filters_by_time_action_and_subject(invoke: Invoke) -> None:
    def subjects(*options: str) -> list[str]:
        done = invoke("audit", "replay", "--json", *options)
        assert done.exit_code == 0, done.output
        return [json.loads(line).get("subject", "?") for line in done.stdout.splitlines()]

    assert subjects("--action", "deployment.*", "--subject", "*:[12]") == ["deployment:1", "deployment:2"]
    assert subjects("--from", "2023-11-16", "--to", "2023-11-17T22:13:20+00:00") == ["deployment:2"]
    assert subjects("--to", "2023-11-15T00:00") == ["deployment:0"]
    assert subjects("--action", "nothing") == []


@pytest.mark.parametrize("time_text", ["yesterday", "2023-13-01", ""])
def test_a_time_that_is_none_is_refused(invoke: Invoke, time_text: str) -> None:
    done = invoke("audit", "replay", "--from", time_text)
    assert done.exit_code == 1
    assert "--from" in done.stderr


def test_key_prints_the_public_half_only(invoke: Invoke, governance_settings: GovernanceSettings) -> None:
    done = invoke("audit", "key")
    assert done.exit_code == 1 and "cannot be read" in done.stderr
    create_key(governance_settings.key_file, governance_settings.origin)
    done = invoke("audit", "key")
    assert done.stdout == f"{load_key(governance_settings.key_file).verifier}\n"
    secret = governance_settings.key_file.read_text().rpartition("+")[2].strip()
    assert secret not in done.output + invoke("audit", "key", "--json").output


@pytest.mark.parametrize("key", ["nonsense", "a+b+c", "/no/such/file"])
def test_a_public_key_that_is_none_is_refused(invoke: Invoke, key: str) -> None:
    done = invoke("audit", "verify", "--public-key", key)
    assert done.exit_code == 1
    assert "error:" in done.stderr and "Traceback" not in done.output


def test_verify_without_any_key_says_what_to_give(invoke: Invoke) -> None:
    done = invoke("audit", "verify")
    assert done.exit_code == 1 and "--public-key" in done.stderr


@pytest.mark.usefixtures("sealed")
def test_a_file_that_is_no_export_does_not_stand(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(os.urandom(5000))
    done = invoke("audit", "verify", "--file", tmp_path / "x")
    assert done.exit_code == 1 and "DOES NOT STAND" in done.stdout
    assert_harmless(done.stdout)
    done = invoke("audit", "verify", "--file", tmp_path / "none")
    assert done.exit_code == 1 and "No such file" in done.stderr


def test_an_export_that_cannot_be_written_is_a_clear_error(invoke: Invoke) -> None:
    done = invoke("audit", "export", "/proc/no/such/place.jsonl")
    assert done.exit_code == 1 and "cannot be written" in done.stderr


@pytest.mark.parametrize("command", ["replay", "verify", "export", "key"])
def test_help_has_an_example(invoke: Invoke, command: str) -> None:
    done = invoke("audit", command, "--help")
    assert done.exit_code == 0
    assert f"driftline audit {command}" in done.stdout


def spawn(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    code = (
        "import typer; from services.governance.commands import audit, governance; app = typer.Typer()\n"
        "app.command('governance')(governance); app.add_typer(audit, name='audit'); app()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_governance_runs_until_it_is_told_to_stop_and_follow_shows_what_comes(
    environment: dict[str, str], kafka_settings: KafkaSettings
) -> None:
    follow = spawn(environment, "audit", "replay", "--follow", "--json", "--action", "a.b")
    service = spawn(environment, "governance")
    with AuditTrail(kafka_settings, "cli") as trail:
        trail.record("a.b", "c", actor="d", event_id="one")
        assert follow.stdout is not None
        assert json.loads(follow.stdout.readline())["id"] == "one"
        trail.record("a.b", "c", actor="d", event_id="two")
        assert json.loads(follow.stdout.readline())["id"] == "two"
    assert service.stderr is not None
    for line in service.stderr:
        if "going on" in line:
            break
    second = spawn(environment, "governance")
    _, said = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "another governance service" in said and "Traceback" not in said
    service.send_signal(signal.SIGTERM)
    follow.send_signal(signal.SIGINT)
    _, said = service.communicate(timeout=60)
    assert service.returncode == 0, said
    follow.communicate(timeout=60)
    assert follow.returncode == 0


def test_governance_fails_when_kafka_stays_away(environment: dict[str, str]) -> None:
    away = environment | {"DRIFTLINE_BOOTSTRAP_SERVERS": "127.0.0.1:9", "DRIFTLINE_GOVERNANCE_GIVE_UP_SECONDS": "0.1"}
    process = spawn(away, "governance")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "giving up" in said and "Traceback" not in said
