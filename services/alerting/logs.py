"""Log lines on standard error: for people, or JSON for machines; secrets taken out of the finished line."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable

from services.alerting.channels.base import Redactor
from services.alerting.words.text import clean

Hide = Callable[[Iterable[str]], None]
"""Takes further secrets out of every line from now on; those before stay hidden."""


class _Lines(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z")
        self._secrets: set[str] = set()
        self._redact = Redactor(())
        self._as_json = as_json

    def hide(self, secrets: Iterable[str]) -> None:
        self._secrets |= set(secrets)
        self._redact = Redactor(self._secrets)

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


def configure_logging(secrets: Iterable[str], *, level: str = "info", as_json: bool = False) -> Hide:
    """Send every logger's lines to standard error, without secrets, and with data made harmless for a terminal.

    Returns what hides further secrets: a routing file that is loaded anew may bring some.
    """
    lines = _Lines(as_json=as_json)
    lines.hide(secrets)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(lines)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Which of its parts a library sets up at each start tells nobody anything.
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    return lines.hide
