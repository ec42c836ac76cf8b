"""Selective risk: over many calibration sets, how often is the error among answered predictions above the promise?

First for the sequence of tests alone, on laws of confidence and error of every kind: also where the surest predictions
are the worst ones, and where most confidences are equal. Then for fitted rules, in all of the traffic and by region,
where one threshold for all would break its promise in the region in which the model is worst.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bench.humility.source import (
    MEAN_SKILL,
    REGIONS,
    SKILL,
    ConfidenceLaw,
    bare_baseline,
    draw,
    most_exceeding,
    outcomes,
    specification,
)
from bench.report import Figure, figure, print_table, within
from driftline.humility.rules import Guarantees
from streams.humility.fit import learn_fit
from streams.statistics.arrays import Floats
from streams.statistics.humility import Certificate, certificate_thresholds, certify

ROWS = 1_000
MOST, CONFIDENCE = 0.1, 0.9
FITTED_ROWS, FITTED_MOST = 8_000, 0.15
POINTS = 200_000


def _as_is(confidence: Floats) -> Floats:
    return confidence


@dataclass(frozen=True)
class Law:
    """Confidence is uniform, or what ``seen`` makes of it; ``error`` of each confidence, float64[n] to float64[n]."""

    name: str
    error: Callable[[Floats], Floats]
    seen: Callable[[Floats], Floats] = _as_is


LAWS = (
    Law("the surer the better", lambda u: 0.35 * (1 - u)),
    Law("the surest are the worst", lambda u: np.where(u > 0.95, 0.2, 0.25 * (1 - u))),
    Law("just too bad, however sure", lambda u: np.full(len(u), MOST * 1.02)),
    Law("good and bad in turn", lambda u: 0.1 + 0.09 * np.sin(14 * u)),
    Law("five confidences in all", lambda u: 0.35 * (1 - np.ceil(u * 5) / 5), lambda u: np.ceil(u * 5) / 5),
)


def measure(seed: int, quick: bool) -> list[Figure]:
    """All figures on selective risk."""
    return [
        *_sequences(np.random.default_rng([seed, 3]), 600 if quick else 5_000),
        *_rules(np.random.default_rng([seed, 4]), 60 if quick else 400),
    ]


def _sequences(rng: np.random.Generator, sets: int) -> list[Figure]:
    delta = 1 - CONFIDENCE
    allowed = most_exceeding(sets, delta)
    figures, table = [], []
    for law in LAWS:
        points = (np.arange(POINTS) + 0.5) / POINTS
        seen, error = law.seen(points), law.error(points)
        errors_above = np.concatenate((np.cumsum(error[::-1])[::-1], [0.0]))
        worse, short, shares = 0, 0, []
        for _ in range(sets):
            u = rng.random(ROWS)
            wrong = rng.random(ROWS) < law.error(u)
            thresholds = certificate_thresholds(law.seen(rng.random(ROWS)), ROWS, MOST, CONFIDENCE)
            found = certify(law.seen(u), wrong, thresholds, MOST, CONFIDENCE)
            if not isinstance(found, Certificate):
                continue
            first = int(np.searchsorted(seen, found.threshold))
            share = (POINTS - first) / POINTS
            worse += errors_above[first] / (POINTS - first) > MOST
            short += share < found.answered_bound
            shares.append(share)
        row = figure(
            f"risk: sets whose error exceeds {MOST:g}, {law.name}",
            worse / sets,
            "share",
            at_most=allowed,
            note=f"{sets:,} sets of {ROWS:,} rows; promised: at most {delta:g}, the rest is chance",
        )
        fewer = figure(
            f"risk: sets that answer less than was said, {law.name}", short / sets, "share", at_most=allowed
        )  # fmt: skip
        figures += [row, fewer]
        table.append(
            (
                law.name,
                f"{len(shares) / sets:.1%}",
                f"{np.mean(shares):.1%}" if shares else "",
                within(row, f"{row['value']:.4f}"),
                within(fewer, f"{fewer['value']:.4f}"),
                f"{allowed:.4f}",
            )
        )
    print_table(
        f"Error among answered at most {MOST:g} with confidence {CONFIDENCE:g}, {sets:,} sets of {ROWS:,} rows",
        ("law of errors", "certified", "answered, mean", "error above", "answers fewer", "at most"),
        table,
    )
    return figures


def _rules(rng: np.random.Generator, sets: int) -> list[Figure]:
    law, delta = ConfidenceLaw(), 1 - CONFIDENCE
    asked = Guarantees(max_error=FITTED_MOST, confidence=CONFIDENCE)
    pooled, grouped = specification(asked), specification(replace(asked, segment="region"))
    names = ["all rows, one threshold", *(f"{name}, own threshold" for name in REGIONS)]
    names += [f"{name}, threshold of all rows" for name in REGIONS]
    errors: dict[str, list[float]] = {name: [] for name in names}
    answers: dict[str, list[float]] = {name: [] for name in names}

    def note(name: str, threshold: float, skill: float) -> None:
        errors[name].append(law.error(threshold, skill))
        answers[name].append(law.answered(threshold))

    for _ in range(sets):
        columns, actual = draw(rng, FITTED_ROWS)
        known = [outcomes(columns, actual)]
        for each in learn_fit(pooled, bare_baseline(), [columns], known, source="bench").certificates:
            note(names[0], each.threshold, MEAN_SKILL)
            for number, skill in enumerate(SKILL):
                note(names[1 + len(REGIONS) + number], each.threshold, skill)
        for each in learn_fit(grouped, bare_baseline(), [columns], known, source="bench").certificates:
            number = next((i for i, name in enumerate(REGIONS) if each.segment == f"region={name}"), -1)
            if number >= 0:
                note(names[1 + number], each.threshold, SKILL[number])
    figures, table = [], []
    for name in names:
        found = np.array(errors[name])
        promised = "threshold of all" not in name
        row = figure(
            f"risk: fitted sets whose error exceeds {FITTED_MOST:g}, {name}",
            float((found > FITTED_MOST).sum()) / sets,
            "share",
            at_most=most_exceeding(sets, delta) if promised else None,
            note=f"{sets:,} sets of {FITTED_ROWS:,} rows" + ("" if promised else ": nothing was promised of it"),
        )
        figures.append(row)
        table.append(
            (
                name,
                f"{np.mean(answers[name]):.1%}" if len(found) else "none certified",
                f"{found.mean():.4f}" if len(found) else "",
                within(row, f"{row['value']:.3f}"),
                f"{row['bound']:.3f}" if promised else "no promise",
            )
        )
    print_table(
        f"Fitted rules: error among answered at most {FITTED_MOST:g} with confidence {CONFIDENCE:g}, {sets} sets of "
        f"{FITTED_ROWS:,} rows",
        ("of", "answered, mean", "true error, mean", "above", "at most"),
        table,
    )
    return figures
