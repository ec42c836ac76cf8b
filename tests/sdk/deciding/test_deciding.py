"""What the client decides is what travels, and what anybody decides again from the event; serving is never broken."""

import enum
import logging
import math
import random
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

import driftline
from driftline import Answer, Client, PredictionRefusedError
from driftline.errors import EventError
from driftline.events import NOT_DECIDED, PredictionColumns
from driftline.humility.policy import Policy
from driftline.humility.rules import ACTIONS, Condition, Override, Rule


class Town(enum.StrEnum):
    A = "a"
    NOWHERE = "nowhere"


SIZES = [20.0, 20, np.float32(3.5), np.int64(400), Decimal("101.5"), "99", "many", None, math.nan, math.inf, "", True]
CITIES = ["a", "nowhere", Town.NOWHERE, Town.A, np.str_("nowhere"), None, math.nan, "", 3, 3.0, False, "ünï"]
NOW_S = 1_790_000_000
SEEN = [NOW_S - 5, NOW_S - 61.5, float(NOW_S), None, "1789999000", -math.inf, NOW_S - 60]
PREDICTIONS = [400.0, 400, np.float32(12.5), None, math.nan, -math.inf]
ANSWERS = [300.0, 401, "cheap", Answer(1.5, "cheap"), (2, None), None, math.nan, True]


def random_row(rng: random.Random) -> dict[str, Any]:
    """Arguments of `decide`, of all the kinds that callers have."""
    features = {"size": rng.choice(SIZES), "city": rng.choice(CITIES), "seen": rng.choice(SEEN), "unwatched": "x"}
    for name in rng.sample(sorted(features), rng.randint(0, 1)):
        del features[name]
    row: dict[str, Any] = {"features": features, "prediction": rng.choice(PREDICTIONS)}
    if rng.random() < 0.5:
        low = rng.choice([390.0, 399])
        row |= {"prediction_low": low, "prediction_high": low + rng.choice([1, 3.0, 20])}
    if rng.random() < 0.5:
        row["challengers"] = {version: rng.choice(ANSWERS) for version in rng.sample(["v2", "v3"], rng.randint(1, 2))}
    if rng.random() < 0.3:
        row |= {"prediction_label": rng.choice(["dear", None]), "segments": {"region": rng.choice(["n", None])}}
    if rng.random() < 0.8:
        row["timestamp"] = NOW_S * 1_000_000 + rng.randint(0, 10**6)
    return row


def decided_again(policies: dict[str, Policy], batch: PredictionColumns) -> Any:
    """What a reader of the event decides, and the decisions that came with it."""
    came = batch.humility
    assert came is not None
    quantiles = np.full(batch.rows, np.nan) if came.quantiles is None else came.quantiles
    alarms = np.zeros(batch.rows, np.uint8) if came.alarms is None else came.alarms
    return policies[came.policy].decide_columns(batch, quantiles=quantiles, alarms=alarms), came


def same_as_came(policies: dict[str, Policy], batch: PredictionColumns) -> None:
    again, came = decided_again(policies, batch)
    rows = came.actions != NOT_DECIDED
    assert again.actions[rows].tolist() == came.actions[rows].tolist()
    assert again.fired[rows].tolist() == came.fired[rows].tolist()
    answers = np.full(batch.rows, np.nan) if came.answers is None else came.answers
    np.testing.assert_array_equal(again.answers[rows], answers[rows])
    none = [None] * batch.rows
    labels = [c.values() if c is not None else none for c in (again.answer_labels, came.answer_labels)]
    kept = np.flatnonzero(rows).tolist()
    assert [labels[0][row] for row in kept] == [labels[1][row] for row in kept]


@pytest.mark.parametrize("alarms", [(), ("service", "data_drift")])
def test_decisions_arrive_as_they_were_made_and_are_made_again_from_the_event(
    world: Any, read_predictions: Callable[..., list[PredictionColumns]], alarms: tuple[str, ...]
) -> None:
    world.publish(world.spec(), world.baseline(), world.state(quantile=4.5, alarms=alarms))
    client = world.client(batch_rows=64)
    assert client.wait_for_humility(20)
    rng = random.Random(1)
    made = {}
    for i in range(1500):
        row = random_row(rng)
        decision = client.decide(**row)
        client.log_prediction(**row, prediction_id=f"p{i}", decision=decision if i % 7 else None)
        made[f"p{i}"] = decision
    assert client.flush() == 0
    assert client.humility_status().failed == client.humility_status().undecided == client.counters().rejected == 0
    assert {decision.action for decision in made.values()} == ({"routed"} if alarms else {*ACTIONS} - {"routed"})
    policy = Policy.of(world.spec(), world.baseline())
    assert policy is not None
    arrived = 0
    for batch in read_predictions(world, 1500):
        same_as_came({policy.digest: policy}, batch)
        came = batch.humility
        assert came is not None and (came.policy, came.revision) == (policy.digest, 1)
        for row, key in enumerate(batch.prediction_ids):
            arrived += 1
            decision = made[key]
            if int(key[1:]) % 7 == 0:
                assert came.actions[row] == NOT_DECIDED
                continue
            assert (ACTIONS[came.actions[row]], came.fired[row]) == (decision.action, decision.fired)
            assert batch.timestamps_us[row] == decision.timestamp_us
            assert came.quantiles is not None and came.quantiles[row] == decision.quantile == 4.5
            assert (0 if came.alarms is None else came.alarms[row]) == decision.alarms == (0b1001 if alarms else 0)
            if decision.overridden and decision.prediction is not None:
                assert came.answers is not None and came.answers[row] == decision.prediction
    assert arrived == 1500


@pytest.fixture
def read_predictions() -> Callable[..., list[PredictionColumns]]:
    """All prediction batches of a world, once they have that many rows."""
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    def read(world: Any, rows: int) -> list[PredictionColumns]:
        consumer = Consumer(world.settings.client(group_id="reader", enable_auto_commit=False))
        places = [TopicPartition(world.topics.predictions, partition, OFFSET_BEGINNING) for partition in range(7)]
        consumer.assign(places)
        batches: list[PredictionColumns] = []
        deadline = time.monotonic() + 30
        while sum(batch.rows for batch in batches) < rows and time.monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is not None and message.error() is None:
                batches.append(PredictionColumns.from_record(driftline.decode(message.value())[1]))
        consumer.close()
        return batches

    return read


def test_tables_are_decided_as_their_rows_and_arrive_so(
    world: Any, read_predictions: Callable[..., list[PredictionColumns]]
) -> None:
    world.publish(world.spec(), world.baseline(), world.state(quantile=4.5))
    client = world.client(batch_rows=100)
    assert client.wait_for_humility(20)
    rng = np.random.default_rng(0)
    rows = 1000
    frame = pd.DataFrame(
        {
            "size": np.where(rng.random(rows) < 0.2, np.nan, rng.uniform(0, 150, rows)),
            "city": rng.choice(["a", "b", "nowhere"], rows),
            "seen": NOW_S - rng.integers(0, 120, rows),
        }
    )
    predictions = rng.uniform(0, 500, rows)
    challengers = {"v2": np.where(rng.random(rows) < 0.3, np.nan, predictions + rng.normal(0, 4, rows))}
    low, high = predictions - rng.uniform(0, 6, rows), predictions + rng.uniform(0, 6, rows)
    table = {"prediction_low": low, "prediction_high": high, "challengers": challengers}
    decisions = client.decide_many(frame, predictions, timestamps=NOW_S * 1_000_000, **table)
    assert len(decisions) == rows and decisions.predictions is not None
    assert decisions.answered.any() and decisions.overridden.any() and decisions.refused.any()
    ends = decisions.intervals()
    for row in range(rows):
        one = client.decide(
            frame.iloc[row].to_dict(),
            predictions[row],
            prediction_low=low[row],
            prediction_high=high[row],
            challengers={"v2": challengers["v2"][row]},
            timestamp=NOW_S * 1_000_000,
        )
        assert (ACTIONS[decisions.actions[row]], decisions.rule(row)) == (one.action, one.rule)
        assert decisions.reasons(row) == one.reasons
        assert one.interval == (ends[0][row], ends[1][row])
        served = decisions.predictions[row]
        assert math.isnan(served) if one.prediction is None else served == one.prediction
    keys = client.log_predictions(frame, predictions, decisions=decisions, **table)
    assert client.flush() == 0
    policy = Policy.of(world.spec(), world.baseline())
    assert policy is not None
    came: dict[str, int] = {}
    for batch in read_predictions(world, rows):
        same_as_came({policy.digest: policy}, batch)
        assert batch.humility is not None
        came |= dict(zip(batch.prediction_ids, batch.humility.actions.tolist(), strict=True))
        assert set(batch.timestamps_us.tolist()) == {NOW_S * 1_000_000}
    assert [came[key] for key in keys] == decisions.actions.tolist()


def test_classes_are_overridden_and_refused_by_columns_as_by_row(world: Any) -> None:
    """Of a classifier what is served is a class."""
    rules = (
        Rule(
            "odd",
            Condition("low_observation_region", columns=("city",), values=("x",)),
            "override",
            Override("label", label="b"),
        ),
        Rule(
            "other", Condition("challenger_disagreement"), "override", Override("version", version="v2"), priority=200
        ),
        Rule("unsure", Condition("uncertain_prediction", measure="confidence", low=0.6), "refuse", priority=300),
    )
    spec = world.spec(rules=rules) | {"task": "multiclass_classification"}
    world.publish(spec, world.baseline())
    client = world.client()
    assert client.wait_for_humility(20)
    cities, labels = ["x", "y", "y", "y", "x"], ["a", "a", "b", "c", None]
    probabilities = {"a": [0.9, 0.8, 0.3, 0.1, 0.4], "b": [0.1, 0.1, 0.4, 0.1, 0.3], "c": [0.0, 0.1, 0.3, 0.8, 0.3]}
    answers = ["a", "d", None, "c", None]
    decisions = client.decide_many(
        {"city": cities}, None, probabilities, prediction_label=labels, challengers={"v2": answers}
    )
    assert decisions.prediction_labels is not None and decisions.predictions is None
    assert [ACTIONS[code] for code in decisions.actions] == [
        "overridden",
        "overridden",
        "refused",
        "answered",
        "overridden",
    ]
    assert decisions.prediction_labels.values() == ["b", "d", None, "c", "b"]
    for row in range(5):
        one = client.decide(
            {"city": cities[row]},
            None,
            {name: column[row] for name, column in probabilities.items()},
            prediction_label=labels[row],
            challengers={"v2": answers[row]},
        )
        assert (one.action, one.prediction_label) == (
            ACTIONS[decisions.actions[row]],
            decisions.prediction_labels.values()[row],
        )


def test_without_rules_predictions_are_answered_as_they_are_and_counted(world: Any) -> None:
    client = world.client()
    assert client.wait_for_humility(20)
    decision = client.decide({"size": 1}, 400.0, prediction_label="dear", timestamp=5)
    assert (decision.result(), decision.prediction, decision.policy, decision.timestamp_us) == ("dear", 400.0, "", 5)
    decisions = client.decide_many({"size": [1, 2]}, [400.0, None], timestamps=[5, 6])
    assert decisions.answered.all() and decisions.policy is None and decisions.columns is None
    np.testing.assert_array_equal(decisions.predictions, [400.0, math.nan])
    assert decisions.rule(0) is None and decisions.reasons(1) == () and np.isnan(decisions.intervals()).all()
    status = client.humility_status()
    assert (status.undecided, status.failed, status.policy, status.revision) == (3, 0, "", 0)
    client.log_prediction({"size": 1}, 400.0, decision=decision)
    client.log_predictions({"size": [1, 2]}, [400.0, None], decisions=decisions)
    assert client.flush() == 0 and client.counters().rejected == 0


class Grumpy(dict[str, Any]):
    """Features that do not like to be looked at."""

    def get(self, *_arguments: Any) -> Any:
        raise RuntimeError("not now")

    __getitem__ = __contains__ = __iter__ = keys = items = get  # type: ignore[assignment]


BAD_ROWS: list[Callable[[Client], Any]] = [
    lambda client: client.decide(Grumpy({"size": 1.0}), 400.0),
    lambda client: client.decide({"size": 1.0}, 400.0, timestamp="yesterday"),
    lambda client: client.decide({"size": 1.0}, 400.0, model_version=["v1"]),
    lambda client: client.decide(None, 400.0),
]


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_what_goes_wrong_while_deciding_never_reaches_the_caller(
    world: Any, bad: Callable[[Client], Any], caplog: pytest.LogCaptureFixture
) -> None:
    world.publish(world.spec(), world.baseline())
    client = world.client()
    assert client.wait_for_humility(20)
    with caplog.at_level(logging.WARNING, "driftline"):
        for _ in range(101):
            decision = bad(client)
    assert (decision.action, decision.prediction, decision.policy) == ("answered", 400.0, "")
    assert client.humility_status().failed == 101
    assert len([record for record in caplog.records if "not decided" in record.message]) == 3
    strict = world.client(strict=True)
    assert strict.wait_for_humility(20)
    with pytest.raises((RuntimeError, EventError, TypeError, AttributeError)):
        bad(strict)


def test_a_classifiers_table_needs_no_features(world: Any) -> None:
    rule = Rule("unsure", Condition("uncertain_prediction", measure="confidence", low=0.6), "refuse")
    world.publish(world.spec(rules=(rule,)) | {"task": "multiclass_classification"})
    client = world.client(strict=True)
    assert client.wait_for_humility(20)
    decisions = client.decide_many({}, class_probabilities={"a": [0.9, 0.5], "b": [0.1, 0.5]})
    assert decisions.refused.tolist() == [False, True]


def test_a_table_that_cannot_be_read_is_answered_as_it_is(world: Any) -> None:
    world.publish(world.spec(), world.baseline())
    client = world.client()
    assert client.wait_for_humility(20)
    decisions = client.decide_many({"size": [1.0, object(), 3.0]}, [1.0, 2.0, 3.0])
    assert len(decisions) == 3 and decisions.answered.all() and decisions.columns is None
    assert decisions.predictions is not None and decisions.predictions.tolist() == [1.0, 2.0, 3.0]
    assert len(client.decide_many({"size": [1.0, 2.0]}, [1.0, 2.0, 3.0])) == 3
    assert client.humility_status().failed == 6
    strict = world.client(strict=True)
    with pytest.raises(EventError, match="size"):
        strict.decide_many({"size": [1.0, object(), 3.0]}, [1.0, 2.0, 3.0])


def test_decisions_of_other_rows_are_refused_by_name(world: Any) -> None:
    world.publish(world.spec(), world.baseline())
    client = world.client(strict=True)
    assert client.wait_for_humility(20)
    decisions = client.decide_many({"size": [1.0, 2.0]}, [1.0, 2.0])
    with pytest.raises(EventError, match=r"decisions: expected 3, one per row .* came 2"):
        client.log_predictions({"size": [1.0, 2.0, 3.0]}, [1.0, 2.0, 3.0], decisions=decisions)
    with pytest.raises(EventError, match=r"challengers.*a@b"):
        client.log_prediction({}, 1.0, challengers={"a@b": 1.0})
    with pytest.raises(EventError, match="challengers: expected a mapping"):
        client.log_prediction({}, 1.0, challengers=[1.0])
    with pytest.raises(EventError, match=r"challengers\['v2'\]"):
        client.log_predictions({"size": [1.0]}, challengers={"v2": [[1.0, 2.0]]})


def test_the_first_decision_may_wait_for_the_rules(world: Any) -> None:
    world.publish(world.spec(), world.baseline())
    client = world.client(humility_wait_seconds=20.0)
    assert client.decide({}, 1.0).refused
    eager = world.client(follow_humility=True)
    deadline = time.monotonic() + 20
    while not eager.humility_status().following:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert eager.humility_status().undecided == 0


def test_any_number_of_threads_decides_by_whole_policies_while_rules_change(world: Any) -> None:
    refusing = Rule("no", Condition("prediction_out_of_range", high=-1e9), "refuse")
    specs = {
        revision: world.spec(revision=revision, rules=(*world.rules[: revision % 2], refusing)) for revision in (1, 2)
    }
    compiled = [Policy.of(spec, None) for spec in specs.values()]
    digests = {policy.digest: policy for policy in compiled if policy is not None}
    assert len(digests) == 2
    world.publish(specs[1])
    client = world.client(strict=True)
    assert client.wait_for_humility(20)
    stop, seen, wrong = threading.Event(), set(), []

    def decide() -> None:
        while not stop.is_set():
            decision = client.decide({}, 1.0)
            seen.add(decision.policy)
            expected = digests[decision.policy].decide_row({}, 1.0, timestamp_us=decision.timestamp_us)
            if decision != expected:
                wrong.append(decision)

    threads = [threading.Thread(target=decide) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    revision = 1
    while len(seen) < 2 and time.monotonic() < deadline:
        revision = 3 - revision
        world.publish(specs[revision])
        time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong and seen == digests.keys()


def followers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "driftline-humility"]


def test_a_closed_client_follows_no_more_and_decides_by_what_it_knew(
    world: Any, eventually: Callable[..., None]
) -> None:
    world.publish(world.spec(), world.baseline())
    client = world.client()
    assert not followers(), "nothing is followed before anybody asks"
    assert client.wait_for_humility(20)
    assert len(followers()) == 1
    started = time.monotonic()
    client.close()
    assert time.monotonic() - started < 5 and not followers()
    assert not client.humility_status().following
    assert client.decide({}, 1.0).refused
    with pytest.raises(PredictionRefusedError):
        client.decide({}, 1.0).result()
    client.close()

    never_asked = world.client("others", humility_wait_seconds=60.0)
    never_asked.close()
    assert never_asked.decide({}, 1.0).answered and not followers()

    def forget() -> None:
        settings, folder = world.settings, world.folder / "other"
        Client("rents", "v1", settings=settings, spool_dir=folder, follow_humility=True).decide({}, 1.0)

    forget()
    eventually(lambda: not followers(), 10)
