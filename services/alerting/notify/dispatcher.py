"""Sends what the outbox says is to be sent, one receiver each.

Within a receiver one message is under way at a time. A lane goes on only after its oldest message has arrived or was
given up, so an end is never sent before its beginning. A message that fails waits by exponential back-off with jitter,
kept in the database, for hours; others of the receiver go on, after a pause that protects a receiver in trouble.

Back-off and giving up are by the service's clock. The pace, and what a receiver asks for with ``Retry-After``, are
the receiver's, and pass in its time, the wall clock's.

When the database fails (locked, the disk is full), nothing is sent that could not be noted; what was sent while it
failed is noted as soon as it works again, and never sent a second time for that.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import sqlalchemy as sa

from services.alerting.channels.base import Again, Channel, Failed, Outcome, Sent
from services.alerting.clock import Clock
from services.alerting.crash import crash_point
from services.alerting.errors import DatabaseError
from services.alerting.notify.outbox import Claim, Outbox
from services.alerting.policy.model import AppriseReceiver, Pace, PolicyHolder, Receiver, SlackReceiver, TeamsReceiver

log = logging.getLogger("driftline.alerting")

BACK_OFF_FIRST_SECONDS = 1.0
BACK_OFF_MOST_SECONDS = 600.0
PAUSE_FIRST_SECONDS = 0.5
PAUSE_MOST_SECONDS = 30.0
"""After a failure that may be the receiver's own, it rests before another message is tried: at first for less than the
message that failed does, so that one that can never be sent does not keep the others; longer with each failure.
"""

AWAY_FAILURES = 5
"""After so many failures, one after the other, it was the receiver and not a message: when one arrives, the others need
wait no longer.
"""

DATABASE_WAIT_SECONDS = 1.0
_LONGEST_SLEEP_SECONDS = 60.0

_T = TypeVar("_T")


class Counts(Protocol):
    """What is counted; see :class:`services.alerting.metrics.Metrics`."""

    def attempt(self, receiver: str, kind: str, outcome: Outcome) -> None:
        """Count an attempt."""

    def delivered(self, receiver: str, seconds: float) -> None:
        """Count a delivery's time."""

    def in_doubt(self, receiver: str, result: str, count: int = 1) -> None:
        """Count a message that had been in doubt."""


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
    """Sends the messages of one receiver until :meth:`stop`.

    Args:
        receiver: Its settings.
        channel: The way there; closing it is the caller's.
        outbox: Where messages come from and results go.
        policy: In force: when messages are given up.
        counts: What is counted.
        settled: Called on the event loop after each attempt's result is kept: there are audit events to publish, and,
            given True, a thread of a fallback receiver is due.
        clock: The service's.
        hold_until_ms: Kept back until then, from an earlier run.
        chance: For the jitter.
    """

    def __init__(
        self,
        receiver: Receiver,
        channel: Channel,
        outbox: Outbox,
        policy: PolicyHolder,
        counts: Counts,
        settled: Callable[[bool], None],
        *,
        clock: Clock,
        hold_until_ms: int = 0,
        chance: random.Random | None = None,
    ) -> None:
        self.receiver = receiver
        self._name = receiver.name
        self._bucket = TokenBucket(receiver.pace)
        self._channel = channel
        self._outbox = outbox
        self._policy = policy
        self._counts = counts
        self._settled = settled
        self._clock = clock
        self._hold_until_ms = hold_until_ms
        self._refused: dict[int, int] = {}  # message to how often it failed since the start
        self._failures = 0  # one after the other
        self._chance = chance or random.Random()
        self._wake = asyncio.Event()
        self._stopping = False
        self._broken_off = False
        self.trouble = ""
        """Why nothing can be sent now, for health; empty when all is well."""

    def wake(self) -> None:
        """Something may be due. Call on the event loop."""
        self._wake.set()

    def stop(self) -> None:
        """End :meth:`run` when the message under way is settled."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Send until stopped."""
        following: Claim | None = None
        while following is not None or not self._stopping:
            if following is not None:
                crash_point("outbox.claimed")
                following = await self._deliver(following)
                continue
            self._wake.clear()
            wait_seconds = max(self._real((self._hold_until_ms - self._clock.now_ms()) / 1000), self._bucket_wait())
            if wait_seconds <= 0:
                claim, wait_seconds = await self._with_database(self._claim) or (None, DATABASE_WAIT_SECONDS)
                if claim is not None:
                    crash_point("outbox.claimed")
                    following = await self._deliver(claim)
                    continue
            await self._sleep(wait_seconds)

    def _real(self, seconds: float) -> float:
        return self._clock.real_seconds(seconds)

    def _bucket_wait(self) -> float:
        return self._bucket.wait_seconds()

    def _claim(self) -> tuple[Claim | None, float]:
        claim = self._outbox.claim(self._name)
        if claim is not None:
            return claim, 0.0
        due_ms = self._outbox.next_due_ms(self._name)
        if due_ms is None:
            return None, _LONGEST_SLEEP_SECONDS
        return None, max(self._real((due_ms - self._clock.now_ms()) / 1000), 0.001)

    async def _sleep(self, seconds: float) -> None:
        if self._stopping:
            return
        try:
            await asyncio.wait_for(self._wake.wait(), min(max(seconds, 0.001), _LONGEST_SLEEP_SECONDS))
        except TimeoutError:
            pass

    async def _with_database(self, work: Callable[[], _T]) -> _T | None:
        """Do something in the database; None if it fails, which is said once."""
        try:
            done = await asyncio.to_thread(work)
        except DatabaseError:
            raise  # the database is another service's now: this one ends
        except sa.exc.DBAPIError as error:
            why = f"{self._name}: the database failed, so nothing is sent: {error.orig}"
            if why != self.trouble:
                log.error("%s", why)
            self.trouble = why
            return None
        if self.trouble:
            log.info("%s: the database works again", self._name)
        self.trouble = ""
        return done

    async def _deliver(self, claim: Claim) -> Claim | None:
        """Send a message and note what came of it; returns the next one where it is claimed already."""
        delivery = claim.delivery
        try:
            outcome = await self._channel.send(delivery, self._bucket.take)
        except Exception as error:
            # A message that cannot be rendered must not stop the others; the text of an unforeseen error may hold
            # anything.
            log.error(
                "%s: %s of %s: unforeseen %s", self._name, delivery.kind.value, _named(claim), type(error).__name__
            )
            outcome = Again(f"unforeseen {type(error).__name__}", doubtful=True)
        crash_point("outbox.sent_unwritten")
        passed_on, following = await self._settle(claim, outcome)
        crash_point("outbox.written")
        self._settled(passed_on)
        return following

    async def _settle(self, claim: Claim, outcome: Outcome) -> tuple[bool, Claim | None]:
        """Note what came of a message; returns whether a fallback is to be told, and the next message if it is due."""
        now = self._clock.now_ms()
        delivery = claim.delivery
        age_ms = now - delivery.created_ms
        if isinstance(outcome, Again) and age_ms >= self._policy.current.give_up_ms:
            hours = age_ms / 3.6e6
            outcome = Failed(f"given up after {delivery.attempt} attempts in {hours:.1f} h: {outcome.error}")
        self._counts.attempt(self._name, delivery.kind.value, outcome)
        about = (self._name, delivery.kind.value, _named(claim))
        was_away = self._failures >= AWAY_FAILURES
        if not isinstance(outcome, Again):
            self._failures = 0
            self._refused.pop(claim.id, None)
        passed_on: list[str] = []
        following = None
        if isinstance(outcome, Sent):
            receipt = outcome.receipt
            go_on = not self._stopping and self._bucket.wait_seconds() <= 0
            following = await self._until_noted(
                lambda: self._outbox.sent(claim, receipt, go_on=go_on, is_back=was_away)
            )
            self._counts.delivered(self._name, (self._clock.now_ms() - delivery.created_ms) / 1000)
            if delivery.doubtful:
                self._counts.in_doubt(self._name, self._fate(outcome))
            log.info("%s: %s of %s sent", *about)
        elif isinstance(outcome, Failed):
            error = outcome.error
            passed_on = await self._until_noted(lambda: self._outbox.give_up(claim, error)) or []
            log.error("%s: %s of %s failed for good: %s", *about, error)
        else:
            await self._try_again(claim, outcome, now)
            log.warning("%s: %s of %s, attempt %d: %s", *about, delivery.attempt, outcome.error)
        return bool(passed_on), following

    def _fate(self, outcome: Sent) -> str:
        """What became of a message in doubt, in a word for the metric."""
        if outcome.repeated:
            return "found"
        # These know no key by which they, or we, could tell that a message is there already.
        blind = isinstance(self.receiver, TeamsReceiver | AppriseReceiver) or (
            isinstance(self.receiver, SlackReceiver) and self.receiver.token is None
        )
        return "possible_duplicate" if blind else "repeated"

    async def _try_again(self, claim: Claim, outcome: Again, now_ms: int) -> None:
        # Attempts that a kill broke off were no refusals: only what failed before this process's eyes makes it wait.
        self._refused[claim.id] = self._refused.get(claim.id, 0) + 1
        wait_ms = int(back_off_seconds(self._refused[claim.id], self._chance) * 1000)
        if outcome.retry_after_seconds is not None:
            # Exactly what was asked, in the receiver's time; one that says when it is ready need not be guessed at.
            wait_ms = int(outcome.retry_after_seconds * 1000 * self._clock.speed)
        next_ms = now_ms + wait_ms + 1
        kept: int | None = None
        if outcome.too_fast and outcome.retry_after_seconds is not None:
            kept = self._hold_until_ms = next_ms
        else:
            pause_seconds = min(PAUSE_FIRST_SECONDS * 2.0 ** min(self._failures, 30), PAUSE_MOST_SECONDS)
            self._hold_until_ms = now_ms + min(int(pause_seconds * 1000), wait_ms)
        self._failures += 1

        def note() -> None:
            self._outbox.retry(
                claim,
                outcome.error,
                next_ms,
                hold_until_ms=kept,
                doubtful=outcome.doubtful,
                receipt=outcome.receipt,
            )

        await self._until_noted(note)

    async def _until_noted(self, note: Callable[[], _T]) -> _T | None:
        """Note a result, however often the database fails: what has arrived must not be sent again for that.

        When the service ends meanwhile, the message stays in doubt.
        """
        while True:
            try:
                done = await asyncio.to_thread(note)
            except DatabaseError:
                raise
            except sa.exc.DBAPIError as error:
                why = f"{self._name}: the database failed, so a result waits to be noted: {error.orig}"
                if why != self.trouble:
                    log.error("%s", why)
                self.trouble = why
                if self._stopping:
                    return None
                await asyncio.sleep(DATABASE_WAIT_SECONDS)
            else:
                self.trouble = ""
                return done


def _named(claim: Claim) -> str:
    incidents = [str(told["incident"]) for told in claim.told]
    if not incidents:
        return claim.delivery.key
    return f"incident {incidents[0]}" + (f" and {len(incidents) - 1} more" if len(incidents) > 1 else "")
