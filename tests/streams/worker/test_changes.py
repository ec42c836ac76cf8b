"""Specifications and baselines that come and change while a worker runs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from driftline.codec import decode, encode
from driftline.topics import baseline_key, record_key


def in_force(world: Any, deployment_id: str) -> Callable[[], set[int]]:
    """Revisions of a specification in force, by partition."""

    def revisions() -> set[int]:
        key = f"spec/{deployment_id}".encode()
        return {decode(f["record"])[1]["revision"] for (_, k), f in world.state().items() if k == key}

    return revisions


def test_what_is_applied_while_a_worker_runs_counts_from_then_on(worlds: Any, samples: Any, check_replay: Any) -> None:
    world = worlds(partitions=2)
    worker = world.start()
    spec = samples.spec(shards=2)
    sent = 0

    def send(count: int = 20) -> None:
        nonlocal sent
        for key in (b"d#0", b"d#1"):
            rows = samples.rows(count, first=sent, at=sent * 0.01, every=0.001)
            world.send(rows, key=key)
            sent += count

    send()
    world.wait_applied()
    assert {letter["reason"] for letter in world.dead_letters()} == {"unknown_deployment"}
    world.put(spec)
    send()
    world.wait_applied()
    assert [letter["reason"] for letter in world.dead_letters()].count("missing_baseline") == 2
    # published means known: not one message is refused after that
    world.put(samples.baseline(spec))
    refused = len(world.dead_letters())
    for _ in range(10):
        send()
    world.wait_applied()
    assert len(world.dead_letters()) == refused
    assert world.counters("d")["rows"] == sent - 80

    # changes reach every partition, without a message to carry them
    partitions = {partition for partition, key in world.state() if key == b"spec/d"}
    world.put(dataclasses.replace(spec, revision=2, description="changed"))
    world.wait(lambda: in_force(world, "d")() == {2})
    world.put(samples.baseline(spec, seed=2))
    finals = len(partitions)
    world.wait(lambda: len([w for w in world.read("windows") if w.record["status"] == "final"]) == finals)

    # a record that cannot be used leaves in force what was
    broken = samples.baseline(spec).to_record() | {"digest": "0" * 64}
    world.send(encode("Baseline", broken), key=baseline_key("d", "1"), topic=world.topics.baselines)
    world.send(b"nonsense", key=record_key("d"), topic=world.topics.deployments)
    nothing = encode("DeploymentSpec", dataclasses.replace(spec, window_ms=0, revision=3).to_record())
    world.send(nothing, key=record_key("d"), topic=world.topics.deployments)
    world.flush()
    rows = world.counters("d")["rows"]
    send()
    world.wait_applied()
    assert world.counters("d")["rows"] == rows + 40
    assert in_force(world, "d")() == {2}
    world.wait(lambda: worker.text.count("not used") == 3)

    # an alarm is not kept waiting for the next commit
    alarming = samples.spec("alarming")
    world.put(alarming, samples.baseline(alarming))
    first = 0
    for episode in range(8):
        for shift in (0.0, 0.0, 0.0, 3.0):
            columns = samples.rows(
                2000, first=first, at=first * 0.05, every=0.05, shift=shift, seed=episode, deployment_id="alarming"
            )
            world.send(columns, timestamp=int(time.time() * 1000))
            world.flush()
            first += 2000
            time.sleep(0.05)
    world.wait_applied()
    alerts = [(message, decode(message.value)[1]) for message in world.messages(world.topics.alerts)]
    latencies = sorted(message.timestamp_ms - alert["trigger_time_ms"] for message, alert in alerts)
    assert len(latencies) >= 8
    assert latencies[-1] < 2000, latencies
    assert latencies[len(latencies) // 2] < 120, latencies

    # whoever is retired leaves nothing behind
    world.send(None, key=record_key("alarming"), topic=world.topics.deployments)
    world.flush()
    world.wait(lambda: not any(b"alarming" in key for _, key in world.state()))
    open_alarms = {alert["incident_key"] for _, alert in alerts}
    resolved = {found.record["incident_key"] for found in world.read("alerts") if found.record["status"] == "resolved"}
    assert open_alarms <= resolved

    check_replay(world)
    assert worker.stop() == 0
