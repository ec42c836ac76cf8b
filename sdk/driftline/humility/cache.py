"""The last known humility rules on disk, for a process that starts while Kafka is away.

A file is eight magic bytes, the SHA-256 of everything behind it, the time (int64, microseconds since 1970-01-01 UTC)
up to which it was known to be current, and records in single-object encoding, each behind its length (uint32); integers
are little-endian. It is written beside and moved into place, so that any number of processes may write it and a reader
sees one whole file or another. One that is damaged counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import struct
import time
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger("driftline")

FILE_NAME = "humility.rules"
_MAGIC = b"DLHUMIL1"
_TIME = struct.Struct("<q")
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32
_MAX_BYTES = 256 << 20
_TEMPORARY = ".tmp"
_ABANDONED_SECONDS = 3600.0


class Kept(NamedTuple):
    """What a file says: records, and up to when they were current, microseconds since 1970-01-01 UTC."""

    current_us: int
    records: list[bytes]


def read(path: Path) -> Kept | None:
    """The records of a file; None if there is none, or it is not whole."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES} bytes")
        return _parsed(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, struct.error) as error:
        log.warning("the kept humility rules in %s are not used: %s", path, error)
        return None


def _parsed(data: bytes) -> Kept:
    start = len(_MAGIC) + _DIGEST_BYTES
    if not data.startswith(_MAGIC):
        raise ValueError("not a file of humility rules")
    if hashlib.sha256(data[start:]).digest() != data[len(_MAGIC) : start]:
        raise ValueError("its digest is another one: it was altered or cut short")
    (current_us,) = _TIME.unpack_from(data, start)
    position, records = start + _TIME.size, []
    while position < len(data):
        (length,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size + length
        if position > len(data):
            raise ValueError("a record is cut short")
        records.append(data[position - length : position])
    return Kept(current_us, records)


def write(path: Path, kept: Kept) -> None:
    """Write a file in place of the one before it.

    Raises:
        OSError: The disk does not take it; the file before it is still there.
    """
    body = _TIME.pack(kept.current_us) + b"".join(_LENGTH.pack(len(record)) + record for record in kept.records)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _sweep(path)
    beside = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}{_TEMPORARY}")
    try:
        # O_BINARY keeps Windows from turning line feeds into two bytes.
        file = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o600)
        with os.fdopen(file, "wb") as stream:
            stream.write(_MAGIC + hashlib.sha256(body).digest() + body)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _sweep(path: Path) -> None:
    """Remove what processes that were killed while writing left behind."""
    for left in path.parent.glob(f"{path.name}.*{_TEMPORARY}"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                left.unlink()
