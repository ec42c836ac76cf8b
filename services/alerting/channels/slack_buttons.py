"""What can be pressed in a Slack message, and how it is written into what comes back.

A pressed button comes back with the text of its ``value``: ``DO:INCIDENT,INCIDENT…`` or ``silence/MILLISECONDS:…``.
Limits: value of a button 2000 characters, of an option 150, its text 75.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from services.alerting.incidents.actions import Do
from services.alerting.incidents.views import ACKNOWLEDGED, RESOLVED, SILENCED, Incident

ACTION_PREFIX = "driftline:"
"""Of every ``action_id``; others are not ours."""

NOTE_VIEW = "driftline:note"
"""``callback_id`` of the form for a note."""

NOTE_BLOCK, NOTE_FIELD = "note", "text"

DURATIONS = (("1 h", 3_600_000), ("4 h", 4 * 3_600_000), ("1 day", 24 * 3_600_000))
"""What a silence from Slack can last, milliseconds."""

_MOST_IN_BUTTON = 120
_MOST_IN_OPTION = 9

Block = dict[str, Any]


def value_of(do: Do, incidents: Sequence[str], for_ms: int | None = None) -> str:
    """What a button carries."""
    what = do.value if for_ms is None else f"{do.value}/{for_ms}"
    return f"{what}:{','.join(incidents)}"


def parse_value(text: str) -> tuple[Do, tuple[str, ...], int | None]:
    """The opposite of :func:`value_of`.

    Raises:
        ValueError: It is none.
    """
    found = re.fullmatch(r"([a-z]+)(?:/(\d{1,11}))?:([0-9a-f]{12}(?:,[0-9a-f]{12})*)", text)
    if found is None:
        raise ValueError("the value of the button is none of ours")
    do = Do(found[1])
    if (do is Do.SILENCE) != (found[2] is not None):
        raise ValueError("the value of the button has a duration where there is none, or lacks it")
    return do, tuple(found[3].split(",")), int(found[2]) if found[2] else None


def buttons(incidents: Sequence[Incident]) -> Block | None:
    """The row of buttons; None where there is nothing left to do, or too much to be done at once."""
    left = [incident for incident in incidents if incident.status != RESOLVED]
    if not left or len(left) > _MOST_IN_BUTTON:
        return None
    ids = [incident.id for incident in left]
    every = " all" if len(incidents) > 1 else ""
    taken = all(incident.status == ACKNOWLEDGED for incident in left)
    elements: list[Block] = []
    if taken:
        elements.append(_button(Do.UNACKNOWLEDGE, f"Give back{every}", ids))
    else:
        elements.append({**_button(Do.ACKNOWLEDGE, f"Acknowledge{every}", ids), "style": "primary"})
    if len(ids) <= _MOST_IN_OPTION and any(incident.state != SILENCED for incident in left):
        elements.append(_silences(f"Silence{every} for …", ids))
    if len(incidents) == 1:
        elements.append(_button(Do.NOTE, "Note …", ids))
    elements.append({**_button(Do.RESOLVE, f"Resolve{every}", ids), "style": "danger", "confirm": _confirm(len(ids))})
    # Slack shows a choice that was made until its block has another id: after each change nothing is chosen.
    changes = sum(incident.revision for incident in incidents)
    return {"type": "actions", "block_id": f"driftline:buttons:{changes}", "elements": elements}


def menu(incident: Incident) -> Block:
    """The same for one incident of several: a menu beside it."""
    taken = incident.status == ACKNOWLEDGED
    do, name = (Do.UNACKNOWLEDGE, "Give back") if taken else (Do.ACKNOWLEDGE, "Acknowledge")
    options = [_option(name, value_of(do, [incident.id]))]
    options += [_option(f"Silence for {text}", value_of(Do.SILENCE, [incident.id], ms)) for text, ms in DURATIONS]
    options.append(_option("Resolve", value_of(Do.RESOLVE, [incident.id])))
    return {"type": "overflow", "action_id": f"{ACTION_PREFIX}menu", "options": options}


def note_form(incident_id: str) -> Block:
    """The form in which somebody writes a note."""
    return {
        "type": "modal",
        "callback_id": NOTE_VIEW,
        "private_metadata": value_of(Do.NOTE, [incident_id]),
        "title": {"type": "plain_text", "text": "Note"},
        "submit": {"type": "plain_text", "text": "Save"},
        "close": {"type": "plain_text", "text": "Cancel"},
        "blocks": [
            {
                "type": "input",
                "block_id": NOTE_BLOCK,
                "label": {"type": "plain_text", "text": f"On incident {incident_id}"},
                "element": {
                    "type": "plain_text_input",
                    "action_id": NOTE_FIELD,
                    "multiline": True,
                    "max_length": 2000,
                },
            }
        ],
    }


def _button(do: Do, text: str, ids: Sequence[str]) -> Block:
    return {
        "type": "button",
        "action_id": f"{ACTION_PREFIX}{do.value}",
        "text": {"type": "plain_text", "text": text, "emoji": False},
        "value": value_of(do, ids),
    }


def _silences(text: str, ids: Sequence[str]) -> Block:
    return {
        "type": "static_select",
        "action_id": f"{ACTION_PREFIX}{Do.SILENCE.value}",
        "placeholder": {"type": "plain_text", "text": text, "emoji": False},
        "options": [_option(name, value_of(Do.SILENCE, ids, ms)) for name, ms in DURATIONS],
    }


def _option(text: str, content: str) -> Block:
    return {"text": {"type": "plain_text", "text": text, "emoji": False}, "value": content}


def _confirm(count: int) -> Block:
    what = "the incident" if count == 1 else f"{count} incidents"
    return {
        "title": {"type": "plain_text", "text": "Resolve?"},
        "text": {"type": "plain_text", "text": f"This ends {what} for everybody. A new alarm opens it again."},
        "confirm": {"type": "plain_text", "text": "Resolve"},
        "deny": {"type": "plain_text", "text": "Cancel"},
    }
