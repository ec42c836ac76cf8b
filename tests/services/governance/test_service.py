"""The governance service on a real broker: nothing lost, nothing twice, never two roots, and loud when cut."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from driftline.codec import encode
from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.audit import AuditTrail
from services.broker.embedded import EmbeddedBroker
from services.governance.checkpoint import create_key, load_key
from services.governance.checkpoints import checkpoint_record, seal_records
from services.governance.errors import KeyFileError, LedgerBusyError, LedgerMismatchError, TopicError
from services.governance.ledger import Head, Ledger
from services.governance.replay import replay
from services.governance.service import GovernanceService
from services.governance.settings import GovernanceSettings
from services.governance.topic import LogRecord, TopicReader
from services.governance.verify import Verification, verify

CreateTopics = Callable[..., None]


class Running:
    """The service in a thread of this process."""

    def __init__(self, kafka: KafkaSettings, settings: GovernanceSettings) -> None:
        self._service = GovernanceService(kafka, settings)
        self._stop = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._service.run(self._stop)
        except BaseException as error:
            self.error = error

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> None:
        """Wait for it to end by itself."""
        self._thread.join(60)
        assert not self.alive

    def stop(self) -> None:
        self._stop.set()
        self.end()
        if self.error is not None:
            raise self.error


@contextlib.contextmanager
def running(kafka: KafkaSettings, settings: GovernanceSettings) -> Iterator[Running]:
    service = Running(kafka, settings)
    try:
        yield service
    finally:
        service.stop()


def refused(kafka: KafkaSettings, settings: GovernanceSettings) -> BaseException:
    """The error with which the service ends by itself."""
    service = Running(kafka, settings)
    service.end()
    assert service.error is not None
    return service.error


def publish(kafka: KafkaSettings, values: list[bytes | None], topic: str | None = None) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "enable.idempotence": True})
    for value in values:
        producer.produce(topic or kafka.topics.audit, value)
    assert producer.flush(30) == 0


def event(number: int) -> bytes:
    return encode(
        "AuditEvent",
        {
            "id": f"event-{number}",
            "time_us": number,
            "source": "cli",
            "actor_kind": "human",
            "actor": "ada",
            "action": "deployment.applied",
            "subject": "deployment:a",
        },
    )


def topic_records(kafka: KafkaSettings, topic: str | None = None) -> list[LogRecord]:
    with TopicReader(kafka, topic or kafka.topics.audit) as reader:
        return [record for batch in reader.batches() for record in batch]


def verified(kafka: KafkaSettings, settings: GovernanceSettings, *, seal_within_seconds: float = 30.0) -> Verification:
    with TopicReader(kafka, kafka.topics.audit_checkpoints) as reader:
        seals = list(seal_records(reader))
    key = str(load_key(settings.key_file).verifier)
    return verify(topic_records(kafka), seals, key, seal_within_seconds=seal_within_seconds)


def ledger_of(kafka: KafkaSettings, settings: GovernanceSettings) -> Ledger:
    return Ledger(settings.database_url, origin=settings.origin, topic=kafka.topics.audit)


def until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def run_once(kafka: KafkaSettings, settings: GovernanceSettings) -> None:
    """Start, take in what is there, stop."""
    there = len(topic_records(kafka))
    with running(kafka, settings) as service:
        until(lambda: not service.alive or _size_of(settings) > there)  # its own start is a record too


def assert_ledger_is_the_topic(kafka: KafkaSettings, settings: GovernanceSettings) -> list[Head]:
    with ledger_of(kafka, settings) as ledger:
        leaves = [(leaf.offset, leaf.value) for leaf in ledger.leaves()]
        heads = ledger.heads()
    assert leaves == [(record.offset, record.value) for record in topic_records(kafka)]
    assert len({head.size for head in heads}) == len(heads)
    return heads


def recreate(kafka: KafkaSettings, create_topics: CreateTopics, values: list[bytes | None]) -> None:
    """Delete the audit topic and make it anew with other content."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    for future in admin.delete_topics([kafka.topics.audit]).values():
        future.result(30)
    until(lambda: kafka.topics.audit not in admin.list_topics(timeout=10).topics)
    create_topics(kafka, kafka.topics.audit)
    publish(kafka, values)


# What it keeps


def test_every_record_is_sealed_within_seconds(
    kafka_settings: KafkaSettings, governance_settings: GovernanceSettings
) -> None:
    with running(kafka_settings, governance_settings), AuditTrail(kafka_settings, "cli") as trail:
        until(lambda: governance_settings.key_file.exists())
        for number in range(20):
            trail.record("deployment.applied", f"deployment:{number}", actor="ada", actor_kind="human")
        started = time.monotonic()

        def sealed() -> bool:
            return verified(kafka_settings, governance_settings).sealed >= 21

        until(sealed)
        assert time.monotonic() - started < 10
    result = verified(kafka_settings, governance_settings, seal_within_seconds=0)
    assert result.ok, result.message
    assert result.sealed == result.records == 23  # with: key created, started, stopped
    actions = [e.event["action"] for e in replay(kafka_settings) if e.event is not None]
    assert {"key.created", "governance.started"} < set(actions)
    assert actions[-1] == "governance.stopped"


def test_whatever_is_on_the_topic_is_a_leaf_and_nothing_else(
    kafka_settings: KafkaSettings, governance_settings: GovernanceSettings
) -> None:
    publish(kafka_settings, [event(1), event(1), b"", None, b"\xc3\x01nonsense", b"\xff" * 5000])
    producer = Producer(
        {"bootstrap.servers": kafka_settings.bootstrap_servers, "transactional.id": kafka_settings.topics.audit}
    )
    producer.init_transactions(30)
    for commit in (True, False, True):
        producer.begin_transaction()
        producer.produce(kafka_settings.topics.audit, event(100 + commit))
        producer.flush(30)
        if commit:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    run_once(kafka_settings, governance_settings)
    assert_ledger_is_the_topic(kafka_settings, governance_settings)
    with ledger_of(kafka_settings, governance_settings) as ledger:
        values = [leaf.value for leaf in ledger.leaves()]
        assert values[:6] == [event(1), event(1), b"", b"", b"\xc3\x01nonsense", b"\xff" * 5000]
        assert values[6:8] == [event(101), event(101)]  # the aborted one was never said
    assert verified(kafka_settings, governance_settings, seal_within_seconds=0).ok
    shown = list(replay(kafka_settings))
    assert sum(1 for e in shown if e.event is not None and e.event["id"] == "event-1") == 1
    assert sum(1 for e in shown if e.event is None) == 4


def test_a_restart_goes_on_where_it_left_off(
    kafka_settings: KafkaSettings, governance_settings: GovernanceSettings
) -> None:
    for start in range(3):
        publish(kafka_settings, [event(i) for i in range(10 * start, 10 * start + 10)])
        run_once(kafka_settings, governance_settings)
    heads = assert_ledger_is_the_topic(kafka_settings, governance_settings)
    assert [head.size for head in heads] == sorted({head.size for head in heads})
    result = verified(kafka_settings, governance_settings, seal_within_seconds=0)
    assert result.ok and result.records == 30 + 7  # key created once, three times started and stopped


def test_a_long_log_is_sealed_in_parts(kafka_settings: KafkaSettings, governance_settings: GovernanceSettings) -> None:
    publish(kafka_settings, [event(i) for i in range(12_000)])
    settings = governance_settings.model_copy(update={"seal_records": 2_000, "seal_seconds": 60.0})
    run_once(kafka_settings, settings)
    heads = assert_ledger_is_the_topic(kafka_settings, settings)
    assert len(heads) >= 3
    assert all(head.size - head.first_index <= 2_000 + 5_000 for head in heads)
    assert verified(kafka_settings, settings, seal_within_seconds=0).sealed >= 12_000


# One writer


def test_a_second_writer_is_refused_and_the_first_goes_on(
    kafka_settings: KafkaSettings, governance_settings: GovernanceSettings
) -> None:
    with running(kafka_settings, governance_settings) as first:
        until(lambda: governance_settings.key_file.exists())
        error = refused(kafka_settings, governance_settings)
        assert isinstance(error, LedgerBusyError)
        assert "one writer" in str(error)
        assert first.alive


# Crashes


def test_a_head_that_was_durable_but_not_published_is_published_at_the_next_start(
    kafka_settings: KafkaSettings, governance_settings: GovernanceSettings
) -> None:
    publish(kafka_settings, [event(i) for i in range(5)])
    create_key(governance_settings.key_file, governance_settings.origin)
    with ledger_of(kafka_settings, governance_settings) as ledger:
        ledger.append(topic_records(kafka_settings))
        head = ledger.close_head()
    assert head is not None
    run_once(kafka_settings, governance_settings)
    with TopicReader(kafka_settings, kafka_settings.topics.audit_checkpoints) as reader:
        assert next(seal_records(reader)).size == 5
    assert assert_ledger_is_the_topic(kafka_settings, governance_settings)[0] == head


def test_a_checkpoint_published_but_not_marked_is_not_a_second_root(
    kafka_settings: KafkaSettings, governance_settings: GovernanceSettings, tmp_path: Path
) -> None:
    publish(kafka_settings, [event(i) for i in range(5)])
    run_once(kafka_settings, governance_settings)
    with sqlite3.connect(tmp_path / "governance.db") as connection:
        connection.execute("UPDATE ledger_heads SET published = 0")
    # And once more by hand, as a producer whose acknowledgement was lost does.
    with ledger_of(kafka_settings, governance_settings) as ledger:
        again = [checkpoint_record(ledger, h, load_key(governance_settings.key_file)) for h in ledger.heads()]
    before = topic_records(kafka_settings, kafka_settings.topics.audit_checkpoints)
    assert again == [record.value for record in before]
    publish(kafka_settings, list(again), kafka_settings.topics.audit_checkpoints)
    run_once(kafka_settings, governance_settings)
    assert_ledger_is_the_topic(kafka_settings, governance_settings)
    assert verified(kafka_settings, governance_settings, seal_within_seconds=0).ok


def test_killed_at_any_moment_it_loses_nothing_and_signs_one_root_per_size(
    kafka_settings: KafkaSettings, governance_settings: GovernanceSettings, tmp_path: Path
) -> None:
    environment = os.environ | {
        "DRIFTLINE_BOOTSTRAP_SERVERS": kafka_settings.bootstrap_servers,
        "DRIFTLINE_TOPIC_PREFIX": kafka_settings.topics.prefix,
        "DRIFTLINE_GOVERNANCE_DATABASE_URL": governance_settings.database_url,
        "DRIFTLINE_AUDIT_KEY_FILE": str(governance_settings.key_file),
        "DRIFTLINE_AUDIT_ORIGIN": governance_settings.origin,
        "DRIFTLINE_GOVERNANCE_SEAL_SECONDS": "0",
    }
    code = "import typer; from services.governance.commands import governance; typer.run(governance)"
    chance = random.Random(8)
    written = threading.Event()
    numbers = iter(range(1_000_000))

    def write() -> None:
        producer = Producer({"bootstrap.servers": kafka_settings.bootstrap_servers, "enable.idempotence": True})
        while not written.is_set():
            for _ in range(chance.randint(1, 60)):
                producer.produce(kafka_settings.topics.audit, event(next(numbers)))
            producer.flush(30)
            time.sleep(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    killed_while_writing = 0
    log = (tmp_path / "log").open("wb")
    try:
        for _ in range(5):
            before = _size_of(governance_settings)
            process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=log)
            until(lambda size=before: _size_of(governance_settings) > size)  # type: ignore[misc]
            time.sleep(chance.random() * 0.4)
            assert process.poll() is None, (tmp_path / "log").read_text()
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed_while_writing += _size_of(governance_settings) > before
    finally:
        written.set()
        writer.join()
        log.close()
    assert killed_while_writing == 5
    roots: dict[int, bytes] = {}
    with TopicReader(kafka_settings, kafka_settings.topics.audit_checkpoints) as reader:
        for seal in seal_records(reader):
            assert roots.setdefault(seal.size, seal.note.encode()) == seal.note.encode()
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
    total = len(topic_records(kafka_settings))
    until(lambda: _size_of(governance_settings) >= total)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    heads = assert_ledger_is_the_topic(kafka_settings, governance_settings)
    assert len(heads) > 5
    result = verified(kafka_settings, governance_settings, seal_within_seconds=0)
    assert result.ok, result.message
    assert result.sealed == result.records > 500


def _size_of(settings: GovernanceSettings) -> int:
    """Leaves in the database, read beside the process that writes it."""
    path = Path(settings.database_url.removeprefix("sqlite:///"))
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM ledger_leaves").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


# A topic, a database or a key that is not what it was


def test_a_topic_made_anew_with_fewer_records_is_refused(
    kafka_settings: KafkaSettings, governance_settings: GovernanceSettings, create_topics: CreateTopics
) -> None:
    publish(kafka_settings, [event(i) for i in range(20)])
    run_once(kafka_settings, governance_settings)
    recreate(kafka_settings, create_topics, [event(i) for i in range(10)])
    before = topic_records(kafka_settings, kafka_settings.topics.audit_checkpoints)
    error = refused(kafka_settings, governance_settings)
    assert isinstance(error, LedgerMismatchError)
    assert "record 10" in str(error)
    assert topic_records(kafka_settings, kafka_settings.topics.audit_checkpoints) == before
    result = verified(kafka_settings, governance_settings)
    assert result.first_bad is not None
    assert (result.first_bad.kind, result.first_bad.index) == ("truncated", 10)


@pytest.mark.parametrize("recheck_records", [1_000_000, 1])
def test_a_topic_made_anew_with_one_record_altered_is_refused(
    kafka_settings: KafkaSettings,
    governance_settings: GovernanceSettings,
    create_topics: CreateTopics,
    recheck_records: int,
) -> None:
    publish(kafka_settings, [event(i) for i in range(20)])
    run_once(kafka_settings, governance_settings)
    values: list[bytes | None] = [record.value for record in topic_records(kafka_settings)]
    recreate(kafka_settings, create_topics, [*values[:7], event(99), *values[8:], *values])
    settings = governance_settings.model_copy(update={"recheck_records": recheck_records})
    error = refused(kafka_settings, settings)
    assert isinstance(error, LedgerMismatchError)
    assert "record 7" in str(error)
    result = verified(kafka_settings, settings)
    assert result.first_bad is not None
    assert (result.first_bad.kind, result.first_bad.index, result.first_bad.event_id) == ("altered", 7, "event-99")


def test_a_topic_restored_byte_for_byte_is_accepted(
    kafka_settings: KafkaSettings, governance_settings: GovernanceSettings, create_topics: CreateTopics
) -> None:
    publish(kafka_settings, [event(i) for i in range(20)])
    run_once(kafka_settings, governance_settings)
    recreate(kafka_settings, create_topics, [record.value for record in topic_records(kafka_settings)])
    run_once(kafka_settings, governance_settings)
    assert verified(kafka_settings, governance_settings, seal_within_seconds=0).ok


def test_a_topic_deleted_while_it_runs_ends_the_service(
    kafka_settings: KafkaSettings,
    governance_settings: GovernanceSettings,
    create_topics: CreateTopics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.governance.service._PROBE_SECONDS", 0.3)
    publish(kafka_settings, [event(i) for i in range(20)])
    settings = governance_settings.model_copy(update={"give_up_seconds": 20.0})
    service = Running(kafka_settings, settings)
    until(lambda: governance_settings.key_file.exists() and verified(kafka_settings, settings).sealed >= 20)
    recreate(kafka_settings, create_topics, [event(i) for i in range(40)])
    service.end()
    assert isinstance(service.error, LedgerMismatchError), service.error


def test_records_removed_from_the_beginning_are_noticed(
    kafka_settings: KafkaSettings, governance_settings: GovernanceSettings
) -> None:
    publish(kafka_settings, [event(i) for i in range(20)])
    run_once(kafka_settings, governance_settings)
    admin = AdminClient({"bootstrap.servers": kafka_settings.bootstrap_servers})
    for future in admin.delete_records([TopicPartition(kafka_settings.topics.audit, 0, 5)]).values():
        future.result(30)
    error = refused(kafka_settings, governance_settings)
    assert isinstance(error, LedgerMismatchError)
    assert "retention" in str(error)
    result = verified(kafka_settings, governance_settings)
    assert result.first_bad is not None
    assert (result.first_bad.kind, result.first_bad.index) == ("missing", 0)
    assert "5 records" in result.message


def test_a_lost_database_is_built_again_and_no_size_is_signed_twice(
    kafka_settings: KafkaSettings, governance_settings: GovernanceSettings, tmp_path: Path
) -> None:
    publish(kafka_settings, [event(i) for i in range(20)])
    run_once(kafka_settings, governance_settings)
    for file in tmp_path.glob("governance.db*"):
        file.unlink()
    run_once(kafka_settings, governance_settings)
    assert_ledger_is_the_topic(kafka_settings, governance_settings)
    with TopicReader(kafka_settings, kafka_settings.topics.audit_checkpoints) as reader:
        sizes = [seal.size for seal in seal_records(reader)]
    assert sizes == sorted(set(sizes))
    assert verified(kafka_settings, governance_settings, seal_within_seconds=0).ok


@pytest.mark.parametrize("keep", [10, 40])
def test_a_lost_database_does_not_help_to_sign_another_history(
    kafka_settings: KafkaSettings,
    governance_settings: GovernanceSettings,
    create_topics: CreateTopics,
    tmp_path: Path,
    keep: int,
) -> None:
    publish(kafka_settings, [event(i) for i in range(20)])
    run_once(kafka_settings, governance_settings)
    for file in tmp_path.glob("governance.db*"):
        file.unlink()
    before = topic_records(kafka_settings, kafka_settings.topics.audit_checkpoints)
    recreate(kafka_settings, create_topics, [event(i + 1) for i in range(keep)])
    assert isinstance(refused(kafka_settings, governance_settings), LedgerMismatchError)
    assert topic_records(kafka_settings, kafka_settings.topics.audit_checkpoints) == before


def test_another_key_or_none_is_refused(
    kafka_settings: KafkaSettings, governance_settings: GovernanceSettings, tmp_path: Path
) -> None:
    run_once(kafka_settings, governance_settings)
    path = governance_settings.key_file
    path.rename(tmp_path / "kept")
    error = refused(kafka_settings, governance_settings)
    assert isinstance(error, KeyFileError) and "put that key back" in str(error)
    assert not path.exists()
    create_key(path, governance_settings.origin)
    assert isinstance(refused(kafka_settings, governance_settings), KeyFileError)
    path.chmod(0o644)
    error = refused(kafka_settings, governance_settings)
    assert isinstance(error, KeyFileError) and "chmod 600" in str(error)


def test_an_audit_topic_with_two_partitions_is_refused(
    bootstrap_servers: str, topic_prefix: str, governance_settings: GovernanceSettings, create_topics: CreateTopics
) -> None:
    kafka = KafkaSettings(bootstrap_servers=bootstrap_servers, topics=Topics(topic_prefix))
    create_topics(kafka, partitions=2)
    error = refused(kafka, governance_settings)
    assert isinstance(error, TopicError) and "2 partitions" in str(error)


# Kafka away


def test_it_waits_for_topics_that_are_made_later(
    bootstrap_servers: str, topic_prefix: str, governance_settings: GovernanceSettings, create_topics: CreateTopics
) -> None:
    kafka = KafkaSettings(bootstrap_servers=bootstrap_servers, topics=Topics(topic_prefix))
    with running(kafka, governance_settings) as service:
        time.sleep(1)
        assert service.alive
        create_topics(kafka)
        publish(kafka, [event(1)])
        until(lambda: len(topic_records(kafka, kafka.topics.audit_checkpoints)) > 0)


def test_it_goes_on_when_a_killed_broker_comes_back(
    data_dir: Path, governance_settings: GovernanceSettings, create_topics: CreateTopics
) -> None:
    with EmbeddedBroker(data_dir, heap_mb=256, progress=False) as broker:
        quick = {"reconnect.backoff.max.ms": "500"}
        kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers, librdkafka=quick)
        create_topics(kafka)
        publish(kafka, [event(i) for i in range(50)])
        with running(kafka, governance_settings) as service:
            until(lambda: _size_of(governance_settings) > 50)
            broker.kill()
            time.sleep(2)
            broker.start()
            publish(kafka, [event(i) for i in range(50, 100)])
            until(lambda: _size_of(governance_settings) > 100, 60)
            assert service.alive
        assert_ledger_is_the_topic(kafka, governance_settings)
        assert verified(kafka, governance_settings, seal_within_seconds=0).ok
