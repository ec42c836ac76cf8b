"""Making the database anew from the topics ``alerts`` and ``audit``."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from driftline.codec import decode
from driftline.topics import Topics
from services.alerting.database import tables as db
from services.alerting.incidents.changes import Changes
from services.alerting.incidents.drafts import chunks
from services.alerting.incidents.taking import Taken, Taking
from services.alerting.policy.model import Policy


@dataclass(frozen=True, slots=True)
class Recollection:
    """What the audit says."""


NOTHING = Recollection()


def rebuild(connection: sa.Connection, policy: Policy, topics: Topics, recollection: Recollection, now_ms: int) -> None:
    """Apply history."""
    for some in chunks(_kept(connection)):
        changes = Changes(connection, policy, topics, now_ms)
        taking = Taking(changes)
        taking.prepare([one.alert for one in some])
        for one in some:
            taking.take(one)
        changes.write()


def _kept(connection: sa.Connection) -> Iterator[Taken]:
    a = db.alerts.c
    partitions = connection.execute(sa.select(a.topic, a.partition).distinct().order_by(a.topic, a.partition)).all()
    streams = []
    for topic, partition in partitions:
        query = sa.select(a.record, a.offset).where(a.topic == topic, a.partition == partition).order_by(a.offset)
        rows = connection.execute(query).all()
        streams.append([Taken(decode(r.record)[1], r.record, (topic, partition, r.offset)) for r in rows])
    return heapq.merge(*streams, key=lambda one: one.alert["trigger_time_ms"])
