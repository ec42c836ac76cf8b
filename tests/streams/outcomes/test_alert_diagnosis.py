"""The diagnosis in the records of alerts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy.special import expit

from driftline.codec import decode, encode
from streams.alerts import alert_fired, alert_resolved, diagnosis_of
from streams.baseline import FEATURE, BaselineStream
from streams.messages import Message
from streams.monitor import Monitors
from streams.outcomes.evidence import INPUTS, RELATION
from streams.specification import DATA_DRIFT, FeatureSpec
from streams.statistics.layouts import NUMERIC, NumericBins, fit_numeric
from streams.statistics.tilts import NUMERIC_TILTS

MESSAGE = Message("t.outcomes", 0, 7, 1_700_000_000_000, b"d", b"x")


def test_a_firing_alert_of_concept_drift_carries_its_diagnosis_and_a_resolving_one_none(law: Any) -> None:
    spec, baseline = law.spec(), law.baseline()
    pairs = law.draw(np.random.default_rng(1), 3_000, relation=lambda z: 1 - expit(z))
    ((_, alarm, monitors), *_) = law.alarms(spec, baseline, pairs)
    emission, _ = alert_fired(spec, monitors, alarm, MESSAGE, None)
    record = decode(encode("Alert", dict(emission.record)))[1]
    diagnosis = diagnosis_of(spec, monitors, alarm)
    assert record["monitor"] == "concept_drift"
    assert (record["diagnosis"], record["diagnosis_probability"]) == (RELATION, diagnosis.probability)
    assert record["diagnosis_reason"] == diagnosis.reason
    assert "sure" in record["diagnosis_reason"]
    resolved, _ = alert_resolved(spec, monitors, alarm.monitor, alarm.episode, MESSAGE, 1, None)
    record = decode(encode("Alert", dict(resolved.record)))[1]
    assert [record[f"diagnosis{part}"] for part in ("", "_probability", "_reason")] == ["", None, ""]


def with_feature(law: Any) -> tuple[Any, Any]:
    """The deployment with a watched input besides."""
    spec = dataclasses.replace(law.spec(), features=(FeatureSpec("x", "numeric"),))
    values = np.random.default_rng(1).normal(size=20_000)
    bins = fit_numeric(values)
    counts = np.bincount(np.searchsorted(bins.edges, values, "right").clip(1, 12), minlength=NUMERIC.size)
    tempering = np.ones(len(NUMERIC_TILTS.shapes), np.float32)
    stream = BaselineStream("x", FEATURE, NUMERIC, bins, counts.astype(np.int64), 0.02, tempering)
    baseline = law.baseline()
    return spec, dataclasses.replace(baseline, streams=(stream, *baseline.streams))


def test_alarms_of_other_monitors_have_none_and_open_ones_make_inputs_likelier(law: Any) -> None:
    spec, baseline = with_feature(law)
    assert isinstance(baseline.streams[0].bins, NumericBins)
    monitors = Monitors(spec, baseline, 0, 0)
    monitors.start(0, 0, 0.0)
    moved = np.zeros(NUMERIC.size, np.int64)
    moved[3] = 2_000
    monitors.states[0].slot_counts += moved
    (alarm,) = monitors.alarms(1)
    assert alarm.monitor.name == DATA_DRIFT
    assert alarm.joint_counts is None
    record = alert_fired(spec, monitors, alarm, MESSAGE, None)[0].record
    assert record["diagnosis"] == record["diagnosis_reason"] == ""
    assert record["diagnosis_probability"] is None
    assert monitors.is_alarmed(DATA_DRIFT)
    pairs = law.draw(np.random.default_rng(2), 4_000, inputs=0.8)
    told = {}
    for name, each in (("open", monitors), ("none", Monitors(spec, baseline, 0, 0))):
        ((_, concept, _), *_) = law.alarms(spec, baseline, pairs, monitors=each)
        told[name] = diagnosis_of(spec, each, concept)
    assert told["open"].kind == told["none"].kind == INPUTS
    assert told["open"].probability >= told["none"].probability
