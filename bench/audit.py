"""The audit ledger: events a second into it, how soon they are sealed, and how quickly the record is verified.

    python -m bench.audit [--records 200000]

Starts an embedded broker of its own. Prints a table and writes build/bench/audit.json. Exits with status 1 if a
figure breaks its bound.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Producer

from bench.report import Figure, broken, figure, write
from driftline.codec import encode
from driftline.settings import KafkaSettings
from services.audit import AuditTrail
from services.broker.embedded import EmbeddedBroker
from services.governance.checkpoint import Checkpoint, SigningKey, load_key, sign_checkpoint
from services.governance.checkpoints import seal_record, seal_records
from services.governance.export import export_topic
from services.governance.ledger import Ledger
from services.governance.merkle import CompactRange, leaf_hash
from services.governance.service import GovernanceService
from services.governance.settings import GovernanceSettings
from services.governance.topic import LogRecord, TopicReader
from services.governance.verify import SealRecord, Verification, verify, verify_export
from services.topics import ensure_topics

EVENTS_BOUND = 5_000
VERIFY_BOUND = 200_000
SEAL_BOUND_SECONDS = 3.0
ORIGIN = "bench.example/audit"


def event(number: int) -> bytes:
    """An audit event of usual size (about 350 bytes)."""
    return encode(
        "AuditEvent",
        {
            "id": f"{number:08x}-4d1c-4b6e-9f6a-3f1f6a0b9c2d",
            "time_us": 1_700_000_000_000_000 + number,
            "source": "streams/3",
            "actor_kind": "service",
            "actor": "streams",
            "action": "alert.fired",
            "subject": f"incident:credit-{number % 50}/drift/feature-{number % 7}",
            "after_digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "reason": "evidence passed the threshold of the false-alarm budget",
            "evidence": [f"predictions/3/{number * 500}-{number * 500 + 499}"],
            "detail": {"evidence_nats": "12.8", "threshold_nats": "11.5", "samples": "48000"},
        },
    )


def append(records: list[LogRecord], batch: int) -> float:
    """Seconds to append the records with a durable commit for every batch."""
    with (
        tempfile.TemporaryDirectory() as directory,
        Ledger(f"sqlite:///{directory}/ledger.db", origin=ORIGIN, topic="audit") as ledger,
    ):
        begin = time.perf_counter()
        for start in range(0, len(records), batch):
            ledger.append(records[start : start + batch])
        return time.perf_counter() - begin


def sealed_log(records: list[LogRecord], key: SigningKey, every: int) -> list[SealRecord]:
    """Checkpoints as the service would have published them."""
    tree = CompactRange()
    seals: list[SealRecord] = []
    for start in range(0, len(records), every):
        part = records[start : start + every]
        hashes = [leaf_hash(record.value) for record in part]
        tree.extend(hashes)
        note = sign_checkpoint(Checkpoint(ORIGIN, tree.size, tree.root()), key)
        seals.append(SealRecord(len(seals), note, tree.size, start, b"".join(hashes), part[-1].offset))
    return seals


def cpu(action: Callable[[], Verification]) -> float:
    """CPU seconds of a verification that stands."""
    begin = time.process_time()
    result = action()
    spent = time.process_time() - begin
    if not result.ok:
        raise SystemExit(result.message)
    return spent


def in_memory(count: int) -> list[Figure]:
    records = [LogRecord(i, 1_700_000_000_000 + i // 10, event(i)) for i in range(count)]
    key = SigningKey.generate(ORIGIN)
    size = sum(len(record.value) for record in records) / count
    few = records[: min(count, 50_000)]
    figures = [
        figure(
            f"append, {batch:,} records per durable commit",
            len(few) / append(few, batch),
            "records/s",
            at_least=EVENTS_BOUND,
            note=f"{size:.0f} bytes each, SQLite WAL, synchronous=FULL",
        )
        for batch in (100, 5_000)
    ]
    for every in (100, 5_000):
        seals = sealed_log(records, key, every)
        spent = cpu(lambda seals=seals: verify(iter(records), iter(seals), str(key.verifier)))  # type: ignore[misc]
        figures.append(
            figure(
                f"verify, a checkpoint per {every:,} records",
                count / spent,
                "records/s per core",
                at_least=VERIFY_BOUND,
                note=f"{count:,} records, {len(seals):,} signatures",
            )
        )
    return figures


@contextmanager
def running(kafka: KafkaSettings, settings: GovernanceSettings) -> Iterator[None]:
    stop = threading.Event()
    service = threading.Thread(target=GovernanceService(kafka, settings).run, args=(stop,))
    service.start()
    try:
        yield
    finally:
        stop.set()
        service.join()


def wait_until_sealed(kafka: KafkaSettings, records: int) -> None:
    """Return when a checkpoint over so many records is on its topic."""
    with TopicReader(kafka, kafka.topics.audit_checkpoints) as reader:
        reader.start(0)
        size = 0
        while size < records:
            for record in reader.poll(0.2).records:
                size = max(size, seal_record(record).size)


def on_kafka(count: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as directory, EmbeddedBroker(progress=False) as broker:
        kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
        ensure_topics(kafka)
        path = Path(directory)
        settings = GovernanceSettings(
            database_url=f"sqlite:///{path / 'ledger.db'}", key_file=path / "key", origin=ORIGIN
        )
        producer = Producer(kafka.client(enable_idempotence=True, linger_ms=5))
        for number in range(count):
            producer.produce(kafka.topics.audit, event(number))
            producer.poll(0)
            if number % 10_000 == 0:
                producer.flush()
        producer.flush()
        begin = time.perf_counter()
        with running(kafka, settings):
            wait_until_sealed(kafka, count)
            through = time.perf_counter() - begin
            written, delays = trail_times(kafka)
        public_key = str(load_key(settings.key_file).verifier)
        begin = time.perf_counter()
        with TopicReader(kafka, kafka.topics.audit_checkpoints) as reader:
            seals = list(seal_records(reader))
        with TopicReader(kafka, kafka.topics.audit) as reader:
            flat = (record for batch in reader.batches() for record in batch)
            spent = cpu(lambda: verify(flat, seals, public_key))
        whole = time.perf_counter() - begin
        export_topic(kafka, path / "audit.jsonl")
        from_file = cpu(lambda: verify_export(path / "audit.jsonl", public_key))
    return [
        figure(
            "topic to ledger, signed and published",
            count / through,
            "records/s",
            at_least=EVENTS_BOUND,
            note=f"{count:,} records waiting, start of the service included; broker on the same machine",
        ),
        figure("one event written and acknowledged, p50", written[len(written) // 2] * 1e3, "ms"),
        figure("one event written and acknowledged, p99", written[int(len(written) * 0.99)] * 1e3, "ms"),
        figure(
            "event to signed checkpoint on its topic, slowest",
            delays[-1],
            "s",
            at_most=SEAL_BOUND_SECONDS,
            note=f"{len(delays)} events, a checkpoint at most each second",
        ),
        figure("verify the topic, reading included", count / spent, "records/s per core", note="CPU of the client"),
        figure("verify the topic, elapsed", count / whole, "records/s"),
        figure("verify an export file", count / from_file, "records/s per core", note="JSON lines, base64"),
    ]


def trail_times(kafka: KafkaSettings) -> tuple[list[float], list[float]]:
    """Seconds to write one event, and to see it under a published checkpoint; both sorted."""
    written: list[float] = []
    delays: list[float] = []
    with TopicReader(kafka, kafka.topics.audit) as reader:
        _, high = reader.watermarks()
    with AuditTrail(kafka, "bench") as trail:
        for _ in range(300):
            begin = time.perf_counter()
            trail.record("bench.written", "bench:audit", actor="bench")
            written.append(time.perf_counter() - begin)
        for _ in range(5):
            begin = time.perf_counter()
            trail.record("bench.sealed", "bench:audit", actor="bench")
            with TopicReader(kafka, kafka.topics.audit) as reader:
                _, high = reader.watermarks()
            wait_until_sealed(kafka, high)
            delays.append(time.perf_counter() - begin)
    return sorted(written), sorted(delays)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=200_000)
    options = parser.parse_args()
    figures = [*in_memory(options.records), *on_kafka(max(1, options.records // 4))]
    write("audit", figures)
    return 1 if broken(figures) else 0


if __name__ == "__main__":
    sys.exit(main())
