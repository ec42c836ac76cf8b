"""What changed among humility rules is told by their names, and what waits for a fit is told before it is missed."""

import dataclasses
from typing import Any

import pytest

from driftline.codec import decode
from driftline.humility.fit import HumilityFit
from driftline.humility.rules import Condition, Guarantees, HumilitySpec, Override, Rule
from driftline.settings import KafkaSettings
from driftline.topics import Topics
from services.deployments.humility_changes import (
    audit_text,
    fit_warnings,
    guarantee_words,
    in_words,
    rule_changes,
    rule_order,
)
from services.deployments.store import apply, differences
from services.kafka import read_to_end
from services.topics import ensure_topics
from streams.specification import DeploymentSpec, FeatureSpec

NOVEL = Rule("novel", Condition("novel_input"), "refuse")
STORM = Rule("storm", Condition("outlying_input", columns=("x",), low=2.0), "route", route_to="desk")
GUARANTEES = Guarantees(novelty_rate=0.01)


def with_rules(*rules: Rule, **changes: Any) -> DeploymentSpec:
    made = DeploymentSpec("d", "m", "regression", (FeatureSpec("x", "numeric"),))
    return dataclasses.replace(made, humility=HumilitySpec(rules, GUARANTEES) if rules else None, **changes)


def test_added_removed_and_changed_rules_are_named_with_what_changed() -> None:
    before = HumilitySpec((NOVEL, STORM))
    after = HumilitySpec((dataclasses.replace(NOVEL, action="record", priority=5), Rule("old", NOVEL.when, "refuse")))
    assert audit_text(before, after) == "changed 'novel' (action, priority); removed 'storm'; added 'old'"
    assert audit_text(before, before) == "" == audit_text(None, None)
    assert audit_text(None, before) == "added 'novel'; added 'storm'"
    assert audit_text(before, None) == "removed 'novel'; removed 'storm'"


def test_a_changed_rule_tells_its_fields_before_and_after() -> None:
    wider = dataclasses.replace(STORM, when=dataclasses.replace(STORM.when, low=3.0), message="Wind.")
    (change,) = rule_changes(HumilitySpec((STORM,)), HumilitySpec((wider,)))
    assert change.before == {"when": {"outlying_input": {"feature": "x", "low": 2.0}}}
    assert change.after == {"when": {"outlying_input": {"feature": "x", "low": 3.0}}, "message": "Wind."}
    assert change.fields == ("when", "message")


def test_another_order_is_a_change_because_the_first_acts() -> None:
    assert rule_order(HumilitySpec((NOVEL, STORM)), HumilitySpec((STORM, NOVEL))) == (
        "'novel', 'storm'",
        "'storm', 'novel'",
    )
    assert rule_order(HumilitySpec((NOVEL, STORM)), HumilitySpec((STORM,))) is None
    assert audit_text(HumilitySpec((NOVEL, STORM)), HumilitySpec((STORM, NOVEL))) == "order: 'storm', 'novel'"


def test_a_difference_names_the_rule_and_its_fields() -> None:
    narrower = dataclasses.replace(STORM, when=dataclasses.replace(STORM.when, low=1.0))
    found = differences(with_rules(NOVEL, STORM), with_rules(narrower, Rule("new", Condition("in_alarm"), "refuse")))
    assert [(c.field, c.before, c.after) for c in found] == [
        ("humility.rules.novel", "novel: when the input is novel, refuse the prediction", None),
        (
            "humility.rules.storm.when",
            '{"outlying_input": {"feature": "x", "low": 2.0}}',
            '{"outlying_input": {"feature": "x", "low": 1.0}}',
        ),
        ("humility.rules.new", None, "new: when the deployment is in alarm, refuse the prediction"),
    ]


def test_a_difference_names_guarantees() -> None:
    before = with_rules(NOVEL)
    changed = dataclasses.replace(before, humility=HumilitySpec((NOVEL,), Guarantees(0.02, coverage=0.9)))
    assert [(c.field, c.before, c.after) for c in differences(before, changed)] == [
        ("humility.guarantees.novelty", 0.01, 0.02),
        ("humility.guarantees.coverage", None, 0.9),
    ]


def test_guarantees_are_told_in_words() -> None:
    assert guarantee_words(Guarantees()) == []
    assert guarantee_words(Guarantees(0.01, 0.1, 15.0, 0.9, 0.95, "by_carrier")) == [
        "asked for: novel inputs are at most 1 % of unchanged traffic, with confidence 95 %",
        "asked for: at most 10 % of what is certified is wrong (further off than 15) while nothing changes, with "
        "confidence 95 %",
        "asked for: adaptive intervals and prediction sets hold 90 % of the actual values in the long run, whatever "
        "changes",
        "each of them for every part of 'by_carrier' that has the rows for it",
    ]


@pytest.mark.parametrize("name", ["a\x1b[31mb", "x\ny", "\u202eright", "<!channel>"])
def test_hostile_names_come_out_harmless(name: str) -> None:
    rule = dataclasses.replace(STORM, name=name, message=name, route_to=name)
    told = [*in_words(HumilitySpec((rule,))), audit_text(None, HumilitySpec((rule,)))]
    told += fit_warnings(with_rules(dataclasses.replace(NOVEL, name=name)), None)
    assert len(told) >= 3 and all(text.isprintable() for text in told)


def test_a_long_list_of_changes_is_cut() -> None:
    many = HumilitySpec(tuple(dataclasses.replace(NOVEL, name=f"{n}" * 60) for n in range(64)))
    assert len(audit_text(None, many)) == 1_001


def baseline(fit: HumilityFit | None) -> dict[str, Any]:
    return {"model_version": "1", "humility": None if fit is None else fit.to_record(), "segments": []}


def test_rules_that_wait_for_a_fit_are_told_with_the_command() -> None:
    told = fit_warnings(with_rules(NOVEL, STORM), None)
    assert told[0].startswith("rule 'novel' never fires: ") and "storm" not in told[0]
    assert told[-1] == "run `driftline baseline build d`, which fits the rules as well"
    assert fit_warnings(with_rules(NOVEL), baseline(None))[-1] == "run `driftline humility fit d --version 1`"


def test_rules_that_need_no_fit_are_not_watched_before_one() -> None:
    assert fit_warnings(with_rules(STORM), baseline(None)) == [
        "nothing has been fitted: how often rules fire is not watched",
        "run `driftline humility fit d --version 1`",
    ]


def test_a_fit_of_other_rules_has_to_be_made_again() -> None:
    spec = with_rules(STORM)
    assert spec.humility is not None
    fit = HumilityFit(spec.humility.digest(), "", 1000, 500, 0, 1, 0.95, novelty_rate=0.01)
    assert fit_warnings(spec, baseline(fit)) == []
    assert fit_warnings(with_rules(STORM, dataclasses.replace(STORM, name="b")), baseline(fit)) == [
        "what was fitted is of other rules or guarantees: how often rules fire is not watched",
        "run `driftline humility fit d --version 1`",
    ]
    assert fit_warnings(with_rules(), baseline(fit)) == []


def test_an_override_by_what_is_usual_waits_for_it() -> None:
    rule = Rule("r", STORM.when, "override", Override("prior"))
    assert "the prior has not been fitted" in fit_warnings(with_rules(rule), baseline(None))[0]


def test_the_audit_names_the_rules_that_changed(bootstrap_servers: str, topic_prefix: str) -> None:
    settings = KafkaSettings(bootstrap_servers, Topics(topic_prefix))
    ensure_topics(settings, partitions=1)
    (created,) = apply(settings, [with_rules(NOVEL)], actor="ada")
    assert created.warnings[-1] == "run `driftline baseline build d`, which fits the rules as well"
    apply(settings, [with_rules(dataclasses.replace(NOVEL, dry_run=True), STORM)], actor="ada")
    apply(settings, [with_rules(description="no rules")], actor="ada")
    events = [decode(m.value())[1]["detail"] for m in read_to_end(settings, settings.topics.audit)]
    assert [event["rules"] for event in events] == [
        "added 'novel'",
        "changed 'novel' (dry_run); added 'storm'",
        "removed 'novel'; removed 'storm'",
    ]
    assert events[1]["changed"] == "humility.rules.novel.dry_run, humility.rules.storm"
