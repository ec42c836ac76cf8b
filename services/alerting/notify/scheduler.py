"""Looks at what is due: silences that end, escalations, threads. Sleeps until the next moment, or until woken.

When the database fails (locked, the disk is full), it says so, waits and goes on: what is due stays due.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import sqlalchemy as sa

from driftline.topics import Topics
from services.alerting.clock import Clock
from services.alerting.database import tables as t
from services.alerting.database.opening import Database
from services.alerting.errors import DatabaseError
from services.alerting.incidents.ticking import tick
from services.alerting.notify.escalating import escalate_due
from services.alerting.notify.flushing import flush_due
from services.alerting.notify.outbox import Outbox
from services.alerting.notify.threads import concern_all
from services.alerting.policy.model import Policy, PolicyHolder

log = logging.getLogger("driftline.alerting")

DATABASE_WAIT_SECONDS = 1.0
_LONGEST_SLEEP_SECONDS = 30.0
_ORPHANS_EVERY_MS = 600_000
_NOTICED = "notify.policy"


class Counts(Protocol):
    """What is counted; see :class:`services.alerting.metrics.Metrics`."""

    def decided(self, receiver: str, kind: str, count: int = 1) -> None:
        """Count messages decided on."""

    def escalated(self, chain: str, count: int = 1) -> None:
        """Count steps of an escalation."""


class Scheduler:
    """Looks at what is due until :meth:`stop`.

    Args:
        database: Of the service.
        policy: In force.
        topics: For the audit events.
        clock: The service's.
        woken: Called on the event loop after messages were decided on, with the receivers they are for, and with none
            where there may be only audit events to publish.
        counts: What is counted.
        outbox: For messages to receivers that the routing file no longer has; None leaves them alone.
    """

    def __init__(
        self,
        database: Database,
        policy: PolicyHolder,
        topics: Topics,
        clock: Clock,
        woken: Callable[[Sequence[str]], None],
        counts: Counts | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        self._database = database
        self._policy = policy
        self._topics = topics
        self._clock = clock
        self._woken = woken
        self._counts = counts
        self._outbox = outbox
        self._wake = asyncio.Event()
        self._stopping = False
        self._orphans_ms = 0
        self._noticed: Policy | None = None
        self.trouble = ""
        """Why nothing can be decided now, for health; empty when all is well."""

    def wake(self) -> None:
        """Something changed. Call on the event loop."""
        self._wake.set()

    def stop(self) -> None:
        """End :meth:`run` after the round at hand."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Look until stopped."""
        loop = asyncio.get_running_loop()

        def tell(receivers: Sequence[str]) -> None:
            loop.call_soon_threadsafe(self._woken, receivers)

        while not self._stopping:
            self._wake.clear()
            try:
                next_ms = await asyncio.to_thread(self.look, tell)
            except DatabaseError:
                raise  # the database is another service's now: this one ends
            except sa.exc.DBAPIError as error:
                self._say(f"the database failed, so nobody can be told of anything new: {error.orig}")
                await self._sleep(DATABASE_WAIT_SECONDS)
                continue
            self._say("")
            wait_seconds = _LONGEST_SLEEP_SECONDS
            if next_ms is not None:
                wait_seconds = self._clock.real_seconds((next_ms - self._clock.now_ms()) / 1000)
            await self._sleep(wait_seconds)

    def look(self, tell: Callable[[Sequence[str]], None] = lambda receivers: None) -> int | None:
        """One round, each part in transactions of its own; returns when the next thing is due, or None."""
        messages: dict[str, None] = {}

        def decided(receiver: str, kind: str) -> None:
            if receiver not in messages:
                messages[receiver] = None
                tell([receiver])  # at once: a long round must not keep the first message waiting
            if self._counts is not None:
                self._counts.decided(receiver, kind)

        def escalated(chain: str) -> None:
            if self._counts is not None:
                self._counts.escalated(chain)

        now_ms = self._clock.now_ms()
        self._notice_policy(now_ms)
        with self._database.transaction() as connection:
            ticked = tick(connection, self._policy.current, self._topics, now_ms)
        steps = escalate_due(self._database, self._policy, self._topics, now_ms, escalated, decided)
        flushed = flush_due(self._database, self._policy, self._topics, now_ms, decided)
        if self._outbox is not None and now_ms - self._orphans_ms >= _ORPHANS_EVERY_MS:
            self._outbox.give_up_orphans()
            self._orphans_ms = now_ms
        tell([])  # everything has audit events
        return min((at for at in (ticked, steps, flushed) if at is not None), default=None)

    def _notice_policy(self, now_ms: int) -> None:
        """After a reload, or a start with another routing file: whoever is named newly hears of what is not over."""
        policy = self._policy.current
        if policy is self._noticed:
            return
        w = t.watch.c
        with self._database.transaction() as connection:
            kept = connection.execute(sa.select(w.value).where(w.name == _NOTICED)).scalar()
        changed = kept is not None and (self._noticed is not None or kept["digest"] != policy.digest)
        if changed:
            concern_all(self._database, self._policy, now_ms)
        with self._database.transaction() as connection:
            value = {"digest": policy.digest}
            if kept is None:
                connection.execute(sa.insert(t.watch).values(name=_NOTICED, value=value))
            elif kept != value:
                connection.execute(sa.update(t.watch).where(w.name == _NOTICED).values(value=value))
        self._noticed = policy

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.error("%s", trouble)
        elif self.trouble and not trouble:
            log.info("the database works again")
        self.trouble = trouble

    async def _sleep(self, seconds: float) -> None:
        if self._stopping:
            return
        try:
            await asyncio.wait_for(self._wake.wait(), min(max(seconds, 0.001), _LONGEST_SLEEP_SECONDS))
        except TimeoutError:
            pass
