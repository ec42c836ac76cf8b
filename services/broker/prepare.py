"""What the embedded broker needs from outside, fetched and made once: later starts are quick, and offline."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from rich.console import Console

from services.broker.embedded import EmbeddedBroker
from services.broker.errors import BrokerError
from services.broker.jars import default_cache_dir, ensure_jars, read_lock
from services.broker.jvm import archive_path, keep_archive, usable_archive

# The JVM writes its archive when it ends: 5 s on 2 cores, more on a busy machine.
_ARCHIVE_SECONDS = 180.0
_TIMEOUT_SECONDS = 30.0
_ROUNDS = 20


@dataclass(frozen=True)
class Prepared:
    """What is there now."""

    version: str
    jars: int
    size_bytes: int
    cache_dir: Path
    archive: Path | None
    seconds: float


def prepare(cache_dir: Path | None = None, *, progress: bool = True) -> Prepared:
    """Fetch the jars and make the archive that halves the broker's start; without effect where both are there.

    A broker without the archive works as well, so a failure to make it is told and not raised.

    Raises:
        JarError: a jar does not match, cannot be fetched, or cannot be stored.

    """
    started = time.monotonic()
    cache_dir = cache_dir or default_cache_dir()
    lock = read_lock()
    jars = ensure_jars(cache_dir, progress=progress)
    archive = usable_archive(cache_dir, jars)
    if archive is None:
        console = Console(stderr=True, quiet=not progress, highlight=False, markup=False, soft_wrap=True)
        with console.status("Preparing quick starts") if console.is_terminal else _told(console):
            try:
                archive = _make_archive(cache_dir, jars)
            except (BrokerError, KafkaException, OSError) as error:
                console.print(f"warning: the broker will start slowly, its archive could not be made: {error}")
    return Prepared(lock.version, len(jars), lock.size, cache_dir, archive, time.monotonic() - started)


@contextmanager
def _told(console: Console) -> Iterator[None]:
    console.print("Preparing quick starts of the broker")
    yield


def _make_archive(cache_dir: Path, jars: list[Path]) -> Path | None:
    """Run a broker through what clients usually ask of it, while the JVM notes the classes that this takes."""
    path = archive_path(cache_dir, jars)
    # A directory of its own: two processes may do this at once, and each ends with a whole archive.
    with tempfile.TemporaryDirectory(prefix=".archive-", dir=cache_dir) as folder:
        made = Path(folder) / path.name
        # The JVM puts its intermediate configuration beside the archive and removes it.
        broker = EmbeddedBroker(cache_dir=cache_dir, progress=False, jvm_options=[f"-XX:AOTCacheOutput={made}"])
        broker.start()
        try:
            _exercise(broker.bootstrap_servers)
        finally:
            broker.stop(_ARCHIVE_SECONDS)
        if not made.exists():
            raise BrokerError("the JVM ended without writing it")
        keep_archive(made, path)
    return usable_archive(cache_dir, jars)


def _exercise(bootstrap_servers: str) -> None:
    base: dict[str, str | int | float | bool] = {"bootstrap.servers": bootstrap_servers, "log_level": 0}
    admin = AdminClient(base)
    topics = [
        NewTopic("plain", 2, 1),
        NewTopic("compacted", 2, 1, config={"cleanup.policy": "compact"}),
    ]
    for future in admin.create_topics(topics, request_timeout=_TIMEOUT_SECONDS).values():
        future.result(_TIMEOUT_SECONDS)
    consumer = Consumer({**base, "group.id": "exercise", "auto.offset.reset": "earliest", "enable.auto.commit": False})
    consumer.subscribe(["plain", "compacted"])
    for codec in ("none", "lz4", "zstd", "snappy", "gzip"):
        producer = Producer({**base, "transactional.id": f"exercise-{codec}", "compression.type": codec})
        producer.init_transactions(_TIMEOUT_SECONDS)
        for _ in range(_ROUNDS):
            producer.begin_transaction()
            for topic in ("plain", "compacted"):
                producer.produce(topic, b"value" * 100, b"key")
            producer.commit_transaction(_TIMEOUT_SECONDS)
            consumer.consume(10, 0.01)
    consumer.consume(10, 1.0)
    # Without an assignment yet there is nothing to commit, which is an error to the client and none to us.
    if consumer.assignment():
        consumer.commit(asynchronous=False)
    consumer.close()
    for deletion in admin.delete_topics(["plain", "compacted"], request_timeout=_TIMEOUT_SECONDS).values():
        deletion.result(_TIMEOUT_SECONDS)
