"""Coverage of adaptive intervals through the whole state machine: outcomes come late, and may be chosen against it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from driftline.codec import encode
from driftline.events import OutcomeColumns, PredictionColumns
from driftline.humility.fit import ABSOLUTE_RESIDUAL, CoverageStart, HumilityFit
from driftline.humility.rules import Guarantees, HumilitySpec
from driftline.topics import record_key
from streams.baseline import HUMILITY_ROLE, Baseline, BaselineStream
from streams.counting import MISCOVERAGE, MISCOVERAGE_BLOCK
from streams.messages import Message
from streams.outcomes.humility import COVERED, MISSED
from streams.reference import build_baseline
from streams.specification import HUMILITY, REGRESSION, DeploymentSpec, FeatureSpec, OutcomeSpec
from streams.statistics.humility import tracker_bound
from streams.statistics.layouts import CATEGORICAL, CategoricalBins
from streams.statistics.performance.metrics import metrics
from streams.statistics.performance.sums import from_fields, merge
from streams.statistics.tilts import tilts_of

MINUTE_US = 60_000_000
BATCH = 20
RANGE, STEP, START = 10.0, 0.1, 5.0
HORIZON_MS = 3 * 3_600_000

SPEC = DeploymentSpec(
    "d",
    "m",
    REGRESSION,
    (FeatureSpec("x", "numeric"),),
    outcomes=OutcomeSpec(horizon_ms=HORIZON_MS, window_ms=3_600_000),
    start_slot_ms=10 * 60_000,
    humility=HumilitySpec((), Guarantees(coverage=0.9)),
)


def fitted(baseline: Baseline, start: float = START) -> Baseline:
    """The baseline with a fit that has one group, and the stream of what its static interval misses."""
    assert SPEC.humility is not None
    fit = HumilityFit(
        SPEC.humility.digest(),
        "test",
        1_000,
        500,
        0,
        1,
        0.95,
        coverage=0.9,
        coverage_score=ABSOLUTE_RESIDUAL,
        score_range=RANGE,
        step=STEP,
        coverage_starts=(CoverageStart("", 500, start),),
    )
    counts = np.zeros(CATEGORICAL.size, np.int64)
    counts[[MISSED, COVERED]] = 200, 1_800
    flat = np.ones(tilts_of(CATEGORICAL).size, np.float32)
    stream = BaselineStream(MISCOVERAGE, HUMILITY_ROLE, CATEGORICAL, CategoricalBins(("yes", "no")), counts, 0.02, flat)
    others = tuple(each for each in baseline.streams if each.role != HUMILITY_ROLE)
    changed = dataclasses.replace(baseline, humility=fit, streams=(*others, stream), digest="")
    return dataclasses.replace(changed, digest=changed.content_digest())


@pytest.fixture(scope="module")
def plain(samples: Any) -> Baseline:
    """A baseline that humility was not fitted for."""
    rng = np.random.default_rng(1)
    ids = [f"r{i}" for i in range(600)]
    times = samples.t0 - 48 * 60 * MINUTE_US + np.arange(600) * MINUTE_US
    said = PredictionColumns("d", "1", ids, times, {"x": rng.normal(size=600)}, prediction=np.zeros(600))
    told = OutcomeColumns("d", ids, times + MINUTE_US, actual_value=rng.normal(size=600))
    without = dataclasses.replace(SPEC, humility=None)
    return build_baseline(without, "1", [said], source="test", outcomes=[told])


class Service:
    """A service that predicts 0 every few seconds; what turns out is up to somebody else, and comes later."""

    def __init__(self, samples: Any, *in_force: DeploymentSpec | Baseline) -> None:
        self.topics, self.t0 = samples.topics, samples.t0
        self.machine = samples.machine(*in_force)
        self.offsets = {self.topics.predictions: 0, self.topics.outcomes: 0}
        self.rng = np.random.default_rng(5)
        self.steps = 0

    def _send(self, columns: PredictionColumns | OutcomeColumns, at_us: int) -> None:
        said = isinstance(columns, PredictionColumns)
        topic = self.topics.predictions if said else self.topics.outcomes
        value = encode("PredictionBatch" if said else "OutcomeBatch", columns.to_record())
        message = Message(topic, 0, self.offsets[topic], at_us // 1000, record_key("d"), value)
        self.machine.apply(message)
        self.offsets[topic] += 1

    def ids(self, step: int) -> list[str]:
        return [f"{step}/{row}" for row in range(BATCH)]

    def times(self, step: int) -> Any:
        return self.t0 + step * MINUTE_US + np.arange(BATCH) * 1_000_000

    def predict(self) -> None:
        """Another minute's predictions."""
        times = self.times(self.steps)
        x = {"x": self.rng.normal(size=BATCH)}
        said = PredictionColumns("d", "1", self.ids(self.steps), times, x, prediction=np.zeros(BATCH))
        self._send(said, int(times[-1]))
        self.steps += 1

    def tell(self, step: int, actual: Any) -> None:
        """What turned out of a minute's predictions becomes known now."""
        now = int(self.times(self.steps - 1)[-1])
        known = np.full(BATCH, now, np.int64)
        self._send(OutcomeColumns("d", self.ids(step), known, actual_value=np.asarray(actual, float)), now)

    def states(self) -> list[Any]:
        """What serving applications were told."""
        self.machine.commit()
        return [each.record for each in self.machine.emissions if each.record_name == "HumilityState"]

    @property
    def quantile(self) -> float:
        """The quantile that predictions are issued with now."""
        known = self.machine.partition.joins()["d"].quantiles_of("1")
        assert known is not None
        return float(known[""])

    def missed(self) -> list[int]:
        """Missed and covered outcomes that the evidence has seen."""
        version = self.machine.partition._deployments["d"].versions["1"]
        state = version.monitors.states[version.monitors.block_of[MISCOVERAGE_BLOCK]]
        return [int(state.slot_counts[0, at]) for at in (MISSED, COVERED)]


def worst(issued: float, rng: np.random.Generator) -> Any:
    """Just missed, always."""
    return np.full(BATCH, min(issued + 1e-6, RANGE))


def jumping(issued: float, rng: np.random.Generator) -> Any:
    """Far out of what was covered, then covered for long."""
    return np.full(BATCH, RANGE if rng.random() < 0.3 else 0.0)


def drifting(issued: float, rng: np.random.Generator) -> Any:
    """As wide as it gets."""
    return np.abs(rng.normal(size=BATCH) * 3).clip(0, RANGE)


@pytest.mark.parametrize("choose", [worst, jumping, drifting])
@pytest.mark.parametrize("delay", [1, 15])
def test_long_run_coverage_keeps_its_bound_whatever_turns_out_and_however_late(
    samples: Any, plain: Baseline, choose: Callable[[float, np.random.Generator], Any], delay: int
) -> None:
    service = Service(samples, SPEC, fitted(plain))
    rng = np.random.default_rng(3)
    for step in range(220):
        service.predict()
        if step >= delay:
            service.tell(step - delay, choose(service.quantile, rng))
    states = service.states()
    assert len(states) > 15, "a state for nearly every start slot"
    pending = (delay + 11) * BATCH  # outcomes that are late, and those issued since the quantile was published
    for state in states:
        (group,) = state["quantiles"]
        assert group["quantile"] == pytest.approx(START + STEP * (group["missed"] - 0.1 * group["known"]))
        if group["known"]:
            far = abs(group["missed"] / group["known"] - 0.1)
            assert far <= tracker_bound(RANGE, STEP, group["known"], pending)
    assert states[-1]["quantiles"][0]["known"] >= (219 - delay - 11) * BATCH


def test_the_adaptive_interval_follows_a_change_and_the_static_one_does_not(samples: Any, plain: Baseline) -> None:
    service = Service(samples, SPEC, fitted(plain, 1.6449))
    rng = np.random.default_rng(4)
    for step in range(420):
        service.predict()
        service.tell(step, rng.normal(size=BATCH) * (1 if step < 60 else 2.5))
    service.machine.commit()
    last: dict[str, Any] = {}
    for emission in service.machine.emissions:
        if emission.record_name == "PerformanceWindow":
            last[emission.record["id"]] = emission.record
    join = service.machine.partition.joins()["d"]
    layout = next(iter(join.windows.values())).frame.layout
    records = sorted(last.values(), key=lambda record: record["window_start_us"])
    whole = merge([from_fields(layout, r["parts"][0]["counts"], r["parts"][0]["sums"]) for r in records[2:]])
    found = metrics(layout, whole)
    adaptive, static, width = (found[n].value for n in ("adaptive_coverage", "static_coverage", "adaptive_width"))
    assert adaptive is not None and abs(adaptive - 0.9) < 0.03
    assert static == pytest.approx(0.49, abs=0.03)
    assert width == pytest.approx(2 * 2.5 * 1.6449, rel=0.1)
    alerts = [e.record for e in service.machine.emissions if e.record_name == "Alert"]
    assert HUMILITY in {alert["monitor"] for alert in alerts}, "the static interval's promise no longer holds"


def test_what_static_intervals_miss_is_counted_once_of_each_prediction_and_only_under_its_own_fit(
    samples: Any, plain: Baseline
) -> None:
    service = Service(samples, SPEC, fitted(plain))
    for _ in range(4):
        service.predict()
    actual = np.where(np.arange(BATCH) < 7, START + 1, START - 1)
    service.tell(0, actual)
    assert service.missed() == [7, 13]
    service.tell(0, actual + 2)  # corrected: what was first known is what was counted
    assert service.missed() == [7, 13]
    service.machine.put(fitted(plain, 3.0))
    service.tell(1, actual)
    assert service.missed() == [0, 0], "predicted under another fit"
    service.predict()
    service.tell(4, np.full(BATCH, 4.0))
    assert service.missed() == [BATCH, 0]


def test_the_tracker_goes_on_under_the_same_fit_and_begins_anew_under_another(samples: Any, plain: Baseline) -> None:
    service = Service(samples, SPEC, fitted(plain))

    def hours(count: int) -> None:
        for _ in range(60 * count):
            service.predict()
            service.tell(service.steps - 1, np.full(BATCH, RANGE))

    hours(1)
    tracked = service.quantile
    assert tracked > START
    same = dataclasses.replace(fitted(plain), source="the same once more", digest="")
    service.machine.put(dataclasses.replace(same, digest=same.content_digest()))
    assert service.quantile == tracked
    service.machine.put(dataclasses.replace(SPEC, revision=2, quality_margin_tv=0.05))
    assert service.quantile == tracked
    service.machine.put(fitted(plain, 3.0))
    assert service.quantile == 3.0
    hours(1)
    assert service.quantile > 3.0
    service.machine.put(dataclasses.replace(SPEC, revision=3, humility=None))
    assert service.machine.partition.joins()["d"].quantiles_of("1") is None
    service.machine.put(dataclasses.replace(SPEC, revision=4))
    assert service.quantile == 3.0


def test_without_humility_rows_and_records_are_what_they_were(samples: Any, plain: Baseline) -> None:
    service = Service(samples, dataclasses.replace(SPEC, humility=None), plain)
    service.predict()
    service.tell(0, np.zeros(BATCH))
    service.machine.commit()
    frame = service.machine.partition.joins()["d"].waiting.frame_of("1")
    assert frame.row_dtype.names == (
        "key", "check", "time_us", "label", "scores", "known_us", "value", "weight", "acted",
    )  # fmt: skip
    assert frame.row_dtype.itemsize == 75 and "humility" not in frame.to_json()
    kinds = {key.split(b"/")[0] for key in service.machine.records}
    assert not kinds & {b"facts", b"rules"}
    assert b"trackers" not in repr(service.machine.records[b"join/d"]).encode()
    (part,) = next(iter(service.machine.partition.joins()["d"].windows.values())).parts.values()
    assert "with_quantile" not in part
