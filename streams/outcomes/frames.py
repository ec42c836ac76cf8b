"""Frames: how the predictions of a version wait for their outcomes, and what the two are counted in.

A prediction keeps, for as long as it waits, only what its outcome will be compared with. What that is follows from the
specification and the baseline in force when it came. A later one begins a new frame; what waits in the old one is
judged by the old one, and windows of different frames are told apart.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.events import NOT_DECIDED, OutcomeColumns, PredictionColumns
from streams.baseline import Baseline, BaselineSegment
from streams.outcomes.decided import DECISION_PARTS, SERVED_PART, rule_part
from streams.outcomes.keys import Keys
from streams.outcomes.reading import MOST_PROBABILITIES, jitter, performance_layout, read_predicted
from streams.outcomes.rulebook import DECISION_FIELDS, Issued, Rulebook
from streams.outcomes.sizes import fitting, most_parts
from streams.parts import part_codes
from streams.specification import DeploymentSpec
from streams.statistics.performance.pairs import (
    BINARY,
    MULTICLASS,
    REGRESSION,
    Decisions,
    Pairs,
    PerformanceLayout,
    Predicted,
)

Rows = NDArray[np.void]
Integers = NDArray[np.int64]

ID_FIELDS = [("key", "<u8"), ("check", "<u8"), ("time_us", "<i8")]
"""What every row of the store begins with."""

OUTCOME_FIELDS = [("known_us", "<i8"), ("value", "<f8"), ("weight", "<f8"), ("acted", "u1")]
"""The outcome in force of a prediction, at the end of its row; ``known_us`` is ``NOT_KNOWN`` while there is none."""

NOT_KNOWN = -(2**63)

EARLY_ROW = np.dtype(
    [
        *ID_FIELDS,
        ("value", "<f8"),
        ("probability", "<f8"),
        ("label", "<i4"),
        ("acted", "u1"),
        ("offset", "<i8"),
        ("row", "<i4"),
    ]
)
"""An outcome whose prediction has not come; ``time_us`` is when it was known, ``label`` an index of the deployment's
labels, ``offset`` and ``row`` where it stands in the log."""


@dataclass(frozen=True, eq=False)
class Frame:
    """How the predictions of one version wait and are judged.

    Attributes:
        number: Counts the deployment's frames on this partition.
        model_version: The version.
        baseline_digest: The baseline in force.
        first_offset: The first message of the predictions topic that is read in it.
        window_ms: Length of the accuracy windows.
        horizon_ms: How long after its prediction an outcome counts.
        final_after_ms: How long after its end a window is final, by what is known.
        skew_ms: How long before its prediction an outcome may be known, because clocks differ.
        layout: What is counted.
        segments: The segmentations whose parts are counted.
        humility: The rules by which its predictions are decided; None where there are none.
    """

    number: int
    model_version: str
    baseline_digest: str
    first_offset: int
    window_ms: int
    horizon_ms: int
    final_after_ms: int
    skew_ms: int
    layout: PerformanceLayout
    segments: tuple[BaselineSegment, ...]
    humility: Rulebook | None = None

    @functools.cached_property
    def row_dtype(self) -> np.dtype[np.void]:
        """What is kept of a prediction, with its outcome once that is known."""
        classes = len(self.layout.classes)
        width = {BINARY: 1, MULTICLASS: classes, REGRESSION: 3}.get(self.layout.task, 0)
        fields: list[Any] = [*ID_FIELDS, ("label", "<i2")]
        if self.segments:
            fields.append(("parts", "<i2", (len(self.segments),)))
        if width and classes <= MOST_PROBABILITIES:
            fields.append(("scores", "<f8", (width,)))
        if self.humility is not None:
            fields += DECISION_FIELDS
        return np.dtype([*fields, *OUTCOME_FIELDS])

    @property
    def lateness_ms(self) -> int:
        """How long after it was known an outcome may take to be published."""
        return self.final_after_ms - self.horizon_ms

    def same_as(self, other: Frame) -> bool:
        """Whether rows are read and judged alike, whatever the frames' numbers."""
        return self._settings() == other._settings()

    @functools.cached_property
    def class_order(self) -> Integers:
        """Place of each class in the order of their names, int64[C]; tells outcomes apart that were known at once."""
        return np.argsort(np.argsort(np.array(self.layout.classes, dtype=object), kind="stable")).astype(np.int64)

    def rank(self, values: NDArray[np.float64]) -> Integers | NDArray[np.float64]:
        """The order, n values, in which outcomes that were known at once are told apart: the larger is in force."""
        return self.class_order[values.astype(np.int64)] if self.layout.classes else values

    def windows_of(self, times_us: Integers) -> tuple[Integers, NDArray[np.intp]]:
        """Starts of the windows of predictions, int64[w], ascending, and for each prediction an index of them."""
        window_us = self.window_ms * 1000
        first = int(times_us.min()) // window_us * window_us
        if int(times_us.max()) < first + window_us:
            return np.array([first], np.int64), np.zeros(len(times_us), np.intp)
        starts, index = np.unique(times_us // window_us * window_us, return_inverse=True)
        return starts, index

    @functools.cached_property
    def decision_parts(self) -> tuple[str, ...]:
        """The parts by decision that are counted, by code of the action; all of them or none."""
        names = (*DECISION_PARTS, SERVED_PART)
        if self.humility is None or self._room < len(names) or self._declared & set(names):
            return ()
        return DECISION_PARTS

    @functools.cached_property
    def rule_parts(self) -> tuple[tuple[int, str], ...]:
        """The parts by rule that are counted: the rule's number and the part."""
        if self.humility is None or not self.decision_parts:
            return ()
        named = [(rule, rule_part(name)) for rule, name in enumerate(self.humility.rules)]
        left = self._room - len(DECISION_PARTS) - 1
        return tuple([each for each in named if each[1] not in self._declared][:left])

    @property
    def _declared(self) -> set[str]:
        return {part for segment in self.segments for part in segment.parts}

    @property
    def _room(self) -> int:
        """How many more parts the record of a window has room for."""
        return most_parts(self.layout) - len(self._declared)

    def read_rows(
        self,
        columns: PredictionColumns,
        keys: Keys,
        counted: NDArray[np.bool_] | None,
        decided: Issued | None = None,
    ) -> Rows:
        """The rows of a batch that count, as they will wait; n rows.

        Args:
            columns: The batch.
            keys: uint64[n, 2], of the rows that count.
            counted: bool[batch], which rows those are; None for all.
            decided: What was decided of the rows of the batch; None where nothing was.
        """
        rows = np.zeros(len(keys), self.row_dtype)
        predicted = read_predicted(self.layout, columns)
        mask: Any = slice(None) if counted is None else counted
        rows["key"], rows["check"] = keys[:, 0], keys[:, 1]
        rows["time_us"] = columns.timestamps_us[mask]
        rows["label"] = predicted.labels[mask]
        rows["known_us"] = NOT_KNOWN
        if "scores" in rows.dtype.names:  # type: ignore[operator] # a structured dtype has names
            rows["scores"] = predicted.scores[mask]
        for at, segment in enumerate(self.segments):
            rows["parts"][:, at] = part_codes(segment, columns)[mask]
        if self.humility is not None:
            rows["action"], rows["quantile"], rows["group"], rows["answer"] = NOT_DECIDED, np.nan, -1, np.nan
            if decided is not None:
                self.humility.read(rows, self.layout, decided, mask)
        return rows

    def predicted(self, rows: Rows) -> Predicted:
        """What the model said, of rows that wait."""
        names = rows.dtype.names or ()
        scores = rows["scores"] if "scores" in names else np.zeros((len(rows), 0))
        return Predicted(scores, rows["label"].astype(np.int64))

    def parts(self, rows: Rows) -> dict[str, Integers]:
        """Per segmentation the part of each row, int64[n], -1 for none."""
        return {s.name: rows["parts"][:, at].astype(np.int64) for at, s in enumerate(self.segments)}

    def decisions(self, rows: Rows) -> Decisions | None:
        """What was decided of rows that wait; None where there are no rules."""
        return None if self.humility is None else self.humility.decisions(rows)

    def pairs(self, rows: Rows) -> Pairs:
        """Predictions beside their outcomes, n rows that have one."""
        return Pairs(
            predicted=self.predicted(rows),
            actual=rows["value"].copy(),
            times_us=rows["time_us"].copy(),
            ages_us=np.maximum(rows["known_us"] - rows["time_us"], 0),
            weights=rows["weight"].copy(),
            acted=rows["acted"].copy(),
            jitter=jitter(rows["check"]),
            parts=self.parts(rows),
            decisions=self.decisions(rows),
        )

    def to_json(self) -> str:
        """The frame as text."""
        head = {"number": self.number, "model_version": self.model_version, "first_offset": self.first_offset}
        return json.dumps(head | self._settings(), separators=(",", ":"))

    def _settings(self) -> dict[str, Any]:
        layout = self.layout
        humility = {} if self.humility is None else {"humility": self.humility.to_json()}
        return {
            **humility,
            "baseline_digest": self.baseline_digest,
            "window_ms": self.window_ms,
            "horizon_ms": self.horizon_ms,
            "final_after_ms": self.final_after_ms,
            "skew_ms": self.skew_ms,
            "task": layout.task,
            "classes": list(layout.classes),
            "score_edges": layout.score_edges.tolist(),
            "age_edges_us": layout.age_edges_us.tolist(),
            "threshold": layout.threshold,
            "values": None if layout.values is None else layout.values.tolist(),
            "quantile": layout.quantile,
            "segments": [dataclasses.asdict(segment) | {"values": list(segment.values)} for segment in self.segments],
        }

    @classmethod
    def from_json(cls, text: str) -> Frame:
        """Read :meth:`to_json`."""
        fields = json.loads(text)
        humility = Rulebook.from_json(fields["humility"]) if "humility" in fields else None
        layout = PerformanceLayout(
            task=fields["task"],
            classes=tuple(fields["classes"]),
            score_edges=np.array(fields["score_edges"], np.float64),
            age_edges_us=np.array(fields["age_edges_us"], np.int64),
            threshold=fields["threshold"],
            values=None if fields["values"] is None else np.array(fields["values"], np.float64),
            quantile=fields["quantile"],
            coverage_score=humility.score if humility is not None else "",
        )
        segments = tuple(BaselineSegment(**{**s, "values": tuple(s["values"])}) for s in fields["segments"])
        return cls(
            fields["number"],
            fields["model_version"],
            fields["baseline_digest"],
            fields["first_offset"],
            fields["window_ms"],
            fields["horizon_ms"],
            fields["final_after_ms"],
            fields["skew_ms"],
            layout,
            segments,
            humility,
        )


def frame_of(
    spec: DeploymentSpec, baseline: Baseline, number: int, first_offset: int, humility: Rulebook | None = None
) -> Frame | None:
    """The frame that a specification and a baseline ask for; None where no outcomes are expected.

    ``humility``: the rules by which the version's predictions are decided.
    """
    layout = performance_layout(spec, baseline.outcomes)
    if layout is None or spec.outcomes is None:
        return None
    if humility is not None:
        layout = dataclasses.replace(layout, coverage_score=humility.score)
    return Frame(
        number,
        baseline.model_version,
        baseline.digest,
        first_offset,
        spec.outcomes.window_ms,
        spec.outcomes.horizon_ms,
        spec.outcomes.final_after_ms,
        spec.clock_skew_ms,
        layout,
        fitting(layout, baseline.segments),
        humility,
    )


def take_outcomes(columns: OutcomeColumns, rows: Sequence[int] | NDArray[np.intp]) -> OutcomeColumns:
    """Some rows of a batch of outcomes, by index."""
    at = np.asarray(rows, np.intp)
    if len(at) == columns.rows and (at == np.arange(columns.rows)).all():
        return columns
    label = columns.actual_label
    return OutcomeColumns(
        deployment_id=columns.deployment_id,
        prediction_ids=[columns.prediction_ids[row] for row in at.tolist()],
        actual_timestamps_us=columns.actual_timestamps_us[at],
        actual_value=None if columns.actual_value is None else columns.actual_value[at],
        actual_label=None if label is None else dataclasses.replace(label, codes=label.codes[at]),
        was_acted_on=None if columns.was_acted_on is None else columns.was_acted_on[at],
        labelling_probability=None if columns.labelling_probability is None else columns.labelling_probability[at],
    )
