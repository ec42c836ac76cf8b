"""What a serving application knows of its deployment's humility rules: from records to what is decided by."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from driftline import codec
from driftline.codec import Record
from driftline.errors import CodecError
from driftline.events import ALARM_MONITORS
from driftline.humility.policy import Policy

log = logging.getLogger("driftline")

SPECIFICATION, BASELINE, STATE = "DeploymentSpec", "Baseline", "HumilityState"
"""The records that make up what is known."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What rows of one version are decided by.

    Attributes:
        policy: The compiled rules.
        quantiles: Where the adaptive quantile of each group stands, or starts if nothing was heard of it.
        alarms: Monitors in alarm, as bits; see :data:`driftline.events.ALARM_MONITORS`.
    """

    policy: Policy
    quantiles: Mapping[str, float]
    alarms: int


@dataclass(frozen=True, slots=True)
class Known:
    """Everything that is known at a moment. Never changed, only replaced whole.

    Attributes:
        revision: Revision of the specification; 0 where there is none.
        by_version: What each version with a baseline is decided by.
        otherwise: The same of versions without a baseline; None where there are no rules.
    """

    revision: int = 0
    by_version: Mapping[str, Standing] = field(default_factory=dict)
    otherwise: Standing | None = None

    def of(self, version: str) -> Standing | None:
        """What a version is decided by; None where there are no rules."""
        return self.by_version.get(version, self.otherwise)


class Records:
    """The latest records of one deployment, and the policies they make. Used by one thread.

    A policy is compiled when a record of its own has changed. One that cannot be compiled leaves the version with the
    policy it had.
    """

    def __init__(self, deployment_id: str) -> None:
        self.trouble = ""
        """Why something could not be used, the last time; empty while everything can."""
        self._deployment_id = deployment_id
        self._specification: bytes | None = None
        self._baselines: dict[str, bytes] = {}
        self._states: dict[tuple[str, int], Record] = {}
        self._compiled: dict[str | None, tuple[bytes, bytes | None, Policy | None]] = {}
        self._told: set[str] = set()

    def put(self, name: str, record: Record) -> None:
        """Take a record in place of the one before it; those of other deployments are passed over."""
        if record["deployment_id"] != self._deployment_id:
            return
        if name == SPECIFICATION:
            self._specification = codec.encode(name, record)
        elif name == BASELINE:
            self._baselines[record["model_version"]] = codec.encode(name, record)
        elif name == STATE:
            self._states[record["model_version"], record["partition"]] = record

    def drop(self, name: str, key: str) -> None:
        """Forget the record with a key: it was deleted."""
        version, _, partition = key.removeprefix(f"{self._deployment_id}@").rpartition("#")
        if name == SPECIFICATION and key == self._deployment_id:
            self._specification = None
        elif name == BASELINE:
            self._baselines.pop(key.removeprefix(f"{self._deployment_id}@"), None)
        elif name == STATE and partition.isdecimal():
            self._states.pop((version, int(partition)), None)

    def clear(self) -> None:
        """Forget every record; what was compiled stays known as long as it is not needed otherwise."""
        self._specification = None
        self._baselines.clear()
        self._states.clear()

    def encoded(self) -> Iterator[bytes]:
        """All records, in single-object encoding."""
        if self._specification is not None:
            yield self._specification
        for _, baseline in sorted(self._baselines.items()):
            yield baseline
        for _, state in sorted(self._states.items(), key=lambda item: item[0]):
            yield codec.encode(STATE, state)

    def known(self, partition: int | None) -> Known:
        """What the records come to.

        Args:
            partition: The partition of the predictions topic whose state counts; None for all. See :func:`merged`.
        """
        self.trouble = ""
        if self._specification is None:
            return Known()
        versions = sorted(self._baselines)
        policies = {version: self._policy(version, self._specification) for version in versions}
        otherwise = self._policy(None, self._specification)
        for gone in self._compiled.keys() - {None, *versions}:
            del self._compiled[gone]
        _, specification = codec.decode(self._specification)
        return Known(
            revision=specification["revision"],
            by_version={
                version: standing(policy, self._of(version, partition))
                for version, policy in policies.items()
                if policy is not None
            },
            otherwise=None if otherwise is None else standing(otherwise, ()),
        )

    def _of(self, version: str, partition: int | None) -> list[Record]:
        states = {number: state for (of, number), state in sorted(self._states.items()) if of == version}
        return [states[partition]] if partition in states else list(states.values())

    def _policy(self, version: str | None, specification: bytes) -> Policy | None:
        baseline = None if version is None else self._baselines[version]
        known = self._compiled.get(version)
        if known is not None and known[:2] == (specification, baseline):
            return known[2]
        try:
            policy = Policy.of(codec.decode(specification)[1], None if baseline is None else codec.decode(baseline)[1])
        except Exception as error:  # rules of a later release, say: what was decided by goes on deciding
            policy = None if known is None else known[2]
            of = "versions without a baseline" if version is None else f"version {version!r}"
            self.trouble = f"the humility rules for {of} cannot be used: {error!r}"
            log.error("%s; %s", self.trouble, "nothing is decided" if policy is None else "the former ones stay")
        else:
            if policy is not None and version is not None:
                self._tell_unarmed(policy, version)
        self._compiled[version] = specification, baseline, policy
        return policy

    def _tell_unarmed(self, policy: Policy, version: str) -> None:
        if policy.unarmed and policy.digest not in self._told:
            self._told.add(policy.digest)
            log.warning(
                "not every humility rule of version %r can fire: %s",
                version,
                "; ".join(policy.unarmed),
            )


def standing(policy: Policy, states: Sequence[Record]) -> Standing:
    """What a version is decided by, given its states on one or several partitions.

    Of several, a monitor is in alarm that is in alarm on any, and a group's quantile is that of the partition where
    most outcomes are known (of equals, the first). Quantiles of another policy may be scores of another kind, and do
    not count.
    """
    quantiles = dict(policy.start_quantiles)
    outcomes: dict[str, int] = {}
    alarms = 0
    for state in states:
        alarms |= bits_of(state["alarms"])
        for tracked in state["quantiles"] if state["policy"] == policy.digest else ():
            group = tracked["segment"]
            if group in policy.groups and tracked["known"] > outcomes.get(group, -1):
                outcomes[group] = tracked["known"]
                quantiles[group] = tracked["quantile"]
    return Standing(policy, quantiles, alarms)


def bits_of(monitors: Iterable[str]) -> int:
    """Monitors as bits; those of later releases, which no rule can name here, are left out."""
    return sum(1 << ALARM_MONITORS.index(name) for name in set(monitors) if name in ALARM_MONITORS)


def names_of(alarms: int) -> tuple[str, ...]:
    """Bits as monitors, in the order of their bits."""
    return tuple(name for bit, name in enumerate(ALARM_MONITORS) if alarms >> bit & 1)


def records_of(encoded: Iterable[bytes], deployment_id: str) -> Records:
    """Records that were kept; what cannot be read any more is passed over."""
    records = Records(deployment_id)
    for data in encoded:
        try:
            records.put(*codec.decode(data))
        except CodecError as error:
            log.warning("a kept record of the humility rules is passed over: %s", error)
    return records
