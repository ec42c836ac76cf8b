"""Settings of everything that speaks to Kafka, from the environment or a file.

``DRIFTLINE_BOOTSTRAP_SERVERS`` is the one a real cluster needs. Any librdkafka property can be given as
``DRIFTLINE_KAFKA_<PROPERTY>`` with dots as underscores: ``DRIFTLINE_KAFKA_SECURITY_PROTOCOL=SASL_SSL``,
``DRIFTLINE_KAFKA_SASL_MECHANISM=SCRAM-SHA-512``, ``DRIFTLINE_KAFKA_SSL_CA_LOCATION``.
A secret is better kept in a file: ``DRIFTLINE_KAFKA_SASL_PASSWORD_FILE`` names it, and
``DRIFTLINE_SCHEMA_REGISTRY_USER_INFO_FILE`` that with ``user:password`` for the schema registry. The same names, lower
case and without the prefix, can stand in the TOML file that ``DRIFTLINE_CONFIG`` names; the environment wins.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from driftline.errors import SettingsError
from driftline.topics import Topics

DEFAULT_BOOTSTRAP_SERVERS = "127.0.0.1:9092"
_SECRETS = ("password", "secret", "pem", "oauth")


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """How to reach Kafka.

    Attributes:
        bootstrap_servers: ``host:port`` pairs, comma separated.
        topics: Topic names.
        application_id: Prefix of consumer groups and transactional ids.
        schema_registry_url: Where schemas are registered; records use the Confluent wire format if given.
        schema_registry_user_info: ``user:password`` for it.
        librdkafka: Further librdkafka properties (TLS, SASL), passed through.
    """

    bootstrap_servers: str = DEFAULT_BOOTSTRAP_SERVERS
    topics: Topics = field(default_factory=Topics)
    application_id: str = "driftline"
    schema_registry_url: str | None = None
    schema_registry_user_info: str | None = None
    librdkafka: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> KafkaSettings:
        """Read the settings.

        Raises:
            SettingsError: The file cannot be read, or a value cannot be used.
        """
        env = os.environ if environment is None else environment
        given = _from_file(env.get("DRIFTLINE_CONFIG")) | _from_environment(env)
        return cls(
            bootstrap_servers=given.get("bootstrap_servers", DEFAULT_BOOTSTRAP_SERVERS),
            topics=Topics(given.get("topic_prefix", "")),
            application_id=given.get("application_id", "driftline"),
            schema_registry_url=given.get("schema_registry_url") or None,
            schema_registry_user_info=given.get("schema_registry_user_info") or None,
            librdkafka={
                _property(name.removeprefix("kafka_")): value
                for name, value in sorted(given.items())
                if name.startswith("kafka_")
            },
        )

    def client(self, **properties: Any) -> dict[str, Any]:
        """Properties for a confluent-kafka client; arguments use underscores for dots and win."""
        merged: dict[str, Any] = {"bootstrap.servers": self.bootstrap_servers, **self.librdkafka}
        merged.update({name.replace("_", "."): value for name, value in properties.items()})
        return merged

    def secret_names(self) -> list[str]:
        """The librdkafka properties whose values must not be shown."""
        return [name for name in self.librdkafka if any(secret in name for secret in _SECRETS)]

    def __repr__(self) -> str:
        secret = self.secret_names()
        shown = {name: "***" if name in secret else value for name, value in self.librdkafka.items()}
        return f"KafkaSettings({self.bootstrap_servers!r}, {self.topics!r}, {self.application_id!r}, {shown!r})"


def _property(name: str) -> str:
    return name.replace("_", ".")


def _from_environment(env: Mapping[str, str]) -> dict[str, str]:
    prefix = "DRIFTLINE_"
    names = ("BOOTSTRAP_SERVERS", "TOPIC_PREFIX", "APPLICATION_ID", "SCHEMA_REGISTRY_URL")
    given = {name.lower(): env[prefix + name] for name in names if prefix + name in env}
    for name, value in env.items():
        if name.startswith((prefix + "KAFKA_", prefix + "SCHEMA_REGISTRY_USER_INFO")):
            given |= _read_secret(name.removeprefix(prefix).lower(), value)
    return given


def _read_secret(name: str, value: str) -> dict[str, str]:
    if not name.endswith("_file"):
        return {name: value}
    try:
        return {name.removesuffix("_file"): Path(value).read_text("utf-8").strip()}
    except OSError as error:
        raise SettingsError(f"DRIFTLINE_{name.upper()} names a file that cannot be read: {error}") from error


def _from_file(path: str | None) -> dict[str, str]:
    if not path:
        return {}
    try:
        document = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"DRIFTLINE_CONFIG={path}: expected a readable TOML file: {error}") from error
    given: dict[str, str] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            continue  # tables belong to the services
        secret = name.startswith(("kafka_", "schema_registry_user_info"))
        given |= _read_secret(name, str(value)) if secret else {name: str(value)}
    return given
