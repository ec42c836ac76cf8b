"""An Avro array of texts of one length, read at once.

fastavro reads an array text by text, which for a batch's prediction ids takes as long as everything behind them. Most
ids are of one length (UUIDs, numbers with leading zeros): then the lengths between them can be made separators, and
one split reads all. Measured, 500 UUIDs: 20 µs instead of 120.
"""

from __future__ import annotations

_SEPARATOR = b"\n"

_LONGEST = 63
"""Up to this length the length is one byte (Avro specification, "Primitive types": zig-zag, seven bits to a byte)."""


def texts_of_one_length(data: bytes, start: int) -> tuple[list[str], int] | None:
    """Read an array of ASCII texts that have the same length, written as one block.

    Args:
        data: Avro's binary encoding.
        start: Where the array begins.

    Returns:
        The texts, and where the array ends; None if it is not such an array, whether it is another or none at all.
    """
    count, first = _positive_long(data, start)
    if not 0 < count <= len(data) - first:
        return None
    twice = data[first]
    step = twice // 2 + 1
    end = first + count * step
    if twice % 2 or not 0 < twice <= 2 * _LONGEST or end >= len(data) or data[end] != 0:
        return None
    if data[first:end:step].count(twice) != count:
        return None
    block = bytearray(data[first:end])
    block[::step] = _SEPARATOR * count
    try:
        texts = block.decode("ascii").split(_SEPARATOR.decode())[1:]
    except UnicodeDecodeError:
        return None
    return (texts, end + 1) if len(texts) == count else None  # more if a text has the separator in it


def _positive_long(data: bytes, at: int) -> tuple[int, int]:
    """A long of up to four bytes and where it ends; 0 if it is negative, longer or not whole."""
    value = 0
    for number, byte in enumerate(data[at : at + 4]):
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return (0 if value & 1 else value >> 1), at + number + 1
    return 0, at
