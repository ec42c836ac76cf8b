"""Outcomes on a real broker: workers that end in any way join what an undisturbed one joins, and what is true."""

from __future__ import annotations

import dataclasses
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sklearn

from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from services.status import system_status
from streams.baseline import Baseline
from streams.reference import build_baseline
from streams.specification import BINARY, REGRESSION, DeploymentSpec, FeatureSpec, OutcomeSpec
from streams.statistics.performance.metrics import metrics
from streams.statistics.performance.pairs import PerformanceLayout
from streams.statistics.performance.sums import from_fields

MINUTE_US = 60_000_000
ROUND_US = 10 * MINUTE_US
HORIZON_MS = 40 * 60_000
ROUNDS, ROWS = 10, 60
DRIFTS = "model-1"
OFTEN = "import streams.joining as j; j.CHECKPOINT_ROWS = 150; "
"""Indexes are written with nearly every commit."""


def spec_of(name: str) -> DeploymentSpec:
    task = REGRESSION if name.startswith("price") else BINARY
    return DeploymentSpec(
        name,
        "m",
        task,
        (FeatureSpec("x", "numeric"),),
        positive_class="yes" if task == BINARY else None,
        outcomes=OutcomeSpec(horizon_ms=HORIZON_MS, window_ms=10 * 60_000, lateness_ms=30 * 60_000),
    )


SPECS = [spec_of(name) for name in ("model-0", DRIFTS, "model-2", "model-3", "price-0", "price-1")]


class Truth:
    """What a model says about rows of an imaginary world, and what turns out."""

    def __init__(
        self, spec: DeploymentSpec, prefix: str, times_us: NDArray[np.int64], seed: int, drift_us: int
    ) -> None:
        rng = np.random.default_rng(seed)
        n = len(times_us)
        self.spec, self.times_us = spec, times_us
        self.ids = [f"{prefix}{row}" for row in range(n)]
        self.x = rng.normal(size=n)
        score = np.round(1 / (1 + np.exp(-2 * self.x)), 4)
        if spec.task == BINARY:
            self.said = score
            yes = rng.random(n) < np.where(times_us >= drift_us, 1 - score, score)
            self.true = yes.astype(np.float64)
        else:
            self.said = np.round(10 * self.x, 3)
            self.true = np.round(self.said + rng.normal(size=n), 3)
        self.known_us = times_us + rng.exponential(8 * MINUTE_US, n).astype(np.int64) + 1

    def predicted(self, rows: NDArray[np.intp]) -> PredictionColumns:
        ids = [self.ids[row] for row in rows.tolist()]
        return PredictionColumns(
            self.spec.deployment_id, "1", ids, self.times_us[rows], {"x": self.x[rows]}, {}, self.said[rows]
        )

    def told(self, told: list[tuple[str, int, float]]) -> OutcomeColumns:
        ids, known, values = [each[0] for each in told], [each[1] for each in told], [each[2] for each in told]
        times = np.array(known, np.int64)
        if self.spec.task == BINARY:
            label = CategoricalColumn(["no", "yes", "perhaps"], np.array(values, np.int32))
            return OutcomeColumns(self.spec.deployment_id, ids, times, actual_label=label)
        return OutcomeColumns(self.spec.deployment_id, ids, times, actual_value=np.array(values))


@dataclasses.dataclass
class Play:
    """What is published, round by round, and what the joined rows are."""

    rounds: list[tuple[list[PredictionColumns], list[OutcomeColumns]]]
    truths: dict[str, Truth]
    in_force: dict[str, dict[str, tuple[int, float]]]
    """Per deployment and prediction when its outcome was known, and what it was."""


def play(t0: int, seed: int) -> Play:
    """Outcomes that come late, early, twice, corrected, too late, of nobody, and of no class."""
    rng = np.random.default_rng(seed)
    predictions: list[list[PredictionColumns]] = [[] for _ in range(ROUNDS)]
    outcomes: list[list[OutcomeColumns]] = [[] for _ in range(ROUNDS)]
    truths, in_force = {}, {}
    for number, spec in enumerate(SPECS):
        times = t0 + np.sort(rng.integers(0, (ROUNDS - 2) * ROUND_US, (ROUNDS - 2) * ROWS))
        drift_us = t0 + 4 * ROUND_US if spec.deployment_id == DRIFTS else 1 << 60
        truth = truths[spec.deployment_id] = Truth(spec, "p", times, seed * 100 + number, drift_us)
        n = len(times)
        late = np.where(rng.random(n) < 0.08, rng.integers(1, 3, n), 0)
        published = np.minimum((times - t0) // ROUND_US + late, ROUNDS - 1)
        told: list[tuple[int, tuple[str, int, float]]] = []
        for row in np.flatnonzero(rng.random(n) < 0.9).tolist():
            known, value = int(truth.known_us[row]), float(truth.true[row])
            tellings = [(known, value)]
            kind = rng.random()
            if kind < 0.08:
                tellings.append((known, value))
            elif kind < 0.16:
                tellings.append((known + 5 * MINUTE_US, 1 - value if spec.task == BINARY else value + 3.5))
            elif kind < 0.18:
                tellings = [(int(times[row]) + HORIZON_MS * 1000 + 1, value)]
            elif kind < 0.2:
                tellings = [(known, 2.0 if spec.task == BINARY else float("nan"))]
            for at, what in tellings:
                behind = int(rng.random() < 0.1)
                told.append((min((at - t0) // ROUND_US + behind, ROUNDS - 1), (truth.ids[row], at, what)))
        told += [(k, (f"nobody{k}", t0 + k * ROUND_US, 1.0)) for k in range(3, ROUNDS - 1)]
        for k in range(ROUNDS):
            rows = np.flatnonzero(published == k)
            predictions[k] += [truth.predicted(part) for part in np.array_split(rows, 3) if part.size]
            now = [each for at, each in told if at == k]
            if now:
                outcomes[k] += [truth.told(now[: len(now) // 2 + 1])] + ([truth.told(now[1::2])] if k % 2 else [])
                rest = now[len(now) // 2 + 1 :]
                outcomes[k] += [truth.told(rest)] if rest else []
        in_force[spec.deployment_id] = joined(truth, [each for _, each in told])
    return Play(list(zip(predictions, outcomes, strict=True)), truths, in_force)


def joined(truth: Truth, told: list[tuple[str, int, float]]) -> dict[str, tuple[int, float]]:
    """The naive join: of the outcomes within the horizon and of a known class the one known last."""
    times = dict(zip(truth.ids, truth.times_us.tolist(), strict=True))
    found: dict[str, tuple[int, float]] = {}
    for identity, known, value in told:
        usable = value in (0, 1) if truth.spec.task == BINARY else value == value
        if identity in times and usable and 0 <= known - times[identity] <= HORIZON_MS * 1000:
            found[identity] = max(found.get(identity, (0, 0.0)), (known, value))
    return found


@pytest.fixture(scope="module")
def baselines(samples: Any) -> dict[str, Baseline]:
    found = {}
    for spec in SPECS:
        times = samples.t0 - 5000 * MINUTE_US + np.arange(800) * MINUTE_US
        past = Truth(spec, "r", times, 77, 1 << 60)
        told = past.told(list(zip(past.ids, past.known_us.tolist(), past.true.tolist(), strict=True)))
        predicted = past.predicted(np.arange(len(times)))
        found[spec.deployment_id] = build_baseline(spec, "1", [predicted], source="test", outcomes=[told])
    return found


def publish(world: Any, what: list[Any], now_us: int) -> None:
    for columns in what:
        world.send(columns, timestamp=now_us // 1000)
    world.flush()


def close_everything(world: Any, play: Play, t0: int) -> None:
    """A day later nothing is open any more."""
    end_us = t0 + 1440 * MINUTE_US // 2
    for name, truth in play.truths.items():
        one = dataclasses.replace(truth.predicted(np.array([0])), prediction_ids=["last"])
        world.send(dataclasses.replace(one, timestamps_us=np.array([end_us])), timestamp=end_us // 1000)
        world.send(truth.told([("last", end_us, 0.0)]), timestamp=end_us // 1000)
        assert name == one.deployment_id
    world.wait_applied(60, supervised=True)


def final_windows(world: Any) -> dict[tuple[str, int], Mapping[str, Any]]:
    found = {}
    for each in world.read("windows"):
        record = each.record
        if each.name == "PerformanceWindow" and record["status"] == "final":
            key = (record["deployment_id"], record["window_start_us"])
            assert key not in found, "a window is final once"
            found[key] = record
    return found


def numbers(record: Mapping[str, Any]) -> Any:
    names = ("id", "rows", "window_end_us", "corrections", "parts")
    return {name: record[name] for name in names if name in record}


def refused(world: Any) -> Counter[tuple[str, int, int, str, int]]:
    """Every row that was refused, whatever it was refused together with."""
    return Counter(
        (
            letter["source_topic"].rpartition(".")[2],
            letter["source_partition"],
            letter["source_offset"],
            letter["reason"],
            row,
        )
        for letter in world.dead_letters()
        for row in letter["rows"]
    )


def check_against_scikit_learn(world: Any, play: Play) -> int:
    """Hold every final window to the rows themselves; how many of them have an area under the curve."""
    windows, curves = final_windows(world), 0
    for name, truth in play.truths.items():
        starts = truth.times_us // ROUND_US * ROUND_US
        for start in np.unique(starts).tolist():
            record = windows[name, start]
            layout = PerformanceLayout(
                record["task"],
                tuple(record["classes"]),
                np.array(record["score_edges"]),
                np.array(record["age_edges_us"], np.int64),
            )
            whole = next(part for part in record["parts"] if part["segment"] == "")
            sums = from_fields(layout, whole["counts"], whole["sums"])
            found = metrics(layout, sums)
            rows = [row for row in np.flatnonzero(starts == start).tolist() if truth.ids[row] in play.in_force[name]]
            actual = np.array([play.in_force[name][truth.ids[row]][1] for row in rows])
            said = truth.said[rows]
            assert whole["counts"]["predictions"] == [int((starts == start).sum())]
            assert whole["counts"]["resolved"] == [len(rows)]
            if truth.spec.task == REGRESSION:
                assert found["mae"].value == pytest.approx(sklearn.mean_absolute_error(actual, said), abs=1e-8)
                assert found["rmse"].value == pytest.approx(sklearn.root_mean_squared_error(actual, said), abs=1e-8)
                continue
            decided = said >= 0.5
            assert found["accuracy"].value == sklearn.accuracy_score(actual, decided)
            confusion = sklearn.confusion_matrix(actual, decided, labels=[0, 1])
            assert np.array_equal(sums["confusion"].reshape(2, 2), confusion.T)
            if len(np.unique(actual)) == 2:
                area = found["roc_auc"]
                assert area.value is not None
                assert abs(area.value - sklearn.roc_auc_score(actual, said)) <= area.error + 1e-12
                curves += 1
    return curves


def test_workers_that_end_in_any_way_join_what_an_undisturbed_one_joins_and_what_is_true(
    worlds: Any, samples: Any, baselines: dict[str, Baseline], check_replay: Any, tmp_path: Path
) -> None:
    disturbed, calm = worlds(partitions=4), worlds(partitions=4)
    for world in (disturbed, calm):
        world.put(*SPECS, *baselines.values())
    t0 = samples.t0 // ROUND_US * ROUND_US
    script, rng = play(t0, 3), random.Random(3)
    calm.start()
    disturbed.start(before=OFTEN)
    disturbed.start(before=OFTEN)
    disturbed.wait(lambda: len(disturbed.open_partitions()) >= 4, supervised=True)
    stale = tmp_path / "stale"
    zombie = None
    accidents = {2: "same", 4: "deleted", 6: "stopped", 8: "stale"}
    for number, (predictions, outcomes) in enumerate(script.rounds):
        now_us = t0 + (number + 1) * ROUND_US
        for phase in (predictions, outcomes):
            publish(disturbed, phase, now_us)
            publish(calm, phase, now_us)
            accident = accidents.get(number) if phase is outcomes else None
            if accident is not None:
                time.sleep(rng.uniform(0, 0.3))
                running = [each for each in disturbed.workers if each.running and each is not zombie]
                victim = rng.choice(running)
                if accident == "stopped":
                    victim.send(signal.SIGSTOP)
                    zombie = victim
                    disturbed.start(before=OFTEN)
                else:
                    victim.kill()
                    if accident == "deleted":
                        shutil.rmtree(victim.data_dir)
                    elif accident == "stale":
                        shutil.rmtree(victim.data_dir)
                        shutil.copytree(stale, victim.data_dir)
                    elif accident == "same":
                        shutil.copytree(victim.data_dir, stale)
                    disturbed.start(before=OFTEN, data_dir=victim.data_dir)
            disturbed.wait_applied(60, supervised=True)
            calm.wait_applied(60)
        if zombie is not None:
            zombie.send(signal.SIGCONT)
            zombie = None
    for world in (disturbed, calm):
        close_everything(world, script, t0)

    one, other = final_windows(disturbed), final_windows(calm)
    assert {key: numbers(record) for key, record in one.items()} == {
        key: numbers(record) for key, record in other.items()
    }
    assert check_against_scikit_learn(disturbed, script) > 20
    assert refused(disturbed) == refused(calm)
    reasons = Counter(reason for _, _, _, reason, _ in refused(calm).elements())
    assert reasons.keys() >= {"outcome_value", "outcome_time", "unknown_prediction"}
    alerts = [sorted((e.record["id"], e.record["status"]) for e in world.read("alerts")) for world in (disturbed, calm)]
    assert alerts[0] == alerts[1]
    raised = {(e.record["deployment_id"], e.record["monitor"]) for e in calm.read("alerts")}
    assert (DRIFTS, "concept_drift") in raised
    check_replay(disturbed)
    for deployment in system_status(disturbed.settings).deployments:
        found = deployment.outcomes
        assert found is not None
        assert (found.pending, found.coverage, found.early) == (0, 1.0, 0)
        assert found.joined == len(script.in_force[deployment.deployment_id]) + 1
    texts = "".join(worker.log.read_text() for worker in disturbed.workers)
    assert "the index of pending predictions is missing" in texts
