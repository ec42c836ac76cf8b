"""Keys of ids: the same for the same id, different for different ones, and evenly spread."""

from __future__ import annotations

import uuid
from hashlib import blake2b

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.outcomes.keys import id_keys, spread

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15

uuids = st.uuids(version=None).map(str)
odd = st.sampled_from(
    [
        "",
        "p1",
        "0" * 36,
        "-" * 36,
        "é" * 36,
        "\ud800" * 36,
        "00000000-0000-0000-0000-00000000000g",
        "00000000-0000-0000-0000-00000000000A",
        "00000000-0000-0000-0000-00000000000\x00",
        "000000000-000-0000-0000-000000000000",
        "{0000000-0000-0000-0000-00000000000}",
    ]
)
ids_of_all_kinds = st.lists(st.one_of(uuids, uuids.map(str.upper), odd, st.text(max_size=40)), max_size=20)


def mixed(bits: int) -> int:
    bits = (bits + GOLDEN) & MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def key_of(text: str) -> tuple[int, int]:
    """One id's key, by another way."""
    try:
        is_uuid = str(uuid.UUID(text)) == text
    except ValueError:
        is_uuid = False
    if not is_uuid:
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    number = uuid.UUID(text).int
    high, low = number >> 64, number & MASK
    low ^= mixed(high)
    high ^= mixed(low)
    return high, low ^ mixed(high)


@settings(max_examples=300, deadline=None)
@given(ids_of_all_kinds)
def test_an_ids_key_does_not_depend_on_the_ids_beside_it(ids: list[str]) -> None:
    keys = id_keys(ids)
    assert keys.shape == (len(ids), 2) and keys.dtype == np.uint64
    assert [(int(high), int(low)) for high, low in keys] == [key_of(text) for text in ids]


def test_spreading_can_be_undone() -> None:
    numbers = np.random.default_rng(0).integers(0, 2**64, (1_000, 2), np.uint64)
    for high, low, given_high, given_low in np.concatenate([spread(numbers), numbers], axis=1).tolist():
        middle = low ^ mixed(high)
        first = high ^ mixed(middle)
        assert (first, middle ^ mixed(first)) == (given_high, given_low)


def test_ids_that_count_or_hold_a_time_are_spread_evenly() -> None:
    numbers = np.arange(20_000, dtype=np.uint64)
    for shift in (0, 16, 48):
        for half in (0, 1):
            given_numbers = np.zeros((len(numbers), 2), np.uint64)
            given_numbers[:, half] = numbers << np.uint64(shift)
            keys = spread(given_numbers)
            for column in keys.T:
                cells = np.bincount((column >> np.uint64(58)).astype(np.int64), minlength=64)
                expected = len(numbers) / 64
                assert ((cells - expected) ** 2 / expected).sum() < 63 + 6 * np.sqrt(2 * 63)
                assert abs((column & np.uint64(1)).mean() - 0.5) < 6 / np.sqrt(4 * len(numbers))
