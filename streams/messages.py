"""What the streams take in and give out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Message:
    """One Kafka message as it came. ``timestamp_ms`` is the log's time stamp, part of the log like the value."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Emission:
    """One record to be written with the state that caused it.

    Attributes:
        topic: Attribute of :class:`driftline.topics.Topics`, for example ``alerts``.
        key: Kafka key.
        record_name: Avro record, for example ``Alert``.
        record: Its fields; ``record["id"]`` is deterministic, so that a consumer can upsert.
        id: The same for a record that has none among its fields.
    """

    topic: str
    key: bytes | None
    record_name: str
    record: Mapping[str, Any] = field(repr=False)
    id: str = ""
