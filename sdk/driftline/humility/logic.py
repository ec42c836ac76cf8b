"""Conditions that were compiled, and how they combine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from driftline.humility.batch import Batch, Flags
from driftline.humility.row import Row


class Node(Protocol):
    """A condition that was compiled."""

    def holds_of(self, row: Row) -> bool:
        """Whether it holds for a row."""

    def holds(self, batch: Batch) -> Flags:
        """For which rows of a batch it holds, bool[n]."""


@dataclass(frozen=True, slots=True)
class AllOf:
    """All of several."""

    nodes: tuple[Node, ...]

    def holds_of(self, row: Row) -> bool:
        """See :class:`Node`."""
        return all(node.holds_of(row) for node in self.nodes)

    def holds(self, batch: Batch) -> Flags:
        """See :class:`Node`."""
        return np.asarray(np.logical_and.reduce([node.holds(batch) for node in self.nodes]))


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Any of several."""

    nodes: tuple[Node, ...]

    def holds_of(self, row: Row) -> bool:
        """See :class:`Node`."""
        return any(node.holds_of(row) for node in self.nodes)

    def holds(self, batch: Batch) -> Flags:
        """See :class:`Node`."""
        return np.asarray(np.logical_or.reduce([node.holds(batch) for node in self.nodes]))


@dataclass(frozen=True, slots=True)
class NotOf:
    """The contrary of one."""

    node: Node

    def holds_of(self, row: Row) -> bool:
        """See :class:`Node`."""
        return not self.node.holds_of(row)

    def holds(self, batch: Batch) -> Flags:
        """See :class:`Node`."""
        return ~self.node.holds(batch)
