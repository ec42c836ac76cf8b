"""A back-test with outcomes: what a worker found from topics, the same from files, and what other settings change."""

import csv
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition

from driftline.batches import between
from driftline.codec import decode, encode
from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from driftline.settings import KafkaSettings
from driftline.topics import PARTITIONER, Topics
from services.backtest.accuracy import Accuracy, accuracy
from services.backtest.files import Files
from services.backtest.replay import BacktestError
from services.backtest.run import BackTest, backtest
from services.backtest.settings import WhatIf, parse_assignment
from services.deployments.baselines import publish_baseline
from services.deployments.checking import parse_specification
from services.deployments.errors import DeploymentError, SpecificationError
from services.deployments.store import apply, get_deployment
from services.event_time import rfc3339
from services.kafka import admin_client, answer, read_to_end
from services.positions import stream_positions
from services.publish.reading import take
from services.topics import ensure_topics
from streams.decoding import Decoded
from streams.messages import Message
from streams.partition import Partition
from streams.reference import build_baseline
from streams.specification import CONCEPT_DRIFT, FAIRNESS, LABELS, DeploymentSpec

SECOND, MINUTE, HOUR = 1_000_000, 60_000_000, 3_600_000_000
BATCHES, ROWS, STEP_US = 110, 200, 3 * SECOND
CHANGED_FROM, SILENT_FROM = 50, 72
"""Batches: from the one on the relation is another, from the other on outcomes come no more."""

SLOT = 2 * HOUR
T0 = int(time.time() * SECOND) // SLOT * SLOT - 21 * HOUR
"""Eighteen hours that ended some hours ago, from the middle of a start slot on, at whatever hour the tests run: the
slot in which outcomes stop is over, and old enough to be looked at, before the last outcome comes. Of a slot that
begins with the silence only the clock could tell."""

SPEC = """
deployment: loans
model: scores
task: binary_classification
positive_class: "yes"
features: {x: numeric}
columns: {prediction_id: id, timestamp: at, actual_timestamp: known, timestamp_format: epoch_us, segments: {g: g}}
segments: [g]
margin: 0.1
window: 1h
start_slot: 2h
outcomes: {horizon: 3h, window: 1h, lateness: 10m, margin: 0.05, fairness: [g]}
false_alarms: {count: 1, per: 1d, scope: deployment}
"""


def loans(
    start_us: int, rows: int, seed: int, *, changed_from: int, silent_from: int
) -> tuple[PredictionColumns, OutcomeColumns]:
    """Predictions a few seconds apart and their outcomes, by the time at which these became known."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    probability = 1 / (1 + np.exp(-x))
    number = np.arange(rows)
    turned = rng.random(rows) < np.where(number >= changed_from, 0.5, 0.0)
    actual = rng.random(rows) < np.where(turned, 1 - probability, probability)
    ids = [f"{seed}-{i}" for i in range(rows)]
    times = start_us + number * STEP_US
    columns = PredictionColumns(
        "loans",
        "1",
        ids,
        times,
        {"x": x},
        prediction=probability,
        segments={"g": CategoricalColumn(["a", "b"], (number % 2).astype(np.int32))},
    )
    known = times + 1 + np.minimum(rng.exponential(20 * MINUTE, rows), 170 * MINUTE).astype(np.int64)
    labels = CategoricalColumn(["no", "yes"], actual.astype(np.int32))
    outcomes = OutcomeColumns("loans", ids, known, actual_label=labels)
    kept = np.flatnonzero(number < silent_from)
    return columns, take(outcomes, kept[np.argsort(known[kept], kind="stable")])


class World:
    """Loans with a past: published in the order of arrival, and applied by a real worker."""

    def __init__(self, bootstrap_servers: str, folder: Path) -> None:
        self.settings = KafkaSettings(bootstrap_servers, Topics(f"backtest-outcomes-{time.time_ns()}."))
        self.folder = folder
        self.spec: DeploymentSpec = parse_specification(SPEC.encode(), "test").to_spec()
        self.predictions, self.outcomes = loans(
            T0, BATCHES * ROWS, 1, changed_from=CHANGED_FROM * ROWS, silent_from=SILENT_FROM * ROWS
        )
        self.reference = loans(T0 - 24 * HOUR, 12_000, 2, changed_from=12_000, silent_from=12_000)
        ensure_topics(self.settings, 1, 1)
        apply(self.settings, [self.spec], actor="ada")
        self.baseline = build_baseline(self.spec, "1", [self.reference[0]], source="test", outcomes=[self.reference[1]])
        publish_baseline(self.settings, self.baseline, actor="ada")

    def messages(self) -> Iterator[tuple[int, list[PredictionColumns | OutcomeColumns]]]:
        """What came in each ten minutes of event time, and when these ended."""
        known = self.outcomes.actual_timestamps_us
        last = 0
        for number in range(BATCHES + 30):
            end_us = T0 + (number + 1) * ROWS * STEP_US
            came: list[PredictionColumns | OutcomeColumns] = []
            if number < BATCHES:
                came.append(between(self.predictions, number * ROWS, (number + 1) * ROWS))
            until = int(np.searchsorted(known, end_us))
            if until > last:
                came.append(between(self.outcomes, last, until))
                last = until
            yield end_us, came
        assert last == self.outcomes.rows

    def publish(self, first: int, after: int) -> None:
        """Publish what came in some of these, with the log's time of then."""
        producer = Producer(self.settings.client(partitioner=PARTITIONER) | {"log_level": 0, "linger.ms": 0})
        topics = self.settings.topics
        for end_us, came in list(self.messages())[first:after]:
            for columns in came:
                is_prediction = isinstance(columns, PredictionColumns)
                topic = topics.predictions if is_prediction else topics.outcomes
                name = "PredictionBatch" if is_prediction else "OutcomeBatch"
                producer.produce(topic, encode(name, columns.to_record()), b"loans", timestamp=end_us // 1000)
                assert producer.flush(20) == 0  # the order between the topics is that of arrival, as nearly as can be

    def fed_in_real_time(self) -> list[Mapping[str, Any]]:
        """The alerts of a partition that gets it as it comes, with a look at the clock every ten minutes."""
        topics = self.settings.topics
        partition = Partition(0, topics)
        partition.put_spec_in_force(get_deployment(self.settings, "loans").spec)
        partition.put_baseline_in_force(self.baseline)
        for end_us, came in self.messages():
            for columns in came:
                topic = topics.predictions if isinstance(columns, PredictionColumns) else topics.outcomes
                message = Message(topic, 0, partition.position[topic], end_us // 1000, b"loans", None)
                partition.apply(Decoded(message, columns))
            if end_us <= T0 + BATCHES * ROWS * STEP_US:
                partition.pass_time(end_us // 1000)
        return [emission.record for emission in partition.take()[1] if emission.record_name == "Alert"]

    def work(self, *, kill: bool) -> None:
        """Let a worker apply everything that was published, and kill it; or have it look at the clock, and end it."""
        begun_ms = int(time.time() * 1000)
        environment = {
            **os.environ,
            "DRIFTLINE_BOOTSTRAP_SERVERS": self.settings.bootstrap_servers,
            "DRIFTLINE_TOPIC_PREFIX": self.settings.topics.prefix,
            "DRIFTLINE_APPLICATION_ID": self.settings.topics.prefix.strip("."),
        }
        command = [sys.executable, "-m", "services.cli.main", "worker", "--data-dir", str(self.folder / "worker")]
        with (self.folder / "worker.log").open("ab") as log:
            worker = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while any(
                position.lag > 0 or (not kill and position.facts.get("time_ms", 0) < begun_ms)
                for position in stream_positions(self.settings)
            ):
                assert worker.poll() is None, (self.folder / "worker.log").read_text()[-3000:]
                assert time.monotonic() < deadline, "the worker does not keep up"
                time.sleep(0.1)
            if not kill:
                worker.terminate()
                assert worker.wait(20) == 0
        finally:
            worker.kill()
            worker.wait(20)

    def records(self, topic: str, name: str) -> list[Mapping[str, Any]]:
        found = [decode(message.value()) for message in read_to_end(self.settings, topic)]
        return [record for what, record in found if what == name]

    def alerts(self) -> list[Mapping[str, Any]]:
        return self.records(self.settings.topics.alerts, "Alert")

    def final_windows(self) -> list[Mapping[str, Any]]:
        found = self.records(self.settings.topics.windows, "PerformanceWindow")
        return [record for record in found if record["status"] == "final"]

    def files(self) -> Files:
        """Everything as files, sorted in no way."""
        rng = np.random.default_rng(5)
        predictions, outcomes = self.folder / "predictions.csv", self.folder / "outcomes.csv"
        columns = self.predictions
        rows = zip(
            columns.prediction_ids,
            columns.timestamps_us.tolist(),
            map(repr, columns.numeric["x"].tolist()),
            map(repr, columns.prediction.tolist() if columns.prediction is not None else ()),
            columns.segments["g"].values(),
            strict=True,
        )
        _write(predictions, ["id", "at", "x", "prediction", "g"], rng.permutation(np.array(list(rows), object)))
        known = self.outcomes
        assert known.actual_label is not None
        pairs = zip(known.prediction_ids, known.actual_timestamps_us.tolist(), known.actual_label.values(), strict=True)
        _write(outcomes, ["id", "known", "actual_label"], rng.permutation(np.array(list(pairs), object)))
        return Files(predictions, outcomes, version="1")


def _write(path: Path, names: Sequence[str], rows: Any) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)


@pytest.fixture(scope="module")
def world(kafka: Any, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A relation that changes, then outcomes that come no more; the worker is killed once, and begins again."""
    found = World(kafka.bootstrap_servers, tmp_path_factory.mktemp("loans"))
    found.publish(0, 60)
    found.work(kill=True)
    found.publish(60, BATCHES + 30)
    found.work(kill=False)
    return found


def records(found: BackTest) -> list[Mapping[str, Any]]:
    alarms = [pair.would for pair in found.pairs if pair.would is not None]
    return [record for alarm in alarms for record in (alarm.firing, alarm.resolved) if record is not None]


def through_avro(name: str, found: Any) -> list[str]:
    return sorted(repr(decode(encode(name, record))[1]) for record in found)


def firing(found: BackTest, monitor: str) -> list[Mapping[str, Any]]:
    return [record for record in records(found) if record["monitor"] == monitor and record["status"] == "firing"]


def _by_start(found: BackTest) -> dict[int, Mapping[str, Any]]:
    return {record["window_start_us"]: record for record in found.windows}


def what_if(*assignments: str) -> WhatIf:
    return WhatIf([parse_assignment(text) for text in assignments])


def windows(world: World, found: BackTest) -> list[Accuracy]:
    return accuracy(world.settings, world.spec, found)


def test_alarms_and_final_windows_are_those_of_the_worker_byte_for_byte(world: World) -> None:
    live = world.alerts()
    assert {alert["monitor"] for alert in live} >= {CONCEPT_DRIFT, LABELS}
    found = backtest(world.settings, "loans")
    assert through_avro("Alert", records(found)) == through_avro("Alert", live)
    assert {pair.verdict for pair in found.pairs} == {"same"}
    final = [record for record in found.windows if record["status"] == "final"]
    assert through_avro("PerformanceWindow", final) == through_avro("PerformanceWindow", world.final_windows())
    assert len(final) >= 10
    assert (found.rows, found.notes, found.refused) == (BATCHES * ROWS, [], 0)


def test_accuracy_stands_beside_what_was_written_and_counts_every_pair(world: World) -> None:
    shown = windows(world, backtest(world.settings, "loans"))
    assert sum(each.part.predictions for each in shown if each.part) == world.predictions.rows
    assert sum(each.part.resolved for each in shown if each.part) == world.outcomes.rows
    actual = dict(zip(world.outcomes.prediction_ids, world.outcomes.actual_label.values(), strict=True))  # type: ignore[union-attr] # it has labels
    columns = world.predictions
    assert columns.prediction is not None
    for each in shown:
        window, part = each.would.window, each.part
        assert part is not None
        inside = (columns.timestamps_us >= window.start_us) & (columns.timestamps_us < window.end_us)
        pairs = [
            (columns.prediction[row] >= 0.5) == (actual[columns.prediction_ids[row]] == "yes")
            for row in np.flatnonzero(inside).tolist()
            if columns.prediction_ids[row] in actual
        ]
        value = part.readings["accuracy"].value
        if pairs:
            assert value is not None and value.value == pytest.approx(np.mean(pairs))
        if window.status == "final":
            assert each.did is not None
            assert each.did.readings["accuracy"].value == value


def test_files_in_any_order_give_what_a_partition_says_that_is_fed_in_real_time(world: World) -> None:
    """A slice is a twelfth of the start slot, ten minutes: so long are the messages of this past."""
    found = backtest(world.settings, "loans", files=world.files())
    by_hand = world.fed_in_real_time()
    assert {alert["monitor"] for alert in by_hand} >= {CONCEPT_DRIFT, LABELS}

    def without_log_time(alerts: Sequence[Mapping[str, Any]]) -> list[str]:
        return through_avro("Alert", [{**alert, "trigger_time_ms": 0} for alert in alerts])

    assert without_log_time(records(found)) == without_log_time(by_hand)


def test_files_in_any_order_have_the_accuracy_of_the_topics(world: World) -> None:
    topics = backtest(world.settings, "loans")
    found = backtest(world.settings, "loans", files=world.files())
    assert found.rows == topics.rows
    ours, theirs = (_by_start(each) for each in (found, topics))
    assert ours.keys() == theirs.keys()
    for start, record in ours.items():
        assert record["parts"] == theirs[start]["parts"]
        assert record["status"] == "final" or theirs[start]["status"] == "provisional"
    assert any(pair.did is not None for pair in found.pairs), "what was raised then stands beside it"


def test_a_wide_margin_silences_concept_drift_and_a_tight_budget_delays_it(world: World) -> None:
    now = backtest(world.settings, "loans")
    assert firing(now, CONCEPT_DRIFT)
    wide = backtest(world.settings, "loans", what_if("outcomes.margin=0.45"))
    assert not firing(wide, CONCEPT_DRIFT)
    assert {pair.verdict for pair in wide.pairs if pair.shown.firing["monitor"] == CONCEPT_DRIFT} == {"gone"}
    tight = backtest(world.settings, "loans", what_if("false_alarms.count=0.000001"))
    later = [pair for pair in tight.pairs if pair.shown.firing["monitor"] == CONCEPT_DRIFT]
    assert later and all(pair.verdict in ("later", "gone") for pair in later)
    ours, theirs = (through_avro("PerformanceWindow", found.windows) for found in (now, tight))
    assert ours == theirs, "a budget changes no accuracy"


def test_a_shorter_horizon_leaves_out_what_comes_later_and_is_final_sooner(world: World) -> None:
    found = backtest(world.settings, "loans", what_if("outcomes.horizon=20m", "outcomes.lateness=0s"))
    ids = dict(zip(world.predictions.prediction_ids, world.predictions.timestamps_us.tolist(), strict=True))
    in_time = sum(
        known - ids[name] <= 20 * MINUTE
        for name, known in zip(world.outcomes.prediction_ids, world.outcomes.actual_timestamps_us.tolist(), strict=True)
    )
    shown = windows(world, found)
    assert sum(each.part.resolved for each in shown if each.part) == in_time
    final = sum(each.would.window.status == "final" for each in shown)
    assert final > len(world.final_windows())
    assert any("labels finds that they do not come" in note for note in found.notes)


def test_another_threshold_changes_what_was_predicted(world: World) -> None:
    with pytest.raises(SpecificationError, match=r"outcomes.threshold: .* --set outcomes.fairness="):
        backtest(world.settings, "loans", what_if("outcomes.threshold=0.8"))
    found = backtest(world.settings, "loans", what_if("outcomes.threshold=0.8", "outcomes.fairness="))
    for each in windows(world, found):
        if each.did is None:
            continue  # nothing was known of it yet
        assert each.part is not None
        would, did = (part.readings["predicted_positive_rate"].value for part in (each.part, each.did))
        assert would is not None and did is not None and would.value is not None and did.value is not None
        assert would.value < did.value


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("positive_class=no", "positive_class: the baseline .* was learnt with the positive class 'yes', not 'no'"),
        ("task=other", "outcomes.fairness: of the task other"),
        ("outcomes.margin_tv=0.1", "did you mean 'margin'"),
        ("outcomes.margin=2", "outcomes.margin: expected"),
        ("outcomes.lateness=-1h", "expected a duration"),
        ("outcomes.horizon=0s", "outcomes.horizon: expected 1m to 400d"),
        ("outcomes.classes=[yes, no, maybe]", "binary_classification has 2 classes"),
        ("outcomes.fairness=[h]", "'h' is none"),
    ],
)
def test_what_cannot_be_tried_is_refused_by_name(world: World, assignment: str, message: str) -> None:
    with pytest.raises(SpecificationError, match=message):
        backtest(world.settings, "loans", what_if(assignment))


def test_a_horizon_beyond_what_the_topics_keep_is_refused_with_the_arithmetic(world: World) -> None:
    with pytest.raises(DeploymentError, match=r"horizon 300d \+ .* keeps"):
        backtest(world.settings, "loans", what_if("outcomes.horizon=300d", "outcomes.window=1d"))


def test_behind_the_end_of_a_range_outcomes_are_read_on(world: World) -> None:
    end_us = T0 // HOUR * HOUR + 8 * HOUR
    whole = _by_start(backtest(world.settings, "loans"))
    found = backtest(world.settings, "loans", to_us=end_us)
    cut = _by_start(found)
    assert found.last_us < end_us + ROWS * STEP_US
    before = [start for start in whole if start + HOUR <= end_us]
    assert len(before) >= 7
    for start in before:
        assert cut[start]["parts"] == whole[start]["parts"], "all of its outcomes were found"
        assert cut[start]["status"] == "final"
    assert all(record["detection_time_us"] < end_us for record in records(found) if record["status"] == "firing")
    assert {pair.verdict for pair in found.pairs} <= {"same"}
    from_files = backtest(world.settings, "loans", files=world.files(), to_us=end_us)
    assert [record["parts"] for record in from_files.windows if record["window_start_us"] in before] == [
        whole[start]["parts"] for start in sorted(before)
    ]


def test_where_outcomes_have_not_come_yet_windows_are_open(world: World) -> None:
    found = backtest(world.settings, "loans")
    states = {record["window_start_us"]: record["status"] for record in found.windows}
    last_start = max(states)
    assert states[last_start] == "provisional" and states[min(states)] == "final"
    shown = windows(world, found)
    assert sum(each.would.window.status == "provisional" for each in shown) == list(states.values()).count(
        "provisional"
    )


def test_a_range_leaves_out_outcomes_of_predictions_before_it_and_refuses_none(world: World) -> None:
    start_us = T0 // HOUR * HOUR + 6 * HOUR
    whole = _by_start(backtest(world.settings, "loans"))
    found = backtest(world.settings, "loans", from_us=start_us)
    assert found.refused == 0
    assert any("outcomes of predictions before that" in note for note in found.notes)
    for record in found.windows:
        if record["window_start_us"] > start_us:
            assert record["parts"] == whole[record["window_start_us"]]["parts"]


def test_without_outcomes_in_the_settings_there_is_no_accuracy(world: World) -> None:
    found = backtest(world.settings, "loans", what_if("outcomes="))
    assert len(found.windows) == 0 and not windows(world, found)
    assert {record["monitor"] for record in records(found)} & {CONCEPT_DRIFT, LABELS, FAIRNESS} == set()


def test_files_without_rows_or_with_rows_that_cannot_be_read_say_so(world: World, tmp_path: Path) -> None:
    files = world.files()
    with pytest.raises(BacktestError, match=r"has no prediction before 2001-01-01T00:00:00Z: it has 22,000 rows"):
        backtest(world.settings, "loans", files=files, to_us=978_307_200 * SECOND)
    damaged = tmp_path / "damaged.csv"
    lines = files.predictions.read_text().splitlines()
    damaged.write_text("\n".join([lines[0], "p,soon,1,0.5,a", *lines[1:2000]]) + "\n")
    found = backtest(
        world.settings, "loans", files=dataclasses.replace(files, predictions=damaged, outcomes=None, on_error="skip")
    )
    assert found.rows == 1999
    assert any(note.startswith("1 rows of predictions were skipped") and "line 2" in note for note in found.notes)
    assert any("there are no outcomes in the files" in note for note in found.notes)


def test_what_the_topics_no_longer_have_is_said(world: World) -> None:
    """Runs last: it deletes from the topics."""
    admin = admin_client(world.settings)

    def forget(topic: str, before: int) -> None:
        for future in admin.delete_records([TopicPartition(topic, 0, before)]).values():
            answer(future)

    whole = _by_start(backtest(world.settings, "loans"))
    forget(world.settings.topics.outcomes, 30)
    found = backtest(world.settings, "loans")
    (gone,) = [note for note in found.notes if note.startswith("outcomes are no longer on the topic")]
    assert any(rfc3339(T0 + hours * HOUR)[:13] in gone for hours in range(18))
    short = _by_start(found)
    assert short.keys() == whole.keys() and short[min(short)]["parts"] != whole[min(whole)]["parts"]
    assert short[max(short)]["parts"] == whole[max(whole)]["parts"]
    forget(world.settings.topics.predictions, 40)
    found = backtest(world.settings, "loans")
    assert found.rows == (BATCHES - 40) * ROWS
    assert any("no longer on the topic: the detectors start empty" in note for note in found.notes)
    assert any("outcomes of predictions before that" in note for note in found.notes) and found.refused == 0
    later = T0 + 50 * ROWS * STEP_US // HOUR * HOUR + 2 * HOUR
    for record in found.windows:
        if record["window_start_us"] >= later:
            assert record["parts"] == whole[record["window_start_us"]]["parts"]
