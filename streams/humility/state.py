"""What is known of a version's humility on a partition: the rules in force and before, windows, what was told."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.humility.policy import Policy
from driftline.humility.rules import ACTIONS
from driftline.topics import humility_key
from streams.alerts import stable_id
from streams.baseline import Baseline
from streams.humility.evidence import RulesCounter, Strays
from streams.humility.judge import Earlier, Judge, policy_of
from streams.humility.source import policy_from, policy_source
from streams.humility.windows import HumilityTally
from streams.messages import Emission
from streams.specification import DeploymentSpec

MOST_EARLIER = 4
"""So many earlier policies are remembered; whoever decides by an older one does it by rules that nobody knows."""

MOST_UNKNOWN = 64
"""So many policies that nobody knows are remembered, so as not to look each up with every message."""

TOTALS = ("decided", "stale", "disagreeing", *ACTIONS)
"""What is counted over all time: rows decided by publishers, and of all rows what became of them."""


@dataclass(frozen=True, slots=True)
class Former:
    """A policy that was in force until the event time ``until_us``; None: until the first row.

    ``source``: What it is compiled from (:mod:`streams.humility.source`).
    """

    source: str
    until_us: int | None


@dataclass(frozen=True, slots=True)
class Quantile:
    """The published quantile of a group, with the outcomes it was computed from; see ``AdaptiveQuantile``."""

    segment: str
    quantile: float
    known: int = 0
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Told:
    """What serving applications were told last."""

    policy: str
    alarms: tuple[str, ...] = ()
    quantiles: tuple[Quantile, ...] = ()


@dataclass(eq=False)
class VersionHumility:
    """See the module.

    Attributes:
        judge: Judges by the rules in force; None where nothing is asked for any more.
        counter: Counts in the streams of the baseline in force.
        source: What the policy in force is compiled from; empty for none.
        changed_us: Event time at which it came into force; None where no row has come since.
        former: Policies before it, oldest first.
        windows: Open windows by start.
        told: What was told last; None for nothing so far.
        tellings: How often something was told.
        totals: Rows by what happened to them, see ``TOTALS``.
        slots: Stale and disagreeing rows of the current start slot and of the one before.
        stale_revision: The latest revision that stale rows named.
    """

    judge: Judge | None = None
    counter: RulesCounter | None = None
    source: str = ""
    changed_us: int | None = None
    former: list[Former] = field(default_factory=list)
    windows: dict[int, HumilityTally] = field(default_factory=dict)
    told: Told | None = None
    tellings: int = 0
    totals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOTALS, 0))
    slots: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0), (0, 0)])
    stale_revision: int | None = None

    def __post_init__(self) -> None:
        self.unknown: set[str] = set()  # looked up in vain: forgetting them costs no more than another look

    @property
    def policy(self) -> Policy | None:
        """The policy in force."""
        return None if self.judge is None else self.judge.policy

    @property
    def digest(self) -> str:
        """Its digest; empty for none."""
        return "" if self.judge is None else self.judge.policy.digest

    def put_in_force(self, spec: DeploymentSpec, baseline: Baseline, clock_us: int | None) -> None:
        """A specification and a baseline come into force at an event time; None before the first row."""
        policy = policy_of(spec, baseline)
        if ("" if policy is None else policy.digest) != self.digest:
            if self.source:
                self.former = [*self.former, Former(self.source, clock_us)][-MOST_EARLIER:]
            self.changed_us = clock_us
            self.unknown.clear()
        self.source = "" if policy is None else policy_source(spec, baseline)
        self._compile(spec, baseline, policy)

    def _compile(self, spec: DeploymentSpec, baseline: Baseline, policy: Policy | None) -> None:
        if policy is None:
            self.judge = self.counter = None
            return
        earlier = [
            Earlier(known, former.until_us)
            for former in self.former
            if (known := policy_from(former.source)) is not None
        ]
        self.judge = Judge.by(policy, earlier, self.changed_us, spec.lateness_ms)
        self.counter = RulesCounter(spec, baseline, policy.rules)

    def begin_time(self, spec: DeploymentSpec, baseline: Baseline, clock_us: int) -> None:
        """The first row has come: what changed before it changed then."""
        if self.changed_us is not None:
            return
        self.changed_us = clock_us
        self.former = [
            dataclasses.replace(former, until_us=clock_us) if former.until_us is None else former
            for former in self.former
        ]
        self._compile(spec, baseline, self.policy)

    def add(self, sums: NDArray[np.int64]) -> None:
        """Take in rows, by the sums of all of the traffic: see :mod:`streams.humility.windows`."""
        for name, rows in zip(TOTALS, sums[1 : 1 + len(TOTALS)].tolist(), strict=True):
            self.totals[name] += rows
        (stale, disagreeing), before = self.slots
        self.slots = [(stale + int(sums[2]), disagreeing + int(sums[3])), before]

    def strays(self, in_force: int) -> Strays:
        """What publishers did of late."""
        stale, disagreeing = (sum(each) for each in zip(*self.slots, strict=True))
        return Strays(stale, disagreeing, self.stale_revision, in_force)

    def facts_fields(self) -> dict[str, Any]:
        """The journal's record of what changes with rows and alarms."""
        facts = {
            "changed_us": self.changed_us,
            "told": None if self.told is None else dataclasses.astuple(self.told),
            "tellings": self.tellings,
            "totals": self.totals,
            "slots": self.slots,
            "stale_revision": self.stale_revision,
        }
        return {"facts": json.dumps(facts, separators=(",", ":"))}

    def policies_fields(self) -> dict[str, Any]:
        """The journal's record of the policies before the one in force."""
        return {"former": json.dumps([dataclasses.astuple(former) for former in self.former], separators=(",", ":"))}

    @classmethod
    def restore(
        cls, spec: DeploymentSpec, baseline: Baseline, facts: Mapping[str, Any], policies: Mapping[str, Any]
    ) -> VersionHumility:
        """Read :meth:`facts_fields` and :meth:`policies_fields`."""
        known, told = json.loads(facts["facts"]), None
        if known["told"] is not None:
            policy, alarms, quantiles = known["told"]
            told = Told(policy, tuple(alarms), tuple(Quantile(*each) for each in quantiles))
        policy_in_force = policy_of(spec, baseline)
        restored = cls(
            source="" if policy_in_force is None else policy_source(spec, baseline),
            changed_us=known["changed_us"],
            former=[Former(*each) for each in json.loads(policies["former"])],
            told=told,
            tellings=known["tellings"],
            totals=dict.fromkeys(TOTALS, 0) | known["totals"],
            slots=[(stale, disagreeing) for stale, disagreeing in known["slots"]],
            stale_revision=known["stale_revision"],
        )
        restored._compile(spec, baseline, policy_in_force)
        return restored


def humility_state(
    deployment_id: str, model_version: str, partition: int, clock_us: int, number: int, told: Told
) -> Emission:
    """The ``HumilityState`` of a version; ``number`` counts them."""
    record = {
        "deployment_id": deployment_id,
        "model_version": model_version,
        "partition": partition,
        "clock_us": clock_us,
        "policy": told.policy,
        "alarms": list(told.alarms),
        "quantiles": [dataclasses.asdict(quantile) for quantile in told.quantiles],
    }
    identity = stable_id("humility", deployment_id, model_version, partition, clock_us, number)
    return Emission(
        "humility", humility_key(deployment_id, model_version, partition), "HumilityState", record, identity
    )
