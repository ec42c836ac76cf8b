"""Everything logged arrives once and equal; the caller is never broken by it."""

import datetime as dt
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import driftline
from driftline import Client
from driftline.errors import ClientClosedError, EventError, SettingsError


def balanced(client: Client) -> bool:
    counters = client.counters()
    return counters.accepted == counters.delivered + counters.pending + counters.spooled + counters.dropped


def test_predictions_and_outcomes_arrive_once_and_equal(client: Client, arrivals: Any) -> None:
    moment = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    keys = [
        client.log_prediction(
            {"income": i * 1.5, "city": f"c{i % 3}", "member": i % 2 == 0, "debt": None if i % 5 else i},
            i / 1000,
            prediction_id=f"p{i}",
            prediction_label="good" if i % 2 else "bad",
            class_probabilities={"good": 0.25, "bad": 0.75},
            timestamp=moment + dt.timedelta(seconds=i),
            segments={"region": "eu"},
            latency_ms=1.25,
            prediction_low=i - 0.5 if i % 3 else None,
            prediction_high=i + 0.5 if i % 3 else None,
        )
        for i in range(1234)
    ]
    for i, key in enumerate(keys):
        client.log_outcome(key, i, "good", moment, was_acted_on=True, labelling_probability=0.25 if i % 2 else None)
    assert client.flush() == 0
    assert client.counters() == driftline.Counters(accepted=2468, delivered=2468)

    seen: dict[str, tuple[Any, ...]] = {}
    for batch in arrivals.predictions(1234):
        assert (batch.deployment_id, batch.model_version, batch.model_id) == ("credit", "v1", None)
        for i, key in enumerate(batch.prediction_ids):
            assert key not in seen
            assert batch.prediction is not None and batch.prediction_label is not None and batch.latency_ms is not None
            seen[key] = (
                batch.timestamps_us[i],
                batch.numeric["income"][i],
                batch.categorical["city"].values()[i],
                batch.categorical["member"].values()[i],
                batch.numeric["debt"][i],
                batch.prediction[i],
                batch.prediction_label.values()[i],
                batch.class_probabilities["bad"][i],
                batch.segments["region"].values()[i],
                batch.latency_ms[i],
            )
            ends = (batch.prediction_low, batch.prediction_high)
            assert ends[0] is not None and ends[1] is not None
            number = int(key[1:])
            middle = [number - 0.5, number + 0.5] if number % 3 else [math.nan, math.nan]
            np.testing.assert_array_equal([end[i] for end in ends if end is not None], middle)
    start = 1_767_312_000_000_000
    for i in range(1234):
        came = seen[f"p{i}"]
        assert math.isnan(came[4]) if i % 5 else came[4] == i
        assert came[:4] == (start + i * 1_000_000, i * 1.5, f"c{i % 3}", "true" if i % 2 == 0 else "false")
        assert came[5:] == (i / 1000, "good" if i % 2 else "bad", 0.75, "eu", 1.25)

    outcomes = {
        key: (
            batch.actual_value[i],
            batch.actual_label.values()[i],
            batch.was_acted_on[i],
            1.0 if batch.labelling_probability is None else batch.labelling_probability[i],
        )
        for batch in arrivals.outcomes(1234)
        for i, key in enumerate(batch.prediction_ids)
    }
    assert outcomes == {f"p{i}": (float(i), "good", 1, 0.25 if i % 2 else 1.0) for i in range(1234)}


def test_tables_arrive_once_and_equal_in_batches(client: Client, arrivals: Any) -> None:
    rows = 12_345
    values = np.arange(rows) * 0.5
    values[7] = math.nan
    keys = client.log_predictions(
        {"x": values, "city": [f"c{i % 100}" for i in range(rows)]},
        values,
        prediction_ids=[f"p{i}" for i in range(rows)],
        timestamps=np.arange(rows),
        prediction_low=values - 1,
        prediction_high=values + 2,
    )
    client.log_outcomes(
        keys,
        [1.0, math.nan, 2.0] * (rows // 3),
        [None, "no", "yes"] * (rows // 3),
        was_acted_on=[None, True, False] * (rows // 3),
        labelling_probability=[0.5, 1, 0.125] * (rows // 3),
    )
    assert client.flush() == 0
    batches = arrivals.predictions(rows)
    assert max(batch.rows for batch in batches) <= 500
    order = np.argsort(np.concatenate([batch.timestamps_us for batch in batches]))
    assert np.concatenate([b.prediction_ids for b in batches])[order].tolist() == keys
    assert np.array_equal(np.concatenate([b.numeric["x"] for b in batches])[order], values, equal_nan=True)
    np.testing.assert_array_equal(np.concatenate([b.prediction_low for b in batches])[order], values - 1)
    np.testing.assert_array_equal(np.concatenate([b.prediction_high for b in batches])[order], values + 2)
    cities = np.concatenate([np.array(b.categorical["city"].values()) for b in batches])[order]
    assert cities.tolist() == [f"c{i % 100}" for i in range(rows)]
    came = {
        key: (acted, probability, label)
        for b in arrivals.outcomes(rows)
        for key, acted, probability, label in zip(
            b.prediction_ids,
            b.was_acted_on.tolist(),
            b.labelling_probability.tolist(),
            b.actual_label.values(),
            strict=True,
        )
    }
    assert came == {
        key: ((255, 1, 0)[i % 3], (0.5, 1.0, 0.125)[i % 3], (None, "no", "yes")[i % 3]) for i, key in enumerate(keys)
    }


def test_vectors_texts_booleans_errors_and_latency_arrive_equal(client: Client, arrivals: Any) -> None:
    """Rows and a table that say the same; every tenth request failed, and its embedding was never computed."""
    rows = 600
    embeddings = np.random.default_rng(0).normal(size=(rows, 16)).astype(np.float32)
    failed = [i % 10 == 9 for i in range(rows)]
    embeddings[failed] = np.nan
    texts = [f"Where is my parcel no. {i}?\n☃" for i in range(rows)]
    errors = ["timeout" if late else None for late in failed]
    half = rows // 2
    for i in range(half):
        client.log_prediction(
            {"embedding": None if failed[i] else embeddings[i], "question": texts[i], "member": i % 3 == 0},
            None if failed[i] else i / rows,
            prediction_id=str(i),
            timestamp=i,
            latency_ms=i * 0.5,
            error=TimeoutError("no answer in time") if i == 9 else errors[i],
        )
    client.log_predictions(
        {
            "embedding": embeddings[half:],
            "question": texts[half:],
            "member": [i % 3 == 0 for i in range(half, rows)],
        },
        [math.nan if failed[i] else i / rows for i in range(half, rows)],
        prediction_ids=[str(i) for i in range(half, rows)],
        timestamps=np.arange(half, rows),
        latency_ms=np.arange(half, rows) * 0.5,
        error=errors[half:],
    )
    assert client.flush() == 0
    batches = arrivals.predictions(rows)
    order = np.argsort(np.concatenate([batch.timestamps_us for batch in batches]))

    def arrived(of_batch: Callable[[driftline.PredictionColumns], Any]) -> Any:
        return np.concatenate([np.asarray(of_batch(batch), dtype=object) for batch in batches])[order]

    came = np.concatenate([batch.vectors["embedding"] for batch in batches])[order]
    np.testing.assert_array_equal(came, embeddings)
    assert came.dtype == np.float32
    assert arrived(lambda batch: batch.categorical["question"].values()).tolist() == texts
    members = ["true" if i % 3 == 0 else "false" for i in range(rows)]
    assert arrived(lambda batch: batch.categorical["member"].values()).tolist() == members
    assert arrived(lambda batch: batch.error.values() if batch.error else None).tolist() == [
        *errors[:9],
        "TimeoutError",
        *errors[10:],
    ]
    assert arrived(lambda batch: batch.latency_ms).tolist() == [i * 0.5 for i in range(rows)]
    assert np.isnan(arrived(lambda batch: batch.prediction).astype(float)).tolist() == failed


def test_an_embedding_of_another_dimension_starts_a_batch_of_its_own(client: Client, arrivals: Any) -> None:
    for i in range(40):
        client.log_prediction({"v": [1.0] * (2 + i % 2)}, prediction_id=str(i))
    assert client.flush() == 0
    by_dimension: dict[int, list[str]] = {2: [], 3: []}
    for batch in arrivals.predictions(40):
        assert not np.isnan(batch.vectors["v"]).any()
        by_dimension[batch.vectors["v"].shape[1]] += batch.prediction_ids
    assert by_dimension == {dimension: [str(i) for i in range(40) if 2 + i % 2 == dimension] for dimension in (2, 3)}


def test_many_threads_share_a_client(client: Client, arrivals: Any) -> None:
    def log(thread: int) -> None:
        for i in range(2000):
            client.log_prediction({"x": i}, prediction_id=f"{thread}-{i}")

    threads = [threading.Thread(target=log, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert balanced(client)
    assert client.flush() == 0
    assert Counter(arrivals.prediction_ids(16_000)) == Counter(f"{t}-{i}" for t in range(8) for i in range(2000))


def test_a_lone_prediction_leaves_after_batch_ms(
    arrivals: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    with Client("credit", "v1", settings=arrivals.settings, spool_dir=tmp_path, batch_ms=50) as client:
        client.log_prediction({"x": 1})
        client.flush()  # the first one waits for the connection
        started = time.monotonic()
        client.log_prediction({"x": 1})
        eventually(lambda: client.counters().delivered == 2)
        assert time.monotonic() - started < 2.0


def test_another_model_version_gets_its_own_batch(client: Client, arrivals: Any) -> None:
    for i in range(20):
        client.log_prediction({"x": i}, prediction_id=str(i), model_version=None if i % 2 else "v2")
    client.flush()
    by_version = {batch.model_version: batch.prediction_ids for batch in arrivals.predictions(20)}
    assert by_version == {
        "v1": [str(i) for i in range(20) if i % 2],
        "v2": [str(i) for i in range(20) if i % 2 == 0],
    }


def test_messages_carry_cloud_event_headers_and_the_callers(arrivals: Any, tmp_path: Path) -> None:
    with Client(
        "credit", "v1", settings=arrivals.settings, spool_dir=tmp_path, headers={"traceparent": "00-ü"}, shard=4
    ) as client:
        client.log_prediction({"x": 1})
    (message,) = arrivals.prediction_messages(1)
    headers = {name: value.decode() for name, value in message.headers()}
    assert headers["ce_type"] == "driftline.PredictionBatch"
    assert headers["ce_source"] == "driftline/sdk/credit"
    assert headers["content-type"] == "application/avro"
    assert headers["traceparent"] == "00-ü"
    assert {"ce_id", "ce_time", "ce_specversion"} <= headers.keys()
    assert message.key() == b"credit#4"


def test_wide_batches_are_split_below_a_megabyte(client: Client, arrivals: Any) -> None:
    client.log_predictions({f"feature-{i}": np.random.default_rng(i).random(500) for i in range(1000)})
    assert client.flush() == 0
    messages = arrivals.prediction_messages(500)
    assert len(messages) >= 4
    assert all(len(message.value()) < 1_000_000 for message in messages)
    assert client.counters().delivered == 500


def test_a_topic_that_takes_less_makes_smaller_batches(
    bootstrap_servers: str, topic_prefix: str, make_arrivals: Any, tmp_path: Path
) -> None:
    arrivals = make_arrivals(bootstrap_servers, topic_prefix, **{"max.message.bytes": "50000"})
    noise = np.random.default_rng(0)
    with Client("credit", "v1", settings=arrivals.settings, spool_dir=tmp_path) as client:
        for _ in range(5):
            client.log_predictions({f"f{i}": noise.random(500) for i in range(100)})
        client.flush(30)
        assert client.counters().delivered == 2500
    assert set(Counter(arrivals.prediction_ids(2500)).values()) <= {1, 2}
    assert len(set(arrivals.prediction_ids(2500))) == 2500


def test_closing_twice_and_flushing_a_closed_client_are_harmless(client: Client) -> None:
    client.log_prediction({"x": 1})
    client.close()
    client.close()
    assert client.flush() == 0
    assert client.counters().delivered == 1


# Bad input


BAD_CALLS: list[tuple[str, Callable[[Client], Any]]] = [
    ("feature 'x'", lambda c: c.log_prediction({"x": {1}})),
    ("feature 'x'", lambda c: c.log_prediction({"x": [1, "2"]})),
    ("error", lambda c: c.log_prediction({}, error=True)),  # type: ignore[arg-type]
    ("row 1", lambda c: c.log_predictions({"x": [[1, 2], [3]]})),
    ("features", lambda c: c.log_prediction(None)),  # type: ignore[arg-type]
    ("label", lambda c: c.log_prediction({}, "late")),  # type: ignore[arg-type]
    ("prediction_id", lambda c: c.log_prediction({}, prediction_id="")),
    ("time", lambda c: c.log_prediction({}, timestamp=dt.datetime(2026, 1, 1))),
    ("time", lambda c: c.log_prediction({}, timestamp=2**70)),
    ("class_probabilities", lambda c: c.log_prediction({}, class_probabilities={"a": "b"})),  # type: ignore[dict-item]
    ("segments", lambda c: c.log_prediction({}, segments=["a"])),  # type: ignore[arg-type]
    ("model_version", lambda c: c.log_prediction({}, model_version="a@b")),
    ("actual_value", lambda c: c.log_outcome("p")),
    ("was_acted_on", lambda c: c.log_outcome("p", 1.0, was_acted_on=2)),  # type: ignore[arg-type]
    ("actual_value is NaN, which is none", lambda c: c.log_outcome("p", math.nan)),
    ("actual_value: expected a finite number, came inf", lambda c: c.log_outcome("p", math.inf, "a")),
    ("labelling_probability: .* at most 1, came 0.0", lambda c: c.log_outcome("p", 1.0, labelling_probability=0)),
    ("labelling_probability: .*came 1.5", lambda c: c.log_outcome("p", 1.0, labelling_probability=1.5)),
    ("labelling_probability: .*came nan", lambda c: c.log_outcome("p", 1.0, labelling_probability=math.nan)),
    ("labelling_probability: expected a number", lambda c: c.log_outcome("p", 1.0, labelling_probability="a")),  # type: ignore[arg-type]
    (
        "prediction_low 2.0 is above prediction_high 1.0",
        lambda c: c.log_prediction({}, prediction_low=2, prediction_high=1),
    ),
    ("prediction_high is missing", lambda c: c.log_prediction({}, prediction_low=2)),
    (
        "prediction_high is inf: expected .* finite numbers",
        lambda c: c.log_prediction({}, prediction_low=2, prediction_high=math.inf),
    ),
    (
        "row 0: prediction_low is -inf, .* finite numbers",
        lambda c: c.log_predictions({"x": [1]}, prediction_low=[-math.inf], prediction_high=[3]),
    ),
    ("prediction_low is missing", lambda c: c.log_prediction({}, prediction_low=math.nan, prediction_high=2)),
    (
        "row 1: prediction_low is 3.0, prediction_high 2.0",
        lambda c: c.log_predictions({"x": [1, 2]}, prediction_low=[0, 3], prediction_high=[1, 2]),
    ),
    (
        "row 1: prediction_low is 0.0, prediction_high nan",
        lambda c: c.log_predictions({"x": [1, 2]}, prediction_low=[0, 0], prediction_high=[1, None]),
    ),
    ("prediction_low is missing", lambda c: c.log_predictions({"x": [1, 2]}, prediction_high=[0, 3])),
    ("row 1: .*NaN is no outcome.*leave out", lambda c: c.log_outcomes(["a", "b"], [1.0, math.nan])),
    ("row 0: .*not known yet", lambda c: c.log_outcomes(["a", "b"], [None, None], [None, "x"])),
    ("actual_value, row 1: expected a finite number, came -inf", lambda c: c.log_outcomes(["a", "b"], [1, -math.inf])),
    (
        "row 1: .*came nan; .*certain to be labelled has 1",
        lambda c: c.log_outcomes(["a", "b"], [1, 2], labelling_probability=[1, None]),
    ),
    ("rows", lambda c: c.log_outcomes(["a", "b"], [1, 2], labelling_probability=[1])),
    ("rows", lambda c: c.log_predictions({"x": [1, 2]}, prediction_low=[1], prediction_high=[2, 3])),
    ("rows", lambda c: c.log_predictions({"x": [1, 2]}, [1.0])),
    ("mapping", lambda c: c.log_predictions(7)),
    ("column", lambda c: c.log_predictions({"x": 7})),
    ("at least one row", lambda c: c.log_predictions({"x": []})),
    ("actual_value", lambda c: c.log_outcomes(["a"])),
    ("rows", lambda c: c.log_outcomes(["a"], [1.0, 2.0])),
    ("prediction_ids", lambda c: c.log_outcomes(7, [1.0])),
    ("prediction_ids", lambda c: c.log_predictions({"x": [1]}, prediction_ids=7)),
]


@pytest.mark.parametrize(("_complaint", "call"), BAD_CALLS)
def test_bad_input_never_breaks_serving_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, _complaint: str, call: Callable[[Client], Any]
) -> None:
    with Client("credit", "v1", settings=driftline.KafkaSettings("127.0.0.1:1"), spool_dir=tmp_path) as client:
        with caplog.at_level(logging.WARNING, "driftline"):
            call(client)
        assert client.counters().accepted == 0
        assert any("rejected" in record.message for record in caplog.records)


@pytest.mark.parametrize(("complaint", "call"), BAD_CALLS)
def test_bad_input_raises_where_the_caller_is_strict(
    tmp_path: Path, complaint: str, call: Callable[[Client], Any]
) -> None:
    with Client(
        "credit", "v1", settings=driftline.KafkaSettings("127.0.0.1:1"), spool_dir=tmp_path, strict=True
    ) as client:
        with pytest.raises(EventError, match=complaint):
            call(client)
        assert client.counters() == driftline.Counters()


class Hostile:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("looked at")

    def __float__(self) -> float:
        raise RuntimeError("looked at")


def test_objects_that_raise_when_looked_at_do_not_break_serving(tmp_path: Path) -> None:
    with Client("credit", "v1", settings=driftline.KafkaSettings("127.0.0.1:1"), spool_dir=tmp_path) as client:
        bad: Any = Hostile()
        client.log_prediction({"x": bad})
        client.log_prediction(bad)
        client.log_prediction({}, bad)
        client.log_outcome(bad, bad)
        client.log_predictions(bad, bad)
        client.log_outcomes(bad, bad)
        assert client.counters().accepted == 0
        assert client.counters().rejected >= 4


def test_a_thousand_rejections_are_a_handful_of_log_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Client("credit", "v1", settings=driftline.KafkaSettings("127.0.0.1:1"), spool_dir=tmp_path) as client:
        for _ in range(1000):
            client.log_prediction({"x": {1}})
        assert client.counters().rejected == 1000
    assert 1 <= sum("rejected, not logged" in record.message for record in caplog.records) <= 5


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.datetimes(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def offline_client(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Client(
        "credit", "v1", settings=driftline.KafkaSettings("127.0.0.1:1"), spool_dir=tmp_path_factory.mktemp("spool")
    ) as client:
        yield client


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from("abc"), ANYTHING), st.lists(ANYTHING, min_size=8, max_size=8))
def test_nothing_a_caller_passes_raises(offline_client: Client, features: dict[str, Any], values: list[Any]) -> None:
    score, key, label, classes, moment, segments, latency, version = values
    came = offline_client.log_prediction(
        features,
        score,
        prediction_id=key,
        prediction_label=label,
        class_probabilities=classes,
        timestamp=moment,
        segments=segments,
        latency_ms=latency,
        model_version=version,
    )
    assert isinstance(came, str)
    offline_client.log_prediction(features)
    offline_client.log_outcome(key, score, label, moment, version)
    offline_client.log_predictions({"a": values, "b": [features] * 8}, prediction_ids=key)
    assert balanced(offline_client)


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_rows": 0},
        {"batch_rows": "500"},
        {"batch_ms": -1},
        {"max_buffered_rows": 10},
        {"when_unavailable": "explode"},
        {"max_message_bytes": 10},
        {"delivery_timeout_seconds": 0},
    ],
)
def test_a_setting_that_cannot_be_used_is_named(tmp_path: Path, arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(SettingsError, match=name):
        Client("credit", "v1", settings=driftline.KafkaSettings("127.0.0.1:1"), spool_dir=tmp_path, **arguments)


@pytest.mark.parametrize(("deployment", "version"), [("", "v"), ("a#b", "v"), ("a", "v@1"), ("a", None), (3, "v")])
def test_names_that_cannot_be_keys_raise_at_once(tmp_path: Path, deployment: Any, version: Any) -> None:
    with pytest.raises(EventError, match=r"deployment_id|model_version"):
        Client(deployment, version, settings=driftline.KafkaSettings("127.0.0.1:1"), spool_dir=tmp_path)


def test_logging_after_close_is_counted_or_raised(tmp_path: Path) -> None:
    nowhere = driftline.KafkaSettings("127.0.0.1:1")
    lenient, strict = (
        Client("credit", "v1", settings=nowhere, spool_dir=tmp_path, strict=strict) for strict in (False, True)
    )
    lenient.close()
    strict.close()
    lenient.log_prediction({"x": 1})
    assert lenient.counters().rejected == 1
    with pytest.raises(ClientClosedError):
        strict.log_prediction({"x": 1})


def test_secrets_are_in_no_representation_and_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = driftline.KafkaSettings(
        "127.0.0.1:1",
        librdkafka={
            "security.protocol": "sasl_plaintext",
            "sasl.mechanism": "PLAIN",
            "sasl.username": "ann",
            "sasl.password": "s3cret",
        },
    )
    with (
        caplog.at_level(logging.DEBUG),
        Client("credit", "v1", settings=settings, spool_dir=tmp_path, delivery_timeout_seconds=1) as client,
    ):
        client.log_prediction({"x": 1})
        time.sleep(1.5)
        assert "s3cret" not in repr(client) + repr(vars(client))
    assert caplog.records
    assert "s3cret" not in caplog.text
