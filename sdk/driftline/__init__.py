"""Driftline's client for serving applications, and the contract that all of Driftline shares.

``Client`` publishes predictions and outcomes, and decides by the humility rules. Everything else here is what it gives
and takes, or for those who speak the contract themselves.
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
    PredictionRefusedError,
    RegistryError,
    SettingsError,
    SpoolFullError,
)
from driftline.events import CategoricalColumn, OutcomeColumns, PredictionColumns
from driftline.humility.decision import Answer, Decision, Reason
from driftline.humility.decisions import Decisions
from driftline.humility.follow import HumilityStatus
from driftline.settings import KafkaSettings
from driftline.topics import Topics, baseline_key, record_key

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "CategoricalColumn",
    "Client",
    "ClientClosedError",
    "CodecError",
    "Counters",
    "Decision",
    "Decisions",
    "DriftlineError",
    "EventError",
    "HumilityStatus",
    "KafkaSettings",
    "KafkaUnavailableError",
    "OutcomeColumns",
    "PredictionColumns",
    "PredictionRefusedError",
    "Reason",
    "RegistryError",
    "SettingsError",
    "SpoolFullError",
    "Topics",
    "baseline_key",
    "decode",
    "encode",
    "record_key",
]
