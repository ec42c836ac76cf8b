"""Humility rules in the topics of a real broker, and clients that follow them."""

import dataclasses
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # public by its documentation

import driftline
from driftline import Client, codec
from driftline.humility.fit import ABSOLUTE_RESIDUAL, CoverageStart, HumilityFit
from driftline.humility.policy import Policy
from driftline.humility.rules import Condition, Guarantees, HumilitySpec, Override, Rule
from driftline.settings import KafkaSettings
from driftline.topics import baseline_key, humility_key
from streams.baseline import Baseline
from streams.specification import REGRESSION, DeploymentSpec, FeatureSpec

RULES = (
    Rule("no-size", Condition("missing_input", columns=("size",)), "refuse", message="The size is needed."),
    Rule("huge", Condition("outlying_input", columns=("size",), high=100.0), "override", Override("clip", high=50.0)),
    Rule("alarmed", Condition("in_alarm"), "route", route_to="the desk", priority=10),
    Rule("nowhere", Condition("low_observation_region", columns=("city",), values=("nowhere",)), "record"),
    Rule("late", Condition("stale_input", columns=("seen",), measure="s", older_than_ms=60_000), "record"),
    Rule("unsure", Condition("uncertain_prediction", measure="interval_width", high=8.0), "record"),
    Rule("other", Condition("challenger_disagreement", high=5.0), "override", Override("version", version="v2")),
)


def spec_record(deployment: str = "rents", revision: int = 1, rules: tuple[Rule, ...] = RULES) -> dict[str, Any]:
    """A specification with rules; without any, the humility part is left out."""
    spec = DeploymentSpec(
        deployment,
        "model",
        REGRESSION,
        (FeatureSpec("size", "numeric"), FeatureSpec("city", "categorical"), FeatureSpec("seen", "numeric")),
        revision=revision,
        humility=HumilitySpec(rules, Guarantees(coverage=0.9)) if rules else None,
    )
    return decoded("DeploymentSpec", spec.to_record())


def baseline_record(deployment: str = "rents", version: str = "v1", quantile: float = 3.0) -> dict[str, Any]:
    """A baseline with a fit for the usual rules."""
    fit = HumilityFit(
        HumilitySpec(RULES, Guarantees(coverage=0.9)).digest(),
        "a test",
        1000,
        500,
        0,
        1,
        0.95,
        coverage=0.9,
        coverage_score=ABSOLUTE_RESIDUAL,
        score_range=10.0,
        step=0.1,
        coverage_starts=(CoverageStart("", 500, quantile),),
    )
    baseline = Baseline(deployment, version, 1000, (), humility=fit)
    return decoded("Baseline", dataclasses.replace(baseline, digest=baseline.content_digest()).to_record())


def state_record(
    deployment: str = "rents",
    version: str = "v1",
    *,
    partition: int = 0,
    alarms: tuple[str, ...] = (),
    quantile: float | None = None,
    known: int = 100,
    policy: str | None = None,
) -> dict[str, Any]:
    """What the streams tell of a version, by the policy of the usual rules if none is named."""
    quantiles = [{"segment": "", "quantile": quantile, "known": known, "missed": 7}] if quantile is not None else []
    if policy is None:
        compiled = Policy.of(spec_record(deployment), baseline_record(deployment, version))
        policy = "" if compiled is None else compiled.digest
    record = {
        "deployment_id": deployment,
        "model_version": version,
        "partition": partition,
        "clock_us": 0,
        "policy": policy,
        "alarms": list(alarms),
        "quantiles": quantiles,
    }
    return decoded("HumilityState", record)


def decoded(name: str, record: dict[str, Any]) -> dict[str, Any]:
    """The record as a reader has it."""
    return codec.decode(codec.encode(name, record))[1]


class World:
    """The topics of one test, and clients of it."""

    rules = RULES
    spec = staticmethod(spec_record)
    baseline = staticmethod(baseline_record)
    state = staticmethod(state_record)

    def __init__(self, bootstrap_servers: str, prefix: str, folder: Path) -> None:
        self.settings = KafkaSettings(bootstrap_servers, driftline.Topics(prefix))
        self.topics = self.settings.topics
        self.folder = folder
        self.clients: list[Client] = []
        self.registry: Any = None

    def create(self, partitions: int = 1, **of_topic: int) -> None:
        """The topics, with so many partitions; predictions have seven."""
        compacted = {"cleanup.policy": "compact"}
        names = {name: of_topic.get(name, partitions) for name in ("deployments", "baselines", "humility")}
        new = [NewTopic(getattr(self.topics, name), count, 1, config=compacted) for name, count in names.items()]
        new += [NewTopic(self.topics.predictions, 7, 1), NewTopic(self.topics.outcomes, 7, 1)]
        admin = AdminClient({"bootstrap.servers": self.settings.bootstrap_servers})
        there = admin.list_topics(timeout=30).topics
        for future in admin.create_topics([topic for topic in new if topic.topic not in there]).values():
            future.result(30)

    def delete(self, *names: str) -> None:
        """Topics, by the name of their property."""
        admin = AdminClient({"bootstrap.servers": self.settings.bootstrap_servers})
        for future in admin.delete_topics([getattr(self.topics, name) for name in names]).values():
            future.result(30)

    def publish(self, *records: dict[str, Any] | tuple[str, bytes], transaction: bool | None = None) -> None:
        """Records under their keys; a topic's property name and a key are a tombstone. False aborts a transaction."""
        options = {} if transaction is None else {"transactional_id": uuid.uuid4().hex}
        producer = Producer(self.settings.client(partitioner="murmur2_random", **options))
        if transaction is not None:
            producer.init_transactions(30)
            producer.begin_transaction()
        for record in records:
            if isinstance(record, tuple):
                producer.produce(getattr(self.topics, record[0]), None, record[1])
                continue
            deployment = record["deployment_id"]
            if "task" in record:
                place = "DeploymentSpec", self.topics.deployments, deployment.encode()
            elif "alarms" in record:
                key = humility_key(deployment, record["model_version"], record["partition"])
                place = "HumilityState", self.topics.humility, key
            else:
                place = "Baseline", self.topics.baselines, baseline_key(deployment, record["model_version"])
            producer.produce(place[1], codec.encode(place[0], record, self.registry), place[2])
        assert producer.flush(30) == 0
        if transaction is not None:
            producer.commit_transaction(30) if transaction else producer.abort_transaction(30)

    def client(self, deployment: str = "rents", version: str = "v1", **options: Any) -> Client:
        """A client, closed with the world."""
        settings = options.pop("settings", self.settings)
        client = Client(deployment, version, settings=settings, spool_dir=self.folder / "spool", **options)
        self.clients.append(client)
        return client


@pytest.fixture
def new_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """`new_world(bootstrap_servers, prefix)`."""
    worlds: list[World] = []

    def make(bootstrap_servers: str, prefix: str = "") -> World:
        worlds.append(World(bootstrap_servers, prefix, tmp_path))
        return worlds[-1]

    yield make
    for world in worlds:
        for client in world.clients:
            client.close(1.0)


@pytest.fixture
def world(bootstrap_servers: str, topic_prefix: str, new_world: Callable[..., World]) -> World:
    """Topics of one partition on the session's broker."""
    world = new_world(bootstrap_servers, topic_prefix)
    world.create()
    return world
