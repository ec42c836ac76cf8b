"""A deployment with humility rules, and publishers that decide by them, rightly or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from driftline.events import CategoricalColumn, PredictionColumns
from driftline.humility.fit import ONE_MINUS_PROBABILITY, CoverageStart, HumilityFit
from driftline.humility.rules import Condition, Guarantees, HumilitySpec, Override, Rule
from streams.baseline import HUMILITY_ROLE, Baseline, BaselineStream
from streams.humility.judge import policy_of
from streams.reference import build_baseline
from streams.specification import BINARY, DeploymentSpec, FeatureSpec, OutcomeSpec, SegmentSpec
from streams.statistics.layouts import CATEGORICAL, CategoricalBins
from streams.statistics.tilts import tilts_of

RULES = (
    Rule("far", Condition("outlying_input", columns=("x",), low=-2.5, high=2.5), "refuse", priority=1),
    Rule("odd", Condition("outlying_input", columns=("y",), high=2.0), "override", Override("label", label="no")),
    Rule("note", Condition("outlying_input", columns=("y",), low=-2.0), "record"),
    Rule("alarmed", Condition("in_alarm", values=("data_drift",)), "route", route_to="people", priority=2),
)
FAR, ODD, NOTE, ALARMED = range(len(RULES))


class Humble:
    """A binary classifier of ``x`` and ``y`` with the rules above, in two parts of the traffic."""

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


@pytest.fixture(scope="session")
def fitted(humble: Humble) -> tuple[DeploymentSpec, Baseline]:
    """The specification and a baseline with a fit of its rules."""
    spec = humble.spec()
    plain = build_baseline(dataclasses.replace(spec, humility=None), "1", [humble.rows(5000, seed=1)], source="sample")
    return spec, humble.fitted(spec, plain)
