"""The TLS and SASL settings of librdkafka as Faust's."""

from __future__ import annotations

import ssl
from typing import Any

import faust

from driftline.errors import SettingsError
from driftline.settings import KafkaSettings


def broker_credentials(settings: KafkaSettings) -> Any:
    """Faust's ``broker_credentials`` for the same cluster; None for plain text.

    Raises:
        SettingsError: A security protocol that Faust's driver does not speak.
    """
    options = settings.librdkafka
    protocol = options.get("security.protocol", "PLAINTEXT").upper()
    if protocol == "PLAINTEXT":
        return None
    context = _ssl_context(settings) if protocol.endswith("SSL") else None
    if protocol == "SSL":
        return faust.SSLCredentials(context=context)
    if not protocol.startswith("SASL_"):
        raise SettingsError(
            f"security.protocol: expected PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL, came {protocol!r}"
        )
    mechanism = options.get("sasl.mechanism", options.get("sasl.mechanisms", "PLAIN"))
    if mechanism not in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        raise SettingsError(f"sasl.mechanism: expected PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, came {mechanism!r}")
    return faust.SASLCredentials(
        username=options.get("sasl.username", ""),
        password=options.get("sasl.password", ""),
        mechanism=mechanism,
        ssl_context=context,
    )


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    options = settings.librdkafka
    context = ssl.create_default_context(cafile=options.get("ssl.ca.location"))
    if options.get("ssl.endpoint.identification.algorithm") == "none":
        context.check_hostname = False
    certificate = options.get("ssl.certificate.location")
    if certificate:
        context.load_cert_chain(certificate, options.get("ssl.key.location"), options.get("ssl.key.password"))
    return context
