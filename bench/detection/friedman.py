"""River's FriedmanDrift as in "PITMonitor" (arXiv 2603.13156): a fixed model, its squared residuals, three drifts.

10,000 samples to train a neural network, then per trial 2,500 samples of the same concept and 2,500 after a drift:
``gra`` (all of the input space, at once), ``gsg`` (all of it; half of the first 500 samples are still of the old
concept), ``lea`` (two small regions, 1.6 % of the inputs, which grow after 833 and 1,666 samples). Samples are drawn
by numpy from river's functions; the run checks that they are the same.

Ours learns what is normal from 10,000 held-out samples of the stable concept, fresh ones in each trial, so that the
error of a reference is part of what is measured. River's detectors need none. All follow the same residuals, ours
checked at every sample under the promise of 0.001 false alarms in 2,500 samples: c = starts / 0.001.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from bench.report import Figure, figure, print_table
from streams.detectors import BITS, DETECTORS, UNIT, build_detector, takes
from streams.specification import DetectorSpec
from streams.statistics.arrays import Counts, Floats
from streams.statistics.evidence import (
    Bets,
    empty_base,
    empty_counts,
    make_bets,
    start_slot,
    stream_log_evidence,
)
from streams.statistics.layouts import NUMERIC, NumericBins, bin_numeric, count_codes, fit_numeric
from streams.statistics.losses import fit_loss, loss_counts, loss_tempering
from streams.statistics.margins import effective_margins
from streams.statistics.tilts import LOSS_TILTS, NUMERIC_TILTS

TRAIN, CALIBRATION, STABLE, POST = 10_000, 10_000, 2_500, 2_500
DRIFTS = ("gra", "gsg", "lea")
TRANSITION = 500
EXPANSION = POST // 3
FALSE_ALARMS = 0.001
"""The promise: probability of a false alarm in the 2,500 stable samples."""

START_EVERY = 500
THRESHOLD = float(np.log(STABLE / START_EVERY / FALSE_ALARMS))
PUBLISHED = {"gra": 27, "gsg": 27, "lea": 115}
"""ADWIN's mean delays in the paper."""

PAPER = {
    "PITMonitor, as published": (0.0378, "96.2%, 77", "96.2%, 189", "96.2%, 1,919"),
    "ADWIN, as published": (0.0087, "99.1%, 27", "99.1%, 27", "99.1%, 115"),
}
"""Its results over 10,000 trials: false-alarm rate, and for each drift share found and mean delay."""

TRIALS_OF = {"adwin": 1.0, "kswin": 0.02}
"""Share of the trials that a detector of river's is given, by what it costs; others get a fifth."""

CHUNK = 125
"""Trials at a time."""

ROWS_AT_A_TIME = 16_384
"""Of the network's inputs: its layers fit the cache."""

BEST = "ours, bins of losses"
"""The one that is held to the bounds."""

Inputs = NDArray[np.floating[Any]]


def stable_concept(x: Inputs) -> Floats:
    """Friedman's function of inputs [..., 10], without noise (Friedman, "Multivariate adaptive regression splines",
    Annals of Statistics 19, 1991).
    """
    return _friedman(x, 0, 1, 2, 3, 4)


def _friedman(x: Inputs, a: int, b: int, c: int, d: int, e: int) -> Floats:
    wave = 10 * np.sin(np.pi * x[..., a] * x[..., b])
    return np.asarray(wave + 20 * (x[..., c] - 0.5) ** 2 + 10 * x[..., d] + 5 * x[..., e], np.float64)


def changed_concept(drift: str, x: Inputs, since: NDArray[np.int64], old: NDArray[np.bool_]) -> Floats:
    """The function after a drift. ``since``: samples since it began; ``old``: where a transition keeps the old one."""
    if drift == "gra":
        return _friedman(x, 3, 5, 1, 0, 2)
    if drift == "gsg":
        return np.where(old & (since < TRANSITION), stable_concept(x), _friedman(x, 3, 4, 1, 0, 2))
    low = (x[..., 1] < 0.3) & (x[..., 2] < 0.3)
    low &= (since >= 2 * EXPANSION) | (x[..., 3] > 0.7)
    low &= (since >= EXPANSION) | (x[..., 4] < 0.3)
    high = (x[..., 1] > 0.7) & (x[..., 2] > 0.7)
    high &= (since >= 2 * EXPANSION) | (x[..., 3] < 0.3)
    high &= (since >= EXPANSION) | (x[..., 4] > 0.7)
    linear = 20 * (x[..., 2] - 0.5)
    in_low = 10 * x[..., 0] * x[..., 1] + linear + 10 * x[..., 3] + 5 * x[..., 4]
    in_high = 10 * np.cos(x[..., 0] * x[..., 1]) + linear + np.exp(x[..., 3]) + 5 * x[..., 4] ** 2
    return np.where(low, in_low, np.where(high, in_high, stable_concept(x)))


def largest_difference_from_river(samples: int) -> float:
    """How far the functions above are from river's, on river's own inputs: the noise is what is left, and known."""
    import random

    from river.datasets.synth import FriedmanDrift

    worst = 0.0
    for drift in DRIFTS:
        far = 10**9
        position = (0, EXPANSION, 2 * EXPANSION) if drift == "lea" else (0, far)
        river = FriedmanDrift(drift, position=position, transition_window=TRANSITION, seed=1)
        generator, coin = random.Random(1), random.Random(1)
        for index, (inputs, target) in enumerate(river.take(samples)):
            x = np.array([generator.uniform(0, 1) for _ in range(10)])
            assert list(inputs.values()) == x.tolist()
            old = drift == "gsg" and index < TRANSITION and bool(coin.getrandbits(1))
            ours = changed_concept(drift, x, np.array(index), np.array(old)) + generator.gauss(0, 1)
            worst = max(worst, abs(float(ours) - target))
    return worst


def train(rng: np.random.Generator) -> Callable[[Inputs], Floats]:
    """A neural network of two hidden layers; returns its prediction for inputs [..., 10]."""
    from sklearn.neural_network import MLPRegressor

    x, noise = rng.random((TRAIN, 10), np.float32), rng.normal(size=TRAIN)
    y = stable_concept(x) + noise
    mean, scale = y.mean(), y.std()
    network = MLPRegressor(hidden_layer_sizes=(64, 64), alpha=1e-3, early_stopping=True, max_iter=300, random_state=0)
    network.fit(2 * x - 1, ((y - mean) / scale).astype(np.float32))
    weights = [np.asarray(layer, np.float32) for layer in network.coefs_]
    biases = [np.asarray(layer, np.float32) for layer in network.intercepts_]

    def predict(inputs: Inputs) -> Floats:
        rows = inputs.reshape(-1, 10)
        out = np.empty(len(rows))
        for first in range(0, len(rows), ROWS_AT_A_TIME):
            layer = 2 * rows[first : first + ROWS_AT_A_TIME] - 1
            for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                layer = np.maximum(layer @ weight + bias, 0)
            out[first : first + ROWS_AT_A_TIME] = (layer @ weights[-1] + biases[-1])[:, 0]
        return np.asarray(out.reshape(inputs.shape[:-1]) * scale + mean)

    return predict


@dataclass(frozen=True)
class Trials:
    """Squared residuals of S trials: ``calibration``, ``stable`` and by drift ``post``, each float64[S, N]."""

    calibration: Floats
    stable: Floats
    post: dict[str, Floats]


def draw(rng: np.random.Generator, predict: Callable[[Inputs], Floats], trials: int, drifted: int) -> Iterator[Trials]:
    """Trials in chunks; the first ``drifted`` ones go on after the stable part."""
    since = np.arange(POST)
    for first in range(0, trials, CHUNK):
        count = min(CHUNK, trials - first)

        def residuals(events: int, drift: str | None = None, count: int = count) -> Floats:
            x = rng.random((count, events, 10), np.float32)
            old = rng.random((count, events)) < 0.5
            y = stable_concept(x) if drift is None else changed_concept(drift, x, since, old)
            return np.asarray((y + rng.normal(size=y.shape) - predict(x)) ** 2)

        post = {drift: residuals(POST, drift) for drift in DRIFTS} if first < drifted else {}
        yield Trials(residuals(CALIBRATION), residuals(STABLE), post)


@dataclass
class Tally:
    """``trials``, of which ``false`` alarmed while stable; by drift the delays of the others, -1 for not found."""

    trials: int
    false: int
    drifted: int
    delays: dict[str, list[int]]

    @classmethod
    def empty(cls) -> Tally:
        return cls(0, 0, 0, {drift: [] for drift in DRIFTS})

    def mean_delay(self, drift: str) -> float:
        found = [delay for delay in self.delays[drift] if delay >= 0]
        return float(np.mean(found)) if found else float("nan")

    def found(self, drift: str) -> float:
        return sum(delay >= 0 for delay in self.delays[drift]) / max(self.drifted, 1)

    def half_width(self, drift: str) -> float:
        """Of the mean delay's 95 % confidence interval."""
        found = [delay for delay in self.delays[drift] if delay >= 0]
        return float(1.96 * np.std(found) / np.sqrt(len(found))) if found else float("nan")

    def false_limit(self) -> float:
        """Exact upper limit, 95 %, of the false-alarm rate (Clopper and Pearson, Biometrika 26, 1934)."""
        return float(beta.ppf(0.95, self.false + 1, self.trials - self.false)) if self.false < self.trials else 1.0


def follow(bets: Bets, base: Any, counts: Counts, codes: NDArray[np.uint8]) -> tuple[NDArray[np.int64], Any, Counts]:
    """First alarm of each stream in codes uint8[S, N], or -1, checked at every sample; and the state at the end."""
    first = np.full(len(codes), -1, np.int64)
    rows = np.arange(len(codes))
    base, counts = base.copy(), counts.copy()
    for event in range(codes.shape[1]):
        if event % START_EVERY == 0:
            base, counts = start_slot(bets, base, counts)
        counts[rows, codes[:, event]] += 1
        alarming = (stream_log_evidence(bets, base, counts) >= THRESHOLD) & (first < 0)
        first[alarming] = event
        if (first >= 0).all():
            break
    return first, base, counts


def tally_ours(tally: Tally, trials: Trials, learn: Callable[[Floats], tuple[list[NumericBins], Bets]]) -> None:
    """Run the engine over some trials with what ``learn`` makes of their calibration samples."""
    cuts, bets = learn(trials.calibration)

    def codes(values: Floats) -> NDArray[np.uint8]:
        return np.stack([bin_numeric(cut, column) for cut, column in zip(cuts, values, strict=True)])

    early, base, counts = follow(bets, empty_base(bets), empty_counts(bets), codes(trials.stable))
    tally.trials += len(early)
    tally.false += int((early >= 0).sum())
    tally.drifted += len(early) if trials.post else 0
    for drift, values in trials.post.items():
        late, _, _ = follow(bets, base, counts, codes(values))
        tally.delays[drift] += late[early < 0].tolist()


def learn_numeric(calibration: Floats) -> tuple[list[NumericBins], Bets]:
    """The numeric layout as for any feature, with the margin that the reference's size asks for."""
    cuts = [fit_numeric(column) for column in calibration]
    counts = np.array(
        [count_codes(bin_numeric(c, column), NUMERIC) for c, column in zip(cuts, calibration, strict=True)]
    )
    return cuts, make_bets(NUMERIC_TILTS, counts, effective_margins(0.0, counts, 1e-3, NUMERIC))


def learn_losses(calibration: Floats) -> tuple[list[NumericBins], Bets]:
    """The layout of losses, as for ``loss_tail`` of a deployment."""
    cuts, gamma = [], []
    for column in calibration:
        bins = fit_loss(column, np.zeros(len(column), np.int64), "age", 1)
        assert bins is not None, "ten thousand residuals have a tail"
        cuts.append(bins.at(0))
        gamma.append(loss_tempering(bin_numeric(bins.at(0), column)))
    return cuts, make_bets(LOSS_TILTS, np.tile(loss_counts(), (len(cuts), 1)), 0.0, np.array(gamma))


def tally_river(tally: Tally, name: str, trials: Trials, bar: float, limit: int) -> None:
    """Run one of river's detectors over some trials; those that take bits get whether a residual exceeds ``bar``."""
    as_bits = takes(name) in (BITS, UNIT)
    for trial in range(min(limit, len(trials.stable))):
        tally.trials += 1
        tally.drifted += 1
        for drift in DRIFTS:
            values = np.concatenate([trials.stable[trial], trials.post[drift][trial]])
            alarm = _first_signal(name, (values > bar).astype(np.float64) if as_bits else values)
            if 0 <= alarm < STABLE:
                tally.false += 1
                break
            tally.delays[drift].append(alarm - STABLE if alarm >= 0 else -1)


def _first_signal(name: str, values: Floats) -> int:
    detector = build_detector(DetectorSpec(name, "loss"))
    for index, value in enumerate(values.tolist()):
        detector.update(value)
        if detector.drift_detected:
            return index
    return -1


def measure(seed: int, quick: bool) -> list[Figure]:
    """Ours in two forms, and river's detectors, over the same trials."""
    rng = np.random.default_rng([seed, 1])
    trials, drifted = (200, 100) if quick else (3_000, 1_000)
    predict = train(rng)
    x = rng.random((CALIBRATION, 10), np.float32)
    bar = float(np.median((stable_concept(x) + rng.normal(size=CALIBRATION) - predict(x)) ** 2))
    ours = {BEST: learn_losses, "ours, bins of features": learn_numeric}
    tallies = {
        "never fires": Tally(drifted, 0, drifted, {drift: [-1] * drifted for drift in DRIFTS}),
        "always fires": Tally(drifted, drifted, drifted, {drift: [] for drift in DRIFTS}),
        **{name: Tally.empty() for name in (*ours, *DETECTORS)},
    }
    for chunk in draw(rng, predict, trials, drifted):
        for name, learn in ours.items():
            if chunk.post or name == BEST:
                tally_ours(tallies[name], chunk, learn)
        for name in DETECTORS if chunk.post else ():
            room = int(TRIALS_OF.get(name, 0.2) * drifted) - tallies[name].trials
            tally_river(tallies[name], name, chunk, bar, room)
    difference = largest_difference_from_river(POST)
    figures = [
        figure("FriedmanDrift: largest difference from river's functions", difference, "", at_most=1e-9),
        *_figures(tallies),
    ]
    _print(tallies, drifted)
    return figures


def _figures(tallies: dict[str, Tally]) -> list[Figure]:
    best, adwin = tallies[BEST], tallies["adwin"]
    figures = [
        figure(
            "FriedmanDrift: false alarms in the stable part, ours",
            best.false / best.trials,
            "share",
            at_most=FALSE_ALARMS,
            note=f"{best.false} of {best.trials:,} trials; exact upper limit (95 %) {best.false_limit():.4f}",
        ),
        figure(
            "FriedmanDrift: false alarms in the stable part, ADWIN",
            adwin.false / adwin.trials,
            "share",
            note=f"{adwin.false} of {adwin.trials:,} trials; published: 0.0087",
        ),
    ]
    for drift in DRIFTS:
        figures += [
            figure(
                f"FriedmanDrift: mean delay, {drift}, ours",
                best.mean_delay(drift),
                "samples",
                at_most=min(adwin.mean_delay(drift), PUBLISHED[drift]),
                note=f"± {best.half_width(drift):.1f}, found in {best.found(drift):.1%}; ADWIN in this run "
                f"{adwin.mean_delay(drift):.1f} ± {adwin.half_width(drift):.1f}, published {PUBLISHED[drift]}",
            ),
            figure(
                f"FriedmanDrift: drifts found, {drift}, ours",
                best.found(drift),
                "share",
                at_least=min(1.0, adwin.found(drift)),
                note=f"ADWIN in this run {adwin.found(drift):.3f}",
            ),
        ]
    return figures


def _print(tallies: dict[str, Tally], drifted: int) -> None:
    print_table(
        f"FriedmanDrift, squared residuals of a fixed network, {drifted:,} trials (KSWIN fewer, it is slow)",
        ("detector", "trials", "false alarms", "95 % limit", *(f"{d}: found, delay" for d in DRIFTS)),
        [
            *(
                (
                    name,
                    f"{tally.trials:,}",
                    f"{tally.false / tally.trials:.4f}",
                    f"{tally.false_limit():.4f}",
                    *(_cell(tally, drift) for drift in DRIFTS),
                )
                for name, tally in tallies.items()
            ),
            *((name, "10,000", f"{rate:.4f}", "", *found) for name, (rate, *found) in PAPER.items()),
        ],
    )


def _cell(tally: Tally, drift: str) -> str:
    if tally.found(drift) == 0:
        return "0 %"
    return f"{tally.found(drift):.1%}, {tally.mean_delay(drift):,.0f} ± {tally.half_width(drift):.0f}"
