"""Rules that are fitted again lose no evidence of anything else."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from driftline.codec import encode
from driftline.events import CategoricalColumn, OutcomeColumns
from streams.baseline import HUMILITY_ROLE
from streams.humility.refit import is_refit
from streams.messages import Message
from streams.reference import build_baseline
from streams.specification import OutcomeSpec


@pytest.fixture(scope="module")
def whole(humble: Any) -> tuple[Any, Any]:
    """The deployment without parts of the traffic, which take longer to be back to normal."""
    asked = humble.spec().humility
    guarantees = dataclasses.replace(asked.guarantees, segment=None)
    spec = dataclasses.replace(humble.spec(), segments=(), humility=dataclasses.replace(asked, guarantees=guarantees))
    rows = humble.rows(5000, seed=1)
    plain = build_baseline(dataclasses.replace(spec, humility=None), "1", [rows], source="sample")
    return spec, humble.fitted(spec, plain)


def drifting(samples: Any, humble: Any, shifts: list[float], first: int = 0) -> list[Any]:
    return [
        samples.message(humble.rows(1500, first=1500 * k, at=75 * k, every=0.05, shift=shift), k)
        for k, shift in enumerate(shifts, start=first)
    ]


def evidence(machine: Any, other_blocks: int) -> tuple[Any, Any]:
    """The records of evidence and slot without humility: its blocks come last."""
    machine.commit()

    def others(fields: Mapping[str, Any]) -> dict[str, Any]:
        kept = {}
        for name, value in fields.items():
            number = name.rpartition("_")[2]
            if not number.isdigit() or int(number) < other_blocks:
                kept[name] = value
        return {name: value for name, value in kept.items() if name != "monitors"}

    return others(machine.records[b"evidence/d@1"]), others(machine.records[b"slot/d@1"])


def alerts(machine: Any) -> list[Any]:
    """Alerts without the humility monitor's, and without what names the baseline in force."""
    found = [dict(alert) for alert in machine.emitted("alerts") if alert["monitor"] != "humility"]
    named = ("baseline_digest", "id", "incident_key")
    return [{name: value for name, value in alert.items() if name not in named} for alert in found]


def incidents(machine: Any, status: str) -> list[str]:
    found = machine.emitted("alerts", status=status)
    return [alert["incident_key"] for alert in found if alert["monitor"] == "data_drift"]


@pytest.mark.parametrize("at", [0, 1, 4, 6, 8, 11])
@pytest.mark.parametrize("restart", [False, True])
def test_evidence_and_alarms_of_all_else_are_those_of_an_undisturbed_run(
    samples: Any, humble: Any, whole: Any, at: int, restart: bool
) -> None:
    spec, baseline = whole
    again = humble.fitted(spec, baseline, source="again", start=0.6)
    assert is_refit(baseline, again)
    messages = drifting(samples, humble, [0, 0, 0, 0, 0.7, 0.7, 0.7, 0, 0, 0, 0, 0, 1, 1])
    calm, refitted = samples.machine(spec, baseline), samples.machine(spec, baseline)
    other_blocks = sum(name != "humility" and name != "miscoverage" for name in blocks_in(calm))
    seen = []
    for number, message in enumerate(messages):
        if number == at:
            refitted.put(again)
            if restart:
                seen += alerts(refitted)
                refitted = refitted.restarted()
        calm.apply(message)
        refitted.apply(message)
        assert evidence(refitted, other_blocks) == evidence(calm, other_blocks)
    statuses = [alert["status"] for alert in alerts(calm) if alert["monitor"] == "data_drift"]
    assert statuses == ["firing", "resolved", "firing"]
    assert seen + alerts(refitted) == alerts(calm)


def blocks_in(machine: Any) -> Any:
    return machine.partition._deployments["d"].versions["1"].monitors.block_of


def test_a_first_fit_loses_nothing_either_and_begins_to_watch(samples: Any, humble: Any, whole: Any) -> None:
    spec, baseline = whole
    streams = tuple(stream for stream in baseline.streams if stream.role != HUMILITY_ROLE)
    plain = dataclasses.replace(baseline, streams=streams, humility=None, digest="")
    plain = dataclasses.replace(plain, digest=plain.content_digest())
    machine = samples.machine(spec, plain)
    messages = drifting(samples, humble, [0, 0, 0, 0.7, 0.7, 0.7])
    machine.apply(*messages[:4])
    assert "humility" not in machine.partition._deployments["d"].versions["1"].monitors.monitors
    before = evidence(machine, 99)[0]["past"]
    machine.put(baseline)
    machine.apply(*messages[4:])
    assert "humility" in machine.partition._deployments["d"].versions["1"].monitors.monitors
    past = evidence(machine, 99)[0]["past"]
    assert past["shape"][0] >= before["shape"][0] > 0
    undisturbed = samples.machine(spec, plain).apply(*messages)
    assert alerts(machine) == alerts(undisturbed)


def test_the_humility_monitor_begins_anew_and_its_alarms_end(samples: Any, humble: Any, whole: Any) -> None:
    spec, baseline = whole
    machine = samples.machine(spec, baseline)
    stale = {"policy": "b" * 64}
    for k in range(3):
        rows = humble.rows(500, first=500 * k, at=50 * k, every=0.1)
        machine.apply(samples.message(humble.decided(spec, baseline, rows, **stale), k))
    machine.put(humble.fitted(spec, baseline, source="again"))
    found = [a for a in machine.emitted("alerts") if a["monitor"] == "humility"]
    assert [alert["status"] for alert in found] == ["firing", "resolved"]
    assert found[0]["incident_key"] == found[1]["incident_key"]
    reasons = [event["reason"] for event in machine.emitted("audit", action="alert.resolved")]
    assert reasons == ["the humility rules were fitted again"]
    monitors = machine.partition._deployments["d"].versions["1"].monitors
    state = monitors.states[monitors.block_of["humility"]]
    assert np.isneginf(state.base).all()
    assert not state.slot_counts.any()
    # another alarm after it has another id
    for k in range(3, 8):
        rows = humble.rows(500, first=500 * k, at=50 * k, every=0.1)
        machine.apply(samples.message(humble.decided(spec, baseline, rows, **stale), k))
    found = [a for a in machine.emitted("alerts") if a["monitor"] == "humility"]
    assert [(alert["status"], alert["episode"]) for alert in found] == [("firing", 1), ("resolved", 1), ("firing", 2)]


def test_an_alarm_that_was_raised_before_a_refit_ends_under_its_own_incident_after_it(
    samples: Any, humble: Any, whole: Any
) -> None:
    spec, baseline = whole
    machine = samples.machine(spec, baseline)
    messages = drifting(samples, humble, [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    machine.apply(*messages[:5])
    machine.put(humble.fitted(spec, baseline, source="again"))
    machine.put(humble.fitted(spec, baseline, source="and again"))
    machine.commit()
    machine = machine.restarted()
    machine.apply(*messages[5:])
    calm = samples.machine(spec, baseline).apply(*messages)
    assert incidents(machine, "resolved") == incidents(calm, "firing") == incidents(calm, "resolved")
    assert len(incidents(calm, "firing")) == 1


def test_drift_windows_are_closed_and_opened_under_the_new_digest(samples: Any, humble: Any, whole: Any) -> None:
    spec, baseline = whole
    again = humble.fitted(spec, baseline, source="again")
    machine = samples.machine(spec, baseline).apply(samples.message(humble.rows(30), 0))
    machine.put(again)
    machine.apply(samples.message(humble.rows(20, first=30, at=30), 1))
    machine.apply(samples.message(humble.rows(1, first=900, at=900), 2))
    machine.commit()
    found = [e.record for e in machine.emissions if e.record_name == "WindowSummary" and e.record["status"] == "final"]
    assert [(w["rows"], w["baseline_digest"]) for w in found] == [(30, baseline.digest), (20, again.digest)]
    assert all(stream["role"] != HUMILITY_ROLE for window in found for stream in window["streams"])


def test_a_baseline_that_differs_in_more_is_no_refit(samples: Any, humble: Any, whole: Any) -> None:
    spec, baseline = whole
    plain = build_baseline(dataclasses.replace(spec, humility=None), "1", [humble.rows(5000, seed=2)], source="other")
    assert not is_refit(baseline, humble.fitted(spec, plain))
    assert not is_refit(plain, dataclasses.replace(plain, source="elsewhere"))
    machine = samples.machine(spec, baseline).apply(*drifting(samples, humble, [0, 0, 0, 1]))
    machine.put(humble.fitted(spec, plain))
    ended = machine.emitted("alerts", status="resolved")
    assert {alert["monitor"] for alert in ended} >= {"data_drift"}


def test_predictions_that_wait_through_a_refit_are_evidence_of_outcomes_all_the_same(
    samples: Any, humble: Any, whole: Any
) -> None:
    spec = dataclasses.replace(whole[0], outcomes=OutcomeSpec(horizon_ms=600_000, window_ms=60_000))
    past = humble.rows(5000, seed=1)
    plain = dataclasses.replace(spec, humility=None)
    built = build_baseline(plain, "1", [past], source="sample", outcomes=[told(past, False)])
    baseline = humble.fitted(spec, built)
    calm, refitted = samples.machine(spec, baseline), samples.machine(spec, baseline)
    other_blocks = sum(name not in ("humility", "miscoverage") for name in blocks_in(calm))
    batches = [humble.rows(400, first=400 * k, at=60 * k, every=0.15) for k in range(8)]
    for k, rows in enumerate(batches):
        messages = [samples.message(rows, k)]
        if k:
            outcomes = told(batches[k - 1], inverted=k > 3)
            at_ms = int(outcomes.actual_timestamps_us.max()) // 1000
            record = encode("OutcomeBatch", outcomes.to_record())
            messages.append(Message(samples.topics.outcomes, 0, k - 1, at_ms, b"d", record))
        if k == 4:  # the outcomes of the batch before are still to come
            refitted.put(humble.fitted(spec, baseline, source="again"))
            refitted.commit()
            refitted = restarted(refitted)
        calm.apply(*messages)
        refitted.apply(*messages)
        assert evidence(refitted, other_blocks) == evidence(calm, other_blocks)
    assert "concept_drift" in {alert["monitor"] for alert in alerts(calm)}
    monitors = calm.partition._deployments["d"].versions["1"].monitors
    assert monitors.states[monitors.block_of["outcome"]].slot_counts.any()


def restarted(machine: Any) -> Any:
    emissions = machine.emissions
    again = machine.restarted()
    again.emissions = list(emissions)
    return again


def told(columns: Any, inverted: bool) -> OutcomeColumns:
    rng = np.random.default_rng(columns.rows)
    yes = rng.random(columns.rows) < (1 - columns.prediction if inverted else columns.prediction)
    return OutcomeColumns(
        columns.deployment_id,
        list(columns.prediction_ids),
        columns.timestamps_us + 30_000_000,
        actual_label=CategoricalColumn(["no", "yes"], yes.astype(np.int32)),
    )


def test_switching_humility_off_and_on_again_is_no_matter_of_other_evidence(
    samples: Any, humble: Any, whole: Any
) -> None:
    spec, baseline = whole
    calm, switched = samples.machine(spec, baseline), samples.machine(spec, baseline)
    other_blocks = sum(name not in ("humility", "miscoverage") for name in blocks_in(calm))
    for number, message in enumerate(drifting(samples, humble, [0, 0, 0, 0.7, 0.7, 0])):
        if number in (1, 4):
            asked = None if number == 1 else spec.humility
            switched.put(dataclasses.replace(spec, humility=asked, revision=number + 1))
        calm.apply(message)
        switched.apply(message)
        assert evidence(switched, other_blocks) == evidence(calm, other_blocks)
    monitors = switched.partition._deployments["d"].versions["1"].monitors
    assert np.isfinite(monitors.states[monitors.block_of["humility"]].base).any()
