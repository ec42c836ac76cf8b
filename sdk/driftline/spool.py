"""Batches on disk while Kafka is away.

A spool is a directory of one running client, locked while its process lives, with segments ``00000001.spool``,
``00000002.spool`` … A segment begins with eight magic bytes; then frames: length and CRC-32 of the payload (two
little-endian uint32), and the payload: length of the description (uint32), the description (JSON: topic, key,
headers, rows) and the record.

What holds:

1. A frame counts as spooled once :meth:`Spool.sync` has returned: it survives the process and a power failure.
   Before that it survives the process alone.
2. A frame that was cut short or altered is passed over with everything behind it in its segment that cannot be
   framed; it is never taken for a record.
3. Frames are read in the order they were written. A segment is deleted only after every frame of it was
   acknowledged: after a crash its frames come again, with the same prediction ids.
4. The lock goes with the process, however it ends. Whoever gets the lock of a spool owns what is in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import struct
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from driftline.batches import Message
from driftline.errors import SpoolFullError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # the name is optional there

log = logging.getLogger("driftline")

SEGMENT_BYTES = 4 << 20
_MAGIC = b"DLSPOOL1"
_FRAME = struct.Struct("<II")
_DESCRIPTION = struct.Struct("<I")
_MAX_FRAME_BYTES = 256 << 20
_SUFFIX = ".spool"


@dataclass(slots=True, eq=False)
class Segment:
    """One file, and how far it has been read."""

    path: Path
    rows: int = 0
    bytes: int = 0
    unread: deque[Message] | None = None
    outstanding: int = 0
    rows_acknowledged: int = 0


def default_directory() -> Path:
    """``$XDG_STATE_HOME/driftline/spool``, else below ``~/.local/state``; a temporary one without a home."""
    state = os.environ.get("XDG_STATE_HOME")
    if state:
        return Path(state) / "driftline" / "spool"
    try:
        return Path.home() / ".local" / "state" / "driftline" / "spool"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"driftline-spool-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


def folder_for(root: Path, bootstrap_servers: str, topic_prefix: str, deployment_id: str) -> Path:
    """Where the spools of one deployment on one cluster lie: nobody else may adopt them."""
    identity = json.dumps([bootstrap_servers, topic_prefix, deployment_id]).encode()
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", deployment_id)[:40]
    return root / f"{readable}-{hashlib.sha256(identity).hexdigest()[:16]}"


class Spool:
    """A first-in, first-out queue of messages on disk. Used by one thread."""

    def __init__(self, directory: Path, limit_bytes: int, *, own: bool = True) -> None:
        self.directory = directory
        self.own = own
        self.rows = 0
        """Rows that were not acknowledged yet; of an adopted spool, those in segments read so far."""
        self.lost_rows = 0
        """Rows that were written but could not be read back."""
        self._limit_bytes = limit_bytes
        self._lock: int | None = None
        self._segments: deque[Segment] = deque()
        self._writing: Segment | None = None
        self._file: int | None = None
        self._put_back: deque[Message] = deque()
        self._next_number = 1

    @classmethod
    def create(cls, folder: Path, limit_bytes: int) -> Spool:
        """A new, empty spool. Nothing is written before the first append."""
        name = f"{time.time_ns():020d}-{os.getpid()}-{os.urandom(4).hex()}"
        return cls(folder / name, limit_bytes)

    @classmethod
    def adopt(cls, directory: Path) -> Spool | None:
        """The spool of a process that has ended; None if its process lives or there is nothing in it."""
        spool = cls(directory, 0, own=False)
        if not spool._take_lock():
            return None
        for path in sorted(directory.glob(f"*{_SUFFIX}")):
            spool._segments.append(Segment(path, bytes=path.stat().st_size))
        if not spool._segments:
            spool.close()
            return None
        return spool

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return sum(segment.bytes for segment in self._segments)

    @property
    def empty(self) -> bool:
        """Whether every frame was acknowledged."""
        return not self._segments and not self._put_back

    # Writing

    def append(self, message: Message) -> None:
        """Add a message at the end; durable after :meth:`sync`.

        Raises:
            SpoolFullError: The limit is reached.
            OSError: The disk does not take it; what was written of it is cut off again.
        """
        frame = _frame(message)
        if self.bytes + len(frame) > self._limit_bytes:
            raise SpoolFullError(
                f"the spool in {self.directory} has reached its limit of {self._limit_bytes} bytes: "
                "raise spool_limit_bytes, or bring Kafka back"
            )
        segment = self._writing
        if segment is None or self._file is None or segment.bytes >= SEGMENT_BYTES:
            segment = self._open_segment()
        assert self._file is not None
        try:
            _write_all(self._file, frame)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, segment.bytes)
                os.lseek(self._file, segment.bytes, os.SEEK_SET)
            if not segment.rows:
                self._seal()
                self._remove(segment)
            raise
        segment.bytes += len(frame)
        segment.rows += message.rows
        self.rows += message.rows

    def _open_segment(self) -> Segment:
        self._seal()
        if self._lock is None:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self._take_lock():
                raise OSError(f"{self.directory} is locked by another process")
        path = self.directory / f"{self._next_number:08d}{_SUFFIX}"
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o600)
        try:
            _write_all(file, _MAGIC)
        except OSError:
            os.close(file)
            path.unlink()
            raise
        _sync_directory(self.directory)
        self._next_number += 1
        self._file = file
        self._writing = Segment(path, bytes=len(_MAGIC))
        self._segments.append(self._writing)
        return self._writing

    def sync(self) -> None:
        """Bring everything appended to the disk (fsync)."""
        if self._file is not None:
            os.fsync(self._file)

    def _seal(self) -> None:
        if self._file is not None:
            os.fsync(self._file)
            os.close(self._file)
        self._file, self._writing = None, None

    # Reading

    def next(self) -> Message | None:
        """The oldest message that is neither out nor acknowledged; None if there is none."""
        if self._put_back:
            return self._put_back.popleft()
        for segment in list(self._segments):
            if segment is self._writing:
                if segment.rows == 0:
                    return None
                self._seal()
            if segment.unread is None:
                segment.unread = deque(_frames(segment))
                if not self.own:
                    segment.rows = sum(message.rows for message in segment.unread)
                    self.rows += segment.rows
            if segment.unread:
                segment.outstanding += 1
                message = segment.unread.popleft()
                message.origin = (self, segment)
                return message
            self._finish(segment)
        return None

    def put_back(self, messages: Iterable[Message]) -> None:
        """Give back messages that could not be delivered; they come next, in the order given."""
        self._put_back.extendleft(reversed(list(messages)))

    def acknowledge(self, message: Message) -> None:
        """A message was delivered, or given up: it is never returned again."""
        segment: Segment = message.origin[1]
        segment.outstanding -= 1
        segment.rows_acknowledged += message.rows
        self.rows -= message.rows
        self._finish(segment)

    def _finish(self, segment: Segment) -> None:
        if segment.unread or segment.unread is None or segment.outstanding or segment not in self._segments:
            return
        lost = segment.rows - segment.rows_acknowledged
        self.lost_rows += lost
        self.rows -= lost
        self._remove(segment)

    def _remove(self, segment: Segment) -> None:
        self._segments.remove(segment)
        with contextlib.suppress(OSError):
            segment.path.unlink()

    # The lock

    def _take_lock(self) -> bool:
        if fcntl is None:
            return self.own  # without file locks nobody adopts; see sdk/README.md
        try:
            lock = os.open(self.directory / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        if not (self.directory / "lock").exists():  # its last owner removed it between the two calls
            os.close(lock)
            return False
        self._lock = lock
        return True

    def close(self) -> None:
        """Let go of the spool. What was not acknowledged stays for whoever adopts it."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._seal()
        if self._lock is None:
            return
        if not self._segments:
            with contextlib.suppress(OSError):
                (self.directory / "lock").unlink()
                self.directory.rmdir()
        os.close(self._lock)
        self._lock = None

    def abandon(self) -> None:
        """In a forked child: close the parent's files without touching what they mean."""
        for descriptor in (self._file, self._lock):
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._file = self._lock = None


def adoptable(folder: Path, known: Container[Path]) -> Iterator[Spool]:
    """The spools that dead processes left in a folder, oldest first, locked."""
    try:
        directories = sorted(path for path in folder.iterdir() if path.is_dir() and path not in known)
    except OSError:
        return
    for directory in directories:
        spool = Spool.adopt(directory)
        if spool is not None:
            yield spool


def _frame(message: Message) -> bytes:
    description = json.dumps(
        {
            "topic": message.topic,
            "key": message.key.decode(),
            "headers": message.headers,
            "rows": message.rows,
        },
        ensure_ascii=False,
    ).encode()
    payload = _DESCRIPTION.pack(len(description)) + description + message.value
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _frames(segment: Segment) -> Iterator[Message]:
    try:
        data = memoryview(segment.path.read_bytes())
    except OSError as error:
        log.error("the spool segment %s cannot be read: %s", segment.path, error)
        return
    if bytes(data[: len(_MAGIC)]) != _MAGIC:
        if len(data):
            log.error("%s is not a spool segment: passed over", segment.path)
        return
    position = len(_MAGIC)
    while position + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, position)
        payload = data[position + _FRAME.size : position + _FRAME.size + length]
        if length > _MAX_FRAME_BYTES or len(payload) < length:
            break
        position += _FRAME.size + length
        message = _message(payload) if zlib.crc32(payload) == checksum else None
        if message is None:
            log.error("%s: a batch before byte %d was altered and is passed over", segment.path, position)
        else:
            yield message
    if position < len(data):
        log.warning("%s: the last %d bytes were not written whole", segment.path, len(data) - position)


def _message(payload: memoryview) -> Message | None:
    try:
        (length,) = _DESCRIPTION.unpack_from(payload)
        start = _DESCRIPTION.size + length
        described = json.loads(bytes(payload[_DESCRIPTION.size : start]))
        return Message(
            topic=described["topic"],
            key=described["key"].encode(),
            value=bytes(payload[start:]),
            headers=[(name, value) for name, value in described["headers"]],
            rows=described["rows"],
        )
    except (ValueError, KeyError, TypeError, struct.error):
        return None


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _sync_directory(directory: Path) -> None:
    if fcntl is None:
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
