"""What can go wrong with deployments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.errors import ServicesError


class DeploymentError(ServicesError):
    """A deployment that is not there, or a change that cannot be made."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """One thing wrong with a specification: where (1-based line and column; 0 where unknown), which field, and what."""

    line: int
    column: int
    field: str
    message: str

    def __str__(self) -> str:
        where = ", ".join([*([f"line {self.line}"] if self.line else []), *([self.field] if self.field else [])])
        return f"{where}: {self.message}" if where else self.message


class SpecificationError(DeploymentError):
    """A specification that is refused, whole; every flaw that was found is named."""

    exit_code = 2

    def __init__(self, source: str, flaws: Sequence[Flaw]) -> None:
        self.source = source
        self.flaws = tuple(sorted(flaws, key=lambda flaw: (flaw.line, flaw.column)))
        listed = "\n".join(f"  {flaw}" for flaw in self.flaws)
        super().__init__(f"{source}: the specification is refused, nothing of it was applied:\n{listed}")
