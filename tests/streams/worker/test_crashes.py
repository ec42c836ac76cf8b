"""Exactly once: workers and brokers that end in any way leave the state and output of an undisturbed run."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.broker.embedded import EmbeddedBroker

DEPLOYMENTS = [f"model-{k}" for k in range(8)]


def specified(samples: Any) -> list[Any]:
    specs = [samples.spec(name) for name in DEPLOYMENTS]
    return [*specs, *(samples.baseline(spec) for spec in specs)]


def stream(samples: Any, messages: int, seed: int = 0) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Batches of several deployments, one of which shifts; repeats, lone rows, bad rows and garbage among them."""
    rng = random.Random(seed)
    now_ms = samples.t0 // 1000
    sent: list[Any] = []
    for k in range(messages):
        name = DEPLOYMENTS[k % len(DEPLOYMENTS)]
        shift = 1.5 if name == "model-3" and k > messages // 2 else 0.0
        rows = samples.rows(80, first=k * 80, at=k * 0.8, every=0.05, seed=k, deployment_id=name, shift=shift)
        now_ms = max(now_ms, int(rows.timestamps_us.max()) // 1000)
        kind = rng.random()
        if kind < 0.05 and sent:
            rows = rng.choice(sent)
        elif kind < 0.08:
            rows.timestamps_us[5] = 0
        sent.append(rows)
        yield rows, {"timestamp": now_ms}
        if kind > 0.97:
            yield b"garbage", {"key": name.encode(), "timestamp": now_ms}
        elif kind > 0.9:
            event = {
                "prediction_id": f"lone-{k}",
                "deployment_id": name,
                "model_version": "1",
                "timestamp": now_ms * 1000,
                "features": {"x": 0.1, "y": 0.2, "c": "a"},
            }
            yield json.dumps(event).encode(), {"key": name.encode(), "timestamp": now_ms}


def distinct_rows(messages: list[tuple[Any, dict[str, Any]]]) -> Counter[str]:
    counted: Counter[str] = Counter()
    seen = set()
    for what, _ in messages:
        if isinstance(what, bytes):
            if what.startswith(b"{"):
                counted[json.loads(what)["deployment_id"]] += 1
            continue
        for identity, time_us in zip(what.prediction_ids, what.timestamps_us.tolist(), strict=True):
            if time_us and (what.deployment_id, identity) not in seen:
                seen.add((what.deployment_id, identity))
                counted[what.deployment_id] += 1
    return counted


def test_workers_killed_at_random_leave_what_an_undisturbed_one_leaves(
    worlds: Any, samples: Any, check_replay: Any
) -> None:
    disturbed, calm = worlds(partitions=4), worlds(partitions=4)
    for world in (disturbed, calm):
        world.put(*specified(samples))
    messages = list(stream(samples, 1000))
    rng = random.Random(20)
    kills = [100 + 180 * k + rng.randrange(100) for k in range(5)]
    disturbed.start()
    disturbed.start()
    calm.start()
    disturbed.wait(lambda: len(disturbed.open_partitions()) >= 4, supervised=True)
    in_mid_stream = 0
    for number, (what, options) in enumerate(messages):
        disturbed.send(what, **options)
        calm.send(what, **options)
        if number in kills:
            disturbed.flush()
            time.sleep(rng.uniform(0, 0.2))
            victim = rng.choice([worker for worker in disturbed.workers if worker.running])
            victim.kill()
            in_mid_stream += sum(disturbed.ends().values()) > sum(disturbed.position(p) for p in range(4))
            disturbed.start()
        elif not any(number < kill < number + 40 for kill in kills):
            time.sleep(0.01)
    disturbed.wait_applied(60, supervised=True)
    calm.wait_applied(60)
    assert in_mid_stream >= 3

    published = [
        sorted((m.partition, m.offset, m.key, m.value) for m in world.messages(world.topics.predictions))
        for world in (disturbed, calm)
    ]
    assert published[0] == published[1]
    one, other = disturbed.state(), calm.state()
    assert one.keys() == other.keys()
    differing = {(at, name) for at, fields in one.items() for name in fields if fields[name] != other[at][name]}
    assert not differing
    assert disturbed.digest() == calm.digest()
    check_replay(disturbed)
    for topic, fields in (
        ("alerts", ("id", "status")),
        ("windows", ("id", "revision", "status", "rows")),
        ("dead_letters", ("source_partition", "source_offset", "reason")),
    ):
        one, other = (
            sorted(tuple(found.record[field] for field in fields) for found in world.read(topic))
            for world in (disturbed, calm)
        )
        assert one == other
        assert len(set(one)) == len(one)
    raised = [(found.record["monitor"], found.record["status"]) for found in disturbed.read("alerts")]
    assert sorted(raised) == [("data_drift", "firing"), ("data_quality", "firing")]
    for name, rows in distinct_rows(messages).items():
        assert disturbed.counters(name)["rows"] == rows


def test_a_worker_stopped_past_its_session_is_fenced_and_one_that_is_told_to_end_loses_nothing(
    worlds: Any, samples: Any, check_replay: Any
) -> None:
    world = worlds(partitions=2)
    world.put(*specified(samples))
    messages = stream(samples, 2000, seed=1)

    def publish(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            what, options = next(messages)
            world.send(what, **options)
            time.sleep(0.005)

    zombie = world.start()
    world.wait(lambda: len(world.open_partitions()) == 2)
    publish(0.5)
    zombie.send(signal.SIGSTOP)
    applied = {p: world.position(p) for p in range(2)}
    world.start()
    publish(1)
    world.wait(lambda: all(world.position(p) > applied[p] for p in range(2)), 30)
    zombie.send(signal.SIGCONT)
    publish(1)
    world.wait_applied(60, supervised=True)
    fenced = not zombie.running
    assert not fenced or zombie.process.returncode == 3, zombie.text[-2000:]
    check_replay(world)

    leaver = next(worker for worker in world.workers if worker.running)
    publish(0.3)
    leaver.told_to_end = True
    leaver.send(signal.SIGTERM)
    publish(0.3)
    assert leaver.process.wait(5) == 0
    world.start()
    world.wait_applied(60, supervised=True)
    check_replay(world)


def ended_in_seconds(worker: Any, *statuses: int) -> None:
    begun = time.monotonic()
    assert worker.stop() in statuses, worker.text[-3000:]
    assert time.monotonic() - begun < 4.5


def test_a_broker_that_is_killed_costs_nothing_and_holds_up_nobody_who_wants_to_end(
    world_on: Any, samples: Any, check_replay: Any, data_dir: Path, tmp_path: Path
) -> None:
    with EmbeddedBroker(data_dir) as broker:
        world = world_on(broker.bootstrap_servers, "b.", tmp_path, 2)
        try:
            world.put(*specified(samples))
            worker = world.start()
            messages = list(stream(samples, 600, seed=2))
            for number, (what, options) in enumerate(messages):
                world.send(what, **options)
                time.sleep(0.003)
                if number == 300:
                    broker.kill()
                    time.sleep(0.5)
                    broker.start()
            world.wait_applied(90, supervised=True)
            check_replay(world)
            for name, rows in distinct_rows(messages).items():
                assert world.counters(name)["rows"] == rows
            assert "rdkafka#" not in worker.text, "librdkafka's own log stays off the terminal"

            opening = world.start()
            world.wait(lambda: "Executing _on_partitions_assigned" in opening.text)
            ended_in_seconds(opening, 0)
            broker.kill()
            for each in world.workers:
                if each.running:
                    # one that has just been given a partition, and can open it no more, ends by itself with status 3
                    ended_in_seconds(each, 0, 3)
        finally:
            world.close()
