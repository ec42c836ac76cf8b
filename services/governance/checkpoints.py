"""Checkpoints as records of their topic: writing, reading back, and finding the last one of our own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from driftline.codec import decode, encode
from driftline.errors import CodecError
from services.governance.checkpoint import Checkpoint, SigningKey, VerifierKey, open_checkpoint, sign_checkpoint
from services.governance.errors import CheckpointError
from services.governance.topic import LogRecord, TopicReader
from services.governance.verify import SealRecord

if TYPE_CHECKING:  # reading checkpoints needs no database
    from services.governance.ledger import Head, Ledger

_FIRST_LOOK = 100


def checkpoint_record(ledger: Ledger, head: Head, key: SigningKey) -> bytes:
    """The bytes of a ``LedgerCheckpoint`` for a durable head: the same for the same head and key, always."""
    note = sign_checkpoint(Checkpoint(key.verifier.name, head.size, head.root), key)
    return encode(
        "LedgerCheckpoint",
        {
            "note": note,
            "size": head.size,
            "first_index": head.first_index,
            "leaf_hashes": ledger.leaf_hashes(head.first_index, head.size),
            "last_offset": head.last_offset,
        },
    )


def seal_record(record: LogRecord) -> SealRecord:
    """A record of the checkpoint topic as the verifier takes it."""
    try:
        name, fields = decode(record.value)
        if name != "LedgerCheckpoint":
            raise CodecError(f"expected a LedgerCheckpoint, came a {name}")
    except CodecError as error:
        return SealRecord(record.offset, problem=str(error))
    return SealRecord(record.offset, **fields)


def seal_records(reader: TopicReader) -> Iterator[SealRecord]:
    """All checkpoints that are on their topic now."""
    for batch in reader.batches():
        yield from map(seal_record, batch)


def last_published(reader: TopicReader, key: VerifierKey) -> Checkpoint | None:
    """The last checkpoint on the topic that this key signed."""
    low, high = reader.watermarks()
    look = _FIRST_LOOK
    while True:
        start = max(low, high - look)
        found: Checkpoint | None = None
        for batch in reader.batches(start):
            for record in batch:
                found = _ours(record, key) or found
        if found is not None or start == low:
            return found
        look *= 10


def _ours(record: LogRecord, key: VerifierKey) -> Checkpoint | None:
    seal = seal_record(record)
    if seal.problem is not None:
        return None
    try:
        return open_checkpoint(seal.note, key)
    except CheckpointError:
        return None
