"""Publishes what was decided to say on Kafka: audit events and dead letters, in order, at least once.

Rows are deleted only after every in-sync replica has acknowledged them. A repeat carries the same event id and the
same bytes.
"""

from __future__ import annotations

import asyncio
import logging

import sqlalchemy as sa

from driftline.settings import KafkaSettings
from services.alerting.crash import crash_point
from services.alerting.errors import DatabaseError
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
        self.trouble = ""
        """Why nothing is published now, for health; empty when all is well."""

    def wake(self) -> None:
        """Something may be there to publish. Call on the event loop."""
        self._wake.set()

    def stop(self) -> None:
        """End :meth:`run` once everything is published, or Kafka does not take it."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Publish until stopped."""
        while True:
            self._wake.clear()
            last = self._stopping  # asked before looking: what was decided before the stop must be seen
            try:
                more = await asyncio.to_thread(self._publish_some)
                self._say("")
            except ClusterError as error:
                self._publisher = None
                self._say(f"audit events and dead letters wait in the database: {error}")
                more = False
                if not self._stopping:
                    await asyncio.sleep(_WAIT_SECONDS)
            except DatabaseError:
                raise  # the database is another service's now: this one ends
            except sa.exc.DBAPIError as error:
                # What was published and could not be deleted is published again: the same event, with the same id.
                self._say(f"the database failed, so audit events cannot be published: {error.orig}")
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

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.warning("%s", trouble)
        elif self.trouble and not trouble:
            log.info("audit events are published again")
        self.trouble = trouble

    def _publish_some(self) -> bool:
        rows = self._outbox.publications(_BATCH)
        if not rows:
            return False
        if self._publisher is None:
            self._publisher = Publisher(self._kafka, timeout_seconds=_ACKNOWLEDGE_SECONDS)
        for _, message in rows:
            self._send(self._publisher, message)
        self._publisher.flush()
        crash_point("publications.before_delete")
        self._outbox.published(rows[-1][0])
        return len(rows) == _BATCH

    @staticmethod
    def _send(publisher: Publisher, message: Publication) -> None:
        headers = [(name, content.encode()) for name, content in message.headers]
        publisher.send(message.topic, message.key, message.value, headers)
