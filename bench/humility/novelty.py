"""Novelty: over many calibration sets, how often is the true rate above the one that was promised?

The first table is about the threshold alone: scores are uniform, so that the rate of a threshold is known exactly, as
they are or in so many levels. Beside the rule in use stands the marginal one of a conformal p-value, whose rate is
right on average over calibration sets, and too large in every other one.

The second is about fitted rules as they are put in force: each set is fitted by the same code as a baseline, and the
rate of its rules is counted on fresh rows of the same law, in all of the traffic and in each region.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import beta

from bench.humility.source import (
    NOVEL,
    OUTSIDE,
    REGIONS,
    bare_baseline,
    draw,
    most_exceeding,
    quantile_text,
    specification,
    with_fit,
)
from bench.report import Figure, figure, print_table, within
from driftline.humility.rules import Guarantees
from streams.humility.fit import learn_fit
from streams.humility.judge import policy_of
from streams.statistics.arrays import Floats
from streams.statistics.humility import ConformalThreshold, conditional_rank, conformal_threshold, marginal_rank

CALIBRATION_ROWS = 1_000
RATE, CONFIDENCE = 0.02, 0.9
ROWS = 8_000
"""Of a set that is fitted; half of them calibrate."""

FRESH_ROWS = 50_000


def measure(seed: int, quick: bool) -> list[Figure]:
    """All figures on novelty."""
    return [
        *_thresholds(np.random.default_rng([seed, 1]), 3_000 if quick else 20_000),
        *_rules(np.random.default_rng([seed, 2]), 40 if quick else 300),
    ]


def _thresholds(rng: np.random.Generator, sets: int) -> list[Figure]:
    delta = 1 - CONFIDENCE
    allowed = most_exceeding(sets, delta)
    figures, table = [], []
    for levels in (0, 1_000, 100, 20):
        rates = np.array([_rate(_scores(rng, levels), levels) for _ in range(sets)])
        row = figure(
            f"novelty: sets whose rate exceeds {RATE:g}, {_levels(levels)}",
            float((rates > RATE + 1e-12).mean()),
            "share",
            at_most=allowed,
            note=f"{sets:,} sets of {CALIBRATION_ROWS:,} rows; promised: at most {delta:g}, the rest is chance",
        )
        figures.append(row)
        marginal = np.array([_marginal(_scores(rng, levels), levels) for _ in range(min(sets, 2_000))])
        table.append(
            (
                _levels(levels),
                quantile_text(rates),
                within(row, f"{row['value']:.4f}"),
                f"{allowed:.4f}",
                f"{rates.mean():.4f}",
                f"{(marginal > RATE + 1e-12).mean():.3f}",
            )
        )
    rank = conditional_rank(CALIBRATION_ROWS, RATE, CONFIDENCE)
    law = beta(rank, CALIBRATION_ROWS + 1 - rank).ppf([0.05, 0.5, 0.95])
    exact = beta(rank, CALIBRATION_ROWS + 1 - rank).sf(RATE)
    table.append(("law: Beta(k, m + 1 - k)", " / ".join(f"{q:.4f}" for q in law), f"{exact:.4f}", f"{delta:g}", "", ""))
    print_table(
        f"Rate of a conformal threshold, at most {RATE:g} with confidence {CONFIDENCE:g}, {sets:,} sets of "
        f"{CALIBRATION_ROWS:,} rows",
        ("scores", "5 / 50 / 95 % of sets", "above", "at most", "mean", "above, marginal rule"),
        table,
    )
    return figures


def _scores(rng: np.random.Generator, levels: int) -> Floats:
    scores = rng.random(CALIBRATION_ROWS)
    return np.floor(scores * levels) / levels if levels else scores


def _levels(levels: int) -> str:
    return f"{levels:,} levels" if levels else "no ties"


def _mass_above(score: float, levels: int) -> float:
    """P(score > threshold), exactly."""
    return 1 - (np.floor(score * levels + 0.5) + 1) / levels if levels else 1 - score


def _rate(scores: Floats, levels: int) -> float:
    found = conformal_threshold(scores, RATE, CONFIDENCE)
    assert isinstance(found, ConformalThreshold)
    return _mass_above(found.score, levels)


def _marginal(scores: Floats, levels: int) -> float:
    return _mass_above(float(np.sort(scores)[-marginal_rank(len(scores), RATE)]), levels)


def _rules(rng: np.random.Generator, sets: int) -> list[Figure]:
    delta = 1 - CONFIDENCE
    spec = specification(Guarantees(novelty_rate=RATE, confidence=CONFIDENCE, segment="region"))
    pooled = specification(Guarantees(novelty_rate=RATE, confidence=CONFIDENCE))
    fresh, _ = draw(rng, FRESH_ROWS)
    region = fresh.categorical["region"].codes
    names = ["novel_input, all rows, one threshold", *(f"novel_input in {name}, own threshold" for name in REGIONS)]
    names.append("outlying_input on three features")
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(sets):
        columns, _ = draw(rng, ROWS)
        for asked in (spec, pooled):
            fit = learn_fit(asked, bare_baseline(), [columns], [], source="bench")
            policy = policy_of(asked, with_fit(bare_baseline(), fit))
            assert policy is not None
            fired = policy.decide_columns(fresh).fired
            novel = (fired >> np.uint64(NOVEL)) & np.uint64(1) == 1
            if asked is pooled:
                rates[names[0]].append(float(novel.mean()))
                outside = (fired >> np.uint64(OUTSIDE)) & np.uint64(1) == 1
                rates[names[-1]].append(float(outside.mean()))
            else:
                own = {each.segment for each in fit.novelty_thresholds}
                for number, name in enumerate(REGIONS):
                    if f"region={name}" in own:
                        rates[names[1 + number]].append(float(novel[region == number].mean()))
    figures, table = [], []
    for name, found in rates.items():
        if not found:
            table.append((name, "too few rows for a threshold of its own", "", "", ""))
            continue
        values, allowed = np.array(found), most_exceeding(len(found), delta)
        # the rate is counted, too: what lies above by less than its own error may be none
        place = names.index(name) - 1
        rows = int((region == place).sum()) if 0 <= place < len(REGIONS) else FRESH_ROWS
        slack = 2 * np.sqrt(RATE * (1 - RATE) / rows)
        row = figure(
            f"novelty: fitted sets whose rate exceeds {RATE:g}, {name}",
            float((values > RATE + slack).mean()),
            "share",
            at_most=allowed,
            note=f"{len(found):,} sets of {ROWS:,} rows, counted on {rows:,} fresh rows, to {slack:.4f}",
        )
        figures.append(row)
        table.append(
            (name, quantile_text(values), within(row, f"{row['value']:.3f}"), f"{allowed:.3f}", f"{values.mean():.4f}")
        )
    print_table(
        f"Rate of fitted rules, at most {RATE:g} with confidence {CONFIDENCE:g}, {sets} sets of {ROWS:,} rows",
        ("rule", "5 / 50 / 95 % of sets", "above", "at most", "mean"),
        table,
    )
    return figures
