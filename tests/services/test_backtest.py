"""A back-test finds what the workers found, and says what other settings would have found."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from driftline.batches import between
from driftline.codec import decode, encode
from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from driftline.settings import KafkaSettings
from driftline.topics import PARTITIONER, Topics, record_key
from services.backtest.alarms import Alarm, alarms_of, side_by_side
from services.backtest.findings import Range
from services.backtest.past import Past
from services.backtest.replay import BacktestError
from services.backtest.run import BackTest, backtest, partitions_of
from services.backtest.settings import WhatIf, assigned, parse_assignment, with_margins
from services.deployments.baselines import publish_baseline
from services.deployments.checking import parse_specification
from services.deployments.errors import DeploymentError, SpecificationError
from services.deployments.store import apply, get_deployment
from services.event_time import parse_moment
from services.kafka import Publisher, admin_client, answer, consumer, read_to_end
from services.positions import stream_positions
from services.topics import ensure_topics
from streams.baseline import FAIRNESS_ROLE, LABELS_ROLE, OUTCOME_ROLE, Baseline
from streams.reference import build_baseline
from streams.specification import DecisionValue, DeploymentSpec, OutcomeSpec
from streams.statistics.layouts import LOSS, NUMERIC

SECOND = 1_000_000
T0 = (int(time.time()) // 3600 - 24) * 3600 * SECOND
"""Yesterday: the broker would soon delete older messages for their age."""

SPEC = """
deployment: flights
model: delay-classifier
task: other
features: {x: numeric, y: {kind: numeric, importance: 2}, c: categorical}
shards: 2
margin: 0.1
window: 1m
lateness: 10s
start_slot: 1m
"""


def spec_of(text: str = SPEC) -> DeploymentSpec:
    return parse_specification(text.encode(), "test").to_spec()


def rows(
    count: int, *, first: int = 0, shift: float = 0.0, deployment_id: str = "flights", seed: int = 1
) -> PredictionColumns:
    """Rows ``first``, ``first`` + 1 …, each a tenth of a second after the one before; ``x`` may shift."""
    rng = np.random.default_rng([seed, first, count])
    return PredictionColumns(
        deployment_id,
        "1",
        [f"p{i}" for i in range(first, first + count)],
        T0 + (np.arange(first, first + count) * SECOND) // 10,
        {"x": rng.normal(size=count) + shift, "y": rng.normal(size=count)},
        {"c": CategoricalColumn(["a", "b", "k"], rng.choice(3, count, p=[0.5, 0.3, 0.2]).astype(np.int32))},
        prediction=rng.random(count),
    )


def reference(spec: DeploymentSpec, seed: int = 5) -> Baseline:
    return build_baseline(spec, "1", [rows(5000, seed=seed, deployment_id=spec.deployment_id)], source="test")


class History:
    """A deployment with a past: published, applied by a real worker, changed and alarming."""

    def __init__(self, bootstrap_servers: str, prefix: str, folder: Path) -> None:
        self.settings = KafkaSettings(bootstrap_servers, Topics(prefix), application_id=prefix.strip("."))
        self.topics = self.settings.topics
        ensure_topics(self.settings, 2, 1)
        self._folder = folder
        self._worker: subprocess.Popen[bytes] | None = None
        self.published: dict[str, int] = {}

    def start(self) -> None:
        environment = {
            **os.environ,
            "DRIFTLINE_BOOTSTRAP_SERVERS": self.settings.bootstrap_servers,
            "DRIFTLINE_TOPIC_PREFIX": self.topics.prefix,
            "DRIFTLINE_APPLICATION_ID": self.settings.application_id,
        }
        command = [sys.executable, "-m", "services.cli.main", "worker", "--data-dir", str(self._folder / "worker")]
        with (self._folder / "worker.log").open("ab") as log:
            self._worker = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.terminate()
            assert self._worker.wait(20) == 0
            self._worker = None

    def publish(self, batches: int, *, deployment_id: str = "flights", shards: int = 2, shift: float = 0.0) -> None:
        """So many batches of 200 rows, dealt to the shards, and an outcome batch now and then."""
        with Publisher(self.settings) as publisher:
            for _ in range(batches):
                first = self.published.get(deployment_id, 0)
                self.published[deployment_id] = first + 200
                key = record_key(deployment_id, first // 200 % shards if shards > 1 else None)
                columns = rows(200, first=first, shift=shift, deployment_id=deployment_id)
                publisher.send(self.topics.predictions, key, encode("PredictionBatch", columns.to_record()))
                if first % 1000 == 0:
                    known = OutcomeColumns(
                        deployment_id, columns.prediction_ids[:5], columns.timestamps_us[:5], np.zeros(5)
                    )
                    publisher.send(self.topics.outcomes, key, encode("OutcomeBatch", known.to_record()))

    def wait(self) -> None:
        """Until everything is applied and committed."""
        deadline = time.monotonic() + 60
        while any(position.lag > 0 for position in stream_positions(self.settings)):
            assert self._worker is not None
            assert self._worker.poll() is None, (self._folder / "worker.log").read_text()[-3000:]
            assert time.monotonic() < deadline, "the worker does not keep up"
            time.sleep(0.05)

    def in_force(self, digests: set[str]) -> None:
        """Until both partitions have recorded that something came into force."""
        deadline = time.monotonic() + 20
        while True:
            found = [
                (message.partition(), entry["digest"])
                for message in read_to_end(self.settings, self.topics.streams_order)
                for entry in decode(message.value())[1]["entries"]
                if entry["digest"] in digests
            ]
            if len(set(found)) == 2 * len(digests):
                return
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def alerts(self, deployment_id: str = "flights") -> list[Mapping[str, Any]]:
        found = [decode(message.value())[1] for message in read_to_end(self.settings, self.topics.alerts)]
        return [alert for alert in found if alert["deployment_id"] == deployment_id]

    def ends(self) -> dict[tuple[str, int], int]:
        """The end of every partition of every topic."""
        reader = consumer(self.settings)
        topics = reader.list_topics(timeout=10).topics
        found = {
            (name, partition): reader.get_watermark_offsets(TopicPartition(name, partition), timeout=10)[1]
            for name, topic in topics.items()
            if name.startswith(self.topics.prefix)
            for partition in topic.partitions
        }
        reader.close()
        return found


@pytest.fixture(scope="module")
def history(kafka: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """Quiet, drift, a changed budget, a new baseline, drift again; another deployment on the same partitions."""
    world = History(kafka.bootstrap_servers, f"backtest-{time.time_ns()}.", tmp_path_factory.mktemp("history"))
    spec, other = spec_of(), spec_of(SPEC.replace("flights", "other").replace("shards: 2", "shards: 1"))
    try:
        world.start()
        apply(world.settings, [spec, other], actor="ada")
        publish_baseline(world.settings, reference(other), actor="ada")
        publish_baseline(world.settings, reference(spec), actor="ada")
        world.publish(40)
        world.publish(10, deployment_id="other", shards=1)
        world.publish(20, shift=0.6)
        world.wait()
        apply(world.settings, [spec_of(SPEC + "false_alarms: {count: 2, scope: deployment}\n")], actor="ada")
        world.in_force({get_deployment(world.settings, "flights").spec.digest()})
        world.publish(20, deployment_id="other", shards=1, shift=1.0)
        world.publish(4, shift=0.6)
        world.wait()
        fresh = reference(spec, seed=6)
        publish_baseline(world.settings, fresh, actor="ada")
        world.in_force({fresh.digest})
        world.publish(20)
        world.publish(30, shift=-0.4)
        world.publish(60)
        world.wait()
        world.stop()
        yield world
    finally:
        if world._worker is not None:
            world._worker.kill()


def records(found: BackTest) -> list[Mapping[str, Any]]:
    """Every alert that would have been raised."""
    alarms = [pair.would for pair in found.pairs if pair.would is not None]
    return [record for alarm in alarms for record in (alarm.firing, alarm.resolved) if record is not None]


def through_avro(alerts: list[Mapping[str, Any]]) -> list[str]:
    return sorted(repr(decode(encode("Alert", alert))[1]) for alert in alerts)


def test_with_unchanged_settings_the_alarms_are_those_that_were_raised_byte_for_byte(history: History) -> None:
    live = history.alerts()
    assert {alert["status"] for alert in live} == {"firing", "resolved"}
    assert {alert["evidence_offsets"][0]["partition"] for alert in live} == {0, 1}
    assert len({alert["baseline_digest"] for alert in live}) == 2
    assert {alert["spec_revision"] for alert in live} >= {1, 2}
    before = history.ends()
    found = backtest(history.settings, "flights")
    assert through_avro(records(found)) == through_avro(live)
    assert {pair.verdict for pair in found.pairs} == {"same"}
    assert (found.rows, found.refused, found.notes, found.changes) == (history.published["flights"], 0, [], [])
    assert history.ends() == before, "nothing is written"


def test_deployments_on_the_same_partition_are_tested_apart(history: History) -> None:
    found = backtest(history.settings, "other")
    assert {record["id"] for record in records(found)} == {alert["id"] for alert in history.alerts("other")} != set()
    assert found.rows == history.published["other"]


def what_if(history: History, *assignments: str, **more: Any) -> BackTest:
    return backtest(history.settings, "flights", WhatIf([parse_assignment(a) for a in assignments]), **more)


def test_a_tighter_budget_raises_the_thresholds_and_never_notices_earlier(history: History) -> None:
    now = backtest(history.settings, "flights")
    tight = what_if(history, "false_alarms.count=0.001", "false_alarms.scope=deployment")
    was, would = ({(t.model_version, t.monitor): t.nats for t in found.thresholds} for found in (now, tight))
    assert was.keys() == would.keys() != set()
    assert all(would[key] - was[key] == pytest.approx(np.log(2 / 0.001)) for key in was)
    firing = [pair for pair in tight.pairs if pair.did is not None]
    assert all(pair.verdict in ("same", "later", "gone") for pair in firing)
    assert any(pair.verdict in ("later", "gone") for pair in firing)
    assert "at most 0.001 false alarms" in tight.promise
    assert [(change.field, change.after) for change in tight.changes] == [("false_alarms.count", 0.001)]


def test_a_margin_beyond_the_shift_silences_its_alarms_and_none_finds_them_sooner(history: History) -> None:
    deaf = what_if(history, "margin=0.45")
    assert {pair.verdict for pair in deaf.pairs} == {"gone"}
    assert len(deaf.pairs) == len(alarms_of(history.alerts()))
    own = what_if(history, "features.x.margin=0.45")
    data = [pair for pair in own.pairs if pair.shown.firing["monitor"] == "data_drift"]
    assert data and all("x" not in pair.would.causes for pair in data if pair.would is not None)
    sharp = what_if(history, "margin=0")
    assert any(pair.verdict == "earlier" for pair in sharp.pairs)
    assert not any(pair.verdict in ("later", "gone") for pair in sharp.pairs)


def test_a_changed_severity_changes_nothing_else(history: History) -> None:
    mild = what_if(history, "severities.data_drift=info")
    assert {pair.verdict for pair in mild.pairs} == {"same"}
    drift = [r for r in records(mild) if r["monitor"] == "data_drift"]
    assert drift and {record["severity"] for record in drift} == {"info"}


def test_another_specification_or_baseline_is_in_force_throughout(history: History) -> None:
    changed = parse_specification(SPEC.replace("start_slot: 1m", "start_slot: 2m").encode(), "file")
    found = backtest(history.settings, "flights", WhatIf(specification=changed))
    assert [change.field for change in found.changes if change.field == "start_slot"] == ["start_slot"]
    assert found.promise.startswith("at most 1 false alarm ")
    shifted = build_baseline(
        get_deployment(history.settings, "flights").spec, "9", [rows(5000, shift=0.6, seed=5)], source="test"
    )
    other = backtest(history.settings, "flights", WhatIf(baseline=shifted))
    assert other.baseline_digest == shifted.digest
    assert {r["model_version"] for r in records(other)} == {"1"}, "it stands in for each version's own"
    assert min(r["change_time_us"] for r in records(other)) < T0 + 600 * SECOND, "what was normal is now a drift"


def test_a_range_begins_with_empty_detectors_and_says_so(history: History) -> None:
    middle = T0 + 1100 * SECOND
    found = backtest(history.settings, "flights", from_us=middle)
    assert found.first_us == middle
    assert found.rows == history.published["flights"] - 11_000
    assert any("start empty" in note and "without --from" in note for note in found.notes)
    assert all(pair.did is None or pair.did.noticed_us >= middle for pair in found.pairs)
    assert any(pair.did is not None for pair in found.pairs), "what happened later is still compared"
    begin = backtest(history.settings, "flights", to_us=middle)
    assert begin.rows == 11_000 and begin.notes == []
    live = [alert for alert in history.alerts() if alert["detection_time_us"] < middle and alert["status"] == "firing"]
    assert {pair.shown.firing["id"] for pair in begin.pairs} == {alert["id"] for alert in live} != set()
    assert {pair.verdict for pair in begin.pairs} == {"same"}


def test_an_empty_range_names_the_range_there_is(history: History) -> None:
    with pytest.raises(BacktestError, match=r"has an event before 2001-01-01T00:00:00Z: the topic has events from 20"):
        backtest(history.settings, "flights", to_us=parse_moment("2001-01-01"))
    last = T0 + (history.published["flights"] - 1) * SECOND // 10
    with pytest.raises(BacktestError, match="the topic has events") as refused:
        backtest(history.settings, "flights", from_us=last + 1)
    assert time.strftime("%Y-%m-%dT%H:%M", time.gmtime(last / 1e6)) in str(refused.value)
    with pytest.raises(DeploymentError, match="did you mean 'flights'"):
        backtest(history.settings, "flihgts")
    idle = spec_of(SPEC.replace("flights", "idle"))
    apply(history.settings, [idle], actor="ada")
    with pytest.raises(BacktestError, match="nothing was published"):
        backtest(history.settings, "idle")


def test_messages_that_no_worker_has_applied_are_left_out_and_counted(history: History) -> None:
    before = history.published["other"]
    history.publish(3, deployment_id="other", shards=1)
    found = backtest(history.settings, "other")
    assert found.rows == before
    assert any(note.startswith("3 messages with predictions are not applied yet") for note in found.notes)


def test_what_is_gone_from_the_topics_is_said_and_stood_in_for(history: History) -> None:
    """Runs last of those with this history: it deletes from its topics."""
    settings, topics = history.settings, history.topics
    admin = admin_client(settings)
    past = Past.read(settings, "flights")
    oldest, newest = list(past.specs), list(past.baselines)
    assert len(oldest) == 2 and len(newest) == 2

    def forget(topic: str, key: bytes, keep: int) -> None:
        """Delete what lies before the last ``keep`` records of a key."""
        at = [(m.partition(), m.offset()) for m in read_to_end(settings, topic) if m.key() == key]
        partition, offset = at[-keep]
        policy = ConfigEntry("cleanup.policy", "delete", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[policy])
        for future in admin.incremental_alter_configs([resource]).values():
            answer(future)
        for future in admin.delete_records([TopicPartition(topic, partition, offset)]).values():
            answer(future)

    forget(topics.baselines, b"flights@1", 1)
    found = backtest(settings, "flights")
    assert any(newest[0][:12] in note and "stands in" in note for note in found.notes)
    assert {record["baseline_digest"] for record in records(found)} == {newest[1]}
    forget(topics.deployments, b"flights", 1)
    found = backtest(settings, "flights")
    assert any(oldest[0][:12] in note and "revision 2" in note for note in found.notes)
    assert {record["spec_revision"] for record in records(found)} == {2}

    for number in partitions_of(settings, Past.read(settings, "flights")):
        for future in admin.delete_records([TopicPartition(topics.predictions, number, 30)]).values():
            answer(future)
    found = backtest(settings, "flights")
    assert 0 < found.rows < history.published["flights"]
    assert any("no longer on the topic: the detectors start empty" in note for note in found.notes)
    # the recorded order may go first: then what was in force is taken from the time on the broker
    for number in partitions_of(settings, Past.read(settings, "flights")):
        for future in admin.delete_records([TopicPartition(topics.streams_order, number, 2)]).values():
            answer(future)
    assert 0 < backtest(settings, "flights").rows <= found.rows


def test_silence_is_found_again_and_what_is_refused_is_passed_over(
    bootstrap_servers: str, topic_prefix: str, tmp_path: Path
) -> None:
    """Where no message came, the recorded order says how late it was."""
    text = SPEC.replace("flights", "pulse").replace("shards: 2", "shards: 1").replace("lateness: 10s", "lateness: 5m")
    spec = spec_of(text)
    now = int(time.time()) * SECOND

    def thirty_a_minute(count: int, end_us: int, seed: int) -> PredictionColumns:
        gaps_us = np.random.default_rng(seed).exponential(2 * SECOND, count).astype(np.int64)
        columns = rows(count, seed=seed, deployment_id="pulse")
        return dataclasses.replace(columns, timestamps_us=end_us - np.cumsum(gaps_us)[::-1])

    learnt = build_baseline(spec, "1", [thirty_a_minute(12_000, now - 86_400 * SECOND, seed=1)], source="test")
    world = History(bootstrap_servers, topic_prefix, tmp_path)
    apply(world.settings, [spec], actor="ada")
    publish_baseline(world.settings, learnt, actor="ada")
    producer = Producer(world.settings.client(partitioner=PARTITIONER) | {"log_level": 0})
    live = thirty_a_minute(900, now - 3000 * SECOND, seed=2)
    for start in range(0, live.rows, 30):
        batch = between(live, start, start + 30)
        sent_ms = int(batch.timestamps_us[-1]) // 1000
        producer.produce(
            world.topics.predictions, encode("PredictionBatch", batch.to_record()), b"pulse", timestamp=sent_ms
        )
    producer.produce(world.topics.predictions, b"nonsense", b"pulse", timestamp=sent_ms)
    wrong = encode("PredictionBatch", thirty_a_minute(5, now, seed=3).to_record())
    producer.produce(world.topics.predictions, wrong, b"a key of nobody's", timestamp=sent_ms)
    assert producer.flush(20) == 0
    world.start()
    try:
        deadline = time.monotonic() + 120
        while not world.alerts("pulse"):
            assert time.monotonic() < deadline, (tmp_path / "worker.log").read_text()[-3000:]
            time.sleep(0.2)
        world.stop()
    finally:
        if world._worker is not None:
            world._worker.kill()
    order = [decode(message.value())[1] for message in read_to_end(world.settings, world.topics.streams_order)]
    assert any(entry["source"] == "clock" for record in order for entry in record["entries"])
    found = backtest(world.settings, "pulse")
    assert through_avro(records(found)) == through_avro(world.alerts("pulse"))
    assert {record["monitor"] for record in records(found)} == {"service"}
    assert (found.rows, found.refused) == (900, 1)
    assert any("1 messages or parts of them were refused" in note for note in found.notes)
    before_the_silence = int(live.timestamps_us[-1])
    assert records(backtest(world.settings, "pulse", to_us=before_the_silence)) == []


# Settings by path


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("margin=0.02", "margin_tv", 0.02),
        ("start_slot = 30m", "start_slot_ms", 1_800_000),
        ("false_alarms.per=7d", "false_alarms.per_ms", 7 * 86_400_000),
        ("features.y.importance=3", "features.1.importance", 3.0),
        ("features.a.b.importance=4", "features.3.importance", 4.0),
        ("features.x.margin=0.1", "features.0.margin_tv", 0.1),
        ("severities.data_drift=info", "severities.data_drift", "info"),
        ("monitors.data_quality=off", "disabled_monitors.0", "data_quality"),
        ("tags={team: risk, note: no}", "tags.note", "no"),
        ("runbook=", "runbook_url", None),
        ("detectors[0].parameters.delta=0.01", "detectors.0.parameters.delta", 0.01),
        ("outcomes=3d", "outcomes.horizon_ms", 3 * 86_400_000),
        ("outcomes.horizon=3d", "outcomes.horizon_ms", 3 * 86_400_000),
        ("challengers=[2]", "challengers.0", "2"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_any_field_can_be_set_by_its_path(text: str, field: str, value: Any) -> None:
    spec = spec_of(SPEC.replace("c: cat", "c: categorical, a.b: cat") + WITH_MORE)
    here: Any = dataclasses.asdict(assigned(spec, [parse_assignment(text)]))
    for part in field.split("."):
        here = here[int(part)] if isinstance(here, list | tuple) else here[part]
    assert here == value
    assert dataclasses.asdict(assigned(spec, [])) == dataclasses.asdict(spec)


def test_what_is_said_of_outcomes_can_be_set_by_its_path() -> None:
    said = "outcomes: {horizon: 3d, classes: [a, b], values: [{predicted: a, actual: b, value: -2}]}\n"
    kept = SPEC.replace("task: other", "task: binary_classification\npositive_class: a")
    assert kept != SPEC
    spec = spec_of(kept + said)
    for text in ("outcomes.margin=0.1", "outcomes.values[0].value=-7", "outcomes.threshold=0.25"):
        spec = assigned(spec, [parse_assignment(text)])
    assert spec.outcomes == OutcomeSpec(
        259_200_000, classes=("a", "b"), values=(DecisionValue("a", "b", -7.0),), margin_tv=0.1, threshold=0.25
    )


WITH_MORE = "runbook: https://example.org\ndetectors: [{detector: adwin, stream: x}]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("margin", "expected PATH=VALUE"),
        ("margni=0.1", "did you mean 'margin'"),
        ("features.z.importance=3", "no feature 'z'"),
        ("features.x.importence=3", "did you mean 'importance'"),
        ("margin=wide", "margin: expected a number"),
        ("severities.data_drift=loud", "expected critical, error, warning or info"),
        ("detectors[3].stream=y", "expected the number of an item"),
        ("false_alarms.per=-1", "expected a duration"),
        ("outcomes.margin=0.1", "outcomes.horizon: required, and missing"),
        ("outcomes=500d", "outcomes.horizon: expected 1m to 400d, came 500d"),
    ],
    ids=lambda value: value[:30],
)
def test_a_setting_that_cannot_be_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(SpecificationError, match=message) as refused:
        assigned(spec_of(SPEC + WITH_MORE), [parse_assignment(text)])
    assert "line" not in str(refused.value), "nobody wrote the lines"


def test_what_decides_where_messages_lie_cannot_be_tried() -> None:
    for text in ("shards=4", "deployment=other"):
        with pytest.raises(SpecificationError, match="cannot be tried"):
            WhatIf([parse_assignment(text)]).spec(spec_of())


def test_the_share_of_the_budget_stays_unless_scope_or_risk_changes() -> None:
    spec = dataclasses.replace(spec_of(), revision=7)
    spec = dataclasses.replace(spec, false_alarms=dataclasses.replace(spec.false_alarms, share=0.125))
    looser = WhatIf([parse_assignment("false_alarms.count=5")]).spec(spec)
    assert (looser.false_alarms.count, looser.false_alarms.share, looser.revision) == (5, 0.125, 7)
    alone = WhatIf([parse_assignment("false_alarms.scope=deployment")]).spec(spec)
    assert alone.false_alarms.share == 1


def test_margins_from_counts_are_those_of_a_baseline_built_anew() -> None:
    base = spec_of()
    built = reference(base)
    for text in ("margin=0.2", "margin=0", "features.x.margin=0.3", "features.y.margin=0.001"):
        changed = assigned(base, [parse_assignment(text)])
        again = {s.name + s.segment: s.margin_tv for s in reference(changed).streams}
        ours = {s.name + s.segment: s.margin_tv for s in with_margins(built, base, changed).streams}
        assert ours == again != {s.name + s.segment: s.margin_tv for s in built.streams}
    assert with_margins(built, base, assigned(base, [parse_assignment("owner=ada")])) is built


def test_margins_of_what_outcomes_teach_follow_their_own_setting() -> None:
    base = dataclasses.replace(spec_of(), outcomes=OutcomeSpec(86_400_000, margin_tv=0.2))
    wider, other = (assigned(base, [parse_assignment(text)]) for text in ("outcomes.margin=0.4", "margin=0.3"))
    number = next(stream for stream in reference(spec_of()).streams if stream.layout is NUMERIC)
    streams = tuple(
        dataclasses.replace(number, name=role, role=role, margin_tv=0.2)
        for role in (OUTCOME_ROLE, LABELS_ROLE, FAIRNESS_ROLE)
    )
    built = dataclasses.replace(reference(spec_of()), streams=streams)
    assert [stream.margin_tv for stream in with_margins(built, base, wider).streams] == [0.4] * 3
    assert [stream.margin_tv for stream in with_margins(built, base, other).streams] == [0.2] * 3
    tail = dataclasses.replace(streams[0], name="loss_tail", layout=LOSS, margin_tv=0.0)
    assert with_margins(dataclasses.replace(built, streams=(tail,)), base, wider).streams == (tail,)


# Pairs


def alarm(number: int, change: int, noticed: int, *causes: str, end: int | None = None, **fields: Any) -> Alarm:
    firing = {
        "id": f"{number}",
        "incident_key": f"i{number}",
        "model_version": "1",
        "monitor": "data_drift",
        "evidence_offsets": [{"partition": 0}],
        "change_time_us": change,
        "detection_time_us": noticed,
        "causes": [{"stream": cause} for cause in causes],
        "status": "firing",
    } | fields
    return Alarm(firing, None if end is None else firing | {"detection_time_us": end, "status": "resolved"})


def verdicts(would: list[Alarm], did: list[Alarm]) -> list[tuple[str, int]]:
    return [(pair.verdict, pair.by_us) for pair in side_by_side(would, did)]


def test_an_alarm_is_paired_with_the_one_about_the_same_thing() -> None:
    temp, rain = alarm(1, 10, 30, "temp", end=90), alarm(2, 40, 45, "rain", end=80)
    assert verdicts([temp, rain], [temp, rain]) == [("same", 0), ("same", 0)]
    assert verdicts([alarm(3, 10, 20, "temp", end=90)], [temp, rain]) == [("earlier", -10), ("gone", 0)]
    # noticed so much earlier that the times to detection do not meet, but the same cause and still open
    assert verdicts([alarm(3, 1, 5, "temp")], [temp]) == [("earlier", -25)]
    assert verdicts([alarm(3, 1, 5, "temp", end=8)], [temp]) == [("new", 0), ("gone", 0)]
    assert verdicts([alarm(3, 1, 5, "wind")], [temp]) == [("new", 0), ("gone", 0)]
    # the cause decides between two that overlap, not the nearness in time
    late_rain = alarm(3, 25, 46, "rain")
    assert verdicts([late_rain], [alarm(1, 20, 46, "temp"), alarm(2, 20, 60, "rain")]) == [
        ("gone", 0),
        ("earlier", -14),
    ]


@pytest.mark.parametrize(
    "fields",
    [{"monitor": "prediction_drift"}, {"model_version": "2"}, {"evidence_offsets": [{"partition": 1}]}],
    ids=["monitor", "version", "partition"],
)
def test_alarms_of_different_detectors_are_never_paired(fields: Mapping[str, Any]) -> None:
    one = alarm(1, 10, 30, "temp")
    assert sorted(verdicts([one], [alarm(2, 10, 30, "temp", **fields)])) == [("gone", 0), ("new", 0)]


def test_every_alarm_is_in_one_pair() -> None:
    rng = np.random.default_rng(3)

    def some(first: int) -> list[Alarm]:
        starts = rng.integers(0, 50, 12).tolist()
        return [alarm(first + i, at, at + 10, *rng.choice(["a", "b", "c"], 2)) for i, at in enumerate(starts)]

    would, did = some(0), some(100)
    pairs = side_by_side(would, did)
    for ours, side in ((would, [p.would for p in pairs]), (did, [p.did for p in pairs])):
        assert sorted(a.firing["id"] for a in ours) == sorted(a.firing["id"] for a in side if a is not None)


def test_an_end_without_its_beginning_is_no_alarm() -> None:
    ended = alarm(1, 10, 30, "a", end=40)
    assert ended.resolved is not None
    (found,) = alarms_of([ended.resolved, ended.firing])
    assert (found.noticed_us, found.resolved_us) == (30, 40)
    assert alarms_of([ended.resolved]) == []


@pytest.mark.parametrize(
    ("given", "inside"),
    [
        (Range(), True),
        (Range(20, None), True),
        (Range(21, None), False),
        (Range(None, 10), False),
        (Range(15, 16), True),
    ],
    ids=["open", "last", "after", "before", "within"],
)
def test_a_message_counts_if_one_of_its_events_is_in_the_range(given: Range, inside: bool) -> None:
    assert given.touches(10, 20) is inside
