"""The sequence of CapyMOA's notebook on drift detection: 1,000 draws from {0, 1}, then 1,000 from {6, ..., 11}.

https://github.com/adaptive-machine-learning/CapyMOA, notebooks/02_drift/01_drift_detection.py; its seed makes it
exactly reproducible. The published detections of CapyMOA's detectors stand beside ours and river's.

Ours runs whole: a baseline is built from 5,000 earlier draws of {0, 1}, and the worker's state machine gets one event
a minute, with the default budget of one false alarm in 30 days for the fleet. Values beyond the range of the reference
are a matter of data quality and of the distribution: two of its monitors alarm, each once.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bench.detection.machine import Machine
from bench.report import Figure, figure, print_table
from driftline.events import Floats, PredictionColumns
from streams.detectors import DETECTORS, NUMBERS, build_detector, signals, takes
from streams.reference import build_baseline
from streams.specification import NUMERIC, DeploymentSpec, DetectorSpec, FeatureSpec

CHANGE = 1_000
LATEST = 1_005
REFERENCE = 5_000
MINUTE_US = 60_000_000
START_US = 1_699_999_200_000_000

PUBLISHED = {
    "CUSUM": (1_005, 2),
    "DDM": (1_004, 1),
    "EWMAChart": (1_001, 1),
    "GeometricMovingAverage": (1_014, 1),
    "HDDMAverage": (1_004, 123),
    "HDDMWeighted": (1_001, 86),
    "PageHinkley": (1_007, 1),
    "STEPD": (1_001, 1),
    "SEED": (1_024, 2),
    "ADWIN, delta .001": (1_024, 2),
}
"""CapyMOA's detectors: first detection, in samples, and number of detections, as the notebook prints them."""


def sequence() -> Floats:
    """The notebook's own lines."""
    rng = np.random.default_rng(42)
    values = rng.integers(0, 2, size=2 * CHANGE).astype(np.float64)
    values[CHANGE:] = rng.integers(6, 12, size=CHANGE)
    return values


def ours(seed: int, values: Floats, *, margins: bool) -> dict[str, list[int]]:
    """By monitor the samples, counted from 1, at which it alarms; ``margins``: the default ones, or as small as the
    reference allows.
    """
    spec = DeploymentSpec("sequence", "model", "regression", (FeatureSpec("x", NUMERIC),))
    if not margins:
        spec = dataclasses.replace(spec, margin_tv=0.0, quality_margin_tv=0.0)
    reference = np.random.default_rng([seed, 1]).integers(0, 2, size=REFERENCE).astype(np.float64)
    machine = Machine(spec, build_baseline(spec, "1", [_events(reference, -REFERENCE)], source="earlier draws"))
    found: dict[str, list[int]] = {}
    for at in range(len(values)):
        for alarm in machine.apply(_events(values[at : at + 1], at)):
            found.setdefault(alarm["monitor"], []).append(at + 1)
    return found


def _events(values: Floats, first: int) -> PredictionColumns:
    return PredictionColumns(
        "sequence",
        "1",
        [str(at) for at in range(first, first + len(values))],
        START_US + MINUTE_US * np.arange(first, first + len(values), dtype=np.int64),
        {"x": values},
    )


def measure(seed: int, quick: bool) -> list[Figure]:
    """Ours, river's and the published detections."""
    del quick  # it takes seconds
    values = sequence()
    rows = [("never fires", "never", 0), ("always fires", "1", len(values))]
    strict = ours(seed, values, margins=False)
    usual = ours(seed, values, margins=True)
    for name, found in (("no margins but the reference's", strict), ("default margins", usual)):
        rows += [(f"ours, {name}: {monitor}", f"{at[0]:,}", len(at)) for monitor, at in found.items()]
    for name in DETECTORS:
        if takes(name) == NUMBERS:
            signalled = signals(build_detector(DetectorSpec(name, "x")), values)
            rows.append((f"river: {name}", f"{signalled[0] + 1:,}" if signalled else "never", len(signalled)))
    rows += [(f"CapyMOA: {name}, published", f"{at:,}", count) for name, (at, count) in PUBLISHED.items()]
    print_table(
        "CapyMOA's sequence: 1,000 samples of {0, 1}, then {6, …, 11}", ("detector", "first alarm at", "alarms"), rows
    )
    return [
        figure(
            "CapyMOA's sequence: sample of the first alarm",
            min((at[0] for at in strict.values()), default=2 * CHANGE),
            "",
            at_most=LATEST,
            note=f"the change is at {CHANGE:,}; with the default margins {min(at[0] for at in usual.values()):,}",
        ),
        figure(
            "CapyMOA's sequence: alarms before the change",
            sum(alarm <= CHANGE for at in (*strict.values(), *usual.values()) for alarm in at),
            "alarms",
            at_most=0,
        ),
        figure(
            "CapyMOA's sequence: alarms of a monitor",
            max(len(at) for at in (*strict.values(), *usual.values())),
            "alarms",
            at_most=1,
            note=", ".join(f"{monitor} at {at[0]:,}" for monitor, at in strict.items()),
        ),
    ]
