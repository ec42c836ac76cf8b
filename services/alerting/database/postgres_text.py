"""Text for PostgreSQL, which has no place for the character NUL.

Texts come from events that anybody may have written. SQLite takes such a text; PostgreSQL refuses the whole
transaction, and with it every alert behind that one.
"""

from __future__ import annotations

from psycopg.types.string import StrDumper

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class CleanTextDumper(StrDumper):
    """Writes texts with NUL as U+FFFD."""

    def dump(self, obj: str) -> bytes | bytearray | memoryview | None:
        """The bytes for the server."""
        return super().dump(obj.replace("\x00", REPLACEMENT))
