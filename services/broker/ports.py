"""TCP ports on the loopback interface."""

import errno
import random
import socket

from services.broker.errors import BrokerError

# Below the range from which Linux (32768), macOS and Windows (49152) take the ports of outgoing connections: while a
# broker is down, a client that keeps trying to reach its port from that range can connect to itself and hold it.
_LOWEST, _HIGHEST = 20_000, 32_000
_ATTEMPTS = 200


def free_port(host: str, *, unlike: int | None = None) -> int:
    """Return a port that nobody listened on a moment ago.

    Raises:
        BrokerError: none of many tries was free.

    """
    chooser = random.SystemRandom()
    for _ in range(_ATTEMPTS):
        port = chooser.randint(_LOWEST, _HIGHEST)
        if port != unlike and bind_error(host, port) is None:
            return port
    raise BrokerError(f"no free port found between {_LOWEST} and {_HIGHEST} on {host}. Give one that is free.")


def bind_error(host: str, port: int) -> OSError | None:
    """Return why a server could not listen on the port now, None when it could."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        # As Java does it: connections that are merely winding down do not count.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((host, port))
            server.listen(1)
        except OSError as error:
            return error
    return None


def require_free(host: str, port: int, *, origin: str) -> None:
    """Raise unless a server could listen on the port now.

    Args:
        host: address to listen on.
        port: the port asked for.
        origin: where the number comes from, for the message.

    Raises:
        BrokerError: the port is taken, not allowed, or no port number.

    """
    if not 1 <= port <= 65_535:
        raise BrokerError(f"port {port} ({origin}): expected a number from 1 to 65535.")
    error = bind_error(host, port)
    if error is None:
        return
    if error.errno == errno.EADDRINUSE:
        raise BrokerError(
            f"port {port} on {host} is taken by another program ({origin}). Stop that program, or choose another port."
        )
    if error.errno == errno.EACCES:
        raise BrokerError(
            f"port {port} on {host} ({origin}) needs more rights than this user has. Choose one above 1023."
        )
    raise BrokerError(f"cannot listen on port {port} on {host} ({origin}): {error.strerror}.")
