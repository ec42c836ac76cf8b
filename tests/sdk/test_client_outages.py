"""Kafka goes away in mid-stream, and comes back: by policy, nothing is lost, or what is lost is counted."""

import contextlib
import os
import random
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import driftline
from driftline import Client, producer
from driftline.errors import KafkaUnavailableError
from services.broker.embedded import EmbeddedBroker
from services.broker.errors import BrokerError


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """A broker that these tests may kill."""
    # A killed broker comes back only when its old session is over: 9 s by default.
    quick = {"broker.session.timeout.ms": "1000", "broker.heartbeat.interval.ms": "200"}
    with EmbeddedBroker(tmp_path_factory.mktemp("broker"), settings=quick) as broker:
        yield broker


@pytest.fixture
def broker(own_broker: EmbeddedBroker) -> EmbeddedBroker:
    with contextlib.suppress(BrokerError):  # it is running
        own_broker.start()
    return own_broker


@pytest.fixture
def arrivals(broker: EmbeddedBroker, topic_prefix: str, make_arrivals: Any) -> Any:
    return make_arrivals(broker.bootstrap_servers, topic_prefix)


def balanced(client: Client) -> bool:
    counters = client.counters()
    return counters.accepted == counters.delivered + counters.pending + counters.spooled + counters.dropped


def log_many(client: Client, name: str, count: int, *, per_second: int = 5000) -> list[str]:
    keys = []
    for i in range(count):
        keys.append(client.log_prediction({"x": i, "city": "a"}, prediction_id=f"{name}-{i}", timestamp=i))
        if i % 100 == 99:
            time.sleep(100 / per_second)
            assert balanced(client)
    return keys


def test_spool_a_killed_broker_loses_nothing_and_everything_comes_in_order(
    broker: EmbeddedBroker, arrivals: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    with Client("credit", "v1", settings=arrivals.settings, spool_dir=tmp_path, batch_rows=100) as client:
        keys = log_many(client, "before", 3000)
        broker.kill()
        keys += log_many(client, "away", 5000)
        eventually(lambda: client.counters().spooled > 4000)
        assert client.flush() == 0, "what is on disk is safe: flushing must not wait for Kafka"
        broker.start()
        keys += log_many(client, "back", 1000)
        eventually(lambda: client.counters().delivered == len(keys), 40)
        assert client.counters().replayed >= 4000
        assert client.counters().dropped == client.counters().spooled == 0
    batches = arrivals.predictions(len(keys))
    ids = [key for batch in batches for key in batch.prediction_ids]
    assert set(ids) == set(keys)
    assert sum(Counter(ids).values()) - len(keys) <= 1000, "only what was on its way may come twice"
    replayed = [key for key in dict.fromkeys(ids) if key.startswith("away")]
    assert replayed == sorted(replayed, key=lambda key: int(key.split("-")[1]))
    assert list(tmp_path.rglob("*.spool")) == []


def test_spool_nobody_ever_waits_for_the_network(broker: EmbeddedBroker, arrivals: Any, tmp_path: Path) -> None:
    with Client("credit", "v1", settings=arrivals.settings, spool_dir=tmp_path) as client:
        log_many(client, "before", 500)
        client.flush()
        broker.kill()
        slowest = 0.0
        for i in range(3000):
            started = time.perf_counter()
            client.log_prediction({"x": i})
            slowest = max(slowest, time.perf_counter() - started)
            time.sleep(0.001)
        assert slowest < 0.5
        assert client.flush() == 0
        started = time.monotonic()
    assert time.monotonic() - started < 5.0, "closing must not wait for a broker that is known to be away"


def test_spool_a_broker_that_hangs_counts_as_away(
    broker: EmbeddedBroker, arrivals: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    with Client("credit", "v1", settings=arrivals.settings, spool_dir=tmp_path, delivery_timeout_seconds=2) as client:
        log_many(client, "before", 500)
        client.flush()
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            log_many(client, "hung", 1000)
            eventually(lambda: client.counters().spooled == 1000, 10)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        eventually(lambda: client.counters().delivered == 1500, 30)
    assert len(set(arrivals.prediction_ids(1500))) == 1500


def test_spool_a_burst_beyond_the_buffer_goes_through_the_disk(
    broker: EmbeddedBroker, arrivals: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    with Client(
        "credit", "v1", settings=arrivals.settings, spool_dir=tmp_path, max_buffered_rows=1000, batch_rows=100
    ) as client:
        broker.kill()
        log_many(client, "burst", 20_000, per_second=10_000_000)
        client.log_predictions({"x": list(range(20_000))}, prediction_ids=[f"table-{i}" for i in range(20_000)])
        assert client.flush(20) == 0
        assert client.counters().dropped == 0
        broker.start()
        eventually(lambda: client.counters().delivered == 40_000, 40)
    assert len(set(arrivals.prediction_ids(40_000))) == 40_000


def test_spool_beyond_its_limit_drops_and_counts(broker: EmbeddedBroker, arrivals: Any, tmp_path: Path) -> None:
    with Client(
        "credit", "v1", settings=arrivals.settings, spool_dir=tmp_path, spool_limit_bytes=100_000, batch_rows=100
    ) as client:
        broker.kill()
        log_many(client, "x", 10_000, per_second=20_000)
        assert client.flush(20) == 0
        counters = client.counters()
        assert counters.spooled > 0 and counters.dropped > 0
        assert counters.accepted == counters.spooled + counters.dropped == 10_000
        assert sum(path.stat().st_size for path in tmp_path.rglob("*.spool")) <= 100_000
        client.close(1)


def test_block_waits_and_then_raises_and_loses_nothing(
    broker: EmbeddedBroker, arrivals: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    with Client(
        "credit",
        "v1",
        settings=arrivals.settings,
        when_unavailable="block",
        batch_rows=100,
        max_buffered_rows=500,
        block_timeout_seconds=1.0,
        delivery_timeout_seconds=2.0,
        spool_dir=tmp_path,
    ) as client:
        log_many(client, "before", 300)
        assert client.flush() == 0
        broker.kill()
        for i in range(500):
            client.log_prediction({"x": i}, prediction_id=f"away-{i}")
        started = time.monotonic()
        with pytest.raises(KafkaUnavailableError, match="max_buffered_rows=500"):
            client.log_prediction({"x": 0}, prediction_id="one too many")
        assert 0.9 < time.monotonic() - started < 3.0
        assert client.counters().accepted == 800
        timer = threading.Timer(0.1, broker.start)
        timer.start()
        for i in range(1000):
            while True:
                try:
                    client.log_prediction({"x": i}, prediction_id=f"back-{i}")
                    break
                except KafkaUnavailableError:
                    continue
        timer.join()
        eventually(lambda: client.counters().delivered == 1800, 40)
        assert balanced(client)
    assert set(arrivals.prediction_ids(1800)) == {
        *(f"before-{i}" for i in range(300)),
        *(f"away-{i}" for i in range(500)),
        *(f"back-{i}" for i in range(1000)),
    }
    assert not list(tmp_path.iterdir())


def test_block_gives_up_at_closing_and_counts(broker: EmbeddedBroker, arrivals: Any, tmp_path: Path) -> None:
    client = Client("credit", "v1", settings=arrivals.settings, when_unavailable="block", spool_dir=tmp_path)
    broker.kill()
    log_many(client, "x", 700)
    assert client.flush(0.5) == 700
    started = time.monotonic()
    client.close(1.0)
    assert time.monotonic() - started < 4.0
    assert client.counters() == driftline.Counters(accepted=700, dropped=700)


def test_drop_counts_what_is_lost_and_goes_on_when_kafka_is_back(
    broker: EmbeddedBroker, arrivals: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    with Client(
        "credit",
        "v1",
        settings=arrivals.settings,
        when_unavailable="drop",
        max_buffered_rows=2000,
        delivery_timeout_seconds=1.0,
        spool_dir=tmp_path,
    ) as client:
        log_many(client, "before", 500)
        assert client.flush() == 0
        broker.kill()
        log_many(client, "away", 5000, per_second=100_000)
        eventually(lambda: client.counters().pending == 0)
        assert client.counters().dropped == 5000
        broker.start()
        log_many(client, "back", 500)
        eventually(lambda: client.counters().delivered + client.counters().dropped == 6000, 30)
        assert client.counters().delivered >= 500
        log_many(client, "again", 100)
        assert client.flush(20) == 0
        assert balanced(client)
        delivered = client.counters().delivered
    assert len(arrivals.prediction_ids(delivered)) == delivered
    assert not list(tmp_path.iterdir())


def test_memory_stays_bounded_while_kafka_is_away(tmp_path: Path) -> None:
    for policy in ("drop", "spool"):
        with Client(
            "credit",
            "v1",
            settings=driftline.KafkaSettings("127.0.0.1:1"),
            when_unavailable=policy,
            max_buffered_rows=5000,
            spool_dir=tmp_path,
            spool_limit_bytes=20_000_000,
        ) as client:
            features = {f"f{i}": float(i) for i in range(20)}
            for _ in range(10_000):
                client.log_prediction(features)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for _ in range(100_000):
                client.log_prediction(features)
                assert client.counters().pending <= 5000
            grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            # 100,000 rows of 20 numbers are 100 MB as Python objects.
            assert grown_kb < 50_000
            client.close(1.0)
            assert balanced(client)


def test_random_outages_lose_nothing(
    broker: EmbeddedBroker, arrivals: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    chance = random.Random(4)
    with Client("credit", "v1", settings=arrivals.settings, spool_dir=tmp_path, batch_ms=20) as client:
        stop = threading.Event()
        keys: list[str] = []

        def log() -> None:
            while not stop.is_set():
                keys.append(client.log_prediction({"x": 1.0}))
                client.log_outcome(keys[-1], 1.0)
                time.sleep(0.0005)

        thread = threading.Thread(target=log)
        thread.start()
        for _ in range(2):
            time.sleep(chance.uniform(0.2, 1.5))
            broker.kill()
            time.sleep(chance.uniform(0.0, 2.5))
            broker.start()
        time.sleep(0.5)
        stop.set()
        thread.join()
        eventually(lambda: client.counters().delivered == 2 * len(keys), 40)
        assert balanced(client)
    assert set(arrivals.prediction_ids(len(keys))) == set(keys)
    assert {key for batch in arrivals.outcomes(len(keys)) for key in batch.prediction_ids} == set(keys)


@pytest.mark.parametrize("requests_in_flight", [None, 5])
def test_a_batch_that_the_leader_refuses_before_it_takes_the_next_is_not_lost(
    broker: EmbeddedBroker,
    arrivals: Any,
    tmp_path: Path,
    eventually: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    late_leader: Callable[[str], Any],
    requests_in_flight: int | None,
) -> None:
    if requests_in_flight is not None:  # librdkafka then takes the refused batch for delivered
        monkeypatch.setattr(producer, "REQUESTS_IN_FLIGHT", requests_in_flight)
    leader = late_leader(broker.bootstrap_servers)
    settings = driftline.KafkaSettings(leader.bootstrap_servers, arrivals.settings.topics)
    with Client("credit", "v1", settings=settings, spool_dir=tmp_path, max_message_bytes=60_000) as client:
        keys = client.log_predictions({f"f{i}": np.random.default_rng(i).random(500) for i in range(100)})
        eventually(lambda: client.counters().delivered == len(keys))
        assert client.counters().replayed == 0 or requests_in_flight is not None
    assert leader.refused == 1
    assert set(arrivals.prediction_ids(len(keys))) == set(keys)
