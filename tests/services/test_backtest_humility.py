"""Back-tests of deployments whose publishers decided by humility rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftline.codec import encode
from driftline.events import PredictionColumns
from driftline.humility.rules import Condition, HumilitySpec, Rule
from driftline.settings import KafkaSettings
from driftline.topics import record_key
from services.backtest.findings import Range
from services.backtest.past import Past
from services.backtest.replay import Replay
from services.backtest.settings import WhatIf
from streams.baseline import Baseline
from streams.humility.judge import policy_of
from streams.messages import Message
from streams.reference import build_baseline
from streams.specification import DeploymentSpec, FeatureSpec

SETTINGS = KafkaSettings("localhost:1")
T0 = 1_750_000_000_000_000


@dataclasses.dataclass(frozen=True)
class Changed(WhatIf):
    """Other rules in the place of those that were in force."""

    rules: HumilitySpec | None = None

    def spec(self, recorded: DeploymentSpec) -> DeploymentSpec:
        return dataclasses.replace(recorded, humility=self.rules)


def far(high: float) -> HumilitySpec:
    return HumilitySpec((Rule("far", Condition("outlying_input", columns=("x",), high=high), "refuse"),))


def rows(count: int, first: int = 0) -> PredictionColumns:
    values = np.random.default_rng(first).normal(size=count)
    times = T0 + (first + np.arange(count)) * 1_000_000
    return PredictionColumns("d", "1", [str(first + row) for row in range(count)], times, {"x": values})


@pytest.fixture(scope="module")
def recorded() -> tuple[DeploymentSpec, Baseline]:
    spec = DeploymentSpec("d", "m", "other", (FeatureSpec("x", "numeric"),), window_ms=60_000, humility=far(2.0))
    return spec, build_baseline(dataclasses.replace(spec, humility=None), "1", [rows(2000, 10**6)], source="test")


def replayed(recorded: Any, what_if: WhatIf, folder: Path) -> Iterator[Any]:
    """The humility windows of a replay of rows that were decided by the rules recorded."""
    spec, baseline = recorded
    policy = policy_of(spec, baseline)
    assert policy is not None
    past = Past(SETTINGS, "d", {spec.digest(): (spec, 0)}, {baseline.digest: (baseline, 0)})
    replay = Replay(SETTINGS, 0, past, what_if, Range(), folder)
    replay._put_in_force(spec.digest())
    replay._put_in_force(baseline.digest)
    batch = rows(60)
    decided = dataclasses.replace(batch, humility=policy.decide_columns(batch).to_columns(policy))
    for offset, columns in enumerate((decided, rows(1, 10_000))):
        value, at_ms = encode("PredictionBatch", columns.to_record()), int(columns.timestamps_us.max()) // 1000
        replay._apply(Message(SETTINGS.topics.predictions, 0, offset, at_ms, record_key("d"), value))
    for emission in replay._partition.take()[1]:
        if emission.record_name == "HumilityWindow" and emission.record["status"] == "final":
            yield emission.record["parts"][0]


def test_with_the_rules_that_were_in_force_decisions_are_those_of_the_publishers(recorded: Any, tmp_path: Path) -> None:
    parts = list(replayed(recorded, WhatIf(), tmp_path))
    assert sum(part["decided"] for part in parts) == 60
    assert sum(part["fired"][0] for part in parts) == int((rows(60).numeric["x"] > 2).sum())


def test_other_rules_are_tried_as_if_publishers_had_decided_by_them(recorded: Any, tmp_path: Path) -> None:
    parts = list(replayed(recorded, Changed(rules=far(0.5)), tmp_path))
    assert [sum(part[name] for part in parts) for name in ("decided", "stale", "disagreeing")] == [0, 0, 0]
    over = int((rows(60).numeric["x"] > 0.5).sum())
    assert sum(part["fired"][0] for part in parts) == sum(part["actions"][2] for part in parts) == over


def test_without_rules_nothing_is_decided(recorded: Any, tmp_path: Path) -> None:
    assert not list(replayed(recorded, Changed(rules=None), tmp_path))
