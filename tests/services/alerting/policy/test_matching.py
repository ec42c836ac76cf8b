"""Conditions on labels hold exactly when they say so, and none can be made slow."""

from __future__ import annotations

import fnmatch
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.alerting.policy.expressions import compile_expression
from services.alerting.policy.labels import labels_of
from services.alerting.policy.matching import glob, parse_match
from services.alerting.policy.problems import PolicyError


@pytest.mark.parametrize(
    ("match", "value", "holds"),
    [
        ("credit", "credit", True),
        ("credit", "credit-2", False),
        ("credit", "Credit", False),
        ("fraud-*", "fraud-eu", True),
        ("fraud-*", "fraud-", True),
        ("fraud-*", "no-fraud-eu", False),
        ("v?", "v1", True),
        ("v?", "v10", False),
        ("a.b", "axb", False),
        ("*", "", True),
        ("", "", True),
        ("", "x", False),
        (["a", "b*"], "bx", True),
        (["a", "b*"], "c", False),
        ({"not": "a"}, "b", True),
        ({"not": "a"}, "", True),
        ({"not": ["a", "b*"]}, "bx", False),
        ({"regex": "concept_.*"}, "concept_drift", True),
        ({"regex": "concept"}, "concept_drift", False),
        ({"regex": "concept"}, "a concept", False),
        ({"not": {"regex": "con.*"}}, "concept_drift", False),
        ({"not": [{"regex": "con.*"}, "x"]}, "y", True),
        ([{"regex": "con.*"}, "x"], "x", True),
    ],
)
def test_a_value_holds_as_it_says(match: Any, value: str, holds: bool) -> None:
    assert parse_match({"deployment": match}, "match")({"deployment": value}) is holds


def test_all_conditions_must_hold_and_none_always_does() -> None:
    match = parse_match({"severity": "error", "tag.region": "eu"}, "match")
    assert match({"severity": "error", "tag.region": "eu"})
    assert not match({"severity": "error"}) and not match({"tag.region": "eu"})
    assert parse_match({}, "match")({})


def test_a_label_that_is_not_there_is_the_empty_text() -> None:
    assert parse_match({"tag.team": ""}, "match")({}) and not parse_match({"tag.team": "*x"}, "match")({})


@pytest.mark.parametrize(
    "document", [{"x": 1}, {"deployment": None}, {"deployment": {"regex": "["}}, {"severity": "bad"}]
)
def test_what_an_interface_was_given_is_refused_in_words(document: Any) -> None:
    with pytest.raises(PolicyError, match="silence: 1 problem"):
        parse_match(document, "silence")


TEXT = st.text(st.sampled_from("ab*?.[\n"), max_size=8)


@given(TEXT, st.text(st.sampled_from("ab.[\n"), max_size=8))
def test_globs_are_those_of_the_shell_but_for_brackets(pattern: str, value: str) -> None:
    expected = fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))
    assert bool(glob(pattern).fullmatch(value)) == expected


@pytest.mark.parametrize("pattern", ["*a*a*a*a*a*a*a*b", "*" * 200 + "b", "a*" * 100 + "b", "?*?*?*?*b"])
def test_no_glob_can_be_made_slow(pattern: str) -> None:
    before = time.thread_time()
    assert not glob(pattern).fullmatch("a" * 10_000)
    assert time.thread_time() - before < 2.0


@pytest.mark.parametrize(
    "expression",
    ["(a+)+b", "(a|aa)*b", "(a*)*", "(a?)*b", ".*.*.*b", r"(a)\1", "(?=a+)b", "(?<!a)b", "(a{1,50}){2}", "((ab?)c)*",
     "(?:a{0,9}){0,9}b", "(?i:(a+)+)", "((((((a*))))))*", "a" * 501, "(" * 300 + ")" * 300 + "(", "["],
)  # fmt: skip
def test_an_expression_that_can_be_made_slow_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"slow|not a regular|at most|nesting"):
        compile_expression(expression)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("concept_.*", "concept_drift"),
        ("(eu|ch|us)-[0-9]+", "eu-12"),
        ("a.*b.*", "axxbyy"),
        (r"v\d{1,3}(-rc)?", "v12-rc"),
        ("(foo|bar.*)", "barx"),
        ("[a-z]{2}(-[a-z]{2}){2}", "aa-bb-cc"),
    ],
)
def test_an_ordinary_expression_is_taken(expression: str, value: str) -> None:
    assert compile_expression(expression).fullmatch(value)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # brackets in brackets may mean something else one day
@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab()*+?|.{1,9}[]"), max_size=12))
def test_what_is_taken_is_never_slow(expression: str) -> None:
    try:
        compiled = compile_expression(expression)
    except ValueError:
        return
    before = time.thread_time()
    compiled.fullmatch("a" * 2_000 + "!")
    assert time.thread_time() - before < 1.0


def test_labels_of_an_alert() -> None:
    alert = {
        "deployment_id": "d", "model_id": "m", "model_version": "1", "monitor": "concept_drift", "severity": "error",
        "owner": "risk", "causes": [{"stream": "age", "segment": "region=eu"}], "diagnosis": "relation",
        "tags": {"tier": "1", "region": "eu"},
    }  # fmt: skip
    assert labels_of(alert) == {
        "deployment": "d", "model": "m", "version": "1", "monitor": "concept_drift", "severity": "error",
        "owner": "risk", "feature": "age", "segment": "region=eu", "diagnosis": "relation", "tier": "1",
        "tag.tier": "1", "tag.region": "eu",
    }  # fmt: skip
