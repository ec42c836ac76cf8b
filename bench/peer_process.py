"""Runs in ``.venv-peers``: rows per second of one peer. Arguments: its name, a file of rows, sizes of DataFrames."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import pandas as pd

SECONDS = 4.0


def whylogs(_reference: pd.DataFrame) -> Callable[[pd.DataFrame], object]:
    os.environ["WHYLOGS_NO_ANALYTICS"] = "True"
    import whylogs as why  # type: ignore[import-not-found]  # installed in .venv-peers only

    return lambda current: why.log(pandas=current).view()


def evidently(reference: pd.DataFrame) -> Callable[[pd.DataFrame], object]:
    os.environ["DO_NOT_TRACK"] = "1"
    from evidently import Report  # type: ignore[import-not-found]  # installed in .venv-peers only
    from evidently.presets import DataDriftPreset  # type: ignore[import-not-found]  # installed in .venv-peers only

    return lambda current: Report([DataDriftPreset()]).run(current, reference).dict()


def main() -> None:
    name, path, *sizes = sys.argv[1:]
    arrays = np.load(path)
    frames = {
        part: pd.DataFrame({key.partition("/")[2]: arrays[key] for key in arrays if key.startswith(part)})
        for part in ("reference", "current")
    }
    profile = {"whylogs": whylogs, "evidently": evidently}[name](frames["reference"])
    found: dict[str, object] = {"version": version(name)}
    for size in map(int, sizes):
        batch = frames["current"].iloc[:size].reset_index(drop=True)
        profile(batch)
        rows, begin, cpu = 0, time.monotonic(), time.process_time()
        while time.monotonic() - begin < SECONDS:
            profile(batch)
            rows += size
        seconds, cpu_seconds = time.monotonic() - begin, time.process_time() - cpu
        found[str(size)] = {"rows_per_second": rows / seconds, "rows_per_cpu_second": rows / cpu_seconds}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
