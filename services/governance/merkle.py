"""The Merkle tree of RFC 6962, section 2: hashes, growth, proofs and their verification.

Two shapes of the same tree: :class:`CompactRange` knows only what it takes to go on growing (one hash per bit of the
size), :class:`MerkleTree` keeps every node and answers proofs in logarithmic time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

from services.governance.errors import MerkleError

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """Hash of one entry (RFC 6962, 2.1: ``SHA-256(0x00 || entry)``)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node (RFC 6962, 2.1: ``SHA-256(0x01 || left || right)``)."""
    return sha256(b"\x01" + left + right).digest()


def _join(hashes: Sequence[bytes]) -> bytes:
    """Root over perfect subtrees of falling size, left to right."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


class CompactRange:
    """A tree reduced to its right edge: appending and the root, in memory that grows with ``log2(size)``."""

    __slots__ = ("_hashes", "_size")

    def __init__(self) -> None:
        self._size = 0
        self._hashes: list[bytes] = []  # roots of the perfect subtrees, largest first

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        size, hashes = self._size, self._hashes
        while size & 1:
            leaf = node_hash(hashes.pop(), leaf)
            size >>= 1
        hashes.append(leaf)
        self._size += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaf hashes in order."""
        for leaf in leaves:
            self.append(leaf)

    def root(self) -> bytes:
        """The tree's root hash."""
        return _join(self._hashes)

    def copy(self) -> CompactRange:
        """The same tree, growing on its own from here."""
        twin = CompactRange()
        twin._size, twin._hashes = self._size, list(self._hashes)
        return twin

    def to_bytes(self) -> bytes:
        """The state: the hashes, largest subtree first."""
        return b"".join(self._hashes)

    @classmethod
    def from_bytes(cls, size: int, state: bytes) -> CompactRange:
        """The tree whose state :meth:`to_bytes` gave.

        Raises:
            MerkleError: The state does not belong to a tree of this size.
        """
        if size < 0 or len(state) != size.bit_count() * HASH_BYTES:
            raise MerkleError(
                f"a tree of {size} leaves has {max(size, 0).bit_count()} subtree hashes of {HASH_BYTES} bytes, "
                f"came {len(state)} bytes"
            )
        tree = cls()
        tree._size = size
        tree._hashes = [state[i : i + HASH_BYTES] for i in range(0, len(state), HASH_BYTES)]
        return tree


class MerkleTree:
    """A tree with all its nodes: 64 bytes per leaf, proofs in logarithmic time."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[list[bytes]] = [[]]  # level k holds the roots of complete subtrees of 2**k leaves
        for leaf in leaves:
            self.append(leaf)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        level = 0
        self._levels[0].append(leaf)
        while len(self._levels[level]) % 2 == 0:
            left, right = self._levels[level][-2:]
            level += 1
            if level == len(self._levels):
                self._levels.append([])
            self._levels[level].append(node_hash(left, right))

    def root(self, size: int | None = None) -> bytes:
        """The root of the first ``size`` leaves; of all by default."""
        size = self.size if size is None else size
        self._require(0 <= size <= self.size, f"size {size} of a tree with {self.size} leaves")
        return self._hash(0, size)

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """The audit path of a leaf in the tree of the first ``size`` leaves (RFC 6962, 2.1.1)."""
        size = self.size if size is None else size
        self._require(0 <= index < size <= self.size, f"leaf {index} in {size} of {self.size} leaves")
        start, stop = 0, size
        path: list[bytes] = []
        while stop - start > 1:
            middle = start + _split(stop - start)
            if index < middle:
                path.append(self._hash(middle, stop))
                stop = middle
            else:
                path.append(self._hash(start, middle))
                start = middle
        return path[::-1]

    def consistency_proof(self, first: int, second: int | None = None) -> list[bytes]:
        """The proof that the tree of ``second`` leaves extends the tree of ``first`` (RFC 6962, 2.1.2)."""
        second = self.size if second is None else second
        self._require(0 < first <= second <= self.size, f"sizes {first} and {second} of {self.size} leaves")
        start, stop, whole = 0, second, True
        path: list[bytes] = []
        while stop != first:
            middle = start + _split(stop - start)
            if first <= middle:
                path.append(self._hash(middle, stop))
                stop = middle
            else:
                path.append(self._hash(start, middle))
                start, whole = middle, False
        if not whole:
            path.append(self._hash(start, stop))
        return path[::-1]

    def _hash(self, start: int, stop: int) -> bytes:
        """Root over leaves start to stop; start is a multiple of the largest power of two within."""
        hashes: list[bytes] = []
        while start < stop:
            level = (stop - start).bit_length() - 1
            hashes.append(self._levels[level][start >> level])
            start += 1 << level
        return _join(hashes)

    @staticmethod
    def _require(holds: bool, what: str) -> None:
        if not holds:
            raise MerkleError(f"there is no such tree or proof: {what}")


def _split(size: int) -> int:
    """The largest power of two smaller than size (at least 2)."""
    return 1 << ((size - 1).bit_length() - 1)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the leaf hash stands at ``index`` in the tree of ``size`` leaves with this root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    fn, sn, computed = index, size - 1, leaf
    for sibling in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            computed = node_hash(sibling, computed)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            computed = node_hash(computed, sibling)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and computed == root


def verify_consistency(first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes) -> bool:
    """Whether the tree of ``second`` leaves extends the tree of ``first`` leaves (RFC 9162, 2.1.4.2).

    Every tree extends the empty one; that takes an empty proof and the empty root.
    """
    if not 0 <= first <= second:
        return False
    if first == 0:
        return not proof and first_root == EMPTY_ROOT and (second > 0 or second_root == EMPTY_ROOT)
    if first == second:
        return not proof and first_root == second_root
    nodes = list(proof)
    if first & (first - 1) == 0:
        nodes.insert(0, first_root)  # the old tree is one of the new tree's nodes
    if not nodes:
        return False
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    old = new = nodes[0]
    for node in nodes[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            old, new = node_hash(node, old), node_hash(node, new)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            new = node_hash(new, node)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and old == first_root and new == second_root
