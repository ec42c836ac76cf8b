"""References from the predictions topic, with a real broker."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from driftline.codec import encode
from driftline.events import CategoricalColumn, HumilityColumns, PredictionColumns
from driftline.settings import KafkaSettings
from driftline.topics import Topics, record_key
from services.deployments.reference import (
    NoReferenceError,
    TopicReference,
    merged,
    read_topic,
    source_text,
)
from services.kafka import Publisher
from services.publish.reading import Selection
from services.topics import ensure_topics
from streams.reference import build_baseline
from streams.specification import DeploymentSpec, FeatureSpec

HOUR_US = 3_600_000_000
T0 = 1_709_251_200_000_000  # 2024-03-01, UTC
SPEC = DeploymentSpec(
    "d", "model", "other", (FeatureSpec("x", "numeric"), FeatureSpec("c", "categorical")), shards=2
)  # fmt: skip


@pytest.fixture
def settings(bootstrap_servers: str, topic_prefix: str) -> KafkaSettings:
    settings = KafkaSettings(bootstrap_servers, Topics(topic_prefix))
    ensure_topics(settings, partitions=4)
    return settings


def batch(ids: Iterable[int], *, version: str = "1", deployment: str = "d") -> PredictionColumns:
    """Row i happens i minutes after T0."""
    numbers = np.array(list(ids))
    return PredictionColumns(
        deployment,
        version,
        [f"p{i}" for i in numbers],
        T0 + numbers * 60_000_000,
        {"x": np.random.default_rng(numbers[0]).normal(size=len(numbers))},
        {"c": CategoricalColumn(["a", "b"], (numbers % 2).astype(np.int32))},
        prediction=numbers / len(numbers),
    )


def send(settings: KafkaSettings, batches: Iterable[PredictionColumns], *, shard: int | None = 0) -> None:
    with Publisher(settings) as publisher:
        for each in batches:
            key = record_key(each.deployment_id, shard)
            publisher.send(settings.topics.predictions, key, encode("PredictionBatch", each.to_record()))


def ids_of(found: TopicReference) -> list[str]:
    return [name for columns in found.columns for name in columns.prediction_ids]


def test_the_rows_of_a_version_in_a_range_are_taken_once_from_all_partitions(settings: KafkaSettings) -> None:
    send(settings, [batch(range(100)), batch(range(50, 120)), batch(range(40), version="2")])
    send(settings, [batch(range(200, 300))], shard=1)
    send(settings, [batch(range(50), deployment="other")])
    selection = Selection(T0 + 10 * 60_000_000, T0 + 250 * 60_000_000)
    told: list[int] = []
    found = read_topic(settings, SPEC, "1", selection, progress=told.append)
    assert sorted(ids_of(found)) == sorted(f"p{i}" for i in (*range(10, 120), *range(200, 250)))
    assert found.rows == 160
    assert found.duplicates == 50
    assert found.outside == 10 + 50
    assert {name: span.rows for name, span in found.versions.items()} == {"1": 270, "2": 40}
    assert sum(told) == 310
    for columns in found.columns:
        for at, name in enumerate(columns.prediction_ids):
            assert int(columns.timestamps_us[at]) == T0 + int(name[1:]) * 60_000_000
            assert columns.categorical["c"].values()[at] == "ab"[int(name[1:]) % 2]


def test_what_a_worker_would_refuse_does_not_count(settings: KafkaSettings) -> None:
    send(settings, [batch(range(10))])
    topic = settings.topics.predictions
    with Publisher(settings) as publisher:
        publisher.send(topic, b"d#7", encode("PredictionBatch", batch(range(10, 20)).to_record()))
        publisher.send(topic, None, encode("PredictionBatch", batch(range(20, 30)).to_record()))
        publisher.send(topic, b"d#0", b"no Avro")
        publisher.send(topic, b"d#0", encode("PredictionBatch", batch(range(30, 40), deployment="e").to_record()))
    found = read_topic(settings, SPEC, "1", Selection())
    assert ids_of(found) == [f"p{i}" for i in range(10)]
    assert found.refused == 2


def send_and_abort(settings: KafkaSettings, columns: PredictionColumns) -> None:
    with Publisher(settings, transactional_id=settings.topics.prefix) as publisher:
        publisher.send(settings.topics.predictions, b"d#0", encode("PredictionBatch", columns.to_record()))
        publisher.flush()
        raise InterruptedError


def test_rows_of_an_aborted_transaction_do_not_count(settings: KafkaSettings) -> None:
    send(settings, [batch(range(10))])
    with pytest.raises(InterruptedError):
        send_and_abort(settings, batch(range(10, 20)))
    assert read_topic(settings, SPEC, "1", Selection()).rows == 10


def test_of_too_many_rows_the_earliest_are_the_reference(settings: KafkaSettings) -> None:
    order = np.random.default_rng(3).permutation(60)
    send(settings, [batch(range(10 * i, 10 * i + 10)) for i in order[:30].tolist()])
    send(settings, [batch(range(10 * i, 10 * i + 10)) for i in order[30:].tolist()], shard=1)
    found = read_topic(settings, SPEC, "1", Selection(limit=45))
    assert sorted(ids_of(found)) == sorted(f"p{i}" for i in range(45))
    assert found.beyond == 600 - 45
    whole = read_topic(settings, SPEC, "1", Selection(limit=600))
    assert whole.rows == 600
    assert whole.beyond == 0


def test_a_reference_from_the_topic_teaches_what_the_same_rows_from_a_file_teach(settings: KafkaSettings) -> None:
    whole = batch(range(3000))
    pieces = [
        dataclasses.replace(
            whole,
            prediction_ids=whole.prediction_ids[i : i + 100],
            timestamps_us=whole.timestamps_us[i : i + 100],
            numeric={"x": whole.numeric["x"][i : i + 100]},
            categorical={"c": CategoricalColumn(["a", "b"], whole.categorical["c"].codes[i : i + 100])},
            prediction=None if whole.prediction is None else whole.prediction[i : i + 100],
        )
        for i in range(0, 3000, 100)
    ]
    send(settings, pieces)
    found = read_topic(settings, SPEC, "1", Selection())
    assert len(found.columns) == 1, "small batches are put together"
    from_topic = build_baseline(SPEC, "1", found.columns, source="same")
    assert from_topic.digest == build_baseline(SPEC, "1", [whole], source="same").digest
    assert source_text("t", Selection(T0), found) == "topic t from 2024-03-01T00:00:00Z (3000 rows)"


@pytest.mark.parametrize("published", [False, True], ids=["empty topic", "other version"])
def test_without_rows_it_is_said_what_there_is(settings: KafkaSettings, published: bool) -> None:
    if published:
        send(settings, [batch(range(10)), batch(range(100, 130), version="7")])
    with pytest.raises(NoReferenceError) as refused:
        read_topic(settings, SPEC, "9", Selection(T0))
    text = str(refused.value)
    assert "has no rows of d@9 from 2024-03-01T00:00:00Z" in text
    if published:
        assert "version '1': 10 rows from 2024-03-01T00:00:00Z to 2024-03-01T00:09:00Z" in text
        assert text.index("30 rows") < text.index("10 rows"), "the version with most rows first"
    else:
        assert "publish predictions first" in text


def test_merging_keeps_every_value_in_its_row() -> None:
    def rows(first: int, **changes: Any) -> PredictionColumns:
        return dataclasses.replace(batch(range(first, first + 3)), **changes)

    a = rows(0, latency_ms=np.array([1.0, 2.0, 3.0]), vectors={"e": np.ones((3, 2), np.float32)})
    b = rows(3, numeric={"y": np.array([7.0, 8.0, 9.0])}, prediction=None)
    c = rows(6, categorical={"c": CategoricalColumn(["b", "z"], np.array([0, -1, 1], np.int32))})
    d = rows(9, vectors={"e": np.zeros((3, 4), np.float32)})
    first, second = merged([a, b, c, d])
    assert first.prediction_ids == [f"p{i}" for i in range(9)]
    assert second is d, "a vector of another dimension begins a new batch"
    assert first.categorical["c"].values() == ["a", "b", "a", "b", "a", "b", "b", None, "z"]
    assert first.latency_ms is not None
    assert np.array_equal(first.latency_ms, [1, 2, 3] + [np.nan] * 6, equal_nan=True)
    assert np.array_equal(first.numeric["y"], [np.nan] * 3 + [7, 8, 9] + [np.nan] * 3, equal_nan=True)
    assert np.array_equal(first.numeric["x"][3:6], [np.nan] * 3, equal_nan=True)
    assert first.prediction is not None
    assert np.isnan(first.prediction[3:6]).all()
    assert not np.isnan(first.prediction[:3]).any()
    assert np.isnan(first.vectors["e"][3:]).all()
    assert (first.vectors["e"][:3] == 1).all()


def test_merging_keeps_what_challengers_said_and_leaves_out_what_was_decided() -> None:
    decided = HumilityColumns("p", 1, np.zeros(3, np.uint8), np.zeros(3, np.uint64))
    a = dataclasses.replace(
        batch(range(3)), challenger_predictions={"v2": np.array([1.0, np.nan, 3.0])}, humility=decided
    )
    labels = CategoricalColumn(["x"], np.array([0, -1, 0], np.int32))
    b = dataclasses.replace(batch(range(3, 6)), challenger_labels={"v2": labels})
    (both,) = merged([a, b])
    np.testing.assert_array_equal(both.challenger_predictions["v2"], [1, np.nan, 3] + [np.nan] * 3)
    assert both.challenger_labels["v2"].values() == [None] * 3 + ["x", None, "x"]
    assert both.humility is None and merged([a])[0].humility is None
