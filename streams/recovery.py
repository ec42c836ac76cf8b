"""A partition's state out of its journal; and out of the topics what the journal does not hold.

The journal has all that is counted. Which ids were seen, and which predictions wait for their outcome, is read from
the topics again as far as it is not at hand: from messages that were applied before, and must be taken now as they
were taken then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.codec import SchemaRegistry
from driftline.errors import EventError
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.topics import Topics
from streams import state as state_records
from streams.columns import numeric_column
from streams.decoding import decode_message
from streams.deployment import Deployment, at_offset, key_of, restore_deployment, restore_version
from streams.followers import Followers
from streams.humility.state import VersionHumility
from streams.humility.windows import HumilityTally
from streams.identities import Identities
from streams.limits import limits_of_outcomes
from streams.messages import Message
from streams.outcomes.join import Join
from streams.outcomes.store import PendingStore
from streams.unusable import unusable_outcomes, usable_rows

Records = MutableMapping[bytes, dict[str, Any]]


class Recovery:
    """Fills the deployments, identities and pending predictions of a partition.

    Attributes:
        to_recover: Per topic the offsets of the messages that the store of pending predictions lacks.
        notices: What there is to be said about the state that was restored.
    """

    def __init__(
        self, topics: Topics, deployments: dict[str, Deployment], identities: Identities, store: PendingStore
    ) -> None:
        self._topics, self._deployments = topics, deployments
        self._identities, self._store = identities, store
        self.to_recover = {topics.predictions: range(0), topics.outcomes: range(0)}
        self.notices: list[str] = []

    def restore(self, records: Records) -> range:
        """Take the state from journal records, which are taken out as they are used.

        Returns:
            Offsets of the predictions topic whose messages must be given to :meth:`remember`, in order.
        """
        names: dict[str, list[str]] = {}
        for key in sorted(records):
            kind, _, name = key.decode().partition("/")
            names.setdefault(kind, []).append(name)
        self._restore_deployments(records, names)
        self._restore_joins(records, names)
        position = records.get(b"position")
        if position is None:
            self._store.reset()
            return range(0)
        self._identities.restore(position["older_ids_offset"], position["younger_ids_offset"])
        self._find_what_the_store_lacks(position["predictions"], position["outcomes"])
        first = min(position["older_ids_offset"], self.to_recover[self._topics.predictions].start)
        return range(first, position["predictions"])

    def _restore_deployments(self, records: Records, names: Mapping[str, Sequence[str]]) -> None:
        for name in names.get("spec", ()):
            deployment = Deployment(state_records.restore_spec(records.pop(key_of("spec", name))))
            restore_deployment(deployment, records.pop(key_of("deployment", name)))
            self._deployments[name] = deployment
        for name in names.get("baseline", ()):
            deployment_id, model_version = name.split("@")
            deployment = self._deployments[deployment_id]
            followers = Followers(deployment.spec.detectors)
            if (written := records.pop(key_of("detectors", name), None)) is not None:
                followers, notices = Followers.from_bytes(written["state"])
                self.notices += notices
            baseline, evidence, slot = (records.pop(key_of(kind, name)) for kind in ("baseline", "evidence", "slot"))
            deployment.versions[model_version] = restore_version(deployment.spec, baseline, evidence, slot, followers)
        for name in names.get("window", ()):
            deployment_id, model_version, start_us = name.split("@")
            version = self._deployments[deployment_id].versions[model_version]
            version.windows[int(start_us)] = state_records.restore_window(records.pop(key_of("window", name)))
        self._restore_humility(records, names)

    def _restore_humility(self, records: Records, names: Mapping[str, Sequence[str]]) -> None:
        for name in names.get("humility", ()):
            deployment_id, model_version = name.split("@")
            deployment = self._deployments[deployment_id]
            version = deployment.versions[model_version]
            facts, policies = (records.pop(key_of(kind, name)) for kind in ("humility", "policies"))
            version.humility = VersionHumility.restore(deployment.spec, version.baseline, facts, policies)
        for name in names.get("decisions", ()):
            deployment_id, model_version, start_us = name.split("@")
            humility = self._deployments[deployment_id].versions[model_version].humility
            tally = HumilityTally.from_fields(records.pop(key_of("decisions", name)))
            if humility is not None:
                humility.windows[int(start_us)] = tally

    def _restore_joins(self, records: Records, names: Mapping[str, Sequence[str]]) -> None:
        joins: dict[str, Join] = {}
        for name in names.get("join", ()):
            deployment = self._deployments[name]
            deployment.join = joins[name] = Join(name, self._store, 0)
            deployment.join.restore(records.pop(key_of("join", name)))
            for version in deployment.versions.values():
                deployment.join.attach(version.baseline)
        for name in names.get("performance", ()):
            deployment_id, frame, start_us = name.split("@")
            joins[deployment_id].restore_window(int(frame), int(start_us), records.pop(key_of("performance", name)))
        for name in names.get("early", ()):
            deployment_id, offset = name.split("@")
            joins[deployment_id].early.restore_rows(int(offset), records.pop(key_of("early", name)))
        for name in names.get("rules", ()):
            deployment_id, digest = name.split("@")
            joins[deployment_id].humility.restore_rules(digest, records.pop(key_of("rules", name)))
        for name in names.get("facts", ()):
            deployment_id, model_version, offset = name.split("@")
            facts = records.pop(key_of("facts", name))
            joins[deployment_id].humility.restore_facts(model_version, int(offset), facts)

    def _find_what_the_store_lacks(self, predictions: int, outcomes: int) -> None:
        """The store is an index of the topics up to some position, which ours, of both topics, must contain."""
        ends = {self._topics.predictions: predictions, self._topics.outcomes: outcomes}
        joins = [deployment.join for deployment in self._deployments.values() if deployment.join is not None]
        stored = self._store.position
        if any(offset > ends.get(topic, 0) for topic, offset in stored.items()):
            self._store.reset()
            stored = {}
        used = {name for join in joins for name in join.waiting.table_names()}
        for name in self._store.names():
            if name not in used:
                self._store.drop(name)
        for join in joins:
            join.waiting.begin_recovery()
        needed = [needs for join in joins if (needs := join.needs_from()) is not None]
        begins = [min(offsets) for offsets in zip(*needed, ends.values(), strict=True)]
        for (topic, end), begin in zip(ends.items(), begins, strict=True):
            self.to_recover[topic] = range(max(begin, stored.get(topic, 0)), end)

    def remember(self, messages: Iterable[Message], registry: SchemaRegistry | None = None) -> None:
        """Remember the ids of predictions that were applied before, and let those wait again that the store lacks."""
        lacking = self.to_recover[self._topics.predictions]
        for message in messages:
            columns = decode_message(message, self._topics, registry).columns
            if not isinstance(columns, PredictionColumns) or not self._was_applied(columns, message):
                continue
            deployment = self._deployments[columns.deployment_id]
            on_time = at_offset(deployment.limits, message.offset).on_time(columns.timestamps_us, message.timestamp_ms)
            if message.offset >= self._identities.older_offset:
                ids = chosen(columns.prediction_ids, on_time)
                self._identities.replay(columns.deployment_id, ids, message.offset)
            if deployment.join is not None and message.offset >= lacking.start:
                deployment.join.recover_predictions(columns, on_time, message.offset)

    def recover_outcomes(self, messages: Iterable[Message], registry: SchemaRegistry | None = None) -> None:
        """Put in force again what became known of predictions that wait, as far as the store lacks it."""
        for message in messages:
            columns = decode_message(message, self._topics, registry).columns
            deployment = self._deployments.get(columns.deployment_id) if columns is not None else None
            if not isinstance(columns, OutcomeColumns) or deployment is None or deployment.join is None:
                continue
            limits = limits_of_outcomes(deployment.limits, message.offset)
            if limits.key_fits(columns.deployment_id, message.key):
                on_time = limits.on_time(columns.actual_timestamps_us, message.timestamp_ms)
                usable = usable_rows(columns.rows, on_time, unusable_outcomes(columns))
                deployment.join.recover_outcomes(columns, usable, message.offset)

    def _was_applied(self, columns: PredictionColumns, message: Message) -> bool:
        """Whether a message was counted, or known, when it was applied; else it was refused."""
        deployment = self._deployments.get(columns.deployment_id)
        version = None if deployment is None else deployment.versions.get(columns.model_version)
        if deployment is None or version is None or message.offset < version.first_offset:
            return False
        limits = at_offset(deployment.limits, message.offset)
        if not limits.key_fits(columns.deployment_id, message.key):
            return False
        try:
            for name in at_offset(version.numeric, message.offset).names:
                numeric_column(columns, name)
        except EventError:
            return False
        return True


def chosen(ids: Sequence[str], rows: NDArray[np.bool_] | None) -> Sequence[str]:
    """The ids of some rows, bool[n]; None for all."""
    return ids if rows is None else [ids[row] for row in np.flatnonzero(rows).tolist()]
