"""What was accepted and is not yet known to be safe: the queue between the callers and the background thread."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field

from driftline.batches import OutcomeRow, PredictionRow
from driftline.errors import KafkaUnavailableError
from driftline.events import OutcomeColumns, PredictionColumns

log = logging.getLogger("driftline")

SPOOL_WAIT_SECONDS = 2.0
"""How long a caller waits at most for the background thread to make room on disk, once per outage of the disk."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What became of the rows given to one client since it was made. Every number counts rows.

    ``accepted == delivered + pending + spooled + dropped`` in every snapshot.

    Attributes:
        accepted: Taken over from the caller.
        delivered: Acknowledged by Kafka, at once or from the spool.
        pending: In memory.
        spooled: On disk now.
        replayed: Read from disk and acknowledged by Kafka, those of adopted spools included.
        dropped: Given up: no room, spool full, refused by Kafka, or out of time at closing.
        rejected: Never accepted: what was given cannot be a prediction or an outcome.
    """

    accepted: int = 0
    delivered: int = 0
    pending: int = 0
    spooled: int = 0
    replayed: int = 0
    dropped: int = 0
    rejected: int = 0


@dataclass(slots=True)
class Work:
    """What the background thread has to do next."""

    predictions: list[PredictionRow] = field(default_factory=list)
    outcomes: list[OutcomeRow] = field(default_factory=list)
    columns: list[PredictionColumns | OutcomeColumns] = field(default_factory=list)
    closing: bool = False


class Buffer:
    """Rows in memory, bounded and counted."""

    def __init__(
        self, *, limit_rows: int, batch_rows: int, batch_ms: int, policy: str, block_timeout_seconds: float
    ) -> None:
        self.limit_rows = limit_rows
        self.batch_rows = batch_rows
        self.close_at: float | None = None
        """Monotonic time by which the background thread must have ended."""
        self._batch_seconds = batch_ms / 1000
        self._policy = policy
        self._wait_seconds = {"block": block_timeout_seconds, "spool": SPOOL_WAIT_SECONDS}.get(policy, 0.0)
        self._lock = threading.Lock()
        self._work_came = threading.Condition(self._lock)
        self._settled = threading.Condition(self._lock)
        self._work = Work()
        self._oldest_at = 0.0
        self._flushing = 0
        self._stalled = False
        self._accepted = self._delivered = self._pending = 0
        self._spooled = self._replayed = self._dropped = self._rejected = 0

    # Callers

    def add_prediction(self, row: PredictionRow) -> None:
        """Take over a prediction. Waits only where the policy says so."""
        with self._lock:
            if self._pending >= self.limit_rows and not self._room_for(1):
                return
            self._accepted += 1
            self._pending += 1
            rows = self._work.predictions
            rows.append(row)
            if len(rows) == 1:
                self._started()
            elif len(rows) == self.batch_rows:
                self._work_came.notify()

    def add_outcome(self, row: OutcomeRow) -> None:
        """Take over an outcome. Waits only where the policy says so."""
        with self._lock:
            if self._pending >= self.limit_rows and not self._room_for(1):
                return
            self._accepted += 1
            self._pending += 1
            rows = self._work.outcomes
            rows.append(row)
            if len(rows) == 1:
                self._started()
            elif len(rows) == self.batch_rows:
                self._work_came.notify()

    def add_columns(self, columns: PredictionColumns | OutcomeColumns) -> None:
        """Take over many rows at once; at most ``limit_rows`` of them."""
        with self._lock:
            if self._pending + columns.rows > self.limit_rows and not self._room_for(columns.rows):
                return
            self._accepted += columns.rows
            self._pending += columns.rows
            self._work.columns.append(columns)
            self._work_came.notify()

    def reject(self, rows: int) -> int:
        """Count rows that were not accepted; returns how many were rejected before."""
        with self._lock:
            before = self._rejected
            self._rejected += rows
        return before

    def flush(self, timeout_seconds: float | None) -> int:
        """Wait until every row accepted so far is delivered, spooled or dropped; returns how many are not."""
        with self._lock:
            goal = self._accepted
            self._flushing += 1
            self._work_came.notify()
            try:
                self._settled.wait_for(lambda: self._accepted - self._pending >= goal, timeout_seconds)
            finally:
                self._flushing -= 1
            return max(0, goal - (self._accepted - self._pending))

    def close(self, deadline: float) -> None:
        """Tell the background thread to end by a monotonic time."""
        with self._lock:
            self.close_at = deadline
            self._work_came.notify()

    def counters(self) -> Counters:
        """A consistent snapshot."""
        with self._lock:
            return Counters(
                accepted=self._accepted,
                delivered=self._delivered,
                pending=self._pending,
                spooled=self._spooled,
                replayed=self._replayed,
                dropped=self._dropped,
                rejected=self._rejected,
            )

    def _started(self) -> None:
        if not self._oldest_at:
            self._oldest_at = time.monotonic()
            self._work_came.notify()

    def _room_for(self, rows: int) -> bool:
        """Wait for room as long as the policy allows; without room the rows are dropped and counted."""
        self._work_came.notify()
        if not self._stalled and self._wait_seconds:
            if self._settled.wait_for(lambda: self._pending + rows <= self.limit_rows, self._wait_seconds):
                return True
            # Waiting again for a disk that hangs would stop the caller at every row.
            self._stalled = self._policy == "spool"
        if self._policy == "block":
            raise KafkaUnavailableError(
                f"{self._pending} rows wait for Kafka (max_buffered_rows={self.limit_rows}) and none was "
                f"acknowledged in time ({self._wait_seconds:g} s): bring Kafka back, or choose when_unavailable='spool'"
            )
        if not self._dropped:
            log.warning("the buffer of %d rows is full: rows are dropped and counted", self.limit_rows)
        self._accepted += rows
        self._dropped += rows
        return False

    # The background thread

    def take(self, wait_seconds: float) -> Work:
        """The rows that are due, or none after at most ``wait_seconds``."""
        with self._lock:
            if not self._due():
                age_seconds = time.monotonic() - self._oldest_at if self._oldest_at else 0.0
                left_seconds = self._batch_seconds - age_seconds if self._oldest_at else wait_seconds
                self._work_came.wait(max(0.0, min(wait_seconds, left_seconds)))
                if not self._due():
                    return Work(closing=self.close_at is not None)
            work, self._work = self._work, Work()
            work.closing = self.close_at is not None
            self._oldest_at = 0.0
            return work

    def _due(self) -> bool:
        work = self._work
        if not (work.predictions or work.outcomes or work.columns):
            return False
        return bool(
            work.columns
            or self.close_at is not None
            or self._flushing
            or len(work.predictions) >= self.batch_rows
            or len(work.outcomes) >= self.batch_rows
            or time.monotonic() - self._oldest_at >= self._batch_seconds
        )

    def settle(self, *, delivered: int = 0, spooled: int = 0, dropped: int = 0) -> None:
        """Rows in memory are safe, or given up."""
        with self._lock:
            self._delivered += delivered
            self._spooled += spooled
            self._dropped += dropped
            self._pending -= delivered + spooled + dropped
            self._stalled = False
            self._settled.notify_all()

    def settle_spooled(self, *, delivered: int = 0, dropped: int = 0, adopted: int = 0) -> None:
        """Rows on disk were delivered or given up; ``adopted`` were never accepted here."""
        with self._lock:
            self._delivered += delivered
            self._dropped += dropped
            self._spooled -= delivered + dropped
            self._replayed += delivered + adopted
