"""Log lines on standard error: for people, or JSON for machines; secrets taken out of the finished line."""

from __future__ import annotations

import json
import logging
import sys

from services.alerting.channels.base import Redactor
from services.alerting.words.text import clean


class _Lines(logging.Formatter):
    def __init__(self, redact: Redactor, *, as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z")
        self._redact = redact
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        if not self._as_json:
            lines = super().format(record).split("\n")
            return self._redact("\n".join(map(clean, lines)))
        entry = {
            "time": self.formatTime(record, self.datefmt),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return self._redact(json.dumps(entry))


def configure_logging(secrets: list[str], *, level: str = "info", as_json: bool = False) -> None:
    """Send every logger's lines to standard error, without secrets, and with data made harmless for a terminal."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(Redactor(secrets), as_json=as_json))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
