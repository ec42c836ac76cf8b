"""Known drift detectors, on request, beside the evidence engine and outside its false-alarm budget.

They are river's (Montiel et al., "River: machine learning for streaming data in Python", JMLR 22(110), 2021), with
river's defaults, and follow one numeric stream of a deployment version in the order of the log, or of its outcomes:

============ ========================================================================== ==================
name         detector                                                                   takes
============ ========================================================================== ==================
adwin        Bifet and Gavaldà, "Learning from time-changing data with adaptive         numbers
             windowing", SDM 2007
page_hinkley Page, "Continuous inspection schemes", Biometrika 41, 1954; two-sided      numbers
kswin        Raab, Heusinger and Schleif, "Reactive soft prototype computing for        numbers
             concept drift streams", Neurocomputing 416, 2020
ddm          Gama et al., "Learning with drift detection", SBIA 2004                    0 or 1
eddm         Baena-García et al., "Early drift detection method", IWKDDS 2006           0 or 1
hddm_a       Frías-Blanco et al., "Online and non-parametric drift detection methods    numbers from 0 to 1
             based on Hoeffding's bounds", IEEE TKDE 27(3), 2015; moving averages
hddm_w       the same, weighted moving averages                                         numbers from 0 to 1
============ ========================================================================== ==================

None of them keeps a promise on false alarms; :data:`MEASURED` says what each does where nothing changes.

river is imported only where a detector runs: it brings a dataframe library and more with it, a second and 170 MB.
"""

from __future__ import annotations

import collections
import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from driftline.events import Floats
from streams.errors import StreamsError
from streams.specification import BINARY, MULTICLASS, REGRESSION, DeploymentSpec, DetectorSpec

MONITOR_PREFIX = "detector:"

MOST_DETECTORS = 20
"""Of a deployment. With the slowest of them, river's KSWIN, they fill a core at some 300 rows a second."""

KSWIN_SEED = 0
"""KSWIN draws a sample at every value; replay must draw the same."""

MOST_MAGNITUDE = 1e100
"""Beyond it squares and their sums do not fit a float, and a detector would be stuck at NaN for good."""


ERROR, LOSS, RESIDUAL = "error", "loss", "residual"
STREAMS_OF_OUTCOMES = {BINARY: (ERROR, LOSS), MULTICLASS: (ERROR, LOSS), REGRESSION: (LOSS, RESIDUAL)}
"""The streams of outcomes that a detector can follow, by task; see :mod:`streams.outcomes.followed`."""


class Detector(Protocol):
    """What all of river's detectors can."""

    @property
    def drift_detected(self) -> bool:
        """Whether the latest value made it signal."""

    def update(self, x: float) -> object:
        """Take the next value; a detector that signalled starts anew with it."""


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What a parameter may be: from ``low`` to ``high``, both allowed unless it is ``open``."""

    low: float
    high: float
    whole: bool = False
    open: bool = False

    def allow(self, value: float) -> bool:
        if not math.isfinite(value) or (self.whole and value != int(value)):
            return False
        return self.low < value < self.high if self.open else self.low <= value <= self.high

    def __str__(self) -> str:
        if self.open:
            return f"a number above {self.low:g} and below {self.high:g}"
        return f"a {'whole ' if self.whole else ''}number from {self.low:g} to {self.high:g}"


_PROBABILITY = _Bounds(0, 1, open=True)
_POSITIVE = _Bounds(0, MOST_MAGNITUDE, open=True)
_COUNT = _Bounds(1, 1_000_000, whole=True)
_FLAG = _Bounds(0, 1, whole=True)

NUMBERS = "numbers"
UNIT = "numbers from 0 to 1"
BITS = "0 or 1"


@dataclass(frozen=True, slots=True)
class _Known:
    """A class of river's, what it takes, and the parameters that a specification may set."""

    module: str
    name: str
    takes: str
    parameters: Mapping[str, _Bounds]


_HOEFFDING = {"drift_confidence": _PROBABILITY, "warning_confidence": _PROBABILITY, "two_sided_test": _FLAG}

_KNOWN = {
    "adwin": _Known(
        "river.drift",
        "ADWIN",
        NUMBERS,
        {
            "delta": _PROBABILITY,
            "clock": _COUNT,
            "max_buckets": _Bounds(2, 100, whole=True),
            "min_window_length": _COUNT,
            "grace_period": _COUNT,
        },
    ),
    "page_hinkley": _Known(
        "river.drift",
        "PageHinkley",
        NUMBERS,
        {
            "min_instances": _COUNT,
            "delta": _Bounds(0, MOST_MAGNITUDE),
            "threshold": _POSITIVE,
            "alpha": _Bounds(0, 1),
        },
    ),
    "kswin": _Known(
        "river.drift",
        "KSWIN",
        NUMBERS,
        {
            "alpha": _PROBABILITY,
            "window_size": _Bounds(2, 1_000, whole=True),
            "stat_size": _Bounds(1, 500, whole=True),
        },
    ),
    "ddm": _Known(
        "river.drift.binary",
        "DDM",
        BITS,
        {"warm_start": _COUNT, "warning_threshold": _POSITIVE, "drift_threshold": _POSITIVE},
    ),
    "eddm": _Known(
        "river.drift.binary", "EDDM", BITS, {"warm_start": _COUNT, "alpha": _PROBABILITY, "beta": _PROBABILITY}
    ),
    "hddm_a": _Known("river.drift.binary", "HDDMA", UNIT, _HOEFFDING),
    "hddm_w": _Known("river.drift.binary", "HDDMW", UNIT, _HOEFFDING | {"lambda_val": _PROBABILITY}),
}

DETECTORS = tuple(_KNOWN)
"""The names a specification may use."""


def outcome_streams(spec: DeploymentSpec) -> tuple[str, ...]:
    """The streams of outcomes that detectors can follow; none where no outcomes are expected.

    Of a deployment without outcomes, ``loss`` and ``residual`` are features like others.
    """
    return () if spec.outcomes is None else STREAMS_OF_OUTCOMES.get(spec.task, ())


def takes(detector: str) -> str:
    """What a detector takes, in words; :meth:`streams.followers.Follower.update` says what becomes of the rest."""
    return _KNOWN[detector].takes


def check_detector(spec: DetectorSpec) -> None:
    """Refuse a detector that does not exist or cannot run.

    Raises:
        StreamsError: Says what was expected.
    """
    known = _KNOWN.get(spec.detector)
    if known is None:
        raise StreamsError(f"detector {spec.detector!r} is not known: expected one of {', '.join(DETECTORS)}")
    what = f"detector {spec.detector} on {spec.stream!r}"
    for name, value in spec.parameters.items():
        bounds = known.parameters.get(name)
        if bounds is None:
            raise StreamsError(
                f"{what} has no parameter {name!r} that can be set: expected {', '.join(known.parameters)}"
            )
        if isinstance(value, str) or not bounds.allow(value):
            raise StreamsError(f"{what}: {name} must be {bounds}, is {value!r}")
    if spec.detector == "kswin":
        _check_kswin(what, spec.parameters)
    if spec.detector == "eddm" and spec.parameters.get("alpha", 0.95) < spec.parameters.get("beta", 0.9):
        raise StreamsError(f"{what}: beta must not be above alpha (defaults .9 and .95)")


def _check_kswin(what: str, parameters: Mapping[str, float]) -> None:
    """As many values as the latest ones are drawn from those before them, without putting any back."""
    window, latest = parameters.get("window_size", 100), parameters.get("stat_size", 30)
    if 2 * latest > window:
        raise StreamsError(
            f"{what}: window_size must be at least twice stat_size (defaults 100 and 30), is {window:g} for {latest:g}"
        )


def check_detectors(specs: Sequence[DetectorSpec]) -> None:
    """Refuse the detectors of a deployment if one of them cannot run, if one is there twice, or if they are too many.

    Raises:
        StreamsError: Says what was expected.
    """
    if len(specs) > MOST_DETECTORS:
        raise StreamsError(f"expected at most {MOST_DETECTORS} detectors, came {len(specs)}")
    for spec in specs:
        check_detector(spec)
    names = collections.Counter(monitor_name(spec) for spec in specs)
    twice = [name for name, times in names.items() if times > 1]
    if twice:
        raise StreamsError(f"{twice[0]} is there more than once: expected each detector once per stream")


@dataclass(frozen=True, slots=True)
class Measured:
    """What a detector with river's defaults does where nothing changes.

    Attributes:
        independent: False alarms per million independent values, by distribution.
        correlated: The same, where each value correlates by .9 with the one before: AR(1) with normal values, or a
            chain of 0 and 1 with a tenth ones.
        values: Values per distribution, once in streams of 10,000 with a new detector each and once in a single
            stream; the higher figure is told.
        microseconds: Processor time of a value.
    """

    independent: Mapping[str, int]
    correlated: int
    values: int
    microseconds: float


MEASURED_RIVER = "0.26.1"
MEASURED = {
    "adwin": Measured({"normal": 1, "uniform": 0, "bernoulli .1": 0}, 6_306, 1_000_000, 0.3),
    "page_hinkley": Measured({"normal": 620, "uniform": 31, "bernoulli .1": 28}, 6_254, 1_000_000, 0.4),
    "kswin": Measured({"normal": 1_280, "uniform": 1_420, "bernoulli .1": 0}, 8_955, 200_000, 150.0),
    "ddm": Measured({"bernoulli .1": 73, "bernoulli .5": 10}, 4_163, 1_000_000, 0.4),
    "eddm": Measured({"bernoulli .1": 1_547, "bernoulli .5": 1_063}, 2_908, 1_000_000, 0.3),
    "hddm_a": Measured({"uniform": 0, "bernoulli .1": 2, "bernoulli .5": 12}, 5_150, 1_000_000, 4.5),
    "hddm_w": Measured({"uniform": 0, "bernoulli .1": 0, "bernoulli .5": 806}, 2_893, 1_000_000, 4.7),
}
"""As ``python -m bench.detector_rates`` prints it with seed 0. The costs are those of one core of a small server."""

SLOW_MICROSECONDS = 20.0
"""What takes longer is said where the detector is configured: counting a row with all its columns costs less."""


def describe_detector(spec: DetectorSpec) -> str:
    """What a detector of a checked specification is worth, in a sentence, for whoever asks for it."""
    measured = MEASURED[spec.detector]
    least, most = min(measured.independent.values()), max(measured.independent.values())
    rate = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    parts = [
        f"{spec.detector} on {spec.stream}: measured {rate} false alarms per million unchanged values that are "
        f"independent, {measured.correlated:,} with autocorrelation .9 (river {MEASURED_RIVER}, defaults)"
    ]
    if spec.parameters:
        given = ", ".join(f"{name} {value:g}" for name, value in sorted(spec.parameters.items()))
        parts.append(f"not measured with {given}")
    if takes(spec.detector) != NUMBERS:
        parts.append(f"takes {takes(spec.detector)} and skips other values")
    if measured.microseconds >= SLOW_MICROSECONDS:
        parts.append(
            f"slow: {measured.microseconds:.0f} µs a value, so {1e6 / measured.microseconds:,.0f} values a second "
            "fill a core"
        )
    return "; ".join([*parts, "outside the false-alarm budget"])


def monitor_name(spec: DetectorSpec) -> str:
    """The monitor under which a detector's alerts go."""
    return f"{MONITOR_PREFIX}{spec.detector}:{spec.stream}"


def build_detector(spec: DetectorSpec) -> Detector:
    """A new detector of a specification that was checked."""
    known = _KNOWN[spec.detector]
    arguments = {
        name: int(value) if known.parameters[name].whole else float(value) for name, value in spec.parameters.items()
    }
    if spec.detector == "kswin":
        arguments["seed"] = KSWIN_SEED
    detector: Detector = getattr(importlib.import_module(known.module), known.name)(**arguments)
    return detector


def signals(detector: Detector, values: Floats) -> list[int]:
    """Give a detector values float64[n]; the indices at which it signalled."""
    found = []
    for index, value in enumerate(values.tolist()):
        detector.update(value)
        if detector.drift_detected:
            found.append(index)
    return found
