"""The connection file: the address of the running service and a token, for commands on the same machine.

It is written anew at each start, mode 0600: whoever may read the service's files may operate it, nobody else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from services.access.roles import Role
from services.access.tokens import Identity, Token, TokensError, new_token, write_private

FILE_NAME = "alerting.json"
"""In the data directory."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the service.

    Attributes:
        url: Of the interface, without a path.
        token: To ask with.
        ca_file: Of the authority that its TLS certificate is checked by; empty for the system's.
    """

    url: str
    token: str = field(repr=False)
    ca_file: str = ""


def own_token(name: str) -> tuple[str, Token]:
    """A token of this process for people on this machine, and what it checks it by.

    Args:
        name: What the audit calls them: the user of the machine that started the service.
    """
    token, digest = new_token()
    return token, Token(Identity(name, Role.OPERATOR), digest)


def write_connection(path: Path, connection: Connection) -> None:
    """Write the file, for its owner's eyes alone.

    Raises:
        TokensError: It cannot be written.
    """
    document = {"url": connection.url, "token": connection.token}
    if connection.ca_file:
        document["ca_file"] = connection.ca_file
    write_private(path, json.dumps(document, indent=2) + "\n")


def read_connection(path: Path) -> Connection | None:
    """What the file says; None if there is none.

    Raises:
        TokensError: It cannot be read, or is none.
    """
    try:
        document = json.loads(path.read_bytes())
        return Connection(str(document["url"]), str(document["token"]), str(document.get("ca_file", "")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TokensError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokensError(f"{path}: expected an address and a token, as the alerting service writes them") from error
