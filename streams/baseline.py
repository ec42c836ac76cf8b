"""Baselines: what is normal for a deployment's version. How one is learnt is in :mod:`streams.reference`.

A baseline is content-addressed: its digest is the SHA-256 of the encoded record with an empty digest. State, windows
and alerts name the digest they were computed against.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from driftline.codec import Record, encode
from driftline.humility.fit import HumilityFit
from driftline.reading import OTHER_PART as OTHER_PART
from driftline.reading import RULE_PART as RULE_PART
from streams.derived import Derived
from streams.errors import BaselineError
from streams.statistics.conditional import AGE, AGE_AND_SCORE, ConditionalBins
from streams.statistics.layouts import (
    ASSOCIATION,
    CATEGORICAL,
    EDGE_COUNT,
    LOSS,
    LOSS_LAST_TAIL,
    NUMERIC,
    QUALITY,
    CategoricalBins,
    Layout,
    NumericBins,
)
from streams.statistics.seasons import SEASONS, SeasonalBins
from streams.statistics.tilts import tilts_of

FEATURE = "feature"
PREDICTION_ROLE = "prediction"
JOINT_ROLE = "joint"
ASSOCIATION_ROLE = "association"
QUALITY_ROLE = "quality"
SERVICE_ROLE = "service"
RATE_ROLE = "rate"
OUTCOME_ROLE = "outcome"
LABELS_ROLE = "labels"
FAIRNESS_ROLE = "fairness"
HUMILITY_ROLE = "humility"
"""What a stream is; decides which monitor it belongs to."""

LATENCY, ERROR, SCHEMA, RATE = "latency_ms", "error", "schema", "rate"
QUALITY_PREFIX, ASSOCIATION_PREFIX = "quality:", "association:"
"""Names of streams that are no feature's and no prediction's."""

Bins = NumericBins | CategoricalBins | ConditionalBins
"""How values become bins; what is judged by seasons is judged under conditions (:class:`SeasonalBins`)."""

LAYOUTS = {layout.name: layout for layout in (NUMERIC, CATEGORICAL, QUALITY, ASSOCIATION, LOSS)}


@dataclass(frozen=True, eq=False, slots=True)
class BaselineStream:
    """One watched stream: how it is binned and what its reference showed.

    Attributes:
        name: A feature, ``prediction``, ``prediction_label``, ``probability:CLASS``, a derived column (see
            :mod:`streams.derived`), ``quality:STREAM``, ``association:FEATURE``, ``latency_ms``, ``error``, ``schema``
            or ``rate``; of outcomes those of :mod:`streams.outcomes.evidence`, and ``labels:j``.
        role: What it is; one of the roles above.
        layout: The layout it is counted in.
        bins: How values become bins; None where bins are derived from those of other streams.
        counts: int64[K], reference counts; of a loss nominal ones (:mod:`streams.statistics.losses`).
        margin_tv: Total-variation margin in force; 1 for a stream that arming refused (:mod:`streams.arming`).
        tempering: float32[I], exponent per tilt, 1 / variance inflation.
        importance: Weight in the monitor's evidence.
        segment: The part of the traffic it is about, ``SEGMENTATION=VALUE``; empty for all.
    """

    name: str
    role: str
    layout: Layout
    bins: Bins | None
    counts: NDArray[np.int64]
    margin_tv: float
    tempering: NDArray[np.float32]
    importance: float = 1.0
    segment: str = ""

    @property
    def label(self) -> str:
        """Its name and segment, for people."""
        return f"{self.name} [{self.segment}]" if self.segment else self.name

    def bin_labels(self) -> list[str]:
        """What each bin holds, for people."""
        if isinstance(self.bins, CategoricalBins):
            unused = [""] * (20 - len(self.bins.top))
            return [*self.bins.top, *unused, "(other)", "(unseen)", "(missing)"]
        if isinstance(self.bins, NumericBins):
            return _numeric_labels(self.bins)
        if isinstance(self.bins, ConditionalBins):
            return list(_LOSS_LABELS if self.layout is LOSS else _CONDITIONAL_LABELS[self.bins.condition])
        return [name.replace("_", " ") for name in self.layout.bin_names]

    def to_record(self) -> Record:
        """The fields of a ``BaselineStream``."""
        bins = self.bins
        cuts: Record = {}
        if isinstance(bins, ConditionalBins):
            edges = bins.edges.astype("<f8").tobytes()
            cuts = {"season": bins.condition, "seasonal_edges": edges, "remap": bins.remap.tobytes()}
        elif isinstance(bins, NumericBins):
            cuts = {"edges": bins.edges.tolist(), "remap": bins.remap.tobytes()}
        elif isinstance(bins, CategoricalBins):
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
            "segment": self.segment,
        }

    @classmethod
    def from_record(cls, record: Record) -> BaselineStream:
        """Read the fields of a ``BaselineStream``."""
        layout = LAYOUTS[record["layout"]]
        bins: Bins | None = None
        if record["season"]:
            bins = _conditional_bins(record)
        elif layout is NUMERIC:
            bins = NumericBins(np.array(record["edges"]), np.frombuffer(record["remap"], np.uint8))
        elif layout is CATEGORICAL:
            bins = CategoricalBins(tuple(record["categories"]), tuple(record["other_categories"]))
        return cls(
            name=record["name"],
            role=record["role"],
            layout=layout,
            bins=bins,
            counts=np.array(record["counts"], dtype=np.int64),
            margin_tv=record["margin_tv"],
            tempering=np.frombuffer(record["tempering"], "<f8").astype(np.float32),
            importance=record["importance"],
            segment=record["segment"],
        )


@dataclass(frozen=True, slots=True)
class BaselineSegment:
    """A segmentation and its parts that are watched on their own, in the order of their streams.

    Attributes:
        name: As in the specification.
        column: The feature or segment attribute that tells the part.
        values: The parts; ``(other)``, where it is there, is the rest; a rule has the one part ``in``.
        low: Of a rule on a number, the lower end; None for none.
        high: Its upper end, exclusive.
    """

    name: str
    column: str
    values: tuple[str, ...]
    low: float | None = None
    high: float | None = None

    @property
    def parts(self) -> list[str]:
        """``SEGMENTATION=VALUE`` of each part."""
        return [f"{self.name}={value}" for value in self.values]

    @property
    def has_rest(self) -> bool:
        """Whether the last part is the rest."""
        return self.values[-1:] == (OTHER_PART,)


@dataclass(frozen=True, slots=True)
class Arming:
    """What replaying the reference in blocks showed of a monitor. Field by field the record ``Arming``."""

    monitor: str
    starts: int
    alarms: int
    bound: float
    widened: float
    threshold_nats: float


@dataclass(frozen=True, eq=False, slots=True)
class OutcomeReference:
    """What the reference's outcomes showed. Field by field the record ``OutcomeReference`` of the contract.

    Attributes:
        horizon_ms: The horizon it was learnt with.
        rows: Reference predictions whose horizon had passed.
        resolved: How many of them had an outcome by then.
        age_edges_us: int64[A - 1], inner edges of the age buckets: an outcome of age a (time it was known less time of
            its prediction) is in bucket ``np.searchsorted(age_edges_us, a, "left")``: ages up to the edge.
        final_age_us: Age by which 99 % of the reference's outcomes were known.
        classes: Class names in the order of every array; binary: negative, positive; none for numbers.
        score_edges: float64[B - 1], inner edges of the score bins.
        score_buckets: float64[Q - 1], inner edges of the buckets of predictions for calibration and residuals.
        calibration: Share of positives per score bin: binary float64[B], multi-class float64[C * B], else empty.
        expected_loss: Regression: the model of the loss (:mod:`streams.statistics.performance.estimation`).
        counts: The reference's performance sums per age bucket, int64[A, ...] by name.
        sums: The same of numbers, float64[A, ...].
    """

    horizon_ms: int
    rows: int
    resolved: int
    age_edges_us: NDArray[np.int64]
    final_age_us: int
    classes: tuple[str, ...]
    score_edges: NDArray[np.float64]
    score_buckets: NDArray[np.float64]
    calibration: NDArray[np.float64]
    expected_loss: Mapping[str, NDArray[np.float64]]
    counts: Mapping[str, NDArray[np.int64]]
    sums: Mapping[str, NDArray[np.float64]]

    def to_record(self) -> Record:
        """The fields of the Avro record."""
        return {
            "horizon_ms": self.horizon_ms,
            "rows": self.rows,
            "resolved": self.resolved,
            "age_edges_us": self.age_edges_us.tolist(),
            "final_age_us": self.final_age_us,
            "classes": list(self.classes),
            "score_edges": self.score_edges.tolist(),
            "score_buckets": self.score_buckets.tolist(),
            "calibration": self.calibration.tolist(),
            "expected_loss": {name: array.ravel().tolist() for name, array in sorted(self.expected_loss.items())},
            "counts": {name: array.ravel().tolist() for name, array in sorted(self.counts.items())},
            "sums": {name: array.ravel().tolist() for name, array in sorted(self.sums.items())},
        }

    @classmethod
    def from_record(cls, record: Record) -> OutcomeReference:
        """Read the fields of the Avro record; arrays of sums have the shape ``(A, everything else)``."""
        buckets = len(record["age_edges_us"]) + 1
        return cls(
            horizon_ms=record["horizon_ms"],
            rows=record["rows"],
            resolved=record["resolved"],
            age_edges_us=np.array(record["age_edges_us"], np.int64),
            final_age_us=record["final_age_us"],
            classes=tuple(record["classes"]),
            score_edges=np.array(record["score_edges"], np.float64),
            score_buckets=np.array(record["score_buckets"], np.float64),
            calibration=np.array(record["calibration"], np.float64),
            expected_loss={name: np.array(values, np.float64) for name, values in record["expected_loss"].items()},
            counts={name: np.array(values, np.int64).reshape(buckets, -1) for name, values in record["counts"].items()},
            sums={name: np.array(values, np.float64).reshape(buckets, -1) for name, values in record["sums"].items()},
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
    derived: tuple[Derived, ...] = ()
    segments: tuple[BaselineSegment, ...] = ()
    arming: tuple[Arming, ...] = ()
    outcomes: OutcomeReference | None = None
    humility: HumilityFit | None = None
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
            "derived": [derived.to_record() for derived in self.derived],
            "segments": [dataclasses.asdict(segment) | {"values": list(segment.values)} for segment in self.segments],
            "arming": [dataclasses.asdict(arming) for arming in self.arming],
            "outcomes": None if self.outcomes is None else self.outcomes.to_record(),
            "humility": None if self.humility is None else self.humility.to_record(),
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
            derived=tuple(map(Derived.from_record, record["derived"])),
            segments=tuple(
                BaselineSegment(**{**segment, "values": tuple(segment["values"])}) for segment in record["segments"]
            ),
            arming=tuple(Arming(**arming) for arming in record["arming"]),
            outcomes=None if record["outcomes"] is None else OutcomeReference.from_record(record["outcomes"]),
            humility=None if record["humility"] is None else HumilityFit.from_record(record["humility"]),
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
            if not 0 <= stream.margin_tv <= 1 or not 0 <= importance < np.inf:
                raise BaselineError(f"{where}, {stream.name!r}: its margin or importance is out of range")

    def content_digest(self) -> str:
        """SHA-256, hexadecimal, of the encoded record with an empty digest."""
        return hashlib.sha256(encode("Baseline", dataclasses.replace(self, digest="").to_record())).hexdigest()


_IN_MEMORY: WeakValueDictionary[str, Baseline] = WeakValueDictionary()
"""By digest: the baseline of a worker's state and that of its catalogue are one object."""


def _numeric_labels(bins: NumericBins) -> list[str]:
    edges = bins.edges
    labels = [f"< {edges[0]:.6g}"]
    labels += [f"{low:.6g} – {high:.6g}" for low, high in pairwise(edges[:-1])]
    labels += [f"{edges[-2]:.6g} – {edges[-1]:.6g}", f"≥ {edges[-1]:.6g}", "(missing)"]
    return labels


def _conditional_bins(record: Record) -> ConditionalBins:
    condition, edges = record["season"], np.frombuffer(record["seasonal_edges"], "<f8")
    kind = SeasonalBins if condition in SEASONS else ConditionalBins
    size = edges.size // EDGE_COUNT
    return kind(condition, edges.reshape(size, -1), np.frombuffer(record["remap"], np.uint8).reshape(size, -1))


def _labels_of(condition: str) -> tuple[str, ...]:
    return (
        "below the minimum",
        f"lowest 0.5 % {condition}",
        *(f"{low}0 – {low + 1}0 % {condition}" for low in range(10)),
        f"highest 0.5 % {condition}",
        "above the maximum",
        "(missing)",
    )


_CONDITIONAL_LABELS = {
    **dict.fromkeys(SEASONS, _labels_of("of its hour")),
    AGE: _labels_of("at its age"),
    AGE_AND_SCORE: _labels_of("at its age and score"),
}

_LOSS_LABELS = (
    "as usual",
    *(f"beyond the usual, {step} of {LOSS_LAST_TAIL}" for step in range(1, LOSS_LAST_TAIL + 1)),
    "(missing)",
)
