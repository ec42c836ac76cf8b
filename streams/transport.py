"""Faust's Kafka driver, told what the journal knows.

Four things differ. Aborted transactions are not read: Faust reads them unless it keeps the state itself. No message is
dropped for having an offset below one that was seen: after the consumer is placed anew, exactly those are wanted; the
journal decides what was applied. And the group is told the journal's positions, for those who watch its lag; Faust's
own bookkeeping of acknowledgements would grow without bounds where the log has gaps. And brokers answer fetch requests
soon, even if there is nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from streams.errors import StreamsError

FETCH_MAX_WAIT_MS = 25
"""How long a broker may hold a fetch request that finds nothing; Faust's own is 1.5 s.

aiokafka has one request under way for each broker, and asks only for partitions whose earlier messages were taken.
While the worker is busy such a request often names idle partitions only, and nothing else is fetched until it is
answered: measured with an idle topic beside a full one, 90,000 rows per second instead of more than 250,000.
"""


class _NoReadOffsets(dict[TP, int | None]):
    """Stands for the offsets read so far, and remembers none."""

    def __missing__(self, _key: TP) -> None:
        return None

    def __setitem__(self, _key: TP, _value: int | None) -> None:
        pass

    def update(self, *_: Any, **__: Any) -> None:
        pass


class CommittedReadingThread(driver.AIOKafkaConsumerThread):
    """The thread of the consumer; it reads committed transactions only."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        if not (hasattr(consumer, "_isolation_level") and hasattr(consumer, "_fetch_max_wait_ms")):
            raise StreamsError(
                "this aiokafka keeps its settings elsewhere: install the one that requirements/all.lock pins"
            )
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = FETCH_MAX_WAIT_MS
        return consumer

    def highwater(self, tp: TP) -> int:
        """The end of what can be read; -1 before the first answer."""
        consumer = self._ensure_consumer()
        offset = consumer.last_stable_offset(tp) if tp in consumer.assignment() else None
        return -1 if offset is None else int(offset)


class JournalConsumer(driver.Consumer):
    """The consumer of a worker whose positions are in a journal."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _NoReadOffsets()
        self._journalled: dict[TP, int] = {}

    def _new_consumer_thread(self) -> CommittedReadingThread:
        return CommittedReadingThread(self, loop=self.loop, beacon=self.beacon)

    def tell_group(self, positions: Mapping[TP, int]) -> None:
        """Commit these positions in the group with its next commit."""
        self._journalled |= positions

    def ack(self, _message: Any) -> bool:
        """Nothing: the journal's commit is the acknowledgement."""
        return False

    async def _add_gap(self, *_: Any) -> None:
        pass

    def on_buffer_full(self, _tp: TP) -> None:
        """Nothing: a full buffer holds the fetcher up by itself.

        All partitions share the agent's one buffer. To stop fetching the busy one means to wait for the others, a
        second at a time, while the buffer has long been emptied: measured, a fifth of the throughput.
        """

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return iter([tp for tp in self._journalled if topics is None or tp in topics or tp.topic in topics])

    def _filter_committable_offsets(self, tps: Iterable[TP]) -> dict[TP, int]:
        assigned = self.assignment()
        offsets = {tp: self._journalled.pop(tp) for tp in list(tps)}
        return {tp: offset for tp, offset in offsets.items() if tp in assigned}


class JournalTransport(driver.Transport):
    """Faust's transport with the consumer above."""

    Consumer = JournalConsumer
