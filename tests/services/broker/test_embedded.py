"""The embedded broker: a real Kafka that starts, answers, stops, and says why when it cannot."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from services.broker.directory import DataDirectory
from services.broker.embedded import EmbeddedBroker
from services.broker.errors import BrokerError, JarError
from services.broker.jars import default_cache_dir


def create_topic(bootstrap_servers: str, topic: str, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    admin.create_topics([NewTopic(topic, 1, 1, config=config)])[topic].result(30)


def produce(bootstrap_servers: str, topic: str, values: list[bytes], **settings: Any) -> None:
    """Produce and wait until every record is acknowledged."""
    producer = Producer({"bootstrap.servers": bootstrap_servers, "log_level": 0, **settings})
    errors: list[Any] = []
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: errors.append(error) if error else None)
    assert producer.flush(30) == 0
    assert not errors


def consume(bootstrap_servers: str, topic: str, count: int, seconds: float = 30.0) -> list[bytes]:
    """Read `count` committed values from the beginning of a topic."""
    group = uuid.uuid4().hex
    settings = {"auto.offset.reset": "earliest", "isolation.level": "read_committed", "log_level": 0}
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": group, **settings})
    consumer.subscribe([topic])
    values: list[bytes] = []
    end = time.monotonic() + seconds
    while len(values) < count and time.monotonic() < end:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            values.append(message.value() or b"")
    consumer.close()
    return values


def is_running(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)


@pytest.fixture
def topic(kafka: Any, topic_prefix: str) -> str:
    """A topic on the session's broker."""
    create_topic(kafka.bootstrap_servers, topic_prefix + "t")
    return topic_prefix + "t"


# What it can do


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_every_compression_codec_works(kafka: Any, topic: str, codec: str) -> None:
    values = [b"%d" % n * 50 for n in range(100)]
    produce(kafka.bootstrap_servers, topic, values, **{"compression.type": codec, "linger.ms": 20})
    assert consume(kafka.bootstrap_servers, topic, 100) == values


def test_ten_megabyte_message_passes(kafka: Any, topic: str) -> None:
    value = os.urandom(10_000_000)
    produce(kafka.bootstrap_servers, topic, [value], **{"message.max.bytes": 12_000_000})
    assert consume(kafka.bootstrap_servers, topic, 1) == [value]


def test_transactions_commit_abort_and_fence(kafka: Any, topic: str) -> None:
    settings = {"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topic, "log_level": 0}
    first = Producer(settings)
    first.init_transactions(30)
    for value, commit in ((b"1", True), (b"aborted", False), (b"2", True)):
        first.begin_transaction()
        first.produce(topic, value)
        (first.commit_transaction if commit else first.abort_transaction)(30)
    second = Producer(settings)
    second.init_transactions(30)
    first.begin_transaction()
    first.produce(topic, b"fenced")
    with pytest.raises(KafkaException):
        first.commit_transaction(30)
    second.begin_transaction()
    second.produce(topic, b"3")
    second.commit_transaction(30)
    assert consume(kafka.bootstrap_servers, topic, 3) == [b"1", b"2", b"3"]


def test_topics_are_not_made_by_mistake(kafka: Any, topic_prefix: str) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0, "message.timeout.ms": 3000})
    producer.produce(topic_prefix + "typo", b"x")
    producer.flush(10)
    assert topic_prefix + "typo" not in producer.list_topics(timeout=10).topics


@pytest.fixture
def own_kafka(kafka: Any) -> EmbeddedBroker:
    """The session's broker where it is an embedded one."""
    if not isinstance(kafka, EmbeddedBroker):
        pytest.skip("the broker is somebody else's")
    return kafka


def test_only_loopback_is_bound(own_kafka: EmbeddedBroker) -> None:
    inodes = set()
    for entry in Path(f"/proc/{own_kafka.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if found := re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink())):
                inodes.add(found[1])
    bound = []
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{own_kafka.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and (fields[3] == "0A" or table.startswith("udp")):
                bound.append(fields[1])
    loopback = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
    assert len(bound) == 2, "the clients' port and the controller's"
    assert {address.partition(":")[0] for address in bound} <= set(loopback)
    assert int(own_kafka.bootstrap_servers.partition(":")[2]) in {int(a.partition(":")[2], 16) for a in bound}


def test_secrets_of_the_environment_stay_outside(own_kafka: EmbeddedBroker) -> None:
    environment = Path(f"/proc/{own_kafka.pid}/environ").read_bytes()
    assert {entry.partition(b"=")[0] for entry in environment.split(b"\0")} <= {
        b"", b"PATH", b"HOME", b"USER", b"LANG", b"LC_ALL", b"TZ", b"LD_LIBRARY_PATH",
    }  # fmt: skip


# Stop, kill, start again


def test_stop_and_kill_keep_data_cluster_id_and_port(tmp_path: Path) -> None:
    directory = tmp_path / "a b, ${env:HOME} %d 'ü"
    broker = EmbeddedBroker(directory)
    identities = []
    try:
        for step, end in enumerate((broker.stop, broker.kill, broker.stop)):
            broker.start()
            pid = broker.pid
            identities.append((broker.cluster_id, broker.bootstrap_servers))
            if step == 0:
                create_topic(broker.bootstrap_servers, "kept")
            produce(broker.bootstrap_servers, "kept", [b"%d" % step])
            assert consume(broker.bootstrap_servers, "kept", step + 1) == [b"%d" % n for n in range(step + 1)]
            end()
            assert not is_running(pid)
    finally:
        broker.stop()
    assert len(set(identities)) == 1
    assert (directory / "broker.log").stat().st_size > 0
    DataDirectory(directory, temporary=False).close(keep=True)  # nobody holds it any more
    assert not list((directory / "tmp").glob("*zstd*")), "a clean stop leaves no unpacked library"


def test_temporary_directory_lives_until_stop() -> None:
    broker = EmbeddedBroker()
    broker.start()
    try:
        directory, cluster_id = broker.data_dir, broker.cluster_id
        broker.kill()
        assert directory.exists()
        broker.start()
        assert broker.cluster_id == cluster_id
    finally:
        broker.stop()
    broker.stop()
    assert not directory.exists()


def test_interrupted_formatting_is_begun_again(data_dir: Path) -> None:
    (data_dir / "data").mkdir(parents=True)
    (data_dir / "data" / "bootstrap.checkpoint").write_bytes(b"half")
    with EmbeddedBroker(data_dir) as broker:
        create_topic(broker.bootstrap_servers, "t")


# Why it does not start, or ended


def java_processes(directory: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").resolve() == directory.resolve():
                found.append(int(entry.name))
    return found


def test_taken_port_is_named_before_anything_starts(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(BrokerError, match=rf"port {port} on 127.0.0.1 is taken .*asked for.*another port"):
            EmbeddedBroker(data_dir, port=port).start()
    assert not (data_dir / "broker.log").exists()


def test_taken_port_of_the_last_run_is_named(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        data_dir.mkdir()
        (data_dir / "broker.json").write_text(f'{{"port": {port}}}')
        with pytest.raises(BrokerError, match=rf"port {port} .* is taken .*used by the last run"):
            EmbeddedBroker(data_dir).start()


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_impossible_port_is_refused(data_dir: Path, port: int) -> None:
    with pytest.raises(BrokerError, match="from 1 to 65535"):
        EmbeddedBroker(data_dir, port=port).start()


def test_second_broker_on_a_directory_is_refused(own_kafka: EmbeddedBroker) -> None:
    with pytest.raises(BrokerError, match=rf"in use by another broker \(process {own_kafka.pid}\)"):
        EmbeddedBroker(own_kafka.data_dir).start()
    assert is_running(own_kafka.pid)


def test_start_of_a_running_broker_is_refused(own_kafka: EmbeddedBroker) -> None:
    with pytest.raises(BrokerError, match=rf"already running as process {own_kafka.pid}"):
        own_kafka.start()


def test_almost_full_disk_is_refused(data_dir: Path) -> None:
    with pytest.raises(BrokerError, match=r"almost full: \d+ MB free, expected at least 1152921504607 MB"):
        EmbeddedBroker(data_dir, minimum_free_bytes=1 << 60).start()
    DataDirectory(data_dir, temporary=False).close(keep=True)


def test_jar_that_does_not_match_keeps_the_broker_from_starting(
    data_dir: Path, tmp_path: Path, kafka: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(default_cache_dir() / "jars", tmp_path / "cache" / "jars")
    (jar,) = (tmp_path / "cache" / "jars").glob("kafka-clients-*.jar")
    content = bytearray(jar.read_bytes())
    content[len(content) // 2] ^= 1
    jar.write_bytes(content)
    monkeypatch.setenv("DRIFTLINE_MAVEN_REPOSITORY", "http://127.0.0.1:9")
    with pytest.raises(JarError, match=r"org\.apache\.kafka:kafka-clients"):
        EmbeddedBroker(data_dir, cache_dir=tmp_path / "cache").start()
    assert not data_dir.exists()


def test_unwritable_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BrokerError, match=r"cannot use .*file as data directory"):
        EmbeddedBroker(tmp_path / "file").start()


def test_refusal_by_kafka_shows_the_end_of_its_log(data_dir: Path) -> None:
    with pytest.raises(
        BrokerError, match=r"(?s)exit status 1.*The end of .*broker\.log:\n.*num\.io\.threads"
    ) as caught:
        EmbeddedBroker(data_dir, settings={"num.io.threads": "many"}).start()
    assert len(str(caught.value).splitlines()) <= 14
    assert not java_processes(data_dir)


def test_start_that_takes_too_long_is_ended(data_dir: Path) -> None:
    with pytest.raises(BrokerError, match=r"took too long|in time"):
        EmbeddedBroker(data_dir).start(timeout_seconds=0.2)
    assert not java_processes(data_dir)


def test_end_by_itself_is_told_with_its_reason(data_dir: Path) -> None:
    with EmbeddedBroker(data_dir) as broker:
        assert not broker.wait(0)
        os.kill(broker.pid, signal.SIGKILL)
        with pytest.raises(BrokerError, match=r"ended by itself.*killed by signal 9"):
            broker.wait(20)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", disk], capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_disk_that_fills_up_ends_the_broker_with_that_reason_and_keeps_what_was_acknowledged(small_disk: Path) -> None:
    broker = EmbeddedBroker(small_disk / "broker", minimum_free_bytes=1_000_000)
    broker.start()
    acknowledged: list[bytes] = []
    try:
        create_topic(broker.bootstrap_servers, "t")
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0, "message.timeout.ms": 4000})
        for number in range(60):
            value = b"%d " % number + os.urandom(900_000)
            producer.produce("t", value, on_delivery=lambda e, m: None if e else acknowledged.append(m.value() or b""))
            producer.flush(0.5)
            if not is_running(broker.pid):
                break
        with pytest.raises(BrokerError, match=rf"the disk of {small_disk / 'broker'} is full"):
            assert broker.wait(20)
        broker.stop()
        assert len(acknowledged) > 5
        subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
        broker.start()
        assert consume(broker.bootstrap_servers, "t", len(acknowledged)) == acknowledged
    finally:
        broker.stop()
