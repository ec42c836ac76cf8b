"""What a user types, against a real broker."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from driftline.codec import decode, encode
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.settings import KafkaSettings
from services.cli import output
from services.cli.status import _show
from services.kafka import publish, read_to_end
from services.publish.publishing import shard_of
from services.status import DeploymentStatus, SystemStatus
from services.topics import ensure_topics

SPEC = """
deployment: delays
model: delay-classifier
task: binary_classification
features:
  temp: {kind: numeric, column: TEMP C}
  carrier: categorical
columns:
  prediction_id: id
  timestamp: when
  timezone: Europe/Berlin
  class_probabilities: {late: p_late}
  actual_label: was_late
  actual_timestamp: arrived
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def deployed(settings: KafkaSettings, run: Run, tmp_path: Path) -> Path:
    ensure_topics(settings, partitions=2)
    (tmp_path / "delays.yaml").write_text(SPEC)
    assert run("deployment", "apply", tmp_path / "delays.yaml")[0] == 0
    return tmp_path


def csv(path: Path, rows: int, *, broken: tuple[int, ...] = ()) -> Path:
    rng = np.random.default_rng(7)
    lines = ["id,when,TEMP C,carrier,p_late,was_late,arrived"]
    for i in range(rows):
        temp = "warm" if i in broken else "" if i % 50 == 0 else f"{rng.normal(20, 5):.2f}"
        when = f"2024-03-{1 + i % 28:02d} {i % 24:02d}:00:00"
        label = "" if i % 10 == 0 else "true" if i % 3 else "false"
        lines.append(f"p{i},{when},{temp},{'AA' if i % 2 else 'UA'},0.{i % 90 + 10},{label},{when}")
    path.write_text("\n".join(lines) + "\n")
    return path


def on_topic(settings: KafkaSettings, topic: str) -> list[dict[str, Any]]:
    return [decode(message.value())[1] for message in read_to_end(settings, topic)]


def test_topics_are_created_listed_and_deleted(run: Run) -> None:
    status, out, _ = run("topics", "--json")
    assert status == 1 and json.loads(out)["complete"] is False
    status, out, _ = run("topics", "create", "--partitions", 2, "--json")
    assert status == 0 and len(json.loads(out)["created"]) == 12
    status, out, _ = run("topics")
    assert status == 0 and "streams-state" in out and "missing" not in out
    assert run("topics", "create", "--partitions", 3)[0] == 1
    assert run("topics", "delete", "--json")[0] == 2
    status, out, _ = run("topics", "delete", "--yes", "--json")
    assert status == 0 and len(json.loads(out)["deleted"]) == 12


def test_a_deployment_is_applied_listed_and_shown_as_it_can_be_applied_again(run: Run, deployed: Path) -> None:
    status, out, _ = run("deployment", "list", "--json")
    (listed,) = json.loads(out)
    assert status == 0 and listed["deployment"] == "delays" and listed["revision"] == 1
    assert "delay-classifier" in run("deployment", "list")[1]
    status, out, _ = run("deployment", "show", "delays")
    (deployed / "again.yaml").write_text(out)
    assert yaml.safe_load(out)["columns"]["class_probabilities"] == {"late": "p_late"}
    assert "unchanged" in run("deployment", "apply", deployed / "again.yaml")[1]
    (deployed / "again.yaml").write_text(out.replace("window: 1h", "window: 30m"))
    status, out, _ = run("deployment", "apply", deployed / "again.yaml", "--reason", "closer look")
    assert status == 0 and "changed, revision 2" in out and "window: 1h → 30m" in out
    status, out, _ = run("deployment", "show", "delay")
    assert status == 1


def test_where_a_known_detector_is_asked_for_it_is_said_what_it_is_worth(run: Run, deployed: Path) -> None:
    asked = SPEC + "positive_class: late\noutcomes: {horizon: 1d}\ndetectors: {error: ddm, temp: kswin}\n"
    (deployed / "asked.yaml").write_text(asked)
    said = " ".join(run("deployment", "apply", deployed / "asked.yaml", "--dry-run")[1].split())
    assert "Note: ddm on error: measured 10 to 73 false alarms per million unchanged values" in said
    assert "takes 0 or 1 and skips other values; outside the false-alarm budget" in said
    assert "Note: kswin on temp: measured" in said and "slow: 150 µs a value" in said
    assert "ddm on error" in run("deployment", "apply", deployed / "asked.yaml")[1]
    (deployed / "asked.yaml").write_text(asked.replace("error: ddm", "error: ddm, loss: adwin"))
    said = run("deployment", "apply", deployed / "asked.yaml")[1]
    assert "adwin on loss: measured" in said and "ddm on error: measured" not in said
    (again,) = json.loads(run("deployment", "apply", deployed / "asked.yaml", "--json")[1])["deployments"]
    assert again["result"] == "unchanged"
    assert [text.partition(":")[0] for text in again["detectors"]] == ["ddm on error", "adwin on loss", "kswin on temp"]


def test_outcomes_are_refused_until_the_topics_keep_them_long_enough(run: Run, deployed: Path) -> None:
    text = SPEC + "positive_class: late\noutcomes: {horizon: 200d, lateness: 0s}\n"
    (deployed / "waiting.yaml").write_text(text)
    status, _, err = run("deployment", "apply", deployed / "waiting.yaml")
    assert status == 1 and "delays: horizon 200d + window 1d + lateness 10m = 201d10m; " in " ".join(err.split())
    assert "driftline topics keep --days 202" in " ".join(err.split())
    assert run("topics", "keep", "--days", 0)[0] == 2
    status, out, _ = run("topics", "keep", "--days", 202, "--json")
    assert status == 0 and json.loads(out)["retention_ms"] == 202 * 86_400_000
    status, out, _ = run("deployment", "apply", deployed / "waiting.yaml")
    assert status == 0 and "outcomes.horizon: not given → 200d" in out
    assert "within 200d" in run("deployment", "list")[1]
    status, _, err = run("topics", "keep", "--days", 100)
    assert status == 1 and "delays: horizon 200d" in " ".join(err.split())
    assert run("topics", "keep", "--days", -1)[0] == 0
    assert yaml.safe_load(run("deployment", "show", "delays")[1])["outcomes"]["horizon"] == "200d"


def test_a_second_deployment_changes_the_share_of_the_first_and_says_so(run: Run, deployed: Path) -> None:
    (deployed / "second.yaml").write_text("deployment: churn\nmodel: m\ntask: other\nfeatures: {x: numeric}\n")
    status, out, _ = run("deployment", "apply", deployed / "second.yaml", "--dry-run")
    assert status == 0 and "dry run" in out and len(json.loads(run("deployment", "list", "--json")[1])) == 1
    status, out, _ = run("deployment", "apply", deployed / "second.yaml")
    assert status == 0 and "delays: changed (its part of the fleet's false-alarm budget), revision 2" in out
    assert "false_alarms.share: 1.0 → 0.5" in out and "churn: created" in out


def test_predictions_of_a_file_arrive_in_order_on_one_partition(
    run: Run, deployed: Path, settings: KafkaSettings
) -> None:
    file = csv(deployed / "f.csv", 1200)
    status, out, _ = run("publish", "predictions", "delays", file, "--version", "3", "--batch-rows", 500, "--json")
    result = json.loads(out)
    assert status == 0 and (result["read"], result["published"], result["rejected"]) == (1200, 1200, 0)
    messages = list(read_to_end(settings, settings.topics.predictions))
    assert {m.partition() for m in messages} == {messages[0].partition()} and {m.key() for m in messages} == {b"delays"}
    batches = [PredictionColumns.from_record(decode(m.value())[1]) for m in messages]
    assert [b.rows for b in batches] == [500, 500, 200]
    assert [i for b in batches for i in b.prediction_ids] == [f"p{i}" for i in range(1200)]
    first = batches[0]
    assert first.model_version == "3" and first.model_id == "delay-classifier"
    assert int(first.timestamps_us[0]) == 1709247600_000000  # midnight in Berlin
    assert np.isnan(first.numeric["temp"][0]) and first.categorical["carrier"].values()[:2] == ["UA", "AA"]
    assert first.class_probabilities["late"][:2].tolist() == [0.10, 0.11]


def test_a_bad_number_stops_with_line_and_column_and_nothing_is_published(
    run: Run, deployed: Path, settings: KafkaSettings
) -> None:
    file = csv(deployed / "f.csv", 100, broken=(40, 60))
    status, _, err = run("publish", "predictions", "delays", file, "--version", "3")
    assert status == 2 and f"{file}, line 42, column 'TEMP C': expected a number, came 'warm'" in err
    assert on_topic(settings, settings.topics.predictions) == []
    status, out, _ = run("publish", "predictions", "delays", file, "--version", "3", "--on-error", "skip", "--json")
    result = json.loads(out)
    assert status == 1 and (result["published"], result["rejected"]) == (98, 2)
    assert [v["line"] for v in result["examples"]] == [42, 62]


def test_a_dry_run_reads_everything_and_publishes_nothing(run: Run, deployed: Path, settings: KafkaSettings) -> None:
    file = csv(deployed / "f.csv", 100)
    status, out, _ = run("publish", "predictions", "delays", file, "--version", "3", "--dry-run", "--json")
    assert status == 0 and json.loads(out)["usable"] == 100 and json.loads(out)["published"] == 0
    assert on_topic(settings, settings.topics.predictions) == []


def test_outcomes_of_the_same_file_land_on_the_partition_of_their_predictions(
    run: Run, deployed: Path, settings: KafkaSettings
) -> None:
    file = csv(deployed / "f.csv", 100)
    assert run("publish", "predictions", "delays", file, "--version", "3")[0] == 0
    status, out, _ = run("publish", "outcomes", "delays", file, "--json")
    result = json.loads(out)
    assert status == 0 and (result["published"], result["unresolved"]) == (90, 10)
    (prediction,) = read_to_end(settings, settings.topics.predictions)
    (outcome,) = read_to_end(settings, settings.topics.outcomes)
    assert outcome.partition() == prediction.partition()
    columns = OutcomeColumns.from_record(decode(outcome.value())[1])
    assert set(columns.prediction_ids) <= {f"p{i}" for i in range(100)} and columns.actual_label is not None


def test_shards_spread_a_deployment_and_keep_outcomes_with_predictions(
    run: Run, deployed: Path, settings: KafkaSettings
) -> None:
    (deployed / "delays.yaml").write_text(SPEC + "shards: 4\n")
    assert run("deployment", "apply", deployed / "delays.yaml")[0] == 0
    file = csv(deployed / "f.csv", 200)
    assert run("publish", "predictions", "delays", file, "--version", "3")[0] == 0
    assert run("publish", "outcomes", "delays", file)[0] == 0
    for topic in (settings.topics.predictions, settings.topics.outcomes):
        keys = {}
        for message in read_to_end(settings, topic):
            for name in decode(message.value())[1]["prediction_ids"]:
                keys[name] = message.key()
        assert all(key == f"delays#{shard_of(name, 4)}".encode() for name, key in keys.items())
        assert len(set(keys.values())) == 4


def test_speed_paces_by_event_time(run: Run, deployed: Path) -> None:
    lines = ["id,when,TEMP C,carrier,p_late"] + [f"p{i},2024-03-01 00:00:{i:02d},1,AA,0.5" for i in range(0, 40, 2)]
    (deployed / "f.csv").write_text("\n".join(lines))
    status, out, _ = run(
        "publish",
        "predictions",
        "delays",
        deployed / "f.csv",
        "--version",
        "3",
        "--speed",
        20,
        "--batch-rows",
        5,
        "--json",
    )
    assert status == 0 and 1.8 < json.loads(out)["seconds"] < 10  # 38 s of events


def test_a_baseline_is_built_from_a_file_shown_and_audited(run: Run, deployed: Path, settings: KafkaSettings) -> None:
    file = csv(deployed / "f.csv", 2000)
    status, out, _ = run("baseline", "build", "delays", file, "--version", "3", "--to", "2024-03-15", "--json")
    built = json.loads(out)
    assert status == 0 and built["result"] == "built" and built["rows"] < 2000 and built["outside"] > 0
    values = [s["stream"] for s in built["streams"] if s["role"] in ("feature", "prediction")]
    assert values == ["temp", "carrier", "probability:late"]
    assert 0.01 < built["streams"][0]["missing_share"] < 0.03
    again = json.loads(run("baseline", "build", "delays", file, "--version", "3", "--to", "2024-03-15", "--json")[1])
    assert again["result"] == "unchanged" and again["digest"] == built["digest"]
    assert json.loads(run("baseline", "show", "delays@3", "--json")[1])["digest"] == built["digest"]
    assert "probability:late" in run("baseline", "show", "delays")[1]
    event = on_topic(settings, settings.topics.audit)[-1]
    assert (event["action"], event["subject"], event["actor"]) == ("baseline.built", "baseline:delays@3", "ada")
    assert event["after_digest"] == built["digest"]
    (message,) = read_to_end(settings, settings.topics.baselines)
    assert message.key() == b"delays@3"
    status, _, err = run("baseline", "show", "delays@4")
    assert status == 1 and "there is no baseline for 'delays@4': there is one for '3'" in err


def test_too_short_a_reference_is_refused_in_words(run: Run, deployed: Path) -> None:
    status, _, err = run("baseline", "build", "delays", csv(deployed / "f.csv", 50), "--version", "3")
    assert status == 1 and "at least 200 rows" in err


def test_windows_are_shown_and_merged(run: Run, deployed: Path, settings: KafkaSettings) -> None:
    effects: dict[str, Any] = dict.fromkeys(("psi", "jensen_shannon", "total_variation", "hellinger", "kl"), 0.125)
    effects |= {"chi_square": 0.3, "intervals": {"psi": [0.1, 0.15]}}
    for hour in range(3):
        start = 1709247600_000000 + hour * 3_600_000_000
        stream = {"name": "temp", "role": "feature", "layout": "numeric", "counts": [1, 2], "effects": effects}
        ordered = {"kolmogorov_smirnov": 0.2, "wasserstein": 1234.4, "wasserstein_error": 900.0}
        whole = stream | {"effects": effects | ordered, "importance": 0.731}
        record = {
            "id": str(hour), "deployment_id": "delays", "model_version": "3", "partition": 0, "window_start_us": start,
            "window_end_us": start + 3_600_000_000, "status": "final", "revision": 1, "rows": 3, "baseline_digest": "x",
            "streams": [whole, stream | {"segment": "region=north"}],
        }  # fmt: skip
        publish(settings, settings.topics.windows, b"delays", encode("WindowSummary", record))
    status, out, _ = run("windows", "show", "delays", "--last", 2)
    assert status == 0 and out.count("temp") == 2 and "1 streams of parts of the traffic: --parts" in out
    status, out, _ = run("windows", "show", "delays", "--last", 2, "--parts")
    assert status == 0 and out.count("temp") == 4 and "0.125" in out and "2024-03-01 01:00" in out
    assert out.count("temp [region=north]") == 2 and out.count("0.100–0.150") == 4 and out.count("0.731") == 2
    status, out, _ = run("windows", "show", "delays", "--last", 1, "--effects", "all", "--stream", "temp")
    assert status == 0 and out.count("chi-square") == 2 and out.count("KS") == out.count("Wasserstein") == 1
    assert "± 900" in out and "1,234" in out
    status, out, _ = run("windows", "show", "delays", "--by", "month", "--json")
    assert [(p["rows"], p["windows"]) for p in json.loads(out)] == [(3, 1), (6, 2)]  # one began in February, UTC
    status, _, err = run("windows", "show", "delays", "--stream", "tmp")
    assert status == 2 and "there are temp" in " ".join(err.replace("│", " ").split())


def test_windows_of_many_streams_fill_no_more_than_a_few_screens(
    run: Run, deployed: Path, settings: KafkaSettings
) -> None:
    effects: dict[str, Any] = dict.fromkeys(("psi", "jensen_shannon", "total_variation", "hellinger", "kl"), 0.125)
    for hour in range(4):
        start = 1709247600_000000 + hour * 3_600_000_000
        stream = {"role": "feature", "layout": "numeric", "counts": [1, 2], "effects": effects}
        record = {
            "id": str(hour), "deployment_id": "delays", "model_version": "3", "partition": 0, "window_start_us": start,
            "window_end_us": start + 3_600_000_000, "status": "final", "revision": 1, "rows": 3, "baseline_digest": "x",
            "streams": [stream | {"name": f"f{number}"} for number in range(100)],
        }  # fmt: skip
        publish(settings, settings.topics.windows, b"delays", encode("WindowSummary", record))
    assert len(run("windows", "show", "delays")[1].splitlines()) < 110
    assert "the last 1; more: --last N" in run("windows", "show", "delays")[1]
    assert len(run("windows", "show", "delays", "--last", 4)[1].splitlines()) > 400


def test_status_of_a_large_fleet_is_short_and_names_trouble_first(
    settings: KafkaSettings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output.stdout, "width", 150)

    def alert(number: int) -> Any:
        return {"deployment_id": f"d{number:03}", "model_version": "1", "monitor": "service", "severity": "error",
                "change_time_us": 0, "detection_time_us": number, "causes": [{"stream": "rate", "segment": "a=b"}],
                }  # fmt: skip

    deployments = [DeploymentStatus(f"d{number:03}", "", 1, ["1"], {}, None) for number in range(200)]
    firing = [alert(number) for number in range(150, 180)]
    found = SystemStatus("k", [], 1, deployments=deployments, firing=firing)
    _show(found, show_all=False)
    out = capsys.readouterr().out
    assert len(out.splitlines()) < 60
    assert "30 firing" in out and "and 20 more: driftline alerts list --status firing" in out
    assert "first cause rate [a=b]" in out and "d150" in out and "d000" not in out
    assert "175 more deployments: --all" in out
    _show(found, show_all=True)
    assert "d000" in (out := capsys.readouterr().out) and "more" not in out


def test_status_tells_what_is_there_and_what_is_not(run: Run, deployed: Path, settings: KafkaSettings) -> None:
    letter = {
        "id": "1", "reason": "undecodable", "error": "", "source_topic": "t", "source_partition": 0, "source_offset": 0,
        "source_timestamp_ms": 0, "value_bytes": 0, "value_sha256": "",
    }  # fmt: skip
    publish(settings, settings.topics.dead_letters, b"0", encode("DeadLetter", letter))
    publish(settings, settings.topics.dead_letters, b"0", encode("DeadLetter", letter))
    assert run("publish", "predictions", "delays", csv(deployed / "f.csv", 10), "--version", "3")[0] == 0
    status, out, _ = run("status", "--json")
    found = json.loads(out)
    assert status == 1 and found["workers"] == 0  # no worker runs here
    assert found["lag"] == 1 and found["topics"]["complete"]
    assert [d["deployment"] for d in found["deployments"]] == ["delays"]
    assert found["dead_letters"]["latest_by_reason"] == {"undecodable": 1}
    assert "none runs" in run("status")[1]


def test_status_without_topics_names_the_command_that_creates_them(run: Run) -> None:
    status, out, _ = run("status")
    assert status == 1 and "12 of 12 missing" in out and "driftline topics create" in out


def test_an_unknown_deployment_is_answered_with_the_closest(run: Run, deployed: Path) -> None:
    status, _, err = run("publish", "predictions", "dealys", csv(deployed / "f.csv", 10), "--version", "3")
    assert status == 1 and "there is no deployment 'dealys': did you mean 'delays'?" in err


def test_kafka_properties_from_the_environment_reach_every_client(
    run: Run, deployed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = csv(deployed / "f.csv", 300)
    monkeypatch.setenv("DRIFTLINE_KAFKA_NO_SUCH_PROPERTY", "1")
    for words in (
        ["topics"],
        ["topics", "create"],
        ["deployment", "list"],
        ["deployment", "apply", deployed / "delays.yaml"],
        ["baseline", "build", "delays", file, "--version", "3"],
        ["publish", "predictions", "delays", file, "--version", "3"],
        ["status"],
        ["windows", "show", "delays"],
    ):
        status, _, err = run(*words)
        assert status == 1 and 'No such configuration property: "no.such.property"' in err
    monkeypatch.delenv("DRIFTLINE_KAFKA_NO_SUCH_PROPERTY")
    monkeypatch.setenv("DRIFTLINE_KAFKA_SECURITY_PROTOCOL", "SSL")  # the broker speaks plain text
    monkeypatch.setenv("DRIFTLINE_CONNECT_SECONDS", "3")
    status, _, err = run("deployment", "list")
    assert status == 1 and "no Kafka cluster answers" in err and "SSL" in err.split("(ssl:")[1]


def test_up_runs_everything_until_it_is_told_to_stop(settings: KafkaSettings, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "services.cli.main", "up", "--data-dir", str(tmp_path), "--json"]
    environment = os.environ | {"DRIFTLINE_APPLICATION_ID": settings.topics.prefix}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        text = "".join(iter(process.stdout.readline, "}\n"))
        found = json.loads(text + "}")
        assert found["bootstrap_servers"] == settings.bootstrap_servers and found["partitions"] == 4
        assert [p["name"] for p in found["processes"]] == ["worker-1", "alerting", "governance"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert "given up" not in process.stderr.read()
    assert not any(Path(f"/proc/{p['pid']}").exists() for p in found["processes"])
    assert {log.name for log in (tmp_path / "logs").iterdir()} == {"worker-1.log", "alerting.log", "governance.log"}
