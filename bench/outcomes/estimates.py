"""Estimates without labels against the truth, and NannyML's on the same chunks.

    python -m bench.outcomes.estimates [--seed 0] [--quick]

Streams of simulated rows; the truth is computed by scikit-learn from the raw rows of every chunk. Ours go the way of
production: score edges, calibration and sums of the reference, then sums of each chunk's predictions, nothing else.
NannyML's CBPE and DLE are fitted to the same reference and read the same rows, in a process of their own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, roc_auc_score, root_mean_squared_error
from sklearn.naive_bayes import GaussianNB

from bench.peers import PYTHON
from bench.report import Figure, figure, write
from streams.baseline import OutcomeReference
from streams.outcomes.reference import sums_by_age
from streams.outcomes.scores import learn_calibration, learn_score_edges
from streams.statistics.performance.estimation import estimate, expected_loss, fit_expected_loss, realised_error
from streams.statistics.performance.metrics import Metric
from streams.statistics.performance.pairs import BINARY, REGRESSION, Pairs, PerformanceLayout, Predicted
from streams.statistics.performance.sums import count_pairs, count_predictions, take_group

Floats = NDArray[np.float64]

REFERENCE_ROWS = 10_000
TRAINING_ROWS = 3_000
CHUNKS = {500: 20, 2_000: 10, 5_000: 6}
"""Numbers of chunks, by their size, in each stream."""

CLASSIFICATION, NUMBERS = ("roc_auc", "accuracy", "f1"), ("mae", "rmse")
FEATURES = 5
MODELS = ("logistic regression", "gradient boosting", "naive Bayes")
"""One that is nearly calibrated, one that is somewhat too sure, one that is much too sure."""


@dataclass(frozen=True)
class Stream:
    """A reference and what follows it, in chunks: columns by name.

    Of classification ``score``, ``label`` and ``actual``; of regression features, ``prediction`` and ``actual``.
    """

    kind: str
    chunk: int
    reference: Mapping[str, NDArray[np.float64]]
    current: Mapping[str, NDArray[np.float64]]

    def chunks(self) -> list[dict[str, NDArray[np.float64]]]:
        rows = len(self.current["actual"])
        return [
            {name: column[start : start + self.chunk] for name, column in self.current.items()}
            for start in range(0, rows, self.chunk)
        ]


# ---- streams ---------------------------------------------------------------------------------------------------------


def _features(rng: np.random.Generator, rows: int, shift: float = 0.0) -> Floats:
    """Correlated features, the first of them shifted."""
    common = rng.normal(size=(rows, 1))
    x = 0.5 * common + rng.normal(size=(rows, FEATURES))
    x[:, 0] += shift
    return x


def _truth(x: Floats, *, curved: bool, turned: bool = False) -> Floats:
    """Probability of the positive class; ``turned``: the second feature means the opposite."""
    sign = -1.0 if turned else 1.0
    logits = -0.7 + 0.9 * x[:, 0] + sign * 0.8 * x[:, 1] - 0.6 * x[:, 2]
    if curved:
        logits = logits + 0.5 * x[:, 3] * x[:, 0] + 0.4 * (x[:, 4] ** 2 - 1)
    return np.asarray(expit(logits))


def classification(
    seed: int, model: str, chunk: int, chunks: int, *, curved: bool = True, shift: float = 0.0, turned: bool = False
) -> Stream:
    """A model trained on its own rows, a reference of other rows, and chunks that may be of shifted inputs, or of a
    changed relation.
    """
    rng = np.random.default_rng([seed, chunk, MODELS.index(model), round(shift * 100) + 1_000, turned])
    fitted = {
        "logistic regression": lambda: LogisticRegression(),
        "gradient boosting": lambda: HistGradientBoostingClassifier(max_iter=60, random_state=0),
        "naive Bayes": lambda: GaussianNB(),
    }[model]()
    x = _features(rng, TRAINING_ROWS)
    fitted.fit(x, rng.random(len(x)) < _truth(x, curved=curved))

    def rows(x: Floats, truth: Floats) -> dict[str, Floats]:
        score = fitted.predict_proba(x)[:, 1]
        actual = rng.random(len(x)) < truth
        return {"score": score, "label": (score >= 0.5).astype(float), "actual": actual.astype(float)}

    x = _features(rng, REFERENCE_ROWS)
    reference = rows(x, _truth(x, curved=curved))
    x = _features(rng, chunk * chunks, shift)
    return Stream(model, chunk, reference, rows(x, _truth(x, curved=curved, turned=turned)))


def regression(seed: int, chunk: int, chunks: int) -> Stream:
    """A linear model of a slightly curved truth whose noise depends on a feature."""
    rng = np.random.default_rng([seed, chunk])

    def draw(rows: int) -> tuple[Floats, Floats]:
        x = _features(rng, rows)
        mean = x[:, 0] - 0.5 * x[:, 1] + 0.3 * x[:, 2] ** 2
        return x, mean + rng.normal(size=rows) * np.exp(0.4 * x[:, 3])

    fitted = LinearRegression().fit(*draw(TRAINING_ROWS))

    def rows(number: int) -> dict[str, Floats]:
        x, actual = draw(number)
        columns = {f"x{at}": x[:, at] for at in range(FEATURES)}
        return {"prediction": fitted.predict(x), **columns, "actual": actual}

    return Stream("linear regression", chunk, rows(REFERENCE_ROWS), rows(chunk * chunks))


# ---- estimates and truth ---------------------------------------------------------------------------------------------


def _pairs(predicted: Predicted, actual: Floats) -> Pairs:
    zeros = np.zeros(len(actual), np.int64)
    return Pairs(predicted, actual, zeros, zeros, np.ones(len(actual)), zeros.astype(np.uint8), np.zeros(len(actual)))


def _predicted(rows: Mapping[str, Floats]) -> Predicted:
    if "score" in rows:
        return Predicted(rows["score"][:, None], rows["label"].astype(np.int64))
    n = len(rows["prediction"])
    scores = np.full((n, 3), np.nan)
    scores[:, 0] = rows["prediction"]
    return Predicted(scores, np.full(n, -1))


def ours(stream: Stream) -> list[dict[str, Metric]]:
    """Our estimates of every chunk, from sums alone."""
    predicted, actual = _predicted(stream.reference), stream.reference["actual"]
    pairs = _pairs(predicted, actual)
    columns = [name for name in stream.reference if name != "actual"]
    model: dict[str, Floats] = {}
    calibration = np.zeros(0)
    if "score" in stream.reference:
        layout = PerformanceLayout(BINARY, ("0", "1"))
        layout = PerformanceLayout(BINARY, ("0", "1"), learn_score_edges(layout, predicted))
        calibration = learn_calibration(layout, pairs)
    else:
        layout = PerformanceLayout(REGRESSION)
        values = np.stack([stream.reference[name] for name in columns])
        model = fit_expected_loss(values, columns, stream.reference["prediction"] - actual)
    counts, sums = sums_by_age(count_pairs(layout, pairs, np.zeros(pairs.rows, np.int64), 1))
    nothing = np.zeros(0)
    reference = OutcomeReference(
        1, pairs.rows, pairs.rows, np.zeros(0, np.int64), 0, layout.classes, layout.score_edges, nothing, calibration,
        model, counts, sums,
    )  # fmt: skip
    found = []
    for rows in stream.chunks():
        expected = expected_loss(model, np.stack([rows[name] for name in columns])) if model else None
        group = np.zeros(len(rows["actual"]), np.int64)
        counted = count_predictions(layout, _predicted(rows), group, 1, expected=expected)
        found.append(estimate(layout, reference, take_group(counted, 0)))
    return found


def truth(stream: Stream) -> list[dict[str, Metric]]:
    """What outcomes show of every chunk, by scikit-learn."""
    found = []
    for rows in stream.chunks():
        actual = rows["actual"]
        if "score" in rows:
            values = {
                "roc_auc": roc_auc_score(actual, rows["score"]),
                "accuracy": accuracy_score(actual, rows["label"]),
                "f1": f1_score(actual, rows["label"]),
            }
        else:
            values = {
                "mae": mean_absolute_error(actual, rows["prediction"]),
                "rmse": root_mean_squared_error(actual, rows["prediction"]),
            }
        found.append({name: Metric(float(value), None, None, len(actual)) for name, value in values.items()})
    return found


def nannyml(streams: Sequence[Stream]) -> tuple[str, list[dict[str, list[float]]]] | str:
    """NannyML's version and its estimates, per stream by metric; or why there are none."""
    if not PYTHON.exists():
        return f"{PYTHON} is missing, 'make bench' installs it"
    with tempfile.TemporaryDirectory(prefix="driftline-bench-estimates-") as directory:
        path = Path(directory) / "streams.npz"
        arrays = {}
        for at, stream in enumerate(streams):
            for part, columns in (("reference", stream.reference), ("current", stream.current)):
                arrays |= {f"{at}/{part}/{name}": column for name, column in columns.items()}
            arrays[f"{at}/chunk/rows"] = np.array(stream.chunk)
        np.savez(path, **arrays)
        program = Path(__file__).with_name("estimates_process.py")
        command = [str(PYTHON), "-W", "ignore", str(program), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    found = json.loads(done.stdout.splitlines()[-1])
    return found["version"], [found["streams"][str(at)] for at in range(len(streams))]


# ---- figures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """Estimates less truth of all chunks of some streams, by metric; ``peer`` empty where NannyML is not there.

    ``stream``: the place of each chunk's stream among ``streams``, int64[n].
    """

    ours: Mapping[str, Floats]
    peer: Mapping[str, Floats]
    inside: Mapping[str, float]
    true: Mapping[str, Floats]
    stream: NDArray[np.int64]
    streams: Sequence[Stream]

    def ratio(self, name: str, streams: NDArray[np.int64] | None = None) -> float:
        """Our mean absolute error over NannyML's, of some streams, each as often as it is named, or of all."""
        of_streams = np.arange(len(self.streams)) if streams is None else streams
        weights = np.bincount(of_streams, minlength=len(self.streams))[self.stream]
        return float(np.abs(self.ours[name]) @ weights / (np.abs(self.peer[name]) @ weights))

    def interval(self, name: str) -> tuple[float, float]:
        """95 % interval of the ratio over all streams, which are drawn again (percentile bootstrap, Efron 1979)."""
        rng, number = np.random.default_rng(0), len(self.streams)
        drawn = [self.ratio(name, rng.integers(0, number, number)) for _ in range(1_000)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        return float(low), float(high)

    def cases(self) -> dict[str, NDArray[np.int64]]:
        """Streams by what they are of and by the size of their chunks."""
        found: dict[str, list[int]] = {}
        for at, stream in enumerate(self.streams):
            found.setdefault(f"{stream.kind}, chunks of {stream.chunk:,}", []).append(at)
        return {case: np.array(streams) for case, streams in found.items()}


def compare(streams: Sequence[Stream], peer: Sequence[Mapping[str, Sequence[float]]] | None) -> Compared:
    differences: dict[str, list[float]] = {}
    theirs: dict[str, list[float]] = {}
    inside: dict[str, list[bool]] = {}
    true: dict[str, list[float]] = {}
    of_stream: list[int] = []
    for at, stream in enumerate(streams):
        real = truth(stream)
        for place, (estimated, realised) in enumerate(zip(ours(stream), real, strict=True)):
            of_stream.append(at)
            for name, error in realised_error(estimated, realised).items():
                value = realised[name].value or 0.0
                differences.setdefault(name, []).append(error.difference)
                inside.setdefault(name, []).append(error.inside)
                true.setdefault(name, []).append(value)
                if peer is not None:
                    theirs.setdefault(name, []).append(peer[at][name][place] - value)
    return Compared(
        {name: np.array(values) for name, values in differences.items()},
        {name: np.array(values) for name, values in theirs.items()},
        {name: float(np.mean(values)) for name, values in inside.items()},
        {name: np.array(values) for name, values in true.items()},
        np.array(of_stream),
        streams,
    )


def measure(seed: int = 0, quick: bool = False) -> list[Figure]:
    """Figures of all kinds of streams."""
    seeds = range(seed, seed + (2 if quick else 5))
    kinds: dict[str, list[Stream]] = {
        "stable": [
            classification(each, model, chunk, chunks)
            for each in seeds
            for model in MODELS
            for chunk, chunks in CHUNKS.items()
        ],
        "inputs shifted": [
            classification(each, MODELS[0], 2_000, 10, curved=False, shift=shift)
            for each in seeds
            for shift in (-1.5, 1.5)
        ],
        "relation changed": [classification(each, MODELS[0], 2_000, 10, curved=False, turned=True) for each in seeds],
        "numbers": [regression(each, chunk, chunks) for each in seeds for chunk, chunks in CHUNKS.items()],
    }
    found = nannyml([stream for streams in kinds.values() for stream in streams])
    version, estimates = found if isinstance(found, tuple) else ("", None)
    figures: list[Figure] = []
    if isinstance(found, str):
        figures.append(figure("NannyML", 0, "", note=f"not measured: {found}"))
    compared, start = {}, 0
    for kind, streams in kinds.items():
        part = None if estimates is None else estimates[start : start + len(streams)]
        compared[kind] = compare(streams, part)
        start += len(streams)
    figures += _followed("stable", compared["stable"], CLASSIFICATION, version, bounded=True)
    figures += _followed("numbers", compared["numbers"], NUMBERS, version, bounded=False)
    figures += _followed("inputs shifted", compared["inputs shifted"], CLASSIFICATION, version, bounded=False)
    return figures + _missed(compared["relation changed"], version)


def _followed(kind: str, found: Compared, names: Sequence[str], version: str, *, bounded: bool) -> list[Figure]:
    """Where estimates should be right: mean absolute differences, and how often the truth is in the interval."""
    figures = []
    for name in names:
        mean = float(np.abs(found.ours[name]).mean())
        note = (
            f"{len(found.ours[name])} chunks, truth from {found.true[name].min():.3f} to {found.true[name].max():.3f}"
        )
        figures.append(figure(f"{kind}: |estimated - realised| {name}", mean, "", note=note))
        if name in found.peer:
            theirs = float(np.abs(found.peer[name]).mean())
            low, high = found.interval(name)
            cases = {case: found.ratio(name, streams) for case, streams in found.cases().items()}
            worst = max(cases, key=lambda case: cases[case])
            figures.append(
                figure(
                    f"{kind}: the same, over NannyML's, {name}",
                    found.ratio(name),
                    "times",
                    at_most=1.0 if bounded else None,
                    note=f"NannyML {version}: {theirs:.4g}; 95 % interval {low:.3f} to {high:.3f}; "
                    f"worst of {len(cases)} cases {cases[worst]:.3f}: {worst}",
                )
            )
            if bounded:
                figures += [
                    figure(f"{kind}: {name} over NannyML's, {case}", ratio, "times") for case, ratio in cases.items()
                ]
        figures.append(figure(f"{kind}: truth in the interval, {name}", found.inside[name], "share", at_least=0.9))
    return figures


def _missed(found: Compared, version: str) -> list[Figure]:
    """Where no estimate can be right: it must stand out once outcomes are there."""
    figures = []
    for name in ("roc_auc", "accuracy"):
        note = "no estimate can see it; outcomes must"
        if name in found.peer:
            note = f"NannyML {version}: {float(found.peer[name].mean()):.4g}; {note}"
        kind = "relation changed: "
        figures.append(figure(f"{kind}estimated - realised {name}", float(found.ours[name].mean()), "", note=note))
        figures.append(
            figure(f"{kind}truth outside the interval, {name}", 1 - found.inside[name], "share", at_least=0.9)
        )
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.outcomes.estimates", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="the first seed of everything that is simulated")
    parser.add_argument("--quick", action="store_true", help="fewer seeds")
    options = parser.parse_args(arguments)
    write("estimates", measure(options.seed, options.quick))


if __name__ == "__main__":
    main()
