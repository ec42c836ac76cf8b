"""Predictions joined to their outcomes by the state machine: the same numbers whatever the messages went through."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sklearn

from driftline.codec import encode
from driftline.events import CategoricalColumn, HumilityColumns, OutcomeColumns, PredictionColumns
from driftline.humility.fit import ABSOLUTE_RESIDUAL, ONE_MINUS_PROBABILITY, CoverageStart, HumilityFit
from driftline.humility.policy import Policy
from driftline.humility.rules import (
    IN_ALARM,
    MISSING_INPUT,
    OUTLYING_INPUT,
    OVERRIDE,
    RECORD,
    REFUSE,
    ROUTE,
    UNCERTAIN_PREDICTION,
    Condition,
    Guarantees,
    HumilitySpec,
    Override,
    Rule,
)
from driftline.topics import record_key
from streams import joining
from streams.baseline import HUMILITY_ROLE, Baseline, BaselineStream
from streams.counting import MISCOVERAGE
from streams.messages import Message
from streams.outcomes.decided import DECISION_PARTS, SERVED_PART, is_of_humility, rule_part
from streams.outcomes.store import PendingStore
from streams.reference import build_baseline
from streams.specification import BINARY, REGRESSION, DeploymentSpec, FeatureSpec, OutcomeSpec, SegmentSpec
from streams.statistics.layouts import CATEGORICAL, CategoricalBins
from streams.statistics.performance.metrics import metrics
from streams.statistics.performance.pairs import PerformanceLayout
from streams.statistics.performance.sums import from_fields
from streams.statistics.tilts import tilts_of

HOUR_US = 3_600_000_000
MINUTE_US = 60_000_000
ROWS = 240
SPAN_US = 2 * HOUR_US
HORIZON_MS = 3 * 3_600_000

OUTCOMES = OutcomeSpec(horizon_ms=HORIZON_MS, window_ms=1_800_000, lateness_ms=3 * 3_600_000, fairness=("g",))


HUMBLE = "humble "
"""Before the task of a model that has humility rules."""

STARTS = {"": 0.4, "g=a": 0.55}
"""First quantiles; rows of other parts than ``a`` are of the pooled group."""


def rules_of(task: str) -> HumilitySpec:
    """Rules that look at inputs, at quantiles and at alarms, one of which never acts."""
    near = Condition(OUTLYING_INPUT, columns=("x",), low=-0.5, high=0.5)
    far = Condition(OUTLYING_INPUT, columns=("x",), low=-1.5, high=1.5)
    wide = Condition(UNCERTAIN_PREDICTION, measure="set_size")
    if task == REGRESSION:
        wide = Condition(UNCERTAIN_PREDICTION, measure="interval_width", high=1.5)
    instead = Override("value", value=0.5) if task == REGRESSION else Override("label", label="no")
    return HumilitySpec(
        (
            Rule("near", near, RECORD),
            Rule("wide", wide, ROUTE, priority=20),
            Rule("far", far, OVERRIDE, override=instead, priority=10),
            Rule("dry", far, REFUSE, priority=1, dry_run=True),
            Rule("blind", Condition(MISSING_INPUT, columns=("x",)), REFUSE, priority=5),
            Rule("alarmed", Condition(IN_ALARM), ROUTE, priority=4),
        ),
        Guarantees(coverage=0.9, segment="g"),
    )


def fit_of(spec: DeploymentSpec) -> HumilityFit:
    """Quantiles that a fit may have found."""
    assert spec.humility is not None
    return HumilityFit(
        spec.humility.digest(),
        "test",
        100,
        50,
        0,
        1,
        0.95,
        coverage=0.9,
        coverage_score=ABSOLUTE_RESIDUAL if spec.task == REGRESSION else ONE_MINUS_PROBABILITY,
        score_range=2.0,
        step=0.02,
        coverage_starts=tuple(CoverageStart(group, 50, quantile) for group, quantile in STARTS.items()),
    )


def spec_of(kind: str) -> DeploymentSpec:
    task = kind.removeprefix(HUMBLE)
    return DeploymentSpec(
        "d",
        "m",
        task,
        (FeatureSpec("x", "numeric"),),
        positive_class="yes" if task == BINARY else None,
        segments=(SegmentSpec("g", "g"),),
        outcomes=OUTCOMES if task == BINARY else dataclasses.replace(OUTCOMES, fairness=()),
        humility=rules_of(task) if kind.startswith(HUMBLE) else None,
    )


@dataclasses.dataclass(frozen=True)
class Told:
    """One outcome as it is published."""

    id: str
    known_us: int
    value: float


class World:
    """What a model said and what turned out, with everything that goes wrong on the way."""

    def __init__(self, t0: int, kind: str, seed: int, rows: int = ROWS, baseline: Baseline | None = None) -> None:
        rng = np.random.default_rng(seed)
        task = kind.removeprefix(HUMBLE)
        self.kind, self.task, self.t0 = kind, task, t0
        self.ids = [f"p{i}" for i in range(rows)]
        self.times_us = t0 + np.sort(rng.integers(0, SPAN_US, rows))
        self.groups = rng.integers(0, 3, rows).astype(np.int32)
        self.x = rng.normal(size=rows)
        score = 1 / (1 + np.exp(-self.x))
        self.predictions = np.round(score, 3) if task == BINARY else self.x * 10
        self.told: list[Told] = []
        for row in range(rows):
            for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
                known = int(self.times_us[row]) + int(rng.integers(0, HORIZON_MS * 1000 + 1))
                self.told.append(Told(self.ids[row], known, self._value(rng, row)))
            if rng.random() < 0.1:  # at the same time as another: the larger one is in force
                again = [each for each in self.told if each.id == self.ids[row]]
                self.told += [dataclasses.replace(again[0], value=self._value(rng, row))] if again else []
            if rng.random() < 0.05:  # too late, or before the prediction
                known = int(self.times_us[row]) + int(rng.choice([HORIZON_MS * 1000 + 1, -25 * HOUR_US]))
                self.told.append(Told(self.ids[row], known, self._value(rng, row)))
        self.told += [Told(f"nobody{i}", t0 + SPAN_US // 2, self._value(rng, 0)) for i in range(5)]
        self.claims: HumilityColumns | None = None
        if kind.startswith(HUMBLE):
            self.x[rng.random(rows) < 0.1] = np.nan
        if kind.startswith(HUMBLE) and baseline is not None:
            self.claims = self._decide(baseline, rng)

    def _decide(self, baseline: Baseline, rng: np.random.Generator) -> HumilityColumns:
        """What the application decided, with whatever quantiles and alarms it knew of."""
        policy = Policy.of(spec_of(self.kind).to_record(), baseline.to_record())
        assert policy is not None and not policy.unarmed
        rows = len(self.ids)
        quantiles = np.where(rng.random(rows) < 0.2, np.nan, rng.normal(0.6, 0.3, rows))
        alarms = np.where(rng.random(rows) < 0.1, 5, 0).astype(np.uint8)
        decided = policy.decide_columns(self.predicted(range(rows)), quantiles=quantiles, alarms=alarms)
        return decided.to_columns(policy)

    def _value(self, rng: np.random.Generator, row: int) -> float:
        if self.task == BINARY:
            return float(rng.random() < self.predictions[row])
        return float(np.round(self.predictions[row] + rng.normal(), 3))

    def in_force(self) -> dict[str, Told]:
        """The naive join: of the outcomes that count, the one known last; of equally late ones the larger."""
        times = dict(zip(self.ids, self.times_us.tolist(), strict=True))
        found: dict[str, Told] = {}
        for each in self.told:
            if each.id not in times or not 0 <= each.known_us - times[each.id] <= HORIZON_MS * 1000:
                continue
            best = found.get(each.id)
            if best is None or (each.known_us, each.value) > (best.known_us, best.value):
                found[each.id] = each
        return found

    def predicted(self, rows: Sequence[int]) -> PredictionColumns:
        at = np.array(rows, np.intp)
        return PredictionColumns(
            "d",
            "1",
            [self.ids[row] for row in rows],
            self.times_us[at],
            {"x": self.x[at]},
            {},
            self.predictions[at],
            segments={"g": CategoricalColumn(["a", "b", "c"], self.groups[at])},
            humility=None if self.claims is None else self._claimed(self.claims, at),
        )

    @staticmethod
    def _claimed(claims: HumilityColumns, at: NDArray[np.intp]) -> HumilityColumns:
        arrays = {
            name: None if (values := getattr(claims, name)) is None else values[at]
            for name in ("actions", "fired", "quantiles", "alarms", "answers")
        }
        labels = claims.answer_labels
        if labels is not None:
            labels = dataclasses.replace(labels, codes=labels.codes[at])
        return HumilityColumns(claims.policy, claims.revision, **arrays, answer_labels=labels)

    def outcomes(self, told: Sequence[Told]) -> OutcomeColumns:
        known = np.array([each.known_us for each in told], np.int64)
        values = np.array([each.value for each in told])
        ids = [each.id for each in told]
        if self.task == BINARY:
            label = CategoricalColumn(["no", "yes"], values.astype(np.int32))
            return OutcomeColumns("d", ids, known, actual_label=label)
        return OutcomeColumns("d", ids, known, actual_value=values)


KINDS = (BINARY, REGRESSION, HUMBLE + BINARY, HUMBLE + REGRESSION)

MISSES = BaselineStream(
    MISCOVERAGE,
    HUMILITY_ROLE,
    CATEGORICAL,
    CategoricalBins(("yes", "no")),
    np.array([100, 900] + [0] * (CATEGORICAL.size - 2), np.int64),
    0.05,
    np.ones(tilts_of(CATEGORICAL).size, np.float32),
)


@pytest.fixture(scope="module")
def baselines(samples: Any) -> dict[str, Baseline]:
    """A baseline with outcomes of each task."""
    found = {}
    for task in (BINARY, REGRESSION):
        reference = World(samples.t0 - 48 * HOUR_US, task, 99, 2_400)
        told = list(reference.in_force().values())
        columns = reference.predicted(range(2_400)), reference.outcomes(told)
        plain = build_baseline(spec_of(task), "1", [columns[0]], source="test", outcomes=[columns[1]])
        changed = {"humility": fit_of(spec_of(HUMBLE + task)), "streams": (*plain.streams, MISSES), "digest": ""}
        fitted = dataclasses.replace(plain, **changed)
        found |= {task: plain, HUMBLE + task: dataclasses.replace(fitted, digest=fitted.content_digest())}
    return found


@pytest.fixture(scope="module")
def calm() -> dict[Any, Any]:
    """What undisturbed runs came to, by the test's name, kind and seed."""
    return {}


class Runner:
    """Feeds the two topics to a machine, which may be killed at any commit."""

    def __init__(self, samples: Any, world: World, baseline: Baseline, directory: Path | None) -> None:
        self.world, self.topics, self.directory = world, samples.topics, directory
        self.machine = samples.store_machine(self._store())
        self.machine.put(spec_of(world.kind))
        self.machine.put(baseline)
        self.machine.commit()
        self.offsets = {self.topics.predictions: 0, self.topics.outcomes: 0}

    def _store(self) -> PendingStore:
        return PendingStore(self.directory, merge_in_background=False, spill_rows=40)

    def send(self, columns: PredictionColumns | OutcomeColumns, log_us: int) -> None:
        is_prediction = isinstance(columns, PredictionColumns)
        topic = self.topics.predictions if is_prediction else self.topics.outcomes
        name = "PredictionBatch" if is_prediction else "OutcomeBatch"
        value = encode(name, columns.to_record())
        self.machine.apply(Message(topic, 0, self.offsets[topic], log_us // 1000, record_key("d"), value))
        self.offsets[topic] += 1

    def restart(self, *, keep_index: bool) -> None:
        """Kill it: what was not committed is applied again."""
        applied = self.machine.log
        self.machine.partition._store.close()
        if self.directory is not None and not keep_index:
            for path in self.directory.iterdir():
                path.unlink()
        self.machine.log = [m for m in applied if m.offset < self._committed(m.topic)]
        emitted = self.emitted
        self.machine = self.machine.restarted(self._store())
        self.machine.emissions = emitted
        self.machine.apply(*applied[len(self.machine.log) :])

    def _committed(self, topic: str) -> int:
        record = self.machine.records.get(b"position")
        name = "predictions" if topic == self.topics.predictions else "outcomes"
        return 0 if record is None else int(record[name])

    @property
    def emitted(self) -> list[Any]:
        return list(self.machine.emissions)

    def end(self) -> None:
        """Events of a day later: everything is final."""
        last = self.world.t0 + 24 * HOUR_US
        final = self.world.predicted([0])
        self.send(dataclasses.replace(final, prediction_ids=["last"], timestamps_us=np.array([last])), last)
        told = self.world.outcomes([Told("last", last, 0.0)])
        self.send(told, last)
        self.machine.commit()

    def final_parts(self) -> dict[tuple[int, str], Any]:
        """Counts and sums of every window that is final, by start and part."""
        found = {}
        for emission in self.machine.emissions:
            record = emission.record
            if emission.record_name == "PerformanceWindow" and record["status"] == "final":
                for part in record["parts"]:
                    assert (record["window_start_us"], part["segment"]) not in found, "a window was final twice"
                    found[record["window_start_us"], part["segment"]] = (part["counts"], part["sums"])
        return found


def plain_run(samples: Any, world: World, baseline: Baseline) -> Runner:
    """Every message once, in order of time."""
    runner = Runner(samples, world, baseline, None)
    end = world.t0 + 12 * HOUR_US
    for begin in range(0, ROWS, 60):
        runner.send(world.predicted(range(begin, begin + 60)), end)
    runner.send(world.outcomes(sorted(world.told, key=lambda each: each.known_us)), end)
    runner.end()
    return runner


plans = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**16),
        "batches": st.integers(2, 9),
        "early": st.floats(0, 1),
        "repeats": st.integers(0, 3),
        "commits": st.sets(st.integers(0, 25)),
        "kills": st.sets(st.integers(0, 25), max_size=3),
        "keep_index": st.booleans(),
    }
)


def messy_run(samples: Any, world: World, baseline: Baseline, directory: Path, plan: dict[str, Any]) -> Runner:
    """The same rows in other batches, an other order, some twice, with restarts."""
    rng = np.random.default_rng(plan["seed"])
    runner = Runner(samples, world, baseline, directory)
    log_us = world.t0 + 12 * HOUR_US
    columns: list[PredictionColumns | OutcomeColumns] = []
    weights = []
    for chosen in np.array_split(rng.permutation(ROWS), plan["batches"]):
        columns.append(world.predicted(chosen.tolist()))
        weights.append(rng.random() + plan["early"])
    for chosen in np.array_split(rng.permutation(len(world.told)), plan["batches"] + 1):
        columns.append(world.outcomes([world.told[row] for row in chosen.tolist()]))
        weights.append(rng.random() + 1 - plan["early"])
    order = np.argsort(weights).tolist()
    order += rng.integers(0, len(columns), plan["repeats"]).tolist()
    for step, at in enumerate(order):
        runner.send(columns[at], log_us)
        if step in plan["commits"]:
            runner.machine.commit()
        if step in plan["kills"]:
            runner.restart(keep_index=plan["keep_index"])
    runner.end()
    runner.machine.partition._store.close()
    return runner


@pytest.mark.parametrize("task", KINDS)
@settings(max_examples=15, phases=(Phase.explicit, Phase.generate))  # shrinking plans of events teaches nothing
@given(plan=plans, seed=st.integers(0, 3))
def test_final_numbers_do_not_depend_on_order_duplicates_splits_or_restarts(
    samples: Any,
    baselines: dict[str, Baseline],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch_checkpoints: None,
    calm: dict[Any, Any],
    task: str,
    plan: dict[str, Any],
    seed: int,
) -> None:
    world = World(samples.t0, task, seed, baseline=baselines[task])
    if ("order", task, seed) not in calm:
        calm["order", task, seed] = plain_run(samples, world, baselines[task]).final_parts()
    expected = calm["order", task, seed]
    messy = messy_run(samples, world, baselines[task], tmp_path_factory.mktemp("store") / "s", plan)
    assert messy.final_parts() == expected
    declared = [name for name in expected if not is_of_humility(name[1])]
    assert len(declared) == 4 * len(set((world.times_us // (1800 * 10**6)).tolist()))
    assert (len(declared) < len(expected)) == task.startswith(HUMBLE)


@pytest.fixture(scope="module")
def monkeypatch_checkpoints() -> Iterable[None]:
    """The index is written with nearly every commit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joining, "CHECKPOINT_ROWS", 50)
        yield


def layout_of(baseline: Baseline, task: str) -> PerformanceLayout:
    assert baseline.outcomes is not None
    classes = ("no", "yes") if task == BINARY else ()
    return PerformanceLayout(task, classes, baseline.outcomes.score_edges, baseline.outcomes.age_edges_us)


@pytest.mark.parametrize("seed", range(3))
def test_final_windows_of_a_classifier_are_what_scikit_learn_computes_on_the_joined_rows(
    samples: Any, baselines: dict[str, Baseline], seed: int
) -> None:
    world = World(samples.t0, BINARY, seed)
    told = world.in_force()
    found = plain_run(samples, world, baselines[BINARY]).final_parts()
    layout = layout_of(baselines[BINARY], BINARY)
    starts = world.times_us // (1800 * 10**6) * (1800 * 10**6)
    for start in np.unique(starts).tolist():
        for part, name in [(None, ""), (0, "g=a"), (1, "g=b"), (2, "g=c")]:
            mine = starts == start if part is None else (starts == start) & (world.groups == part)
            counts, sums = found[start, name]
            assert counts["predictions"] == [int(mine.sum())]
            rows = [row for row in np.flatnonzero(mine).tolist() if world.ids[row] in told]
            actual = np.array([told[world.ids[row]].value for row in rows])
            score = world.predictions[rows]
            got = metrics(layout, from_fields(layout, counts, sums))
            assert counts["resolved"] == [len(rows)]
            assert got["accuracy"].value == pytest.approx(sklearn.accuracy_score(actual, score >= 0.5), abs=1e-12)
            assert got["brier"].value == pytest.approx(sklearn.brier_score_loss(actual, score), abs=1e-8)
            assert got["log_loss"].value == pytest.approx(sklearn.log_loss(actual, score, labels=[0, 1]), abs=1e-8)
            if 0 < actual.sum() < len(actual):
                expected = sklearn.roc_auc_score(actual, score)
                assert got["roc_auc"].value is not None
                assert abs(got["roc_auc"].value - expected) <= got["roc_auc"].error + 1e-12


def test_final_windows_of_a_regression_are_what_scikit_learn_computes_on_the_joined_rows(
    samples: Any, baselines: dict[str, Baseline]
) -> None:
    world = World(samples.t0, REGRESSION, 5)
    told = world.in_force()
    found = plain_run(samples, world, baselines[REGRESSION]).final_parts()
    layout = layout_of(baselines[REGRESSION], REGRESSION)
    starts = world.times_us // (1800 * 10**6) * (1800 * 10**6)
    for start in np.unique(starts).tolist():
        rows = [row for row in np.flatnonzero(starts == start).tolist() if world.ids[row] in told]
        actual, predicted = np.array([told[world.ids[row]].value for row in rows]), world.predictions[rows]
        got = metrics(layout, from_fields(layout, *found[start, ""]))
        assert got["mae"].value == pytest.approx(sklearn.mean_absolute_error(actual, predicted), abs=1e-8)
        assert got["rmse"].value == pytest.approx(sklearn.root_mean_squared_error(actual, predicted), abs=1e-8)
        assert got["r2"].value == pytest.approx(sklearn.r2_score(actual, predicted), abs=1e-6)


def dead_letter_rows(runner: Runner, reason: str) -> list[tuple[int, int]]:
    """Message and row of outcomes that were refused for a reason."""
    found = []
    for emission in runner.machine.emissions:
        if emission.record_name == "DeadLetter" and emission.record["reason"] == reason:
            record = emission.record
            assert record["source_topic"] == runner.topics.outcomes
            found += [(record["source_offset"], row) for row in record["rows"]]
    return sorted(found)


@pytest.mark.parametrize("early", [False, True])
def test_every_outcome_that_does_not_count_is_in_the_dead_letters_once(
    samples: Any, baselines: dict[str, Baseline], early: bool
) -> None:
    world = World(samples.t0, BINARY, 1)
    runner = Runner(samples, world, baselines[BINARY], None)
    end = world.t0 + 12 * HOUR_US
    told = world.told[:100], world.told[100:]
    sent: list[Any] = [world.predicted(range(ROWS)), *map(world.outcomes, told)]
    for each in reversed(sent) if early else sent:
        runner.send(each, end)
    runner.end()
    times = dict(zip(world.ids, world.times_us.tolist(), strict=True))
    unknown, outside = [], []
    halves = reversed(told) if early else told
    for offset, half in enumerate(halves):
        for row, each in enumerate(half):
            if each.id not in times:
                unknown.append((offset, row))
            elif not 0 <= each.known_us - times[each.id] <= HORIZON_MS * 1000:
                outside.append((offset, row))
    assert dead_letter_rows(runner, "unknown_prediction") == sorted(unknown)
    assert dead_letter_rows(runner, "outcome_time") == sorted(outside)


def slow_score(task: str, predicted: float, actual: float) -> float:
    """What a quantile is compared with."""
    if task == REGRESSION:
        return abs(actual - predicted)
    return 1 - (predicted if actual == 1 else 1 - predicted)


@pytest.mark.parametrize("kind", [HUMBLE + BINARY, HUMBLE + REGRESSION])
def test_decisions_and_rules_are_judged_by_the_outcomes_of_their_own_rows(
    samples: Any, baselines: dict[str, Baseline], kind: str
) -> None:
    world = World(samples.t0, kind, 7, baseline=baselines[kind])
    claims, told, task = world.claims, world.in_force(), world.task
    assert claims is not None and claims.quantiles is not None
    found = plain_run(samples, world, baselines[kind]).final_parts()
    layout = dataclasses.replace(layout_of(baselines[kind], task), coverage_score=fit_of(spec_of(kind)).coverage_score)
    starts = world.times_us // (1800 * 10**6) * (1800 * 10**6)
    rules = [rule.name for rule in rules_of(task).rules]
    cuts = {DECISION_PARTS[code]: claims.actions == code for code in range(4)}
    cuts[SERVED_PART] = cuts[DECISION_PARTS[1]]
    cuts |= {rule_part(name): claims.fired >> np.uint64(bit) & np.uint64(1) == 1 for bit, name in enumerate(rules)}
    assert sum(rows.any() for rows in cuts.values()) >= 10, "nearly everything happens"
    served = np.full(ROWS, 0.5 if task == REGRESSION else 0.0)
    for start in np.unique(starts).tolist():
        for part, rows_of_part in {"": np.ones(ROWS, bool), **cuts}.items():
            mine = (starts == start) & rows_of_part
            assert ((start, part) in found) == bool(mine.any())
            if not mine.any():
                continue
            counts, sums = found[start, part]
            assert counts["predictions"] == [int(mine.sum())]
            rows = [row for row in np.flatnonzero(mine).tolist() if world.ids[row] in told]
            actual = np.array([told[world.ids[row]].value for row in rows])
            said = served[rows] if part == SERVED_PART else world.predictions[rows]
            got = metrics(layout, from_fields(layout, counts, sums))
            assert counts["resolved"] == [len(rows)]
            if rows and task == REGRESSION:
                assert got["mae"].value == pytest.approx(np.abs(actual - said).mean(), abs=1e-8)
            elif rows:
                assert got["accuracy"].value == pytest.approx(np.mean((said >= 0.5) == actual), abs=1e-12)
            if part == SERVED_PART:
                assert counts["with_quantile"] == counts["with_static"] == [0], (
                    "quantiles are about what the model said"
                )
                continue
            scores = [slow_score(task, world.predictions[row], told[world.ids[row]].value) for row in rows]
            issued = [(s, q) for s, q in zip(scores, claims.quantiles[rows].tolist(), strict=True) if q == q]
            static = [STARTS["g=a"] if world.groups[row] == 0 else STARTS[""] for row in rows]
            assert counts["with_quantile"] == [len(issued)] and counts["with_static"] == [len(rows)]
            assert counts["covered"] == [sum(s <= q for s, q in issued)]
            assert counts["covered_static"] == [sum(s <= q for s, q in zip(scores, static, strict=True))]
            assert sums["quantile_sum"][0] == pytest.approx(sum(q for _, q in issued), abs=1e-7)


class SlowTracker:
    """The trackers of both groups, outcome by outcome, published once per start slot of an hour."""

    def __init__(self, world: World) -> None:
        self.world, self.task = world, world.task
        self.tracked, self.published = dict(STARTS), dict(STARTS)
        self.slot = -1
        self.clock_us = 0
        self.issued: dict[str, float] = {}
        self.known: set[str] = set()
        self.history = [dict(STARTS)]
        self.misses = 0

    def group(self, row: int) -> str:
        return "g=a" if self.world.groups[row] == 0 else ""

    def predict(self, rows: Sequence[int]) -> None:
        for row in rows:
            self.issued[self.world.ids[row]] = self.published[self.group(row)]
        self.pass_to(int(self.world.times_us[rows].max()))

    def tell(self, told: Sequence[Told]) -> None:
        # of outcomes in one message it is the one in force that is known first
        for each in sorted(told, key=lambda one: (one.known_us, one.value), reverse=True):
            row = int(each.id[1:]) if each.id in self.issued else -1
            in_time = row >= 0 and 0 <= each.known_us - int(self.world.times_us[row]) <= HORIZON_MS * 1000
            if in_time and each.id not in self.known:
                self.known.add(each.id)
                missed = slow_score(self.task, self.world.predictions[row], each.value) > self.issued[each.id]
                self.misses += missed
                self.tracked[self.group(row)] += 0.02 * (missed - (1 - 0.9))
        self.pass_to(max(each.known_us for each in told))

    def pass_to(self, time_us: int) -> None:
        self.clock_us = max(self.clock_us, time_us)
        if self.clock_us // HOUR_US > self.slot:
            self.slot = self.clock_us // HOUR_US
            self.published = dict(self.tracked)
            if any(abs(self.published[name] - self.history[-1][name]) > 1e-9 for name in STARTS):
                self.history.append(dict(self.published))


def run_in_step(runner: Runner, slow: SlowTracker, kills: set[int], keep_index: bool) -> Runner:
    """Predictions and outcomes as they come about, to the machine and to the slow tracker."""
    world = runner.world
    told = sorted(world.told, key=lambda each: each.known_us)
    step = 0
    while len(slow.issued) < ROWS or told:
        rows = list(range(len(slow.issued), min(len(slow.issued) + 12, ROWS)))
        now = int(world.times_us[rows].max()) if rows else world.t0 + 12 * HOUR_US
        due = [each for each in told if each.known_us <= now][:25]
        told = told[len(due) :]
        if rows:
            runner.send(world.predicted(rows), now)
            slow.predict(rows)
        if due:
            runner.send(world.outcomes(due), now)
            slow.tell(due)
        step += 1
        if step % 2:
            runner.machine.commit()
        if step in kills:
            runner.restart(keep_index=keep_index)
    runner.end()
    slow.pass_to(world.t0 + 24 * HOUR_US)
    runner.machine.partition._store.close()
    return runner


@pytest.mark.parametrize("kind", [HUMBLE + BINARY, HUMBLE + REGRESSION])
@settings(max_examples=6, phases=(Phase.explicit, Phase.generate))
@given(seed=st.integers(0, 2), kills=st.sets(st.integers(0, 40), max_size=4), keep_index=st.booleans())
def test_rows_nobody_decided_are_issued_the_tracked_quantile_of_their_moment_whatever_is_lost(
    samples: Any,
    baselines: dict[str, Baseline],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch_checkpoints: None,
    calm: dict[Any, Any],
    kind: str,
    seed: int,
    kills: set[int],
    keep_index: bool,
) -> None:
    world = World(samples.t0, kind, seed)
    if ("quantiles", kind, seed) not in calm:
        undisturbed = Runner(samples, world, baselines[kind], None)
        calm["quantiles", kind, seed] = run_in_step(undisturbed, SlowTracker(world), set(), True).final_parts()
    slow = SlowTracker(world)
    runner = Runner(samples, world, baselines[kind], tmp_path_factory.mktemp("store") / "s")
    found = run_in_step(runner, slow, kills, keep_index).final_parts()
    assert found == calm["quantiles", kind, seed]
    assert slow.misses > 10
    policy = Policy.of(spec_of(kind).to_record(), baselines[kind].to_record())
    assert policy is not None
    in_force, starts = world.in_force(), world.times_us // (1800 * 10**6) * (1800 * 10**6)
    quantiles = np.array([slow.issued[name] for name in world.ids])
    decided = policy.decide_columns(world.predicted(range(ROWS)), quantiles=quantiles, alarms=0)
    for start in np.unique(starts).tolist():
        rows = [row for row in np.flatnonzero(starts == start).tolist() if world.ids[row] in in_force]
        scores = [slow_score(world.task, world.predictions[row], in_force[world.ids[row]].value) for row in rows]
        counts, sums = found[start, ""]
        assert counts["covered"] == [sum(s <= q + 1e-12 for s, q in zip(scores, quantiles[rows], strict=True))]
        assert sums["quantile_sum"][0] == pytest.approx(quantiles[rows].sum(), abs=1e-7)
        for bit, rule in enumerate(rules_of(world.task).rules[:5]):  # the others look at alarms
            mine = int(((decided.fired >> np.uint64(bit) & np.uint64(1) == 1) & (starts == start)).sum())
            none = {"predictions": [0]}, {}
            assert found.get((start, rule_part(rule.name)), none)[0]["predictions"] == [mine]
    states = [e.record["quantiles"] for e in runner.machine.emissions if e.record_name == "HumilityState"]
    published = [state for at, state in enumerate(states) if at == 0 or state != states[at - 1]]
    assert len(published) == len(slow.history)
    for state, expected in zip(published, slow.history, strict=True):
        assert {each["segment"]: pytest.approx(each["quantile"]) for each in state} == expected
