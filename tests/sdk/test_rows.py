"""Row events as JSON: other products' names, and every kind of mistake."""

import datetime as dt
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline import codec
from driftline.errors import CodecError, DriftlineError, EventError
from driftline.events import MAX_DIMENSION, OutcomeColumns, outcome_from_event, prediction_from_event
from driftline.rows import timestamp_us

PREDICTION: dict[str, Any] = {
    "prediction_id": "p1",
    "deployment_id": "credit",
    "model_version": "v1",
    "timestamp": "2026-01-02T03:04:05.678901+01:00",
    "features": {"income": 10.5, "age": 40, "city": "Łódź", "member": True, "debt": None},
    "prediction": 0.25,
    "class_probabilities": {"good": 0.75},
    "segments": {"region": "eu"},
}
OUTCOME = {
    "prediction_id": "p1",
    "deployment_id": "credit",
    "actual_timestamp": "2026-02-02T00:00:00Z",
    "actual_label": "good",
    "was_acted_on": False,
}


def decode(document: Any, record: str = "PredictionEvent") -> dict[str, Any]:
    return codec.decode(json.dumps(document).encode(), json_record=record)[1]


def test_a_prediction_comes_through_with_its_kinds() -> None:
    columns = prediction_from_event(decode(PREDICTION))
    moment = dt.datetime(2026, 1, 2, 2, 4, 5, 678901, tzinfo=dt.UTC)
    assert columns.timestamps_us.tolist() == [round(moment.timestamp() * 1_000_000)]
    assert {name: values.tolist() for name, values in columns.numeric.items()} == {"income": [10.5], "age": [40.0]}
    assert {name: c.values() for name, c in columns.categorical.items()} == {"city": ["Łódź"], "member": ["true"]}
    assert columns.segments["region"].values() == ["eu"]
    assert columns.class_probabilities["good"].tolist() == [0.75]


def test_json_and_avro_say_the_same() -> None:
    record = decode({**PREDICTION, "features": {**PREDICTION["features"], "v": [1.5, 2]}, "error": "timeout"})
    assert codec.decode(codec.encode("PredictionEvent", record)) == ("PredictionEvent", record)
    outcome = decode(OUTCOME, "OutcomeEvent")
    assert codec.decode(codec.encode("OutcomeEvent", outcome)) == ("OutcomeEvent", outcome)


@pytest.mark.parametrize("alias", ["association_id", "inference_id", "event_id", "ce-id", "ce_id", "eventId"])
def test_other_names_of_the_prediction_id_are_read(alias: str) -> None:
    given_row = {alias if name == "prediction_id" else name: value for name, value in PREDICTION.items()}
    assert decode(given_row)["prediction_id"] == "p1"


@pytest.mark.parametrize("alias", ["timestamp", "event_timestamp"])
def test_other_names_of_the_outcome_time_are_read(alias: str) -> None:
    row = {alias if name == "actual_timestamp" else name: value for name, value in OUTCOME.items()}
    assert decode(row, "OutcomeEvent") == decode(OUTCOME, "OutcomeEvent")


def test_outcome_values_go_by_other_names_too() -> None:
    row = {**OUTCOME, "actualValue": 3, "wasActedOn": True}
    del row["was_acted_on"]
    columns = outcome_from_event(decode(row, "OutcomeEvent"))
    assert columns.actual_value is not None
    assert columns.actual_value.tolist() == [3.0]
    assert columns.was_acted_on is not None
    assert columns.was_acted_on.tolist() == [1]


def test_an_interval_and_a_labelling_probability_arrive() -> None:
    given_row = {**PREDICTION, "prediction_low": -1, "prediction_high": 2.5}
    columns = prediction_from_event(decode(given_row))
    assert columns.prediction_low is not None and columns.prediction_low.tolist() == [-1.0]
    assert columns.prediction_high is not None and columns.prediction_high.tolist() == [2.5]
    bare = prediction_from_event(decode(PREDICTION))
    assert bare.prediction_low is None and bare.prediction_high is None
    for name in ("labelling_probability", "labeling_probability"):
        outcome = outcome_from_event(decode({**OUTCOME, name: 0.1}, "OutcomeEvent"))
        assert outcome.labelling_probability is not None and outcome.labelling_probability.tolist() == [0.1]
    assert outcome_from_event(decode(OUTCOME, "OutcomeEvent")).labelling_probability is None


def test_nan_and_infinity_arrive() -> None:
    row = json.dumps({**PREDICTION, "features": {"a": math.nan, "b": math.inf, "c": -math.inf}}).encode()
    columns = prediction_from_event(codec.decode(row, json_record="PredictionEvent")[1])
    assert math.isnan(columns.numeric["a"][0])
    assert [columns.numeric[name][0] for name in "bc"] == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"prediction_id": None}, "prediction_id"),
        ({"deployment_id": None}, "deployment_id"),
        ({"model_version": None}, "model_version"),
        ({"timestamp": None}, "timestamp"),
        ({"features": None}, "features"),
        ({"features": [1, 2]}, "expected an object"),
        ({"features": {"a": {"b": 1}}}, "features: 'a': expected a number, came dict"),
        ({"features": {"a": [1, "2"]}}, "features: 'a': a vector's value 1: expected a number, came str '2'"),
        ({"features": {"a": [True]}}, "a vector's value 0: expected a number, came bool"),
        ({"features": {"a": [[1, 2]]}}, "a vector's value 0: expected a number, came list"),
        ({"error": ["timeout"]}, "error: expected text"),
        ({"timestamp": "yesterday"}, "RFC 3339"),
        ({"timestamp": "2026-01-02T03:04:05"}, "no zone"),
        ({"timestamp": 1.5}, "expected a time"),
        ({"timestamp": True}, "expected a time"),
        ({"timestamp": 10**19}, "beyond"),
        ({"timestamp": -(10**19)}, "beyond"),
        ({"prediction": "0.5"}, "prediction: expected a number"),
        ({"prediction": True}, "prediction: expected a number"),
        ({"prediction_label": ["a"]}, "prediction_label: expected text"),
        ({"class_probabilities": {"a": None}}, "'a' is null"),
        ({"segments": {"a": None}}, "'a' is null"),
        ({"latency_ms": {}}, "latency_ms"),
        ({"prediction_low": "1"}, "prediction_low: expected a number"),
        ({"prediction_high": True}, "prediction_high: expected a number"),
        ({"predicition": 1}, "unknown field 'predicition'"),
        ({"prediction_id": "a\ud800"}, "Unicode"),
        ({"features": {"\udfff": 1}}, "Unicode"),
    ],
)
def test_a_mistake_in_a_prediction_is_named(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DriftlineError, match=complaint):
        decode({**PREDICTION, **change})


def test_a_list_of_numbers_is_a_vector() -> None:
    features = {"text": [0.5, -1, 1e300], "image": [1.0, None], "income": 1}
    columns = prediction_from_event(decode({**PREDICTION, "features": features}))
    assert columns.vectors["text"].tolist() == [[0.5, -1.0, math.inf]]
    assert columns.vectors["text"].dtype == np.float32
    assert columns.vectors["image"][0, 0] == 1.0 and math.isnan(columns.vectors["image"][0, 1])
    assert list(columns.numeric) == ["income"]


@pytest.mark.parametrize("length", [0, MAX_DIMENSION + 1])
def test_a_vector_of_impossible_length_is_refused_by_name(length: int) -> None:
    with pytest.raises(EventError, match=f"feature 'text': a vector has 1 to 65536 numbers .*came {length}"):
        prediction_from_event(decode({**PREDICTION, "features": {"text": [1] * length}}))


def test_an_error_is_a_class_of_its_row() -> None:
    columns = prediction_from_event(decode({**PREDICTION, "prediction": None, "error": "timeout"}))
    assert columns.prediction is None
    assert columns.error is not None and columns.error.values() == ["timeout"]
    assert prediction_from_event(decode(PREDICTION)).error is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"actual_label": None}, "came neither"),
        ({"was_acted_on": 1}, "true or false"),
        ({"actual_value": "x"}, "actual_value: expected a number"),
        ({"labelling_probability": "x"}, "labelling_probability: expected a number"),
        ({"deployment_id": "a#1"}, "without '#'"),
    ],
)
def test_a_mistake_in_an_outcome_is_named(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(EventError, match=complaint):
        outcome_from_event(decode({**OUTCOME, **change}, "OutcomeEvent"))


@pytest.mark.parametrize("change", [{"labelling_probability": 0}, {"prediction_id": ""}, {"prediction_id": "x" * 257}])
def test_what_a_single_outcome_says_is_left_to_who_uses_it(change: dict[str, Any]) -> None:
    """Of a batch they would be refused alone: `streams.unusable`."""
    columns = outcome_from_event(decode({**OUTCOME, **change}, "OutcomeEvent"))
    assert OutcomeColumns.from_record(columns.to_record()).prediction_ids == columns.prediction_ids


@pytest.mark.parametrize(
    "data", [b"{", b'{"a":1', b'{"a":NaNN}', b"{" * 100_000, b'{"a":' + b"[" * 50_000, b'{"a":"\xed\xa0\x80"}']
)
def test_broken_json_is_a_codec_error(data: bytes) -> None:
    with pytest.raises(CodecError, match="not JSON"):
        codec.decode(data, json_record="PredictionEvent")


def test_json_is_refused_where_no_row_event_is_expected() -> None:
    with pytest.raises(CodecError):
        codec.decode(json.dumps(PREDICTION).encode())
    with pytest.raises(CodecError, match="cannot be given as JSON"):
        codec.decode(b"{}", json_record="PredictionBatch")


def test_a_json_event_beyond_a_mebibyte_is_refused() -> None:
    with pytest.raises(CodecError, match="bytes") as caught:
        decode({**PREDICTION, "features": {"a": "x" * (1 << 20)}})
    assert caught.value.reason == "too_large"


def test_an_integer_beyond_float64_becomes_infinite() -> None:
    assert decode({**PREDICTION, "features": {"a": 10**400}})["features"]["a"] == math.inf


@given(st.datetimes(timezones=st.timezones()))
def test_times_are_exact_to_the_microsecond(moment: dt.datetime) -> None:
    microseconds = timestamp_us(moment)
    # where clocks are put on or back, Python takes times of two zones for different ones
    assert dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=microseconds) == moment.astimezone(dt.UTC)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*PREDICTION, *OUTCOME, "model_id", "x"]), JSON), st.booleans())
def test_no_json_object_raises_anything_but_our_errors(document: dict[str, Any], as_prediction: bool) -> None:
    base, record = (PREDICTION, "PredictionEvent") if as_prediction else (OUTCOME, "OutcomeEvent")
    try:
        decoded = decode({**base, **document}, record)
        columns = (prediction_from_event if as_prediction else outcome_from_event)(decoded)
        again = codec.decode(codec.encode("PredictionBatch" if as_prediction else "OutcomeBatch", columns.to_record()))
    except DriftlineError:
        return
    type(columns).from_record(again[1])
