"""What every command that speaks to Kafka starts from."""

from __future__ import annotations

import getpass
import os

from driftline.settings import KafkaSettings


def kafka_settings() -> KafkaSettings:
    """The settings of this shell.

    Raises:
        SettingsError: One of them cannot be used.
    """
    return KafkaSettings.from_environment()


def actor() -> str:
    """Who runs the command, for the audit: ``DRIFTLINE_ACTOR`` or the user of this machine."""
    named = os.environ.get("DRIFTLINE_ACTOR", "").strip()
    if named:
        return named
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid:{os.getuid()}" if hasattr(os, "getuid") else "unknown"
