"""The demonstration's humility: what the application is told, and what is told of it afterwards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from driftline import decode
from driftline.events import CategoricalColumn, PredictionColumns
from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.demo.commands import DemonstrationError
from services.demo.humility import HumilityFacts, humility_facts
from services.demo.serving import ServingApplication
from services.demo.specifications import DELAYS, DELAYS_SPECIFICATION, LATE, LATE_SPECIFICATION
from services.deployments.checking import parse_specification
from services.deployments.store import apply
from services.kafka import read_to_end
from services.topics import ensure_topics
from streams.specification import DeploymentSpec

MARCH, APRIL = 1_362_096_000_000_000, 1_364_774_400_000_000
VERSION = "1"


def spec_of(text: str) -> DeploymentSpec:
    return parse_specification(text.encode(), "test.yaml").to_spec()


def test_the_rules_of_the_year_are_those_of_the_specification_and_none_was_given_a_number_from_it() -> None:
    late, delays = spec_of(LATE_SPECIFICATION).humility, spec_of(DELAYS_SPECIFICATION).humility
    assert late is not None
    assert delays is not None
    leaves = [leaf for rule in late.rules for leaf in rule.when.leaves()]
    assert {leaf.low for leaf in leaves} == {None, 3.0}  # visibility for instruments, in statute miles
    assert all(leaf.high is None for leaf in leaves)
    assert [rule.name for rule in late.rules if rule.dry_run] == ["instrument flight rules"]
    assert {rule.action for rule in late.rules} == {"record", "refuse", "route", "override"}
    assert (delays.rules, delays.guarantees.coverage) == ((), 0.9)


def loss(value: float | None) -> dict[str, Any] | None:
    return None if value is None else {"value": value, "low": value - 0.01, "high": value + 0.02, "rows": 900}


def stretch(start_us: int, rows: int, coverage: tuple[float, float] | None = None) -> dict[str, Any]:
    errors = {
        "answered": 0.2,
        "overridden": 0.3,
        "overridden (served)": 0.25,
        "refused": 0.4,
        "routed": None,
        "with humility": 0.21,
        "without humility": 0.24,
    }
    return {
        "start_us": start_us,
        "provisional": False,
        "rows": rows,
        "stale": 1,
        "disagreeing": 2,
        "answered": rows - 60,
        "overridden": 10,
        "refused": 20,
        "routed": 30,
        "decisions": [{"decision": name, "loss": loss(error)} for name, error in errors.items()],
        "coverage": None if coverage is None else dict(zip(("static", "adaptive"), map(loss, coverage), strict=True)),
    }


def rule(name: str, *, dry_run: bool = False) -> dict[str, Any]:
    part = {"loss": loss(0.4)}
    counts = {"fired": 50, "acted": 0 if dry_run else 40, "caught": 20, "cost": 30}
    named = {"rule": name, "action": "route", "dry_run": dry_run, "verdict": "keep"}
    return {**named, **counts, "where_fired": part, "elsewhere": {"loss": None}}


def facts_of(*coverage: tuple[float, float], rule_name: str = "storm") -> HumilityFacts:
    report = {
        "all": stretch(MARCH, 9_000),
        "months": [stretch(MARCH, 8_950), stretch(APRIL, 50)],
        "rules": [rule(rule_name), rule("tried", dry_run=True)],
    }
    months = [stretch(MARCH + at, 5_000, pair) for at, pair in enumerate(coverage)]
    widths = [{"start_us": MARCH, "parts": [{"part": "", "metrics": {"adaptive_width": {"value": 120.0}}}]}]
    fitted = {"guarantees": ["fires on at most 1 % of unchanged traffic"], "fit": {"max_error": 0.2}}
    shown = [{"deployment": LATE, "versions": [fitted]}]
    asked = {"answered": 8_940, "overridden": 10, "refused": 20, "routed": 30}
    return humility_facts(report, {"months": months}, widths, asked, shown)


def test_reports_are_told_as_shares_of_right_answers() -> None:
    facts = facts_of((0.84, 0.9), (0.94, 0.91))
    assert facts.asked == facts.counted
    assert facts.disagreeing == 3
    assert [month.label for month in facts.months] == ["2013-03"]  # a month of a few rows would only confuse
    right = facts.whole.accuracy
    assert right["without"]["value"] == pytest.approx(0.76)
    assert (right["with"]["low"], right["with"]["high"]) == pytest.approx((0.77, 0.8))
    assert right["routed"]["value"] is None
    assert [(each.action, each.acted, each.caught, each.cost) for each in facts.rules] == [
        ("route", 40, 20, 30),
        ("route, dry run", 0, 20, 30),
    ]
    assert [month.width for month in facts.coverage] == [120.0, None]
    assert facts.overrides.endswith("it was right in 0.750; the model would have been in 0.700.")
    assert facts.certificate.endswith("So it was in 2013-03; more were wrong in no month.")
    assert facts.guarantees == {LATE: ("fires on at most 1 % of unchanged traffic",)}


@pytest.mark.parametrize(
    ("coverage", "helps"),
    [
        (((0.84, 0.9), (0.94, 0.91)), True),
        (((0.84, 0.83), (0.94, 0.91)), False),
        ((), False),
    ],
)
def test_adaptive_intervals_have_to_be_closer_to_the_promise_in_their_worst_month(
    coverage: tuple[tuple[float, float], ...], helps: bool
) -> None:
    assert facts_of(*coverage).adaptive_helps is helps


@pytest.fixture
def settings(bootstrap_servers: str, topic_prefix: str) -> KafkaSettings:
    found = KafkaSettings(bootstrap_servers=bootstrap_servers, topics=Topics(topic_prefix))
    ensure_topics(found)
    return found


def predictions(visibility: list[float]) -> PredictionColumns:
    rows = len(visibility)
    return PredictionColumns(
        LATE,
        VERSION,
        [f"flight {row}" for row in range(rows)],
        np.arange(rows, dtype=np.int64) + APRIL,
        {"visib": np.array(visibility)},
        {"dest": CategoricalColumn.from_values(["SFO"] * rows)},
        np.full(rows, 0.7),
        CategoricalColumn.from_values(["late"] * rows),
    )


def test_the_application_asks_before_it_answers_and_what_it_was_told_travels(
    settings: KafkaSettings, tmp_path: Path
) -> None:
    spec = spec_of(LATE_SPECIFICATION)
    assert spec.humility is not None
    acting = tuple(dataclasses.replace(rule, dry_run=False) for rule in spec.humility.rules)
    apply(
        settings, [dataclasses.replace(spec, humility=dataclasses.replace(spec.humility, rules=acting))], actor="test"
    )
    with ServingApplication(settings, LATE, VERSION, tmp_path) as application:
        application.publish(predictions([10.0, 0.5, 2.0]))
        application.flush()
        assert application.delivered == 3
    assert application.decided == {"answered": 1, "overridden": 0, "refused": 0, "routed": 2}
    (message,) = read_to_end(settings, settings.topics.predictions)
    _, record = decode(message.value() or b"")
    assert record["prediction_ids"] == ["flight 0", "flight 1", "flight 2"]
    assert record["humility"] is not None


def test_without_rules_the_demonstration_does_not_go_on(settings: KafkaSettings, tmp_path: Path) -> None:
    apply(settings, [dataclasses.replace(spec_of(DELAYS_SPECIFICATION), humility=None)], actor="test")
    with (
        pytest.raises(DemonstrationError, match="is the specification applied"),
        ServingApplication(settings, DELAYS, VERSION, tmp_path) as application,
    ):
        application.publish(dataclasses.replace(predictions([1.0]), deployment_id=DELAYS))
