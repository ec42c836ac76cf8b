"""A row decides the same alone, in any batch, after its way through Kafka, and as the rules say in plain words."""

import math
from collections.abc import Mapping
from itertools import islice

import numpy as np
import pytest

from bench.humility.agreement import compare, decide, disagreements
from bench.humility.cases import Case, Given, random_case, random_rows
from driftline.humility.fit import HumilityFit
from driftline.humility.policy import Policy
from driftline.humility.rules import ALARM_MONITORS, Condition, HumilitySpec, Override, Rule

ROWS = 100_000
"""``python -m bench.humility`` compares a million."""


@pytest.mark.parametrize("seed", range(4))
def test_all_ways_to_decide_random_rows_agree(seed: int) -> None:
    found = disagreements(np.random.default_rng([6, seed]), ROWS // 4, chunk=500)
    assert list(islice(found, 3)) == []


@pytest.mark.parametrize("seed", range(150))
def test_decisions_are_those_of_the_rules_taken_literally(seed: int) -> None:
    rng = np.random.default_rng([7, seed])
    case = random_case(rng)
    policy = Policy.of(case.spec, case.baseline)
    assert policy is not None
    literal = Literal(case)
    for row in random_rows(rng, case, 25):
        found = decide(policy, case, row)
        fired = [bool(found.fired >> place & 1) for place in range(len(policy.rules))]
        assert fired == [literal.fires(rule, row) for rule in policy.rules], (row, policy.rules)
        acting = literal.acting([rule for rule, fires in zip(policy.rules, fired, strict=True) if fires])
        assert found.rule == (None if acting is None else acting.name)
        assert literal.is_served(acting, row, found.action, found.prediction, found.prediction_label), (row, found)
        assert found.fallback_version == literal.to_be_asked(acting, row)
        assert found.quantile == literal.quantile(row)
        assert found.group == literal.coverage_group(row)


def test_a_disagreement_would_be_found() -> None:
    rng = np.random.default_rng(1)
    case = random_case(rng)
    policy = Policy.of(case.spec, case.baseline)
    assert policy is not None
    rows = random_rows(rng, case, 200)
    assert list(compare(rng, policy, case, rows)) == []

    class Careless(Policy):
        def decide_columns(self, columns, **facts):  # type: ignore[no-untyped-def]
            found = super().decide_columns(columns, **facts)
            found.fired[-1] ^= np.uint64(1)
            return found

    policy.__class__ = Careless
    assert list(compare(rng, policy, case, rows))


class Literal:
    """The rules as they are written down, row by row, with nothing compiled or shared.

    A condition is True, False, or None where nobody can know: what was to be fitted for it is not there.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.asked = HumilitySpec.from_record(case.spec["humility"])
        record = None if case.baseline is None else case.baseline["humility"]
        self.fit = None if record is None else HumilityFit.from_record(record)
        self.kinds = {feature["name"]: feature["kind"] for feature in case.spec["features"]}
        self.task = case.spec["task"]

    # Rules

    def fires(self, rule: Rule, row: Given) -> bool:
        override = rule.override
        if override == Override("clip") and self.bounds("prediction") is None:
            return False
        if override == Override("prior") and (self.fit is None or self.fit.prior is self.fit.prior_label is None):
            return False
        return self.holds(rule.when, row) is True

    def holds(self, condition: Condition, row: Given) -> bool | None:
        if condition.trigger in ("all", "any", "not"):
            parts = [self.holds(each, row) for each in condition.conditions]
            if condition.trigger == "not":
                return None if parts[0] is None else not parts[0]
            decisive = condition.trigger == "any"
            if decisive in parts:
                return decisive
            return None if None in parts else not decisive
        return getattr(self, condition.trigger)(condition, row)

    def acting(self, fired: list[Rule]) -> Rule | None:
        order = {rule.name: place for place, rule in enumerate(self.asked.rules)}
        able = [rule for rule in fired if rule.action != "record" and not rule.dry_run]
        return min(able, key=lambda rule: (rule.priority, order[rule.name]), default=None)

    def is_served(self, acting: Rule | None, row: Given, action: str, value: object, label: object) -> bool:
        if acting is None:
            return action == "answered" and value is row.prediction
        if acting.action in ("refuse", "route"):
            return action == {"refuse": "refused", "route": "routed"}[acting.action] and value is label is None
        override = acting.override
        assert override is not None
        expected: tuple[object, object] = (override.value, override.label)
        if override.kind == "clip":
            low, high = (override.low, override.high) if override.low is not None else self.bounds("prediction")
            p = number(row.prediction)
            if p is not None:
                p = low if p < low else high if high is not None and p > high else p
            expected = (p, None)
        if override.kind == "version":
            expected = answers(row).get(override.version, (None, None))
        if override.kind == "prior":
            expected = (self.fit.prior, self.fit.prior_label)
        return action == "overridden" and (value, label) == expected

    def to_be_asked(self, acting: Rule | None, row: Given) -> str | None:
        if acting is None or acting.override is None or acting.override.kind != "version":
            return None
        version = acting.override.version
        return version if answers(row).get(version, (None, None)) == (None, None) else None

    # What was fitted

    def usable(self, guarantee: str) -> bool:
        fit, asked = self.fit, self.asked.guarantees
        if fit is None or fit.confidence != asked.confidence:
            return False
        if fit.spec_digest != self.asked.digest():
            parts = (*fit.novelty_thresholds, *fit.certificates, *fit.coverage_starts, *fit.shortfalls)
            named = {each.segment.split("=")[0] for each in parts if each.segment != ""}
            if named != ({asked.segment} if asked.segment else set()):
                return False
        return {
            "novelty": fit.novelty_rate == asked.novelty_rate,
            "risk": fit.max_error == asked.max_error and fit.tolerance == asked.tolerance,
            "coverage": fit.coverage == asked.coverage,
        }[guarantee]

    def bounds(self, name: str) -> tuple[float, float] | None:
        return self.fit.bounds.get(name) if self.fit is not None and self.usable("novelty") else None

    def group(self, row: Given) -> str:
        """The part of the segmentation that a row is in; empty for none."""
        segments = [] if self.case.baseline is None else self.case.baseline["segments"]
        for segment in segments:
            if segment["name"] != self.asked.guarantees.segment:
                continue
            if segment["values"] == ["in"]:
                value = raw_number(row.features.get(segment["column"]))
                low, high = segment["low"], math.inf if segment["high"] is None else segment["high"]
                return f"{segment['name']}=in" if value is not None and low <= value < high else ""
            text = raw_text((row.segments or {}).get(segment["column"]))
            if text is None:
                text = raw_text(row.features.get(segment["column"]))
            if text in segment["values"]:
                return f"{segment['name']}={text}"
            return f"{segment['name']}=(other)" if "(other)" in segment["values"] else ""
        return ""

    def of_group(self, values: Mapping[str, float], row: Given) -> float | None:
        return values.get(self.group(row), values.get(""))

    def starts(self) -> dict[str, float]:
        fit = self.fit
        if fit is None or not self.usable("coverage"):
            return {}
        return {start.segment: start.quantile for start in fit.coverage_starts}

    def coverage_group(self, row: Given) -> str:
        return self.group(row) if self.group(row) in self.starts() else ""

    def quantile(self, row: Given) -> float | None:
        starts, group = self.starts(), self.coverage_group(row)
        return self.case.quantiles.get(group, starts.get(group)) if starts else None

    # Conditions

    def uncertain_prediction(self, condition: Condition, row: Given) -> bool | None:
        measure, low, high = condition.measure, condition.low, condition.high
        if measure == "score":
            if low is high is None:
                return None
            s = number(row.prediction)
            return s is None or not outside(s, low, high)
        if measure == "certified":
            if self.fit is None or not self.usable("risk"):
                return None
            threshold = self.of_group({each.segment: each.threshold for each in self.fit.certificates}, row)
            if threshold is None:
                return None
            confidence = self.confidence(row)
            return confidence is None or confidence < threshold
        if measure == "set_size":
            q = self.quantile(row)
            if q is None or self.fit.coverage_score != "one_minus_probability":
                return None
            classes = self.classes(row)
            return not classes or sum(1 - p <= q for p in classes) != 1
        if measure == "interval_width":
            width = self.width(row)
            return None if high is None else width is None or width > high
        if low is None:
            return None
        if measure == "confidence":
            confidence = self.confidence(row)
            return confidence is None or confidence < low
        classes = sorted(self.classes(row))
        if self.task == "regression" or len(classes) < 2 or classes[-1] > 1 + 1e-6:
            return True
        return classes[-1] - classes[-2] < low

    def classes(self, row: Given) -> list[float]:
        """Probabilities that are known; of a binary prediction with one or none, both by its score."""
        found = [p for p in map(number, (row.class_probabilities or {}).values()) if p is not None]
        if self.task == "binary_classification" and len(found) < 2:
            score = found[0] if found else number(row.prediction)
            return [] if score is None else [score, 1 - score]
        return found

    def confidence(self, row: Given) -> float | None:
        if self.task == "regression":
            low, high = number(row.prediction_low), number(row.prediction_high)
            return None if low is None or high is None else -(high - low)
        confidence = max(self.classes(row), default=None)
        return None if confidence is None or confidence > 1 + 1e-6 else confidence

    def width(self, row: Given) -> float | None:
        low, high, q = number(row.prediction_low), number(row.prediction_high), self.quantile(row)
        score = "" if q is None else self.fit.coverage_score
        if score == "absolute_residual":
            return None if number(row.prediction) is None else 2 * q
        if low is None or high is None:
            return None
        return high - low + 2 * q if score == "interval_excess" else high - low

    def outlying_input(self, condition: Condition, row: Given) -> bool | None:
        names = condition.columns or [name for name, kind in self.kinds.items() if kind == "numeric"]
        if condition.low is condition.high is None:
            bounds = {name: self.bounds(name) for name in names if self.bounds(name) is not None}
        else:
            bounds = dict.fromkeys(names, (condition.low, condition.high))
        if not bounds:
            return None
        return any(outside(number(row.features.get(name)), *ends) for name, ends in bounds.items())

    def prediction_out_of_range(self, condition: Condition, row: Given) -> bool | None:
        ends = (condition.low, condition.high)
        if ends == (None, None):
            ends = self.bounds("prediction")
        return None if ends is None else outside(number(row.prediction), *ends)

    def novel_input(self, condition: Condition, row: Given) -> bool | None:
        if self.fit is None or not self.usable("novelty") or not self.fit.novelty_thresholds:
            return None
        threshold = self.of_group({each.segment: each.score for each in self.fit.novelty_thresholds}, row)
        if threshold is None:
            return None
        return any(self.surprise(column, row) > threshold for column in self.fit.novelty)

    def surprise(self, column, row: Given) -> float:
        if column.kind == "categorical":
            text = category(row.features.get(column.name))
            if text is None:
                return column.surprise[-1]
            return column.surprise[column.categories.index(text)] if text in column.categories else column.surprise[-2]
        value = self.distance(row) if column.kind == "joint" else number(row.features.get(column.name))
        return column.surprise[-1 if value is None else sum(edge <= value for edge in column.edges)]

    def distance(self, row: Given) -> float:
        learnt, names = self.fit.joint, self.fit.joint_columns
        deviations = []
        for place, name in enumerate(names):
            value = number(row.features.get(name))
            score = 0.0 if value is None else (value - learnt["centre"][place]) / learnt["scale"][place]
            deviations.append(round(max(-4.0, min(4.0, score)) * 2**20) / 2**20 - learnt["mean"][place])
        size = len(names)
        rows = [learnt["whiten"][size * i : size * (i + 1)] for i in range(size)]
        turned = [sum(w * deviation for w, deviation in zip(of, deviations, strict=True)) for of in rows]
        return math.sqrt(sum(each * each for each in turned) / size)

    def low_observation_region(self, condition: Condition, row: Given) -> bool | None:
        values = [category(row.features.get(name)) for name in condition.columns]
        if condition.values:
            return any(value in condition.values for value in values)
        for region in () if self.fit is None else self.fit.regions:
            if region.columns == condition.columns:
                rows = dict(zip(region.cells, region.rows, strict=True)).get(tuple(values), 0)
                return None not in values and rows < condition.least
        return None

    def missing_input(self, condition: Condition, row: Given) -> bool:
        readers = {"numeric": number, "embedding": vector}
        names = condition.columns or self.kinds
        lacking = [readers.get(self.kinds[name], category)(row.features.get(name)) is None for name in names]
        return sum(lacking) >= condition.least

    def stale_input(self, condition: Condition, row: Given) -> bool:
        times = [number(row.features.get(name)) for name in condition.columns]
        unit_us = {"s": 1_000_000, "ms": 1_000, "us": 1}[condition.measure]
        return any(t is not None and row.timestamp_us - t * unit_us > condition.older_than_ms * 1000 for t in times)

    def challenger_disagreement(self, condition: Condition, row: Given) -> bool:
        own_value, own_label = number(row.prediction), category(row.prediction_label)
        for version, (value, label) in answers(row).items():
            if condition.values and version not in condition.values:
                continue
            if label is not None and own_label is not None and label != own_label:
                return True
            if None not in (condition.high, value, own_value) and abs(value - own_value) > condition.high:
                return True
        return False

    def in_alarm(self, condition: Condition, row: Given) -> bool:
        alarms = {name for bit, name in enumerate(ALARM_MONITORS) if self.case.alarms & 2**bit}
        return bool(alarms & set(condition.values or ALARM_MONITORS))


def outside(value: float | None, low: float | None, high: float | None) -> bool:
    return value is not None and ((low is not None and value < low) or (high is not None and value > high))


def answers(row: Given) -> dict[str, tuple[float | None, str | None]]:
    found = {}
    for version, given in (row.challengers or {}).items():
        value, label = given if isinstance(given, tuple) else (None, given) if is_class(given) else (given, None)
        found[version] = (number(value), category(label))
    return found


def is_class(value: object) -> bool:
    return isinstance(value, (str, bool))


def raw_number(value: object) -> float | None:
    """A number, infinite ones too; None for missing."""
    if value is None or vector(value, finite=False) is not None:
        return None
    if isinstance(value, str):
        text = str(value).strip()
        try:
            found = {"true": 1.0, "false": 0.0}[text] if text in ("true", "false") else float(text)
        except ValueError:
            return None
    else:
        try:
            found = float(value)
        except OverflowError:
            found = math.inf if value > 0 else -math.inf
    return None if math.isnan(found) else found


def number(value: object) -> float | None:
    found = raw_number(value)
    return None if found is None or math.isinf(found) else found


def raw_text(value: object) -> str | None:
    """A category as it is counted; None for missing."""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    found = raw_number(value)
    return None if found is None else str(int(found)) if found.is_integer() else str(found)


def category(value: object) -> str | None:
    if not isinstance(value, (str, bool, np.bool_)) and number(value) is None:
        return None
    return raw_text(value) or None


def vector(value: object, *, finite: bool = True) -> list[float] | None:
    if not isinstance(value, (list, tuple)) and getattr(value, "ndim", 0) != 1:
        return None
    numbers = [math.nan if each is None else float(each) for each in value]
    return None if finite and not all(abs(each) <= 3.4028235e38 for each in numbers) else numbers
