"""What can go wrong in the contract and the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from driftline.humility.decision import Reason


class DriftlineError(Exception):
    """Base of every error this package raises on purpose."""


class CodecError(DriftlineError):
    """Bytes that are not a Driftline record.

    ``reason`` is the machine-readable word that a dead letter carries.
    """

    def __init__(self, message: str, *, reason: str = "undecodable") -> None:
        super().__init__(message)
        self.reason = reason


class EventError(DriftlineError):
    """A record that decodes, but says something impossible.

    ``reason`` is the machine-readable word that a dead letter carries.
    """

    def __init__(self, message: str, *, reason: str = "wrong_schema") -> None:
        super().__init__(message)
        self.reason = reason


class SettingsError(DriftlineError):
    """A setting that cannot be used."""


class ClientClosedError(DriftlineError):
    """The client was closed; nothing more can be logged with it."""


class KafkaUnavailableError(DriftlineError):
    """The client was told to wait for Kafka, and the time is over."""


class SpoolFullError(DriftlineError):
    """The spool has reached its limit."""


class RegistryError(DriftlineError):
    """The schema registry cannot be reached or refuses to answer. What was to be encoded or decoded is not at fault."""


class PredictionRefusedError(DriftlineError):
    """A humility rule says that the prediction is not to be served.

    Attributes:
        rule: Name of the rule that acted.
        message: What it says.
        reasons: All rules that fired.
    """

    def __init__(self, rule: str, message: str, reasons: tuple[Reason, ...] = ()) -> None:
        super().__init__(rule, message, reasons)
        self.rule = rule
        self.message = message
        self.reasons = reasons

    def __str__(self) -> str:
        return f"humility rule {self.rule!r}: {self.message}"
