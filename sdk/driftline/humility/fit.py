"""What the humility rules were fitted to, as the contract has it. How it is found is in :mod:`streams.humility.fit`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from driftline.codec import Record

NUMERIC, CATEGORICAL, JOINT = "numeric", "categorical", "joint"
"""Kinds of novelty columns."""

ABSOLUTE_RESIDUAL, INTERVAL_EXCESS, ONE_MINUS_PROBABILITY = (
    "absolute_residual",
    "interval_excess",
    "one_minus_probability",
)
"""Scores of coverage: |actual - prediction|; max(low - actual, actual - high) of the model's own interval, as in
conformalised quantile regression; 1 - the probability of the actual class. What scores at most the quantile is
covered."""


@dataclass(frozen=True, slots=True)
class NoveltyColumn:
    """A column and how surprising each of its bins is, in nats. Field by field the record of the contract.

    numeric, joint: value v is in bin ``bisect_right(edges, v)``; ``surprise`` has one entry more than there are bins,
    the last for missing. categorical: one entry per category, then unseen, then missing.
    """

    name: str
    kind: str
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    surprise: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class NoveltyThreshold:
    """Rows of the group with a larger score fire; ``rate_bound`` is the upper confidence bound of how often."""

    segment: str
    rows: int
    score: float
    rate_bound: float


@dataclass(frozen=True, slots=True)
class RiskCertificate:
    """Predictions of the group with at least the confidence ``threshold`` are answered.

    ``error_bound``: upper confidence bound of the error among them; ``answered_bound``: lower one of their share.
    """

    segment: str
    rows: int
    threshold: float
    errors: int
    answered: int
    error_bound: float
    answered_bound: float


@dataclass(frozen=True, slots=True)
class CoverageStart:
    """Where the tracker of a group starts: the split-conformal quantile, which is the static interval's."""

    segment: str
    rows: int
    quantile: float


@dataclass(frozen=True, slots=True)
class ObservedRegion:
    """Values of a column, or cells of two, and how many reference rows each had."""

    columns: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A guarantee that could not be given, and how many rows it takes (0: no number would do)."""

    guarantee: str
    segment: str
    rows: int
    needed: int
    reason: str


@dataclass(frozen=True, slots=True)
class HumilityFit:
    """What was fitted. Field by field the record ``HumilityFit`` of the contract."""

    spec_digest: str
    source: str
    rows: int
    learning_rows: int
    first_event_us: int
    last_event_us: int
    confidence: float
    novelty_rate: float | None = None
    max_error: float | None = None
    coverage: float | None = None
    tolerance: float | None = None
    novelty: tuple[NoveltyColumn, ...] = ()
    joint: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    joint_columns: tuple[str, ...] = ()
    novelty_thresholds: tuple[NoveltyThreshold, ...] = ()
    certificates: tuple[RiskCertificate, ...] = ()
    coverage_score: str = ""
    score_range: float = 0.0
    step: float = 0.0
    coverage_starts: tuple[CoverageStart, ...] = ()
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    regions: tuple[ObservedRegion, ...] = ()
    prior: float | None = None
    prior_label: str | None = None
    shortfalls: tuple[Shortfall, ...] = ()

    def to_record(self) -> Record:
        """The fields of the Avro record."""
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> HumilityFit:
        """Read the fields of the Avro record."""
        return cls(
            **{
                **record,
                "novelty": tuple(
                    NoveltyColumn(
                        column["name"],
                        column["kind"],
                        tuple(column["edges"]),
                        tuple(column["categories"]),
                        tuple(column["surprise"]),
                    )
                    for column in record["novelty"]
                ),
                "joint": {name: tuple(values) for name, values in record["joint"].items()},
                "joint_columns": tuple(record["joint_columns"]),
                "novelty_thresholds": tuple(NoveltyThreshold(**each) for each in record["novelty_thresholds"]),
                "certificates": tuple(RiskCertificate(**each) for each in record["certificates"]),
                "coverage_starts": tuple(CoverageStart(**each) for each in record["coverage_starts"]),
                "bounds": {name: (low, high) for name, (low, high) in record["bounds"].items()},
                "regions": tuple(
                    ObservedRegion(tuple(each["columns"]), tuple(map(tuple, each["cells"])), tuple(each["rows"]))
                    for each in record["regions"]
                ),
                "shortfalls": tuple(Shortfall(**each) for each in record["shortfalls"]),
            }
        )
