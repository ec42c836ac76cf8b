"""Humility in the state machine: rows are judged, counted and summed up, and publishers told what they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.events import PredictionColumns
from streams.columns import Watched
from streams.counting import HUMILITY_BLOCK
from streams.deployment import Deployment, Version
from streams.humility.judge import Judged, alarm_bits
from streams.humility.state import MOST_UNKNOWN, Quantile, Told, VersionHumility, humility_state
from streams.humility.windows import ALL, HumilityTally, count_rows, humility_window, new_sums
from streams.output import Output
from streams.windows import Group, Grouping, closed

Codes = NDArray[np.int64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class Counted:
    """What is counted of a message, by group of its rows.

    Attributes:
        judged: What was decided.
        sums: int64[G, P, 8 + 2 R], see :mod:`streams.humility.windows`.
        evidence: int64[G, S, 23]; None where no stream is counted.
    """

    judged: Judged
    sums: Counts
    evidence: Counts | None


class HumilityWatch:
    """What a partition does about humility.

    Args:
        number: The partition.
        output: What it has to say.
    """

    def __init__(self, number: int, output: Output) -> None:
        self._number, self._output = number, output

    def put_in_force(self, deployment: Deployment, version: Version) -> None:
        """A specification of the deployment, or a baseline of the version, has come into force."""
        known, spec = version.humility, deployment.spec
        if known is None:
            if spec.humility is None:
                return
            known = version.humility = VersionHumility()
        before = known.digest
        known.put_in_force(spec, version.baseline, deployment.clock_us)
        if known.digest != before:  # a window is of one policy
            self.close(deployment, version, everything=True)
        names = spec.deployment_id, version.baseline.model_version
        self._output.touch("humility", *names, what=known)
        self._output.touch("policies", *names, what=known)

    @staticmethod
    def needs(version: Version, columns: PredictionColumns) -> bool:
        """Whether there may be rules that are not in force here yet: those that a publisher decided by."""
        claim, known = columns.humility, version.humility
        if claim is None or known is None or known.judge is None or len(known.unknown) >= MOST_UNKNOWN:
            return False
        return not known.judge.knows(claim.policy) and claim.policy not in known.unknown

    def judge(self, deployment: Deployment, version: Version, columns: PredictionColumns, alarms: int) -> Judged | None:
        """Judge the rows of a message by what is known before it; None where nothing is asked for.

        ``alarms``: of :meth:`alarms`.
        """
        known = version.humility
        if known is None or known.judge is None:
            return None
        claim = columns.humility
        if claim is not None and not known.judge.knows(claim.policy) and len(known.unknown) < MOST_UNKNOWN:
            known.unknown.add(claim.policy)
        if known.changed_us is None and deployment.clock_us is not None:
            known.begin_time(deployment.spec, version.baseline, deployment.clock_us)
        join, name = deployment.join, version.baseline.model_version
        quantiles = None if join is None else join.quantiles_of(name)
        return known.judge.judge(columns, quantiles, alarms)

    @staticmethod
    def alarms(version: Version) -> int:
        """The open alarms of a version that has rules, as bits of ``ALARM_MONITORS``."""
        return 0 if version.humility is None else alarm_bits(version.monitors.alarmed)

    def count(self, version: Version, judged: Judged | None, watched: Watched, grouping: Grouping) -> Counted | None:
        """Count the rows of a message by group; None where nothing is asked for."""
        known = version.humility
        if judged is None or known is None or known.judge is None or known.counter is None:
            return None
        groups, rules = len(grouping.groups), len(known.judge.policy.rules)
        sizes = [len(segment.values) for segment in version.baseline.segments]
        sums = count_rows(judged, rules, watched.parts, sizes, grouping.index, groups)
        return Counted(judged, sums, known.counter.count(judged, grouping.index, groups))

    def add(
        self, deployment: Deployment, version: Version, counted: Counted, g: int, group: Group, offset: int
    ) -> None:
        """Take in one group of the rows of a message, in order of the groups."""
        known = version.humility
        assert known is not None
        if counted.evidence is not None:
            version.monitors.count_blocks({HUMILITY_BLOCK: counted.evidence[g]})
        sums, names = counted.sums[g], (deployment.spec.deployment_id, version.baseline.model_version)
        known.add(sums[0])
        if counted.judged.stale.any():
            known.stale_revision = counted.judged.revision
        if group.window_start_us is not None:
            window = known.windows.get(group.window_start_us)
            if window is None:
                window = known.windows[group.window_start_us] = self._open(deployment, version, offset)
            window.sums += sums
            window.spec_revision = deployment.spec.revision
            self._output.touch("decisions", *names, group.window_start_us, what=window)
        self._output.touch("humility", *names, what=known)

    @staticmethod
    def _open(deployment: Deployment, version: Version, offset: int) -> HumilityTally:
        known, spec, baseline = version.humility, deployment.spec, version.baseline
        assert known is not None and known.judge is not None
        rules = tuple(rule.name for rule in known.judge.policy.rules)
        parts = (ALL, *(part for segment in baseline.segments for part in segment.parts))
        return HumilityTally(
            policy=known.digest,
            spec_revision=spec.revision,
            baseline_digest=baseline.digest,
            window_us=spec.window_ms * 1000,
            rules=rules,
            parts=parts,
            sums=new_sums(len(rules), len(parts)),
            first_offset=offset,
        )

    def begin_slot(self, version: Version) -> None:
        """A start slot of a version begins."""
        if version.humility is not None:
            version.humility.slots = [(0, 0), version.humility.slots[0]]

    def revise(self, deployment: Deployment, version: Version) -> None:
        """Write the provisional summaries that are due."""
        if version.humility is None:
            return
        for start_us, window in version.humility.windows.items():
            if window.due():
                self._emit(deployment, version, start_us, window, final=False)
                names = deployment.spec.deployment_id, version.baseline.model_version, start_us
                self._output.touch("decisions", *names, what=window)

    def close(self, deployment: Deployment, version: Version, *, everything: bool) -> None:
        """Write the final summaries of windows that take no more rows, or of all."""
        clock_us, known = deployment.clock_us, version.humility
        if known is None or clock_us is None:
            return
        for start_us in sorted(known.windows):
            if everything or closed(start_us, clock_us, deployment.spec):
                self._emit(deployment, version, start_us, known.windows.pop(start_us), final=True)
                names = deployment.spec.deployment_id, version.baseline.model_version, start_us
                self._output.touch("decisions", *names, what=None)

    def _emit(
        self, deployment: Deployment, version: Version, start_us: int, window: HumilityTally, *, final: bool
    ) -> None:
        window.revision += 1
        names = deployment.spec.deployment_id, version.baseline.model_version
        clock_us = deployment.clock_us or 0
        self._output.emit(humility_window(*names, self._number, start_us, window, clock_us, final=final))

    def tell(self, deployment: Deployment) -> None:
        """Tell serving applications what has changed of a deployment's versions: the policy, alarms, quantiles."""
        for version in deployment.versions.values():
            if version.humility is not None:
                self._tell(deployment, version)

    def _tell(self, deployment: Deployment, version: Version) -> None:
        known, told = version.humility, Told("")
        assert known is not None
        if known.judge is not None:
            told = Told(known.digest, tuple(sorted(version.monitors.alarmed)), self._standing(deployment, version))
        if told != known.told:
            self._say(deployment, version, told)

    def _say(self, deployment: Deployment, version: Version, told: Told) -> None:
        known, names = version.humility, (deployment.spec.deployment_id, version.baseline.model_version)
        assert known is not None
        known.told = told
        known.tellings += 1
        self._output.emit(humility_state(*names, self._number, deployment.clock_us or 0, known.tellings, told))
        self._output.touch("humility", *names, what=known)

    @staticmethod
    def _standing(deployment: Deployment, version: Version) -> tuple[Quantile, ...]:
        join, known = deployment.join, version.humility
        assert known is not None and known.judge is not None
        if join is not None and (standing := join.standing_of(version.baseline.model_version)):
            return tuple(Quantile(**each) for each in standing)
        return tuple(Quantile(name, start) for name, start in known.judge.policy.start_quantiles.items())

    def end(self, deployment: Deployment, version: Version) -> None:
        """The deployment is retired."""
        if version.humility is None:
            return
        self.close(deployment, version, everything=True)
        self._say(deployment, version, Told(""))
        names = deployment.spec.deployment_id, version.baseline.model_version
        for kind in ("humility", "policies"):
            self._output.touch(kind, *names, what=None)


def totals_of(deployments: Mapping[str, Deployment]) -> list[tuple[str, str, dict[str, int]]]:
    """Deployment, version and its totals (:data:`streams.humility.state.TOTALS`); may be asked by any thread."""
    return [
        (name, version, dict(known.humility.totals))
        for name, deployment in list(deployments.items())
        for version, known in list(deployment.versions.items())
        if known.humility is not None
    ]
