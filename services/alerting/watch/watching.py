"""The watch's loop: looks, judges, raises and ends alarms, sends heartbeats, tells somebody outside that all is well.

Looking at Kafka may take long, just when something is wrong with it; it is done beside the rest, which goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from driftline.topics import Topics
from services.alerting.clock import Clock
from services.alerting.database.opening import Database
from services.alerting.database.tables import receivers, signals, watch
from services.alerting.errors import DatabaseError
from services.alerting.incidents.grouping import SYSTEM_PREFIX
from services.alerting.incidents.raising import ORIGIN, end_signal, raise_signal
from services.alerting.incidents.views import FIRING
from services.alerting.metrics import Metrics
from services.alerting.notify.kinds import Kind
from services.alerting.notify.listing import enqueue_direct
from services.alerting.policy.model import Policy, PolicyHolder
from services.alerting.policy.model import Watch as Settings
from services.alerting.watch.dead_man import DeadMan
from services.alerting.watch.judging import KafkaSeen, Memory, ReceiverSeen, Seen, judge
from services.kafka import ClusterError

log = logging.getLogger("driftline.alerting")

ROUND_SECONDS = 10.0
# Of the wall clock, however fast the service's runs: rounds, and looks at Kafka.
_LEAST_SECONDS, _LEAST_LOOK_SECONDS = 0.2, 2.0
_LOOK_SECONDS = (15.0, 60.0)
_MEMORY = "memory"
_HEARTBEATS = "heartbeats"

Look = Callable[[Iterable[str], Mapping[str, int]], KafkaSeen]
"""See :func:`services.alerting.watch.observing.look_at_kafka`."""


class Watch:
    """The monitor of the monitor.

    Args:
        database: Of the service.
        policy: In force.
        topics: For the audit events.
        clock: The service's.
        metrics: What is counted.
        look: Looks at Kafka; called in a thread.
        kafka_silent_seconds: How long Kafka has not answered those who read from it; 0 when all is well.
        troubles: What else is wrong with the service; while anything is, nobody outside is told that all is well.
        acted: Called, in any thread, when somebody has to be told or something is to be published.
    """

    def __init__(
        self,
        database: Database,
        policy: PolicyHolder,
        topics: Topics,
        clock: Clock,
        metrics: Metrics,
        *,
        look: Look,
        kafka_silent_seconds: Callable[[], float],
        troubles: Callable[[], tuple[str, ...]],
        acted: Callable[[], None],
    ) -> None:
        self._database = database
        self._policy = policy
        self._topics = topics
        self._clock = clock
        self._look = look
        self._kafka_silent_seconds = kafka_silent_seconds
        self._troubles = troubles
        self._acted = acted
        self._waited_seconds = 0.0
        self._failing_since: float | None = None
        self._dead_man = DeadMan(metrics)
        self._dead_man_told_ms: int | None = None
        self._stop = asyncio.Event()
        self._latest: KafkaSeen | None = None
        self._stuck_at: Mapping[str, int] = {}
        self._looking = ""
        self.trouble = ""
        """Why nothing can be watched now, for health; empty when all is well."""
        self.raised: tuple[str, ...] | None = None

    def stop(self) -> None:
        """End :meth:`run`. Call on the event loop."""
        self._stop.set()

    @property
    def well(self) -> bool:
        """Whether nothing is known to be wrong; not before everything was looked at once."""
        return self.raised == () and not self._troubles()

    async def run(self) -> None:
        """Watch until stopped."""
        looking = asyncio.create_task(self._look_on(), name="watch-kafka")
        try:
            while not self._stop.is_set():
                if await self._look_round():
                    await self._tell_dead_man()
                await self._wait(self._pause_seconds())
        finally:
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking

    async def _look_round(self) -> bool:
        """One round; whether the database took it. How long it did not is what the next one says of it."""
        began = time.monotonic()
        try:
            await asyncio.to_thread(self.round)
        except DatabaseError:
            raise  # the database is another service's now: this one ends
        except sa.exc.DBAPIError as error:
            self._failing_since = self._failing_since or began
            self._waited_seconds = time.monotonic() - self._failing_since
            self.raised, why = None, f"the database failed, so nobody is told of the streams' state: {error.orig}"
            if why != self.trouble:
                log.error("%s", why)
            self.trouble = why
            return False
        self._failing_since, self.trouble = None, ""
        return True

    def round(self) -> None:
        """One look at everything but Kafka, and what follows from it. Blocks."""
        policy, now_ms = self._policy.current, self._clock.now_ms()
        kafka, self._latest = self._latest, None
        path = self._database.path
        began = time.monotonic()
        with self._database.transaction() as connection:
            waited = max(time.monotonic() - began, self._waited_seconds)
            seen = Seen(
                kafka,
                round(self._kafka_silent_seconds() * 1000),
                _receivers(connection, policy),
                waited,
                _free_bytes(path) if path is not None else None,
            )
            memory = Memory.of(_fact(connection, _MEMORY))
            # A database that was made anew from the topics has the alarms, and no memory of them: they must end too.
            memory = replace(memory, raised=dict.fromkeys(_firing(connection), 0) | dict(memory.raised))
            verdict = judge(policy.watch, memory, seen, now_ms)
            for alarm in verdict.raised:
                raise_signal(
                    connection,
                    policy,
                    self._topics,
                    name=alarm.name,
                    severity=alarm.severity,
                    labels=alarm.labels,
                    words=alarm.words,
                    now_ms=now_ms,
                )
            for name in verdict.ended:
                end_signal(connection, policy, self._topics, name=name, now_ms=now_ms)
            beats = self._heartbeats(connection, policy.watch, now_ms)
            if verdict.memory != memory:
                _keep(connection, _MEMORY, verdict.memory.document())
        self._waited_seconds = 0.0
        self._stuck_at = {place: at for place, (at, _) in verdict.memory.stuck.items()}
        self.raised = tuple(verdict.memory.raised)
        for alarm in verdict.raised:
            log.error("%s: %s", alarm.words.headline, " ".join(alarm.words.sentences))
        for name in verdict.ended:
            log.info("%s is over", name)
        if verdict.raised or verdict.ended or beats:
            self._acted()

    def _heartbeats(self, connection: sa.Connection, settings: Settings, now_ms: int) -> bool:
        """A sign of life through each channel that is to give one and has not for long enough."""
        if not settings.heartbeat_every_ms:
            return False
        told: dict[str, int] = dict(_fact(connection, _HEARTBEATS) or {})
        names = [name for name in settings.heartbeat_receivers if name in self._policy.current.receivers]
        due = [name for name in names if now_ms - told.get(name, 0) >= settings.heartbeat_every_ms]
        for name in due:
            # Counted from when it was due, so that a day stays a day; from now, where one was missed.
            next_ms = told.get(name, 0) + settings.heartbeat_every_ms
            told[name] = next_ms if now_ms - next_ms < settings.heartbeat_every_ms else now_ms
            enqueue_direct(connection, name, Kind.HEARTBEAT, "a sign of life was due", now_ms)
        if due:
            _keep(connection, _HEARTBEATS, {name: told[name] for name in names})
        return bool(due)

    async def _tell_dead_man(self) -> None:
        settings, now_ms = self._policy.current.watch, self._clock.now_ms()
        if settings.dead_man_url is None or not self.well:
            return
        if self._dead_man_told_ms is not None and now_ms - self._dead_man_told_ms < settings.dead_man_every_ms:
            return
        self._dead_man_told_ms = now_ms
        await self._dead_man.tell(settings.dead_man_url.get_secret_value())

    def _pause_seconds(self) -> float:
        settings = self._policy.current.watch
        pauses = [ROUND_SECONDS]
        pauses += [settings.dead_man_every_ms / 2000] if settings.dead_man_url is not None else []
        pauses += [settings.heartbeat_every_ms / 1000] if settings.heartbeat_every_ms else []
        pauses += [settings.channel_failing_ms / 2000] if settings.channel_failing_ms else []
        return min(pauses)

    async def _wait(self, seconds: float, least_seconds: float = _LEAST_SECONDS) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), max(self._clock.real_seconds(seconds), least_seconds))

    # Kafka

    async def _look_on(self) -> None:
        while not self._stop.is_set():
            settings = self._policy.current.watch
            try:
                await asyncio.to_thread(self.look)
            except ClusterError as error:
                if str(error) != self._looking:
                    log.warning("the watch cannot see the streams: %s", error)
                self._looking = str(error)
            limits = [settings.lag_ms, *settings.silent_topics.values()]
            shortest = min((limit for limit in limits if limit), default=300_000) / 1000 / 5
            least, most = _LOOK_SECONDS
            await self._wait(min(max(shortest, least if shortest > 1 else shortest), most), _LEAST_LOOK_SECONDS)

    def look(self) -> None:
        """Look at Kafka, for the next round. Blocks.

        Raises:
            ClusterError: It does not answer.
        """
        self._latest = self._look(tuple(self._policy.current.watch.silent_topics), self._stuck_at)
        self._looking = ""


def _receivers(connection: sa.Connection, policy: Policy) -> tuple[ReceiverSeen, ...]:
    rows = connection.execute(sa.select(receivers.c.name, receivers.c.failing_since_ms, receivers.c.failures)).all()
    return tuple(ReceiverSeen(name, since, failures) for name, since, failures in rows if name in policy.receivers)


def _free_bytes(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return None


def _firing(connection: sa.Connection) -> list[str]:
    """Names of the alarms about Driftline itself that fire."""
    s = signals.c
    query = sa.select(s.incident_key).where(s.origin == ORIGIN, s.status == FIRING)
    return [str(key).removeprefix(SYSTEM_PREFIX) for key in connection.execute(query).scalars()]


def _fact(connection: sa.Connection, name: str) -> Any:
    return connection.execute(sa.select(watch.c.value).where(watch.c.name == name)).scalar_one_or_none()


def _keep(connection: sa.Connection, name: str, value: Any) -> None:
    if connection.execute(watch.update().where(watch.c.name == name).values(value=value)).rowcount == 0:
        connection.execute(watch.insert().values(name=name, value=value))
