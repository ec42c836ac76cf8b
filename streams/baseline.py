"""Baselines: what is normal for a deployment's version, learnt from reference predictions.

A baseline is content-addressed: its digest is the SHA-256 of the encoded record with an empty digest. State, windows
and alerts name the digest they were computed against.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from driftline.codec import Record, encode
from driftline.events import CategoricalColumn, Floats, PredictionColumns
from streams.columns import (
    PREDICTION,
    PREDICTION_LABEL,
    PROBABILITY_PREFIX,
    categorical_column,
    numeric_column,
    prediction_column,
)
from streams.errors import BaselineError
from streams.specification import CATEGORICAL as CATEGORICAL_KIND
from streams.specification import NUMERIC as NUMERIC_KIND
from streams.specification import DeploymentSpec
from streams.statistics.dependence import tempering
from streams.statistics.distances import effective_margin
from streams.statistics.layouts import (
    CATEGORICAL,
    NUMERIC,
    CategoricalBins,
    Layout,
    NumericBins,
    bin_numeric,
    count_codes,
    dictionary_lookup,
    fit_categorical_counts,
    fit_numeric,
)
from streams.statistics.tilts import tilts_of

MINIMUM_ROWS = 200
"""Fewer reference rows leave a margin so wide that nothing would be found."""

REFERENCE_ERROR_PROBABILITY = 1e-3
"""Probability that a stream's true distribution lies outside the margin that its reference's size gives."""

FEATURE = "feature"
PREDICTION_ROLE = "prediction"
LAYOUTS = {NUMERIC.name: NUMERIC, CATEGORICAL.name: CATEGORICAL}


@dataclass(frozen=True, eq=False, slots=True)
class BaselineStream:
    """One watched stream: how it is binned and what its reference showed.

    Attributes:
        name: Feature name, ``prediction``, ``prediction_label`` or ``probability:CLASS``.
        role: ``feature`` or ``prediction``.
        bins: How values become bins.
        counts: int64[K], reference counts.
        margin_tv: Total-variation margin in force.
        tempering: float64[I], exponent per tilt, 1 / variance inflation.
        importance: Weight in the monitor's evidence.
    """

    name: str
    role: str
    bins: NumericBins | CategoricalBins
    counts: NDArray[np.int64]
    margin_tv: float
    tempering: Floats
    importance: float

    @property
    def layout(self) -> Layout:
        """The layout its bins are in."""
        return NUMERIC if isinstance(self.bins, NumericBins) else CATEGORICAL

    def bin_labels(self) -> list[str]:
        """What each bin holds, for people."""
        if isinstance(self.bins, CategoricalBins):
            unused = [""] * (20 - len(self.bins.top))
            return [*self.bins.top, *unused, "(other)", "(unseen)", "(missing)"]
        return _numeric_labels(self.bins)

    def to_record(self) -> Record:
        """The fields of a ``BaselineStream``."""
        bins = self.bins
        cuts: Record
        if isinstance(bins, NumericBins):
            cuts = {"edges": bins.edges.tolist(), "remap": bins.remap.tobytes()}
        else:
            cuts = {"categories": list(bins.top), "other_categories": list(bins.known)}
        return {
            "name": self.name,
            "role": self.role,
            "layout": self.layout.name,
            **cuts,
            "counts": self.counts.tolist(),
            "margin_tv": self.margin_tv,
            "tempering": self.tempering.astype("<f8").tobytes(),
            "importance": self.importance,
        }

    @classmethod
    def from_record(cls, record: Record) -> BaselineStream:
        """Read the fields of a ``BaselineStream``."""
        bins: NumericBins | CategoricalBins
        if record["layout"] == NUMERIC.name:
            bins = NumericBins(np.array(record["edges"]), np.frombuffer(record["remap"], np.uint8))
        else:
            bins = CategoricalBins(tuple(record["categories"]), tuple(record["other_categories"]))
        return cls(
            name=record["name"],
            role=record["role"],
            bins=bins,
            counts=np.array(record["counts"], dtype=np.int64),
            margin_tv=record["margin_tv"],
            tempering=np.frombuffer(record["tempering"], "<f8"),
            importance=record["importance"],
        )


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Baseline:
    """What is normal for one version of a deployment. Field by field the record ``Baseline`` of the contract."""

    deployment_id: str
    model_version: str
    rows: int
    streams: tuple[BaselineStream, ...]
    source: str = ""
    first_event_us: int = 0
    last_event_us: int = 0
    digest: str = ""

    def to_record(self) -> Record:
        """The fields of the Avro record."""
        return {
            "deployment_id": self.deployment_id,
            "model_version": self.model_version,
            "rows": self.rows,
            "first_event_us": self.first_event_us,
            "last_event_us": self.last_event_us,
            "source": self.source,
            "streams": [stream.to_record() for stream in self.streams],
            "digest": self.digest,
        }

    @classmethod
    def from_record(cls, record: Record) -> Baseline:
        """Read the fields of the Avro record.

        Raises:
            BaselineError: The digest is not that of the content.
        """
        baseline = cls(
            deployment_id=record["deployment_id"],
            model_version=record["model_version"],
            rows=record["rows"],
            streams=tuple(map(BaselineStream.from_record, record["streams"])),
            source=record["source"],
            first_event_us=record["first_event_us"],
            last_event_us=record["last_event_us"],
            digest=record["digest"],
        )
        if baseline.digest != baseline.content_digest():
            raise BaselineError(
                f"baseline of {baseline.deployment_id}@{baseline.model_version}: the digest is not that of its "
                "content; build it again"
            )
        return _IN_MEMORY.setdefault(baseline.digest, baseline)

    def check(self) -> None:
        """Refuse what no detector could be built from, whoever wrote it.

        Raises:
            BaselineError: Names the stream.
        """
        where = f"baseline of {self.deployment_id}@{self.model_version}"
        if not self.streams:
            raise BaselineError(f"{where}: it has no streams; build it again")
        for stream in self.streams:
            counts, tempering, importance = stream.counts, stream.tempering, stream.importance
            if counts.shape != (stream.layout.size,) or (counts < 0).any() or not counts.sum() > 0:
                raise BaselineError(f"{where}, {stream.name!r}: expected {stream.layout.size} counts, not all zero")
            if tempering.shape != (tilts_of(stream.layout).size,) or not ((tempering > 0) & (tempering <= 1)).all():
                raise BaselineError(f"{where}, {stream.name!r}: its tempering is of another version; build it again")
            if not 0 <= stream.margin_tv < 1 or not 0 <= importance < np.inf:
                raise BaselineError(f"{where}, {stream.name!r}: its margin or importance is out of range")

    def content_digest(self) -> str:
        """SHA-256, hexadecimal, of the encoded record with an empty digest."""
        return hashlib.sha256(encode("Baseline", dataclasses.replace(self, digest="").to_record())).hexdigest()


_IN_MEMORY: WeakValueDictionary[str, Baseline] = WeakValueDictionary()
"""By digest: the baseline of a worker's state and that of its catalogue are one object."""


def build_baseline(
    spec: DeploymentSpec, model_version: str, columns: Sequence[PredictionColumns], *, source: str
) -> Baseline:
    """Learn a baseline from reference predictions.

    Args:
        spec: Names the features that are watched, and the operator's margin.
        model_version: The version the reference belongs to.
        columns: The reference, in any number of batches.
        source: Where it came from, for people.

    Raises:
        BaselineError: Too few rows, or a declared feature that no row has.
    """
    rows = sum(batch.rows for batch in columns)
    if rows < MINIMUM_ROWS:
        raise BaselineError(
            f"a baseline needs at least {MINIMUM_ROWS} rows, better 5,000; the reference has {rows}. "
            "Give a longer range or another file."
        )
    times = np.concatenate([batch.timestamps_us for batch in columns])
    order = np.argsort(times, kind="stable")
    streams = []
    for feature in spec.features:
        if not any(feature.name in batch.numeric or feature.name in batch.categorical for batch in columns):
            present = sorted({name for batch in columns for name in (*batch.numeric, *batch.categorical)})
            raise BaselineError(
                f"feature {feature.name!r} of the specification is not in the reference; it has {', '.join(present)}"
            )
        if feature.kind == NUMERIC_KIND:
            values = np.concatenate([numeric_column(batch, feature.name) for batch in columns])
            stream = _numeric_stream(feature.name, FEATURE, values[order], spec, feature.importance)
        else:
            parts = [categorical_column(batch, feature.name) for batch in columns]
            stream = _categorical_stream(feature.name, FEATURE, parts, order, spec, feature.importance)
        streams.append(stream)
    streams += _prediction_streams(columns, order, spec)
    baseline = Baseline(
        deployment_id=spec.deployment_id,
        model_version=model_version,
        rows=rows,
        streams=tuple(streams),
        source=source,
        first_event_us=int(times[order[0]]),
        last_event_us=int(times[order[-1]]),
    )
    return dataclasses.replace(baseline, digest=baseline.content_digest())


def _prediction_streams(
    columns: Sequence[PredictionColumns], order: NDArray[np.intp], spec: DeploymentSpec
) -> list[BaselineStream]:
    classes = sorted({name for batch in columns for name in batch.class_probabilities})
    streams = []
    for name in (PREDICTION, PREDICTION_LABEL, *(PROBABILITY_PREFIX + c for c in classes)):
        parts = [prediction_column(batch, name) for batch in columns]
        if all(part is None for part in parts):
            continue
        kind = CATEGORICAL_KIND if name == PREDICTION_LABEL else NUMERIC_KIND
        if kind == CATEGORICAL_KIND:
            texts = [_or_missing_text(part, batch.rows) for part, batch in zip(parts, columns, strict=True)]
            streams.append(_categorical_stream(name, PREDICTION_ROLE, texts, order, spec, 1.0))
        else:
            values = np.concatenate([_or_nan(part, batch.rows) for part, batch in zip(parts, columns, strict=True)])
            streams.append(_numeric_stream(name, PREDICTION_ROLE, values[order], spec, 1.0))
    return streams


def _or_nan(part: Floats | CategoricalColumn | None, rows: int) -> Floats:
    return part if isinstance(part, np.ndarray) else np.full(rows, np.nan)


def _or_missing_text(part: Floats | CategoricalColumn | None, rows: int) -> CategoricalColumn:
    return part if isinstance(part, CategoricalColumn) else CategoricalColumn((), np.full(rows, -1, dtype=np.int32))


def _numeric_stream(name: str, role: str, values: Floats, spec: DeploymentSpec, importance: float) -> BaselineStream:
    bins = fit_numeric(values)
    return _stream(name, role, bins, bin_numeric(bins, values), spec, importance)


def _categorical_stream(
    name: str,
    role: str,
    parts: Sequence[CategoricalColumn],
    order: NDArray[np.intp],
    spec: DeploymentSpec,
    importance: float,
) -> BaselineStream:
    totals: dict[str, int] = {}
    for part in parts:
        present = np.bincount(part.codes[part.codes >= 0], minlength=len(part.categories)).tolist()
        for category, count in zip(part.categories, present, strict=True):
            totals[category] = totals.get(category, 0) + count
    bins = fit_categorical_counts(totals)
    codes = np.concatenate([dictionary_lookup(bins, part.categories)[part.codes] for part in parts])
    return _stream(name, role, bins, codes[order], spec, importance)


def _stream(
    name: str,
    role: str,
    bins: NumericBins | CategoricalBins,
    codes: NDArray[np.integer],
    spec: DeploymentSpec,
    importance: float,
) -> BaselineStream:
    layout = NUMERIC if isinstance(bins, NumericBins) else CATEGORICAL
    counts = count_codes(codes, layout)
    return BaselineStream(
        name=name,
        role=role,
        bins=bins,
        counts=counts,
        margin_tv=effective_margin(spec.margin_tv, len(codes), int((counts > 0).sum()), REFERENCE_ERROR_PROBABILITY),
        tempering=tempering(codes, tilts_of(layout)),
        importance=importance,
    )


def _numeric_labels(bins: NumericBins) -> list[str]:
    edges = bins.edges
    labels = [f"< {edges[0]:.6g}"]
    labels += [f"{low:.6g} – {high:.6g}" for low, high in pairwise(edges[:-1])]
    labels += [f"{edges[-2]:.6g} – {edges[-1]:.6g}", f"≥ {edges[-1]:.6g}", "(missing)"]
    return labels
