"""Every trigger and action that can be written is told in words that a person understands."""

import pytest
import yaml

from driftline.humility.rules import OVERRIDES, RULE_ACTIONS, TRIGGERS
from driftline.humility.wording import describe
from services.deployments.humility import Humility

WORDS = [
    ("{uncertain_prediction: {score: {low: 0.4, high: 0.6}}}", "the score is in 0.4 to 0.6, or unknown"),
    ("{uncertain_prediction: {score: {low: 0.9}}}", "the score is in at least 0.9, or unknown"),
    ("{uncertain_prediction: {confidence: 0.6}}", "the confidence is below 0.6, or unknown"),
    ("{uncertain_prediction: {margin: 0.1}}", "the margin is below 0.1, or unknown"),
    ("{uncertain_prediction: {interval_width: 90}}", "the interval is wider than 90, or unknown"),
    ("{uncertain_prediction: set_size}", "the prediction set has other than one class, or is unknown"),
    ("{uncertain_prediction: certified}", "the confidence is below the certified one, or unknown"),
    ("{outlying_input: {feature: visib, low: 2}}", "'visib' is below 2"),
    ("{outlying_input: {features: [a, b], low: 2, high: 3}}", "'a' or 'b' is below 2 or above 3"),
    ("{outlying_input: visib}", "'visib' is outside of the fitted bounds"),
    ("outlying_input", "a numeric feature is outside of the fitted bounds"),
    ("novel_input", "the input is novel"),
    ("{low_observation_region: dest}", "the value of 'dest' was never seen in the reference"),
    (
        "{low_observation_region: {features: [origin, dest], least: 30}}",
        "the value of 'origin' and 'dest' was seen on fewer than 30 rows in the reference",
    ),
    ("{low_observation_region: {feature: dest, values: [JFK, 1]}}", "'dest' is 'JFK' or '1'"),
    ("missing_input", "at least 1 of the watched features is missing"),
    ("{missing_input: a}", "'a' is missing"),
    ("{missing_input: {features: [a, b, c], least: 2}}", "at least 2 of 'a', 'b', 'c' are missing"),
    (
        "{stale_input: {feature: at, unit: s, older_than: 2h}}",
        "the time in 'at' is more than 2 hours old",
    ),
    ("prediction_out_of_range", "the prediction is outside of the fitted range"),
    ("{prediction_out_of_range: {low: 0, high: 500}}", "the prediction is below 0 or above 500"),
    ("challenger_disagreement", "a challenger predicts another class"),
    (
        "{challenger_disagreement: {version: v2, by: 0.2}}",
        "version 'v2' predicts another class, or differs by more than 0.2",
    ),
    ("in_alarm", "the deployment is in alarm"),
    ("{in_alarm: [concept_drift, labels]}", "the deployment is in alarm about concept drift or labels"),
    ("{not: in_alarm}", "not (the deployment is in alarm)"),
    (
        "{all: [in_alarm, {any: [novel_input, {missing_input: a}]}]}",
        "the deployment is in alarm and (the input is novel or 'a' is missing)",
    ),
]
ACTIONS = [
    ("record", "record it"),
    ("refuse", "refuse the prediction"),
    ("{route: dispatch desk}", "route it to dispatch desk"),
    ("{override: {value: 3}}", "serve 3.0"),
    ("{override: {label: late}}", "serve 'late'"),
    ("{override: clip}", "serve the prediction clipped to the fitted range of predictions"),
    ("{override: {clip: {low: 0, high: 9}}}", "serve the prediction clipped to 0 to 9"),
    ("{override: {version: v2}}", "serve the answer of version 'v2'"),
    ("{override: prior}", "serve what is usual"),
]


def told(when: str, action: str, more: str = "") -> str:
    written = yaml.safe_load(f"rules: [{{name: a, when: {when}, action: {action}{more}}}]")
    (rule,) = Humility.model_validate(written).to_spec().rules
    return describe(rule)


@pytest.mark.parametrize(("when", "words"), WORDS)
def test_every_condition_has_its_words(when: str, words: str) -> None:
    assert told(when, "refuse") == f"a: when {words}, refuse the prediction"


@pytest.mark.parametrize(("action", "words"), ACTIONS)
def test_every_action_has_its_words(action: str, words: str) -> None:
    assert told("novel_input", action) == f"a: when the input is novel, {words}"
    assert told("novel_input", action, ", dry_run: true").endswith(f"{words} (dry run)")


def test_no_trigger_and_no_action_is_left_out() -> None:
    assert all(any(trigger in when for when, _ in WORDS) for trigger in TRIGGERS)
    assert all(any(name in action for action, _ in ACTIONS) for name in (*RULE_ACTIONS, *OVERRIDES))
