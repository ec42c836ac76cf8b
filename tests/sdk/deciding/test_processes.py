"""Deciding in forked children and processes that end; and while Kafka is away, and back."""

import contextlib
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from driftline.humility.rules import Condition, Rule
from services.broker.embedded import EmbeddedBroker
from services.broker.errors import BrokerError

PRELUDE = """
import os, sys, threading, time
import driftline
settings = driftline.KafkaSettings(sys.argv[1], driftline.Topics(sys.argv[2]))
def make(**options):
    return driftline.Client("rents", "v1", settings=settings, spool_dir=sys.argv[3], **options)
def followers():
    return [thread for thread in threading.enumerate() if thread.name == "driftline-humility"]
"""


def run(code: str, world: Any) -> str:
    arguments = [world.settings.bootstrap_servers, world.topics.prefix, str(world.folder / "spool")]
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(code), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_forked_child_decides_at_once_and_follows_for_itself(world: Any) -> None:
    world.publish(world.spec(), world.baseline())
    code = """
        client = make()
        assert client.wait_for_humility(20)
        children = []
        for number in range(3):
            pid = os.fork()
            if pid == 0:
                status = client.humility_status()
                assert not followers() and not status.following and status.revision == 1, status
                assert client.decide({}, 1.0).refused
                assert len(followers()) == 1
                assert client.wait_for_humility(20) and client.humility_status().following
                assert client.humility_status().undecided == 0
                sys.exit(0)  # through atexit
            children.append(pid)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0
        assert client.humility_status().following and client.decide({}, 1.0).refused
        client.close()
        print("done")
    """
    assert run(code, world) == "done\n"


def test_forking_while_threads_decide_neither_hangs_nor_breaks(world: Any) -> None:
    world.publish(world.spec(), world.baseline())
    code = """
        client = make(strict=True)
        stop = threading.Event()
        def decide():
            while not stop.is_set():
                client.decide({}, 1.0)
                time.sleep(0.0001)
        threads = [threading.Thread(target=decide, daemon=True) for _ in range(3)]
        for thread in threads: thread.start()
        assert client.wait_for_humility(20)
        for child in range(8):
            time.sleep(0.2 if child % 2 else 0.01)
            pid = os.fork()
            if pid == 0:
                client.decide({"size": 1.0}, 1.0)
                client.close()
                deadline = time.monotonic() + 10  # the thread may wait for an answer of a busy broker
                while followers() and time.monotonic() < deadline:
                    time.sleep(0.05)
                os._exit(0 if not followers() else 1)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        for thread in threads: thread.join()
        assert client.wait_for_humility(20) and client.decide({}, 1.0).refused
        client.close()
        print("done")
    """
    assert run(code, world) == "done\n"


@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "del client", "client.close()"])
def test_a_process_ends_quickly_while_it_follows(world: Any, end: str) -> None:
    world.publish(world.spec(), world.baseline())
    code = f"""
        client = make(follow_humility=True, humility_wait_seconds=20.0)
        assert client.decide({{}}, 1.0).refused
        print(time.time(), flush=True)
        {end}
    """
    said = float(run(code, world))
    assert time.time() - said < 8


def test_a_process_without_a_cluster_ends_quickly_too(world: Any) -> None:
    code = """
        settings = driftline.KafkaSettings("127.0.0.1:1")
        client = make(follow_humility=True)
        assert client.decide({}, 1.0).answered
        time.sleep(1.5)
        status = client.humility_status()
        assert not status.following and "not followed" in status.trouble, status
        assert status.undecided == 1 and status.age_seconds is None
        print(time.time(), flush=True)
    """
    assert time.time() - float(run(code, world)) < 8


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """A broker that these tests may stop."""
    quick = {"broker.session.timeout.ms": "1000", "broker.heartbeat.interval.ms": "200"}
    with EmbeddedBroker(tmp_path_factory.mktemp("broker"), settings=quick) as broker:
        yield broker


@pytest.fixture
def broker(own_broker: EmbeddedBroker) -> EmbeddedBroker:
    with contextlib.suppress(BrokerError):  # it is running
        own_broker.start()
    return own_broker


def test_an_outage_leaves_what_was_known_and_its_end_brings_what_is_new(
    broker: EmbeddedBroker, topic_prefix: str, new_world: Any, eventually: Callable[..., None]
) -> None:
    world = new_world(broker.bootstrap_servers, topic_prefix)
    world.create()
    world.publish(world.spec(), world.baseline())
    client = world.client()
    assert client.wait_for_humility(20)
    broker.kill()
    eventually(lambda: not client.humility_status().following, 20)
    for _ in range(1000):
        assert client.decide({}, 1.0).refused
    status = client.humility_status()
    assert (status.revision, status.source, status.failed) == (1, "kafka", 0) and status.trouble
    late = world.client()  # starts in the middle of the outage
    assert late.decide({}, 1.0).refused and late.humility_status().source == "cache"
    broker.start()
    always = Rule("closed", Condition("prediction_out_of_range", high=-1e9), "refuse")
    world.publish(world.spec(revision=2, rules=(always,)))
    for each in (client, late):
        eventually(lambda each=each: each.humility_status().following, 30)
        eventually(lambda each=each: each.decide({"size": 1.0}, 1.0).rule == "closed", 30)
        assert each.humility_status().source == "kafka" and each.humility_status().trouble == ""


def test_closing_during_an_outage_is_quick(broker: EmbeddedBroker, topic_prefix: str, new_world: Any) -> None:
    world = new_world(broker.bootstrap_servers, topic_prefix)
    world.create()
    world.publish(world.spec(), world.baseline())
    client = world.client()
    assert client.wait_for_humility(20)
    broker.kill()
    client.log_prediction({}, 1.0, decision=client.decide({}, 1.0))
    started = time.monotonic()
    client.close(1.0)
    assert time.monotonic() - started < 6
    assert client.counters().spooled == 1
