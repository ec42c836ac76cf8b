"""Humility of predictions that wait: the trackers, by which rules they were decided, and what was known then.

What lies in the store about decisions can be lost like everything in it. The log has the decisions of publishers; those
that the streams made are made again, to the bit, from three things that the journal has: the sources of the policies
that frames name, what was published and in alarm from which message on, and the message.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.events import PredictionColumns
from driftline.humility.policy import Policy
from streams.baseline import Baseline
from streams.errors import StreamsError
from streams.humility.judge import Judge
from streams.humility.source import policy_from, policy_source
from streams.humility.tracker import Facts, FactsHistory, Tracker, tracker_of
from streams.outcomes.frames import Frame
from streams.outcomes.rulebook import Issued, Rulebook, rulebook_of
from streams.specification import DeploymentSpec
from streams.statistics.layouts import CATEGORICAL
from streams.statistics.performance.coverage import coverage_scores, is_covered
from streams.statistics.performance.pairs import Pairs

MISSED, COVERED = 0, 1
"""Bins of the stream ``humility:miscoverage``: its categories are yes and no."""


def count_missed(frame: Frame, pairs: Pairs) -> NDArray[np.int64] | None:
    """Counts int64[1, 23] of pairs missed and covered by the quantile their group was fitted with; None without one."""
    if frame.humility is None or not frame.humility.score or pairs.decisions is None:
        return None
    scores = coverage_scores(frame.humility.score, frame.layout.task, pairs.predicted, pairs.actual)
    known, covered = is_covered(scores, pairs.decisions.static)
    counts = np.zeros((1, CATEGORICAL.size), np.int64)
    counts[0, MISSED], counts[0, COVERED] = int((known & ~covered).sum()), int(covered.sum())
    return counts


class WaitingHumility:
    """What a join knows of humility.

    Attributes:
        trackers: By version.
    """

    def __init__(self) -> None:
        self.trackers: dict[str, Tracker] = {}
        self._histories: dict[str, FactsHistory] = {}
        self._sources: dict[str, str] = {}  # by digest of the policy
        self._changed_sources: set[str] = set()
        self._judges: dict[str, Judge] = {}

    def begin(self, spec: DeploymentSpec, baseline: Baseline) -> Rulebook | None:
        """The rules that come into force for a version; None where humility is off for it."""
        if spec.humility is None:
            self._end(baseline.model_version)
            return None
        source = policy_source(spec, baseline)
        policy = policy_from(source)
        if policy is None:
            self._end(baseline.model_version)
            return None
        if policy.digest not in self._sources:
            self._sources[policy.digest] = source
            self._changed_sources.add(policy.digest)
        self._track(baseline, policy)
        return rulebook_of(policy, baseline)

    def _track(self, baseline: Baseline, policy: Policy) -> None:
        version, tracker = baseline.model_version, tracker_of(baseline.humility, policy.start_quantiles)
        known = self.trackers.get(version)
        if known is None or known.fit != tracker.fit or known.groups.keys() != tracker.groups.keys():
            self.trackers[version] = tracker

    def _end(self, version: str) -> None:
        """Humility is off; what was known is remembered for predictions that wait, and forgotten with the others."""
        self.trackers.pop(version, None)

    def drop_unused(self, frames: Collection[Frame], first_offset: int) -> None:
        """Forget the rules that no frame names, and what was known before a message."""
        used = {frame.humility.policy for frame in frames if frame.humility is not None}
        for digest in [digest for digest in self._sources if digest not in used]:
            del self._sources[digest]
            self._judges.pop(digest, None)
            self._changed_sources.add(digest)
        versions = {frame.model_version for frame in frames if frame.humility is not None}
        for version, history in self._histories.items():
            if version in versions:
                history.forget(first_offset)
            else:
                history.clear()

    def note(self, version: str, offset: int, alarms: int | None = None) -> None:
        """What decisions are made with from a message on; the alarms are those noted last, if none are given."""
        tracker = self.trackers.get(version)
        if tracker is None:
            return
        history = self._histories.setdefault(version, FactsHistory())
        if alarms is None:
            alarms = history.entries[-1].alarms if history.entries else 0
        history.note(Facts(offset, tuple(tracker.quantiles.items()), alarms))

    def decided(self, frame: Frame, columns: PredictionColumns, offset: int) -> Issued | None:
        """What was decided of a message that was applied before; None where humility was off.

        Raises:
            StreamsError: The journal lacks the rules.
        """
        if frame.humility is None:
            return None
        history = self._histories.get(frame.model_version)
        facts = None if history is None else history.at(offset)
        judge = self._judge(frame.humility.policy)
        return judge.judge(columns) if facts is None else judge.judge(columns, dict(facts.quantiles), facts.alarms)

    def _judge(self, digest: str) -> Judge:
        judge = self._judges.get(digest)
        if judge is None:
            policy = policy_from(self._sources[digest]) if digest in self._sources else None
            if policy is None:
                raise StreamsError(
                    f"the journal lacks the humility rules {digest[:12]}, by which predictions that wait for outcomes "
                    "were decided: it was written by another release; start anew with an empty journal"
                )
            judge = self._judges[digest] = Judge.by(policy)
        return judge

    def count(self, frame: Frame, pairs: Pairs) -> None:
        """First outcomes of predictions came."""
        tracker, rules = self.trackers.get(frame.model_version), frame.humility
        if tracker is None or rules is None or pairs.decisions is None or rules.fit != tracker.fit or not rules.score:
            return
        scores = coverage_scores(rules.score, frame.layout.task, pairs.predicted, pairs.actual)
        known, covered = is_covered(scores, pairs.decisions.quantiles)
        tracker.count(rules.groups, pairs.decisions.groups, known, known & ~covered)

    def publish(self, slot: int, offset: int) -> None:
        """Publish where the trackers stand, if the start slot is a later one.

        Args:
            slot: The start slot that is known to have begun.
            offset: The next message of the predictions topic.
        """
        for version, tracker in self.trackers.items():
            if tracker.publish(slot):
                self.note(version, offset)

    def forget_slots(self) -> None:
        """Start slots have another length now."""
        for tracker in self.trackers.values():
            tracker.forget_slot()

    def clear(self) -> None:
        """Nothing waits any more."""
        self.trackers.clear()
        self.drop_unused((), 0)

    def to_fields(self) -> dict[str, Any]:
        """What the record of the join keeps; nothing where humility was never on."""
        trackers = [[version, tracker.to_fields()] for version, tracker in sorted(self.trackers.items())]
        return {"trackers": trackers} if trackers else {}

    def restore(self, fields: Mapping[str, Any]) -> None:
        """Read :meth:`to_fields`."""
        self.trackers = {version: Tracker.from_fields(each) for version, each in fields.get("trackers", ())}

    def take_changes(self) -> dict[tuple[object, ...], dict[str, Any] | None]:
        """The journal's other records that changed, by kind and name, None to delete; forgets them."""
        changed: dict[tuple[object, ...], dict[str, Any] | None] = {}
        for digest in sorted(self._changed_sources):
            source = self._sources.get(digest)
            changed["rules", digest] = None if source is None else {"source": source}
        for version, history in self._histories.items():
            for offset, fields in history.take_changes().items():
                changed["facts", version, offset] = fields
        self._changed_sources = set()
        return changed

    def restore_rules(self, digest: str, fields: Mapping[str, Any]) -> None:
        """Take the source of a policy as it was written."""
        self._sources[digest] = fields["source"]

    def restore_facts(self, version: str, offset: int, fields: Mapping[str, Any]) -> None:
        """Take what was known at a message as it was written."""
        self._histories.setdefault(version, FactsHistory()).restore(offset, fields)
