"""Learning a baseline from reference predictions.

A margin covers the error of so many *independent* rows, and the tempering is what the reference itself shows of
dependence. A reference that is worth few independent rows cannot show enough of either, and neither can its arming:
from 1,000 rows of AR(1) columns with phi = 0.9, some fifty independent ones, 16 deployments raised 3 alarms in a month
of 144,000 unchanged rows where 0.13 were promised; from 5,000 rows they raised none. What comes in hours, like values
that are missing for an hour at a time, needs hundreds of hours: from half a day nobody can tell that such hours are
usual.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.events import Floats, OutcomeColumns, PredictionColumns
from streams.arming import arm_baseline
from streams.association import association_margin, fit_thirds, table_cells
from streams.baseline import (
    ASSOCIATION_PREFIX,
    ASSOCIATION_ROLE,
    ERROR,
    FEATURE,
    JOINT_ROLE,
    LATENCY,
    PREDICTION_ROLE,
    QUALITY_PREFIX,
    QUALITY_ROLE,
    RATE,
    RATE_ROLE,
    SCHEMA,
    SERVICE_ROLE,
    Baseline,
    BaselineSegment,
    BaselineStream,
    Bins,
)
from streams.columns import PREDICTION, PREDICTION_LABEL, PROBABILITY_PREFIX, categorical_column, occurrences
from streams.counting import categorical_values, numeric_values
from streams.derived import (
    JOINT_DISTANCE,
    Derived,
    fit_embedding,
    fit_joint,
    fit_text,
)
from streams.errors import BaselineError
from streams.held_out import (
    codes_held_out,
    embedding_columns_held_out,
    joint_distance_held_out,
    new_value_radius,
    rows_of_pairs,
    text_columns_held_out,
)
from streams.parts import MOST_PART_STREAMS, fit_segment, part_codes
from streams.rate import fit_rate
from streams.specification import EMBEDDING, NUMERIC, TEXT, DeploymentSpec
from streams.statistics.association import cramers_v
from streams.statistics.dependence import tempering
from streams.statistics.evidence import rounded_down
from streams.statistics.layouts import (
    ABOVE_MAX,
    ASSOCIATION,
    BELOW_MIN,
    CATEGORICAL,
    QUALITY,
    QUALITY_MISSING,
    QUALITY_REFUSED,
    QUALITY_VALID,
    Layout,
    NumericBins,
    bin_numeric,
    count_codes,
    fit_categorical_counts,
    fit_numeric,
    quality_counts,
)
from streams.statistics.layouts import NUMERIC as NUMERIC_LAYOUT
from streams.statistics.margins import reference_radius
from streams.statistics.seasons import fit_seasonal
from streams.statistics.tilts import tilts_of

Codes = NDArray[np.uint8]

MINIMUM_ROWS = 200
"""Fewer reference rows leave a margin so wide that nothing would be found."""

REFERENCE_ERROR_PROBABILITY = 1e-3
"""Probability that a stream's true distribution lies outside the margin that its reference's size gives."""


def build_baseline(
    spec: DeploymentSpec,
    model_version: str,
    columns: Sequence[PredictionColumns],
    *,
    source: str,
    outcomes: Sequence[OutcomeColumns] = (),
    outcomes_until_us: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
    notice: Callable[[str], None] = lambda _: None,
) -> Baseline:
    """Learn a baseline from reference predictions, and try its monitors on them (:mod:`streams.arming`).

    Outcomes are learnt from thereafter (:mod:`streams.outcomes.reference`), and change nothing of what the predictions
    gave; last the humility rules are fitted to the same rows (:mod:`streams.humility.fit`), where there are any.

    Args:
        spec: Names the features that are watched, the segments, and the operator's margins.
        model_version: The version the reference belongs to.
        columns: The reference, in any number of batches.
        source: Where it came from, for people.
        outcomes: What turned out of the reference's predictions, in any number of batches, and maybe of others.
        outcomes_until_us: Up to when outcomes are known, where they do not show it themselves.
        progress: Told what is being learnt.
        notice: Told, in a sentence each, what is worth knowing of the outcomes.

    Raises:
        BaselineError: Too few rows, a declared feature that no row has, or too many parts of the traffic; or nothing
            can be learnt from the outcomes that were given.
        EventError: A column cannot be read in the kind that the specification declares.
    """
    rows = sum(batch.rows for batch in columns)
    if rows < MINIMUM_ROWS:
        raise BaselineError(
            f"a baseline needs at least {MINIMUM_ROWS} rows, better 5,000; the reference has {rows}. "
            "Give a longer range or another file."
        )
    reference = _Reference(spec, columns)
    for learn in (
        reference.learn_features,
        reference.learn_predictions,
        reference.learn_service,
        reference.learn_joint,
        reference.learn_associations,
        reference.learn_quality,
        reference.learn_segments,
        reference.learn_rate,
    ):
        progress(learn.__name__.removeprefix("learn_"))
        learn()
    baseline = Baseline(
        deployment_id=spec.deployment_id,
        model_version=model_version,
        rows=rows,
        streams=tuple(reference.streams),
        source=source,
        first_event_us=int(reference.times[0]),
        last_event_us=int(reference.times[-1]),
        derived=tuple(reference.derived),
        segments=tuple(reference.segments),
    )
    progress("arming")
    whole = arm_baseline(spec, baseline, columns)
    if spec.outcomes is None or not outcomes:
        for text in _without_outcomes(spec, given=bool(outcomes)):
            notice(text)
    else:
        whole = _with_outcomes(spec, whole, columns, outcomes, outcomes_until_us, progress, notice)
    from streams.humility.fit import asks_for_humility, fit_humility, fit_texts

    if not asks_for_humility(spec):
        return whole
    progress("humility")
    fitted = fit_humility(spec, whole, columns, outcomes, source=source, outcomes_until_us=outcomes_until_us)
    for text in fit_texts(fitted):
        notice(text)
    return fitted


def _with_outcomes(
    spec: DeploymentSpec,
    armed: Baseline,
    columns: Sequence[PredictionColumns],
    outcomes: Sequence[OutcomeColumns],
    outcomes_until_us: int | None,
    progress: Callable[[str], None],
    notice: Callable[[str], None],
) -> Baseline:
    """The baseline with what its outcomes show."""
    from streams.outcomes.arming import arm_outcomes
    from streams.outcomes.reference import learn_outcomes

    progress("outcomes")
    learnt = learn_outcomes(spec, armed, columns, outcomes, until_us=outcomes_until_us)
    for text in learnt.notices:
        notice(text)
    whole = dataclasses.replace(
        armed,
        streams=(*armed.streams, *learnt.streams),
        derived=(*armed.derived, *learnt.derived),
        outcomes=learnt.reference,
    )
    progress("arming of outcomes")
    return arm_outcomes(spec, whole, learnt.pairs, learnt.known_us)


def _without_outcomes(spec: DeploymentSpec, *, given: bool) -> list[str]:
    """What is to be told of a baseline that learns nothing from outcomes."""
    if spec.outcomes is not None:
        return [
            f"{spec.deployment_id} expects outcomes, and the reference has none: concept drift, labels that are late "
            "or missing, and fairness will not be watched, and nothing is estimated before outcomes come; windows show "
            "them as they come"
        ]
    if given:
        return [
            f"the specification of {spec.deployment_id} expects no outcomes, so those of the reference are not used: "
            "declare them with outcomes: horizon:"
        ]
    return []


@dataclass(frozen=True, eq=False, slots=True)
class _Column:
    """A value column of the reference in event order.

    Attributes:
        stream: Its stream.
        codes: uint8[m], the bin of each row.
        margin_tv: The margin that the specification gives it.
        values: float64[m], where they are numbers.
        pairs: bool[m], rows whose category occurs twice, where they are categories.
    """

    stream: BaselineStream
    codes: Codes
    margin_tv: float
    values: Floats | None = None
    pairs: NDArray[np.bool_] | None = None


class _Reference:
    """The reference while it is being learnt from; event order throughout."""

    def __init__(self, spec: DeploymentSpec, columns: Sequence[PredictionColumns]) -> None:
        times = np.concatenate([batch.timestamps_us for batch in columns])
        self.spec, self.batches = spec, columns
        self.order = np.argsort(times, kind="stable")
        self.times = times[self.order]
        self.derived: list[Derived] = []
        self.segments: list[BaselineSegment] = []
        self.streams: list[BaselineStream] = []
        self.columns: dict[str, _Column] = {}

    def learn_features(self) -> None:
        """Features, and the columns derived from texts and embeddings."""
        for feature in self.spec.features:
            if not any(_has(batch, feature.name) for batch in self.batches):
                present = sorted({n for b in self.batches for n in (*b.numeric, *b.categorical, *b.vectors)})
                raise BaselineError(
                    f"feature {feature.name!r} of the specification is not in the reference; "
                    f"it has {', '.join(present) or 'no features'}"
                )
            margin = self.spec.margin_tv if feature.margin_tv is None else feature.margin_tv
            if feature.kind == NUMERIC:
                self._learn_numbers(feature.name, FEATURE, margin, feature.importance)
            elif feature.kind in (TEXT, EMBEDDING):
                derived = self._fit_derived(feature.name, feature.kind)
                self.derived.append(derived)
                values = self._derived_held_out(derived)
                for name, column in zip(derived.columns, values, strict=True):
                    importance = feature.importance / len(derived.columns)
                    self._add_numbers(name, FEATURE, column, margin, importance)
            else:
                self._learn_categories(feature.name, FEATURE, margin, feature.importance)

    def _derived_held_out(self, derived: Derived) -> Floats:
        """The columns float64[C, m] of a text or an embedding in event order, as :mod:`streams.held_out` says."""
        if derived.kind == TEXT:
            parts = text_columns_held_out(derived, [categorical_column(batch, derived.name) for batch in self.batches])
            return np.concatenate(parts, axis=1)[:, self.order]
        absent = np.full((1, len(derived.arrays["mean"])), np.nan, np.float32)
        vectors = [batch.vectors.get(derived.name, np.repeat(absent, batch.rows, axis=0)) for batch in self.batches]
        return embedding_columns_held_out(derived, np.concatenate(vectors)[self.order])

    def _fit_derived(self, name: str, kind: str) -> Derived:
        if kind == TEXT:
            return fit_text(name, [categorical_column(batch, name) for batch in self.batches])
        vectors = [batch.vectors[name] for batch in self.batches if name in batch.vectors]
        dimensions = sorted({part.shape[1] for part in vectors})
        if len(dimensions) != 1:
            came = f"dimensions {', '.join(map(str, dimensions))}" if dimensions else "no vectors"
            raise BaselineError(f"feature {name!r} is an embedding: expected vectors of one dimension, came {came}")
        return fit_embedding(name, np.concatenate(vectors))

    def learn_predictions(self) -> None:
        """Whatever the model says: score, class, probabilities."""
        classes = sorted({name for batch in self.batches for name in batch.class_probabilities})
        margin = self.spec.margin_tv
        if any(batch.prediction is not None for batch in self.batches):
            self._learn_numbers(PREDICTION, PREDICTION_ROLE, margin)
        if any(batch.prediction_label is not None for batch in self.batches):
            self._learn_categories(PREDICTION_LABEL, PREDICTION_ROLE, margin)
        for name in classes:
            self._learn_numbers(PROBABILITY_PREFIX + name, PREDICTION_ROLE, margin)

    def learn_service(self) -> None:
        """How the service answers: how long it takes, and requests that fail."""
        if any(batch.latency_ms is not None for batch in self.batches):
            self._learn_numbers(LATENCY, SERVICE_ROLE, self.spec.margin_tv)
        self._learn_categories(ERROR, SERVICE_ROLE, self.spec.quality_margin_tv)

    def learn_joint(self) -> None:
        """The distance of whole rows, over the numeric features."""
        names = [f.name for f in self.spec.features if f.kind == NUMERIC]
        if len(names) < 2:
            return
        values = np.stack([_numbers(self.columns[name]) for name in names])
        derived = fit_joint(names, values, [self.columns[name].stream.importance for name in names])
        if derived is None:
            return
        self.derived.append(derived)
        rows = [names.index(name) for name in derived.inputs]
        self._add_numbers(
            JOINT_DISTANCE, JOINT_ROLE, joint_distance_held_out(derived, values[rows]), self.spec.margin_tv
        )

    def learn_associations(self) -> None:
        """How each feature goes together with the prediction, and from that the features' importances."""
        target = next((c for c in self.columns.values() if c.stream.role == PREDICTION_ROLE), None)
        if target is None:
            return
        cut, target_thirds = fit_thirds(target.stream.name, target.codes, target.values, None)
        self.derived.append(dataclasses.replace(cut, inputs=(cut.name,)))
        found: dict[str, float] = {}
        streams = []
        for feature in self.spec.features:
            column = self.columns.get(feature.name)
            if column is None:
                continue
            cut, thirds = fit_thirds(feature.name, column.codes, column.values, target_thirds)
            self.derived.append(dataclasses.replace(cut, inputs=(cut.name, target.stream.name)))
            cells = table_cells(thirds, target_thirds)
            name = ASSOCIATION_PREFIX + feature.name
            margin = association_margin(self.spec)
            stream = self._stream(name, ASSOCIATION_ROLE, ASSOCIATION, None, cells, margin)
            # a feature that is never there goes together with nothing
            found[feature.name] = float(np.nan_to_num(cramers_v(stream.counts)))
            streams.append(stream)
        if self.spec.importance_source == "estimated":
            self._weigh(found)
        self.streams += [
            dataclasses.replace(s, importance=self.columns[s.name.removeprefix(ASSOCIATION_PREFIX)].stream.importance)
            for s in streams
        ]

    def _weigh(self, association: dict[str, float]) -> None:
        """Make the association of a feature with the prediction its importance; the weakest keeps a twentieth."""
        floor = 0.05 * max(association.values(), default=0.0) or 1.0
        typical = float(np.mean(list(association.values()))) if association else 1.0
        # texts and embeddings have no table of their own: all columns of one count like the average feature
        of_columns = {column: typical / len(d.columns) for d in self.derived for column in d.columns}
        importance = of_columns | association
        for at, stream in enumerate(self.streams):
            if stream.role == FEATURE:
                changed = dataclasses.replace(stream, importance=max(importance[stream.name], floor))
                self.streams[at] = changed
                self.columns[stream.name] = dataclasses.replace(self.columns[stream.name], stream=changed)

    def learn_quality(self) -> None:
        """Which values can be used, for each feature and prediction, and whether rows can be read at all."""
        margin = self.spec.quality_margin_tv
        first_column = {d.columns[0]: d.name for d in self.derived if d.columns and d.kind in (TEXT, EMBEDDING)}
        others = {column for d in self.derived for column in d.columns[1:]}
        for name, column in list(self.columns.items()):
            stream = column.stream
            if stream.role in (FEATURE, PREDICTION_ROLE) and name not in others:
                usable = quality_counts(np.eye(stream.layout.size, dtype=np.int64), stream.layout).argmax(axis=1)
                codes = usable.astype(np.uint8)[column.codes]
                named = QUALITY_PREFIX + first_column.get(name, name)
                excess = _new_value_radius(column.pairs)
                quality = self._stream(
                    named, QUALITY_ROLE, QUALITY, None, codes, margin, stream.importance, excess=excess
                )
                self.streams.append(dataclasses.replace(quality, tempering=_tempered_like(stream, quality)))
        readable = np.full(len(self.times), QUALITY_VALID, np.uint8)
        self.streams.append(self._stream(SCHEMA, QUALITY_ROLE, QUALITY, None, readable, margin))

    def learn_segments(self) -> None:
        """The features and predictions of the parts of the traffic that the specification asks for."""
        watched = [c for c in self.columns.values() if c.stream.role in (FEATURE, PREDICTION_ROLE)]
        for asked in self.spec.segments:
            segment = fit_segment(asked, self.batches)
            if segment is None:
                continue
            codes = np.concatenate([part_codes(segment, batch) for batch in self.batches])[self.order]
            self.segments.append(segment)
            for at, part in enumerate(segment.parts):
                inside = codes == at
                self.streams += [self._part_stream(column, part, inside) for column in watched]
        number = sum(bool(stream.segment) for stream in self.streams)
        if number > MOST_PART_STREAMS:
            raise BaselineError(
                f"the segments of the specification make {number:,} streams, more than {MOST_PART_STREAMS:,}: "
                "watch fewer values (most:), fewer segmentations or fewer features"
            )

    def _part_stream(self, column: _Column, part: str, inside: NDArray[np.bool_]) -> BaselineStream:
        whole = column.stream
        bins, codes = whole.bins, column.codes
        if whole.layout is NUMERIC_LAYOUT and not isinstance(bins, NumericBins):
            # a part is judged by the edges of all times: its seasons would have too few rows
            bins = fit_numeric(_numbers(column))
            codes = bin_numeric(bins, _numbers(column))
        excess = _new_value_radius(None if column.pairs is None else column.pairs[inside])
        return self._stream(
            whole.name,
            whole.role,
            whole.layout,
            bins,
            codes[inside],
            column.margin_tv,
            whole.importance,
            segment=part,
            excess=excess,
        )

    def learn_rate(self) -> None:
        """How many rows come in a span of time."""
        fitted = fit_rate(self.times, self.spec.shards)
        if fitted is None:
            return
        derived, observations = fitted
        self.derived.append(derived)
        bins = fit_numeric(observations)
        codes = bin_numeric(bins, observations)
        self.streams.append(self._stream(RATE, RATE_ROLE, NUMERIC_LAYOUT, bins, codes, self.spec.margin_tv))

    def _learn_numbers(self, name: str, role: str, margin: float, importance: float = 1.0) -> None:
        values = np.concatenate([numeric_values(name, role, batch) for batch in self.batches])
        self._add_numbers(name, role, values[self.order], margin, importance)

    def _add_numbers(self, name: str, role: str, values: Floats, margin: float, importance: float = 1.0) -> None:
        seasonal = fit_seasonal(values, self.times)
        bins: Bins
        if seasonal is None:
            bins = fit_numeric(values)
            codes = bin_numeric(bins, values)
            stream = self._stream(name, role, NUMERIC_LAYOUT, bins, codes, margin, importance)
        else:
            bins, codes = seasonal.bins, seasonal.codes
            gamma, excess = seasonal.tempering, seasonal.margin_excess
            stream = self._stream(
                name, role, NUMERIC_LAYOUT, bins, codes, margin, importance, gamma=gamma, excess=excess
            )
        self._add(stream, codes, margin, values)

    def _learn_categories(self, name: str, role: str, margin: float, importance: float = 1.0) -> None:
        parts = [categorical_values(name, role, batch) for batch in self.batches]
        rows_with = occurrences(parts)
        bins = fit_categorical_counts(rows_with)
        codes = np.concatenate([codes_held_out(bins, part, rows_with) for part in parts])[self.order]
        pairs = np.concatenate([rows_of_pairs(part, rows_with) for part in parts])[self.order]
        excess = _new_value_radius(pairs)
        stream = self._stream(name, role, CATEGORICAL, bins, codes, margin, importance, excess=excess)
        self._add(stream, codes, margin, pairs=pairs)

    def _add(
        self,
        stream: BaselineStream,
        codes: Codes,
        margin: float,
        values: Floats | None = None,
        pairs: NDArray[np.bool_] | None = None,
    ) -> None:
        self.streams.append(stream)
        self.columns[stream.name] = _Column(stream, codes, margin, values, pairs)

    def _stream(
        self,
        name: str,
        role: str,
        layout: Layout,
        bins: Bins | None,
        codes: Codes,
        margin: float,
        importance: float = 1.0,
        *,
        segment: str = "",
        gamma: Floats | None = None,
        excess: float = 0.0,
    ) -> BaselineStream:
        """``gamma``: float64[I], if the codes do not tell; ``excess``: what the margin needs besides their radius."""
        counts = count_codes(codes, layout)
        radius = float(reference_radius(counts[None], REFERENCE_ERROR_PROBABILITY, layout)[0])
        return BaselineStream(
            name=name,
            role=role,
            layout=layout,
            bins=bins,
            counts=counts,
            margin_tv=max(margin, radius + excess),
            tempering=rounded_down(tempering(codes, tilts_of(layout)) if gamma is None else gamma),
            importance=importance,
            segment=segment,
        )


def _new_value_radius(pairs: NDArray[np.bool_] | None) -> float:
    return 0.0 if pairs is None else new_value_radius(int(pairs.sum()), len(pairs), REFERENCE_ERROR_PROBABILITY)


def _tempered_like(values: BaselineStream, quality: BaselineStream) -> NDArray[np.float32]:
    """The exponents of a quality stream, float32[I], where values that are new come in runs as the values do.

    A reference has next to none of them, and cannot show it: an hour that is warmer than all of the reference is one
    observation, not one per row. Missing values are another matter, and are tempered as the reference shows them.
    """
    table, outer = tilts_of(values.layout), (BELOW_MIN, ABOVE_MAX)
    alike = np.isin(table.bins, outer) if values.layout is NUMERIC_LAYOUT else np.ones(table.size, bool)
    own = np.isin(tilts_of(QUALITY).bins, (QUALITY_MISSING, QUALITY_REFUSED))
    return np.where(own, quality.tempering, np.minimum(quality.tempering, values.tempering[alike].min()))


def _has(batch: PredictionColumns, name: str) -> bool:
    return name in batch.numeric or name in batch.categorical or name in batch.vectors


def _numbers(column: _Column) -> Floats:
    assert column.values is not None
    return column.values
