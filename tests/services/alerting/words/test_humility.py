"""What people read when humility rules no longer act as they were fitted to."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.codec import decode, encode
from services.alerting.words.message import describe_alert
from services.alerting.words.readings import reading
from services.alerting.words.text import REPLACEMENT
from streams.counting import MISCOVERAGE
from streams.humility.evidence import ABSTAINED, DISAGREEMENT, OVERRIDDEN_STREAM, RULE_PREFIX

HOSTILE = ["<!channel>", "a`b*c_d~e", "line\nline", "\x1b[31mred", "\u202etxet", "x" * 10_000, "`" * 10_000, ""]


def cause_of(make_alert: Any, stream: str, yes: int, no: int, expected: float, **changes: Any) -> dict[str, Any]:
    cause: dict[str, Any] = make_alert()["causes"][0]
    rest = [0] * 21
    shape = {
        "bins": ["yes", "no", *([""] * 18), "(other)", "(unseen)", "(missing)"],
        "observed": [yes, no, *rest],
        "expected": [expected, 1 - expected, *rest],
        "rows": yes + no,
    }
    return (
        cause | {"stream": stream, "role": "humility", "segment": "", "inputs": [], "interval_ms": 0} | shape | changes
    )


def told(make_alert: Any, *causes: dict[str, Any], **changes: Any) -> list[str]:
    text = describe_alert(make_alert(monitor="humility", causes=list(causes), **changes))
    return [str(text.headline), *map(str, text.sentences), str(text.causes[0]), str(text.steps)]


def test_a_rule_that_fires_more_often_is_named_with_what_no_longer_holds_and_what_to_do(make_alert: Any) -> None:
    rule = cause_of(make_alert, RULE_PREFIX + "storm", 120, 880, 0.01)
    headline, what, since, _, bad, first, steps = told(make_alert, rule, rows_since_change=1000)
    assert headline == "Humility change in credit, version 1"
    assert what == (
        "The humility rules of credit fire more often than they did: what they guarantee rests on traffic like that of "
        "the fit, and that no longer holds; most changed: how often the rule storm fires."
    )
    assert since == (
        "Since about 12 Jun 2013 14:00 UTC (estimated); noticed at 12 Jun 2013 17:20 UTC, 3 h 20 min and 1,000 "
        "predictions later."
    )
    assert bad == ("Since then 120 of 1,000 predictions fire the rule storm; the reference leads to expect about 10.")
    assert first.startswith("how often the rule storm fires: 12 % of predictions fire the rule storm, expected 1.0 %. ")
    assert "Total variation 52 %" in first and "1,000 predictions" in first
    assert steps == (
        "Next: follow the runbook; see what the rules catch and cost: driftline humility report credit; look at the "
        "alarms on inputs, data and outcomes of the same time: if something is broken, mend it, and the guarantees "
        "hold again. If this is how things are to be, fit again: driftline humility fit credit --version 1 "
        "--from 2013-06-13."
    )


@pytest.mark.parametrize(
    ("stream", "yes", "what", "first", "step"),
    [
        (
            RULE_PREFIX + "a",
            1,
            "fire less often than they did",
            "0.1 % of predictions fire the rule a",
            "humility report",
        ),
        (
            ABSTAINED,
            300,
            "refuse predictions or route them to people more often",
            "are refused or routed",
            "humility fit",
        ),
        (ABSTAINED, 3, "route them to people less often", "0.3 % of predictions are refused", "fit"),
        (
            OVERRIDDEN_STREAM,
            300,
            "override predictions more often",
            "30 % of predictions are overridden",
            "humility fit",
        ),
        (MISCOVERAGE, 300, "hold the actual values less often", "30 % of outcomes lie outside", "adaptive ones"),
        (MISCOVERAGE, 3, "hold the actual values more often", "0.3 % of outcomes lie outside", "adaptive ones"),
        (
            DISAGREEMENT,
            300,
            "Applications decide otherwise than the humility rules of credit in force say;",
            "30 % of predictions were decided otherwise than the rules in force say",
            "see which rules are in force and give them to the publishers: driftline humility show credit; see that",
        ),
        ("humility:of a later release", 300, "fire more often", "humility:of a later release", "humility fit"),
    ],
)
def test_every_stream_says_what_changed_and_what_to_do(
    make_alert: Any, stream: str, yes: int, what: str, first: str, step: str
) -> None:
    said = told(make_alert, cause_of(make_alert, stream, yes, 1000 - yes, 0.1))
    assert what in said[1] and first in said[-2] and step in said[-1], said
    assert ("no longer holds" in said[1]) == (stream != DISAGREEMENT) == ("fit again" in said[-1])
    assert "baseline build" not in said[-1]


def test_what_the_streams_say_in_short_comes_with_it(make_alert: Any) -> None:
    reason = "publishers decide by rules that are not in force: revision 3, in force 5"
    said = told(make_alert, cause_of(make_alert, DISAGREEMENT, 200, 800, 1e-5), diagnosis_reason=reason)
    assert said[2] == f"In short: {reason}."
    assert "expected next to none" in said[-2]


def test_an_alarm_that_ends_is_told_as_every_other(make_alert: Any) -> None:
    text = describe_alert(
        make_alert(1, "resolved", monitor="humility", causes=[cause_of(make_alert, ABSTAINED, 3, 7, 0.1)])
    )
    assert str(text.headline) == "Resolved: Humility change in credit, version 1" and text.steps is None


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_of_rules_are_harmless_wherever_they_are_read(make_alert: Any, lines_of: Any, name: str) -> None:
    cause = cause_of(make_alert, RULE_PREFIX + name, 200, 800, 0.1)
    alert = make_alert(monitor="humility", causes=[cause], diagnosis_reason=f"rule {name[:100]} fires")
    alert = decode(encode("Alert", {**alert, "diagnosis_probability": None}))[1]
    text = describe_alert(alert)
    said = [str(text.headline), str(text.summary), *map(str, text.sentences), *map(str, text.causes), str(text.steps)]
    assert all(line.isprintable() or REPLACEMENT in line for line in said)
    assert not any(c in line for line in said for c in "\n\x1b\u202e") and all(len(line) < 1_500 for line in said)
    lines_of(text)


def test_counts_of_an_unknown_shape_are_told_like_categories(make_alert: Any) -> None:
    cause = cause_of(
        make_alert, ABSTAINED, 900, 100, 0.5, bins=["on", "off", *([""] * 18), "(other)", "(unseen)", "(missing)"]
    )
    assert str(reading(cause)) == "90 % of predictions are on, expected 50 %"


@given(st.text(max_size=20), st.lists(st.integers(0, 10**6), min_size=23, max_size=23), st.sampled_from(["", "c=1"]))
def test_no_alarm_of_humility_is_too_odd_to_be_told(
    make_alert: Any, name: str, observed: list[int], segment: str
) -> None:
    cause = cause_of(make_alert, f"humility:{name}", 1, 1, 0.5, observed=observed, segment=segment)
    assert len(told(make_alert, cause)) >= 6
