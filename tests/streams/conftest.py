"""Samples for the state machine."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from driftline.codec import decode, encode
from driftline.events import CategoricalColumn, PredictionColumns
from driftline.humility.fit import ONE_MINUS_PROBABILITY, CoverageStart, HumilityFit
from driftline.humility.rules import Condition, Guarantees, HumilitySpec, Override, Rule
from driftline.topics import Topics, record_key
from streams.baseline import HUMILITY_ROLE, Baseline, BaselineStream
from streams.decoding import decode_message
from streams.humility.judge import policy_of
from streams.messages import Emission, Message
from streams.outcomes.store import PendingStore
from streams.partition import Partition
from streams.reference import build_baseline
from streams.specification import BINARY, DeploymentSpec, FeatureSpec, OutcomeSpec, SegmentSpec
from streams.statistics.layouts import CATEGORICAL, CategoricalBins
from streams.statistics.tilts import tilts_of

SECOND = 1_000_000
T0 = (int(time.time()) // 3600 - 24) * 3600 * SECOND
"""The full hour at which samples begin: yesterday, or the broker would soon delete them for their age."""


class Samples:
    """Specifications, baselines, rows and messages of an imaginary deployment; only their date differs between runs."""

    t0 = T0
    second = SECOND
    topics = Topics("t.")

    def __init__(self) -> None:
        self._baselines: dict[tuple[Any, ...], Baseline] = {}

    def spec(self, deployment_id: str = "d", **changes: Any) -> DeploymentSpec:
        """Two numeric features and a categorical one; windows and start slots of a minute, ten seconds' lateness."""
        features = (FeatureSpec("x", "numeric"), FeatureSpec("y", "numeric"), FeatureSpec("c", "categorical"))
        plain = DeploymentSpec(
            deployment_id, "model", "other", features, window_ms=60_000, lateness_ms=10_000, start_slot_ms=60_000
        )
        return dataclasses.replace(plain, **changes)

    def baseline(self, spec: DeploymentSpec | None = None, version: str = "1", seed: int = 1) -> Baseline:
        """A baseline learnt from 5,000 unchanged rows."""
        spec = spec or self.spec()
        key = (spec.deployment_id, spec.features, version, seed)
        if key not in self._baselines:
            rows = self.rows(5000, seed=seed, deployment_id=spec.deployment_id, version=version)
            self._baselines[key] = build_baseline(spec, version, [rows], source="sample")
        return self._baselines[key]

    def rows(
        self,
        count: int,
        *,
        first: int = 0,
        at: float = 0.0,
        every: float = 1.0,
        shift: float = 0.0,
        seed: int = 7,
        deployment_id: str = "d",
        version: str = "1",
        prefix: str = "",
    ) -> PredictionColumns:
        """Rows ``first``, ``first`` + 1 …, from ``at`` seconds after T0, ``every`` so many seconds; ``x`` may shift."""
        rng = np.random.default_rng([seed, first, count])
        return PredictionColumns(
            deployment_id,
            version,
            [f"{prefix}{i}" for i in range(first, first + count)],
            T0 + (at * SECOND + np.arange(count) * every * SECOND).astype(np.int64),
            {"x": rng.normal(size=count) + shift, "y": rng.normal(size=count)},
            {"c": CategoricalColumn(["a", "b", "k"], rng.choice(3, count, p=[0.5, 0.3, 0.2]).astype(np.int32))},
            prediction=rng.random(count),
        )

    def part(self, columns: PredictionColumns, chosen: Any) -> PredictionColumns:
        """Some rows of a batch, by numpy index."""
        index = np.arange(columns.rows)[chosen]
        return dataclasses.replace(
            columns,
            prediction_ids=[columns.prediction_ids[i] for i in index.tolist()],
            timestamps_us=columns.timestamps_us[index],
            numeric={name: values[index] for name, values in columns.numeric.items()},
            categorical={
                name: CategoricalColumn(column.categories, column.codes[index])
                for name, column in columns.categorical.items()
            },
            prediction=None if columns.prediction is None else columns.prediction[index],
        )

    def message(self, columns: PredictionColumns, offset: int, **changes: Any) -> Message:
        """The message a batch travels in; the log's time is that of its last event."""
        message = Message(
            self.topics.predictions,
            0,
            offset,
            int(columns.timestamps_us.max()) // 1000,
            record_key(columns.deployment_id),
            encode("PredictionBatch", columns.to_record()),
        )
        return dataclasses.replace(message, **changes)

    def empty_machine(self, number: int, topics: Topics) -> Machine:
        """A partition with nothing in force."""
        return Machine(number, topics)

    def store_machine(self, store: PendingStore) -> Machine:
        """A partition with nothing in force, and an index of pending predictions."""
        return Machine(0, self.topics, store)

    def machine(self, *specs_and_baselines: DeploymentSpec | Baseline) -> Machine:
        """A partition with these in force; by default the plain specification and its baseline."""
        machine = Machine(0, self.topics)
        for each in specs_and_baselines or (self.spec(), self.baseline()):
            machine.put(each)
        return machine


class Machine:
    """A partition and what its journal would hold: every record goes through its Avro schema."""

    def __init__(self, number: int, topics: Topics, store: PendingStore | None = None) -> None:
        self.partition = Partition(number, topics, store)
        self.topics = topics
        self.records: dict[bytes, dict[str, Any]] = {}
        self.emissions: list[Emission] = []
        self.order: list[dict[str, Any]] = []
        self.log: list[Message] = []

    def put(self, what: DeploymentSpec | Baseline) -> None:
        """Put in force."""
        if isinstance(what, Baseline):
            self.partition.put_baseline_in_force(what)
        else:
            self.partition.put_spec_in_force(what)

    def apply(self, *messages: Message) -> Machine:
        """Apply messages and remember them as the log."""
        for message in messages:
            self.partition.apply(decode_message(message, self.topics))
            self.log.append(message)
        return self

    def pass_time(self, time_ms: int) -> None:
        """Let time pass."""
        self.partition.pass_time(time_ms)

    def commit(self) -> None:
        """What the journal does."""
        records, emissions, order = self.partition.take()
        for key, fields in records.items():
            if fields is None:
                self.records.pop(key, None)
            else:
                kind = key.split(b"/")[0].decode()
                self.records[key] = decode(encode("JournalRecord", {"kind": kind, "fields": fields}))[1]["fields"]
        for emission in emissions:
            decode(encode(emission.record_name, emission.record))
        self.emissions += emissions
        self.order += order
        self.partition.committed()

    def restarted(self, store: PendingStore | None = None) -> Machine:
        """Another machine that begins from what this one committed last, and from an index of pending predictions."""
        machine = Machine(self.partition.number, self.topics, store)
        machine.records, machine.log = dict(self.records), list(self.log)
        to_remember = machine.partition.restore(dict(machine.records))
        machine.partition.remember(
            m for m in self.log if m.topic == self.topics.predictions and m.offset in to_remember
        )
        to_recover = machine.partition.to_recover[self.topics.outcomes]
        machine.partition.recover_outcomes(
            m for m in self.log if m.topic == self.topics.outcomes and m.offset in to_recover
        )
        return machine

    def emitted(self, topic: str, **fields: Any) -> list[Mapping[str, Any]]:
        """Records emitted to a topic that have these fields."""
        self.commit()
        return [
            emission.record
            for emission in self.emissions
            if emission.topic == topic and all(emission.record[name] == value for name, value in fields.items())
        ]

    def counters(self, deployment_id: str = "d") -> dict[str, int]:
        """The counters of a deployment."""
        self.commit()
        fields = self.records[f"deployment/{deployment_id}".encode()]
        names = ("rows", "late_rows", "duplicate_rows", "rejected_rows", "outcome_rows")
        return {name: fields[name] for name in names}

    def digest(self) -> str:
        """A hash of everything in the journal."""
        self.commit()
        return hashlib.sha256(repr(sorted(self.records.items())).encode()).hexdigest()


@pytest.fixture(scope="session")
def samples() -> Samples:
    """See :class:`Samples`."""
    return Samples()


@pytest.fixture(scope="session")
def final_windows() -> Any:
    """From emissions to the sums of final windows, by version and start, whatever the ids."""

    def sums(emissions: Iterable[Emission]) -> dict[tuple[str, int], tuple[int, Sequence[Any]]]:
        found: dict[tuple[str, int], tuple[int, Sequence[Any]]] = {}
        for emission in emissions:
            record = emission.record
            if emission.topic == "windows" and record["status"] == "final":
                key = (record["model_version"], record["window_start_us"])
                assert key not in found, "a window is closed once"
                found[key] = (record["rows"], [stream["counts"] for stream in record["streams"]])
        return found

    return sums


RULES = (
    Rule("far", Condition("outlying_input", columns=("x",), low=-2.5, high=2.5), "refuse", priority=1),
    Rule("odd", Condition("outlying_input", columns=("y",), high=2.0), "override", Override("label", label="no")),
    Rule("note", Condition("outlying_input", columns=("y",), low=-2.0), "record"),
    Rule("alarmed", Condition("in_alarm", values=("data_drift",)), "route", route_to="people", priority=2),
)


class Humble:
    """A binary classifier of ``x`` and ``y`` with the humility rules above, and publishers that decide by them."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def spec(self, *, rules: tuple[Rule, ...] = RULES, outcomes: bool = False, **changes: Any) -> DeploymentSpec:
        return self.samples.spec(
            task=BINARY,
            positive_class="yes",
            features=(FeatureSpec("x", "numeric"), FeatureSpec("y", "numeric"), FeatureSpec("c", "categorical")),
            segments=(SegmentSpec("c", "c"),),
            humility=HumilitySpec(rules, Guarantees(coverage=0.9, step=0.05, segment="c")),
            outcomes=OutcomeSpec(horizon_ms=600_000, window_ms=60_000) if outcomes else None,
            **changes,
        )

    def fitted(self, spec: DeploymentSpec, plain: Baseline, *, source: str = "fit", start: float = 0.5) -> Baseline:
        """The baseline with the streams of humility; what they showed is made up."""
        rows = 5000
        assert spec.humility is not None
        yes = {f"humility:rule:{rule.name}": 120 for rule in spec.humility.rules if rule.name != "alarmed"}
        yes |= {"humility:rule:alarmed": 0, "humility:abstained": 62, "humility:overridden": 114}
        yes |= {"humility:disagreement": 0, "humility:miscoverage": 500}
        if any(rule.name == "far" for rule in spec.humility.rules):
            yes["humility:rule:far"] = 62
        streams = [stream for stream in plain.streams if stream.role != HUMILITY_ROLE]
        streams += [humility_stream(name, count, rows) for name, count in yes.items()]
        fit = HumilityFit(
            spec_digest=spec.humility.digest(),
            source=source,
            rows=rows,
            learning_rows=rows // 2,
            first_event_us=0,
            last_event_us=1,
            confidence=0.95,
            coverage=0.9,
            coverage_score=ONE_MINUS_PROBABILITY,
            score_range=1.0,
            step=0.05,
            coverage_starts=(CoverageStart("", rows, start), CoverageStart("c=a", rows, start / 2)),
        )
        found = dataclasses.replace(plain, streams=tuple(streams), humility=fit, digest="")
        return dataclasses.replace(found, digest=found.content_digest())

    def rows(self, count: int, **options: Any) -> PredictionColumns:
        """As of ``samples.rows``, by a binary classifier."""
        spread = options.pop("spread", 1.0)
        plain = self.samples.rows(count, **options)
        numeric = plain.numeric | {"y": plain.numeric["y"] * spread}
        score = 1 / (1 + np.exp(-plain.numeric["x"]))
        return dataclasses.replace(
            plain,
            numeric=numeric,
            prediction=score,
            prediction_label=CategoricalColumn(["no", "yes"], (score >= 0.5).astype(np.int32)),
            class_probabilities={"no": 1 - score, "yes": score},
        )

    def decided(
        self,
        spec: DeploymentSpec,
        baseline: Baseline,
        columns: PredictionColumns,
        quantiles: Mapping[str, float] | None = None,
        alarms: int = 0,
        **changes: Any,
    ) -> PredictionColumns:
        """The same with what the publisher decided by a policy, and what it changed of that."""
        policy = policy_of(spec, baseline)
        assert policy is not None
        claim = policy.decide_columns(columns, quantiles=quantiles, alarms=alarms).to_columns(policy)
        return dataclasses.replace(columns, humility=dataclasses.replace(claim, **changes))


def humility_stream(name: str, yes: int, rows: int) -> BaselineStream:
    counts = np.zeros(CATEGORICAL.size, np.int64)
    counts[:2] = yes, rows - yes
    return BaselineStream(
        name=name,
        role=HUMILITY_ROLE,
        layout=CATEGORICAL,
        bins=CategoricalBins(("yes", "no")),
        counts=counts,
        margin_tv=0.02,
        tempering=np.ones(tilts_of(CATEGORICAL).size, np.float32),
    )


@pytest.fixture(scope="session")
def humble(samples: Any) -> Humble:
    return Humble(samples)
