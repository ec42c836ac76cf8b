"""The independent verifier: does the audit record stand?

This file is a second implementation on purpose. It needs Python and ``cryptography`` only, imports nothing of the
service that keeps the ledger, and can be taken away and run alone by somebody who trusts nobody here::

    python verify.py 'NAME+KEYID+BASE64' EXPORT

What it holds against each other: the records of the audit topic in their order, the checkpoints of the checkpoint
topic, and one public key. A checkpoint is a signed statement "the first SIZE records have the Merkle root ROOT"
(RFC 6962, section 2.1; C2SP tlog-checkpoint and signed-note), and brings the hashes of the records since the one
before: the roots prove that nothing changed, the hashes find the first record that did.

1. Every checkpoint is read: signed by the key, in one piece, and with those before it a list of record hashes.
2. The records are read in order. At every checkpoint the root over all records so far has to be the signed one.
3. At the first difference the lists are compared and what is wrong is named. Records after the last checkpoint are
   not yet sealed, or, when older than the service takes to seal them, unsigned.

What no verifier can see from the two topics alone: both cut back together to an earlier moment. A checkpoint kept
from before (``known_note``) shows that too.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import itertools
import json
import operator
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Record = tuple[int, int, bytes]
"""Offset, time stamp (milliseconds since 1970 UTC), exact bytes of the value."""

SEAL_WITHIN_SECONDS = 30.0
"""A record older than this that no checkpoint covers counts as unsigned."""

_FUTURE_MS = 3_600_000
_HASH = 32
_STEP = 10_000
EXPORT_FORMAT = "driftline-audit-export/1"
_MOST_LINE_BYTES = 64 * 1024 * 1024
_parse = json.JSONDecoder().raw_decode


class _FileError(Exception):
    """The file is no export in one piece."""


@dataclass(frozen=True, slots=True)
class SealRecord:
    """One record of the checkpoint topic; the fields are those of ``LedgerCheckpoint``.

    ``problem`` says why it could not be read; then the rest means nothing.
    """

    offset: int
    note: str = ""
    size: int = 0
    first_index: int = 0
    leaf_hashes: bytes = b""
    last_offset: int = 0
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class FirstBad:
    """The first thing that does not stand.

    Attributes:
        kind: ``altered``, ``missing``, ``inserted``, ``reordered``, ``truncated``, ``moved``, ``unsigned`` (a record);
            ``checkpoint``, ``signature``, ``wrong_key``, ``forked``, ``rolled_back`` (a checkpoint); ``file``.
        message: What is wrong, in words.
        index: Position of the record in the log, from 0.
        offset: Its offset on the audit topic; None where the record is not there.
        event_id: Its event id, where its bytes give one.
        checkpoint_offset: Offset of the checkpoint on its topic.
    """

    kind: str
    message: str
    index: int | None = None
    offset: int | None = None
    event_id: str | None = None
    checkpoint_offset: int | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """What the verifier found.

    Attributes:
        ok: Everything stands.
        records: Records read.
        sealed: Records proven unaltered by a signed checkpoint.
        checkpoints: Checkpoints whose signature and root stand.
        first_bad: What does not stand.
        message: The result in one sentence.
        head: The last checkpoint that stands, as a signed note: keep it, and give it to the next verification.
    """

    ok: bool
    records: int
    sealed: int
    checkpoints: int
    first_bad: FirstBad | None
    message: str
    head: str | None

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON document."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Head:
    """A signed statement that stands by itself: size, root, and where it comes from."""

    size: int
    root: bytes
    note: str
    source: SealRecord | None  # None: the checkpoint kept from before


def verify(
    records: Iterable[Record],
    checkpoints: Iterable[SealRecord],
    public_key: str,
    *,
    now_ms: int | None = None,
    seal_within_seconds: float = SEAL_WITHIN_SECONDS,
    known_note: str | None = None,
) -> Verification:
    """Verify the audit record.

    Args:
        records: All records of the audit topic, read after the checkpoints: a checkpoint is younger than its records.
        checkpoints: All records of the checkpoint topic. All of them are read before the first of ``records``.
        public_key: ``NAME+KEYID+BASE64`` as `driftline audit key` prints it.
        now_ms: When the reading of the checkpoints began, milliseconds since 1970 UTC; now by default.
        seal_within_seconds: How long a record may wait for its checkpoint.
        known_note: A checkpoint kept from an earlier verification, which the log has to extend.

    Raises:
        ValueError: The public key, or the known note, is not one.
    """
    name, key_id, key = _parse_key(public_key)
    known = None
    if known_note is not None:
        size, root = _open(known_note, name, key_id, key, what="the checkpoint kept from before: ")
        known = _Head(size, root, known_note, None)
    seals = _read_checkpoints(checkpoints, name, key_id, key)
    now = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    return _Walk(iter(records), seals, known, now, int(seal_within_seconds * 1000), f"{name}+{key_id.hex()}").run()


# Signed notes


class _NoteError(ValueError):
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def _unbase64(text: str) -> bytes | None:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None


def _parse_key(text: str) -> tuple[str, bytes, Ed25519PublicKey]:
    name, _, rest = text.strip().partition("+")
    key_id, _, material = rest.partition("+")
    raw = _unbase64(material)
    if not name or raw is None or len(raw) != 33 or raw[0] != 1:
        raise ValueError("expected an Ed25519 public key as NAME+KEYID+BASE64")
    expected = sha256(name.encode() + b"\n" + raw).digest()[:4]
    if expected.hex() != key_id:
        raise ValueError(f"the public key's id should be {expected.hex()}: was a character lost?")
    return name, expected, Ed25519PublicKey.from_public_bytes(raw[1:])


def _open(note: str, name: str, key_id: bytes, key: Ed25519PublicKey, what: str = "") -> tuple[int, bytes]:
    """Size and root of a note that the key signed."""
    text, found, block = note.rpartition("\n\n")
    text += "\n"
    if not found or not block.endswith("\n") or len(note) > 100_000:
        raise _NoteError("checkpoint", f"{what}it is no signed note")
    signed, others = False, []
    for line in block[:-1].split("\n"):
        dash, _, rest = line.partition(" ")
        signer, _, encoded = rest.partition(" ")
        signature = _unbase64(encoded)
        if dash != "—" or not signer or signature is None or len(signature) < 5:
            raise _NoteError("checkpoint", f"{what}it is no signed note: malformed signature line")
        if (signer, signature[:4]) != (name, key_id):
            others.append(f"{signer}+{signature[:4].hex()}")
            continue
        try:
            key.verify(signature[4:], text.encode())
        except (InvalidSignature, ValueError) as error:
            raise _NoteError("signature", f"{what}its signature does not stand") from error
        signed = True
    if not signed:
        by = ", ".join(others)[:200]
        raise _NoteError("wrong_key", f"{what}it is signed by {by}, expected {name}+{key_id.hex()}")
    lines = text.split("\n")
    root = _unbase64(lines[2]) if len(lines) >= 4 else None
    if root is None or len(root) != _HASH or not (lines[1].isascii() and lines[1].isdecimal()):
        raise _NoteError("checkpoint", f"{what}it does not hold origin, size and root")
    if lines[0] != name:
        raise _NoteError("wrong_key", f"{what}it speaks of the log {lines[0][:100]!r}, expected {name!r}")
    return int(lines[1]), root


# The checkpoint topic


class _Seals:
    """What the checkpoints say: the hashes of the records, the signed heads, and the first checkpoint that is bad."""

    def __init__(self) -> None:
        self.hashes = bytearray()
        self.heads: list[_Head] = []
        self.repeats = 0
        self.bad: FirstBad | None = None

    @property
    def size(self) -> int:
        return len(self.hashes) // _HASH


def _read_checkpoints(checkpoints: Iterable[SealRecord], name: str, key_id: bytes, key: Ed25519PublicKey) -> _Seals:
    seals = _Seals()
    roots: dict[int, bytes] = {}
    for seal in checkpoints:
        try:
            _take(seals, roots, seal, *_checked(seal, name, key_id, key))
        except _NoteError as error:
            message = f"checkpoint at offset {seal.offset}: {error}"
            seals.bad = FirstBad(error.kind, message, index=seals.size, checkpoint_offset=seal.offset)
            break
    return seals


def _checked(seal: SealRecord, name: str, key_id: bytes, key: Ed25519PublicKey) -> tuple[int, bytes]:
    if seal.problem is not None:
        raise _NoteError("checkpoint", f"it cannot be read: {seal.problem}")
    size, root = _open(seal.note, name, key_id, key)
    if seal.size != size:
        raise _NoteError("checkpoint", f"it says {seal.size} records, signed are {size}")
    if not 0 <= seal.first_index <= size or len(seal.leaf_hashes) != (size - seal.first_index) * _HASH:
        raise _NoteError(
            "checkpoint",
            f"records {seal.first_index} to {size} need {size - seal.first_index} hashes of {_HASH} bytes, "
            f"it has {len(seal.leaf_hashes)} bytes",
        )
    return size, root


def _take(seals: _Seals, roots: dict[int, bytes], seal: SealRecord, size: int, root: bytes) -> None:
    if roots.setdefault(size, root) != root:
        raise _NoteError("forked", f"another root was signed for the same {size} records")
    if seal.first_index > seals.size:
        raise _NoteError(
            "checkpoint", f"a checkpoint before it is missing: records {seals.size} to {seal.first_index - 1} have none"
        )
    known = min(size, seals.size)
    overlap = (known - seal.first_index) * _HASH
    if overlap > 0 and seal.leaf_hashes[:overlap] != seals.hashes[seal.first_index * _HASH : known * _HASH]:
        raise _NoteError("checkpoint", "its record hashes are not those of the checkpoints before it")
    if size > seals.size:
        seals.hashes += seal.leaf_hashes[max(overlap, 0) :]
        seals.heads.append(_Head(size, root, seal.note, seal))
        return
    seals.repeats += 1
    if not any(head.size == size for head in reversed(seals.heads)):
        # Nobody publishes an older head later; if it happens it has to fit what was there already.
        tree = _Tree()
        tree.extend(seals.hashes[i : i + _HASH] for i in range(0, size * _HASH, _HASH))
        if tree.root() != root:
            raise _NoteError("forked", f"its root of {size} records is not that of the checkpoints before it")


# The tree


class _Tree:
    """Root of a growing list of leaf hashes: a binary counter of complete subtrees, smallest last."""

    def __init__(self) -> None:
        self.size = 0
        self._stack: list[bytes] = []

    def extend(self, leaves: Iterable[bytes | bytearray]) -> None:
        stack, size, digest = self._stack, self.size, sha256
        for leaf in leaves:
            node, rest = bytes(leaf), size
            while rest & 1:
                node = digest(b"\x01" + stack.pop() + node).digest()
                rest >>= 1
            stack.append(node)
            size += 1
        self.size = size

    def root(self) -> bytes:
        if not self._stack:
            return sha256(b"").digest()
        node = self._stack[-1]
        for left in reversed(self._stack[:-1]):
            node = sha256(b"\x01" + left + node).digest()
        return node

    def with_leaves(self, leaves: Iterable[bytes | bytearray]) -> bytes:
        """The root after these leaves; the tree itself stays."""
        twin = _Tree()
        twin.size, twin._stack = self.size, list(self._stack)
        twin.extend(leaves)
        return twin.root()


def _leaf(value: bytes) -> bytes:
    return sha256(b"\x00" + value).digest()


def _event_id(value: bytes) -> str | None:
    """The first field of an Avro record in single-object encoding: of an audit event, its id."""
    if value[:2] != b"\xc3\x01":
        return None
    length, shift, at = 0, 0, 10
    while at < len(value) and shift < 28:
        length |= (value[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if value[at - 1] < 0x80:
            break
    length >>= 1  # zigzag; a length is never negative
    text = value[at : at + length]
    if not 0 < length <= 256 or len(text) != length:
        return None
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


# The records


class _Walk:
    """Reads the records once, from checkpoint to checkpoint."""

    def __init__(
        self, records: Iterator[Record], seals: _Seals, known: _Head | None, now_ms: int, patience_ms: int, signer: str
    ) -> None:
        self._read = 0
        self._records = self._counted(records)
        self._seals = seals
        self._heads = sorted([*seals.heads, *([known] if known else [])], key=lambda head: head.size)
        self._now_ms, self._patience_ms, self._signer = now_ms, patience_ms, signer
        self._tree = _Tree()
        self._last_offset = -1
        self._stands: list[_Head] = []

    def _counted(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            self._read += 1
            yield record

    def _rest(self) -> Iterator[bytes]:
        """Hashes of the records that follow; once a difference is found, damage behind it no longer matters."""
        with contextlib.suppress(_FileError):
            for _, _, value in self._records:
                yield _leaf(value)

    def run(self) -> Verification:
        try:
            bad = self._heads_stand() or self._seals.bad or self._tail()
        except _FileError as error:
            bad = FirstBad("file", str(error))
        return self._result(bad)

    def _result(self, bad: FirstBad | None) -> Verification:
        sealed = self._stands[-1].size if self._stands else 0
        checkpoints = sum(1 for head in self._stands if head.source is not None)
        note = next((head.note for head in reversed(self._stands)), None)
        if bad is not None:
            message = f"the audit record does not stand: {bad.message}"
            return Verification(False, self._read, sealed, checkpoints, bad, message, note)
        waiting = self._read - sealed
        by = f"{checkpoints:,} checkpoint" + ("" if checkpoints == 1 else "s")
        message = f"{_records(sealed)} proven unaltered by {by} of {self._signer}"
        if waiting:
            message += f"; {waiting:,} not yet sealed"
        if not self._read:
            message = "the audit topic is empty: there is nothing to verify"
        return Verification(True, self._read, sealed, checkpoints, None, message, note)

    def _heads_stand(self) -> FirstBad | None:
        for head in self._heads:
            while self._tree.size < head.size:
                bad = self._step(head, min(_STEP, head.size - self._tree.size))
                if bad is not None:
                    return bad
            if self._tree.root() != head.root:
                return self._wrong_root(head)
            if head.source is not None and head.size and head.source.last_offset != self._last_offset:
                message = (
                    f"record {head.size - 1} is at offset {self._last_offset}, its checkpoint at offset "
                    f"{head.source.offset} says {head.source.last_offset}: one of the two was moved"
                )
                return FirstBad("moved", message, head.size - 1, self._last_offset, None, head.source.offset)
            self._stands.append(head)
        return None

    def _step(self, head: _Head, count: int) -> FirstBad | None:
        """Take ``count`` records into the tree, or say what is wrong with the first that does not fit."""
        start = self._tree.size
        records = list(itertools.islice(self._records, count))
        hashes = [_leaf(value) for _, _, value in records]
        expected = bytes(self._seals.hashes[start * _HASH : (start + count) * _HASH])
        if b"".join(hashes)[: len(expected)] != expected or len(records) < count:
            return self._difference(head, start, records, hashes)
        bad = self._order(start, records)
        if bad is None:
            self._tree.extend(hashes)
        return bad

    def _order(self, start: int, records: Sequence[Record]) -> FirstBad | None:
        offsets = [self._last_offset, *(record[0] for record in records)]
        if not all(map(operator.lt, offsets, offsets[1:])):
            at = next(i for i, (a, b) in enumerate(itertools.pairwise(offsets)) if a >= b)
            offset, _, value = records[at]
            message = f"record {start + at} has offset {offset}, the one before it {offsets[at]}"
            return FirstBad("reordered", message, start + at, offset, _event_id(value))
        self._last_offset = offsets[-1]
        return None

    def _difference(self, head: _Head, start: int, records: list[Record], hashes: list[bytes]) -> FirstBad:
        """Name the first difference between the records from ``start`` on and the checkpoints' list of hashes."""
        signed = [bytes(self._seals.hashes[i * _HASH : (i + 1) * _HASH]) for i in range(start, self._seals.size)]
        at = next((i for i, (a, b) in enumerate(zip(hashes, signed, strict=False)) if a != b), len(hashes))
        at = min(at, len(hashes))
        index = start + at
        if at == len(hashes):
            return self._ended(head, index)
        offset, _, value = records[at]
        event_id = _event_id(value)
        covering = next(h for h in self._heads if h.size > index and h.source is not None)
        if self._tree.with_leaves(signed[: covering.size - start]) != covering.root:
            return self._list_altered(covering, index, start, hashes, offset, event_id)
        kind, words = self._classify(at, hashes, signed)
        if (
            kind == "altered"
            and covering.size == index + 1
            and covering.source
            and offset > covering.source.last_offset
        ):
            kind, words = "missing", "1 record is missing"  # what follows is the unsealed record behind it
        if kind == "missing":
            message = f"record {index}: {words} before offset {offset} (after offset {self._before(records, at)})"
            return FirstBad(kind, message, index)
        name = f" (event {event_id})" if event_id else ""
        return FirstBad(kind, f"record {index} at offset {offset}{name}: {words}", index, offset, event_id)

    def _before(self, records: list[Record], at: int) -> str:
        before = records[at - 1][0] if at else self._last_offset
        return str(before) if before >= 0 else "none"

    def _ended(self, head: _Head, index: int) -> FirstBad:
        if head.source is None and index >= self._seals.size:
            message = f"rolled back: a checkpoint over {head.size} records was seen before, now there are {index}"
            return FirstBad("rolled_back", message, index)
        signed = max(self._seals.size, head.size)
        message = f"truncated: {signed} records were signed, there are {index}; the first that is missing is {index}"
        return FirstBad("truncated", message, index, checkpoint_offset=head.source.offset if head.source else None)

    def _list_altered(
        self, head: _Head, index: int, start: int, hashes: list[bytes], offset: int, event_id: str | None
    ) -> FirstBad:
        """The checkpoint's own list does not give its signed root: is it the list alone, or the records too?"""
        source = head.source
        where = source.offset if source else None
        have = [*hashes, *itertools.islice(self._rest(), max(0, head.size - start - len(hashes)))]
        if self._tree.with_leaves(have[: head.size - start]) == head.root:
            message = f"checkpoint at offset {where}: its hash of record {index} was altered; the record itself stands"
            return FirstBad("checkpoint", message, index, offset, event_id, where)
        message = (
            f"record {index} at offset {offset} is not the one in the list of the checkpoint at offset {where}, and "
            "neither gives the signed root: records or list were altered from here on"
        )
        return FirstBad("altered", message, index, offset, event_id, where)

    def _classify(self, at: int, hashes: list[bytes], signed: list[bytes]) -> tuple[str, str]:
        """What happened at the first difference, from how often each side's record occurs on the other."""
        came, wanted = hashes[at], signed[at]
        came_here = wanted_here = 0
        first_wanted = None
        for count, here in enumerate(itertools.chain(hashes[at:], self._rest())):
            came_here += here == came
            if here == wanted:
                wanted_here += 1
                first_wanted = count if first_wanted is None else first_wanted
        came_signed, wanted_signed = signed[at:].count(came), signed[at:].count(wanted)
        extra, lacking = came_here > came_signed, wanted_here < wanted_signed
        following = signed[at + 1 : at + 9]
        in_its_place = bool(following) and hashes[at + 1 : at + 1 + len(following)] == following
        if (extra and lacking) or (in_its_place and not came_signed):
            return "altered", "its bytes are not those that were signed"
        if extra:
            many = first_wanted or 1
            return "inserted", f"it was never signed: {_records(many)} inserted here"
        if lacking:
            many = signed.index(came, at) - at if came_signed else 1
            return "missing", f"{_records(many, verb=True)} missing"
        return "reordered", "the records are the signed ones, their order is not"

    def _wrong_root(self, head: _Head) -> FirstBad:
        start = self._stands[-1].size if self._stands else 0
        where = None if head.source is None else head.source.offset
        if head.source is None:
            message = f"forked: the first {head.size} records are not those of the checkpoint seen before"
            return FirstBad("forked", message)  # which of them, that checkpoint alone does not tell
        message = (
            f"records {start} to {head.size - 1} do not give the root signed in the checkpoint at offset {where}: "
            "at least one was altered, and its hash in the checkpoint's list with it"
        )
        return FirstBad("altered", message, start, None, None, where)

    def _tail(self) -> FirstBad | None:
        """Records after the last checkpoint: not yet sealed, or unsigned for too long."""
        start = self._tree.size
        first_late: FirstBad | None = None
        for index in itertools.count(start):
            record = next(self._records, None)
            if record is None:
                break
            offset, timestamp_ms, value = record
            if offset <= self._last_offset:
                message = f"record {index} has offset {offset}, the one before it {self._last_offset}"
                return FirstBad("reordered", message, index, offset, _event_id(value))
            self._last_offset = offset
            waited_ms = self._now_ms - timestamp_ms
            # Written while the topics were read: fresh. From a farther future: it would wait for its seal for ever.
            if first_late is None and not -_FUTURE_MS <= waited_ms <= self._patience_ms:
                first_late = FirstBad("unsigned", "", index, offset, _event_id(value))
        if first_late is None or first_late.index is None:
            return None
        message = (
            f"unsigned: no checkpoint covers the last {_records(self._read - start)}, and record {first_late.index} at "
            f"offset {first_late.offset} has waited longer than {self._patience_ms / 1000:g} s. Is the governance "
            "service running?"
        )
        return FirstBad("unsigned", message, first_late.index, first_late.offset, first_late.event_id)


def _records(count: int, *, verb: bool = False) -> str:
    words = f"{count:,} record" + ("" if count == 1 else "s")
    return words + (" is" if count == 1 else " are") if verb else words


# An export


class ExportReader:
    """Reads an export line by line; see `export.py` for the format.

    ``checkpoints()`` has to be read to its end before ``records()``.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._digest = sha256()
        self._last = b""
        self._line = 0
        self._counts = {"checkpoint": 0, "record": 0}
        self._pending: dict[str, Any] | None = None
        try:
            self.header = self._next()
            if self.header.get("format") != EXPORT_FORMAT or not isinstance(self.header.get("exported_ms"), int):
                raise _FileError(f"the first line is not that of an export ({EXPORT_FORMAT})")
        except BaseException:
            self.close()
            raise

    @property
    def exported_ms(self) -> int:
        """When it was written, milliseconds since 1970 UTC."""
        return int(self.header["exported_ms"])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def checkpoints(self) -> Iterator[SealRecord]:
        """The checkpoints, in the order of their topic."""
        while True:
            line = self._next()
            if "checkpoint" not in line:
                self._pending = line
                return
            self._counts["checkpoint"] += 1
            offset = self._number(line["checkpoint"])
            if "raw" in line:
                yield SealRecord(offset, problem=str(line.get("problem"))[:200])
                continue
            try:
                yield SealRecord(
                    offset,
                    str(line["note"]),
                    self._number(line["size"]),
                    self._number(line["first_index"]),
                    self._bytes(line["leaf_hashes"]),
                    self._number(line["last_offset"]),
                )
            except KeyError as error:
                raise _FileError(f"line {self._line}: the checkpoint has no {error}") from error

    def records(self) -> Iterator[Record]:
        """The records, in the order of their topic; at the end the file is compared with its own digest."""
        line = self._next() if self._pending is None else self._pending
        while "record" in line:
            self._counts["record"] += 1
            try:
                offset, timestamp_ms, value = line["record"], line["timestamp_ms"], line["value"]
            except KeyError as error:
                raise _FileError(f"line {self._line}: the record has no {error}") from error
            if type(timestamp_ms) is not int:
                raise _FileError(f"line {self._line}: expected a time stamp, came {str(timestamp_ms)[:40]!r}")
            yield self._number(offset), timestamp_ms, self._bytes(value)
            line = self._next()
        if line.get("end") != EXPORT_FORMAT:
            raise _FileError(f"line {self._line}: expected a record or the end of the export")
        if self._file.read(1):
            raise _FileError(f"line {self._line}: something follows the end of the export")
        if (line.get("records"), line.get("checkpoints")) != (self._counts["record"], self._counts["checkpoint"]):
            raise _FileError(f"the file has {self._counts}, its last line says otherwise: lines are missing or added")
        if line.get("sha256") != self._digest.hexdigest():
            raise _FileError("the file's SHA-256 is not the one in its last line: it was damaged or edited")

    def _next(self) -> dict[str, Any]:
        self._digest.update(self._last)  # a line counts once it is known not to be the last
        self._last = self._file.readline(_MOST_LINE_BYTES)
        self._line += 1
        if not self._last.endswith(b"\n"):
            raise _FileError(f"line {self._line}: the file ends in the middle: it was cut")
        try:
            document, end = _parse(self._last.decode())
        except (ValueError, RecursionError) as error:
            raise _FileError(f"line {self._line}: expected a JSON object") from error
        if type(document) is not dict or end != len(self._last) - 1:
            raise _FileError(f"line {self._line}: expected one JSON object in ASCII")
        return document

    def _number(self, value: Any) -> int:
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise _FileError(f"line {self._line}: expected a number, came {str(value)[:40]!r}")
        return value

    def _bytes(self, value: Any) -> bytes:
        try:
            return binascii.a2b_base64(value, strict_mode=True)  # several times as quick as base64.b64decode
        except (TypeError, ValueError) as error:
            raise _FileError(f"line {self._line}: expected bytes in base64") from error


def verify_export(
    path: Path, public_key: str, *, seal_within_seconds: float = SEAL_WITHIN_SECONDS, known_note: str | None = None
) -> Verification:
    """Verify an export. What waited for its seal is judged at the time of the export.

    Raises:
        ValueError: The public key, or the known note, is not one.
        OSError: The file cannot be read.
    """
    try:
        export = ExportReader(path)
        try:
            return verify(
                export.records(),
                export.checkpoints(),
                public_key,
                now_ms=export.exported_ms,
                seal_within_seconds=seal_within_seconds,
                known_note=known_note,
            )
        finally:
            export.close()
    except _FileError as error:
        bad = FirstBad("file", str(error))
        return Verification(False, 0, 0, 0, bad, f"the audit record does not stand: {bad.message}", None)


def main(arguments: Sequence[str]) -> int:
    """Verify an export: 0 it stands, 1 it does not, 2 the question is wrong."""
    if len(arguments) not in (2, 3):
        sys.stderr.write("usage: verify.py PUBLIC_KEY EXPORT [CHECKPOINT_FROM_BEFORE]\n")
        return 2
    try:
        known = Path(arguments[2]).read_text("utf-8") if len(arguments) == 3 else None
        result = verify_export(Path(arguments[1]), arguments[0], known_note=known)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps(result.to_json(), indent=2) + "\n")
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
