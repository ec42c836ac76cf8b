"""Which conditions can hold together, and which hold whenever others do.

A yes is sure; a no may be that it cannot be known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from services.alerting.policy.matching import glob
from services.alerting.policy.model import SEVERITIES, Test

_STRANGE = "\u2047 something else"


def possible(tests: Sequence[Test]) -> bool:
    """Whether an alert might pass all of them; here it is the False that is sure."""
    return all(_values(label, own) is None or bool(_values(label, own)) for label, own in _by_label(tests).items())


def implied(wanted: Sequence[Test], given: Sequence[Test]) -> bool:
    """True if whoever passes ``given`` passes ``wanted``; False if that is not sure."""
    by_label = _by_label(given)
    return all(_implied(test, by_label.get(test.label, [])) for test in wanted)


def _implied(test: Test, given: Sequence[Test]) -> bool:
    if any(_same(test, other) for other in given):
        return True
    values = _values(test.label, given)
    if values is not None:
        return all(test({test.label: value}) for value in values)
    # Without a list of what the label can be, only a condition that everything passes is sure.
    return any(pattern.pattern == ".*" for pattern in test.patterns) and not test.negated


def _same(one: Test, other: Test) -> bool:
    patterns = {pattern.pattern for pattern in one.patterns}, {pattern.pattern for pattern in other.patterns}
    if one.negated != other.negated:
        return False
    return patterns[0] <= patterns[1] if one.negated else patterns[1] <= patterns[0]


def _values(label: str, tests: Sequence[Test]) -> list[str] | None:
    """All that a label can be if it passes the tests; None where that is no list."""
    lists = [test.values for test in tests if not test.negated and test.values is not None]
    if not lists and label != "severity":
        return None
    candidates = SEVERITIES if label == "severity" else min(lists, key=len)
    return [value for value in candidates if all(test({label: value}) for test in tests)]


def covered(wanted: Sequence[Sequence[Test]], given: Sequence[Test]) -> bool:
    """True if everything that passes ``given`` passes all of one of ``wanted``: by itself, or each severity by one."""
    if any(implied(tests, given) for tests in wanted):
        return True
    severities = _values("severity", [test for test in given if test.label == "severity"]) or []
    return bool(severities) and all(any(implied(tests, [*given, exactly(s)]) for tests in wanted) for s in severities)


def exactly(severity: str) -> Test:
    """The test for one severity."""
    return Test("severity", (glob(severity),), False, severity, (severity,))


def witness(tests: Sequence[Test]) -> Mapping[str, str] | None:
    """Labels that pass all of some tests; None if none were found."""
    by_label = _by_label(tests)
    choices: list[list[str]] = []
    for label, own in by_label.items():
        samples = dict.fromkeys(value for test in own for value in _samples(label, test))
        fitting = [value for value in samples if all(test({label: value}) for test in own)]
        if not fitting:
            return None
        choices.append(fitting)
    return {label: fitting[0] for label, fitting in zip(by_label, choices, strict=True)}


def _samples(label: str, test: Test) -> Iterator[str]:
    if label == "severity":
        yield from SEVERITIES
        return
    yield from test.values or ()
    yield ""
    yield _STRANGE
    for pattern in test.patterns:
        plain = pattern.pattern.replace("\\", "").replace("(?>.*?", "").replace(")", "").replace(".*", "")
        yield plain
        yield plain.replace(".", "x")


def _by_label(tests: Sequence[Test]) -> dict[str, list[Test]]:
    found: dict[str, list[Test]] = {}
    for test in tests:
        found.setdefault(test.label, []).append(test)
    return found
