"""Humility in the state machine of a partition: counted, summed up, told, restored."""

from __future__ import annotations

import dataclasses
import io
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline import codec
from driftline.batches import between
from driftline.codec import encode
from driftline.events import CategoricalColumn, OutcomeColumns
from driftline.humility.rules import ANSWERED, HumilitySpec
from driftline.topics import humility_key
from streams.baseline import Baseline
from streams.errors import StreamsError
from streams.messages import Message
from streams.outcomes.store import PendingStore
from streams.reference import build_baseline
from streams.specification import FalseAlarmBudget

MINUTE_US = 60_000_000


@pytest.fixture(scope="module")
def with_outcomes(humble: Any) -> tuple[Any, Baseline]:
    """The same deployment with outcomes, and a tracker."""
    spec = humble.spec(outcomes=True)
    past = humble.rows(5000, seed=1)
    plain = build_baseline(
        dataclasses.replace(spec, humility=None), "1", [past], source="sample", outcomes=[outcomes(past, 3)]
    )
    return spec, humble.fitted(spec, plain)


def outcomes(columns: Any, seed: int, after_seconds: float = 20.0, inverted: bool = False) -> OutcomeColumns:
    """What turned out, each some seconds after its prediction."""
    rng = np.random.default_rng(seed)
    yes = rng.random(columns.rows) < (1 - columns.prediction if inverted else columns.prediction)
    delays = rng.exponential(after_seconds, columns.rows) * 1_000_000
    return OutcomeColumns(
        columns.deployment_id,
        list(columns.prediction_ids),
        columns.timestamps_us + delays.astype(np.int64),
        actual_label=CategoricalColumn(["no", "yes"], yes.astype(np.int32)),
    )


def outcome_message(samples: Any, columns: OutcomeColumns, offset: int) -> Message:
    at_ms = int(columns.actual_timestamps_us.max()) // 1000
    key = columns.deployment_id.encode()
    return Message(samples.topics.outcomes, 0, offset, at_ms, key, encode("OutcomeBatch", columns.to_record()))


def with_rules(spec: Any, rules: Any, **changes: Any) -> Any:
    return dataclasses.replace(spec, humility=HumilitySpec(tuple(rules), spec.humility.guarantees), **changes)


def windows(machine: Any, status: str = "final") -> dict[int, Any]:
    machine.commit()
    found = {}
    for emission in machine.emissions:
        if emission.record_name == "HumilityWindow" and emission.record["status"] == status:
            found[emission.record["window_start_us"]] = emission.record
    return found


def states(machine: Any) -> list[Any]:
    machine.commit()
    return [emission.record for emission in machine.emissions if emission.record_name == "HumilityState"]


def alerts(machine: Any, monitor: str = "humility") -> list[Any]:
    return [alert for alert in machine.emitted("alerts") if alert["monitor"] == monitor]


# Windows


def test_windows_add_up_what_every_part_s_rows_were_decided(samples: Any, humble: Any, fitted: Any) -> None:
    spec, baseline = fitted
    rows = humble.rows(300)
    claimed = humble.decided(spec, baseline, between(rows, 0, 100))
    actions = claimed.humility.actions.copy()
    wrong = np.flatnonzero(actions == ANSWERED)[:4]
    actions[wrong] = 2
    claimed = dataclasses.replace(claimed, humility=dataclasses.replace(claimed.humility, actions=actions))
    machine = samples.machine(spec, baseline).apply(
        samples.message(claimed, 0), samples.message(between(rows, 100, 300), 1)
    )
    machine.apply(samples.message(humble.rows(1, first=900, at=900), 2))
    found = windows(machine)
    assert list(found) == [samples.t0 + minute * MINUTE_US for minute in range(5)]
    x, y = rows.numeric["x"], rows.numeric["y"]
    far, odd, note = np.abs(x) > 2.5, y > 2, y < -2
    action = np.select([far, odd], [2, 1], 0)
    action[wrong] = 2
    part_of = np.array(rows.categorical["c"].values())
    for minute, record in enumerate(found.values()):
        mine = slice(60 * minute, 60 * minute + 60)
        assert record["rules"] == ["far", "odd", "note", "alarmed"]
        assert [part["segment"] for part in record["parts"]] == ["", "c=a", "c=b", "c=k"]
        for part in record["parts"]:
            inside = np.zeros(300, np.bool_)
            inside[mine] = True
            if part["segment"]:
                inside &= part_of == part["segment"].removeprefix("c=")
            decided = inside & (np.arange(300) < 100)
            assert part["rows"] == inside.sum()
            assert part["decided"] == decided.sum()
            assert part["stale"] == 0
            assert part["disagreeing"] == inside[wrong].sum()
            assert part["actions"] == [int((action[inside] == code).sum()) for code in range(4)]
            assert part["fired"] == [int((inside & fired).sum()) for fired in (far, odd, note)] + [0]
            assert part["acted"] == [int((inside & far).sum()), int((inside & odd & ~far).sum()), 0, 0]
    assert found[samples.t0]["policy"]
    assert (found[samples.t0]["spec_revision"], found[samples.t0]["baseline_digest"]) == (1, baseline.digest)


@settings(max_examples=15, deadline=None)
@given(at=st.lists(st.integers(1, 399), max_size=8, unique=True).map(sorted))
def test_the_split_of_rows_into_batches_changes_no_window(samples: Any, humble: Any, fitted: Any, at: Any) -> None:
    spec, baseline = fitted
    rows = humble.decided(spec, baseline, humble.rows(400, every=0.7))
    last = samples.message(humble.rows(1, first=900, at=900), 99)

    def run(cuts: list[int]) -> Any:
        machine = samples.machine(spec, baseline)
        log_ms = int(rows.timestamps_us[-1]) // 1000
        for number, (a, b) in enumerate(pairwise([0, *cuts, 400])):
            machine.apply(samples.message(between(rows, a, b), number, timestamp_ms=log_ms))
        found, by_batch = windows(machine.apply(last)), ("id", "revision", "clock_us")
        return {start: {k: v for k, v in w.items() if k not in by_batch} for start, w in found.items()}

    assert run(at) == run([])


def test_late_and_repeated_rows_are_in_no_window(samples: Any, humble: Any, fitted: Any) -> None:
    spec, baseline = fitted
    rows = humble.rows(100)
    machine = samples.machine(spec, baseline).apply(samples.message(rows, 0), samples.message(rows, 1))
    machine.apply(samples.message(humble.rows(1, first=900, at=900), 2))
    machine.apply(samples.message(humble.rows(30, first=500), 3))
    assert [record["parts"][0]["rows"] for record in windows(machine).values()] == [60, 40]


def test_revisions_of_a_window_count_up_and_share_an_id(samples: Any, humble: Any, fitted: Any) -> None:
    machine = samples.machine(*fitted)
    for k in range(6):
        machine.apply(samples.message(humble.rows(64, first=64 * k, at=k, every=0.01), k))
    machine.apply(samples.message(humble.rows(1, first=1000, at=100), 6))
    machine.commit()
    found = [e.record for e in machine.emissions if e.record_name == "HumilityWindow"]
    found = [record for record in found if record["window_start_us"] == samples.t0]
    assert [(r["revision"], r["status"], r["parts"][0]["rows"]) for r in found] == [
        (1, "provisional", 64),
        (2, "provisional", 256),
        (3, "final", 384),
    ]
    assert len({record["id"] for record in found}) == 1


def test_other_rules_close_the_windows_and_open_others(samples: Any, humble: Any, fitted: Any) -> None:
    spec, baseline = fitted
    machine = samples.machine(spec, baseline).apply(samples.message(humble.rows(20), 0))
    fewer = HumilitySpec(spec.humility.rules[:1], spec.humility.guarantees)
    machine.put(dataclasses.replace(spec, description="no other rules", revision=2))
    machine.apply(samples.message(humble.rows(10, first=20, at=20), 1))
    machine.put(dataclasses.replace(spec, humility=fewer, revision=3))
    machine.apply(samples.message(humble.rows(10, first=30, at=30), 2))
    machine.apply(samples.message(humble.rows(1, first=900, at=900), 3))
    machine.commit()
    found = [e.record for e in machine.emissions if e.record_name == "HumilityWindow"]
    assert [(r["status"], r["spec_revision"], len(r["rules"]), r["parts"][0]["rows"]) for r in found] == [
        ("final", 2, 4, 30),
        ("final", 3, 1, 10),
    ]
    assert found[0]["window_start_us"] == found[1]["window_start_us"]
    assert found[0]["id"] != found[1]["id"]


def test_events_of_an_older_release_are_decided_by_the_streams(samples: Any, humble: Any, fitted: Any) -> None:
    rows = humble.rows(100)
    (older,) = (Path(codec.__file__).parent / "schemas").glob("released/3/prediction_batch.avsc")
    written, body = codec.parse_schema(older.read_text("utf-8")), io.BytesIO()
    fastavro.schemaless_writer(body, written.parsed, rows.to_record())
    message = samples.message(rows, 0)
    machine = samples.machine(*fitted), samples.machine(*fitted)
    machine[0].apply(dataclasses.replace(message, value=b"\xc3\x01" + written.fingerprint + body.getvalue()))
    machine[1].apply(message)
    assert machine[0].digest() == machine[1].digest()
    assert sum(json.loads(machine[0].records[b"humility/d@1"]["facts"])["totals"].values()) == 100


# What serving applications are told


def test_a_policy_that_comes_into_force_is_told_once(samples: Any, humble: Any, fitted: Any) -> None:
    spec, baseline = fitted
    machine = samples.machine(spec, baseline)
    machine.apply(samples.message(humble.rows(100), 0), samples.message(humble.rows(100, first=100, at=100), 1))
    (told,) = states(machine)
    assert told["alarms"] == []
    assert told["quantiles"] == [
        {"segment": "", "quantile": 0.5, "known": 0, "missed": 0},
        {"segment": "c=a", "quantile": 0.25, "known": 0, "missed": 0},
    ]
    (emission,) = [e for e in machine.emissions if e.record_name == "HumilityState"]
    assert (emission.topic, emission.key) == ("humility", humility_key("d", "1", 0))
    machine.put(dataclasses.replace(spec, humility=None, revision=2))
    machine.put(dataclasses.replace(spec, humility=None, revision=3))
    assert [state["policy"] for state in states(machine)] == [told["policy"], ""]
    restarted = machine.restarted()
    restarted.put(dataclasses.replace(spec, revision=4))
    (again,) = states(restarted)
    assert again["policy"] == told["policy"]
    ids = [e.id for m in (machine, restarted) for e in m.emissions if e.record_name == "HumilityState"]
    assert len(set(ids)) == 3


def test_alarms_are_told_as_they_fire_and_resolve_and_rules_act_on_them(samples: Any, humble: Any, fitted: Any) -> None:
    machine = samples.machine(*fitted)
    for k, shift in enumerate([0, 0, 1, 1, 0, 0, 0, 0, 0]):
        machine.apply(samples.message(humble.rows(2000, first=2000 * k, at=100 * k, every=0.05, shift=shift), k))
    alarms = [state["alarms"] for state in states(machine)]
    assert any("data_drift" in each for each in alarms)
    assert "data_drift" not in alarms[-1]
    routed = {start: record["parts"][0]["actions"][3] for start, record in windows(machine).items()}
    assert routed[samples.t0] == 0
    # the shift begins at 200 s; what comes after the message of the alarm is routed until it is over
    assert routed[samples.t0 + 5 * MINUTE_US] > 0
    assert routed[samples.t0 + 13 * MINUTE_US] == 0


def test_an_alarm_that_time_alone_raises_is_told(samples: Any, humble: Any, with_outcomes: Any) -> None:
    machine = samples.machine(*with_outcomes)
    for k in range(6):
        machine.apply(samples.message(humble.rows(500, first=500 * k, at=60 * k, every=0.12), k))
    assert states(machine)[-1]["alarms"] == []
    machine.pass_time(samples.t0 // 1000 + 7_200_000)
    assert {alert["monitor"] for alert in machine.emitted("alerts")} == {"labels"}
    assert states(machine)[-1]["alarms"] == ["labels"]


def test_published_quantiles_are_told_and_decisions_are_made_with_them(
    samples: Any, humble: Any, with_outcomes: Any
) -> None:
    machine = samples.machine(*with_outcomes)
    offsets = Counter[str]()
    for k in range(6):
        rows = humble.rows(200, first=200 * k, at=100 * k, every=0.5)
        machine.apply(samples.message(rows, k))
        told = outcomes(rows, k, inverted=True)
        machine.apply(outcome_message(samples, told, offsets["outcomes"]))
        offsets["outcomes"] += 1
    quantiles = [{q["segment"]: q["quantile"] for q in state["quantiles"]} for state in states(machine)]
    assert quantiles[0] == {"": 0.5, "c=a": 0.25}
    assert len(quantiles) > 3
    assert quantiles[-1][""] > 0.5
    assert states(machine)[-1]["quantiles"][0]["known"] > 0


# The journal


def script(samples: Any, humble: Any, spec: Any, baseline: Any) -> list[Message]:
    """Predictions that publishers decided, rightly and wrongly, or nobody did; and their outcomes."""
    messages, outcome_offset = [], 0
    for k in range(12):
        shift = 1.5 if 4 <= k < 7 else 0.0
        rows = humble.rows(120, first=120 * k, at=60 * k, every=0.5, shift=shift, spread=2.0 if k > 7 else 1.0)
        if k % 3 == 1:
            rows = humble.decided(spec, baseline, rows, {"": 0.6}, k % 2)
        elif k % 3 == 2:
            rows = humble.decided(spec, baseline, rows, policy="a" * 64, revision=7)
        messages.append(samples.message(rows, k))
        if spec.outcomes is not None:
            messages.append(outcome_message(samples, outcomes(rows, k), outcome_offset))
            outcome_offset += 1
    return messages


@settings(max_examples=12, deadline=None)
@given(commits=st.sets(st.integers(0, 23)), stop=st.integers(0, 24))
def test_a_restart_at_any_message_continues_as_if_nothing_had_happened(
    samples: Any, humble: Any, with_outcomes: Any, commits: set[int], stop: int
) -> None:
    messages = script(samples, humble, *with_outcomes)
    uninterrupted, interrupted = samples.machine(*with_outcomes), samples.machine(*with_outcomes)
    for number, message in enumerate(messages[:stop]):
        uninterrupted.apply(message)
        interrupted.apply(message)
        if number in commits:
            uninterrupted.commit()
            interrupted.commit()
    interrupted.commit()
    uninterrupted.commit()
    restarted = interrupted.restarted(PendingStore(None))
    uninterrupted.emissions.clear()
    restarted.apply(*messages[stop:])
    uninterrupted.apply(*messages[stop:])
    assert restarted.digest() == uninterrupted.digest()
    assert restarted.emissions == uninterrupted.emissions


def test_the_script_has_what_a_restart_could_lose(samples: Any, humble: Any, with_outcomes: Any) -> None:
    machine = samples.machine(*with_outcomes).apply(*script(samples, humble, *with_outcomes))
    assert len(states(machine)) > 5
    assert {a["status"] for a in alerts(machine)} >= {"firing"}
    parts = [record["parts"][0] for record in windows(machine).values()]
    assert sum(part["stale"] for part in parts) > 0
    assert any(key.startswith(b"policies/") for key in machine.records)


def test_the_recorded_order_gives_the_same_again(samples: Any, humble: Any, with_outcomes: Any) -> None:
    spec, baseline = with_outcomes
    fewer = dataclasses.replace(
        spec, humility=HumilitySpec(spec.humility.rules[:2], spec.humility.guarantees), revision=2
    )
    messages = script(samples, humble, spec, baseline)

    def run(restart: bool) -> Any:
        machine, emissions = samples.machine(spec, baseline), []
        for number, message in enumerate(messages):
            if number == 9:
                machine.put(fewer)
            if number == 14:
                machine.put(humble.fitted(fewer, baseline, source="again"))
            machine.apply(message)
            machine.commit()
            if restart and number % 4 == 0:
                emissions += machine.emissions
                machine = machine.restarted(PendingStore(None))
        machine.commit()
        return machine.digest(), emissions + machine.emissions

    assert run(restart=True) == run(restart=False)


def test_a_retired_deployment_tells_that_nothing_is_in_force_and_leaves_no_record(
    samples: Any, humble: Any, fitted: Any
) -> None:
    machine = samples.machine(*fitted).apply(samples.message(humble.rows(50), 0))
    machine.partition.end("d")
    assert states(machine)[-1]["policy"] == ""
    assert [record["parts"][0]["rows"] for record in windows(machine).values()] == [50]
    assert {key for key in machine.records if b"/d" in key} == set()


def test_memory_of_rules_and_of_unknown_ones_is_bounded(samples: Any, humble: Any, fitted: Any) -> None:
    spec, baseline = fitted
    machine = samples.machine(spec, baseline)
    for k in range(100):
        rows = humble.decided(spec, baseline, humble.rows(2, first=2 * k, at=k), policy=f"{k:064d}")
        assert machine.partition.needs(rows) == (k < 64), "each is looked up once, until there are too many"
        machine.apply(samples.message(rows, k))
        assert not machine.partition.needs(rows)
    for k in range(20):
        machine.put(with_rules(spec, spec.humility.rules[: 1 + k % 3], revision=k + 2))
    machine.commit()
    assert len(json.loads(machine.records[b"policies/d@1"]["former"])) == 4


# Alarms of the monitor


def test_publishers_that_decide_by_rules_that_are_not_in_force_are_an_alarm_in_words(
    samples: Any, humble: Any, fitted: Any
) -> None:
    spec, baseline = fitted
    spec = dataclasses.replace(spec, revision=5)
    machine = samples.machine(spec, baseline)
    machine.apply(samples.message(humble.decided(spec, baseline, humble.rows(500, every=0.1)), 0))
    for k in range(1, 8):
        rows = humble.rows(500, first=500 * k, at=50 * k, every=0.1)
        stale = {"policy": "b" * 64, "revision": 3} if k < 4 else {}
        machine.apply(samples.message(humble.decided(spec, baseline, rows, **stale), k))
    fired, resolved = alerts(machine)
    assert (fired["status"], resolved["status"]) == ("firing", "resolved")
    assert fired["diagnosis_reason"] == "publishers decide by rules that are not in force: revision 3, in force 5"
    (cause,) = fired["causes"]
    assert (cause["stream"], cause["role"]) == ("humility:disagreement", "humility")
    assert cause["bins"][:2] == ["yes", "no"]
    assert cause["effects"]["intervals"]["total_variation"][0] > 0.5
    assert fired["severity"] == "error"
    assert machine.emitted("audit", action="alert.fired")


def test_a_rule_that_fires_more_often_is_an_alarm_in_words(samples: Any, humble: Any, fitted: Any) -> None:
    machine = samples.machine(*fitted)
    for k in range(8):
        rows = humble.rows(1000, first=1000 * k, at=100 * k, every=0.1, spread=1.0 if k < 3 else 1.8)
        machine.apply(samples.message(rows, k))
    fired = alerts(machine)[0]
    reasons = fired["diagnosis_reason"].split("; ")
    assert {cause["stream"] for cause in fired["causes"]} >= {"humility:rule:odd", "humility:rule:note"}
    assert any(
        reason.startswith("rule odd fires on ") and reason.endswith(" % of predictions, 2.4 % in the reference")
        for reason in reasons
    )


def test_unchanged_traffic_and_publishers_that_agree_are_no_alarm(samples: Any, humble: Any, fitted: Any) -> None:
    spec, baseline = fitted
    machine = samples.machine(spec, baseline)
    for k in range(30):
        rows = humble.rows(2000, first=2000 * k, at=100 * k, every=0.05)
        machine.apply(samples.message(humble.decided(spec, baseline, rows), k))
    assert not alerts(machine)


def test_a_rule_that_acts_on_alarms_keeps_none_open_by_itself(samples: Any, humble: Any, fitted: Any) -> None:
    """Its own actions are no evidence: or the alarm they raise would go on for ever."""
    spec, baseline = fitted
    looking = dataclasses.replace(
        spec.humility.rules[3], when=dataclasses.replace(spec.humility.rules[3].when, values=())
    )
    asked = HumilitySpec((*spec.humility.rules[:3], looking), spec.humility.guarantees)
    spec = dataclasses.replace(spec, humility=asked)
    machine = samples.machine(spec, humble.fitted(spec, baseline))
    for k in range(16):
        rows = humble.rows(1000, first=1000 * k, at=100 * k, every=0.1, spread=1.8 if 3 <= k < 6 else 1.0)
        machine.apply(samples.message(rows, k))
    assert any("humility" in state["alarms"] for state in states(machine))
    assert states(machine)[-1]["alarms"] == []


def test_rules_that_were_not_fitted_are_counted_in_windows_and_not_as_evidence(
    samples: Any, humble: Any, fitted: Any
) -> None:
    spec, baseline = fitted
    changed = dataclasses.replace(
        spec.humility.rules[1], when=dataclasses.replace(spec.humility.rules[1].when, high=-9.0)
    )
    asked = HumilitySpec((spec.humility.rules[0], changed, *spec.humility.rules[2:]), spec.humility.guarantees)
    machine = samples.machine(dataclasses.replace(spec, humility=asked), baseline)
    for k in range(5):
        machine.apply(samples.message(humble.rows(1000, first=1000 * k, at=100 * k, every=0.1), k))
    assert not alerts(machine)
    first = windows(machine)[samples.t0]["parts"][0]
    assert first["fired"][1] == first["rows"]


def test_budget_is_that_of_the_operations(samples: Any, fitted: Any) -> None:
    spec, baseline = fitted
    machine = samples.machine(dataclasses.replace(spec, false_alarms=FalseAlarmBudget(count=2.0)), baseline)
    monitors = machine.partition._deployments["d"].versions["1"].monitors.monitors
    assert "humility" in monitors
    assert monitors["humility"].threshold_nats == monitors["service"].threshold_nats


def test_rules_that_no_stream_could_follow_are_refused_whole(samples: Any, humble: Any, fitted: Any) -> None:
    spec, baseline = fitted
    machine = samples.machine(spec, baseline).apply(samples.message(humble.rows(10), 0))
    before = machine.digest()
    rule = spec.humility.rules[0]
    many = [dataclasses.replace(rule, name=f"r{number}") for number in range(65)]
    wild = [dataclasses.replace(rule, when=dataclasses.replace(rule.when, columns=None))]
    for rules, message in ((many, "at most 64 humility rules, came 65"), (wild, "make no sense")):
        with pytest.raises(StreamsError, match=message):
            machine.put(with_rules(spec, rules))
        assert machine.digest() == before
    # as many as there may be are followed
    machine.put(with_rules(spec, many[:64], revision=2))
    machine.apply(samples.message(humble.rows(10, first=10, at=10), 1))
