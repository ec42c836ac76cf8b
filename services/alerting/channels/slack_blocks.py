"""What a Slack message looks like: Block Kit, within its limits.

Limits: header 150 characters, section 3000, field 2000 and ten of them, 50 blocks. A message of more than about 13,000
characters in all is refused with ``msg_blocks_too_long``, which is not documented; what does not fit is left out by its
importance, and the message says so.
Source: https://docs.slack.dev/reference/block-kit/blocks and https://github.com/slackapi/bolt-js/issues/2509
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.alerting.channels.delivery import Delivery
from services.alerting.channels.slack_buttons import buttons, menu
from services.alerting.incidents.views import RESOLVED, Incident
from services.alerting.words.incident import Part, Text
from services.alerting.words.text import Line, Value, clean, shorten

MAX_HEADER = 150
MAX_SECTION = 3000
MAX_FIELD = 2000
MAX_FIELDS = 10
MAX_BLOCKS = 50
MAX_TEXT = 800
"""What telephones and screen readers are given; they cut it anyway."""

MAX_BLOCKS_TOTAL = 11_600
"""Of the JSON of all blocks; with the text, the metadata and the note of what was cut it stays below 13,000."""

_STORY_CHARACTERS = 2000
_NAME_CHARACTERS = 200
_INERT = str.maketrans({"`": "ˋ", "*": "∗"})
_CUT = "… (cut)"

# How much a block matters when not all of them fit; 0 is never left out.
_ALWAYS, _NEWS, _STEPS, _CAUSES, _FACTS, _OTHERS = range(6)

Block = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SlackMessage:
    """What is posted.

    Attributes:
        text: For notifications and screen readers.
        blocks: What is seen.
    """

    text: str
    blocks: list[Block]


def root_message(text: Text, delivery: Delivery, *, answers: bool) -> SlackMessage:
    """The message that stands in the channel and shows how things are.

    Args:
        text: In words.
        delivery: What it is about.
        answers: Whether somebody hears when a button is pressed; without, there are none.
    """
    page = _Page()
    page.add(_ALWAYS, _header(text))
    # The message is changed in place: what is new is told in its thread, and here only while there is none, or when
    # it is the last word.
    if text.over or not delivery.receipt.get("ts"):
        page.extend(_NEWS, _sections(text.news))
    several = delivery.incidents if len(delivery.incidents) > 1 else ()
    for number, part in enumerate(text.parts):
        about = several[number] if number < len(several) and several[number].id in str(part.status) else None
        _add_part(page, part, about, first=number == 0, alone=len(text.parts) == 1, answers=answers)
    if text.more is not None:
        page.add(_NEWS, _section(markup(text.more)))
    if text.steps is not None:
        page.add(_STEPS, _section(markup(text.steps)))
    if text.facts:
        page.add(_FACTS, _fields(text.facts))
    if text.story:
        page.add(_FACTS, _context(_joined(text.story, _STORY_CHARACTERS)))
    page.add(_ALWAYS, _context(_what_to_look_at(text)))
    if answers and (row := buttons(delivery.incidents)) is not None:
        page.add(_ALWAYS, row)
    return SlackMessage(_notification(text), page.blocks(str(text.command)))


def reopened_message() -> SlackMessage:
    """What is said in the thread of an earlier message: who followed it should follow the new one."""
    text = "It was opened again and is told of in a new message in the channel."
    return SlackMessage(text, [_section(text)])


def reply_message(text: Text, delivery: Delivery, *, loud: bool) -> SlackMessage:
    """What is said in the message's thread: what changed.

    Args:
        text: In words.
        delivery: What it is about.
        loud: It is shown in the channel too, where it must say by itself what it is about.
    """
    news = text.news or (text.summary,)
    page = _Page()
    if loud:
        page.add(_ALWAYS, _section(f"{text.mark} *{markup(text.headline, MAX_FIELD)}*"))
    page.extend(_NEWS, _sections(news))
    if loud and text.steps is not None:
        page.add(_STEPS, _section(markup(text.steps)))
    told = f"{text.mark} {_joined(news, MAX_TEXT)}" if not loud else _notification(text)
    return SlackMessage(shorten_marked(told, MAX_TEXT), page.blocks(str(text.command)))


@dataclass
class _Page:
    """Blocks in the order in which they are shown, each with how much it matters."""

    _pieces: list[tuple[int, Block]] = field(default_factory=list)

    def add(self, importance: int, block: Block) -> None:
        self._pieces.append((importance, block))

    def extend(self, importance: int, blocks: Iterable[Block]) -> None:
        self._pieces += [(importance, block) for block in blocks]

    def blocks(self, command: str) -> list[Block]:
        """Those that fit, the important ones first, in the order in which they are shown."""
        left_characters, left_blocks = MAX_BLOCKS_TOTAL, MAX_BLOCKS - 1
        kept: set[int] = set()
        for index in sorted(range(len(self._pieces)), key=lambda i: (self._pieces[i][0], i)):
            size = _size(self._pieces[index][1])
            if left_blocks and size <= left_characters:
                kept.add(index)
                left_characters -= size
                left_blocks -= 1
        shown = [block for index, (_, block) in enumerate(self._pieces) if index in kept]
        missing = len(self._pieces) - len(shown)
        if missing:
            what = "1 piece does" if missing == 1 else f"{missing} pieces do"
            note = f":scissors: Cut: {what} not fit into a Slack message. All of it: {_code(command)}"
            at = len(shown) - 1 if shown and shown[-1]["type"] == "actions" else len(shown)
            shown.insert(at, _context(shorten_marked(note, 500)))
        return shown


def _size(block: Block) -> int:
    return len(json.dumps(block, ensure_ascii=False)) + 2


def _header(text: Text) -> Block:
    header = escape(f"{text.mark} {text.headline}".strip(), MAX_HEADER)
    return {"type": "header", "text": {"type": "plain_text", "text": header, "emoji": False}}


def _notification(text: Text) -> str:
    return shorten_marked(f"{text.mark} {markup(text.summary, MAX_TEXT - 10)}".strip(), MAX_TEXT)


def _add_part(page: _Page, part: Part, incident: Incident | None, *, first: bool, alone: bool, answers: bool) -> None:
    """A signal, or one incident of several, which then has a menu of its own."""
    sentences, causes = (_NEWS, _CAUSES) if first else (_OTHERS, _OTHERS)
    if not alone:
        title = _section(f"*{markup(part.headline, MAX_FIELD)}*\n{markup(part.status, 900)}")
        if incident is not None and answers and incident.status != RESOLVED:
            title["accessory"] = menu(incident)
        page.add(_NEWS if incident is not None else sentences, title)
    page.extend(sentences, _sections(part.sentences))
    for rank, cause in enumerate(part.causes, start=1):
        page.add(causes, _section(f"*{rank}.* {markup(cause, MAX_SECTION - 20)}"))


def _fields(facts: Sequence[tuple[str, Value]]) -> Block:
    texts = [f"*{_name(name)}*\n{markup(Line((content,)), MAX_FIELD - 100)}" for name, content in facts[:MAX_FIELDS]]
    return {"type": "section", "fields": [_markdown(shorten_marked(text, MAX_FIELD)) for text in texts]}


def _name(text: str) -> str:
    """A fact's name; where it is a label's, it came from data, and stands outside of code."""
    return escape(clean(text).translate(_INERT), _NAME_CHARACTERS)


def _what_to_look_at(text: Text) -> str:
    found = [f"<{_link(address)}|{_name(name.replace('|', ' '))}>" for name, address in text.links]
    return " · ".join([*[link for link in found if len(link) <= 700][:5], _code(str(text.command)[:300])])


def _link(address: str) -> str:
    """``>`` and ``|`` would end the address."""
    return address.replace("|", "%7C").replace(">", "%3E").replace("<", "%3C").replace("&", "&amp;")


def _sections(lines: Sequence[Line]) -> list[Block]:
    """Lines below each other, in as few sections as they fit."""
    texts: list[str] = []
    for marked in map(markup, lines):
        if texts and len(texts[-1]) + 1 + len(marked) <= MAX_SECTION:
            texts[-1] += f"\n{marked}"
        else:
            texts.append(marked)
    return [_section(text) for text in texts if text]


def _joined(lines: Sequence[Line], limit: int) -> str:
    """As many lines below each other as fit, the first ones first."""
    text = ""
    for line in lines:
        left = limit - len(text) - 1
        if left < 40:
            return f"{text}\n…"[:limit]
        text = f"{text}\n{markup(line, left - 10)}" if text else markup(line, left - 10)
    return text


def _section(text: str) -> Block:
    return {"type": "section", "text": _markdown(text or "–")}


def _context(text: str) -> Block:
    return {"type": "context", "elements": [_markdown(text or "–")]}


def _markdown(text: str) -> Block:
    # verbatim: Slack makes no links and mentions out of plain words
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def markup(text: Line, limit: int = MAX_SECTION) -> str:
    """A line in mrkdwn, at most ``limit`` characters: our words escaped, values from data as code, inside which Slack
    reads no markup. What is too long is cut between characters, never inside an entity or with its code left open.
    """
    whole = "".join(_marked(part, part) for part in text.parts)
    if len(whole) <= limit:
        return whole
    marked = ""
    for part in text.parts:
        left = limit - len(_CUT) - len(marked)
        piece = _marked(part, part)
        if len(piece) > left:
            return marked + _beginning(part, left) + _CUT
        marked += piece
    return marked


def _marked(part: str, kind: str) -> str:
    return _code(part) if isinstance(kind, Value) else _entities(part)


def _beginning(part: str, limit: int) -> str:
    """The longest beginning of a part that fits when it is marked."""
    kept, size = 0, 2 if isinstance(part, Value) else 0
    for character in part:
        size += len(_entities(character))
        if size > limit:
            break
        kept += 1
    return _marked(part[:kept], part) if kept else ""


def _code(content: str) -> str:
    return f"`{_entities(content.replace('`', 'ˋ'))}`" if content else ""


def escape(text: str, limit: int) -> str:
    """Plain text with ``& < >`` as entities, at most ``limit`` characters as sent, no entity cut in two."""
    escaped = _entities(text)
    if len(escaped) <= limit:
        return escaped
    kept = len(text)
    while kept and len(escaped := _entities(shorten(text, kept))) > limit:
        kept -= max((len(escaped) - limit) // 5, 1)
    return escaped if kept else "…"


def shorten_marked(text: str, limit: int) -> str:
    """Marked text at most so long. Last resort for what was measured before it was put together."""
    if len(text) <= limit:
        return text
    kept = text[: limit - len(_CUT) - 1]
    kept = kept[: kept.rfind("&")] if kept.rfind("&") > kept.rfind(";") else kept
    return kept + ("`" if kept.count("`") % 2 else "") + _CUT


def _entities(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
