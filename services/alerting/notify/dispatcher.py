"""Sends what the outbox says is to be sent, one destination each.

Within a destination one message is under way at a time. A lane (an incident key) goes on only after its oldest
message has arrived or was given up, so a resolve is never sent before its trigger. A message that fails waits by
exponential back-off with jitter, kept in the database, for hours; others of the destination go on, after a pause that
protects a receiver in trouble.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from services.alerting.channels.base import Again, Channel, Failed, Outcome, Sent
from services.alerting.metrics import Metrics
from services.alerting.notify.outbox import Claim, Outbox
from services.alerting.settings import Destination, Pace

log = logging.getLogger("driftline.alerting")

BACK_OFF_FIRST_SECONDS = 1.0
BACK_OFF_MOST_SECONDS = 600.0
PAUSE_MOST_SECONDS = 30.0
"""After a failure that may be the receiver's own, the destination rests at most so long before another message is
tried.
"""

_LONGEST_SLEEP_SECONDS = 60.0


class TokenBucket:
    """At most ``burst`` requests at once and ``per_second`` in the long run.

    Args:
        pace: The limits.
        clock: Monotonic seconds.
    """

    def __init__(self, pace: Pace, clock: Callable[[], float] = time.monotonic) -> None:
        self._pace = pace
        self._clock = clock
        self._tokens = float(pace.burst)
        self._filled_at = clock()

    def wait_seconds(self) -> float:
        """How long until a request may be sent; 0 for now."""
        now = self._clock()
        self._tokens = min(self._pace.burst, self._tokens + (now - self._filled_at) * self._pace.per_second)
        self._filled_at = now
        # A billionth of a token less is rounding, and must not become a sleep of nothing.
        return max((1.0 - 1e-9 - self._tokens) / self._pace.per_second, 0.0)

    async def take(self) -> None:
        """Wait until a request may be sent, and count it."""
        while (wait := self.wait_seconds()) > 0:
            await asyncio.sleep(wait)
        self._tokens -= 1.0


def back_off_seconds(attempts: int, chance: random.Random) -> float:
    """How long to wait after the n-th failed attempt: doubling from 1 s to 10 min, less up to half of it by chance."""
    most = min(BACK_OFF_FIRST_SECONDS * 2.0 ** min(attempts - 1, 30), BACK_OFF_MOST_SECONDS)
    return most * chance.uniform(0.5, 1.0)


class Dispatcher:
    """Sends the messages of one destination until :meth:`stop`.

    Args:
        destination: Its settings.
        channel: The way there.
        outbox: Where messages come from and results go.
        metrics: What is counted.
        settled: Called after each attempt's result is kept.
        give_up_seconds: Age at which a message is given up.
        hold_until_ms: Kept back until then, from an earlier run.
        now_ms: Wall clock: back-off outlives the process.
        chance: For the jitter.
    """

    def __init__(
        self,
        destination: Destination,
        channel: Channel,
        outbox: Outbox,
        metrics: Metrics,
        settled: Callable[[], None],
        *,
        give_up_seconds: float,
        hold_until_ms: int,
        now_ms: Callable[[], int],
        chance: random.Random,
    ) -> None:
        self._name = destination.name
        self._bucket = TokenBucket(destination.pace)
        self._channel = channel
        self._outbox = outbox
        self._metrics = metrics
        self._settled = settled
        self._give_up_ms = give_up_seconds * 1000
        self._hold_until_ms = hold_until_ms
        self._now_ms = now_ms
        self._chance = chance
        self._wake = asyncio.Event()
        self._stopping = False

    def wake(self) -> None:
        """Something may be due. Call on the event loop."""
        self._wake.set()

    def stop(self) -> None:
        """End :meth:`run` when the message under way is settled."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Send until stopped. Errors of the database pass through: they end the service."""
        while not self._stopping:
            self._wake.clear()
            wait_seconds = max((self._hold_until_ms - self._now_ms()) / 1000, self._bucket.wait_seconds())
            if wait_seconds <= 0:
                claim = await asyncio.to_thread(self._outbox.claim, self._name)
                if claim is not None:
                    await self._deliver(claim)
                    continue
                wait_seconds = await self._until_due()
            await self._sleep(wait_seconds)

    async def _until_due(self) -> float:
        due_ms = await asyncio.to_thread(self._outbox.next_due_ms, self._name)
        return _LONGEST_SLEEP_SECONDS if due_ms is None else max((due_ms - self._now_ms()) / 1000, 0.001)

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), min(seconds, _LONGEST_SLEEP_SECONDS))
        except TimeoutError:
            pass

    async def _deliver(self, claim: Claim) -> None:
        try:
            outcome = await self._channel.send(claim, self._bucket.take)
        except Exception as error:
            # A message that cannot be rendered must not stop the others; the text of an unforeseen error may hold
            # anything.
            log.error(
                "%s: %s of alert %s: unforeseen %s", self._name, claim.kind, claim.alert["id"], type(error).__name__
            )
            outcome = Again(f"unforeseen {type(error).__name__}")
        await self._settle(claim, outcome)
        self._settled()

    async def _settle(self, claim: Claim, outcome: Outcome) -> None:
        now = self._now_ms()
        if isinstance(outcome, Again) and now - claim.created_ms >= self._give_up_ms:
            outcome = Failed(
                f"given up after {claim.attempts} attempts in {(now - claim.created_ms) / 3.6e6:.1f} h: {outcome.error}"
            )
        self._metrics.attempt(self._name, claim.kind, outcome)
        about = (self._name, claim.kind, claim.alert["id"])
        if isinstance(outcome, Sent):
            await asyncio.to_thread(self._outbox.sent, claim, outcome.receipt)
            self._metrics.delivered(self._name, (self._now_ms() - claim.created_ms) / 1000)
            log.info("%s: %s of alert %s sent", *about)
        elif isinstance(outcome, Failed):
            await asyncio.to_thread(self._outbox.give_up, claim, outcome.error)
            log.error("%s: %s of alert %s failed for good: %s", *about, outcome.error)
        else:
            await self._try_again(claim, outcome, now)
            log.warning("%s: %s of alert %s, attempt %d: %s", *about, claim.attempts, outcome.error)

    async def _try_again(self, claim: Claim, outcome: Again, now_ms: int) -> None:
        wait_seconds = back_off_seconds(claim.attempts, self._chance)
        if outcome.retry_after_seconds is not None:
            # Exactly what was asked; a receiver that says when it is ready need not be guessed at.
            wait_seconds = outcome.retry_after_seconds
        next_ms = now_ms + int(wait_seconds * 1000) + 1
        kept: int | None = None
        if outcome.too_fast:
            kept = self._hold_until_ms = next_ms
        else:
            self._hold_until_ms = now_ms + int(min(wait_seconds, PAUSE_MOST_SECONDS) * 1000)
        await asyncio.to_thread(self._outbox.retry, claim, outcome.error, next_ms, kept)
