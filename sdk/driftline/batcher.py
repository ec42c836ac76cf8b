"""Rows out of the buffer to messages for Kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from driftline.batches import Message, between, cloud_event_headers, encoded, outcome_columns, prediction_columns
from driftline.buffer import Work
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.settings import KafkaSettings
from driftline.topics import record_key


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where batches go, and what happens to them when Kafka is away."""

    deployment_id: str
    model_id: str | None
    shard: int | None
    settings: KafkaSettings
    batch_rows: int
    max_buffered_rows: int
    max_message_bytes: int
    when_unavailable: str
    delivery_timeout_seconds: float
    spool_folder: Path
    spool_limit_bytes: int
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


class Batcher:
    """Makes messages, and numbers them in the order in which they were made.

    Args:
        delivery: Whose rows these are.
        drop: Told rows, kind of trouble and reason when rows cannot become a message.
    """

    def __init__(self, delivery: Delivery, drop: Callable[[int, str, str], None]) -> None:
        self.max_bytes = delivery.max_message_bytes
        """Bytes of one record, at most."""
        self._delivery = delivery
        self._drop = drop
        self._key = record_key(delivery.deployment_id, delivery.shard)
        self._sequence = 0

    def next_sequence(self) -> int:
        """The number of the next message."""
        self._sequence += 1
        return self._sequence

    def messages(self, work: Work) -> Iterator[Message]:
        """The messages that the work becomes, made one by one."""
        for columns in self._columns(work):
            yield from self.encode(columns)

    def encode(self, columns: PredictionColumns | OutcomeColumns) -> Iterator[Message]:
        """One batch as one or, if it is too large, several messages."""
        topics, outcome = self._delivery.settings.topics, isinstance(columns, OutcomeColumns)
        name = "OutcomeBatch" if outcome else "PredictionBatch"
        for value, rows in encoded(columns, self.max_bytes, self._drop):
            yield Message(
                topic=topics.outcomes if outcome else topics.predictions,
                key=self._key,
                value=value,
                headers=[*cloud_event_headers(name, self._delivery.deployment_id), *self._delivery.headers],
                rows=rows,
                sequence=self.next_sequence(),
            )

    def _columns(self, work: Work) -> Iterator[PredictionColumns | OutcomeColumns]:
        delivery, step = self._delivery, self._delivery.batch_rows
        for start in range(0, len(work.predictions), step):
            rows = work.predictions[start : start + step]
            yield from self._guarded(prediction_columns, rows, delivery.deployment_id, delivery.model_id)
        for start in range(0, len(work.outcomes), step):
            yield from self._guarded(outcome_columns, work.outcomes[start : start + step], delivery.deployment_id)
        for columns in work.columns:
            for start in range(0, columns.rows, step):
                yield between(columns, start, min(start + step, columns.rows))

    def _guarded(self, build: Callable[..., Iterable[Any]], rows: list[Any], *arguments: Any) -> list[Any]:
        try:
            return list(build(rows, *arguments))
        except Exception as error:  # checked rows build; a mistake in that must cost one batch, not the thread
            self._drop(len(rows), "unbuilt", f"a batch of {len(rows)} rows could not be built: {error!r}")
            return []
