"""The dispatchers of the receivers in force: made at the start, and made anew where a reload changes a receiver.

A receiver that is changed or removed first finishes the message that is under way; what waits for it stays in the
database, and goes out by its new settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import aiohttp
import sqlalchemy as sa

from services.alerting.channels.base import Channel, Redactor, http_session
from services.alerting.channels.making import PictureAddress, make_channel
from services.alerting.clock import Clock
from services.alerting.errors import AlertingError, DatabaseError
from services.alerting.metrics import Metrics
from services.alerting.notify.dispatcher import DATABASE_WAIT_SECONDS, Dispatcher
from services.alerting.notify.outbox import Outbox
from services.alerting.policy.model import PolicyHolder, Receiver

log = logging.getLogger("driftline.alerting")


@dataclass(slots=True)
class _Sender:
    receiver: Receiver
    dispatcher: Dispatcher
    channel: Channel
    session: aiohttp.ClientSession
    task: asyncio.Task[None]


class Senders:
    """A dispatcher for each receiver of the policy.

    Args:
        outbox: Where messages come from.
        policy: In force.
        metrics: What is counted.
        settled: See :class:`services.alerting.notify.dispatcher.Dispatcher`.
        clock: The service's.
        chance: For the jitter of the back-off.
        failed: Told of an error that ends the service.
        picture_address: See :func:`services.alerting.channels.making.make_channel`.
    """

    def __init__(
        self,
        outbox: Outbox,
        policy: PolicyHolder,
        metrics: Metrics,
        settled: Callable[[bool], None],
        *,
        clock: Clock,
        chance: random.Random,
        failed: Callable[[BaseException], None],
        picture_address: PictureAddress,
    ) -> None:
        self._outbox = outbox
        self._policy = policy
        self._metrics = metrics
        self._settled = settled
        self._clock = clock
        self._chance = chance
        self._failed = failed
        self._picture_address = picture_address
        self._senders: dict[str, _Sender] = {}
        self._changing = asyncio.Lock()
        self._unusable: dict[str, str] = {}
        self._stopping = False

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why nothing can be sent now; empty when all is well. What a receiver does wrong is not among it."""
        own = {sender.dispatcher.trouble for sender in self._senders.values() if sender.dispatcher.trouble}
        return (*sorted(own), *self._unusable.values())

    def wake(self, receivers: Iterable[str] | None = None) -> None:
        """Something may be due at these, or at any. Call on the event loop."""
        for name in self._senders if receivers is None else receivers:
            if (sender := self._senders.get(name)) is not None:
                sender.dispatcher.wake()

    async def adopt(self) -> None:
        """Bring the dispatchers in line with the policy in force."""
        async with self._changing:
            # Where a receiver stands in the file makes it no other one.
            wanted = {
                name: dataclasses.replace(receiver, line=0) for name, receiver in self._policy.current.receivers.items()
            }
            for name in [name for name in self._unusable if name not in wanted]:
                del self._unusable[name]
            gone = [sender for name, sender in self._senders.items() if wanted.get(name) != sender.receiver]
            new = [receiver for name, receiver in wanted.items() if name not in self._senders]
            for sender in gone:
                sender.dispatcher.stop()
            # One that is still waited for must not keep the others.
            await asyncio.gather(
                *(self._begin(receiver) for receiver in new),
                *(self._replace(sender, wanted.get(sender.receiver.name)) for sender in gone),
            )

    async def _replace(self, sender: _Sender, by: Receiver | None) -> None:
        name = sender.receiver.name
        await self._end(sender)
        del self._senders[name]
        log.info("%s has other settings now" if by is not None else "%s is no receiver any more", name)
        if by is not None:
            await self._begin(by)

    async def stop(self, seconds: float) -> None:
        """Let what is under way be settled; what takes longer than ``seconds`` is broken off and stays in doubt."""
        self._stopping = True
        for sender in self._senders.values():
            sender.dispatcher.stop()
        async with self._changing:
            tasks = [sender.task for sender in self._senders.values()]
            if tasks:
                _, late = await asyncio.wait(tasks, timeout=seconds)
                for task in late:
                    log.error("%s did not end in %.0f s and is broken off", task.get_name(), seconds)
                    task.cancel()
            for sender in self._senders.values():
                await self._end(sender)
            self._senders.clear()

    async def _hold_until_ms(self, name: str) -> int:
        """Until when a receiver has asked to be left alone; waits for a database that fails."""
        while True:
            try:
                return (await asyncio.to_thread(self._outbox.holds)).get(name, 0)
            except DatabaseError:
                raise  # the database is another service's now: this one ends
            except sa.exc.DBAPIError:
                if self._stopping:
                    return 0
                await asyncio.sleep(DATABASE_WAIT_SECONDS)

    async def _begin(self, receiver: Receiver) -> None:
        hold_until_ms = await self._hold_until_ms(receiver.name)
        if self._stopping:
            return
        session = http_session(receiver.timeout_seconds)
        try:
            redact = Redactor(self._policy.current.secrets())
            channel = make_channel(receiver, session, redact, self._clock, self._picture_address)
        except AlertingError as error:
            log.error("nothing can be sent to %s: %s", receiver.name, error)
            self._unusable[receiver.name] = f"nothing can be sent to {receiver.name}: {error}"
            await session.close()
            return
        self._unusable.pop(receiver.name, None)
        dispatcher = Dispatcher(
            receiver,
            channel,
            self._outbox,
            self._policy,
            self._metrics,
            self._settled,
            clock=self._clock,
            hold_until_ms=hold_until_ms,
            chance=self._chance,
        )
        task = asyncio.create_task(dispatcher.run(), name=f"sending to {receiver.name}")
        task.add_done_callback(self._ended)
        self._senders[receiver.name] = _Sender(receiver, dispatcher, channel, session, task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    @staticmethod
    async def _end(sender: _Sender) -> None:
        with contextlib.suppress(asyncio.CancelledError, Exception):  # what ended it was told already
            await sender.task
        await sender.channel.close()
        await sender.session.close()
