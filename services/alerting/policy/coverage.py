"""Which conditions can hold together, and which hold whenever others do.

A yes is sure; a no may be that it cannot be known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from services.alerting.policy.matching import glob
from services.alerting.policy.model import SEVERITIES, Test

_SEVERITY = "severity"
_STRANGE = "\u2047 something else"


class Given:
    """Conditions that are known to hold, ready to be asked many times."""

    def __init__(self, tests: Sequence[Test]) -> None:
        self._by_label = _by_label(tests)
        self._values: dict[str, list[str] | None] = {}

    def values(self, label: str) -> list[str] | None:
        """All that a label can be; None where that is no list."""
        if label not in self._values:
            self._values[label] = _values(label, self._by_label.get(label, ()))
        return self._values[label]

    def possible(self) -> bool:
        """Whether an alert might pass all of them; here it is the False that is sure."""
        return all(self.values(label) != [] for label in self._by_label)

    def implies(self, test: Test) -> bool:
        """Whether whoever passes all of them passes a test."""
        values = self.values(test.label)
        if values is not None:
            return all(test({test.label: value}) for value in values)
        if any(_same(test, other) for other in self._by_label.get(test.label, ())):
            return True
        # Without a list of what the label can be, only a condition that everything passes is sure.
        return not test.negated and any(pattern.pattern == ".*" for pattern in test.patterns)

    def severities(self) -> Sequence[str]:
        """The severities that are possible."""
        return self.values(_SEVERITY) or ()


def possible(tests: Sequence[Test]) -> bool:
    """Whether an alert might pass all of them; here it is the False that is sure."""
    return Given(tests).possible()


def implied(wanted: Sequence[Test], given: Given) -> bool:
    """Whether whoever passes ``given`` passes ``wanted``."""
    return all(given.implies(test) for test in wanted)


def covered(wanted: Sequence[Sequence[Test]], given: Given) -> bool:
    """Whether everything that passes ``given`` passes all of one of ``wanted``: by itself, or each severity by one."""
    left: set[str] = set(given.severities())
    for tests in wanted:
        if all(test.label == _SEVERITY or given.implies(test) for test in tests):
            own = [test for test in tests if test.label == _SEVERITY]
            left -= {severity for severity in left if all(test({_SEVERITY: severity}) for test in own)}
            if not left or not own:
                return True
    return False


def exactly(severity: str) -> Test:
    """The test for one severity."""
    return Test(_SEVERITY, (glob(severity),), False, severity, (severity,))


def witness(tests: Sequence[Test]) -> Mapping[str, str] | None:
    """Labels that pass all of some tests; None if none were found."""
    found: dict[str, str] = {}
    for label, own in _by_label(tests).items():
        samples = dict.fromkeys(value for test in own for value in _samples(label, test))
        fitting = next((value for value in samples if all(test({label: value}) for test in own)), None)
        if fitting is None:
            return None
        found[label] = fitting
    return found


def _same(one: Test, other: Test) -> bool:
    """Whether the other's patterns make one's hold, as texts compare."""
    if one.negated != other.negated:
        return False
    own, others = ({pattern.pattern for pattern in test.patterns} for test in (one, other))
    return own <= others if one.negated else others <= own


def _values(label: str, tests: Sequence[Test]) -> list[str] | None:
    lists = [test.values for test in tests if not test.negated and test.values is not None]
    if not lists and label != _SEVERITY:
        return None
    candidates = SEVERITIES if label == _SEVERITY else min(lists, key=len)
    return [value for value in candidates if all(test({label: value}) for test in tests)]


def _samples(label: str, test: Test) -> Iterator[str]:
    if label == _SEVERITY:
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
