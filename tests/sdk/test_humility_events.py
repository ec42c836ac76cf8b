"""Challengers' answers and decisions travel with their predictions, row by row, however batches are made and cut."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline import CategoricalColumn, codec
from driftline.batches import PredictionRow, RowDecision, between, encoded, prediction_columns, take
from driftline.errors import DriftlineError, EventError
from driftline.events import ALARM_MONITORS, NOT_DECIDED, HumilityColumns, PredictionColumns, prediction_from_event

DECISIONS = st.none() | st.builds(
    RowDecision,
    policy=st.sampled_from(["p", "q"]),
    revision=st.integers(1, 2),
    action=st.integers(0, 3),
    fired=st.integers(0, 2**64 - 1),
    quantile=st.none() | st.floats(allow_nan=False),
    alarms=st.integers(0, 255),
    answer=st.none() | st.floats(allow_nan=False),
    answer_label=st.none() | st.sampled_from(["yes", "no"]),
)
ROWS = st.lists(
    st.builds(
        lambda version, decision, numbers, classes: (version, decision, numbers, classes),
        st.sampled_from(["v1", "v2"]),
        DECISIONS,
        st.none() | st.dictionaries(st.sampled_from("ab"), st.floats(allow_nan=False), min_size=1),
        st.none() | st.dictionaries(st.sampled_from("ab"), st.sampled_from(["x", "y"]), min_size=1),
    ),
    min_size=1,
    max_size=12,
)


def rows_of(given_rows: list[Any]) -> list[PredictionRow]:
    return [
        PredictionRow(
            version,
            f"p{i}",
            i,
            {"x": float(i)},
            *(None,) * 9,  # type: ignore[arg-type]  # all of them are optional
            challenger_predictions=numbers,
            challenger_labels=classes,
            decision=decision,
        )
        for i, (version, decision, numbers, classes) in enumerate(given_rows)
    ]


def number_at(column: Any, row: int) -> float | None:
    return None if column is None or np.isnan(column[row]) else float(column[row])


def decision_at(humility: HumilityColumns | None, row: int) -> RowDecision | None:
    if humility is None or humility.actions[row] == NOT_DECIDED:
        return None
    return RowDecision(
        humility.policy,
        humility.revision,
        int(humility.actions[row]),
        int(humility.fired[row]),
        number_at(humility.quantiles, row),
        0 if humility.alarms is None else int(humility.alarms[row]),
        number_at(humility.answers, row),
        None if humility.answer_labels is None else humility.answer_labels.values()[row],
    )


def told(batch: PredictionColumns) -> dict[str, tuple[Any, ...]]:
    """Row by row what a batch says, by prediction id."""
    return {
        key: (
            batch.model_version,
            decision_at(batch.humility, row),
            {v: c[row] for v, c in batch.challenger_predictions.items() if not np.isnan(c[row])} or None,
            {v: text for v, c in batch.challenger_labels.items() if (text := c.values()[row]) is not None} or None,
        )
        for row, key in enumerate(batch.prediction_ids)
    }


def again(batch: PredictionColumns) -> PredictionColumns:
    return PredictionColumns.from_record(codec.decode(codec.encode("PredictionBatch", batch.to_record()))[1])


@given(ROWS)
def test_rows_become_batches_of_one_policy_that_say_what_the_rows_said(given_rows: list[Any]) -> None:
    batches = [again(batch) for batch in prediction_columns(rows_of(given_rows), "d", None)]
    assert {key: row for batch in batches for key, row in told(batch).items()} == {
        f"p{i}": row for i, row in enumerate(given_rows)
    }
    policies = [
        (batch.model_version, None if batch.humility is None else (batch.humility.policy, batch.humility.revision))
        for batch in batches
    ]
    assert len(policies) == len(set(policies))
    for version, policy in policies:  # rows without a decision fill no batch of their own where there is another
        assert policy is not None or all(p is None for v, p in policies if v == version)
    for batch in batches:
        assert [int(key[1:]) for key in batch.prediction_ids] == sorted(int(key[1:]) for key in batch.prediction_ids)


@given(ROWS, st.data())
def test_parts_of_a_batch_say_what_its_rows_said(given_rows: list[Any], data: st.DataObject) -> None:
    for whole in prediction_columns(rows_of(given_rows), "d", None):
        rows = told(whole)
        start = data.draw(st.integers(0, whole.rows - 1))
        stop = data.draw(st.integers(start + 1, whole.rows))
        part = between(whole, start, stop)
        assert told(part) == {key: rows[key] for key in whole.prediction_ids[start:stop]}
        order = data.draw(st.permutations(range(whole.rows)))[: data.draw(st.integers(1, whole.rows))]
        chosen = take(whole, np.array(order, np.intp))
        assert list(told(chosen).items()) == [
            (whole.prediction_ids[row], rows[whole.prediction_ids[row]]) for row in order
        ]
        if part.rows < whole.rows and part.humility is not None and part.humility.answer_labels is not None:
            labels = part.humility.answer_labels
            assert set(labels.categories) == {text for text in labels.values() if text is not None}


def test_a_batch_that_is_too_large_is_split_with_its_decisions() -> None:
    decisions = [RowDecision("p", 1, i % 4, i, i / 7, i % 256, None, f"class {i}") for i in range(300)]
    rows = rows_of([("v1", decision, {"v2": float(i)}, None) for i, decision in enumerate(decisions)])
    (whole,) = prediction_columns(rows, "d", None)
    parts = [
        PredictionColumns.from_record(codec.decode(data)[1])
        for data, _ in encoded(whole, 5_000, lambda *refused: pytest.fail(str(refused)))
    ]
    assert len(parts) > 2
    came = {key: row for part in parts for key, row in told(part).items()}
    assert [came[f"p{i}"][1] for i in range(300)] == decisions


ROW = {
    "prediction_id": "p1",
    "deployment_id": "credit",
    "model_version": "v1",
    "timestamp": "2026-01-02T03:04:05Z",
    "features": {"income": 1},
}
DECISION = {
    "policy": "abc",
    "revision": 3,
    "action": "overridden",
    "fired": [0, 63],
    "quantile": 0.25,
    "alarms": ["data_drift", "humility"],
    "answer": 7,
    "answer_label": "fine",
}


def decoded(row: dict[str, Any]) -> dict[str, Any]:
    return codec.decode(json.dumps(row).encode(), json_record="PredictionEvent")[1]


@pytest.mark.parametrize("form", ["json", "avro"])
def test_a_row_event_brings_its_decision_and_its_challengers_answers(form: str) -> None:
    row = {**ROW, "challenger_predictions": {"v2": 3}, "challenger_labels": {"v3": "x"}, "humility": DECISION}
    record = decoded(row)
    if form == "avro":
        record = codec.decode(codec.encode("PredictionEvent", record))[1]
    columns = prediction_from_event(record)
    assert told(columns)["p1"] == (
        "v1",
        RowDecision("abc", 3, 1, 1 | 1 << 63, 0.25, 0b1000_0001, 7.0, "fine"),
        {"v2": 3.0},
        {"v3": "x"},
    )
    assert told(again(columns)) == told(columns)


def test_a_row_event_without_a_decision_has_none() -> None:
    columns = prediction_from_event(decoded(ROW))
    assert columns.humility is None
    assert not columns.challenger_predictions and not columns.challenger_labels
    bare = prediction_from_event(decoded({**ROW, "humility": {"policy": "a", "revision": 1, "action": "answered"}}))
    assert told(bare)["p1"][1] == RowDecision("a", 1, 0, 0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"challenger_predictions": {"v2": None}}, "challenger_predictions: 'v2' is null"),
        ({"challenger_predictions": {"v2": "x"}}, "challenger_predictions: 'v2': expected a number, came str"),
        ({"challenger_labels": {"v2": None}}, "challenger_labels: 'v2' is null"),
        ({"challenger_labels": ["x"]}, "challenger_labels: expected an object, came list"),
        ({"humility": "refused"}, "humility: expected an object, came str"),
        ({"humility": {**DECISION, "policy": None}}, "humility: the field 'policy' is required"),
        ({"humility": {**DECISION, "revision": 1.5}}, "humility: revision: expected a whole number, came float"),
        ({"humility": {**DECISION, "revision": 2**63}}, "humility: revision: expected a whole number of 64 bits"),
        ({"humility": {**DECISION, "action": 2}}, "humility.action: expected one of answered, .*, came '2'"),
        ({"humility": {**DECISION, "action": "declined"}}, "humility.action: expected one of .*, came 'declined'"),
        ({"humility": {**DECISION, "fired": 3}}, "humility: fired: expected a list, came int"),
        ({"humility": {**DECISION, "fired": [0, True]}}, "humility: fired: '1': expected a whole number, came bool"),
        ({"humility": {**DECISION, "fired": [64]}}, "humility.fired: expected numbers of rules, 0 to 63, came 64"),
        ({"humility": {**DECISION, "fired": [-1]}}, "humility.fired: expected numbers of rules, 0 to 63, came -1"),
        ({"humility": {**DECISION, "alarms": [None]}}, "humility: alarms: '0': expected text, came null"),
        ({"humility": {**DECISION, "alarms": ["weather"]}}, "humility.alarms: expected monitors .*, came 'weather'"),
        ({"humility": {**DECISION, "quantile": "x"}}, "humility: quantile: expected a number, came str"),
        ({"humility": {**DECISION, "anwser": 1}}, "humility: unknown field 'anwser'"),
    ],
)
def test_a_mistake_in_a_decision_is_named(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DriftlineError, match=complaint):
        prediction_from_event(decoded({**ROW, **change}))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"actions": b"\0"}, "humility.actions"),
        ({"actions": b"\0\4"}, "humility.actions: expected 0 to 3, or 255"),
        ({"fired": b"\0" * 8}, "humility.fired"),
        ({"quantiles": b"\0"}, "humility.quantiles"),
        ({"alarms": b"\0"}, "humility.alarms"),
        ({"answers": b"\0" * 24}, "humility.answers"),
        ({"answer_labels": {"categories": [], "codes": b"\0" * 8}}, "humility.answer_labels"),
    ],
)
def test_a_batch_with_decisions_that_cannot_be_is_refused(change: dict[str, Any], complaint: str) -> None:
    humility = HumilityColumns("p", 1, np.zeros(2, np.uint8), np.zeros(2, np.uint64))
    record = PredictionColumns("d", "v", ["a", "b"], np.arange(2), humility=humility).to_record()
    record["humility"] |= change
    with pytest.raises(EventError, match=complaint):
        PredictionColumns.from_record(record)


@pytest.mark.parametrize("name", ["challenger_predictions", "challenger_labels"])
def test_a_challengers_column_of_another_length_is_refused_by_name(name: str) -> None:
    record = PredictionColumns("d", "v", ["a", "b"], np.arange(2)).to_record()
    short = {"categories": ["x"], "codes": b"\0" * 4} if name.endswith("labels") else b"\0" * 8
    with pytest.raises(EventError, match=rf"{name}\[v2\]"):
        PredictionColumns.from_record(record | {name: {"v2": short}})


def test_monitors_have_a_bit_each() -> None:
    assert len(ALARM_MONITORS) == 8 == len(set(ALARM_MONITORS))


def test_labels_that_are_missing_stay_missing() -> None:
    labels = {"v2": CategoricalColumn(["x"], np.array([-1, 0], np.int32))}
    batch = again(PredictionColumns("d", "v", ["a", "b"], np.arange(2), challenger_labels=labels))
    assert batch.challenger_labels["v2"].values() == [None, "x"]
