"""Addresses of pictures that messages link to: signed, since who shows them (a mail program, PagerDuty) has no token,
and with an end.

The signature is HMAC-SHA256 over what the address is of and when it ends; the key never leaves the service's database.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

import sqlalchemy as sa

from services.alerting.database import tables as t

PLOT_SECONDS = 30 * 86_400
"""How long a picture in a message is shown."""

_DOMAIN = b"driftline alerting plot v1"
_KEY_NAME = "plot_key"


def plot_key(connection: sa.Connection) -> bytes:
    """The key of this database, made at its first start."""
    found = connection.execute(sa.select(t.watch.c.value).where(t.watch.c.name == _KEY_NAME)).scalar()
    if isinstance(found, str):
        return base64.b64decode(found)
    key = secrets.token_bytes(32)
    connection.execute(sa.insert(t.watch).values(name=_KEY_NAME, value=base64.b64encode(key).decode()))
    return key


def signature(key: bytes, incident_id: str, rank: int, expires: int) -> str:
    """Hexadecimal HMAC of a picture's address; ``expires`` in seconds since 1970 UTC."""
    said = b"\0".join([_DOMAIN, incident_id.encode(), str(rank).encode(), str(expires).encode()])
    return hmac.new(key, said, hashlib.sha256).hexdigest()


def plot_path(key: bytes, incident_id: str, rank: int, expires: int) -> str:
    """The address of a picture, to be put after the public one.

    Args:
        key: See :func:`plot_key`.
        incident_id: Whose.
        rank: 1 for the first of its pictures (:attr:`services.alerting.words.incident.Text.plots`).
        expires: Seconds since 1970 UTC.
    """
    return f"/plots/{incident_id}/{rank}.png?expires={expires}&signature={signature(key, incident_id, rank, expires)}"


def genuine(key: bytes, incident_id: str, rank: int, expires: int, given: str) -> bool:
    """Whether an address was signed here; in constant time."""
    return hmac.compare_digest(signature(key, incident_id, rank, expires).encode(), given.encode())
