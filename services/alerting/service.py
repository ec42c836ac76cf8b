"""The alerting service as one process.

It starts in this order:

1. Load the routing file; a wrong one ends the start.
2. Hold the database: there is one service for it. One that does not answer yet is waited for.
3. Listen: whoever asks is told that it starts.
4. Make what a killed process was sending due again, and, into an empty database, rebuild what the audit says.
5. Send, decide, publish, watch; and only then take alerts.

Crash-only: whoever supervises it starts it again, and everything it needs to go on is in the database. SIGTERM and
SIGINT end it in order: no more alerts, the messages under way are settled, audit events are published; what is still to
be sent stays for the next start. SIGHUP loads the routing file anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterable

import sqlalchemy as sa

from driftline.settings import KafkaSettings
from services.alerting.clock import Clock
from services.alerting.database.opening import DatabaseAwayError, Owner, open_database, sole_owner
from services.alerting.errors import AlertingError
from services.alerting.policy.loading import load_policy
from services.alerting.policy.model import Policy, PolicyHolder
from services.alerting.running import Running
from services.alerting.settings import AlertingSettings

log = logging.getLogger("driftline.alerting")

_DATABASE_WAIT_SECONDS = 2.0


class AlertingService:
    """One run of the service.

    Args:
        kafka: How to reach Kafka.
        settings: Everything else.
        policy: In place of the settings' routing file or environment: for tests.
        hide: Told of secrets that no log line may show.
        chance: For the jitter of the back-off.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: AlertingSettings,
        *,
        policy: Policy | None = None,
        hide: Callable[[Iterable[str]], None] = lambda secrets: None,
        chance: random.Random | None = None,
    ) -> None:
        self._kafka = kafka
        self._settings = settings
        self._given = policy
        self._hide = hide
        self._chance = chance or random.Random()
        self._clock = Clock.running(settings.clock_speed, settings.clock_start_ms)
        self._stop = asyncio.Event()
        self._holder: PolicyHolder | None = None
        self._running: Running | None = None

    @property
    def policy(self) -> Policy:
        """In force; once :meth:`run` has loaded it."""
        assert self._holder is not None
        return self._holder.current

    @property
    def port(self) -> int:
        """Where the HTTP interface listens, once it does; 0 where there is none."""
        return self._running.port if self._running is not None else 0

    def stop(self) -> None:
        """End :meth:`run` in order. Call on the event loop."""
        self._stop.set()

    def adopt(self, policy: Policy) -> None:
        """Put another policy in force. Call on the event loop."""
        assert self._holder is not None
        self._holder.current = policy
        if self._running is not None:
            self._running.adopted()

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Run until stopped by :meth:`stop`, SIGTERM or SIGINT.

        Args:
            ready: Called once, when alerts are being read.

        Raises:
            AlertingError: The routing file, the database, the port or the tokens cannot be used.
            ClusterError: Kafka was away for too long.
        """
        policy = self._given or load_policy(self._settings.policy_file, os.environ)
        self._hide(policy.secrets())
        self._holder = PolicyHolder(policy)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(RuntimeError, ValueError):  # only the main thread may
                loop.add_signal_handler(number, self._stop.set)
        with contextlib.suppress(RuntimeError, ValueError):
            loop.add_signal_handler(signal.SIGHUP, self._reload)
        deadline = time.monotonic() + self._settings.kafka_timeout_seconds
        while not self._stop.is_set():
            try:
                with sole_owner(self._settings.database_url) as owner:
                    await self._run_with(owner, ready)
                return
            except DatabaseAwayError as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("%s. Trying again for %.0f s.", error, deadline - time.monotonic())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), _DATABASE_WAIT_SECONDS)
            except sa.exc.DBAPIError as error:
                raise AlertingError(f"the alerting database failed, so the service ends: {error.orig}") from error

    async def _run_with(self, owner: Owner, ready: Callable[[], None]) -> None:
        assert self._holder is not None
        with contextlib.closing(open_database(self._settings.database_url, owner)) as database:
            self._running = Running(
                self._kafka,
                self._settings,
                database,
                owner,
                self._holder,
                clock=self._clock,
                chance=self._chance,
                hide=self._hide,
                reloads=self._given is None,
            )
            try:
                await self._running.run(self._stop, ready)
            finally:
                self._running = None

    def _reload(self) -> None:
        if self._running is not None:
            self._running.reload_soon()
