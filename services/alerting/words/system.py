"""What Driftline says of itself: the words of an alarm of the monitor of the monitor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class SystemWords:
    """Plain texts; values in them come from settings and counts, never from events.

    Attributes:
        headline: "The streams do not keep up".
        sentences: What was seen, since when, against which limit.
        steps: What to look at.
        runbook: Anchor of docs/runbook.md.
    """

    headline: str
    sentences: tuple[str, ...]
    steps: str
    runbook: str

    def document(self) -> dict[str, Any]:
        """For the database."""
        return asdict(self)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """From the database."""
        return cls(document["headline"], tuple(document["sentences"]), document["steps"], document["runbook"])
