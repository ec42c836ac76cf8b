"""Random humility policies, and random rows with everything that serving applications hand over."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from driftline.humility.fit import (
    ABSOLUTE_RESIDUAL,
    CATEGORICAL,
    INTERVAL_EXCESS,
    JOINT,
    NUMERIC,
    ONE_MINUS_PROBABILITY,
    CoverageStart,
    HumilityFit,
    NoveltyColumn,
    NoveltyThreshold,
    ObservedRegion,
    RiskCertificate,
    Shortfall,
)
from driftline.humility.rules import (
    ALARM_MONITORS,
    ALL_OF,
    ANY_OF,
    MEASURES,
    NOT,
    RULE_ACTIONS,
    TRIGGERS,
    Condition,
    Guarantees,
    HumilitySpec,
    Override,
    Rule,
)
from streams.derived import fit_joint

Generator = np.random.Generator

TEXTS = ("a", "b", "c", "d")
SITES = ("A", "B")
VERSIONS = ("2", "3")
NOW_US = 1_700_000_000_000_000
BINARY, MULTICLASS, REGRESSION, OTHER = "binary_classification", "multiclass_classification", "regression", "other"


@dataclass(frozen=True)
class Case:
    """What a policy is compiled from, and the facts it decides on.

    ``spec`` and ``baseline`` are as much of the Avro records as a policy reads; ``alarms`` are bits.
    """

    spec: dict[str, Any]
    baseline: dict[str, Any] | None
    quantiles: dict[str, float]
    alarms: int


@dataclass(frozen=True)
class Given:
    """A row as a serving application has it."""

    features: dict[str, Any]
    prediction: Any
    class_probabilities: Any
    prediction_label: Any
    prediction_low: Any
    prediction_high: Any
    segments: Any
    timestamp_us: int
    challengers: Any


# Policies


def random_case(rng: Generator) -> Case:
    """A random policy: any features, rules of any shape, a fit for it, for another one, or none."""
    kinds = [NUMERIC] * int(rng.integers(2, 7)) + [CATEGORICAL, CATEGORICAL, "boolean", "text", "embedding"]
    kinds = kinds[: int(rng.integers(3, len(kinds) + 1))]
    features = [{"name": f"{kind[0]}{place}", "kind": kind} for place, kind in enumerate(kinds)]
    task = _one(rng, (BINARY, BINARY, MULTICLASS, REGRESSION, REGRESSION, OTHER))
    segments = [
        {"name": "site", "column": "site", "values": _one(rng, (["A", "B", "(other)"], ["A", "1"], ["A"])), **_ENDS},
        {"name": "large", "column": features[0]["name"], "values": ["in"], "low": 0.0, "high": _one(rng, (None, 2.0))},
        {"name": "kind", "column": features[-1]["name"], "values": ["a", "true", "(other)"], **_ENDS},
    ]
    asked = _spec(rng, features, task)
    spec = {
        "humility": asked.to_record(),
        "features": features,
        "task": task,
        "positive_class": _one(rng, (None, "yes")) if task == BINARY else None,
        "revision": int(rng.integers(1, 9)),
    }
    if rng.random() < 0.1:
        return Case(spec, None, {}, 0)
    fitted_by = asked.guarantees.segment if rng.random() < 0.95 else _one(rng, ("site", "kind"))
    segment = next((each for each in segments if each["name"] == fitted_by), None)
    groups = [] if segment is None else [f"{segment['name']}={value}" for value in segment["values"]]
    fit = None if rng.random() < 0.1 else _fit(rng, asked, features, task, groups)
    baseline = {
        "humility": None if fit is None else fit.to_record(),
        "segments": segments if rng.random() < 0.9 else [],
    }
    known = [group for group in ("", *groups) if rng.random() < 0.7]
    quantiles = {group: _one(rng, (0.3, 0.7, 1.5, math.inf, float(rng.random()))) for group in known}
    return Case(spec, baseline, quantiles, int(rng.integers(0, 1 << len(ALARM_MONITORS))) if rng.random() < 0.5 else 0)


_ENDS = {"low": None, "high": None}


def _spec(rng: Generator, features: Sequence[Mapping[str, str]], task: str) -> HumilitySpec:
    guarantees = Guarantees(
        novelty_rate=0.01,
        max_error=0.1,
        coverage=0.9,
        tolerance=1.0 if task == REGRESSION else None,
        segment=_one(rng, (None, "site", "site", "large", "kind")),
    )
    rules = [_rule(rng, place, features) for place in range(int(rng.integers(1, 9)))]
    return HumilitySpec(tuple(rules), guarantees)


def _rule(rng: Generator, place: int, features: Sequence[Mapping[str, str]]) -> Rule:
    action = _one(rng, RULE_ACTIONS)
    override = None
    if action == "override":
        override = _one(
            rng,
            (
                Override("value", value=_one(rng, (0.0, -0.0, 2.5))),
                Override("label", label=_one(rng, ("yes", "other"))),
                Override("clip", low=0.25, high=_one(rng, (None, 0.75))),
                Override("clip"),
                Override("version", version=_one(rng, VERSIONS)),
                Override("prior"),
            ),
        )
    return Rule(
        f"rule {place}",
        _condition(rng, features, 0),
        action,
        override,
        priority=int(rng.integers(1, 4)),
        dry_run=bool(rng.random() < 0.2),
        route_to="desk" if action == "route" else "",
    )


def _condition(rng: Generator, features: Sequence[Mapping[str, str]], depth: int) -> Condition:
    if depth < 3 and rng.random() < 0.35:
        trigger = _one(rng, (ALL_OF, ANY_OF, NOT))
        parts = 1 if trigger == NOT else int(rng.integers(1, 4))
        return Condition(trigger, tuple(_condition(rng, features, depth + 1) for _ in range(parts)))
    return _LEAVES[_one(rng, (*TRIGGERS, "uncertain_prediction", "uncertain_prediction", "novel_input"))](rng, features)


def _names(rng: Generator, features: Sequence[Mapping[str, str]], kinds: Sequence[str]) -> tuple[str, ...]:
    fit = [feature["name"] for feature in features if feature["kind"] in kinds] or [features[0]["name"]]
    return tuple(fit[: int(rng.integers(1, len(fit) + 1))])


def _bounds(rng: Generator) -> dict[str, float | None]:
    low, high = sorted(rng.choice([-2.0, -1.0, 0.0, 0.25, 0.5, 1.0, 2.5], 2).tolist())
    return _one(rng, ({}, {"low": low, "high": high}, {"low": low}, {"high": high}))


_TEXT_KINDS = (CATEGORICAL, "boolean", "text")
_LEAVES: dict[str, Callable[[Generator, Sequence[Mapping[str, str]]], Condition]] = {
    "uncertain_prediction": lambda rng, features: Condition(
        "uncertain_prediction", measure=_one(rng, MEASURES), **{"low": 0.6, "high": 0.9, **_bounds(rng)}
    ),
    "outlying_input": lambda rng, features: Condition(
        "outlying_input", columns=_one(rng, ((), _names(rng, features, (NUMERIC,)))), **_bounds(rng)
    ),
    "novel_input": lambda rng, features: Condition("novel_input"),
    "low_observation_region": lambda rng, features: Condition(
        "low_observation_region",
        columns=_names(rng, features, _TEXT_KINDS)[: int(rng.integers(1, 3))],
        values=_one(rng, ((), (), ("a", "true", "1"))),
        least=_one(rng, (1, 10, 100)),
    ),
    "missing_input": lambda rng, features: Condition(
        "missing_input",
        columns=_one(rng, ((), _names(rng, features, (NUMERIC, *_TEXT_KINDS, "embedding")))),
        least=_one(rng, (1, 1, 2, 3)),
    ),
    "stale_input": lambda rng, features: Condition(
        "stale_input",
        columns=_names(rng, features, (NUMERIC,)),
        measure=_one(rng, ("s", "ms", "us")),
        older_than_ms=_one(rng, (0, 60_000, 10**13)),
    ),
    "prediction_out_of_range": lambda rng, features: Condition("prediction_out_of_range", **_bounds(rng)),
    "challenger_disagreement": lambda rng, features: Condition(
        "challenger_disagreement", values=_one(rng, ((), ("2",), ("2", "9"))), high=_one(rng, (None, 0.2))
    ),
    "in_alarm": lambda rng, features: Condition("in_alarm", values=_one(rng, ((), ("labels", "data_drift")))),
}


def _fit(
    rng: Generator, asked: HumilitySpec, features: Sequence[Mapping[str, str]], task: str, groups: Sequence[str]
) -> HumilityFit:
    numeric = [feature["name"] for feature in features if feature["kind"] == NUMERIC]
    texts = [feature["name"] for feature in features if feature["kind"] in _TEXT_KINDS]
    novelty = [_numeric_surprise(rng, name, NUMERIC) for name in numeric if rng.random() < 0.8]
    novelty += [_text_surprise(rng, name) for name in texts if rng.random() < 0.8]
    joint = fit_joint(numeric, rng.standard_normal((len(numeric), 200)), [1.0] * len(numeric))
    if joint is not None and rng.random() < 0.7:
        novelty.insert(int(rng.integers(0, len(novelty) + 1)), _numeric_surprise(rng, "", JOINT))
    regions = [ObservedRegion((name,), tuple((text,) for text in TEXTS[:3]), (1, 20, 200)) for name in texts]
    regions += [
        ObservedRegion((one, other), (("a", "a"), ("a", "b"), ("b", "true")), (5, 50, 500))
        for one in texts
        for other in texts
        if one < other
    ]
    scores = {REGRESSION: (ABSOLUTE_RESIDUAL, INTERVAL_EXCESS)}.get(task, (ONE_MINUS_PROBABILITY,))
    fitted_groups = [group for group in ("", *groups) if rng.random() < 0.7]
    return HumilityFit(
        spec_digest=asked.digest() if rng.random() < 0.9 else "of another",
        source="random",
        rows=1000,
        learning_rows=500,
        first_event_us=0,
        last_event_us=1,
        confidence=asked.guarantees.confidence,
        novelty_rate=0.01 if rng.random() < 0.95 else 0.02,
        max_error=0.1 if rng.random() < 0.95 else None,
        coverage=0.9,
        tolerance=asked.guarantees.tolerance,
        novelty=tuple(novelty),
        joint={} if joint is None else {name: tuple(values.tolist()) for name, values in joint.arrays.items()},
        joint_columns=() if joint is None else joint.inputs,
        novelty_thresholds=tuple(
            NoveltyThreshold(group, 100, _one(rng, (0.5, 2.0, 4.0, 5.0, math.inf)), 0.01) for group in fitted_groups
        ),
        certificates=tuple(
            RiskCertificate(group, 100, _one(rng, (0.5, 0.75, 0.9, -1.0, math.inf)), 1, 90, 0.1, 0.5)
            for group in fitted_groups
        ),
        coverage_score=_one(rng, scores),
        score_range=1.0,
        step=0.01,
        coverage_starts=tuple(
            CoverageStart(group, 100, _one(rng, (0.25, 0.5, 0.75, 2.0)))
            for group in fitted_groups
            if rng.random() < 0.9
        ),
        bounds={name: (-1.0, 2.5) for name in numeric if rng.random() < 0.8}
        | _one(rng, ({}, {"prediction": (0.1, 0.9)})),
        regions=tuple(regions),
        prior=_one(rng, (None, 0.5)),
        prior_label=_one(rng, (None, "no")),
        shortfalls=(Shortfall("novelty", "", 3, 300, "too few rows"),) if "" not in fitted_groups else (),
    )


def _numeric_surprise(rng: Generator, name: str, kind: str) -> NoveltyColumn:
    edges = np.unique(rng.choice([-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.5, 3.0], int(rng.integers(0, 7))))
    return NoveltyColumn(name, kind, tuple(edges.tolist()), (), tuple((6 * rng.random(len(edges) + 2)).tolist()))


def _text_surprise(rng: Generator, name: str) -> NoveltyColumn:
    known = ("a", "b", "true", "1")[: int(rng.integers(0, 5))]
    return NoveltyColumn(name, CATEGORICAL, (), known, tuple((6 * rng.random(len(known) + 2)).tolist()))


# Rows

_ODD_NUMBERS: tuple[Any, ...] = (
    *(0.0, -0.0, 1.0, 2.5, -1.5, 3, -2, 10**6, 1e308, -1e308, 10**400, -(10**400), 2**53 + 1),
    *(math.nan, math.inf, -math.inf, None, "", " ", "1.5", " 2 ", "-3e0", "NA", "none", "abc", "true", "inf", "1_0"),
    *(True, False, np.float32(0.1), np.float64(1.5), np.int64(3), np.uint8(1), np.float16(0.5), np.bool_(True)),
    *(np.str_("2"), Decimal("1.25"), [1.0, 2.0, 3.0], np.array([1.0, 2.0, 3.0]), np.array(2.0)),
    *(NOW_US / 1e6, NOW_US / 1e3 - 60_000, float(NOW_US), NOW_US / 1e6 - 60),
)
_ODD_TEXTS: tuple[Any, ...] = (
    *(
        "",
        None,
        math.nan,
        "true",
        "false",
        True,
        False,
        np.bool_(True),
        1,
        1.0,
        "1",
        2.5,
        "2.5",
        -0.0,
        "0",
        1e17,
        10**17,
    ),
    *(math.inf, -math.inf, "inf", "-inf", "nan", " ", np.str_("a"), np.float32(0.1), np.int64(1), 10**400),
    *("<!channel>", "=cmd()", "\x1b[31m", "ä" * 30, [1.0, 2.0, 3.0], Decimal("1")),
)
_VECTORS: tuple[Any, ...] = (
    *([0.1, 0.2, 0.3], (1, 2, 3), np.array([1.0, 2.0, 3.0]), np.array([1, 2, 3]), np.array([1, 2, 3], np.float32)),
    *([0.1, math.nan, 0.3], [0.1, None, 0.3], [1e39, 0.0, 0.0], np.array([math.inf, 0.0, 0.0])),
    *(None, "text", 1.5, math.nan, True, ""),
)
_CLASSES: tuple[Any, ...] = (
    *(None, {}, {"yes": 0.75, "no": 0.25}, {"yes": 0.5, "no": 0.5}, {"yes": 0.9}, {"no": 0.9}, {"yes": None}),
    *({"yes": math.nan, "no": 0.3}, {"yes": math.inf, "no": 0.3}, {"yes": math.nan}, {True: 0.8, False: 0.2}),
    *({"a": 0.5, "b": 0.3, "c": 0.2}, {1: 0.4, 2: 0.4, 3: 0.2}, {"yes": 1, "no": 0}, {"yes": -0.0, "no": 0.0}),
    *({"yes": np.float64(0.6), "no": np.float64(0.4)}, {"yes": np.float32(0.6), "no": np.float32(0.4)}),
)
_LABELS: tuple[Any, ...] = ("yes", "no", "yes", "no", None, "", True, 1, math.nan, np.str_("yes"), np.bool_(False))
_ENDS_OF_INTERVALS: tuple[tuple[Any, Any], ...] = (
    *((None, None), (0.1, 0.9), (0.4, 0.6), (math.nan, math.nan), (0, 1), (-1e308, 1e308), (0.5, np.float32(0.75))),
)
_SEGMENTS: tuple[Any, ...] = (
    *(None, {}, {"site": "A"}, {"site": "B"}, {"site": "C"}, {"site": None}, {"site": ""}, {"site": 1}, {"site": True}),
    *({"other": "A"}, {"site": "A", "other": "B"}, {"site": math.nan}),
)
_CHALLENGERS: tuple[Any, ...] = (
    *(None, {}, {"2": 0.5}, {"2": "yes"}, {"2": (0.5, "no")}, {"3": 0.9, "2": "no"}, {"2": math.nan}, {"2": None}),
    *({"2": ""}, {"9": "maybe"}, {"2": math.inf, "3": (None, "yes")}, {"2": True}, {"2": (None, None)}, {"2": 1}),
)
_PREDICTIONS: tuple[Any, ...] = (
    *(None, math.nan, math.inf, -math.inf, 0, 1, 0.0, -0.0, 0.25, 0.5, np.float32(0.3), np.float64(0.7), True, 1e308),
)


def random_rows(rng: Generator, case: Case, rows: int) -> list[Given]:
    """Random rows for a policy: most values are ordinary, every kind of odd one is among them."""
    columns = {}
    for feature in case.spec["features"]:
        columns[feature["name"]] = _values(rng, feature["kind"], rows)
    if rng.random() < 0.5:
        columns["site"] = _drawn(rng, ("A", "B", "C", None, 1), rows)
    columns["extra"] = _drawn(rng, (*_ODD_NUMBERS, *_ODD_TEXTS), rows)
    names = list(columns)
    odd = rng.random((rows, len(names))) < 0.03
    predictions = _mixed(rng, rng.random(rows).tolist(), _PREDICTIONS)
    classes, labels = _drawn(rng, _CLASSES, rows), _drawn(rng, _LABELS, rows)
    ends, segments = _drawn(rng, _ENDS_OF_INTERVALS, rows), _drawn(rng, _SEGMENTS, rows)
    challengers = _drawn(rng, _CHALLENGERS, rows)
    times = (NOW_US + rng.integers(-(10**8), 10**8, rows)).tolist()
    return [
        Given(
            {name: value for name, value, left_out in zip(names, values, out, strict=True) if not left_out},
            predictions[i],
            classes[i],
            labels[i],
            *ends[i],
            segments[i],
            times[i],
            challengers[i],
        )
        for i, (values, out) in enumerate(zip(zip(*columns.values(), strict=True), odd.tolist(), strict=True))
    ]


def _values(rng: Generator, kind: str, rows: int) -> list[Any]:
    if kind == NUMERIC:
        return _mixed(rng, rng.standard_normal(rows).tolist(), _ODD_NUMBERS)
    if kind == "embedding":
        return _drawn(rng, _VECTORS, rows)
    return _mixed(rng, _drawn(rng, TEXTS, rows), _ODD_TEXTS)


def _mixed(rng: Generator, ordinary: list[Any], odd: Sequence[Any], share: float = 0.15) -> list[Any]:
    places = rng.integers(0, len(odd), len(ordinary)).tolist()
    is_odd = (rng.random(len(ordinary)) < share).tolist()
    return [odd[place] if use else value for value, place, use in zip(ordinary, places, is_odd, strict=True)]


def _drawn(rng: Generator, values: Sequence[Any], rows: int) -> list[Any]:
    return [values[place] for place in rng.integers(0, len(values), rows).tolist()]


def _one(rng: Generator, values: Sequence[Any]) -> Any:
    return values[int(rng.integers(0, len(values)))]
