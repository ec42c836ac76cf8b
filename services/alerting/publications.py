"""Publishes what was decided to say on Kafka: audit events and dead letters, in order, at least once.

Rows are deleted only after every in-sync replica has acknowledged them. A repeat carries the same event id and the
same bytes.
"""

from __future__ import annotations

import asyncio
import logging

from driftline.settings import KafkaSettings
from services.alerting.notify.outbox import Outbox
from services.alerting.records import Publication
from services.kafka import ClusterError, Publisher

log = logging.getLogger("driftline.alerting")

_BATCH = 500
_ACKNOWLEDGE_SECONDS = 10.0
_WAIT_SECONDS = 2.0
_IDLE_SECONDS = 5.0


class PublicationLoop:
    """Publishes until :meth:`stop`; while Kafka is away, what is to be said waits in the database."""

    def __init__(self, kafka: KafkaSettings, outbox: Outbox) -> None:
        self._kafka = kafka
        self._outbox = outbox
        self._publisher: Publisher | None = None
        self._wake = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        """Something may be there to publish. Call on the event loop."""
        self._wake.set()

    def stop(self) -> None:
        """End :meth:`run` once everything is published, or Kafka does not take it."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Publish until stopped. Errors of the database pass through: they end the service."""
        while True:
            self._wake.clear()
            last = self._stopping  # asked before looking: what was decided before the stop must be seen
            try:
                more = await asyncio.to_thread(self._publish_some)
            except ClusterError as error:
                self._publisher = None
                log.warning("audit events and dead letters wait in the database: %s", error)
                more = False
                if not self._stopping:
                    await asyncio.sleep(_WAIT_SECONDS)
            if more:
                continue
            if last:
                return
            try:
                await asyncio.wait_for(self._wake.wait(), _IDLE_SECONDS)
            except TimeoutError:
                pass

    def _publish_some(self) -> bool:
        rows = self._outbox.publications(_BATCH)
        if not rows:
            return False
        if self._publisher is None:
            self._publisher = Publisher(self._kafka, timeout_seconds=_ACKNOWLEDGE_SECONDS)
        for _, message in rows:
            self._send(self._publisher, message)
        self._publisher.flush()
        self._outbox.published(rows[-1][0])
        return len(rows) == _BATCH

    @staticmethod
    def _send(publisher: Publisher, message: Publication) -> None:
        headers = [(name, content.encode()) for name, content in message.headers]
        publisher.send(message.topic, message.key, message.value, headers)
