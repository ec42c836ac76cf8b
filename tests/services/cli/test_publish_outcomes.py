"""``driftline publish outcomes``: what a file says of who acted and who was labelled is in the sums of the windows."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import driftline
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.settings import KafkaSettings
from services.deployments.store import get_deployment
from services.kafka import broker_time_ms, read_to_end
from services.topics import ensure_topics
from streams.baseline import Baseline
from streams.decoding import decode_message
from streams.messages import Message
from streams.partition import Partition
from streams.reference import build_baseline

Run = Callable[..., tuple[int, str, str]]

SPEC = """
deployment: claims
model: m
task: binary_classification
positive_class: fraud
features: {amount: numeric}
columns: {prediction_id: claim, actual_label: verdict, actual_timestamp: closed, labelling_probability: chance}
outcomes: {horizon: 1h, window: 1d, classes: [fraud, fine]}
"""
ROWS = 240
TIME = "2024-03-01T12:00:00Z"

ACTED = ["true", "no", None, "1", "yes", "0"]
CHANCES = [1.0, 0.5, 0.25]


def outcome_rows() -> list[dict[str, Any]]:
    """Every tenth is not resolved yet; all others say who acted and how probable it was that they were labelled."""
    return [
        {
            "claim": f"c{row}",
            "closed": TIME,
            "verdict": None if row % 10 == 9 else ("fraud", "fine")[row % 2],
            "was_acted_on": ACTED[row % 6],
            "chance": CHANCES[row % 3],
        }
        for row in range(ROWS)
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def deployed(settings: KafkaSettings, run: Run, tmp_path: Path) -> Path:
    ensure_topics(settings, partitions=1)
    (tmp_path / "claims.yaml").write_text(SPEC)
    assert run("deployment", "apply", tmp_path / "claims.yaml")[0] == 0
    predictions = [
        {"claim": f"c{row}", "timestamp": TIME, "amount": row % 17, "prediction": row / ROWS} for row in range(ROWS)
    ]
    assert run("publish", "predictions", "claims", write(tmp_path / "p.csv", predictions), "--version", "1")[0] == 0
    return tmp_path


def messages(settings: KafkaSettings, topic: str) -> list[Message]:
    return [
        Message(topic, 0, cast(int, raw.offset()), broker_time_ms(raw) or 0, raw.key(), raw.value())
        for raw in read_to_end(settings, topic)
    ]


def window_of(settings: KafkaSettings) -> tuple[dict[str, list[int]], dict[str, list[float]]]:
    """The sums of the only accuracy window, by the state machine that workers run."""
    spec = get_deployment(settings, "claims").spec
    partition = Partition(0, settings.topics)
    log = messages(settings, settings.topics.predictions)
    columns = [decode_message(message, settings.topics).columns for message in log]
    baseline: Baseline = build_baseline(
        spec, "1", [each for each in columns if isinstance(each, PredictionColumns)], source="test"
    )
    partition.put_spec_in_force(spec)
    partition.put_baseline_in_force(baseline)
    for message in [*log, *messages(settings, settings.topics.outcomes)]:
        partition.apply(decode_message(message, settings.topics))
    partition.end("claims")
    emissions = partition.take()[1]
    assert not [e.record["error"] for e in emissions if e.record_name == "DeadLetter"]
    (record,) = [e.record for e in emissions if e.record_name == "PerformanceWindow" and e.record["status"] == "final"]
    return record["parts"][0]["counts"], record["parts"][0]["sums"]


def published(settings: KafkaSettings) -> dict[str, tuple[str | None, int, float]]:
    found: dict[str, tuple[str | None, int, float]] = {}
    for message in messages(settings, settings.topics.outcomes):
        batch = OutcomeColumns.from_record(driftline.decode(message.value)[1])
        assert batch.actual_label is not None and batch.was_acted_on is not None
        chances = np.ones(batch.rows) if batch.labelling_probability is None else batch.labelling_probability
        each = zip(batch.actual_label.values(), batch.was_acted_on.tolist(), chances.tolist(), strict=True)
        found |= dict(zip(batch.prediction_ids, each, strict=True))
    return found


def expected() -> dict[str, tuple[str | None, int, float]]:
    meaning = {"true": 1, "1": 1, "yes": 1, "no": 0, "0": 0, None: 255}
    return {
        row["claim"]: (row["verdict"], meaning[row["was_acted_on"]], row["chance"])
        for row in outcome_rows()
        if row["verdict"] is not None
    }


def check_window(settings: KafkaSettings) -> None:
    wanted = expected().values()
    counts, sums = window_of(settings)
    assert (counts["predictions"], counts["resolved"]) == ([ROWS], [len(wanted)])
    assert counts["acted"] == [sum(acted == kind for _, acted, _ in wanted) for kind in (0, 1, 255)]
    assert sums["weights"] == [sum(1 / chance for _, _, chance in wanted)]
    confusion = np.array(sums["weighted_confusion"]).reshape(2, 2)
    assert confusion.sum(axis=0).tolist() == [
        sum(1 / chance for label, _, chance in wanted if label == name) for name in ("fine", "fraud")
    ]


@pytest.mark.parametrize("name", ["o.csv", "o.parquet", "o.jsonl", "o.csv.gz"])
def test_columns_of_every_kind_of_file_arrive_in_the_windows(
    run: Run, deployed: Path, settings: KafkaSettings, name: str
) -> None:
    path = write(deployed / name.removesuffix(".gz"), outcome_rows())
    if name.endswith(".gz"):
        path = deployed / name
        path.write_bytes(gzip.compress((deployed / "o.csv").read_bytes()))
    status, out, _ = run("publish", "outcomes", "claims", path, "--json")
    result = json.loads(out)
    assert (status, result["read"], result["published"]) == (0, ROWS, ROWS - ROWS // 10)
    assert (result["unresolved"], result["rejected"]) == (ROWS // 10, 0)
    assert published(settings) == expected()
    check_window(settings)


def test_the_client_says_the_same_by_rows_and_by_columns(deployed: Path, settings: KafkaSettings) -> None:
    rows = [row for row in outcome_rows() if row["verdict"] is not None]
    acted = {"true": True, "1": True, "yes": True, "no": False, "0": False, None: None}
    half = len(rows) // 2
    with driftline.Client("claims", "1", settings=settings, strict=True) as client:
        for row in rows[:half]:
            client.log_outcome(
                row["claim"],
                actual_label=row["verdict"],
                actual_timestamp=TIME,
                was_acted_on=acted[row["was_acted_on"]],
                labelling_probability=row["chance"],
            )
        client.log_outcomes(
            [row["claim"] for row in rows[half:]],
            actual_label=[row["verdict"] for row in rows[half:]],
            actual_timestamps=[TIME] * (len(rows) - half),
            was_acted_on=[acted[row["was_acted_on"]] for row in rows[half:]],
            labelling_probability=[row["chance"] for row in rows[half:]],
        )
    assert published(settings) == expected()
    check_window(settings)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("was_acted_on", "perhaps", "column 'was_acted_on': expected true or false, came 'perhaps'"),
        ("chance", "0", "column 'chance': expected a probability above 0 and at most 1, came 0.0"),
        ("chance", "", "column 'chance': expected a probability above 0 and at most 1, came nothing"),
        ("chance", "2", "column 'chance': expected a probability above 0 and at most 1, came 2.0"),
    ],
)
def test_a_bad_value_is_named_and_its_row_can_be_left_out(
    run: Run, deployed: Path, settings: KafkaSettings, column: str, value: str, says: str
) -> None:
    path = write(
        deployed / "o.csv", [row | ({column: value} if row["claim"] == "c4" else {}) for row in outcome_rows()]
    )
    status, _, err = run("publish", "outcomes", "claims", path)
    assert status == 2 and "line 6" in err and says in " ".join(err.split())
    assert published(settings) == {}
    status, out, _ = run("publish", "outcomes", "claims", path, "--on-error", "skip", "--json")
    assert status == 1 and json.loads(out)["rejected"] == 1
    assert published(settings) == {name: row for name, row in expected().items() if name != "c4"}


def test_whoever_expects_no_outcomes_is_told_that_these_tell_nothing(run: Run, deployed: Path) -> None:
    (deployed / "claims.yaml").write_text("\n".join(line for line in SPEC.splitlines() if "outcomes:" not in line))
    assert run("deployment", "apply", deployed / "claims.yaml")[0] == 0
    status, _, err = run("publish", "outcomes", "claims", write(deployed / "o.csv", outcome_rows()))
    assert status == 0
    assert "claims expects no outcomes: they are counted, and compared with nothing" in " ".join(err.split())
    assert "outcomes: {horizon: 30d}" in err
