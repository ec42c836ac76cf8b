"""The Kafka producer of a client: idempotent, Java's partitioner, short memory."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from driftline.errors import SettingsError
from driftline.forking import HANDLES
from driftline.settings import KafkaSettings
from driftline.topics import PARTITIONER

TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE})
REFUSED = TOO_LARGE | {KafkaError.INVALID_MSG, KafkaError.INVALID_RECORD}
"""What Kafka will not take however often it is offered. Missing rights and missing topics are not among them: somebody
may be about to mend those."""

_QUEUE_KBYTES = 262_144
REQUESTS_IN_FLIGHT = 1
"""What every producer here sends before the answer; more loses messages, in transactions, too.

A leader that has nothing of a producer yet takes whatever sequence number comes first. Where it refuses one request
(the topic is new, or has just moved) and takes the next, librdkafka reports both as delivered:
https://github.com/confluentinc/confluent-kafka-go/issues/921, https://issues.apache.org/jira/browse/KAFKA-15591
"""


class QuietLog:
    """Takes librdkafka's log, which repeats itself several times a second while Kafka is away, at debug level.

    What matters of it arrives through the error callback, too.
    """

    def log(self, _level: int, message: str, *arguments: Any) -> None:
        """As ``logging.Logger.log``, at debug level."""
        logging.getLogger("driftline.kafka").debug(message, *arguments)


def make_producer(
    settings: KafkaSettings,
    *,
    timeout_seconds: float,
    max_message_bytes: int,
    max_request_bytes: int,
    on_error: Callable[[KafkaError], None],
) -> Any:
    """A producer. The settings may choose compression, linger and client id; what the guarantees rest on is fixed.

    Raises:
        SettingsError: librdkafka does not take the settings; the message has no secret in it.
    """
    defaults = {"compression.type": "lz4", "linger.ms": "5", "client.id": "driftline"}
    try:
        with HANDLES:
            return Producer(
                {
                    **{name: value for name, value in defaults.items() if name not in settings.librdkafka},
                    **settings.client(
                        enable_idempotence=True,
                        acks="all",
                        max_in_flight_requests_per_connection=REQUESTS_IN_FLIGHT,
                        partitioner=PARTITIONER,
                        message_timeout_ms=int(timeout_seconds * 1000),
                        message_max_bytes=max(1_000_000, max_message_bytes + 65_536),
                        batch_size=max_request_bytes,
                        queue_buffering_max_kbytes=_QUEUE_KBYTES,
                        reconnect_backoff_max_ms=1000,
                    ),
                    "error_cb": on_error,
                    "logger": QuietLog(),
                }
            )
    except (KafkaException, TypeError, ValueError) as error:
        raise SettingsError(
            f"the Kafka client does not take its settings: {_without_values(error, settings)}"
        ) from None


def _without_values(error: Exception, settings: KafkaSettings) -> str:
    text = str(error)
    for secret in filter(None, map(settings.librdkafka.get, settings.secret_names())):
        text = text.replace(secret, "***")
    return text


def discard(producer: Any) -> None:
    """Let go of a producer with everything that is on its way; its delivery reports are called one last time."""
    producer.purge()
    producer.poll(0)


def leak(producer: Any) -> None:
    """In a forked child: keep the parent's producer from ever being destroyed.

    The threads that its destructor would wait for do not exist here.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(producer))
