"""Whether a row decides the same everywhere: alone, packed by the client, in any batch, and read from Kafka."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bench.humility.cases import Case, Generator, Given, random_case, random_rows
from driftline import codec, limits
from driftline import columns as read
from driftline.batches import PredictionRow, between, prediction_columns
from driftline.events import Floats, PredictionColumns, prediction_from_event
from driftline.humility.policy import Decided, Decision, Policy
from driftline.humility.rules import ACTIONS, OVERRIDDEN
from driftline.rows import record_from_json
from driftline.tables import prediction_table

Outcome = tuple[Any, ...]
"""Action, rules that fired, the one that acted, value and class served instead, quantile, group, and interval."""


EVENTS = 10
"""So many rows of a chunk are read as events of their own, too."""


def disagreements(rng: Generator, rows: int, chunk: int = 1_000) -> Iterator[str]:
    """Where ``rows`` random rows, under a random policy for each ``chunk`` of them, are decided in two ways."""
    while rows > 0:
        case = random_case(rng)
        policy = Policy.of(case.spec, case.baseline)
        assert policy is not None
        given = random_rows(rng, case, min(chunk, rows))
        yield from compare(rng, policy, case, given)
        rows -= len(given)


def compare(rng: Generator, policy: Policy, case: Case, given: Sequence[Given]) -> Iterator[str]:
    """Where the ways to decide some rows differ from each other."""
    alone = {str(i): outcome_of_row(policy, decide(policy, case, row)) for i, row in enumerate(given)}
    for way, ids, found in ways(rng, policy, case, given):
        for name, outcome in zip(ids, found, strict=True):
            if outcome != alone[name]:
                yield f"{way}: {outcome} and not {alone[name]} for {given[int(name)]} by {policy.rules}"


def decide(policy: Policy, case: Case, row: Given) -> Decision:
    """The decision on a row alone."""
    return policy.decide_row(
        row.features,
        row.prediction,
        row.class_probabilities,
        prediction_label=row.prediction_label,
        prediction_low=row.prediction_low,
        prediction_high=row.prediction_high,
        segments=row.segments,
        timestamp_us=row.timestamp_us,
        challengers=row.challengers,
        quantiles=case.quantiles,
        alarms=case.alarms,
    )


def ways(
    rng: Generator, policy: Policy, case: Case, given: Sequence[Given]
) -> Iterator[tuple[str, Sequence[str], list[Outcome]]]:
    """Each way to decide rows by columns: its name, ids of rows, and what was decided of them."""
    for packed in prediction_columns([packed_row(row, str(i)) for i, row in enumerate(given)], "d", None):
        decided = policy.decide_columns(packed, quantiles=case.quantiles, alarms=case.alarms)
        yield "packed", packed.prediction_ids, outcomes(policy, packed, decided)
        travelled = PredictionColumns.from_record(codec.decode(codec.encode("PredictionBatch", packed.to_record()))[1])
        cuts = np.unique(rng.integers(0, packed.rows + 1, 5)).tolist()
        for start, stop in zip([0, *cuts], [*cuts, packed.rows], strict=True):
            if start == stop:
                continue
            part = between(travelled, start, stop)
            again = policy.decide_columns(
                part, quantiles=decided.quantiles[start:stop], alarms=decided.alarms[start:stop]
            )
            yield "travelled", part.prediction_ids, outcomes(policy, part, again)
    for place in rng.integers(0, len(given), EVENTS).tolist():
        event = as_event(packed_row(given[place], str(place)))
        decided = policy.decide_columns(event, quantiles=case.quantiles, alarms=case.alarms)
        yield "event", event.prediction_ids, outcomes(policy, event, decided)
    table = as_table(given)
    decided = policy.decide_columns(table, quantiles=case.quantiles, alarms=case.alarms)
    yield "table", table.prediction_ids, outcomes(policy, table, decided)


def outcome_of_row(policy: Policy, decision: Decision) -> Outcome:
    """A decision as what is compared."""
    overridden = decision.action == ACTIONS[OVERRIDDEN]
    value = decision.prediction if overridden else None
    interval = decision.interval or (None, None)
    return (
        decision.action,
        decision.fired,
        decision.rule,
        _bits(value),
        decision.prediction_label if overridden else None,
        _bits(decision.quantile),
        decision.group,
        _bits(interval[0]),
        _bits(interval[1]),
    )


def outcomes(policy: Policy, columns: PredictionColumns, decided: Decided) -> list[Outcome]:
    """Decisions of a batch as what is compared."""
    labels = [None] * decided.rows if decided.answer_labels is None else decided.answer_labels.values()
    low, high = policy.intervals(columns, decided.quantiles)
    none = np.isnan(low) | np.isnan(high)
    return list(
        zip(
            [ACTIONS[code] for code in decided.actions.tolist()],
            decided.fired.tolist(),
            [None if number < 0 else policy.rules[number].name for number in decided.acting.tolist()],
            _all_bits(decided.answers),
            labels,
            _all_bits(decided.quantiles),
            [policy.groups[group] for group in decided.groups.tolist()],
            _all_bits(np.where(none, np.nan, low)),
            _all_bits(np.where(none, np.nan, high)),
            strict=True,
        )
    )


def packed_row(row: Given, prediction_id: str) -> PredictionRow:
    """A row as the client checks it on its way to Kafka."""
    features, vectors = read.plain_features(row.features)
    low, high = limits.interval(row.prediction_low, row.prediction_high)
    by_number, by_class = read.challengers(row.challengers)
    return PredictionRow(
        "1",
        prediction_id,
        row.timestamp_us,
        features,
        vectors,
        read.number(row.prediction, "prediction"),
        read.label(row.prediction_label, "prediction_label"),
        read.numbers_by_class(row.class_probabilities, "class_probabilities"),
        read.labels_by_name(row.segments, "segments"),
        None,
        None,
        low,
        high,
        by_number,
        by_class,
    )


def as_table(given: Sequence[Given]) -> PredictionColumns:
    """Rows as a client takes them by columns."""
    challengers = [read.challengers(row.challengers) for row in given]
    versions = {version for answers in challengers for half in answers for version in half or ()}
    lows, highs = zip(*(limits.interval(row.prediction_low, row.prediction_high) for row in given), strict=True)
    return prediction_table(
        _transposed([row.features for row in given]),
        [read.number(row.prediction, "prediction") for row in given],
        deployment_id="d",
        model_version="1",
        model_id=None,
        prediction_ids=[str(i) for i in range(len(given))],
        prediction_label=[row.prediction_label for row in given],
        class_probabilities=_transposed([_by_class(row.class_probabilities) for row in given]),
        timestamps=np.array([row.timestamp_us for row in given]),
        segments=_transposed([row.segments or {} for row in given]),
        latency_ms=None,
        error=None,
        prediction_low=list(lows),
        prediction_high=list(highs),
        challengers={
            version: (
                [(numbers or {}).get(version) for numbers, _ in challengers],
                [(classes or {}).get(version) for _, classes in challengers],
            )
            for version in sorted(versions)
        },
    )


def as_event(row: PredictionRow) -> PredictionColumns:
    """A row as somebody else's publisher sends it, as a JSON object."""
    features = {name: values.tolist() for name, values in (row.vectors or {}).items()}
    for name, value in row.features.items():
        is_text = value is None or isinstance(value, (str, bool))
        features[name] = value if is_text else bool(value) if isinstance(value, np.bool_) else read.number(value, name)
    document = {
        "prediction_id": row.prediction_id,
        "deployment_id": "d",
        "model_version": "1",
        "timestamp": row.timestamp_us,
        "features": features,
        "prediction": row.prediction,
        "prediction_label": row.prediction_label,
        "class_probabilities": _present(row.class_probabilities),
        "segments": _present(row.segments),
        "prediction_low": row.prediction_low,
        "prediction_high": row.prediction_high,
        "challenger_predictions": row.challenger_predictions,
        "challenger_labels": row.challenger_labels,
    }
    return prediction_from_event(record_from_json("PredictionEvent", document))


def _present(values: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (values or {}).items() if value is not None}


def _by_class(probabilities: Any) -> dict[str, Any]:
    return {read.class_name(name, ""): value for name, value in (probabilities or {}).items()}


def _transposed(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _bits(value: float | None) -> bytes | None:
    """The bits of a number; None and NaN are none."""
    return None if value is None or value != value else struct.pack("<d", value)


def _all_bits(values: Floats) -> list[bytes | None]:
    data = np.ascontiguousarray(values, "<f8").tobytes()
    cells = [data[place : place + 8] for place in range(0, len(data), 8)]
    return [None if missing else cell for cell, missing in zip(cells, np.isnan(values).tolist(), strict=True)]
