"""Columns of embeddings: lists in Parquet and JSON lines, and in text lists as JSON writes them (``[0.1, 0.2]``).

Missing are nothing, the words that are missing everywhere, and vectors with NaN, infinity or null in them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from driftline.columns import vector
from driftline.errors import EventError
from driftline.events import MAX_DIMENSION, Vectors
from services.publish.convert import MISSING, Converted, all_bad, decoded, is_number
from services.publish.errors import shown
from services.publish.files import Column


def to_vectors(column: Column) -> Converted[Vectors | None]:
    """float32 vectors, shape ``(rows, dimension)``, NaN where they are missing; None where all are.

    The dimension is that of most rows, the first of those where two are as frequent; a row of another one is bad.
    """
    if isinstance(column, list):
        return _listed(column)
    column = decoded(column)
    if _is_list(column.type) and is_number(column.type.value_type):
        return _packed(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_null(column.type):
        return _listed(column.to_pylist())
    return all_bad(column, "a list of numbers", None)


def _packed(column: Any) -> Converted[Vectors | None]:
    lengths = pc.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    dimension, bad = _dimension(lengths)
    if dimension is None:
        return Converted(None, bad)
    components = pc.cast(pc.list_flatten(column), pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    fits = lengths == dimension
    kept = components[np.repeat(fits, np.maximum(lengths, 0))]
    return Converted(_filled(kept.reshape(-1, dimension), fits), bad)


def _listed(values: list[Any]) -> Converted[Vectors | None]:
    found: dict[int, Vectors] = {}
    unreadable: dict[int, str] = {}
    lengths = np.full(len(values), -1, dtype=np.int64)
    for row, value in enumerate(values):
        try:
            listed = _list(value)
            lengths[row] = -1 if listed is None else len(listed)
            if listed is not None and 1 <= len(listed) <= MAX_DIMENSION:
                found[row] = vector(listed, "the list")
        except (ValueError, EventError) as error:
            lengths[row] = -1
            unreadable[row] = str(error)
    dimension, bad = _dimension(lengths)
    bad |= unreadable
    if dimension is None:
        return Converted(None, bad)
    fits = lengths == dimension
    return Converted(_filled(np.stack([found[row] for row in np.flatnonzero(fits).tolist()]), fits), bad)


def _list(value: Any) -> list[Any] | None:
    if isinstance(value, str):
        if value.strip() in MISSING:
            return None
        try:
            document = orjson.loads(value)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, list):
            raise ValueError(f"expected a list of numbers such as [0.1, 0.2], came {shown(value)}")
        value = document
    if value is None or isinstance(value, list):
        return value
    raise ValueError(f"expected a list of numbers, came {shown(value)}")


def _dimension(lengths: NDArray[np.int64]) -> tuple[int | None, dict[int, str]]:
    """The dimension of most vectors (length -1 is none), and what is wrong with the others."""
    possible = (lengths > 0) & (lengths <= MAX_DIMENSION)
    bad = {
        row: f"a vector has 1 to {MAX_DIMENSION} numbers, came {lengths[row]}"
        for row in np.flatnonzero(~possible & (lengths >= 0)).tolist()
    }
    if not possible.any():
        return None, bad
    sizes, first, counts = np.unique(lengths[possible], return_index=True, return_counts=True)
    dimension = int(sizes[np.lexsort((first, -counts))[0]])
    return dimension, bad | {
        row: f"expected a vector of {dimension} numbers like most rows here, came {lengths[row]}"
        for row in np.flatnonzero(possible & (lengths != dimension)).tolist()
    }


def _filled(vectors: NDArray[Any], rows: NDArray[np.bool_]) -> Vectors:
    """The vectors in their rows, NaN in the others; what float32 cannot hold is infinite."""
    result = np.full((len(rows), vectors.shape[1]), np.nan, dtype=np.float32)
    with np.errstate(over="ignore"):
        result[rows] = vectors
    return result


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
