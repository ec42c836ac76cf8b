"""How often river's detectors signal where nothing changes, and what a value costs them.

    python -m bench.detector_rates [--seed 0] [--only NAME …]

Prints the table that ``streams.detectors.MEASURED`` holds. Every stream has a known, constant distribution, so every
signal is a false alarm. Everything but the timings is determined by the seed.

How often depends on a detector's age: DDM and EDDM signal mostly while they are young, Page-Hinkley when it has grown
old. So there are two readings, the values as streams of ten thousand, each with a new detector, and as a single stream,
and the higher one is printed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from streams.detectors import BITS, DETECTORS, NUMBERS, build_detector, signals, takes
from streams.specification import DetectorSpec

Floats = NDArray[np.float64]

CORRELATION = 0.9
SHORT_STREAM = 10_000


def autoregressive(rng: np.random.Generator, n: int) -> Floats:
    """AR(1) with standard normal values: x_t = phi x_(t-1) + sqrt(1 - phi^2) e_t, started in its stationary law."""
    shocks = np.sqrt(1 - CORRELATION**2) * rng.standard_normal(n)
    values, _ = lfilter([1.0], [1.0, -CORRELATION], shocks, zi=np.array([CORRELATION * rng.standard_normal()]))
    return np.asarray(values)


def sticky(rng: np.random.Generator, n: int) -> Floats:
    """A chain of 0 and 1 that keeps its value with probability phi, else draws anew: a tenth ones, correlation phi."""
    drawn = rng.random(n) >= CORRELATION
    drawn[0] = True
    fresh = (rng.random(n) < 0.1).astype(np.float64)
    return fresh[np.maximum.accumulate(np.where(drawn, np.arange(n), 0))]


DISTRIBUTIONS: Mapping[str, Callable[[np.random.Generator, int], Floats]] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "uniform": lambda rng, n: rng.random(n),
    "bernoulli .1": lambda rng, n: (rng.random(n) < 0.1).astype(np.float64),
    "bernoulli .5": lambda rng, n: (rng.random(n) < 0.5).astype(np.float64),
    "AR(1) .9": autoregressive,
    "sticky .1": sticky,
}


def distributions(detector: str) -> tuple[str, ...]:
    """The distributions that a detector is measured on: those whose values it takes."""
    if takes(detector) == NUMBERS:
        return ("normal", "uniform", "bernoulli .1", "AR(1) .9")
    if takes(detector) == BITS:
        return ("bernoulli .1", "bernoulli .5", "sticky .1")
    return ("uniform", "bernoulli .1", "bernoulli .5", "sticky .1")


def false_alarms_per_million(
    detector: str,
    parameters: Mapping[str, float],
    distribution: str,
    n: int,
    seed: int,
    stream_values: int = SHORT_STREAM,
) -> float:
    """Signals per million values that do not change: n in all, in streams of so many with a new detector each."""
    rng = np.random.default_rng([seed, list(DISTRIBUTIONS).index(distribution)])
    spec = DetectorSpec(detector, "", parameters)
    found = 0
    for start in range(0, n, stream_values):
        values = DISTRIBUTIONS[distribution](rng, min(stream_values, n - start))
        found += len(signals(build_detector(spec), values))
    return found * 1e6 / n


def values_measured(detector: str) -> int:
    """Values per distribution: a million, or what a slow detector does in a minute."""
    return 200_000 if detector == "kswin" else 1_000_000


def measure(detectors: Sequence[str], seed: int) -> None:
    """Measure and print."""
    for detector in detectors:
        n = values_measured(detector)
        began = time.process_time()
        rates = {
            name: max(false_alarms_per_million(detector, {}, name, n, seed, length) for length in (SHORT_STREAM, n))
            for name in distributions(detector)
        }
        microseconds = (time.process_time() - began) / (2 * n * len(rates)) * 1e6
        shown = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
        print(f"{detector}: {shown}; n {n:,} each, seed {seed}; {microseconds:.2g} µs a value", flush=True)


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=DETECTORS, default=DETECTORS)
    arguments = parser.parse_args()
    measure(arguments.only, arguments.seed)


if __name__ == "__main__":
    main()
