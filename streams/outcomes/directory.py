"""The files of a store of pending rows: a lock, the runs, and the manifest that says which of them count.

The manifest is a checksum, a line's end and JSON. It is replaced at once, and names the checksum of every run.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from streams.errors import StreamsError
from streams.outcomes.runs import RUN_SUFFIX, DamagedError

_LOCK_FILE = "lock"
_MANIFEST = "manifest"
_FORMAT = 1


class PendingError(StreamsError):
    """The index of pending predictions cannot be used."""


class InUseError(PendingError):
    """Somebody else has the directory."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint left.

    Attributes:
        position: Next offsets, by topic.
        tables: Number, name, fields and the time before which rows are forgotten, of each.
        runs: Number, size, place and checksum of the footer of each, older ones first.
        next_table: A number no table has had.
        next_run: A number no run of this or an earlier checkpoint has.
    """

    position: Mapping[str, int] = field(default_factory=dict)
    tables: Sequence[tuple[int, str, str, int]] = ()
    runs: Sequence[tuple[int, int, int, int]] = ()
    next_table: int = 0
    next_run: int = 1


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Replace the manifest."""
    data = json.dumps({"format": _FORMAT, **vars(manifest)}, separators=(",", ":")).encode()
    path = directory / f"{_MANIFEST}.new"
    path.write_bytes(b"%08x\n%s" % (zlib.crc32(data), data))
    path.replace(directory / _MANIFEST)


def read_manifest(directory: Path) -> Manifest:
    """The last checkpoint's manifest; an empty one if there was none.

    Raises:
        DamagedError: It is not what was written, or was written by another version.
        OSError: It cannot be read.
    """
    path = directory / _MANIFEST
    if not path.exists():
        return Manifest()
    checksum, _, data = path.read_bytes().partition(b"\n")
    if checksum != b"%08x" % zlib.crc32(data):
        raise DamagedError("the manifest does not agree with its checksum")
    content = json.loads(data)  # what has this checksum was written here
    if content.pop("format") != _FORMAT:
        raise DamagedError(f"the manifest is not of format {_FORMAT}, which this version reads")
    return Manifest(**content)


def lock_directory(directory: Path) -> IO[str]:
    """Lock a directory; the system lets go of it when the process ends, however it ends.

    Raises:
        InUseError: Somebody else has it.
        PendingError: It cannot be used.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / _LOCK_FILE).open("a+")
    except OSError as error:
        raise PendingError(f"{directory} cannot be used for pending rows: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        other = lock.read(20).strip()
        lock.close()
        if not isinstance(error, BlockingIOError):
            raise PendingError(
                f"{directory} cannot be locked: {error.strerror}. Its file system needs locks."
            ) from error
        who = f" (process {other})" if other.isdecimal() else ""
        raise InUseError(
            f"{directory} is in use by another worker{who}. Stop that one, or give each worker a directory of its own."
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def remove_runs(directory: Path, keep: Collection[str]) -> None:
    """Remove the runs but those to keep, by name."""
    (directory / f"{_MANIFEST}.new").unlink(missing_ok=True)
    for path in directory.glob(f"*{RUN_SUFFIX}"):
        if path.name not in keep:
            path.unlink(missing_ok=True)


def remove_everything(directory: Path) -> None:
    """Remove the manifest, and then what it names."""
    (directory / _MANIFEST).unlink(missing_ok=True)
    remove_runs(directory, keep=())
