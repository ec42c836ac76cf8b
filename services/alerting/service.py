"""The alerting service as one process: a reading thread, a dispatcher per destination, a publisher, a health endpoint.

Crash-only: when the database fails, or Kafka stays away, the process ends with an error and whoever supervises it
starts it again; everything it needs to go on is in the database. SIGTERM and SIGINT end it in order: no more reading,
the messages under way are settled, audit events are published; what is still to be sent stays in the database for the
next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence

import aiohttp
import sqlalchemy as sa

from driftline.settings import KafkaSettings
from services.alerting.channels.base import Channel, Redactor, http_session
from services.alerting.channels.pagerduty import PagerDutyChannel
from services.alerting.channels.slack import SlackChannel
from services.alerting.database import Database, open_database, sole_owner
from services.alerting.errors import AlertingError
from services.alerting.health import HealthServer
from services.alerting.intake import Intake
from services.alerting.metrics import Metrics
from services.alerting.notify.dispatcher import Dispatcher
from services.alerting.notify.outbox import DEAD, SENT, Outbox
from services.alerting.publications import PublicationLoop
from services.alerting.settings import AlertingSettings, Destination, PagerDutySettings
from services.alerting.store import Store

log = logging.getLogger("driftline.alerting")

_DRAIN_SECONDS = 40.0


def wall_clock_ms() -> int:
    """Milliseconds since 1970 UTC."""
    return time.time_ns() // 1_000_000


class AlertingService:
    """One run of the service.

    Args:
        kafka: How to reach Kafka.
        settings: Everything else.
        port: Of the health endpoint; 0 for none.
        now_ms: Wall clock.
        chance: For the jitter of the back-off.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: AlertingSettings,
        *,
        port: int = 0,
        now_ms: Callable[[], int] = wall_clock_ms,
        chance: random.Random | None = None,
    ) -> None:
        self._kafka = kafka
        self._settings = settings
        self._port = port
        self._now_ms = now_ms
        self._chance = chance or random.Random()
        self._metrics = Metrics()
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End :meth:`run` in order. Call on the event loop."""
        self._stop.set()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Run until stopped by :meth:`stop`, SIGTERM or SIGINT.

        Args:
            ready: Called once, when alerts are being read.

        Raises:
            AlertingError: The database or the port cannot be used.
            ClusterError: Kafka was away for too long.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(RuntimeError, ValueError):  # only the main thread may
                loop.add_signal_handler(number, self._stop.set)
        with sole_owner(self._settings.database_url):
            database = open_database(self._settings.database_url)
            try:
                await self._run_with(database, ready)
            except sa.exc.DBAPIError as error:
                raise AlertingError(f"the alerting database failed, so the service ends: {error.orig}") from error
            finally:
                database.close()

    async def _run_with(self, database: Database, ready: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        store = Store(database, self._settings, self._kafka.topics, self._now_ms)
        outbox = Outbox(database, self._kafka.topics, self._now_ms)
        self._announce(outbox)
        publications = PublicationLoop(self._kafka, outbox)
        async with self._dispatchers(outbox, publications.wake) as dispatchers:

            def wake() -> None:
                publications.wake()
                for dispatcher in dispatchers:
                    dispatcher.wake()

            def taken() -> None:
                loop.call_soon_threadsafe(wake)

            intake = Intake(
                self._kafka,
                store,
                self._metrics,
                taken,
                give_up_seconds=self._settings.kafka_timeout_seconds,
                now_ms=self._now_ms,
            )
            health = None
            if self._port:
                health = HealthServer(self._port, lambda: _trouble(intake), self._metrics, store, outbox)
                await health.start()
            try:
                await self._until_stopped(intake, dispatchers, publications, ready)
            finally:
                if health is not None:
                    await health.stop()

    def _announce(self, outbox: Outbox) -> None:
        names = [destination.name for destination in self._settings.destinations]
        if names:
            log.info("messages go to %s", ", ".join(names))
        else:
            log.warning(
                "no destination is configured: incidents are kept and nobody is told. Set DRIFTLINE_SLACK_WEBHOOK_URL, "
                "DRIFTLINE_SLACK_TOKEN or DRIFTLINE_PAGERDUTY_ROUTING_KEY, or give --config."
            )
        if in_doubt := outbox.recover():
            self._metrics.in_doubt(in_doubt)
            log.warning("%d message(s) were being sent when the service was killed; they are sent again", in_doubt)
        waiting: dict[str, int] = {}
        for (name, status), count in outbox.backlog().items():
            if status not in (SENT, DEAD):
                waiting[name] = waiting.get(name, 0) + count
        for name, count in waiting.items():
            if name in names:
                log.info("%s: %d message(s) wait from an earlier run", name, count)
            else:
                log.warning("%d message(s) wait for %r, which is no destination any more", count, name)

    @contextlib.asynccontextmanager
    async def _dispatchers(self, outbox: Outbox, settled: Callable[[], None]) -> AsyncIterator[list[Dispatcher]]:
        holds = outbox.holds()
        redact = Redactor(self._settings.secrets())
        async with contextlib.AsyncExitStack() as stack:
            dispatchers = []
            for destination in self._settings.destinations:
                session = await stack.enter_async_context(http_session(destination.timeout_seconds))
                dispatchers.append(
                    Dispatcher(
                        destination,
                        _channel(destination, session, redact),
                        outbox,
                        self._metrics,
                        settled,
                        give_up_seconds=self._settings.give_up_seconds,
                        hold_until_ms=holds.get(destination.name, 0),
                        now_ms=self._now_ms,
                        chance=self._chance,
                    )
                )
            yield dispatchers

    async def _until_stopped(
        self,
        intake: Intake,
        dispatchers: Sequence[Dispatcher],
        publications: PublicationLoop,
        ready: Callable[[], None],
    ) -> None:
        """Run all parts; when one ends or a stop is asked for, end the others in order."""
        reading = asyncio.create_task(asyncio.to_thread(intake.run), name="reading")
        sending = [asyncio.create_task(dispatcher.run()) for dispatcher in dispatchers]
        publishing = asyncio.create_task(publications.run(), name="publishing")
        announcing = asyncio.create_task(self._say_ready(intake, ready), name="ready")
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        parts = [reading, *sending, publishing]
        try:
            await asyncio.wait([*parts, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            announcing.cancel()
            intake.stop()
            for dispatcher in dispatchers:
                dispatcher.stop()
            await _settled([reading, *sending])
            publications.stop()
            await _settled([publishing])
        for part in parts:
            if part.done() and not part.cancelled() and (error := part.exception()) is not None:
                raise error

    async def _say_ready(self, intake: Intake, ready: Callable[[], None]) -> None:
        while not intake.ready.is_set():
            await asyncio.sleep(0.02)
        log.info("reading alerts from %r", self._kafka.topics.alerts)
        ready()


async def _settled(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for tasks to end by themselves; what does not is cancelled."""
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=_DRAIN_SECONDS)
        for task in late:
            log.error("%s did not end in %.0f s and is broken off", task.get_name(), _DRAIN_SECONDS)
            task.cancel()


def _channel(destination: Destination, session: aiohttp.ClientSession, redact: Redactor) -> Channel:
    if isinstance(destination, PagerDutySettings):
        return PagerDutyChannel(destination, session, redact)
    return SlackChannel(destination, session, redact)


def _trouble(intake: Intake) -> str:
    if not intake.ready.is_set():
        return "alerts are not being read yet"
    silent = intake.trouble_seconds
    return f"Kafka has not answered for {silent:.0f} s" if silent else ""
