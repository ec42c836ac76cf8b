"""Where a worker keeps its partitions' indexes of pending predictions, and whose log they belong to."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np
from confluent_kafka import KafkaException, TopicCollection

from driftline.settings import KafkaSettings
from driftline.topics import Topics
from streams.clients import plain_admin
from streams.errors import JournalError
from streams.log import LogReader
from streams.outcomes.directory import PendingError
from streams.outcomes.join import Join
from streams.outcomes.store import PendingStore
from streams.partition import Partition

ANSWER_TIMEOUT_SECONDS = 20.0

_IDENTITY = "log"

logger = logging.getLogger("driftline.streams")


def pending_directory(settings: KafkaSettings, data_dir: Path, partition: int) -> Path:
    """Where the index of a partition lies in a worker's data directory."""
    # with the sign between them the two are never "." or "..", whatever they are
    installation = f"{quote(settings.application_id, safe='')}@{quote(settings.topics.prefix, safe='')}"
    return data_dir / "pending" / installation / str(partition)


def log_identity(settings: KafkaSettings) -> str:
    """Text that names the cluster and the topics an index belongs to; another one after any of them was made anew.

    Raises:
        JournalError: Kafka does not answer.
    """
    topics = settings.topics
    names = [topics.streams_state, topics.predictions, topics.outcomes]
    try:
        admin = plain_admin(settings)
        asked = admin.describe_topics(TopicCollection(names), request_timeout=ANSWER_TIMEOUT_SECONDS)
        cluster = admin.describe_cluster(request_timeout=ANSWER_TIMEOUT_SECONDS).result(ANSWER_TIMEOUT_SECONDS)
        ids = [f"{name} {asked[name].result(ANSWER_TIMEOUT_SECONDS).topic_id}" for name in names]
    except (KafkaException, TimeoutError) as error:
        raise JournalError(f"the topics {', '.join(names)} cannot be described: {error}") from error
    return "\n".join([f"cluster {cluster.cluster_id}", *ids, ""])


def open_pending(settings: KafkaSettings, data_dir: Path | None, partition: int) -> PendingStore:
    """Open a partition's index; empty if there is none that belongs to this log.

    Args:
        settings: How to reach Kafka.
        data_dir: The worker's data directory; None to keep the index in memory.
        partition: The partition.

    Raises:
        PendingError: Another worker has it, the disk is full, or the directory cannot be used.
        JournalError: Kafka does not answer.
    """
    if data_dir is None:
        return PendingStore(None)
    directory = pending_directory(settings, data_dir, partition)
    identity = log_identity(settings)
    store = PendingStore(directory)
    try:
        if _read_identity(directory) != identity:
            if store.position:
                logger.warning(
                    "partition %d: the index of pending predictions in %s belongs to other topics: it is made anew",
                    partition,
                    directory,
                )
            store.reset()
            (directory / _IDENTITY).write_text(identity, "utf-8")
    except OSError as error:
        store.close()
        raise PendingError(f"{directory} cannot be used for pending rows: {error.strerror}") from error
    except BaseException:
        store.close()
        raise
    return store


def _read_identity(directory: Path) -> str | None:
    try:
        return (directory / _IDENTITY).read_text("utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def say_what_is_read_again(partition: Partition, topics: Topics, found_at: Mapping[str, int], log: LogReader) -> None:
    """Log why and what of the topics is read again for an index, and what they have no more.

    Args:
        partition: As restored from its journal.
        topics: Topic names.
        found_at: The position at which the index was found; empty if there was none.
        log: The partition's topics.

    Raises:
        JournalError: Kafka does not answer.
    """
    ranges = partition.to_recover
    if not any(ranges.values()):
        return
    what = " and ".join(f"{len(offsets):,} of {topic}" for topic, offsets in ranges.items())
    behind = [topic for topic, offset in found_at.items() if offset < partition.position[topic]]
    ahead = [topic for topic, offset in found_at.items() if offset > partition.position[topic]]
    why = "is missing"
    if ahead:
        why = f"is ahead of the journal in {' and '.join(ahead)}, so it cannot belong to it"
    elif behind:
        why = f"is behind the journal in {' and '.join(behind)}"
    logger.warning(
        "partition %d: the index of pending predictions %s; messages that are read again: %s",
        partition.number,
        why,
        what,
    )
    for topic, offsets in ranges.items():
        first = log.first_offset(topic)
        if offsets and offsets.start < first:
            gone = min(first, offsets.stop) - offsets.start
            logger.error(
                "partition %d: %s begins at offset %d and the index of pending predictions needs it from %d: %s "
                "messages are gone (retention). %s Keep topics for longer than outcomes.horizon and outcomes.lateness",
                partition.number,
                topic,
                first,
                offsets.start,
                f"{gone:,}",
                _loss(partition, topic == topics.predictions, first),
            )


def _loss(partition: Partition, of_predictions: bool, first: int) -> str:
    """What is lost with the messages of a topic before its first one."""
    losses = [
        f"{name}, windows of {start} to {end}"
        for name, join in sorted(partition.joins().items())
        if (span := _span(join, first, of_predictions=of_predictions)) is not None
        for start, end in [span]
    ]
    if not losses:
        return "No open window needs them."
    if of_predictions:
        return (
            "Predictions that came with them wait no longer: their outcomes will be refused as unknown_prediction, and "
            f"the final coverage is too low ({'; '.join(losses)})."
        )
    return (
        "Outcomes that came with them stay counted, but are not known any more: should they come again, or be "
        f"corrected, they are counted twice ({'; '.join(losses)})."
    )


def _span(join: Join, first: int, *, of_predictions: bool) -> tuple[str, str] | None:
    windows = [
        window
        for window in join.windows.values()
        if (window.first_offset if of_predictions else window.first_outcome) < first
    ]
    if not windows:
        return None
    return _moment(min(window.start_us for window in windows)), _moment(max(window.end_us for window in windows))


def _moment(time_us: int) -> str:
    return f"{np.datetime64(time_us // 1_000_000, 's')}Z"
