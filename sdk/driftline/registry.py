"""A client of Confluent's schema registry, as much of it as the codec needs.

A schema is registered under the subject of its record's full name (``driftline.PredictionBatch``: the record name
strategy), because one topic carries more than one kind of record.
"""

from __future__ import annotations

import base64
import json
import ssl
import threading
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from driftline.codec import Schema, parse_schema
from driftline.errors import CodecError, RegistryError, SettingsError
from driftline.settings import KafkaSettings

_CONTENT_TYPE = "application/vnd.schemaregistry.v1+json"
_MAX_ANSWER_BYTES = 4 << 20


class Registry:
    """Schemas by id and ids by schema, each asked for once. Any number of threads may share one.

    Args:
        url: Base URL, ``http`` or ``https``; ``user:password@`` in it is used and never shown.
        user_info: ``user:password`` for basic authentication.
        timeout_seconds: How long the registry has to answer.
        ca_file: PEM file of certificate authorities to trust, instead of the system's.

    Raises:
        SettingsError: The URL is none.
    """

    def __init__(
        self, url: str, *, user_info: str | None = None, timeout_seconds: float = 5.0, ca_file: str | None = None
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError("schema_registry_url: expected an http or https URL with a host")
        if parts.username is not None and user_info is None:
            user_info = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        self.url = urllib.parse.urlunsplit(
            (parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", "")
        )
        self._authorization = (
            None if user_info is None else f"Basic {base64.b64encode(user_info.encode()).decode('ascii')}"
        )
        self._timeout_seconds = timeout_seconds
        self._tls = None
        if parts.scheme == "https":
            try:
                self._tls = ssl.create_default_context(cafile=ca_file)
            except OSError as error:
                raise SettingsError(f"ssl.ca.location: expected a readable PEM file: {error}") from error
        self._lock = threading.Lock()
        self._ids: dict[bytes, int] = {}
        self._schemas: dict[int, Schema] = {}

    @classmethod
    def from_settings(cls, settings: KafkaSettings) -> Registry | None:
        """The registry that the settings name, if they do; TLS trust is ``ssl.ca.location``, as for Kafka."""
        if settings.schema_registry_url is None:
            return None
        return cls(
            settings.schema_registry_url,
            user_info=settings.schema_registry_user_info,
            ca_file=settings.librdkafka.get("ssl.ca.location"),
        )

    def id_of(self, schema: Schema) -> int:
        """The id under which the schema is registered; registers it if need be.

        Raises:
            RegistryError: The registry cannot be reached, or refuses the schema.
        """
        with self._lock:
            known = self._ids.get(schema.fingerprint)
        if known is not None:
            return known
        subject = urllib.parse.quote(f"driftline.{schema.name}", safe="")
        answer = self._ask(f"/subjects/{subject}/versions", {"schema": schema.text, "schemaType": "AVRO"})
        schema_id = answer.get("id")
        if not isinstance(schema_id, int) or isinstance(schema_id, bool) or not 0 <= schema_id < 1 << 32:
            raise RegistryError(f"the schema registry at {self.url} answered without an id: {str(answer)[:200]}")
        with self._lock:
            self._ids[schema.fingerprint] = schema_id
            self._schemas[schema_id] = schema
        return schema_id

    def schema_of(self, schema_id: int) -> Schema:
        """The schema behind an id.

        Raises:
            CodecError: There is none, or it is not an Avro record.
            RegistryError: The registry cannot be reached.
        """
        with self._lock:
            known = self._schemas.get(schema_id)
        if known is not None:
            return known
        try:
            answer = self._ask(f"/schemas/ids/{schema_id}", None)
        except _NotFoundError as error:
            raise CodecError(f"the schema registry knows no schema {schema_id}", reason="wrong_schema") from error
        text = answer.get("schema")
        if answer.get("schemaType", "AVRO") != "AVRO" or not isinstance(text, str):
            raise CodecError(f"schema {schema_id} of the registry is not Avro", reason="wrong_schema")
        try:
            schema = parse_schema(text)
        except Exception as error:  # fastavro raises many kinds for a text that is no schema
            raise CodecError(
                f"schema {schema_id} of the registry is not a record: {error!r}", reason="wrong_schema"
            ) from error
        with self._lock:
            self._schemas[schema_id] = schema
        return schema

    def _ask(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310  # the scheme was checked to be http or https
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Accept": _CONTENT_TYPE, "Content-Type": _CONTENT_TYPE},
        )
        if self._authorization is not None:
            request.add_unredirected_header("Authorization", self._authorization)
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_seconds, context=self._tls) as response:  # noqa: S310
                answer = json.loads(response.read(_MAX_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                detail = error.read(500).decode("utf-8", "replace")
            if error.code == 404 and body is None:
                raise _NotFoundError(detail) from error
            raise RegistryError(f"the schema registry at {self.url} answered {error.code}: {detail}") from error
        except (OSError, ValueError) as error:
            raise RegistryError(f"the schema registry at {self.url} did not answer as one: {error}") from error
        if not isinstance(answer, dict):
            raise RegistryError(f"the schema registry at {self.url} did not answer with an object")
        return answer


class _NotFoundError(RegistryError):
    pass
