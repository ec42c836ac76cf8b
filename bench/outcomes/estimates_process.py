"""Runs in ``.venv-peers``: NannyML's estimates of every chunk. Argument: a file of streams, see :mod:`.estimates`."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version

os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"

import numpy as np
import pandas as pd
from nannyml import CBPE, DLE  # type: ignore[import-not-found]  # installed in .venv-peers only


def cbpe(reference: pd.DataFrame, current: pd.DataFrame, chunk: int) -> dict[str, list[float]]:
    names = ["roc_auc", "accuracy", "f1"]
    estimator = CBPE(
        y_pred_proba="score",
        y_pred="label",
        y_true="actual",
        metrics=names,
        chunk_size=chunk,
        problem_type="classification_binary",
    )
    return _estimates(estimator, reference, current, names)


def dle(reference: pd.DataFrame, current: pd.DataFrame, chunk: int) -> dict[str, list[float]]:
    names = ["mae", "rmse"]
    columns = [name for name in reference if name not in ("prediction", "actual")]
    estimator = DLE(feature_column_names=columns, y_pred="prediction", y_true="actual", metrics=names, chunk_size=chunk)
    return _estimates(estimator, reference, current, names)


def _estimates(
    estimator: CBPE | DLE, reference: pd.DataFrame, current: pd.DataFrame, names: list[str]
) -> dict[str, list[float]]:
    estimator.fit(reference)
    frame = estimator.estimate(current).filter(period="analysis").to_df()
    return {name: [float(value) for value in frame[(name, "value")]] for name in names}


def main() -> None:
    arrays = np.load(sys.argv[1])
    streams: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for key in arrays:
        stream, part, column = key.split("/")
        streams.setdefault(stream, {}).setdefault(part, {})[column] = arrays[key]
    found = {}
    for stream, parts in streams.items():
        chunk = int(parts.pop("chunk")["rows"])
        reference, current = (pd.DataFrame(parts[part]) for part in ("reference", "current"))
        estimate = cbpe if "score" in reference else dle
        found[stream] = estimate(reference, current, chunk)
    print(json.dumps({"version": version("nannyml"), "streams": found}))


if __name__ == "__main__":
    main()
