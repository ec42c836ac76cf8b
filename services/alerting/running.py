"""The parts of the service between its start and its end: who wakes whom, what runs beside what, what ends first."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from driftline.settings import KafkaSettings
from services.access.tokens import NAME_PATTERN, Token, Tokens, TokensError
from services.alerting.api.connection import Connection, own_token, read_connection, write_connection
from services.alerting.api.plots import PLOT_SECONDS, plot_key, plot_path
from services.alerting.api.server import ApiServer
from services.alerting.api.services import ApiServices, Health
from services.alerting.channels.slack_desk import SlackDesk
from services.alerting.clock import Clock
from services.alerting.database.opening import Database, Owner
from services.alerting.incidents.actions import Actor, Desk
from services.alerting.incidents.store import Store
from services.alerting.intake import Intake
from services.alerting.metrics import Metrics
from services.alerting.notify.outbox import Outbox
from services.alerting.notify.scheduler import Scheduler
from services.alerting.policy.model import PolicyHolder
from services.alerting.policy.reloading import Reloader
from services.alerting.publications import PublicationLoop
from services.alerting.senders import Senders
from services.alerting.settings import AlertingSettings
from services.alerting.watch.judging import KafkaSeen
from services.alerting.watch.observing import look_at_kafka
from services.alerting.watch.watching import Watch

log = logging.getLogger("driftline.alerting")

DRAIN_SECONDS = 35.0
_OWNER_SECONDS = 5.0


class Running:
    """One run.

    Args:
        kafka: How to reach Kafka.
        settings: Of the service.
        database: Open.
        owner: Of the database; asked now and then whether it still is.
        policy: In force.
        clock: The service's.
        chance: For the jitter of the back-off.
        hide: Told of secrets that no log line may show.
        reloads: Whether the routing file is followed.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: AlertingSettings,
        database: Database,
        owner: Owner,
        policy: PolicyHolder,
        *,
        clock: Clock,
        chance: random.Random,
        hide: Callable[[Iterable[str]], None],
        reloads: bool,
    ) -> None:
        self._kafka = kafka
        self._settings = settings
        self._database = database
        self._owner = owner
        self._policy = policy
        self._clock = clock
        self._hide = hide
        self._loop = asyncio.get_running_loop()
        self._failure: asyncio.Future[None] = self._loop.create_future()
        self._adopting: set[asyncio.Task[None]] = set()
        self._server: ApiServer | None = None
        self._sending = False
        self._key: bytes | None = None
        now_ms, topics = clock.now_ms, kafka.topics
        self._metrics = Metrics()
        self._outbox = Outbox(database, policy, topics, now_ms, self._metrics.merged)
        self._publications = PublicationLoop(kafka, self._outbox)
        self._scheduler = Scheduler(database, policy, topics, clock, self._decided, self._metrics, self._outbox)
        self._senders = Senders(
            self._outbox,
            policy,
            self._metrics,
            self._settled,
            clock=clock,
            chance=chance,
            failed=self._failed,
            picture_address=self._picture_address,
        )
        self._desk = Desk(database, policy, topics, now_ms, self._acted)
        self._slack = SlackDesk(policy, self._desk)
        store = Store(database, policy, topics, now_ms, history=settings.history)
        self._intake = Intake(
            kafka,
            store,
            self._metrics,
            self._acted,
            give_up_seconds=settings.kafka_timeout_seconds,
            now_ms=now_ms,
        )
        self._watch = Watch(
            database,
            policy,
            topics,
            clock,
            self._metrics,
            look=self._look,
            kafka_silent_seconds=lambda: self._intake.trouble_seconds,
            troubles=lambda: self.health().troubles,
            acted=self._acted,
        )
        self._reloader: Reloader | None = None
        if reloads:
            self._reloader = Reloader(
                settings.policy_file,
                policy,
                database,
                topics,
                now_ms,
                self._acted,
                counted=lambda good: self._metrics.reloaded(good=good),
            )

    @property
    def port(self) -> int:
        """Where the HTTP interface listens; 0 where there is none."""
        return self._server.port if self._server is not None else 0

    def health(self) -> Health:
        """How the service is. On the event loop: no I/O."""
        troubles = [*self._senders.troubles]
        if self._scheduler.trouble:
            troubles.append(self._scheduler.trouble)
        troubles += [part.trouble for part in (self._intake, self._publications, self._watch) if part.trouble]
        if silent := self._intake.trouble_seconds:
            troubles.append(f"Kafka has not answered for {silent:.0f} s")
        if self._reloader is not None and self._reloader.trouble:
            troubles.append(self._reloader.trouble)
        return Health(self._sending and self._intake.ready.is_set(), tuple(dict.fromkeys(troubles)))

    # Who wakes whom

    def _acted(self) -> None:
        """Something changed in the database. Called in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended: the next start sees what is in the database
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._scheduler.wake()
        self._publications.wake()
        self._senders.wake()

    def _decided(self, receivers: Sequence[str]) -> None:
        self._senders.wake(receivers)
        self._publications.wake()

    def _settled(self, passed_on: bool) -> None:
        self._publications.wake()
        if passed_on:
            self._scheduler.wake()

    def _failed(self, error: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    def _look(self, topics: Iterable[str], stuck_at: Mapping[str, int]) -> KafkaSeen:
        return look_at_kafka(self._kafka, topics, stuck_at)

    # Reloads

    def adopted(self) -> None:
        """Another policy is in force. Call on the event loop."""
        self._hide(self._policy.current.secrets())
        task = asyncio.create_task(self._senders.adopt(), name="adopting the routing file")
        self._adopting.add(task)
        task.add_done_callback(self._adopted)
        self._wake()

    def _adopted(self, task: asyncio.Task[None]) -> None:
        self._adopting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    def reload_soon(self) -> None:
        """Load the routing file anew. Call on the event loop."""
        if self._reloader is not None:
            self._reloader.wake()

    def _reload(self, actor: Actor) -> str:
        """For the HTTP interface; in a thread."""
        if self._reloader is None:
            return "this service has no routing file"
        return self._reloader.reload(actor)

    # From start to end

    async def run(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Run until ``stop`` is set, or a part fails, with its error."""
        try:
            await self._start_server()
            await asyncio.to_thread(self._recover)
            await self._run_parts(stop, ready)
        finally:
            await self._stop_server()

    def _recover(self) -> None:
        """Take up what an earlier run left."""
        policy = self._policy.current
        names = list(policy.receivers)
        if names:
            log.info("messages go to %s, by %s", ", ".join(names), policy.origin)
        else:
            log.warning(
                "no receiver is configured: incidents are kept and nobody is told. Give a routing file with --config, "
                "or set DRIFTLINE_SLACK_WEBHOOK_URL, DRIFTLINE_SLACK_TOKEN or DRIFTLINE_PAGERDUTY_ROUTING_KEY."
            )
        for warning in policy.warnings:
            log.warning("%s: %s", policy.origin, warning)
        in_doubt = self._outbox.recover()
        for name, count in in_doubt.items():
            self._metrics.in_doubt(name, "found_at_start", count)
            log.warning(
                "%s: %d message(s) were being sent when the service was killed; they are sent again", name, count
            )
        waiting: dict[str, int] = {}
        for (name, status), count in self._outbox.backlog().items():
            if status in ("pending", "sending"):
                waiting[name] = waiting.get(name, 0) + count
        for name, count in waiting.items():
            if name in names:
                log.info("%s: %d message(s) wait from an earlier run", name, count)
            else:
                log.warning("%d message(s) wait for %r, which is no receiver any more", count, name)

    async def _start_server(self) -> None:
        settings = self._settings
        if settings.port is None:
            return
        token, own = own_token(_user())
        self._key = await asyncio.to_thread(self._plot_key)
        services = ApiServices(
            database=self._database,
            policy=self._policy,
            desk=self._desk,
            topics=self._kafka.topics,
            now_ms=self._clock.now_ms,
            metrics=self._metrics,
            tokens=Tokens(settings.tokens_file, _owns(settings, own)),
            health=self.health,
            reload=self._reload,
            acted=self._acted,
            plot_key=self._key,
            slack_interaction=self._slack.interaction,
        )
        server = ApiServer(
            services,
            settings.host,
            settings.port,
            certificate=settings.tls_certificate,
            key=settings.tls_key,
        )
        await server.start()
        self._server = server
        if settings.connection_file is not None:
            ca_file = str(settings.tls_certificate.absolute()) if settings.tls_certificate is not None else ""
            write_connection(settings.connection_file, Connection(server.url, token, ca_file))
        everywhere = f", and at every other address of this machine ({settings.host})"
        log.info(
            "the HTTP interface listens at %s%s",
            server.url,
            everywhere if settings.host in ("0.0.0.0", "::", "") else "",
        )
        if settings.tls_certificate is None and settings.host not in ("127.0.0.1", "::1", "localhost"):
            log.warning("it speaks no TLS: tokens travel in clear text unless something before it does")

    async def _stop_server(self) -> None:
        if self._server is None:
            return
        path, url = self._settings.connection_file, self._server.url
        if path is not None:
            with contextlib.suppress(TokensError, OSError):
                known = read_connection(path)
                if known is not None and known.url == url:  # another service may have written its own meanwhile
                    path.unlink()
        await self._server.stop()
        self._server = None

    def _plot_key(self) -> bytes:
        with self._database.transaction() as connection:
            return plot_key(connection)

    def _picture_address(self, incident_id: str, rank: int) -> str:
        """Where a picture is shown to whoever has the address; empty where nobody reaches us."""
        public_url = self._policy.current.public_url
        if not public_url or self._key is None:
            return ""
        expires = int(time.time()) + PLOT_SECONDS
        return public_url + plot_path(self._key, incident_id, rank, expires)

    async def _run_parts(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Run all parts; when one fails or a stop is asked for, end the others in order: who takes in, who decides, who
        sends, who publishes.
        """
        await self._senders.adopt()
        self._sending = True
        reading = asyncio.create_task(asyncio.to_thread(self._intake.run), name="reading")
        deciding = asyncio.create_task(self._scheduler.run(), name="deciding")
        publishing = asyncio.create_task(self._publications.run(), name="publishing")
        watching = asyncio.create_task(self._watch.run(), name="watching")
        answering = asyncio.create_task(self._slack.run(), name="answers from Slack")
        owning = asyncio.create_task(self._check_owner(), name="owning")
        parts = [reading, deciding, publishing, watching, answering, owning]
        if self._reloader is not None:
            parts.append(asyncio.create_task(self._reloader.run(self._loop_adopted), name="following the routing file"))
        announcing = asyncio.create_task(self._say_ready(ready), name="ready")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            awaited: list[asyncio.Future[Any]] = [*parts, stopping, self._failure]
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (stopping, announcing, answering, owning, *parts[6:]):
                task.cancel()
            self._intake.stop()
            self._watch.stop()
            self._scheduler.stop()
            await settled([reading, watching, deciding], DRAIN_SECONDS)
            await self._senders.stop(DRAIN_SECONDS)
            await self._slack.close()
            self._publications.stop()
            await settled([publishing], DRAIN_SECONDS)
            await asyncio.wait([*parts, announcing])
        if self._failure.done():
            self._failure.result()
        for part in parts:
            if part.done() and not part.cancelled() and (error := part.exception()) is not None:
                raise error

    def _loop_adopted(self) -> None:
        self._loop.call_soon_threadsafe(self.adopted)

    async def _check_owner(self) -> None:
        while True:
            await asyncio.sleep(_OWNER_SECONDS)
            await asyncio.to_thread(self._owner.check)

    async def _say_ready(self, ready: Callable[[], None]) -> None:
        while not self._intake.ready.is_set():
            await asyncio.sleep(0.02)
        log.info("reading alerts from %r", self._kafka.topics.alerts)
        ready()


async def settled(tasks: Sequence[asyncio.Task[None]], seconds: float) -> None:
    """Wait for tasks to end by themselves; what does not is broken off."""
    _, late = await asyncio.wait(tasks, timeout=seconds)
    for task in late:
        log.error("%s did not end in %.0f s and is broken off", task.get_name(), seconds)
        task.cancel()


def _owns(settings: AlertingSettings, own: Token) -> tuple[Token, ...]:
    """The token of this machine's user is good only where it is told of."""
    return (own,) if settings.connection_file is not None else ()


def _user() -> str:
    """What the audit calls whoever uses the connection file: the user whose file it is."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = ""
    return name if re.fullmatch(NAME_PATTERN, name) else "operator"
