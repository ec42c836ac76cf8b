"""What is wrong with a routing file: every problem with its line, and nothing of the file is used."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from services.alerting.errors import AlertingSettingsError

_SHOWN_CHARACTERS = 60
_SHOWN_PROBLEMS = 50
_WAY_CHARACTERS = 200


class PolicyError(AlertingSettingsError):
    """A routing file, or a part of one, that cannot be used.

    Attributes:
        problems: In the order of the file.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems or (message,)


class Problems:
    """Gathers what is wrong, so that one reading of a file tells all of it."""

    def __init__(self) -> None:
        self._found: list[tuple[int, str]] = []

    def add(self, line: int, where: str, text: str) -> None:
        """``where`` is the field; ``line`` counts from 1, 0 for what stands in no file."""
        place = f"line {line}: " if line else ""
        # Names of fields are whatever somebody wrote: kept short, and on one line.
        way = where if len(where) <= _WAY_CHARACTERS else f"{where[:_WAY_CHARACTERS]}…"
        told = f"{place}{way}: {text}" if way else f"{place}{text}"
        said = (line, "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in told))
        if said not in self._found:
            self._found.append(said)

    def __bool__(self) -> bool:
        return bool(self._found)

    def texts(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(text for _, text in sorted(self._found, key=lambda found: found[0]))

    def refuse(self, what: str) -> None:
        """Go on if nothing is wrong.

        Raises:
            PolicyError: Something is.
        """
        if not self._found:
            return
        texts = self.texts()
        shown = "\n".join(f"  {text}" for text in texts[:_SHOWN_PROBLEMS])
        more = f"\n  and {len(texts) - _SHOWN_PROBLEMS} more" if len(texts) > _SHOWN_PROBLEMS else ""
        count = "1 problem" if len(texts) == 1 else f"{len(texts)} problems"
        raise PolicyError(f"{what}: {count}, so nothing of it is used:\n{shown}{more}", texts)


def shown(value: object) -> str:
    """A wrong value for a message: quoted, and not all of it."""
    text = str(value)
    return repr(text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…")


def offer(name: str, known: Iterable[str]) -> str:
    """What may have been meant, or what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    if not names:
        return "there are none"
    return f"there are {', '.join(names[:12])}{' …' if len(names) > 12 else ''}"
