"""A version that is listed as a challenger is marked as one in every accuracy window."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from driftline.codec import decode, encode
from driftline.events import CategoricalColumn, OutcomeColumns
from driftline.topics import record_key
from streams.messages import Message
from streams.specification import BINARY, DeploymentSpec, OutcomeSpec


def roles(machine: Any) -> set[tuple[str, str]]:
    return {
        (record["model_version"], record["role"]) for record in machine.emitted("windows") if "horizon_ms" in record
    }


def machine_of(samples: Any, *challengers: str) -> tuple[Any, DeploymentSpec]:
    """Two versions that answer in turn, with outcomes, under a specification that went through its record."""
    spec = samples.spec(
        "duel", task=BINARY, positive_class="yes", outcomes=OutcomeSpec(3_600_000), challengers=challengers
    )
    spec = DeploymentSpec.from_record(decode(encode("DeploymentSpec", spec.to_record()))[1])
    machine = samples.machine(spec, samples.baseline(spec), samples.baseline(spec, version="2"))
    for offset, version in enumerate(("1", "2")):
        rows = samples.rows(100, prefix=version, version=version, deployment_id="duel")
        machine.apply(samples.message(rows, offset))
        outcomes = OutcomeColumns(
            "duel",
            rows.prediction_ids,
            rows.timestamps_us + samples.second,
            actual_label=CategoricalColumn.from_values(["yes", "no"] * 50),
        )
        now_ms = int(rows.timestamps_us.max()) // 1000 + 1000
        value = encode("OutcomeBatch", outcomes.to_record())
        machine.apply(Message(samples.topics.outcomes, 0, offset, now_ms, record_key("duel"), value))
    return machine, spec


def test_versions_listed_as_challengers_are_marked_and_others_are_champions(samples: Any) -> None:
    machine, spec = machine_of(samples, "2", "3")
    machine.put(dataclasses.replace(spec, outcomes=None, revision=2))  # closes what is open
    assert roles(machine) == {("1", "champion"), ("2", "challenger")}
    for record in machine.emitted("windows"):
        encode("PerformanceWindow" if "horizon_ms" in record else "WindowSummary", dict(record))


def test_without_challengers_all_are_champions(samples: Any) -> None:
    machine, spec = machine_of(samples)
    machine.put(dataclasses.replace(spec, outcomes=None, revision=2))
    assert roles(machine) == {("1", "champion"), ("2", "champion")}


def test_a_challenger_that_takes_over_is_a_champion_from_then_on(samples: Any) -> None:
    machine, spec = machine_of(samples, "2")
    before = roles(machine)
    machine.put(dataclasses.replace(spec, challengers=("1",), revision=2))
    machine.put(dataclasses.replace(spec, challengers=("1",), outcomes=None, revision=3))
    assert ("2", "champion") not in before
    assert {("2", "champion"), ("1", "challenger")} <= roles(machine)


def test_what_a_challenger_predicted_is_watched_like_a_champions(samples: Any) -> None:
    machine, spec = machine_of(samples, "2")
    machine.put(dataclasses.replace(spec, outcomes=None, revision=2))
    final = {
        record["model_version"]: record["parts"][0]["counts"]
        for record in machine.emitted("windows", status="final")
        if "horizon_ms" in record
    }
    assert np.all([counts["resolved"] == [100] for counts in final.values()]) and len(final) == 2
