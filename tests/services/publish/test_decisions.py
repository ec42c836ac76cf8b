"""Decisions and challengers' answers in a file are published as they were made, or their mistakes are named."""

import csv
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import driftline
from driftline.batches import take
from driftline.events import ALARM_MONITORS, NOT_DECIDED, PredictionColumns
from driftline.settings import KafkaSettings
from services.backtest import arrivals
from services.backtest.arrivals import Arrivals
from services.kafka import read_to_end
from services.publish.errors import BadValueError, FileError
from services.publish.files import open_file
from services.publish.publishing import FilePublisher
from services.publish.reading import Tally, read_predictions
from services.topics import ensure_topics
from streams.specification import DeploymentSpec, FeatureSpec

SPEC = DeploymentSpec("rents", "m", "regression", (FeatureSpec("size", "numeric"),))


def decision(i: int) -> dict[str, Any] | None:
    """What was decided about row i; nothing about every fifth."""
    if i % 5 == 4:
        return None
    return {
        "policy": f"p{i % 2}",
        "revision": 1 + i % 2,
        "action": ["answered", "overridden", "refused", "routed"][i % 4],
        "fired": sorted({i % 64, 63}),
        "quantile": i / 7 if i % 3 else None,
        "alarms": [name for bit, name in enumerate(ALARM_MONITORS) if i >> bit & 1],
        "answer": float(i) if i % 4 == 1 else None,
        "answer_label": f"class {i % 3}" if i % 4 == 1 else None,
    }


def event(i: int) -> dict[str, Any]:
    return {
        "prediction_id": f"r{i:04}",
        "timestamp": f"2026-01-01T{i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}Z",
        "model_version": f"v{i % 3 // 2}",
        "features": {"size": float(i)},
        "prediction": i / 2,
        "challenger_predictions": {"v7": i + 0.5} if i % 3 else {},
        "challenger_labels": {"v7": "cheap", "v8": f"c{i % 2}"} if i % 4 else {},
        "humility": decision(i),
    }


def flat(i: int, *, lists: bool) -> dict[str, Any]:
    """The same as columns of a table."""
    row: dict[str, Any] = {}
    for name, value in event(i).items():
        inner = value if isinstance(value, dict) else None
        row |= {name: value} if inner is None else {f"{name}.{key}": item for key, item in inner.items()}
    row.pop("humility", None)
    for name in ("humility.fired", "humility.alarms"):
        if not lists and name in row:
            row[name] = " ".join(map(str, row[name])) if i % 2 else ", ".join(map(str, row[name]))
    return row


def write(path: Path, rows: int) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(event(i)) for i in range(rows)))
        return path
    table = [flat(i, lists=path.suffix == ".parquet") for i in range(rows)]
    names = list(dict.fromkeys(name for row in table for name in row))
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: [row.get(name) for row in table] for name in names}), path)
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(table)
    return path


def decision_at(batch: PredictionColumns, row: int) -> dict[str, Any] | None:
    came = batch.humility
    if came is None or came.actions[row] == NOT_DECIDED:
        return None
    fired = int(came.fired[row])
    alarms = 0 if came.alarms is None else int(came.alarms[row])
    return {
        "policy": came.policy,
        "revision": came.revision,
        "action": ["answered", "overridden", "refused", "routed"][came.actions[row]],
        "fired": [rule for rule in range(64) if fired >> rule & 1],
        "quantile": None if came.quantiles is None else number_at(came.quantiles, row),
        "alarms": [name for bit, name in enumerate(ALARM_MONITORS) if alarms >> bit & 1],
        "answer": None if came.answers is None else number_at(came.answers, row),
        "answer_label": None if came.answer_labels is None else came.answer_labels.values()[row],
    }


def number_at(column: Any, row: int) -> float | None:
    return None if math.isnan(column[row]) else float(column[row])


def told(batches: list[PredictionColumns]) -> dict[str, tuple[Any, ...]]:
    return {
        key: (
            batch.model_version,
            decision_at(batch, row),
            {v: c[row] for v, c in batch.challenger_predictions.items() if not np.isnan(c[row])},
            {v: text for v, c in batch.challenger_labels.items() if (text := c.values()[row]) is not None},
        )
        for batch in batches
        for row, key in enumerate(batch.prediction_ids)
    }


def expected(rows: int) -> dict[str, tuple[Any, ...]]:
    return {
        e["prediction_id"]: (e["model_version"], e["humility"], e["challenger_predictions"], e["challenger_labels"])
        for e in map(event, range(rows))
    }


@pytest.mark.parametrize("name", ["f.jsonl", "f.csv", "f.parquet"])
def test_what_a_file_says_of_decisions_is_read_in_every_format(tmp_path: Path, name: str) -> None:
    batches = list(read_predictions(open_file(write(tmp_path / name, 700)), SPEC))
    assert told(batches) == expected(700)


def test_what_was_decided_is_published_as_it_was(bootstrap_servers: str, topic_prefix: str, tmp_path: Path) -> None:
    settings = KafkaSettings(bootstrap_servers, driftline.Topics(topic_prefix))
    ensure_topics(settings)
    file = open_file(write(tmp_path / "f.jsonl", 700))
    with FilePublisher(settings, SPEC, topic=settings.topics.predictions) as publisher:
        for batch in read_predictions(file, SPEC):
            publisher.publish(batch)
    messages = read_to_end(settings, settings.topics.predictions)
    arrived = [PredictionColumns.from_record(driftline.decode(message.value())[1]) for message in messages]
    assert told(arrived) == expected(700)


def test_decisions_stay_with_their_rows_while_a_backtest_sorts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "RUN_ROWS", 50)
    monkeypatch.setattr(arrivals, "BLOCK_ROWS", 7)
    found: dict[Any, Arrivals[PredictionColumns]] = {}
    with tempfile.TemporaryFile() as waiting:
        for batch in read_predictions(open_file(write(tmp_path / "f.csv", 700)), SPEC, run_rows=100):
            kind = batch.model_version, None if batch.humility is None else batch.humility.policy
            if kind not in found:
                found[kind] = Arrivals(waiting, "PredictionBatch", PredictionColumns.from_record)
            found[kind].add(take(batch, np.random.default_rng(0).permutation(batch.rows)))
        assert told([block for kind in found.values() for block in kind.blocks()]) == expected(700)


HEADER = "timestamp,size,humility.policy,humility.revision,humility.action,humility.fired,humility.alarms"


@pytest.mark.parametrize(
    ("values", "column", "complaint"),
    [
        ("p,1,declined,,", "humility.action", "expected one of answered, overridden, refused, routed, came 'declined'"),
        (",1,refused,,", "humility.policy", "the policy of a decision is missing"),
        ("p,,refused,,", "humility.revision", "expected the number of a revision"),
        ("p,1.5,refused,,", "humility.revision", "expected the number of a revision"),
        ("p,x,refused,,", "humility.revision", "expected a number, came 'x'"),
        ("p,1,refused,64,", "humility.fired", "expected numbers of rules, 0 to 63, came '64'"),
        ("p,1,refused,1 -2,", "humility.fired", "expected numbers of rules, 0 to 63, came '-2'"),
        ("p,1,refused,,weather", "humility.alarms", "expected monitors (data_drift"),
    ],
)
def test_a_mistake_in_a_decision_is_named_by_line_and_column(
    tmp_path: Path, values: str, column: str, complaint: str
) -> None:
    path = tmp_path / "f.csv"
    path.write_text(f"{HEADER}\n2026-01-01T00:00:00Z,1,p,1,answered,0 1,service\n2026-01-01T00:00:01Z,1,{values}\n")
    with pytest.raises(BadValueError) as caught:
        list(read_predictions(open_file(path), SPEC, version="1"))
    (value,) = caught.value.values
    assert (value.line, value.column) == (3, column) and complaint in value.message
    tally = Tally()
    (batch,) = read_predictions(open_file(path), SPEC, version="1", on_error="skip", tally=tally)
    assert (batch.rows, tally.rejected) == (1, 1)


@pytest.mark.parametrize("missing", ["humility.policy", "humility.revision"])
def test_actions_without_their_policy_are_refused(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "f.csv"
    path.write_text(f"{HEADER.replace(missing, 'other')}\n2026-01-01T00:00:00Z,1,p,1,answered,,\n")
    with pytest.raises(FileError, match=missing):
        list(read_predictions(open_file(path), SPEC, version="1"))


def test_a_file_without_actions_has_no_decisions(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text(f"{HEADER.replace('humility.action', 'action')}\n2026-01-01T00:00:00Z,1,p,1,answered,,\n")
    (batch,) = read_predictions(open_file(path), SPEC, version="1")
    assert batch.humility is None
