"""What a file says arrives in the topic, through the client and a real broker."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import driftline
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.settings import KafkaSettings
from services.kafka import read_to_end
from services.publish.files import open_file
from services.publish.publishing import FilePublisher
from services.publish.reading import read_outcomes, read_predictions
from services.topics import ensure_topics
from streams.specification import DeploymentSpec, FeatureSpec

ROWS = 1_200
FEATURES = (
    FeatureSpec("embedding", "embedding"),
    FeatureSpec("question", "text"),
    FeatureSpec("member", "boolean"),
    FeatureSpec("age", "numeric"),
)


@pytest.fixture
def settings(bootstrap_servers: str, topic_prefix: str) -> KafkaSettings:
    settings = KafkaSettings(bootstrap_servers, driftline.Topics(topic_prefix))
    ensure_topics(settings)
    return settings


@pytest.mark.parametrize("shards", [1, 3])
def test_vectors_texts_booleans_errors_and_latency_of_a_file_arrive_equal(
    settings: KafkaSettings, tmp_path: Path, shards: int
) -> None:
    vectors = np.random.default_rng(0).normal(size=(ROWS, 32)).astype(np.float32)
    there = [i % 7 != 0 for i in range(ROWS)]
    table: dict[str, Any] = {
        "prediction_id": [f"p{i:04}" for i in range(ROWS)],
        "timestamp": pa.array(range(ROWS), pa.timestamp("s", "UTC")),
        "embedding": pa.array([list(map(float, v)) if yes else None for v, yes in zip(vectors, there, strict=True)]),
        "question": [f"question {i} ☃" for i in range(ROWS)],
        "member": [None if i % 5 == 0 else i % 2 == 0 for i in range(ROWS)],
        "age": [float(i) for i in range(ROWS)],
        "error": ["timeout" if i % 11 == 0 else None for i in range(ROWS)],
        "latency_ms": [i / 4 for i in range(ROWS)],
    }
    pq.write_table(pa.table(table), tmp_path / "f.parquet")
    spec = DeploymentSpec("support", "m", "other", FEATURES, shards=shards)
    with FilePublisher(settings, spec, topic=settings.topics.predictions) as publisher:
        for columns in read_predictions(open_file(tmp_path / "f.parquet"), spec, version="1"):
            publisher.publish(columns)

    rows: dict[str, tuple[Any, ...]] = {}
    for message in read_to_end(settings, settings.topics.predictions):
        batch = PredictionColumns.from_record(driftline.decode(message.value())[1])
        assert batch.error is not None and batch.latency_ms is not None
        errors, texts = batch.error.values(), batch.categorical["question"].values()
        members = batch.categorical["member"].values()
        for i, key in enumerate(batch.prediction_ids):
            assert key not in rows
            embedding = batch.vectors["embedding"][i]
            rows[key] = (embedding, texts[i], members[i], batch.numeric["age"][i], errors[i], batch.latency_ms[i])
    assert sorted(rows) == table["prediction_id"]
    for i, key in enumerate(table["prediction_id"]):
        embedding, *others = rows[key]
        np.testing.assert_array_equal(embedding, vectors[i] if there[i] else [math.nan] * 32)
        member = None if i % 5 == 0 else "true" if i % 2 == 0 else "false"
        assert others == [table["question"][i], member, float(i), table["error"][i], i / 4]


@pytest.mark.parametrize("shards", [1, 3])
def test_intervals_and_labelling_probabilities_of_a_file_arrive_equal(
    settings: KafkaSettings, tmp_path: Path, shards: int
) -> None:
    ids = [f"p{i:04}" for i in range(ROWS)]
    low = [None if i % 4 == 0 else i - 1.0 for i in range(ROWS)]
    chances = [1.0 if i % 2 else 0.125 for i in range(ROWS)]
    at = pa.array(range(ROWS), pa.timestamp("s", "UTC"))
    table = {
        "prediction_id": ids,
        "timestamp": at,
        "prediction_low": low,
        "prediction_high": [None if value is None else value + 3 for value in low],
        "actual_timestamp": at,
        "actual_value": [float(i) if i % 5 else None for i in range(ROWS)],
        "labelling_probability": chances,
    }
    pq.write_table(pa.table(table), tmp_path / "f.parquet")
    spec = DeploymentSpec("rents", "m", "regression", (), shards=shards)
    topics = settings.topics
    with FilePublisher(settings, spec, topic=topics.predictions) as publisher:
        for columns in read_predictions(open_file(tmp_path / "f.parquet"), spec, version="1"):
            publisher.publish(columns)
        for outcomes in read_outcomes(open_file(tmp_path / "f.parquet"), spec):
            publisher.publish(outcomes)

    intervals: dict[str, tuple[float, float]] = {}
    for message in read_to_end(settings, topics.predictions):
        batch = PredictionColumns.from_record(driftline.decode(message.value())[1])
        assert batch.prediction_low is not None and batch.prediction_high is not None
        ends = zip(batch.prediction_low.tolist(), batch.prediction_high.tolist(), strict=True)
        intervals.update(zip(batch.prediction_ids, ends, strict=True))
    expected = [(math.nan,) * 2 if value is None else (value, value + 3) for value in low]
    np.testing.assert_array_equal([intervals[key] for key in ids], expected)
    came: dict[str, float] = {}
    for message in read_to_end(settings, topics.outcomes):
        resolved = OutcomeColumns.from_record(driftline.decode(message.value())[1])
        assert resolved.labelling_probability is not None
        came.update(zip(resolved.prediction_ids, resolved.labelling_probability.tolist(), strict=True))
    assert came == {key: chances[i] for i, key in enumerate(ids) if i % 5}
