"""Regular expressions that cannot be made slow.

Names of features and segments are data: whoever can send them would choose one that sends a backtracking expression
round for minutes. What makes that possible is refused when the file is read: a repetition or a choice inside a
repetition, more than two repetitions without end, references back, and looking around. What is left takes at most the
square of the label's length.
"""

from __future__ import annotations

import re
from re import _constants as op  # type: ignore[attr-defined]  # the parser behind re is not documented
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

_MOST_CHARACTERS = 500
_MOST_REPEATS = 2
_LONG = 32
"""A repetition that may go on for longer than this counts as one without end."""


def compile_expression(text: str) -> re.Pattern[str]:
    """An expression for ``fullmatch``.

    Raises:
        ValueError: It is none, or it could be made slow; the message says why.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"expected an expression of at most {_MOST_CHARACTERS} characters, came {len(text):,}")
    try:
        compiled = re.compile(text)
        long = _long_repeats(parser.parse(text), inside=False)
    except (re.error, OverflowError) as error:
        raise ValueError(f"not a regular expression: {error}") from None
    except RecursionError:
        raise ValueError("expected an expression with less nesting") from None
    if long > _MOST_REPEATS:
        raise ValueError(
            f"expected at most {_MOST_REPEATS} repetitions without end (*, +, {{n,}}), came {long}: a hostile name "
            "could make it slow"
        )
    return compiled


def _long_repeats(parsed: Any, *, inside: bool) -> int:
    """How many repetitions without end there are."""
    count = 0
    for code, argument in parsed:
        if code in (op.GROUPREF, op.GROUPREF_EXISTS, op.ASSERT, op.ASSERT_NOT):
            raise ValueError("references back and looking around ((?=, (?<, \\1) are not taken: they can be made slow")
        if code in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
            least, most, body = argument
            if inside and least != most:
                raise ValueError("a repetition inside a repetition, as in (a+)*, is not taken: it can be made slow")
            repeats = most > 1
            count += (most > _LONG and least != most) + _long_repeats(body, inside=inside or repeats)
        elif code is op.BRANCH:
            if inside:
                raise ValueError("a choice inside a repetition, as in (a|ab)*, is not taken: it can be made slow")
            # The longest of the choices: only one of them is gone through at a time.
            count += max(_long_repeats(branch, inside=inside) for branch in argument[1])
        elif code is op.SUBPATTERN:
            count += _long_repeats(argument[3], inside=inside)
        elif code is op.ATOMIC_GROUP:
            count += _long_repeats(argument, inside=inside)
    return count
