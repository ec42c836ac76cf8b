"""Known detectors that follow outcomes: they see errors, losses and residuals in the order in which outcomes come."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift

from driftline.codec import decode, encode
from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from driftline.topics import record_key
from streams.detectors import describe_detector, outcome_streams
from streams.followers import QUIET_VALUES
from streams.messages import Message
from streams.specification import (
    BINARY,
    MULTICLASS,
    OTHER_TASK,
    REGRESSION,
    DeploymentSpec,
    DetectorSpec,
    OutcomeSpec,
)

CLASSES = ("high", "low", "mid")
HOUR_MS = 3_600_000
EARLY_RATE, LATE_RATE = 0.05, 0.6
OWN = {
    "ddm": drift.binary.DDM,
    "eddm": drift.binary.EDDM,
    "hddm_a": drift.binary.HDDMA,
    "hddm_w": drift.binary.HDDMW,
    "adwin": drift.ADWIN,
    "page_hinkley": drift.PageHinkley,
}
FOLLOWED = [
    (BINARY, DetectorSpec("ddm", "error")),
    (BINARY, DetectorSpec("eddm", "error")),
    (BINARY, DetectorSpec("adwin", "loss")),
    (MULTICLASS, DetectorSpec("hddm_a", "error")),
    (MULTICLASS, DetectorSpec("hddm_w", "error")),
    (MULTICLASS, DetectorSpec("page_hinkley", "loss")),
    (REGRESSION, DetectorSpec("page_hinkley", "residual")),
    (REGRESSION, DetectorSpec("adwin", "loss")),
]
NAMES = [f"{task}-{spec.detector}-{spec.stream}" for task, spec in FOLLOWED]


def specification(samples: Any, task: str, *detectors: DetectorSpec, **changes: Any) -> DeploymentSpec:
    spec: DeploymentSpec = samples.spec(
        "scored",
        task=task,
        positive_class="yes" if task == BINARY else None,
        outcomes=OutcomeSpec(24 * HOUR_MS, classes=CLASSES if task == MULTICLASS else ()),
        detectors=detectors,
    )
    return dataclasses.replace(spec, **changes)


class Traffic:
    """Predictions and what turned out: from the middle on the model is wrong far more often."""

    def __init__(self, samples: Any, task: str, rows: int, seed: int) -> None:
        rng = np.random.default_rng([seed, rows])
        self.samples, self.task, self.rows = samples, task, rows
        self.wrong = rng.random(rows) < np.where(np.arange(rows) < rows // 2, EARLY_RATE, LATE_RATE)
        self.said = rng.integers(0, 2 if task == BINARY else 3, rows)
        self.sure = rng.uniform(0.6, 0.95, rows)
        self.scores = np.round(rng.normal(20.0, 5.0, rows), 3)
        self.actual = (self.said + self.wrong) % (2 if task == BINARY else 3)
        self.value = self.scores + rng.normal(size=rows) + 4.0 * self.wrong
        jumbled = np.argsort(np.arange(rows) + rng.uniform(0, 40, rows), kind="stable")
        self.arrival = jumbled.astype(np.int64)
        self.times_us = samples.t0 + np.arange(rows) * samples.second
        self.known_us = np.zeros(rows, np.int64)
        self.known_us[self.arrival] = samples.t0 + (rows + np.arange(rows)) * samples.second

    def predictions(self, rows: Any) -> PredictionColumns:
        """Some of them."""
        plain: PredictionColumns = self.samples.rows(self.rows, deployment_id="scored")
        chosen = self.samples.part(plain, rows)
        at = np.arange(self.rows)[rows]
        if self.task == REGRESSION:
            return dataclasses.replace(chosen, prediction=self.scores[at])
        if self.task == BINARY:
            sure = np.where(self.said == 1, self.sure, 1 - self.sure)
            return dataclasses.replace(chosen, prediction=sure[at])
        shares = {
            name: np.where(self.said == code, self.sure, (1 - self.sure) / 2)[at] for code, name in enumerate(CLASSES)
        }
        labels = CategoricalColumn.from_values([CLASSES[code] for code in self.said[at]])
        return dataclasses.replace(chosen, prediction=None, class_probabilities=shares, prediction_label=labels)

    def outcomes(self, at: Any, *, corrected: bool = False) -> OutcomeColumns:
        """The outcomes of some predictions, by index, in this order; corrected ones became known later."""
        names = ("no", "yes") if self.task == BINARY else CLASSES
        late_us = self.samples.second if corrected else 0
        actual = (self.actual[at] + corrected) % len(names)
        return OutcomeColumns(
            "scored",
            [str(row) for row in at],
            self.known_us[at] + late_us,
            self.value[at] + 100.0 * corrected if self.task == REGRESSION else None,
            None if self.task == REGRESSION else CategoricalColumn.from_values([names[code] for code in actual]),
        )

    def expected(self, stream: str, order: Any) -> np.ndarray:
        """The values that a detector should see, straight from what was made up."""
        if self.task == REGRESSION:
            values = self.value - self.scores
            return (np.abs(values) if stream == "loss" else values)[order]
        if stream == "error":
            return self.wrong.astype(np.float64)[order]
        left = 1 if self.task == BINARY else 2
        other = (1 - self.sure) / left
        return -np.log(np.where(self.wrong, other, self.sure))[order]


def outcome_message(samples: Any, columns: OutcomeColumns, offset: int, **changes: Any) -> Message:
    """The message outcomes travel in; the log's time is that of the last that became known."""
    message = Message(
        samples.topics.outcomes,
        0,
        offset,
        int(columns.actual_timestamps_us.max()) // 1000,
        record_key(columns.deployment_id),
        encode("OutcomeBatch", columns.to_record()),
    )
    return dataclasses.replace(message, **changes)


def messages_of(samples: Any, traffic: Traffic, cuts: list[int]) -> tuple[list[Message], np.ndarray]:
    """What is published, and the predictions in the order in which their first outcome meets them.

    A tenth of the outcomes come before their prediction; some come again, and some are corrected.
    """
    half = traffic.rows // 2
    early = np.arange(half, half + traffic.rows // 10)
    later = traffic.arrival[~np.isin(traffic.arrival, early)]
    log = [
        samples.message(traffic.predictions(slice(0, half)), 0),
        outcome_message(samples, traffic.outcomes(early), 0),
        samples.message(traffic.predictions(slice(half, None)), 1),
    ]
    edges = [0, *sorted(set(cuts)), len(later)]
    for offset, (low, high) in enumerate(pairwise(edges), start=1):
        part = later[low:high]
        log.append(outcome_message(samples, traffic.outcomes(part), 3 * offset - 2))
        log.append(outcome_message(samples, traffic.outcomes(part[::5]), 3 * offset - 1))
        log.append(outcome_message(samples, traffic.outcomes(part[::7], corrected=True), 3 * offset))
    return log, np.concatenate([early, later])


def facts_of(machine: Any) -> dict[str, Any]:
    machine.commit()
    followers = json.loads(machine.records[b"detectors/scored@1"]["state"])["followers"]
    return {each["stream"]: each for each in followers}


def signals_of(spec: DetectorSpec, values: np.ndarray) -> list[int]:
    """Where river's own signals."""
    own, found = OWN[spec.detector](), []
    for index, value in enumerate(values.tolist()):
        own.update(value)
        if own.drift_detected:
            found.append(index)
    return found


@pytest.mark.parametrize(("task", "detector"), FOLLOWED, ids=NAMES)
def test_it_signals_where_rivers_own_does_on_the_raw_values_in_order_of_arrival(
    samples: Any, task: str, detector: DetectorSpec
) -> None:
    traffic = Traffic(samples, task, 1600, seed=3)
    spec = specification(samples, task, detector)
    machine = samples.machine(spec, samples.baseline(spec))
    log, order = messages_of(samples, traffic, [101, 102, 500, 1100])
    machine.apply(*log)
    expected = signals_of(detector, traffic.expected(detector.stream, order))
    assert expected, "the twin: there is something to signal"
    facts = facts_of(machine)[detector.stream]
    assert (facts["followed"], facts["skipped"], facts["signals"]) == (1600, 0, len(expected))
    fired = machine.emitted("alerts", monitor=f"detector:{detector.detector}:{detector.stream}", status="firing")
    starts = [
        at for at, last in zip(expected, [-QUIET_VALUES - 1, *expected], strict=False) if at - last > QUIET_VALUES
    ]
    assert [alert["change_time_us"] for alert in fired] == [int(traffic.known_us[order[at]]) for at in starts]
    for alert in fired:
        decode(encode("Alert", alert))
        assert alert["severity"] == "info"
        assert alert["false_alarms"] == describe_detector(detector)
        assert {place["topic"] for place in alert["evidence_offsets"]} <= {
            samples.topics.outcomes,
            samples.topics.predictions,
        }


@settings(max_examples=12, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 500), max_size=5), stop=st.integers(0, 14), task=st.sampled_from([BINARY, REGRESSION])
)
def test_a_restart_continues_as_if_nothing_had_happened(samples: Any, cuts: list[int], stop: int, task: str) -> None:
    traffic = Traffic(samples, task, 600, seed=5)
    spec = specification(samples, task, *(DetectorSpec("adwin", name) for name in ("loss", *_own(task))))
    log, _ = messages_of(samples, traffic, cuts)
    straight, stopped = (samples.machine(spec, samples.baseline(spec)) for _ in range(2))
    straight.apply(*log)
    stopped.apply(*log[:stop])
    stopped.commit()
    before = list(stopped.emissions)
    restarted = stopped.restarted()
    restarted.apply(*log[stop:])
    assert facts_of(restarted) == facts_of(straight)
    assert facts_of(straight)["loss"]["signals"] > 0
    found = [e.record for e in [*before, *restarted.emissions] if e.topic == "alerts"]
    assert found == [e.record for e in straight.emissions if e.topic == "alerts"]


def _own(task: str) -> tuple[str, ...]:
    return ("residual",) if task == REGRESSION else ("error",)


@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(1, 500), max_size=6))
def test_any_split_into_messages_gives_the_same_values(samples: Any, cuts: list[int]) -> None:
    traffic = Traffic(samples, BINARY, 600, seed=7)
    spec = specification(samples, BINARY, DetectorSpec("ddm", "error"), DetectorSpec("adwin", "loss"))
    found = []
    for at in ([], cuts):
        log, _ = messages_of(samples, traffic, at)
        facts = facts_of(samples.machine(spec, samples.baseline(spec)).apply(*log))
        for each in facts.values():
            each["incident"] = each["incident"] and each["incident"][3:5]
        found.append(facts)
    assert found[0] == found[1]


def test_a_feature_of_the_same_name_that_nobody_declared_is_not_taken_for_an_outcome(samples: Any) -> None:
    spec = specification(samples, BINARY, DetectorSpec("ddm", "error"), DetectorSpec("adwin", "loss"))
    rows = samples.rows(200, deployment_id="scored")
    foreign = {"error": np.ones(200), "loss": np.arange(200.0)}
    machine = samples.machine(spec, samples.baseline(spec))
    machine.apply(samples.message(dataclasses.replace(rows, numeric={**rows.numeric, **foreign}), 0))
    machine.commit()
    assert b"detectors/scored@1" not in machine.records
    machine.apply(outcome_message(samples, Traffic(samples, BINARY, 200, seed=1).outcomes(np.arange(50)), 0))
    assert {name: each["followed"] for name, each in facts_of(machine).items()} == {"error": 50, "loss": 50}


def test_features_and_outcomes_are_followed_side_by_side(samples: Any) -> None:
    traffic = Traffic(samples, BINARY, 600, seed=9)
    both = (DetectorSpec("ddm", "error"), DetectorSpec("adwin", "x"), DetectorSpec("adwin", "prediction"))
    spec = specification(samples, BINARY, *both)
    log, _ = messages_of(samples, traffic, [200])
    facts = facts_of(samples.machine(spec, samples.baseline(spec)).apply(*log))
    assert {name: each["followed"] for name, each in facts.items()} == {"error": 600, "x": 600, "prediction": 600}


def test_an_incident_ends_when_it_is_no_longer_asked_for_and_names_where_it_began(samples: Any) -> None:
    traffic = Traffic(samples, BINARY, 600, seed=11)
    spec = specification(samples, BINARY, DetectorSpec("adwin", "error"))
    machine = samples.machine(spec, samples.baseline(spec))
    log, _ = messages_of(samples, traffic, [])
    machine.apply(*log)
    machine.put(dataclasses.replace(spec, detectors=()))
    fired, over = machine.emitted("alerts", monitor="detector:adwin:error")
    assert (fired["status"], over["status"]) == ("firing", "resolved")
    assert fired["incident_key"] == over["incident_key"]
    (place,) = over["evidence_offsets"]
    assert place == {**fired["evidence_offsets"][0], "last_offset": place["first_offset"]}
    assert place["topic"] == samples.topics.outcomes
    machine.commit()
    assert b"detectors/scored@1" not in machine.records


def test_outcomes_of_predictions_made_under_an_earlier_baseline_are_followed_as_well(samples: Any) -> None:
    traffic = Traffic(samples, BINARY, 600, seed=13)
    spec = specification(samples, BINARY, DetectorSpec("ddm", "error"))
    machine = samples.machine(spec, samples.baseline(spec))
    log, _ = messages_of(samples, traffic, [])
    machine.apply(*log[:3])
    machine.put(samples.baseline(spec, seed=2))
    machine.apply(*log[3:])
    assert facts_of(machine)["error"]["followed"] == 600


def test_a_pair_without_what_a_stream_needs_is_passed_over(samples: Any) -> None:
    spec = specification(samples, MULTICLASS, DetectorSpec("ddm", "error"), DetectorSpec("adwin", "loss"))
    machine = samples.machine(spec, samples.baseline(spec))
    traffic = Traffic(samples, MULTICLASS, 100, seed=15)
    predicted = dataclasses.replace(traffic.predictions(slice(None)), class_probabilities={})
    machine.apply(samples.message(predicted, 0), outcome_message(samples, traffic.outcomes(traffic.arrival), 0))
    facts = facts_of(machine)
    assert (facts["error"]["followed"], facts["loss"]["followed"]) == (100, 0)


@pytest.mark.parametrize(
    ("task", "names"),
    [
        (BINARY, ("error", "loss")),
        (MULTICLASS, ("error", "loss")),
        (REGRESSION, ("loss", "residual")),
        (OTHER_TASK, ()),
    ],
)
def test_the_streams_that_can_be_followed_are_those_of_the_task(samples: Any, task: str, names: Any) -> None:
    spec = specification(samples, task)
    assert outcome_streams(spec) == names
    assert outcome_streams(dataclasses.replace(spec, outcomes=None)) == ()
