"""Writing an export: the audit topic and its checkpoints in one file that anybody can read and verify.

The format is lines of JSON in ASCII, one object a line, each ended by a line feed:

1. the header: ``{"format": "driftline-audit-export/1", "topic": …, "checkpoint_topic": …, "exported_ms": …}``;
2. one line per checkpoint, in the order of its topic: ``{"checkpoint": OFFSET, "size": …, "first_index": …,
   "last_offset": …, "leaf_hashes": BASE64, "note": …}``; one that cannot be decoded is
   ``{"checkpoint": OFFSET, "raw": BASE64, "problem": …}``;
3. one line per record, in the order of its topic: ``{"record": OFFSET, "timestamp_ms": …, "value": BASE64}``, with the
   exact bytes of the record's value;
4. the end: ``{"end": "driftline-audit-export/1", "records": N, "checkpoints": N, "sha256": HEX}``, the digest of all
   lines before.

The leaf hash of a record is ``SHA-256(00 || value)``, an inner node ``SHA-256(01 || left || right)`` (RFC 6962,
section 2.1); a note is a C2SP signed note. `verify.py` reads this with Python's standard library and ``cryptography``.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from driftline.settings import KafkaSettings
from services.governance.checkpoints import seal_record
from services.governance.errors import ExportError
from services.governance.topic import LogRecord, TopicReader
from services.governance.verify import EXPORT_FORMAT


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What was written."""

    path: Path
    records: int
    checkpoints: int
    sha256: str


def export_topic(
    kafka: KafkaSettings, path: Path, *, progress: Callable[[int, int], None] | None = None
) -> ExportSummary:
    """Write the audit topic and its checkpoints, as they are now, to a new file.

    Args:
        kafka: How to reach Kafka.
        path: The file; replaced if it exists, and only by a complete one.
        progress: Called with offsets done and to do.

    Raises:
        ClusterError: Kafka does not answer.
        ExportError: The file cannot be written.
    """
    topics = kafka.topics
    exported_ms = time.time_ns() // 1_000_000
    # Checkpoints first: every record they cover is on the topic by then.
    with TopicReader(kafka, topics.audit_checkpoints) as reader:
        seals = [record for batch in reader.batches() for record in batch]
    with TopicReader(kafka, topics.audit) as reader:
        _, high = reader.watermarks()

        def records() -> Iterator[LogRecord]:
            for batch in reader.batches():
                yield from batch
                if progress is not None:
                    progress(batch[-1].offset + 1, high)

        header = {"topic": topics.audit, "checkpoint_topic": topics.audit_checkpoints, "exported_ms": exported_ms}
        return write_export(path, header, seals, records())


def write_export(
    path: Path, header: dict[str, Any], seals: Iterable[LogRecord], records: Iterable[LogRecord]
) -> ExportSummary:
    """Write an export from the records of the two topics.

    Raises:
        ExportError: The file cannot be written.
    """
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            summary = _write(file, path, header, seals, records)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        raise ExportError(f"the export {path} cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return summary


def _write(
    file: IO[bytes], path: Path, header: dict[str, Any], seals: Iterable[LogRecord], records: Iterable[LogRecord]
) -> ExportSummary:
    digest, counts = sha256(), {"records": 0, "checkpoints": 0}

    def put(line: dict[str, Any]) -> None:
        data = (json.dumps(line, separators=(",", ":")) + "\n").encode()
        digest.update(data)
        file.write(data)

    put({"format": EXPORT_FORMAT, **header})
    for record in seals:
        put(_checkpoint_line(record))
        counts["checkpoints"] += 1
    for record in records:
        put({"record": record.offset, "timestamp_ms": record.timestamp_ms, "value": _base64(record.value)})
        counts["records"] += 1
    whole = digest.hexdigest()
    put({"end": EXPORT_FORMAT, **counts, "sha256": whole})
    return ExportSummary(path, counts["records"], counts["checkpoints"], whole)


def _checkpoint_line(record: LogRecord) -> dict[str, Any]:
    seal = seal_record(record)
    if seal.problem is not None:
        return {"checkpoint": record.offset, "raw": _base64(record.value), "problem": seal.problem}
    return {
        "checkpoint": record.offset,
        "size": seal.size,
        "first_index": seal.first_index,
        "last_offset": seal.last_offset,
        "leaf_hashes": _base64(seal.leaf_hashes),
        "note": seal.note,
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
