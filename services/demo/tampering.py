"""A copy of the audit record that somebody altered."""

from __future__ import annotations

import base64
import json
from pathlib import Path


def flip_one_byte(original: Path, altered: Path) -> None:
    """Copy an export with one bit of one byte changed, in the middle record's exact bytes."""
    lines = original.read_text("utf-8").splitlines(keepends=True)
    records = [i for i, line in enumerate(lines) if "value" in json.loads(line)]
    chosen = records[len(records) // 2]
    document = json.loads(lines[chosen])
    value = bytearray(base64.b64decode(document["value"]))
    value[len(value) // 2] ^= 1
    document["value"] = base64.b64encode(bytes(value)).decode()
    lines[chosen] = json.dumps(document) + "\n"
    altered.write_text("".join(lines), "utf-8")
