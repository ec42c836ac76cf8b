"""Humility rules and what was fitted for them, compiled to decide.

A policy decides rows one by one, in microseconds, and batches by columns, and it decides the same: the same row alone,
in any batch, in the serving application and in the streams. It decides on what travels with the prediction's event, so
that whoever reads the event can decide again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.events import CategoricalColumn, Floats, PredictionColumns
from driftline.humility.answers import Override
from driftline.humility.arming import COVERAGE, Armed, Compiler, by_part
from driftline.humility.batch import Batch
from driftline.humility.certainty import Certainty
from driftline.humility.decision import Answer as Answer
from driftline.humility.decision import Decided as Decided
from driftline.humility.decision import Decision as Decision
from driftline.humility.decision import Reason as Reason
from driftline.humility.fit import ONE_MINUS_PROBABILITY, HumilityFit
from driftline.humility.layout import Layout, Segment
from driftline.humility.row import RowReader
from driftline.humility.rules import (
    ACTIONS,
    ANSWERED,
    OVERRIDDEN,
    OVERRIDE,
    RECORD,
    REFUSE,
    REFUSED,
    ROUTE,
    ROUTED,
    HumilitySpec,
    Rule,
    digest_of,
)
from driftline.humility.wording import message_of

_CODES = {OVERRIDE: OVERRIDDEN, REFUSE: REFUSED, ROUTE: ROUTED}
_NO_QUANTILES: Mapping[str, float] = {}
_NAN = math.nan


class Policy:
    """What rows are decided by; made by :meth:`of`, never changed, safe in any number of threads.

    Attributes:
        digest: Policies of equal digest decide equally.
        revision: Revision of the specification.
        rules: The rules, in order.
        unarmed: A sentence for each rule that cannot fire, or only in part, with the reason.
        groups: Groups of the adaptive quantile, ``""`` first.
        start_quantiles: Where the tracker of each group starts; empty without a fit of coverage.
    """

    def __init__(
        self,
        asked: HumilitySpec,
        fit: HumilityFit | None,
        *,
        features: Mapping[str, str],
        task: str,
        positive_class: str | None,
        segment: Segment | None,
        digest: str,
        revision: int,
        classes: Sequence[str] = (),
    ) -> None:
        self.digest, self.revision, self.rules = digest, revision, asked.rules
        armed = Armed.of(asked, fit)
        covered = None if COVERAGE in armed.why_not else fit
        starts = {} if covered is None else {each.segment: each.quantile for each in covered.coverage_starts}
        self.start_quantiles: dict[str, float] = starts
        self.groups: tuple[str, ...] = ("", *(group for group in starts if group))
        self._certainty = Certainty(task, positive_class, "" if covered is None else covered.coverage_score, classes)
        self._has_sets = covered is not None and covered.coverage_score == ONE_MINUS_PROBABILITY
        self._layout = Layout(task, positive_class, segment)
        compiler = Compiler(asked, armed, features, self._layout, self._certainty)
        compiled = [(number, rule, compiler.compile(rule)) for number, rule in enumerate(asked.rules)]
        self._nodes = tuple((number, node) for number, _, node in compiled if node is not None)
        self._checks = tuple((1 << number, node.holds_of) for number, node in self._nodes)
        self.unarmed: tuple[str, ...] = tuple(compiler.unarmed)
        self._reasons = tuple(Reason(rule.name, message_of(rule), rule.dry_run) for rule in asked.rules)
        acting = [(number, rule) for number, rule, node in compiled if node and _acts(rule)]
        self._acting = tuple(sorted((number for number, _ in acting), key=lambda n: (asked.rules[n].priority, n)))
        self._overrides = {
            number: Override.of(rule.override, fit, compiler.range_of)
            for number, rule in acting
            if rule.action == OVERRIDE and rule.override is not None
        }
        by_group = {group: float(place) for place, group in enumerate(self.groups)}
        self._groups = tuple(map(int, by_part(self._layout, by_group, 0.0)))
        self._group_codes = np.array(self._groups, np.int16)
        self._reader = RowReader(self._layout)
        # by rule that acts, the last where none does
        self._codes = np.array([*(_CODES.get(rule.action, ANSWERED) for rule in asked.rules), ANSWERED], np.uint8)

    @classmethod
    def of(cls, spec: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> Policy | None:
        """Compile what a specification asks for.

        Args:
            spec: The Avro record of a ``DeploymentSpec``.
            baseline: That of the version's ``Baseline``; None if there is none yet.

        Returns:
            The policy; None if the specification has neither humility rules nor guarantees.
        """
        if spec["humility"] is None:
            return None
        asked = HumilitySpec.from_record(spec["humility"])
        guarantees = asked.guarantees
        if not asked.rules and guarantees.novelty_rate is guarantees.max_error is guarantees.coverage is None:
            return None
        record = None if baseline is None else baseline["humility"]
        fit = None if record is None else HumilityFit.from_record(record)
        features = {feature["name"]: feature["kind"] for feature in spec["features"]}
        segments = [] if baseline is None else [Segment.from_record(each) for each in baseline["segments"]]
        digest = digest_of(
            {
                "humility": asked.to_record(),
                "fit": None if fit is None else fit.to_record(),
                "features": [[name, kind] for name, kind in features.items()],
                "task": spec["task"],
                "positive_class": spec["positive_class"],
                "segments": [asdict(segment) for segment in segments],
            }
        )
        return cls(
            asked,
            fit,
            features=features,
            task=spec["task"],
            positive_class=spec["positive_class"],
            segment=next((segment for segment in segments if segment.name == guarantees.segment), None),
            digest=digest,
            revision=spec["revision"],
            classes=(spec.get("outcomes") or {}).get("classes") or (),
        )

    def decide_row(
        self,
        features: Mapping[str, Any],
        prediction: Any = None,
        class_probabilities: Mapping[Any, Any] | None = None,
        *,
        prediction_label: Any = None,
        prediction_low: Any = None,
        prediction_high: Any = None,
        segments: Mapping[str, Any] | None = None,
        timestamp_us: int = 0,
        challengers: Mapping[str, Any] | None = None,
        quantiles: Mapping[str, float] | None = None,
        alarms: int = 0,
    ) -> Decision:
        """Decide one row, given as :meth:`driftline.Client.log_prediction` takes it.

        What cannot be read is missing. Nothing that is given is kept or changed.

        Args:
            features: Name to value.
            prediction: Predicted value or score.
            class_probabilities: Class to probability.
            prediction_label: Predicted class.
            prediction_low: Lower end of the model's own interval.
            prediction_high: Upper end.
            segments: Segment attributes that are not features.
            timestamp_us: Event time, microseconds since 1970-01-01 UTC.
            challengers: Version to what it answered: a number (a value or score), text (a class), or an
                :class:`Answer`.
            quantiles: The adaptive quantile of each group; of a group that is not there, where its tracker starts.
            alarms: Monitors in alarm: bit m is set for monitor m of ``ALARM_MONITORS``.
        """
        row = self._reader.read(
            features,
            prediction,
            class_probabilities,
            prediction_label,
            prediction_low,
            prediction_high,
            segments,
            timestamp_us,
            challengers,
            alarms,
        )
        group = self.groups[self._groups[row.part]]
        row.quantile = quantile = self._quantile(group, quantiles)
        fired = 0
        for bit, holds_of in self._checks:
            if holds_of(row):
                fired |= bit
        code, value, label = ANSWERED, row.given, row.label
        rule = version = None
        route_to = ""
        reasons: tuple[Reason, ...] = ()
        if fired:
            reasons = tuple([reason for number, reason in enumerate(self._reasons) if fired >> number & 1])
            acting = next((number for number in self._acting if fired >> number & 1), -1)
            if acting >= 0:
                rule, code = self.rules[acting].name, int(self._codes[acting])
                value = label = None
                if code == OVERRIDDEN:
                    value, label, version = self._overrides[acting].of_row(row)
                elif code == ROUTED:
                    route_to = self.rules[acting].route_to
        return Decision(
            ACTIONS[code],
            value,
            label,
            rule,
            reasons,
            self._certainty.interval_of(row),
            self._certainty.prediction_set_of(row) if self._has_sets and quantile == quantile else None,
            quantile if quantile == quantile else None,
            group,
            version,
            route_to,
            self.digest,
            self.revision,
            fired,
            alarms,
            timestamp_us,
        )

    def _quantile(self, group: str, quantiles: Mapping[str, float] | None) -> float:
        starts = self.start_quantiles
        if not starts:
            return _NAN
        found = None if quantiles is None else quantiles.get(group)
        return starts.get(group, _NAN) if found is None else found

    def decide_columns(
        self,
        columns: PredictionColumns,
        *,
        quantiles: Mapping[str, float] | Floats | None = None,
        alarms: int | NDArray[np.uint8] = 0,
    ) -> Decided:
        """Decide a batch of n rows.

        Args:
            columns: The batch.
            quantiles: The adaptive quantile of each group, as :meth:`decide_row` takes it; or float64[n], where they
                travelled with the rows, NaN where none was known.
            alarms: Monitors in alarm, of all rows or uint8[n].
        """
        rows = columns.rows
        known = alarms if isinstance(alarms, np.ndarray) else np.full(rows, alarms, np.uint8)
        with np.errstate(all="ignore"):
            batch = Batch(self._layout, columns, known)
            groups = self._group_codes[batch.parts]
            batch.quantiles = self._quantiles(quantiles, groups)
            fired = np.zeros(rows, np.uint64)
            flags = {}
            for number, node in self._nodes:
                holds = node.holds(batch)
                if holds.any():
                    flags[number] = holds
                    fired[holds] |= np.uint64(1 << number)
            acting = np.full(rows, -1, np.int16)
            for number in self._acting:
                if number in flags:
                    acting[flags[number] & (acting < 0)] = number
            answers, labels = self._answers(batch, acting)
        return Decided(self._codes[acting], fired, acting, answers, labels, batch.quantiles, groups, known)

    def _quantiles(self, quantiles: Mapping[str, float] | Floats | None, groups: NDArray[np.int16]) -> Floats:
        if isinstance(quantiles, np.ndarray):
            return quantiles if self.start_quantiles else np.full(len(groups), np.nan)
        return np.array([self._quantile(group, quantiles) for group in self.groups], np.float64)[groups]

    def _answers(self, batch: Batch, acting: NDArray[np.int16]) -> tuple[Floats, CategoricalColumn | None]:
        """What is served instead, float64[n] and classes."""
        values, codes = np.full(batch.rows, np.nan), np.full(batch.rows, -1, np.int32)
        names: dict[str, int] = {}
        for number, override in self._overrides.items():
            rows = np.flatnonzero(acting == number)
            if len(rows):
                values[rows] = override.values(batch)[rows]
                codes[rows] = override.labels(batch, rows, names)
        return values, CategoricalColumn(list(names), codes) if names else None

    def intervals(self, columns: PredictionColumns, quantiles: Floats) -> tuple[Floats, Floats]:
        """Both ends of the intervals for the actual values, float64[n] each; NaN where there is none.

        Args:
            columns: The batch.
            quantiles: float64[n], of :class:`Decided`.
        """
        with np.errstate(all="ignore"):
            batch = Batch(self._layout, columns, np.zeros(columns.rows, np.uint8))
            batch.quantiles = quantiles
            return self._certainty.interval(batch)


def _acts(rule: Rule) -> bool:
    return rule.action != RECORD and not rule.dry_run
