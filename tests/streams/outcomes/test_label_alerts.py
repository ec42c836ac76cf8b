"""An alert about labels says at which age they were looked for."""

import numpy as np

from streams.alerts import alert_fired
from streams.baseline import Baseline, BaselineStream
from streams.derived import Derived
from streams.messages import Message
from streams.monitor import Monitors
from streams.specification import DeploymentSpec, FalseAlarmBudget, OutcomeSpec
from streams.statistics.layouts import CATEGORICAL, CategoricalBins
from streams.statistics.tilts import tilts_of

HOUR_US = 3_600_000_000
SPEC = DeploymentSpec(
    "d", "m", "other", (), false_alarms=FalseAlarmBudget(scope="deployment"), outcomes=OutcomeSpec(86_400_000)
)
KNOWN_AND_OPEN = np.bincount([0, 1], [6_000, 4_000], CATEGORICAL.size).astype(np.int64)


def test_every_cause_among_labels_names_its_age() -> None:
    tempering = np.ones(tilts_of(CATEGORICAL).size, np.float32)
    bins = CategoricalBins(("known", "open"))
    streams = tuple(
        BaselineStream(f"labels:{j}", "labels", CATEGORICAL, bins, KNOWN_AND_OPEN, 0.02, tempering) for j in (1, 2)
    )
    ages = Derived("labels", "labels", (), {"ages_us": np.array([2.0 * HOUR_US, 30.0 * HOUR_US])})
    monitors = Monitors(SPEC, Baseline("d", "1", 10_000, streams, derived=(ages,)), 0, 0)
    monitors.start(0, 0, 0.0)
    (block,) = monitors.blocks
    none_known = np.zeros((len(block.streams), CATEGORICAL.size), np.int64)
    none_known[:, 1] = 500
    monitors.count([none_known])
    (alarm,) = monitors.alarms(HOUR_US)
    (emission, _) = alert_fired(SPEC, monitors, alarm, Message("outcomes", 0, 7, 0, None, None), None)
    assert emission.record["monitor"] == "labels"
    assert {cause["stream"]: cause["interval_ms"] for cause in emission.record["causes"]} == {
        "labels:1": 7_200_000,
        "labels:2": 108_000_000,
    }
