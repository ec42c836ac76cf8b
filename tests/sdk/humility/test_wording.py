"""Rules in words."""

import pytest

from driftline.humility.rules import Condition, Override, Rule
from driftline.humility.wording import describe, describe_condition, message_of, printable


@pytest.mark.parametrize("trigger", ["all", "any", "not"])
def test_combinations_of_every_kind_can_be_said(trigger: str) -> None:
    inner = Condition("any", (Condition("in_alarm"), Condition("novel_input")))
    said = describe_condition(Condition(trigger, (inner, Condition("novel_input"))))
    assert "the deployment is in alarm or the input is novel" in said
    assert ("not (" in said) is (trigger == "not")


def test_a_rule_says_when_it_fires_and_what_it_does() -> None:
    rule = Rule("far", Condition("novel_input"), "override", Override("value", value=0.5), dry_run=True)
    assert describe(rule) == "far: when the input is novel, serve 0.5 (dry run)"


def test_the_message_is_the_rules_own_or_when_it_fires() -> None:
    assert message_of(Rule("r", Condition("novel_input"), "refuse", message="call us")) == "call us"
    assert message_of(Rule("r", Condition("novel_input"), "refuse")) == "the input is novel"


@pytest.mark.parametrize(
    "hostile", ["\x1b[31mred", "two\nlines", "\x00", "<script>", "\u202eright to left", "x" * 5000]
)
def test_hostile_names_are_harmless(hostile: str) -> None:
    condition = Condition("low_observation_region", columns=(hostile,), values=(hostile,) * 9)
    rule = Rule(hostile[:50], condition, "override", Override("label", label=hostile))
    said = describe(rule)
    assert said.isprintable()
    assert len(said) < 2000
    assert printable(hostile).isprintable()


def test_an_unknown_trigger_is_said_as_it_is_written() -> None:
    assert describe_condition(Condition("of_a_later_release")) == "of_a_later_release"
