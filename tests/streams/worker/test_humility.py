"""Humility on a real broker: workers that end in any way judge, count and tell what an undisturbed one does."""

from __future__ import annotations

import dataclasses
import random
import shutil
import signal
import socket
import time
import urllib.request
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from driftline.batches import between
from driftline.codec import encode
from driftline.events import CategoricalColumn, OutcomeColumns
from driftline.humility.rules import HumilitySpec
from streams.baseline import Baseline
from streams.reference import build_baseline
from streams.specification import DeploymentSpec

NAMES = ("agrees", "undecided", "stale", "drifts")
ROUNDS, ROWS = 8, 90
ROUND_US = 60_000_000
OFTEN = "import streams.joining as j; j.CHECKPOINT_ROWS = 150; "
"""Indexes are written with nearly every commit."""


def spec_of(humble: Any, name: str) -> Any:
    return humble.spec(deployment_id=name, outcomes=True, revision=4)


def told(columns: Any, seed: int) -> OutcomeColumns:
    """What turned out, each within two minutes of its prediction."""
    rng = np.random.default_rng(seed)
    yes = rng.random(columns.rows) < columns.prediction
    delays = rng.integers(1, 2 * ROUND_US, columns.rows)
    return OutcomeColumns(
        columns.deployment_id,
        list(columns.prediction_ids),
        columns.timestamps_us + delays,
        actual_label=CategoricalColumn(["no", "yes"], yes.astype(np.int32)),
    )


@pytest.fixture(scope="module")
def baselines(humble: Any) -> dict[str, Baseline]:
    found = {}
    for name in NAMES:
        spec = spec_of(humble, name)
        past = humble.rows(3000, seed=1, at=-3000.0, deployment_id=name)
        plain = dataclasses.replace(spec, humility=None)
        found[name] = humble.fitted(spec, build_baseline(plain, "1", [past], source="past", outcomes=[told(past, 2)]))
    return found


def predicted(humble: Any, baselines: Mapping[str, Baseline], name: str, number: int, begin_s: float) -> list[Any]:
    """A round's batches, decided as the deployment's name says; ``begin_s``: when the first round begins."""
    spec = spec_of(humble, name)
    spread = 2.0 if name == "drifts" and number >= 3 else 1.0
    rows = humble.rows(
        ROWS, first=number * ROWS, at=begin_s + 60 * number, every=60 / ROWS, seed=3, deployment_id=name, spread=spread
    )
    if name in ("agrees", "drifts"):
        rows = humble.decided(spec, baselines[name], rows, {"": 0.5 + number / 50})
    elif name == "stale" and number >= 2:
        rows = humble.decided(spec, baselines[name], rows, policy="c" * 64, revision=3)
    return [between(rows, first, first + ROWS // 3) for first in range(0, ROWS, ROWS // 3)]


def publish(world: Any, what: list[Any], now_us: int) -> None:
    for columns in what:
        world.send(columns, timestamp=now_us // 1000)
    world.flush()


def final(world: Any) -> dict[tuple[str, int, str], Mapping[str, Any]]:
    """Final windows by deployment, start and policy."""
    found: dict[tuple[str, int, str], Mapping[str, Any]] = {}
    for each in world.read("windows"):
        record = each.record
        if each.name == "HumilityWindow" and record["status"] == "final":
            key = record["deployment_id"], record["window_start_us"], record["policy"]
            assert key not in found, "a window is final once"
            found[key] = record
    return found


def alerts(world: Any) -> list[tuple[str, str]]:
    return sorted((each.record["id"], each.record["status"]) for each in world.read("alerts"))


def last_states(world: Any) -> dict[bytes, Mapping[str, Any]]:
    return {each.key: each.record for each in world.read("humility")}


def in_force(world: Any, what: DeploymentSpec | Baseline) -> bool:
    """Whether a specification or baseline is in force where its deployment is."""
    if isinstance(what, Baseline):
        key, record = f"baseline/{what.deployment_id}@{what.model_version}", encode("Baseline", what.to_record())
    else:
        key, record = f"spec/{what.deployment_id}", encode("DeploymentSpec", what.to_record())
    return any(fields["record"] == record for (_, at), fields in world.state().items() if at == key.encode())


def test_workers_that_end_in_any_way_judge_as_an_undisturbed_one(
    worlds: Any, samples: Any, humble: Any, baselines: dict[str, Baseline], check_replay: Any
) -> None:
    disturbed, calm = worlds(partitions=3), worlds(partitions=3)
    for world in (disturbed, calm):
        world.put(*(spec_of(humble, name) for name in NAMES), *baselines.values())
    calm.start()
    disturbed.start(before=OFTEN)
    disturbed.start(before=OFTEN)
    disturbed.wait(lambda: len(disturbed.open_partitions()) >= 3, supervised=True)
    # events are not older than the workers' clocks: who is quiet for ten seconds of a test is not silent for a day
    begin_s = time.time() // 60 * 60 - samples.t0 // 1_000_000
    begin_us = samples.t0 + int(begin_s) * 1_000_000
    rng, known = random.Random(5), dict(baselines)
    accidents = {1: "killed", 3: "without its index", 5: "killed", 6: "killed"}
    waiting: list[Any] = []
    for number in range(ROUNDS):
        if number == 4:  # rules that are fitted again, and others
            again = humble.fitted(spec_of(humble, "drifts"), baselines["drifts"], source="again", start=0.7)
            known["drifts"] = again
            spec = spec_of(humble, "undecided")
            fewer = HumilitySpec(spec.humility.rules[:2], spec.humility.guarantees)
            fewer_spec = dataclasses.replace(spec, humility=fewer, revision=5)
            other = humble.fitted(fewer_spec, baselines["undecided"], source="other")
            for world in (disturbed, calm):
                for each in (again, fewer_spec, other):
                    world.put(each)
                    world.wait(lambda w=world, e=each: in_force(w, e), supervised=True)
        now_us = begin_us + (number + 1) * ROUND_US
        batches = [batch for name in NAMES for batch in predicted(humble, known, name, number, begin_s)]
        outcomes = [told(batch, number) for batch in waiting]
        waiting = batches
        for phase in (batches, outcomes):
            publish(disturbed, phase, now_us)
            publish(calm, phase, now_us)
            if phase is batches and number in accidents:
                time.sleep(rng.uniform(0, 0.2))
                victim = rng.choice([worker for worker in disturbed.workers if worker.running])
                victim.send(signal.SIGKILL)
                victim.process.wait(10)
                if accidents[number] == "without its index":
                    shutil.rmtree(victim.data_dir)
                disturbed.start(before=OFTEN, data_dir=victim.data_dir)
            disturbed.wait_applied(60, supervised=True)
            calm.wait_applied(60)
    # all outcomes come, and later nothing is open any more
    end_us = begin_us + 45 * ROUND_US
    last = [humble.rows(1, first=10**6, at=begin_s + 45 * 60, deployment_id=name) for name in NAMES]
    rest = [told(batch, ROUNDS) for batch in waiting]
    for world in (disturbed, calm):
        for phase in (rest, last, [told(row, 0) for row in last]):
            publish(world, phase, begin_us + (ROUNDS + 1) * ROUND_US if phase is rest else end_us)
            world.wait_applied(60, supervised=True)

    check_replay(disturbed)
    check_replay(calm)
    one, other = final(disturbed), final(calm)
    assert one.keys() == other.keys()
    assert len(one) >= len(NAMES) * ROUNDS
    for key, window in one.items():
        differing = {name: (window[name], other[key][name]) for name in window if window[name] != other[key][name]}
        assert not differing, key
    assert last_states(disturbed) == last_states(calm)
    # where nothing comes for a while time passes, and alarms are looked for earlier: not all of an alert is the same
    assert alerts(disturbed) == alerts(calm)
    raised = {(e.record["deployment_id"], e.record["monitor"]) for e in calm.read("alerts")}
    assert ("stale", "humility") in raised
    reasons = [e.record["diagnosis_reason"] for e in calm.read("alerts") if e.record["deployment_id"] == "stale"]
    assert "publishers decide by rules that are not in force: revision 3, in force 4" in reasons
    told_quantiles = [e.record["quantiles"] for e in calm.read("humility")]
    assert any(quantile["known"] for quantiles in told_quantiles for quantile in quantiles)


def test_rules_that_a_publisher_knows_first_are_in_force_before_what_it_decided_by_them(
    worlds: Any, samples: Any, humble: Any, baselines: dict[str, Baseline]
) -> None:
    world, name = worlds(partitions=1), NAMES[0]
    spec, baseline = spec_of(humble, name), baselines[name]
    again = humble.fitted(spec, baseline, source="again", start=0.7)
    first, second = (humble.rows(50, first=50 * k, at=50 * k, deployment_id=name) for k in range(2))
    last = humble.rows(1, first=10**6, at=1800, deployment_id=name)
    world.put(spec, baseline)
    port = free_port()
    world.start("--metrics-port", str(port))
    publish(world, [humble.decided(spec, baseline, first)], samples.t0 + ROUND_US)
    world.wait_applied()
    world.put(again)
    publish(world, [humble.decided(spec, again, second)], samples.t0 + 2 * ROUND_US)
    world.wait_applied()
    publish(world, [last], samples.t0 + 30 * ROUND_US)
    world.wait_applied()
    entries = [entry for each in world.read("streams_order") for entry in each.record["entries"]]
    applied = [entry["digest"] or entry["first_offset"] for entry in entries if entry["source"] != "clock"]
    assert applied == [spec.digest(), baseline.digest, 0, again.digest, 1, 2]
    parts = [
        each.record["parts"][0]
        for each in world.read("windows")
        if each.name == "HumilityWindow" and each.record["status"] == "final"
    ]
    assert [sum(part[field] for part in parts) for field in ("decided", "stale", "disagreeing")] == [100, 0, 0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        told_to_prometheus = answer.read().decode()
    place = f'deployment="{name}",partition="0",version="1"'
    assert f"driftline_humility_decided_total{{{place}}} 100.0" in told_to_prometheus


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
