"""Cases for a routing file pass and fail as they say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from services.alerting.policy.cases import judge, load_cases
from services.alerting.policy.model import Policy
from services.alerting.policy.problems import PolicyError

SATURDAY_MS = 1_795_258_800_000  # 2026-11-21T11:00Z
Judge = Callable[[str], list[tuple[str, ...]]]


@pytest.fixture
def judged(read: Callable[[str], Policy], whole: str, tmp_path: Path) -> Judge:
    """What is wrong with each case of a file."""

    def verdicts(cases: str) -> list[tuple[str, ...]]:
        policy = read(whole)
        path = tmp_path / "cases.yaml"
        path.write_text(cases)
        return [judge(policy, case, SATURDAY_MS).wrong for case in load_cases(path, policy)]

    return verdicts


def test_what_is_so_passes(judged: Judge) -> None:
    cases = """\
time_zone: Europe/Zurich
cases:
  - {labels: {severity: critical, tag.region: eu}, expect: [chat, pager], routes: [route/criticals], within: 0s}
  - {labels: {severity: warning}, expect: chat, muted: false, within: 20s}
  - {labels: {severity: info}, expect: [mail], at: 2026-11-23T08:59, within: 1m}
  - {name: release, labels: {severity: error, deployment: credit}, expect: [chat], at: 2026-12-01T23:00, muted: true}
  - {name: by name, labels: {severity: error, deployment: credit}, expect: [chat], at: 2026-12-01T23:00, muted: release}
  - {name: an inhibition, labels: {severity: error, monitor: data_drift}, expect: [chat], muted: feed}
"""
    assert judged(cases) == [()] * 6


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("{labels: {severity: info}, expect: [mail, chat]}", r"not told: chat \(it came to route/3\)"),
        ("{labels: {severity: info}, expect: []}", r"told though not expected: mail \(route/3\)"),
        ("{labels: {severity: info}, expect: [mail], routes: [route]}", "routes: expected route, came route/3"),
        ("{labels: {severity: info}, expect: [mail], within: 1h}", r"mail: expected within 1h, comes after 1d21h"),
        ("{labels: {severity: info}, expect: [mail], muted: true}", "expected to be muted, came not muted"),
        ("{labels: {severity: info}, expect: [mail], muted: nightly}", "expected to be muted by nightly"),
        (
            "{labels: {deployment: credit}, expect: [chat], muted: false, at: 2026-12-01T22:30}",
            "expected not to be muted, came release",
        ),
    ],
)
def test_what_is_not_so_fails_with_the_reason(judged: Judge, case: str, said: str) -> None:
    ((wrong,),) = judged(f"cases: [{case}]\n")
    assert re.search(said, wrong), wrong


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cases: [{labels: {severity: info}, expect: [mial]}]", "line 1: .*no receiver 'mial': did you mean 'mail'"),
        ("cases: [{labels: {severity: inf}, expect: []}]", "no such severity: did you mean 'info'"),
        ("cases: [{labels: {deploymnt: x}, expect: []}]", "did you mean 'deployment'"),
        ("cases: [{labels: {owner: [x]}, expect: []}]", "expected a text, came a list"),
        ("cases: [{labels: {severity: info}}]", "'expect' is missing"),
        ("cases: [{expect: []}]", "'labels' is missing"),
        ("cases: [{labels: {severity: info}, expect: [], routes: [route/9]}]", "no such route: did you mean"),
        ("cases: [{labels: {severity: info}, expect: [], muted: relase}]", "did you mean 'release'"),
        ("cases: [{labels: {severity: info}, expect: [], when: now}]", "no such field"),
        ("cases: []", "'cases' is missing"),
        ("case: []", "no such field: did you mean 'cases'"),
        ("", "'cases' is missing"),
        ("a: [", "not YAML"),
    ],
)
def test_a_wrong_file_of_cases_is_refused_with_the_line(judged: Judge, text: str, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        judged(text)
