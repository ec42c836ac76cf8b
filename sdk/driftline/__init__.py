"""Driftline's client for serving applications, and the contract that all of Driftline shares.

``Client`` publishes predictions and outcomes. Everything else here is for those who speak the contract themselves.
"""

from driftline.buffer import Counters
from driftline.client import Client
from driftline.codec import decode, encode
from driftline.errors import (
    ClientClosedError,
    CodecError,
    DriftlineError,
    EventError,
    KafkaUnavailableError,
    RegistryError,
    SettingsError,
    SpoolFullError,
)
from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from driftline.settings import KafkaSettings
from driftline.topics import Topics, baseline_key, record_key

__version__ = "0.1.0"

__all__ = [
    "CategoricalColumn",
    "Client",
    "ClientClosedError",
    "CodecError",
    "Counters",
    "DriftlineError",
    "EventError",
    "KafkaSettings",
    "KafkaUnavailableError",
    "OutcomeColumns",
    "PredictionColumns",
    "RegistryError",
    "SettingsError",
    "SpoolFullError",
    "Topics",
    "baseline_key",
    "decode",
    "encode",
    "record_key",
]
