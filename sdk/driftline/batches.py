"""Rows and columns to encoded messages that Kafka will take."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from driftline import codec
from driftline.columns import by_kind, floats, now_rfc3339
from driftline.errors import CodecError
from driftline.events import (
    NOT_DECIDED,
    UNKNOWN_ACTED_ON,
    CategoricalColumn,
    Floats,
    HumilityColumns,
    OutcomeColumns,
    PredictionColumns,
    Vectors,
)

log = logging.getLogger("driftline")

CONTENT_TYPE = "application/avro"
Columns = TypeVar("Columns", bound=PredictionColumns | OutcomeColumns)


class RowDecision(NamedTuple):
    """What was decided about one prediction, and what was known then; see :class:`driftline.events.HumilityColumns`."""

    policy: str
    revision: int
    action: int
    fired: int
    quantile: float | None = None
    alarms: int = 0
    answer: float | None = None
    answer_label: str | None = None


class PredictionRow(NamedTuple):
    """One checked prediction, as the caller's thread leaves it."""

    model_version: str
    prediction_id: str
    timestamp_us: int
    features: dict[str, Any]
    vectors: dict[str, Vectors] | None
    prediction: float | None
    prediction_label: str | None
    class_probabilities: Mapping[str, float | None] | None
    segments: Mapping[str, str | None] | None
    latency_ms: float | None
    error: str | None
    prediction_low: float | None = None
    prediction_high: float | None = None
    challenger_predictions: Mapping[str, float] | None = None
    challenger_labels: Mapping[str, str] | None = None
    decision: RowDecision | None = None


class OutcomeRow(NamedTuple):
    """One checked outcome."""

    prediction_id: str
    actual_timestamp_us: int
    actual_value: float | None
    actual_label: str | None
    was_acted_on: bool | None
    labelling_probability: float | None = None


@dataclass(slots=True)
class Message:
    """An encoded batch on its way to Kafka.

    Attributes:
        topic: Topic name.
        key: Kafka key.
        value: Avro, single-object encoding.
        headers: CloudEvents and the user's.
        rows: Rows in the batch.
        sequence: Order in which the batches were made.
        origin: The spool segment it was read from; None for a batch that never was on disk.
    """

    topic: str
    key: bytes
    value: bytes
    headers: list[tuple[str, str]]
    rows: int
    sequence: int = 0
    origin: Any = None


def random_ids(count: int) -> list[str]:
    """``count`` ids of 128 random bits, as 32 hexadecimal digits."""
    digits = os.urandom(16 * count).hex()
    return [digits[i : i + 32] for i in range(0, len(digits), 32)]


def cloud_event_headers(record_name: str, deployment_id: str) -> list[tuple[str, str]]:
    """The headers of CloudEvents' Kafka protocol binding 1.0.2, section 3.2 (binary content mode)."""
    return [
        ("ce_specversion", "1.0"),
        ("ce_id", random_ids(1)[0]),
        ("ce_type", f"driftline.{record_name}"),
        ("ce_source", f"driftline/sdk/{quote(deployment_id, safe='')}"),
        ("ce_time", now_rfc3339()),
        ("content-type", CONTENT_TYPE),
    ]


# Rows to columns


def prediction_columns(
    rows: Sequence[PredictionRow], deployment_id: str, model_id: str | None
) -> Iterator[PredictionColumns]:
    """Predictions as columns, one batch per model version, humility policy and dimension of its vectors.

    Otherwise rows of one version share a batch whatever features they have; what a row lacks is missing there. Rows
    that were not decided go with those of the version's first policy.
    """
    by_policy: dict[tuple[str, tuple[str, int] | None], list[PredictionRow]] = {}
    policies = _first_policies(rows)
    for row in rows:
        policy = policies.get(row.model_version) if row.decision is None else row.decision[:2]
        by_policy.setdefault((row.model_version, policy), []).append(row)
    groups = ((version, group) for (version, _), members in by_policy.items() for group in _of_one_dimension(members))
    for version, members in groups:
        numeric, categorical = _features([row.features for row in members])
        yield PredictionColumns(
            deployment_id=deployment_id,
            model_version=version,
            prediction_ids=[row.prediction_id for row in members],
            timestamps_us=np.array([row.timestamp_us for row in members], dtype=np.int64),
            numeric=numeric,
            categorical=categorical,
            prediction=_floats_or_none([row.prediction for row in members]),
            prediction_label=_labels_or_none([row.prediction_label for row in members]),
            class_probabilities={
                name: floats(values)
                for name, values in _transposed([row.class_probabilities for row in members]).items()
            },
            segments={
                name: CategoricalColumn.from_values(values)
                for name, values in _transposed([row.segments for row in members]).items()
            },
            latency_ms=_floats_or_none([row.latency_ms for row in members]),
            vectors=_vectors([row.vectors for row in members]),
            error=_labels_or_none([row.error for row in members]),
            model_id=model_id,
            prediction_low=_floats_or_none([row.prediction_low for row in members]),
            prediction_high=_floats_or_none([row.prediction_high for row in members]),
            challenger_predictions={
                name: floats(values)
                for name, values in _transposed([row.challenger_predictions for row in members]).items()
            },
            challenger_labels={
                name: CategoricalColumn.from_values(values)
                for name, values in _transposed([row.challenger_labels for row in members]).items()
            },
            humility=_decisions([row.decision for row in members]),
        )


def _first_policies(rows: Sequence[PredictionRow]) -> dict[str, tuple[str, int]]:
    """Digest and revision of each version's first decision."""
    found: dict[str, tuple[str, int]] = {}
    for row in rows:
        if row.decision is not None:
            found.setdefault(row.model_version, row.decision[:2])
    return found


def _decisions(rows: Sequence[RowDecision | None]) -> HumilityColumns | None:
    """Decisions of one policy as columns; None where nothing was decided."""
    first = next((row for row in rows if row is not None), None)
    if first is None:
        return None
    none = RowDecision(first.policy, first.revision, NOT_DECIDED, 0)
    given = [none if row is None else row for row in rows]
    alarms = np.array([row.alarms for row in given], dtype=np.uint8)
    return HumilityColumns(
        policy=first.policy,
        revision=first.revision,
        actions=np.array([row.action for row in given], dtype=np.uint8),
        fired=np.array([row.fired for row in given], dtype=np.uint64),
        quantiles=_floats_or_none([row.quantile for row in given]),
        alarms=alarms if alarms.any() else None,
        answers=_floats_or_none([row.answer for row in given]),
        answer_labels=_labels_or_none([row.answer_label for row in given]),
    )


def outcome_columns(rows: Sequence[OutcomeRow], deployment_id: str) -> Iterator[OutcomeColumns]:
    """Outcomes as columns, one batch."""
    acted = [row.was_acted_on for row in rows]
    yield OutcomeColumns(
        deployment_id=deployment_id,
        prediction_ids=[row.prediction_id for row in rows],
        actual_timestamps_us=np.array([row.actual_timestamp_us for row in rows], dtype=np.int64),
        actual_value=_floats_or_none([row.actual_value for row in rows]),
        actual_label=_labels_or_none([row.actual_label for row in rows]),
        was_acted_on=None
        if all(value is None for value in acted)
        else np.array([UNKNOWN_ACTED_ON if value is None else value for value in acted], dtype=np.uint8),
        labelling_probability=_probabilities_or_none([row.labelling_probability for row in rows]),
    )


def _of_one_dimension(rows: list[PredictionRow]) -> list[list[PredictionRow]]:
    """Rows in as many groups as it takes for every feature's vectors to have one dimension in each."""
    if all(row.vectors is None for row in rows):
        return [rows]
    groups: list[tuple[dict[str, int], list[PredictionRow]]] = []
    for row in rows:
        own = {name: len(values) for name, values in (row.vectors or {}).items()}
        fitting = (group for group in groups if all(group[0].get(name, size) == size for name, size in own.items()))
        dimensions, members = next(fitting, None) or ({}, [])
        if not members:
            groups.append((dimensions, members))
        dimensions |= own
        members.append(row)
    return [members for _, members in groups]


def _vectors(rows: Sequence[Mapping[str, Vectors] | None]) -> dict[str, Vectors]:
    """Each feature's vectors, shape ``(rows, dimension)``; NaN where a row has none."""
    by_name: dict[str, Vectors] = {}
    for index, row in enumerate(rows):
        for name, values in (row or {}).items():
            if name not in by_name:
                by_name[name] = np.full((len(rows), len(values)), np.nan, dtype=np.float32)
            by_name[name][index] = values
    return by_name


def _features(features: list[dict[str, Any]]) -> tuple[dict[str, Floats], dict[str, CategoricalColumn]]:
    numeric: dict[str, Floats] = {}
    categorical: dict[str, CategoricalColumn] = {}
    for name, values in _transposed(features).items():
        as_numbers, as_text = by_kind(values)
        if as_numbers is not None:
            numeric[name] = as_numbers
        if as_text is not None:
            categorical[name] = as_text
    return numeric, categorical


def _transposed(rows: Sequence[Mapping[str, Any] | None]) -> dict[str, list[Any]]:
    first = rows[0]
    if first is not None and all(row is not None and row.keys() == first.keys() for row in rows):
        return {name: [row[name] for row in rows if row is not None] for name in first}
    empty: Mapping[str, Any] = {}
    given = [empty if row is None else row for row in rows]
    names = dict.fromkeys(name for row in given for name in row)
    return {name: [row.get(name) for row in given] for name in names}


def _floats_or_none(values: list[float | None]) -> Floats | None:
    return None if all(value is None for value in values) else floats(values)


def _probabilities_or_none(values: list[float | None]) -> Floats | None:
    """A row that says nothing was labelled with certainty, as all are in a batch without the column."""
    if all(value is None for value in values):
        return None
    return floats([1.0 if value is None else value for value in values])


def _labels_or_none(values: list[str | None]) -> CategoricalColumn | None:
    return None if all(value is None for value in values) else CategoricalColumn.from_values(values)


# Columns to messages


def between(columns: Columns, start: int, stop: int) -> Columns:
    """Rows ``start`` to ``stop`` of a batch; categorical columns keep only the categories they use."""
    if start == 0 and stop >= columns.rows:
        return columns
    part: Columns = _picked(columns, lambda values: values[start:stop], _used)
    return part


def take(columns: Columns, rows: NDArray[np.intp]) -> Columns:
    """Some rows of a batch, in the given order; categorical columns keep all of their categories."""
    if len(rows) == columns.rows and (not len(rows) or (rows == np.arange(len(rows))).all()):
        return columns
    places = rows.tolist()

    def pick(values: Any) -> Any:
        return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in places]

    chosen: Columns = _picked(columns, pick, lambda column: column)
    return chosen


def _picked(part: Any, pick: Callable[[Any], Any], narrowed: Callable[[CategoricalColumn], CategoricalColumn]) -> Any:
    """Every column in a batch, or in a part of one, with the rows that ``pick`` leaves of it."""
    if isinstance(part, (np.ndarray, list, tuple)):
        return pick(part)
    if isinstance(part, CategoricalColumn):
        return narrowed(CategoricalColumn(part.categories, pick(part.codes)))
    if isinstance(part, Mapping):
        return {name: _picked(column, pick, narrowed) for name, column in part.items()}
    if isinstance(part, (PredictionColumns, OutcomeColumns, HumilityColumns)):
        names = type(part).__dataclass_fields__
        return replace(part, **{name: _picked(getattr(part, name), pick, narrowed) for name in names})
    return part


def _used(column: CategoricalColumn) -> CategoricalColumn:
    """The column without categories that no row has."""
    used, codes = np.unique(column.codes, return_inverse=True)
    shift = int(used.size > 0 and used[0] < 0)
    categories = [column.categories[code] for code in used[shift:].tolist()]
    return CategoricalColumn(categories, (codes - shift).astype(np.int32))


def least_row_bytes(columns: PredictionColumns | OutcomeColumns) -> int:
    """What a row takes at least when encoded, bytes."""
    if isinstance(columns, OutcomeColumns):
        return 16
    ends = (columns.prediction_low, columns.prediction_high)
    wide = len(columns.numeric) + len(columns.class_probabilities) + len(columns.challenger_predictions)
    wide += sum(end is not None for end in ends)
    coded = len(columns.categorical) + len(columns.segments) + len(columns.challenger_labels)
    components = sum(int(values.shape[1]) for values in columns.vectors.values())
    decided = 0 if columns.humility is None else 9
    return 16 + decided + 8 * wide + 4 * (coded + components)


def encoded(
    columns: PredictionColumns | OutcomeColumns, max_bytes: int, refuse: Callable[[int, str, str], None]
) -> Iterator[tuple[bytes, int]]:
    """A batch as one or more encoded records, each of at most ``max_bytes``, with their numbers of rows.

    A row that cannot be encoded, or is too large alone, costs only itself: ``refuse`` is told the number of rows
    lost, the kind of trouble and the reason.
    """
    name = "OutcomeBatch" if isinstance(columns, OutcomeColumns) else "PredictionBatch"
    reason = f"larger than max_message_bytes={max_bytes}"
    if columns.rows == 1 or columns.rows * least_row_bytes(columns) <= max_bytes:
        try:
            data = codec.encode(name, columns.to_record())
        except CodecError as error:
            reason = str(error)
        else:
            if len(data) <= max_bytes:
                yield data, columns.rows
                return
    if columns.rows == 1:
        refuse(1, "unfit", f"prediction {columns.prediction_ids[0]!r} cannot be sent: {reason}")
        return
    half = columns.rows // 2
    yield from encoded(between(columns, 0, half), max_bytes, refuse)
    yield from encoded(between(columns, half, columns.rows), max_bytes, refuse)
