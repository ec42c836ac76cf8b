"""The tree against the published vectors and against a slow implementation that follows the RFC's recursion."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.governance.errors import MerkleError
from services.governance.merkle import (
    EMPTY_ROOT,
    CompactRange,
    MerkleTree,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)

# The inputs, roots and proofs that Certificate Transparency's implementations share.
INPUTS = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = [
    (0, 1, []),
    (
        0,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        5,
        8,
        [
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (
        1,
        5,
        [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]
CONSISTENCY = [
    (1, 1, []),
    (
        1,
        8,
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ],
    ),
    (
        6,
        8,
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ],
    ),
    (
        2,
        5,
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ],
    ),
]


# A second implementation: RFC 6962, section 2.1, word for word.


def slow_split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def slow_root(entries: list[bytes]) -> bytes:
    if not entries:
        return sha256(b"").digest()
    if len(entries) == 1:
        return sha256(b"\x00" + entries[0]).digest()
    k = slow_split(len(entries))
    return sha256(b"\x01" + slow_root(entries[:k]) + slow_root(entries[k:])).digest()


def slow_path(m: int, entries: list[bytes]) -> list[bytes]:
    if len(entries) == 1:
        return []
    k = slow_split(len(entries))
    if m < k:
        return [*slow_path(m, entries[:k]), slow_root(entries[k:])]
    return [*slow_path(m - k, entries[k:]), slow_root(entries[:k])]


def slow_subproof(m: int, entries: list[bytes], whole: bool) -> list[bytes]:
    n = len(entries)
    if m == n:
        return [] if whole else [slow_root(entries)]
    k = slow_split(n)
    if m <= k:
        return [*slow_subproof(m, entries[:k], whole), slow_root(entries[k:])]
    return [*slow_subproof(m - k, entries[k:], False), slow_root(entries[:k])]


def tree_of(entries: list[bytes]) -> MerkleTree:
    return MerkleTree(map(leaf_hash, entries))


def compact_of(entries: list[bytes]) -> CompactRange:
    tree = CompactRange()
    tree.extend(map(leaf_hash, entries))
    return tree


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size: int) -> None:
    assert compact_of(INPUTS[:size]).root().hex() == ROOTS[size]
    assert tree_of(INPUTS).root(size).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_inclusion_proofs_are_the_published_ones(index: int, size: int, proof: list[str]) -> None:
    assert [h.hex() for h in tree_of(INPUTS).inclusion_proof(index, size)] == proof
    nodes = [bytes.fromhex(h) for h in proof]
    assert verify_inclusion(leaf_hash(INPUTS[index]), index, size, nodes, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("first", "second", "proof"), CONSISTENCY)
def test_consistency_proofs_are_the_published_ones(first: int, second: int, proof: list[str]) -> None:
    assert [h.hex() for h in tree_of(INPUTS).consistency_proof(first, second)] == proof
    nodes = [bytes.fromhex(h) for h in proof]
    roots = bytes.fromhex(ROOTS[first]), bytes.fromhex(ROOTS[second])
    assert verify_consistency(first, second, nodes, *roots)


entries_lists = st.lists(st.binary(max_size=8), min_size=1, max_size=70)


@given(st.lists(st.binary(max_size=8), max_size=70), st.integers(0, 70))
def test_growing_in_two_steps_through_stored_state_gives_the_slow_root(entries: list[bytes], cut: int) -> None:
    first = compact_of(entries[:cut])
    resumed = CompactRange.from_bytes(first.size, first.to_bytes())
    resumed.extend(map(leaf_hash, entries[cut:]))
    assert resumed.root() == slow_root(entries) == tree_of(entries).root()
    assert resumed.size == len(entries)


@given(entries_lists, st.data())
def test_inclusion_proofs_equal_the_slow_ones_and_verify(entries: list[bytes], data: Any) -> None:
    size = data.draw(st.integers(1, len(entries)))
    index = data.draw(st.integers(0, size - 1))
    proof = tree_of(entries).inclusion_proof(index, size)
    assert proof == slow_path(index, entries[:size])
    assert verify_inclusion(leaf_hash(entries[index]), index, size, proof, slow_root(entries[:size]))


@given(entries_lists, st.data())
def test_consistency_proofs_equal_the_slow_ones_and_verify(entries: list[bytes], data: Any) -> None:
    second = data.draw(st.integers(1, len(entries)))
    first = data.draw(st.integers(1, second))
    proof = tree_of(entries).consistency_proof(first, second)
    assert proof == slow_subproof(first, entries[:second], True)
    roots = slow_root(entries[:first]), slow_root(entries[:second])
    assert verify_consistency(first, second, proof, *roots)


def mutated(data: Any, proof: list[bytes]) -> list[bytes]:
    """The proof with a bit flipped, a node dropped, doubled or added."""
    kind = data.draw(st.sampled_from(["flip", "drop", "double", "append", "prepend"] if proof else ["append"]))
    nodes = list(proof)
    if kind == "append":
        return [*nodes, data.draw(st.binary(min_size=32, max_size=32))]
    if kind == "prepend":
        return [data.draw(st.binary(min_size=32, max_size=32)), *nodes]
    at = data.draw(st.integers(0, len(nodes) - 1))
    if kind == "drop":
        del nodes[at]
    elif kind == "double":
        nodes.insert(at, nodes[at])
    else:
        bit = data.draw(st.integers(0, 255))
        nodes[at] = (int.from_bytes(nodes[at], "big") ^ (1 << bit)).to_bytes(32, "big")
    return nodes


@given(entries_lists, st.data())
def test_a_mutated_inclusion_proof_is_refused(entries: list[bytes], data: Any) -> None:
    index = data.draw(st.integers(0, len(entries) - 1))
    proof, root, leaf = tree_of(entries).inclusion_proof(index), slow_root(entries), leaf_hash(entries[index])
    size = len(entries)
    assert not verify_inclusion(leaf, index, size, mutated(data, proof), root)
    assert not verify_inclusion(leaf_hash(entries[index] + b"x"), index, size, proof, root)
    assert not verify_inclusion(leaf, size, size, proof, root)
    assert not verify_inclusion(leaf, -1, size, proof, root)


@given(st.lists(st.binary(max_size=8), min_size=2, max_size=70), st.data())
def test_a_mutated_consistency_proof_is_refused(entries: list[bytes], data: Any) -> None:
    second = len(entries)
    first = data.draw(st.integers(1, second - 1))
    proof = tree_of(entries).consistency_proof(first)
    old, new = slow_root(entries[:first]), slow_root(entries)
    other = sha256(b"other").digest()
    assert not verify_consistency(first, second, mutated(data, proof), old, new)
    assert not verify_consistency(first, second, proof, other, new)
    assert not verify_consistency(first, second, proof, old, other)
    assert not verify_consistency(second, first, proof, new, old)


def test_the_empty_tree_is_extended_by_every_tree_with_an_empty_proof_only() -> None:
    root = slow_root(INPUTS)
    assert verify_consistency(0, 8, [], EMPTY_ROOT, root)
    assert not verify_consistency(0, 8, [], root, root)
    assert not verify_consistency(0, 8, [root], EMPTY_ROOT, root)
    assert not verify_consistency(0, 0, [], EMPTY_ROOT, root)
    assert not verify_consistency(3, 3, [root], root, root)


def test_what_cannot_be_is_refused() -> None:
    tree = tree_of(INPUTS)
    for ask in (
        lambda: tree.root(9),
        lambda: tree.inclusion_proof(8),
        lambda: tree.inclusion_proof(3, 3),
        lambda: tree.consistency_proof(0),
        lambda: tree.consistency_proof(5, 4),
        lambda: CompactRange.from_bytes(3, b"\x00" * 32),
        lambda: CompactRange.from_bytes(-1, b""),
    ):
        with pytest.raises(MerkleError):
            ask()


def test_a_copy_grows_on_its_own() -> None:
    tree = compact_of(INPUTS[:3])
    twin = tree.copy()
    twin.append(leaf_hash(INPUTS[3]))
    assert tree.root().hex() == ROOTS[3]
    assert twin.root().hex() == ROOTS[4]
