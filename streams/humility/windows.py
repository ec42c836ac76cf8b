"""Humility windows: what the rules did in a window of event time, in all of the traffic and in its parts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.humility.rules import ACTIONS
from streams.alerts import stable_id
from streams.humility.judge import Judged
from streams.messages import Emission
from streams.state import pack, unpack
from streams.windows import FIRST_REVISION_ROWS

Counts = NDArray[np.int64]
Codes = NDArray[np.int64]

ALL = ""
"""The part that is all of the traffic."""

_ROWS, _DECIDED, _STALE, _DISAGREEING, _ACTIONS = 0, 1, 2, 3, 4
_FIRED = _ACTIONS + len(ACTIONS)
"""Columns of the sums; from ``_FIRED`` on per rule how often it fired, then per rule how often it acted."""


@dataclass(eq=False, slots=True)
class HumilityTally:
    """The sums of one window, under one policy.

    Attributes:
        policy: Its digest.
        spec_revision: The latest revision of the specification that it was in force under.
        baseline_digest: The baseline in force.
        window_us: Length of the window.
        rules: Names of the rules, R of them.
        parts: The parts of the traffic, P of them, all of it first.
        sums: int64[P, 8 + 2 R].
        first_offset: The message that opened it; part of the summaries' id, as with other windows.
        revision: Summaries written so far.
        next_revision_rows: Number of rows at which the next is due.
    """

    policy: str
    spec_revision: int
    baseline_digest: str
    window_us: int
    rules: tuple[str, ...]
    parts: tuple[str, ...]
    sums: Counts
    first_offset: int
    revision: int = 0
    next_revision_rows: int = FIRST_REVISION_ROWS

    @property
    def rows(self) -> int:
        """Rows of all of the traffic."""
        return int(self.sums[0, _ROWS])

    def due(self) -> bool:
        """Whether a provisional summary is due; the next one will be at four times as many rows."""
        if self.rows < self.next_revision_rows:
            return False
        while self.next_revision_rows <= self.rows:
            self.next_revision_rows *= 4
        return True

    def to_fields(self) -> dict[str, Any]:
        """The journal's record."""
        facts = {name: getattr(self, name) for name in _FACTS}
        return {"facts": json.dumps(facts, separators=(",", ":")), "sums": pack(self.sums)}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> HumilityTally:
        """Read :meth:`to_fields`."""
        facts = json.loads(fields["facts"])
        lists = {"rules": tuple(facts["rules"]), "parts": tuple(facts["parts"])}
        return cls(**{**facts, **lists}, sums=unpack(fields["sums"]))


_FACTS = (
    "policy",
    "spec_revision",
    "baseline_digest",
    "window_us",
    "rules",
    "parts",
    "first_offset",
    "revision",
    "next_revision_rows",
)


def new_sums(rules: int, parts: int) -> Counts:
    """Sums of no rows."""
    return np.zeros((parts, _FIRED + 2 * rules), np.int64)


def count_rows(
    judged: Judged, rules: int, part_codes: Sequence[Codes], sizes: Sequence[int], index: Codes | None, groups: int
) -> Counts:
    """Sums int64[G, P, 8 + 2 R] of the rows of a message.

    Args:
        judged: What was decided of its n rows.
        rules: Number of rules, R.
        part_codes: Per segmentation int64[n], each row's part, -1 for none.
        sizes: Number of parts of each; P is one more than there are together.
        index: int64[n], group of each row, -1 for rows that do not count; None for one group of all rows.
        groups: Number of groups, G.
    """
    facts = _facts(judged, rules)
    sums = np.zeros((groups, 1 + sum(sizes), len(facts)), np.int64)
    for g in range(groups):
        chosen = facts if index is None else facts[:, index == g]
        sums[g, 0] = np.count_nonzero(chosen, axis=1)
        first = 1
        for codes, size in zip(part_codes, sizes, strict=True):
            mine = codes if index is None else codes[index == g]
            # products of ones and zeros add up exactly: there are less than 2^53 rows
            member = (mine == np.arange(size)[:, None]).astype(np.float64)
            sums[g, first : first + size] = member @ chosen.T
            first += size
    return sums


def _facts(judged: Judged, rules: int) -> NDArray[np.bool_]:
    """What is counted of each row, bool[8 + 2 R, n]."""
    facts = np.empty((_FIRED + 2 * rules, len(judged.actions)), np.bool_)
    facts[_ROWS] = True
    facts[_DECIDED], facts[_STALE], facts[_DISAGREEING] = judged.claimed, judged.stale, judged.disagrees
    for action in range(len(ACTIONS)):
        np.equal(judged.actions, action, out=facts[_ACTIONS + action])
    for rule in range(rules):
        np.not_equal(judged.fired & np.uint64(1 << rule), 0, out=facts[_FIRED + rule])
        np.equal(judged.acting, rule, out=facts[_FIRED + rules + rule])
    return facts


def humility_window(
    deployment_id: str,
    model_version: str,
    partition: int,
    start_us: int,
    tally: HumilityTally,
    clock_us: int,
    *,
    final: bool,
) -> Emission:
    """The ``HumilityWindow`` of a window as it stands."""
    rules = len(tally.rules)
    record = {
        "id": stable_id(
            "humility window", deployment_id, model_version, tally.policy, partition, start_us, tally.first_offset
        ),
        "deployment_id": deployment_id,
        "model_version": model_version,
        "partition": partition,
        "window_start_us": start_us,
        "window_end_us": start_us + tally.window_us,
        "status": "final" if final else "provisional",
        "revision": tally.revision,
        "clock_us": clock_us,
        "policy": tally.policy,
        "spec_revision": tally.spec_revision,
        "baseline_digest": tally.baseline_digest,
        "rules": list(tally.rules),
        "parts": [
            {
                "segment": part,
                "rows": row[_ROWS],
                "decided": row[_DECIDED],
                "stale": row[_STALE],
                "disagreeing": row[_DISAGREEING],
                "actions": row[_ACTIONS:_FIRED],
                "fired": row[_FIRED : _FIRED + rules],
                "acted": row[_FIRED + rules :],
            }
            for part, row in zip(tally.parts, tally.sums.tolist(), strict=True)
        ],
    }
    return Emission("windows", deployment_id.encode(), "HumilityWindow", record)
