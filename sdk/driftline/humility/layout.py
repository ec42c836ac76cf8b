"""Which columns a policy reads, and in what kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NUMERIC_KIND, EMBEDDING_KIND = "numeric", "embedding"
"""Kinds of features that are read as numbers and as vectors; all others are read as text."""

BINARY, REGRESSION = "binary_classification", "regression"
"""Tasks that confidence depends on."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A segmentation of a baseline; see :class:`driftline.reading.Segmentation`."""

    name: str
    column: str
    values: tuple[str, ...]
    low: float | None
    high: float | None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Segment:
        """Read the fields of the Avro record."""
        return cls(record["name"], record["column"], tuple(record["values"]), record["low"], record["high"])

    @property
    def parts(self) -> list[str]:
        """``SEGMENTATION=VALUE`` of each part."""
        return [f"{self.name}={value}" for value in self.values]


@dataclass(slots=True)
class Layout:
    """The columns that the conditions of a policy look at. Filled while they are compiled, constant thereafter.

    Attributes:
        numeric: Columns read as numbers, to their places.
        text: Columns read as text, to their places.
        vectors: Columns read as vectors.
        segment: What divides rows into groups; None if nothing does.
        task: What the model does.
        positive_class: For binary classification: the class the score speaks of.
    """

    task: str
    positive_class: str | None
    segment: Segment | None
    numeric: dict[str, int] = field(default_factory=dict)
    text: dict[str, int] = field(default_factory=dict)
    vectors: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """The place of a column that is read as numbers."""
        return self.numeric.setdefault(name, len(self.numeric))

    def category(self, name: str) -> int:
        """The place of a column that is read as text."""
        return self.text.setdefault(name, len(self.text))

    def vector(self, name: str) -> int:
        """The place of a column that is read as vectors."""
        return self.vectors.setdefault(name, len(self.vectors))
