"""A partition that is opened again goes on as if nothing had happened, whatever became of its index."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from driftline.codec import encode
from driftline.events import CategoricalColumn, HumilityColumns, OutcomeColumns, PredictionColumns
from driftline.humility.fit import ONE_MINUS_PROBABILITY, CoverageStart, HumilityFit
from driftline.humility.rules import (
    IN_ALARM,
    OUTLYING_INPUT,
    OVERRIDE,
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
from streams.baseline import Baseline
from streams.messages import Message
from streams.outcomes.clock import FORGOTTEN_MS
from streams.outcomes.store import PendingStore
from streams.reference import build_baseline
from streams.specification import BINARY, DeploymentSpec, FeatureSpec, OutcomeSpec

MINUTE_US = 60_000_000
HORIZON_MS = 40 * 60_000

SPEC = DeploymentSpec(
    "d",
    "m",
    BINARY,
    (FeatureSpec("x", "numeric"),),
    positive_class="yes",
    outcomes=OutcomeSpec(horizon_ms=HORIZON_MS, window_ms=10 * 60_000, lateness_ms=10 * 60_000),
)


FAR = Condition(OUTLYING_INPUT, columns=("x",), low=-1.5, high=1.5)
RULES = HumilitySpec(
    (
        Rule("unsure", Condition(UNCERTAIN_PREDICTION, measure="set_size"), ROUTE),
        Rule("far", FAR, OVERRIDE, override=Override("label", label="no"), priority=1),
        Rule("alarmed", Condition(IN_ALARM), REFUSE, priority=0),
    ),
    Guarantees(coverage=0.8),
)
"""Rules that look at what only the moment knows: the adaptive quantile, and alarms."""


def fitted(baseline: Baseline, quantile: float) -> Baseline:
    """The baseline with a fit of the rules."""
    fit = HumilityFit(
        RULES.digest(),
        "test",
        100,
        50,
        0,
        1,
        0.95,
        coverage=0.8,
        coverage_score=ONE_MINUS_PROBABILITY,
        score_range=1.0,
        step=0.03,
        coverage_starts=(CoverageStart("", 50, quantile),),
    )
    changed = dataclasses.replace(baseline, humility=fit, digest="")
    return dataclasses.replace(changed, digest=changed.content_digest())


def predictions(rng: np.random.Generator, ids: list[str], times_us: Any, *, humble: bool = False) -> PredictionColumns:
    x = rng.normal(size=len(ids))
    times = np.asarray(times_us, np.int64)
    plain = PredictionColumns("d", "1", ids, times, {"x": x}, {}, np.round(1 / (1 + np.exp(-x)), 3))
    if not humble or rng.random() < 0.5:
        return plain
    return dataclasses.replace(plain, humility=claims(rng, len(ids)))


def claims(rng: np.random.Generator, rows: int) -> HumilityColumns:
    """Whatever an application may have decided, of some rows nothing."""
    return HumilityColumns(
        "some other rules",
        1,
        rng.choice([0, 1, 2, 3, 255], rows).astype(np.uint8),
        rng.integers(0, 2**64, rows, dtype=np.uint64),
        np.where(rng.random(rows) < 0.3, rng.choice([np.nan, np.inf, 1e300], rows), rng.random(rows)),
        rng.integers(0, 256, rows).astype(np.uint8),
        answer_labels=CategoricalColumn(["yes", "what"], rng.integers(-1, 2, rows).astype(np.int32)),
    )


def outcomes(rng: np.random.Generator, ids: list[str], known_us: Any, odd: float = 0.0) -> OutcomeColumns:
    label = rng.integers(0, 2, len(ids)).astype(np.int32)
    label[rng.random(len(ids)) < odd] = 2
    known = np.asarray(known_us, np.int64)
    return OutcomeColumns("d", ids, known, actual_label=CategoricalColumn(["no", "yes", "perhaps"], label))


@pytest.fixture(scope="module")
def baseline(samples: Any) -> Baseline:
    rng = np.random.default_rng(5)
    ids = [f"r{i}" for i in range(600)]
    times = samples.t0 - 2000 * MINUTE_US + np.arange(600) * MINUTE_US
    told = outcomes(rng, ids, times + rng.integers(0, HORIZON_MS * 1000, 600))
    return build_baseline(SPEC, "1", [predictions(rng, ids, times)], source="test", outcomes=[told])


def messages(topics: Any, t0: int, seed: int, *, humble: bool = False) -> list[Message]:
    """Both topics as they come: late, early, twice, corrected, of nobody; windows close on the way."""
    rng = np.random.default_rng(seed)
    rows = 300
    times = t0 + np.sort(rng.integers(0, 150 * MINUTE_US, rows))
    delivered = times + np.where(rng.random(rows) < 0.1, rng.integers(0, 80 * MINUTE_US, rows), 0)
    told: list[tuple[int, str, int]] = []  # delivered, id, known
    for row in range(rows):
        for _ in range(int(rng.choice([0, 1, 1, 2, 3]))):
            known = int(times[row]) + int(rng.integers(0, HORIZON_MS * 1100))
            told.append((known + int(rng.integers(0, 25 * MINUTE_US)), f"p{row}", known))
            if rng.random() < 0.2:
                told.append((int(times[row]) + int(rng.integers(0, 60 * MINUTE_US)), f"p{row}", known))
    told += [(t0 + n * 15 * MINUTE_US, f"nobody{n}", t0 + n * 10 * MINUTE_US) for n in range(8)]
    batches: list[tuple[int, PredictionColumns | OutcomeColumns]] = []
    order = np.argsort(delivered, kind="stable")
    for chosen in np.array_split(order, 25):
        columns = predictions(rng, [f"p{row}" for row in chosen.tolist()], times[chosen], humble=humble)
        batches.append((int(delivered[chosen].max()), columns))
    told.sort()
    for begin in range(0, len(told), 12):
        part = told[begin : begin + 12]
        batches.append((part[-1][0], outcomes(rng, [each[1] for each in part], [each[2] for each in part], 0.05)))
    batches += [(at + 5 * MINUTE_US, columns) for at, columns in batches if rng.random() < 0.15]
    end = t0 + 1_000 * MINUTE_US
    batches.append((end, predictions(rng, ["last"], [end])))
    batches.append((end, outcomes(rng, ["last"], [end])))
    offsets = {topics.predictions: 0, topics.outcomes: 0}
    found = []
    for at, columns in sorted(batches, key=lambda each: each[0]):
        is_prediction = isinstance(columns, PredictionColumns)
        topic = topics.predictions if is_prediction else topics.outcomes
        value = encode("PredictionBatch" if is_prediction else "OutcomeBatch", columns.to_record())
        found.append(Message(topic, 0, offsets[topic], at // 1000, record_key("d"), value))
        offsets[topic] += 1
    return found


@pytest.fixture(scope="module")
def often_written() -> Iterator[None]:
    """The index is written with every few commits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joining, "CHECKPOINT_ROWS", 40)
        yield


class Worker:
    """A machine that is opened again and again; its directory has what the last one, or another worker, left."""

    def __init__(self, samples: Any, baseline: Baseline, folder: Path, *, humble: bool = False) -> None:
        self.samples, self.folder, self.baseline = samples, folder, baseline
        self.known: dict[str, DeploymentSpec | Baseline] = {}
        self.machine = samples.store_machine(self._store(folder / "a"))
        self.put(dataclasses.replace(SPEC, humility=RULES if humble else None), baseline)
        self.machine.commit()
        self.committed = 0  # entries of the log

    def put(self, *specs_and_baselines: DeploymentSpec | Baseline) -> None:
        for each in specs_and_baselines:
            self.known[each.digest if isinstance(each, Baseline) else each.digest()] = each
            self.machine.put(each)

    def change(self, what: str) -> None:
        """A specification or baseline comes into force, or the worker knows that it has read everything."""
        if what == "clock":
            latest_ms = max((m.timestamp_ms for m in self.machine.log), default=0)
            self.machine.pass_time(latest_ms + FORGOTTEN_MS)  # longer than any row has taken to be published
            return
        spec, _ = self.machine.partition.in_force()
        now = spec["d"]
        assert now.outcomes is not None
        if what == "baseline":
            source = self.machine.partition.in_force()[1]["d", "1"].source + "+"
            changed = dataclasses.replace(self.baseline, source=source, digest="")
            self.put(dataclasses.replace(changed, digest=changed.content_digest()))
        elif what == "fit":
            quantile = 0.4 + 0.1 * (len(self.known) % 3)
            self.put(fitted(self.machine.partition.in_force()[1]["d", "1"], quantile))
        elif what == "rules":
            asked = None if now.humility == HumilitySpec(RULES.rules[:2], RULES.guarantees) else now.humility
            other = RULES if asked is None else HumilitySpec(RULES.rules[:2], RULES.guarantees)
            other = dataclasses.replace(other, rules=(*other.rules[::-1],)) if now.revision % 3 else other
            self.put(
                dataclasses.replace(now, revision=now.revision + 1, humility=None if now.revision % 5 == 4 else other)
            )
        elif what == "skew":
            self.put(dataclasses.replace(now, revision=now.revision + 1, clock_skew_ms=now.clock_skew_ms // 2 + 7_000))
        else:
            horizon_ms = now.outcomes.horizon_ms // 2 + 15 * 60_000
            outcomes = dataclasses.replace(now.outcomes, horizon_ms=horizon_ms)
            self.put(dataclasses.replace(now, revision=now.revision + 1, outcomes=outcomes))

    @staticmethod
    def _store(directory: Path | None) -> PendingStore:
        return PendingStore(directory, merge_in_background=False, spill_rows=30)

    def commit(self) -> None:
        self.machine.commit()
        self.committed = len(self.machine.log)

    def open_again(self, how: str) -> list[Message]:
        """Kill it and open the partition with what is left; what was applied and not committed."""
        if how == "prepared":
            self.machine.partition.take()  # its transaction fails
        self.machine.partition._store.close()
        left = {"lost": "none", "stale": "old"}.get(how, "a")
        if how == "copied":
            shutil.rmtree(self.folder / "old", ignore_errors=True)
            shutil.copytree(self.folder / "a", self.folder / "old")
        if left != "a":
            shutil.rmtree(self.folder / "a")
            if (self.folder / left).exists():
                shutil.copytree(self.folder / left, self.folder / "a")
        again, emissions, order = self.machine.log[self.committed :], self.machine.emissions, self.machine.order
        del self.machine.log[self.committed :]
        self.machine = self.machine.restarted(self._store(self.folder / "a"))
        self.machine.emissions, self.machine.order = emissions, order
        return again


ENDS = ["same", "lost", "prepared", "copied", "stale"]
CHANGES = ["baseline", "skew", "horizon", "clock"]
steps = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from(["commit", "commit", "commit", *ENDS, *CHANGES])),
    min_size=5,
    max_size=25,
)


HUMBLE_CHANGES = [*CHANGES, "fit", "fit", "rules", "rules"]
humble_steps = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from(["commit", "commit", "commit", *ENDS, *HUMBLE_CHANGES])),
    min_size=5,
    max_size=25,
)


@settings(max_examples=12, phases=(Phase.explicit, Phase.generate))  # shrinking plans of events takes minutes
@given(seed=st.integers(0, 1000), plan=humble_steps, swap=st.integers(0, 2**16))
def test_decisions_are_made_again_as_they_were_whatever_became_of_the_index_and_the_rules(
    samples: Any,
    baseline: Baseline,
    often_written: None,
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    plan: list[tuple[int, str]],
    swap: int,
) -> None:
    worker = Worker(samples, fitted(baseline, 0.5), tmp_path_factory.mktemp("worker"), humble=True)
    live(samples, worker, messages(samples.topics, samples.t0, seed, humble=True), plan, np.random.default_rng(swap))
    parts = {
        part["segment"]
        for emission in worker.machine.emissions
        if emission.record_name == "PerformanceWindow"
        for part in emission.record["parts"]
    }
    assert {"", "decision=answered", "decision=routed", "rule:far=fired"} <= parts


@settings(max_examples=12)
@given(seed=st.integers(0, 1000), plan=steps, swap=st.integers(0, 2**16))
def test_whatever_became_of_the_index_state_and_output_are_those_of_an_undisturbed_run(
    samples: Any,
    baseline: Baseline,
    often_written: None,
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    plan: list[tuple[int, str]],
    swap: int,
) -> None:
    worker = Worker(samples, baseline, tmp_path_factory.mktemp("worker"))
    live(samples, worker, messages(samples.topics, samples.t0, seed), plan, np.random.default_rng(swap))


def live(
    samples: Any, worker: Worker, due: list[Message], plan: list[tuple[int, str]], rng: np.random.Generator
) -> None:
    """Go through what is planned; state and output must be those of a machine that was never closed."""
    for count, what in plan:
        for message in due[:count]:
            worker.machine.apply(message)
        del due[:count]
        if what == "commit":
            worker.commit()
            continue
        if what in HUMBLE_CHANGES:
            worker.change(what)
            continue
        again = worker.open_again(what)
        # the next owner need not take the two topics in the same order
        due = another_order(again, rng) + due
    for message in due:
        worker.machine.apply(message)
    worker.commit()
    worker.machine.partition._store.close()

    calm = replay(samples, worker)
    assert worker.machine.records == calm.records
    one, other = (
        [(emission.topic, emission.record) for emission in machine.emissions] for machine in (worker.machine, calm)
    )
    assert one == other


def another_order(log: list[Message], rng: np.random.Generator) -> list[Message]:
    """The same messages, the two topics against each other in another order."""
    queues = [[m for m in log if m.topic == topic] for topic in sorted({m.topic for m in log})]
    found = []
    while queues := [queue for queue in queues if queue]:
        found.append(queues[int(rng.integers(len(queues)))].pop(0))
    return found


def replay(samples: Any, worker: Worker) -> Any:
    """Another machine that was given the same in the same order, and never closed."""
    calm = samples.empty_machine(0, samples.topics)
    log = {(message.topic, message.offset): message for message in worker.machine.log}
    for entry in worker.machine.order:
        if entry["source"] == "control":
            calm.put(worker.known[entry["digest"]])
        elif entry["source"] == "clock":
            calm.pass_time(entry["first_offset"])
        else:
            calm.apply(*(log[entry["source"], at] for at in range(entry["first_offset"], entry["last_offset"] + 1)))
    calm.commit()
    return calm


def test_an_outcome_that_comes_late_is_told_from_one_of_nobody_while_others_go_on(
    samples: Any, baseline: Baseline, tmp_path: Path
) -> None:
    """Late is what comes within the lateness after its window is final; the index lost on the way changes nothing."""
    rng = np.random.default_rng(1)
    t0 = samples.t0
    worker = Worker(samples, baseline, tmp_path)
    offsets = {samples.topics.predictions: 0, samples.topics.outcomes: 0}

    def send(columns: PredictionColumns | OutcomeColumns, minute: int) -> None:
        is_prediction = isinstance(columns, PredictionColumns)
        topic = samples.topics.predictions if is_prediction else samples.topics.outcomes
        value = encode("PredictionBatch" if is_prediction else "OutcomeBatch", columns.to_record())
        log_ms = (t0 + minute * MINUTE_US) // 1000
        worker.machine.apply(Message(topic, 0, offsets[topic], log_ms, record_key("d"), value))
        offsets[topic] += 1

    def pass_to(minute: int) -> None:
        at = t0 + minute * MINUTE_US
        send(predictions(rng, [f"p{minute}"], [at]), minute)
        send(outcomes(rng, [f"p{minute}"], [at]), minute)

    for minute in range(0, 65, 5):  # the window of the first two is final 60 minutes after its start
        pass_to(minute)
    worker.commit()
    worker.open_again("lost")
    known = t0 + 20 * MINUTE_US
    send(outcomes(rng, ["p0"], [known]), 65)
    for minute in range(65, 120, 5):
        pass_to(minute)
    send(outcomes(rng, ["p5"], [known]), 120)
    send(outcomes(rng, ["nobody"], [known]), 120)
    for minute in range(120, 260, 5):
        pass_to(minute)
    worker.commit()
    letters = [e.record for e in worker.machine.emissions if e.topic == "dead_letters"]
    assert [letter["reason"] for letter in letters] == ["late_outcome", "unknown_prediction", "unknown_prediction"]
    worker.machine.partition._store.close()


def test_the_step_that_lets_time_pass_is_an_entry_of_the_order(
    samples: Any, baseline: Baseline, tmp_path: Path
) -> None:
    worker = Worker(samples, baseline, tmp_path)
    due = messages(samples.topics, samples.t0, 1)
    for message in due[: len(due) // 2]:
        worker.machine.apply(message)
        worker.change("clock")
    worker.commit()
    worker.machine.partition._store.close()
    assert any(entry["source"] == "clock" for entry in worker.machine.order)
    assert worker.machine.records == replay(samples, worker).records
