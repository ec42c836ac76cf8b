"""A file's rows as predictions or outcomes of a deployment, in file order, in parts of bounded size."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from driftline.batches import take as take
from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from services.publish.convert import (
    Converted,
    to_booleans,
    to_categories,
    to_errors,
    to_finite_numbers,
    to_flags,
    to_ids,
    to_numbers,
    to_probabilities,
    to_times,
    unfit_intervals,
)
from services.publish.decisions import FileDecisions, read_decisions
from services.publish.errors import BadValue, BadValueError, FileError
from services.publish.files import Column, Part, RowFile
from services.publish.mapping import OutcomeMapping, PredictionMapping, outcome_mapping, prediction_mapping
from services.publish.vectors import to_vectors
from streams.specification import BOOLEAN, CATEGORICAL, EMBEDDING, KINDS, NUMERIC, TEXT, DeploymentSpec

OnError = Literal["stop", "skip"]
Rows = NDArray[np.intp]

_ID_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "driftline:file-row")
_EXAMPLES = 20
_TIME_FORMAT, _TIME_ZONE = "timestamp_format", "timezone"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows of a file are wanted: event time from (inclusive) to (exclusive), and at most so many."""

    from_us: int | None = None
    to_us: int | None = None
    limit: int | None = None


@dataclass(slots=True)
class Tally:
    """What became of a file's rows. ``read == taken + rejected + outside + unresolved``.

    Attributes:
        read: Rows in the file, as far as it was read.
        taken: Rows handed on.
        rejected: Rows with a value that cannot be used.
        outside: Rows outside the selected time.
        unresolved: Rows without an outcome yet.
        examples: The first of what was wrong.
    """

    read: int = 0
    taken: int = 0
    rejected: int = 0
    outside: int = 0
    unresolved: int = 0
    examples: list[BadValue] = field(default_factory=list)


def derived_id(deployment_id: str, file_name: str, line: int) -> str:
    """The prediction id of a row whose file has no ids: the same for the same deployment, file name and line.

    Predictions and outcomes published from one file therefore find each other.
    """
    return str(uuid.uuid5(_ID_NAMESPACE, f"{deployment_id}\n{file_name}\n{line}"))


class _Reader:
    """What reading predictions and outcomes has in common."""

    def __init__(
        self, file: RowFile, spec: DeploymentSpec, selection: Selection, on_error: OnError, tally: Tally
    ) -> None:
        self.file = file
        self.spec = spec
        self.selection = selection
        self.on_error = on_error
        self.tally = tally

    def parts(self, wanted: Sequence[str]) -> Iterator[Part]:
        """Parts of the file until there are enough rows."""
        limit = self.selection.limit
        if limit is not None and limit <= 0:
            return
        for part in self.file.parts(wanted):
            self.tally.read += part.rows + len(part.bad)
            yield part
            if limit is not None and self.tally.taken >= limit:
                return

    def times(self, part: Part, column: str) -> Converted[NDArray[np.int64]]:
        columns = self.spec.columns
        return to_times(_column(part, column), columns.get(_TIME_FORMAT), columns.get(_TIME_ZONE))

    def ids(self, part: Part, column: str | None) -> Converted[list[str]]:
        if column is not None:
            return to_ids(_column(part, column))
        name, deployment = self.file.path.name, self.spec.deployment_id
        return Converted([derived_id(deployment, name, line) for line in part.lines.tolist()])

    def within(self, times: Converted[NDArray[np.int64]]) -> NDArray[np.bool_]:
        """Rows in the selected time; those whose time cannot be read are kept, to be complained of."""
        inside = np.ones(len(times.values), dtype=bool)
        if self.selection.from_us is not None:
            inside &= times.values >= self.selection.from_us
        if self.selection.to_us is not None:
            inside &= times.values < self.selection.to_us
        inside[list(times.bad)] = True
        return inside

    def usable(self, part: Part, wanted: NDArray[np.bool_], found: Mapping[str, Converted[Any]]) -> Rows:
        """The rows to hand on; bad values stop everything or cost their row.

        Raises:
            BadValueError: There is a bad value and no leave to skip it.
        """
        values = list(part.bad)
        usable = wanted.copy()
        for column, converted in found.items():
            for row, message in converted.bad.items():
                if wanted[row]:
                    usable[row] = False
                    values.append(BadValue(int(part.lines[row]), column, message))
        if values:
            values.sort(key=lambda value: value.line)
            if self.on_error == "stop":
                raise BadValueError(str(self.file.path), self.file.unit, values)
            self.tally.examples += values[: _EXAMPLES - len(self.tally.examples)]
        self.tally.rejected += len(part.bad) + int(wanted.sum() - usable.sum())
        rows = np.flatnonzero(usable)
        if self.selection.limit is not None:
            room = self.selection.limit - self.tally.taken
            self.tally.read -= max(0, len(rows) - room)  # the rest of the part counts as not read
            rows = rows[:room]
        self.tally.taken += len(rows)
        return rows


def read_predictions(
    file: RowFile,
    spec: DeploymentSpec,
    *,
    version: str | None = None,
    selection: Selection | None = None,
    on_error: OnError = "stop",
    tally: Tally | None = None,
    run_rows: int = 500,
) -> Iterator[PredictionColumns]:
    """Read predictions.

    Args:
        file: The file.
        spec: Names the features and columns.
        version: The version of all rows; None takes the column ``model_version``.
        selection: Which rows.
        on_error: Stop at a bad value, or skip its row and count it.
        tally: Counts go here.
        run_rows: Where versions or humility policies mix, rows of one are brought together within so many rows.

    Raises:
        FileError: Damaged, a column is missing, or no version is given.
        BadValueError: A bad value, and ``on_error`` is ``stop``; the rows before its part were handed on.
    """
    reader = _Reader(file, spec, selection or Selection(), on_error, Tally() if tally is None else tally)
    mapping = prediction_mapping(spec, file.names, str(file.path))
    if version is None and mapping.model_version is None:
        raise FileError(
            f"{file.path} does not say which model version answered: say --version, or name the column in the "
            f"specification of {spec.deployment_id!r} (columns: model_version: COLUMN)"
        )
    for part in reader.parts(mapping.columns()):
        whole, versions, decisions, rows = _read_part(reader, mapping, part, version)
        if not len(rows):
            continue
        if versions is None and decisions is None:
            yield take(whole, rows)
            continue
        for start in range(0, len(rows), run_rows):
            yield from _in_runs(whole, versions, decisions, rows[start : start + run_rows])


def _in_runs(
    whole: PredictionColumns, versions: CategoricalColumn | None, decisions: FileDecisions | None, run: Rows
) -> Iterator[PredictionColumns]:
    """Some rows of a part as batches of one version and, where they were decided, of one policy."""
    of_version = np.zeros(len(run), np.int32) if versions is None else versions.codes[run]
    of_policy = np.full(len(run), -1, np.intp) if decisions is None else decisions.codes[run]
    for version, policy in dict.fromkeys(zip(of_version.tolist(), of_policy.tolist(), strict=True)):
        named = dataclasses.replace(
            whole,
            model_version=whole.model_version if versions is None else versions.categories[version],
            humility=None if decisions is None else decisions.by(policy),
        )
        yield take(named, run[(of_version == version) & (of_policy == policy)])


def read_reference(
    file: RowFile,
    spec: DeploymentSpec,
    version: str,
    *,
    selection: Selection | None = None,
    on_error: OnError = "stop",
    tally: Tally | None = None,
) -> list[PredictionColumns]:
    """All predictions of one version; of a file that does not say which version answered, all predictions.

    See :func:`read_predictions`.

    Raises:
        FileError: The file names versions, and this is none of them.
    """
    named = prediction_mapping(spec, file.names, str(file.path)).model_version
    read = read_predictions(
        file, spec, version=None if named else version, selection=selection, on_error=on_error, tally=tally
    )
    others: dict[str, None] = {}
    columns = []
    for batch in read:
        if batch.model_version == version:
            columns.append(batch)
        others.setdefault(batch.model_version)
    if others and not columns:
        listed = ", ".join(map(repr, list(others)[:5]))
        raise FileError(f"{file.path}: no row has version {version!r} in the column {named!r}; there are {listed}")
    return columns


def _read_part(
    reader: _Reader, mapping: PredictionMapping, part: Part, version: str | None
) -> tuple[PredictionColumns, CategoricalColumn | None, FileDecisions | None, Rows]:
    of_kind: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
    for feature in reader.spec.features:
        of_kind[feature.kind][feature.name] = mapping.features[feature.name]
    times = reader.times(part, mapping.timestamp)
    found: dict[str, Converted[Any]] = {mapping.timestamp: times}

    def numbers(column: str) -> NDArray[np.float64]:
        return _remember(found, column, to_numbers(_column(part, column)))

    def texts(column: str) -> CategoricalColumn:
        return _remember(found, column, to_categories(_column(part, column)))

    def booleans(column: str) -> CategoricalColumn:
        return _remember(found, column, to_booleans(_column(part, column)))

    vectors = {
        name: _remember(found, column, to_vectors(_column(part, column))) for name, column in of_kind[EMBEDDING].items()
    }
    low, high = (
        None if column is None else numbers(column) for column in (mapping.prediction_low, mapping.prediction_high)
    )
    if mapping.prediction_low is not None and low is not None and high is not None:
        known = found[mapping.prediction_low].bad | found[mapping.prediction_high or ""].bad
        unfit = {row: message for row, message in unfit_intervals(low, high).items() if row not in known}
        _remember(found, mapping.prediction_low, Converted(low, unfit))
    ids: list[str] = _remember(found, mapping.prediction_id or "", reader.ids(part, mapping.prediction_id))
    whole = PredictionColumns(
        deployment_id=reader.spec.deployment_id,
        model_version=version or "",
        prediction_ids=ids,
        timestamps_us=times.values,
        numeric={name: numbers(column) for name, column in of_kind[NUMERIC].items()},
        categorical={name: texts(column) for name, column in (of_kind[CATEGORICAL] | of_kind[TEXT]).items()}
        | {name: booleans(column) for name, column in of_kind[BOOLEAN].items()},
        prediction=None if mapping.prediction is None else numbers(mapping.prediction),
        prediction_label=None if mapping.prediction_label is None else texts(mapping.prediction_label),
        class_probabilities={name: numbers(column) for name, column in mapping.class_probabilities.items()},
        segments={name: texts(column) for name, column in mapping.segments.items()},
        latency_ms=None if mapping.latency_ms is None else numbers(mapping.latency_ms),
        vectors={name: values for name, values in vectors.items() if values is not None},
        error=None
        if mapping.error is None
        else _remember(found, mapping.error, to_errors(_column(part, mapping.error))),
        model_id=reader.spec.model_id,
        prediction_low=low,
        prediction_high=high,
        challenger_predictions={name: numbers(column) for name, column in mapping.challenger_predictions.items()},
        challenger_labels={name: texts(column) for name, column in mapping.challenger_labels.items()},
    )
    decisions = None
    if mapping.humility:
        decisions = read_decisions(
            mapping.humility,
            lambda column: _column(part, column),
            lambda column, converted: _remember(found, column, converted),
            part.rows,
        )
    versions = None
    if version is None and mapping.model_version is not None:
        read = to_categories(_column(part, mapping.model_version))
        missing = np.flatnonzero(read.values.codes < 0).tolist()
        versions = _remember(
            found,
            mapping.model_version,
            Converted(read.values, read.bad | dict.fromkeys(missing, "the model version is missing")),
        )
    inside = reader.within(times)
    reader.tally.outside += int((~inside).sum())
    return whole, versions, decisions, reader.usable(part, inside, found)


def read_outcomes(
    file: RowFile,
    spec: DeploymentSpec,
    *,
    selection: Selection | None = None,
    on_error: OnError = "stop",
    tally: Tally | None = None,
) -> Iterator[OutcomeColumns]:
    """Read outcomes; rows in which both value and label are missing are not resolved yet, and left out.

    See :func:`read_predictions`; times are those at which the outcomes became known.
    """
    reader = _Reader(file, spec, selection or Selection(), on_error, Tally() if tally is None else tally)
    mapping = outcome_mapping(spec, file.names, str(file.path))
    for part in reader.parts(mapping.columns()):
        whole, rows = _read_outcome_part(reader, mapping, part)
        if len(rows):
            yield take(whole, rows)


def _read_outcome_part(reader: _Reader, mapping: OutcomeMapping, part: Part) -> tuple[OutcomeColumns, Rows]:
    times = reader.times(part, mapping.actual_timestamp)
    found: dict[str, Converted[Any]] = {mapping.actual_timestamp: times}
    value = label = flags = chances = None
    resolved = np.zeros(part.rows, dtype=bool)
    if mapping.actual_value is not None:
        value = _remember(found, mapping.actual_value, to_finite_numbers(_column(part, mapping.actual_value)))
        resolved |= ~np.isnan(value)
        resolved[list(found[mapping.actual_value].bad)] = True
    if mapping.actual_label is not None:
        label = _remember(found, mapping.actual_label, to_categories(_column(part, mapping.actual_label)))
        resolved |= label.codes >= 0
        resolved[list(found[mapping.actual_label].bad)] = True
    if mapping.was_acted_on is not None:
        flags = _remember(found, mapping.was_acted_on, to_flags(_column(part, mapping.was_acted_on)))
    if mapping.labelling_probability is not None:
        column = mapping.labelling_probability
        chances = _remember(found, column, to_probabilities(_column(part, column)))
    ids: list[str] = _remember(found, mapping.prediction_id or "", reader.ids(part, mapping.prediction_id))
    whole = OutcomeColumns(
        deployment_id=reader.spec.deployment_id,
        prediction_ids=ids,
        actual_timestamps_us=times.values,
        actual_value=value,
        actual_label=label,
        was_acted_on=flags,
        labelling_probability=chances,
    )
    reader.tally.unresolved += int((~resolved).sum())
    inside = reader.within(times)
    reader.tally.outside += int((resolved & ~inside).sum())
    return whole, reader.usable(part, resolved & inside, found)


def _column(part: Part, name: str) -> Column:
    column = part.columns.get(name)
    return [None] * part.rows if column is None else column


Value = TypeVar("Value")


def _remember(found: dict[str, Converted[Any]], column: str, converted: Converted[Value]) -> Value:
    """Keep what could not be read; one column may serve several fields."""
    known = found.get(column)
    merged = converted.bad if known is None else {**converted.bad, **known.bad}
    found[column] = Converted(converted.values, merged)
    return converted.values


def source_text(path: Path, selection: Selection, rows: int) -> str:
    """Where rows came from, for people: the file's name alone, the time range and the number of rows."""
    from services.event_time import rfc3339

    times = [
        f"{word} {rfc3339(time_us)}"
        for word, time_us in (("from", selection.from_us), ("to", selection.to_us))
        if time_us is not None
    ]
    return " ".join([path.name, *times, f"({rows} rows)"])
