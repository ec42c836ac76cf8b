"""Many integers, most of them zero, as few bytes.

Integers that are not zero are written as the number of zeros before and the value, both as variable-length integers of
seven bits a byte, least significant first (LEB128; DWARF 5, section 7.6), values zigzag coded (0, -1, 1, -2, … as 0, 1,
2, 3, …). Values beyond 62 bits follow: their positions and lengths, and their bytes in two's complement, least
significant first. Sparse histograms take two to three bytes for each bin in use.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Unsigned = NDArray[np.uint64]

_SMALL = 1 << 62
_BYTE_LIMITS = np.array([1 << (7 * k) for k in range(1, 10)], np.uint64)
"""The first numbers that take 2, 3, … 10 bytes."""
_HEADER = 3


def pack_integers(values: Sequence[int]) -> bytes:
    """Integers of any size as bytes."""
    large = [(at, value) for at, value in enumerate(values) if not -_SMALL <= value < _SMALL]
    small = list(values)
    for at, _ in large:
        small[at] = 0
    array = np.array(small, np.int64)
    used = np.flatnonzero(array)
    chosen = array[used]
    entries = np.empty((len(used), 2), np.uint64)
    entries[:, 0] = np.diff(used, prepend=-1) - 1
    entries[:, 1] = ((chosen << 1) ^ (chosen >> 63)).view(np.uint64)
    lengths = [value.bit_length() // 8 + 1 for _, value in large]
    places = [number for (at, _), length in zip(large, lengths, strict=True) for number in (at, length)]
    header = np.array([len(values), len(used), len(large)], np.uint64)
    numbers = np.concatenate((header, entries.ravel(), np.array(places, np.uint64)))
    tail = b"".join(
        value.to_bytes(length, "little", signed=True) for (_, value), length in zip(large, lengths, strict=True)
    )
    return _varints(numbers) + tail


def unpack_integers(data: bytes, count: int) -> list[int]:
    """What :func:`pack_integers` packed. Raises ``ValueError`` unless these are exactly ``count`` integers."""
    header, start = _read_varints(data, 0, _HEADER)
    if int(header[0]) != count:
        raise ValueError(f"expected {count} packed integers, got {header[0]}; were they packed with another layout?")
    used, large = int(header[1]), int(header[2])
    if used > count or large > count:
        raise ValueError(f"expected at most {count} packed integers that are not zero, got {used} and {large}")
    entries, start = _read_varints(data, start, 2 * used)
    places, start = _read_varints(data, start, 2 * large)
    array = np.zeros(count, np.int64)
    at = np.cumsum(entries[::2].astype(np.int64) + 1) - 1
    if used and not 0 <= at.min() <= at.max() < count:
        raise ValueError(f"expected packed integers at positions below {count}, got {at.max()}; the bytes are damaged")
    coded = entries[1::2]
    array[at] = (coded >> np.uint64(1)).astype(np.int64) ^ -(coded & np.uint64(1)).astype(np.int64)
    values: list[int] = array.tolist()
    for position, length in places.reshape(-1, 2).tolist():
        if position >= count:
            raise ValueError(
                f"expected packed integers at positions below {count}, got {position}; the bytes are damaged"
            )
        values[position] = int.from_bytes(data[start : start + length], "little", signed=True)
        start += length
    if start != len(data):
        raise ValueError(f"expected {start} bytes of packed integers, got {len(data)}; they are cut off or damaged")
    return values


def _varints(numbers: Unsigned) -> bytes:
    lengths = _BYTE_LIMITS.searchsorted(numbers, "right") + 1
    starts = np.cumsum(lengths) - lengths
    data = np.empty(int(lengths.sum()), np.uint8)
    for k in range(int(lengths.max(initial=0))):
        has = lengths > k
        more = (lengths[has] > k + 1).astype(np.uint8) << 7
        data[starts[has] + k] = ((numbers[has] >> np.uint64(7 * k)) & np.uint64(0x7F)).astype(np.uint8) | more
    return data.tobytes()


def _read_varints(data: bytes, start: int, count: int) -> tuple[Unsigned, int]:
    """So many numbers from position ``start`` on, and where the next begins."""
    if not count:
        return np.zeros(0, np.uint64), start
    raw = np.frombuffer(data, np.uint8)[start : start + 10 * count]
    ends = np.flatnonzero(raw < 0x80)[:count]
    if len(ends) < count:
        raise ValueError(f"expected {count} packed integers, got {len(ends)}; the bytes are cut off or damaged")
    raw = raw[: ends[-1] + 1]
    starts = np.concatenate(([0], ends[:-1] + 1))
    if int((ends - starts).max()) > 9:
        raise ValueError("expected packed integers of at most ten bytes; the bytes are damaged")
    shifts = (np.arange(len(raw)) - np.repeat(starts, ends - starts + 1)) * 7
    bits = (raw & np.uint8(0x7F)).astype(np.uint64) << shifts.astype(np.uint64)
    return np.asarray(np.bitwise_or.reduceat(bits, starts)), start + len(raw)
