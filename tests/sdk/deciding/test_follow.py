"""What is in Kafka decides within seconds; nothing but whole, committed, own records does."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from driftline import codec
from driftline.codec import Schema
from driftline.errors import PredictionRefusedError, RegistryError
from driftline.humility import follow, known
from driftline.humility.follow import Follower
from driftline.humility.rules import Condition, Rule
from driftline.topics import partition_of, record_key

REFUSE_ALL = Rule("closed", Condition("prediction_out_of_range", high=-1e9), "refuse")


def test_changed_rules_decide_within_seconds(world: Any, eventually: Callable[..., None]) -> None:
    client = world.client()
    world.publish(world.spec(), world.baseline())
    assert client.wait_for_humility(20)
    eventually(lambda: client.humility_status().revision == 1, 5)
    assert client.decide({"size": 20.0, "city": "a"}, 400.0).answered
    with pytest.raises(PredictionRefusedError, match="The size is needed") as refused:
        client.decide({"city": "a"}, 400.0).result()
    assert refused.value.rule == "no-size"

    world.publish(world.spec(revision=2, rules=(REFUSE_ALL,)))
    eventually(lambda: client.decide({"size": 20.0}, 400.0).refused, 5)
    status = client.humility_status()
    assert (status.revision, status.rules, status.following, status.source) == (2, ("closed",), True, "kafka")
    assert status.age_seconds is not None and status.age_seconds < 30

    world.publish(world.spec(revision=3, rules=()))
    eventually(lambda: client.decide({"size": 20.0}, 400.0).answered, 5)
    assert client.humility_status().revision == 3 and client.humility_status().policy == ""
    world.publish(("deployments", b"rents"))
    eventually(lambda: client.humility_status().revision == 0, 5)


def test_what_the_streams_tell_of_alarms_and_quantiles_is_known_to_decisions(
    world: Any, eventually: Callable[..., None]
) -> None:
    world.publish(world.spec(), world.baseline(quantile=3.0))
    client = world.client()
    assert client.wait_for_humility(20)
    decision = client.decide({"size": 20.0}, 400.0)
    assert (decision.action, decision.quantile, decision.interval) == ("answered", 3.0, (397.0, 403.0))
    world.publish(world.state(quantile=5.0, alarms=("data_drift", "a monitor of a later release")))
    eventually(lambda: client.humility_status().quantiles == {"": 5.0}, 5)
    decision = client.decide({"size": 20.0}, 400.0)
    assert (decision.rule, decision.route_to, decision.quantile, decision.alarms) == ("alarmed", "the desk", 5.0, 1)
    assert [reason.rule for reason in decision.reasons] == ["alarmed", "unsure"]
    assert client.humility_status().alarms == ("data_drift",)
    world.publish(world.state(quantile=0.5, policy="of an older fit"))
    eventually(lambda: client.humility_status().alarms == (), 5)
    assert client.decide({"size": 20.0}, 400.0).quantile == 3.0, "scores of another fit are no measure for this one"
    world.publish(("humility", b"rents@v1#0"))


def test_of_several_partitions_any_alarm_counts_and_the_quantile_that_knows_most(world: Any) -> None:
    world.publish(
        world.spec(),
        world.baseline(),
        world.state(partition=0, quantile=1.0, known=5),
        world.state(partition=4, quantile=2.0, known=50, alarms=("labels",)),
        world.state(partition=5, quantile=9.0, known=50),
        world.state(partition=6, quantile=4.0, known=49, alarms=("service",)),
        world.state(version="v2", partition=6, quantile=8.0, known=490, alarms=("fairness",)),
    )
    client = world.client()
    assert client.wait_for_humility(20)
    status = client.humility_status()
    assert (status.quantiles, status.alarms) == ({"": 2.0}, ("service", "labels"))


@pytest.mark.parametrize("shard", [0, 1, 2, 3])
def test_a_shard_knows_what_its_own_partition_tells(world: Any, shard: int) -> None:
    own = partition_of(record_key("rents", shard), 7)
    states = [
        world.state(partition=p, quantile=float(p), known=1000 - p, alarms=("service",)[: p % 2]) for p in range(7)
    ]
    world.publish(world.spec(), world.baseline(), *states)
    client = world.client(shard=shard)
    assert client.wait_for_humility(20)
    status = client.humility_status()
    assert (status.quantiles, status.alarms) == ({"": float(own)}, ("service",) if own % 2 else ())


def test_records_of_others_change_nothing(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    others = ["rents-2", "rent", "Rents", "rents v1"]
    world.publish(world.spec(), world.baseline(), *(world.spec(name, 9, (REFUSE_ALL,)) for name in others))
    world.publish(*(world.baseline(name, quantile=9.0) for name in others))
    world.publish(*(world.state(name, quantile=9.0, alarms=("service",), policy="p") for name in others))
    with caplog.at_level(logging.INFO, "driftline"):
        client = world.client()
        assert client.wait_for_humility(20)
    status = client.humility_status()
    assert (status.revision, status.quantiles, status.alarms, status.trouble) == (1, {"": 3.0}, (), "")
    assert client.decide({"size": 1.0}, 1.0).answered


@pytest.mark.parametrize("partitions", [1, 3])
def test_nothing_is_decided_by_half_of_what_there_is(
    new_world: Any, bootstrap_servers: str, topic_prefix: str, partitions: int, caplog: pytest.LogCaptureFixture
) -> None:
    world = new_world(bootstrap_servers, topic_prefix)
    world.create(partitions)
    world.publish(*(world.spec(revision=revision) for revision in range(1, 300)))
    world.publish(*(world.baseline(quantile=float(version), version=f"v{version}") for version in range(9)))
    with caplog.at_level(logging.INFO, "driftline"):
        client = world.client(version="v7")
        assert client.wait_for_humility(20)
    assert [record.message for record in caplog.records if "revision" in record.message] == [
        "humility: revision 299 of 'rents'"
    ]
    assert client.humility_status().quantiles == {"": 7.0}
    assert client.decide({"size": 1.0}, 1.0, model_version="v3").quantile == 3.0
    assert client.decide({"size": 1.0}, 1.0, model_version="unheard of").quantile is None


def test_records_of_transactions_count_once_they_are_committed(world: Any, eventually: Callable[..., None]) -> None:
    world.publish(world.spec(), transaction=True)
    client = world.client()
    assert client.wait_for_humility(20)
    assert client.humility_status().revision == 1
    world.publish(world.spec(revision=2, rules=(REFUSE_ALL,)), transaction=False)
    world.publish(world.spec(revision=3), transaction=True)
    seen = set()

    def arrived() -> bool:
        seen.add(client.humility_status().revision)
        return 3 in seen

    eventually(arrived, 10)
    assert seen == {1, 3}


def test_what_cannot_be_read_leaves_what_was_known(world: Any, eventually: Callable[..., None]) -> None:
    world.publish(world.spec(), world.baseline())
    client = world.client()
    assert client.wait_for_humility(20)
    producer = Producer(world.settings.client())
    producer.produce(world.topics.deployments, b"\xc3\x01 not a record \x1b[31m", b"rents")
    producer.flush(10)
    eventually(lambda: "DeploymentSpec 'rents' cannot be read" in client.humility_status().trouble, 10)
    assert "\x1b" not in client.humility_status().trouble
    assert client.decide({}, 1.0).refused and client.humility_status().revision == 1
    world.publish(world.spec(revision=2))
    eventually(lambda: client.humility_status().revision == 2, 10)
    assert client.humility_status().trouble == ""


def test_a_trigger_of_a_later_release_never_fires_and_is_told_of(world: Any) -> None:
    rules = (Rule("new", Condition("full_moon"), "refuse"), *world.rules)
    world.publish(world.spec(rules=rules), world.baseline())
    client = world.client()
    assert client.wait_for_humility(20)
    assert [reason.rule for reason in client.decide({}, 1.0).reasons] == ["no-size"]
    assert any("full_moon" in sentence for sentence in client.humility_status().unarmed)


def test_rules_that_cannot_be_compiled_leave_the_ones_before(
    world: Any, eventually: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = known.Policy.of

    def of(spec: Any, baseline: Any) -> Any:
        return 1 / 0 if spec["revision"] == 2 else compiled(spec, baseline)

    monkeypatch.setattr(known.Policy, "of", of)
    world.publish(world.spec(), world.baseline())
    client = world.client()
    assert client.wait_for_humility(20)
    world.publish(world.spec(revision=2, rules=(REFUSE_ALL,)))
    eventually(lambda: client.humility_status().revision == 2, 10)
    assert client.decide({}, 1.0).rule == "no-size"
    assert "cannot be used: ZeroDivisionError" in client.humility_status().trouble
    world.publish(world.spec(revision=3, rules=(REFUSE_ALL,)))
    eventually(lambda: client.decide({}, 1.0).rule == "closed", 10)
    assert client.humility_status().trouble == ""


def test_rules_that_cannot_fire_are_told_of_once(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    rules = (Rule("strange", Condition("novel_input"), "refuse"), *world.rules)
    world.publish(world.spec(rules=rules), world.baseline())
    with caplog.at_level(logging.WARNING, "driftline"):
        client = world.client()
        assert client.wait_for_humility(20)
        client.decide({}, 1.0)
        client.decide({}, 1.0)
    assert any("strange" in sentence for sentence in client.humility_status().unarmed)
    assert len([record for record in caplog.records if "strange" in record.message]) == 1


def test_topics_that_come_later_are_found(
    new_world: Any,
    bootstrap_servers: str,
    topic_prefix: str,
    eventually: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "_LOOK_SECONDS", 0.3)
    world = new_world(bootstrap_servers, topic_prefix)
    client = world.client()
    assert client.wait_for_humility(20), "a cluster without these topics has no rules"
    assert client.humility_status().following and client.humility_status().revision == 0
    world.create()
    world.publish(world.spec(), world.baseline(), world.state(alarms=("service",)))
    eventually(lambda: client.decide({"size": 1.0}, 1.0).routed, 15)


class RegistryOfTwoIds:
    """As much of a schema registry as the codec asks for; away while `away` is set."""

    def __init__(self) -> None:
        self.schemas: list[Schema] = []
        self.away = threading.Event()

    def id_of(self, schema: Schema) -> int:
        if schema not in self.schemas:
            self.schemas.append(schema)
        return self.schemas.index(schema)

    def schema_of(self, schema_id: int) -> Schema:
        if self.away.is_set():
            raise RegistryError("the registry is away")
        return self.schemas[schema_id]


def test_records_in_the_registrys_format_are_read_and_wait_for_the_registry(
    world: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    registry = world.registry = RegistryOfTwoIds()
    world.publish(world.spec(), world.baseline())
    registry.away.set()
    follower = Follower("rents", None, world.settings, registry, tmp_path / "rules")
    follower.start()
    eventually(lambda: "registry is away" in follower.status("v1", undecided=0, failed=0).trouble, 20)
    assert follower.known.of("v1") is None and not follower.wait(0)
    registry.away.clear()
    assert follower.wait(20)
    status = follower.status("v1", undecided=0, failed=0)
    assert (status.revision, status.quantiles, status.trouble) == (1, {"": 3.0}, "")
    follower.stop()
    assert follower.join(10)
    data = (tmp_path / "rules").read_bytes()
    assert data.count(b"\xc3\x01" + codec.SCHEMAS["DeploymentSpec"].fingerprint) == 1, "it is read without a registry"
