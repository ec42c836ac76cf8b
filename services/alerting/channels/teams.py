"""Microsoft Teams: an Adaptive Card 1.5 to a webhook of the Workflows app.

A card cannot be changed afterwards: every message is one of its own, and one in doubt is posted again (at least once).

Text stands in ``TextRun`` elements, in which Teams reads no Markdown; a name that looks like a mention or a function of
cards is shown by look-alikes. A message may have 28 KB: what matters most goes in first, and it is said where something
had no room. Pictures are shown by their addresses, which Teams fetches by https.

Sources: https://adaptivecards.io/explorer/TextRun.html and
https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import aiohttp

from services.alerting.channels.base import Again, Outcome, Pacer, Redactor, Sent, ask
from services.alerting.channels.delivery import Delivery
from services.alerting.channels.harmless import inert
from services.alerting.policy.model import TeamsReceiver
from services.alerting.words.incident import Part, Text, describe
from services.alerting.words.plots import plot_alternative
from services.alerting.words.text import Line, Value, clean, line, shorten, web_link

MAX_BYTES = 28 * 1024
"""Of a message, in UTF-8."""
MAX_ACTIONS = 6

# The limit is given as "approximately 28 KB".
_BUDGET_BYTES = 26_000
_LINE_CHARACTERS = 3000
_STYLES = {"critical": "attention", "error": "attention", "warning": "warning", "info": "accent"}

Element = dict[str, Any]
PictureAddress = Callable[[str, int], str]


class TeamsChannel:
    """Sends to one Teams channel.

    Args:
        receiver: Its settings.
        session: Of :func:`services.alerting.channels.base.http_session`.
        redact: Takes secrets out of what comes back.
        picture_address: Where pictures are shown; without, cards have none.
    """

    def __init__(
        self,
        receiver: TeamsReceiver,
        session: aiohttp.ClientSession,
        redact: Redactor,
        picture_address: PictureAddress | None = None,
    ) -> None:
        self._receiver = receiver
        self._session = session
        self._redact = redact
        self._picture_address = picture_address

    def __repr__(self) -> str:
        return f"TeamsChannel({self._receiver.name!r})"

    async def close(self) -> None:
        """Nothing is held besides the session, which is the caller's."""

    async def send(self, delivery: Delivery, pace: Pacer) -> Outcome:
        """Send a message. See :class:`services.alerting.channels.base.Channel`."""
        body = await asyncio.to_thread(teams_body, delivery, self._picture_address)
        await pace()
        answer, failure = await ask(
            self._session,
            "POST",
            self._receiver.webhook_url.get_secret_value(),
            body,
            headers={},
            timeout_seconds=self._receiver.timeout_seconds,
            redact=self._redact,
        )
        if failure is None and "delivery failed" in answer:
            # The older connectors say 200 and mean what stands in the text.
            return Again(f"Teams says {shorten(clean(answer), 200)}", too_fast="429" in answer)
        return failure or Sent()


def teams_body(delivery: Delivery, picture_address: PictureAddress | None = None) -> bytes:
    """The message, at most :data:`MAX_BYTES`."""
    card = teams_card(delivery, picture_address)
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return _written({"type": "message", "attachments": [attachment]})


def teams_card(delivery: Delivery, picture_address: PictureAddress | None = None) -> Element:
    """The card for a message."""
    text = describe(delivery)
    headline = line(f"{text.mark} ", *text.headline.parts)
    title = {
        "type": "Container",
        "style": _style(delivery, text),
        "bleed": True,
        "items": [_block(headline, size="Large", weight="Bolder")],
    }
    card: Element = {
        "type": "AdaptiveCard",
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "version": "1.5",
        "fallbackText": _plain(text.summary),
        "msteams": {"width": "Full"},
        "body": [title],
    }
    if text.links:
        card["actions"] = [
            {"type": "Action.OpenUrl", "title": name, "url": address} for name, address in text.links[:MAX_ACTIONS]
        ]
    card["body"] += _fitting(
        _sections(text, _pictures(delivery, text, picture_address)), _BUDGET_BYTES - len(_written(card))
    )
    return card


def _sections(text: Text, pictures: list[Element]) -> list[tuple[int, list[Element]]]:
    """What the card says below its title, in order, each with its rank: the lowest go in first."""
    sections = [(1, [_block(news) for news in text.news])]
    sections += [(3 if place == 0 else 8 + place, _part(part)) for place, part in enumerate(text.parts)]
    sections.append((4, pictures))
    if text.more is not None:
        sections.append((7, [_block(text.more, subtle=True)]))
    if text.steps is not None:
        sections.append((2, [_block(text.steps, separator=True)]))
    if text.story:
        story = [_block(line("What people did"), weight="Bolder", separator=True), *map(_block, text.story)]
        sections.append((6, story))
    facts = [_block(line(f"{inert(name)}: ", content), size="Small") for name, content in text.facts]
    sections.append((5, _separated(facts)))
    sections.append((0, [_block(line("On the command line: ", *text.command.parts), size="Small", subtle=True)]))
    return sections


def _part(part: Part) -> list[Element]:
    headline = line(*part.headline.parts, " (", *part.status.parts, ")")
    causes = [line(f"{rank}. ", *cause.parts) for rank, cause in enumerate(part.causes, start=1)]
    return [_block(headline, weight="Bolder", separator=True), *map(_block, (*part.sentences, *causes))]


def _pictures(delivery: Delivery, text: Text, picture_address: PictureAddress | None) -> list[Element]:
    """Of the first incident."""
    if picture_address is None or not delivery.public_url.startswith("https://") or not delivery.incidents:
        return []
    addressed = [
        (web_link(picture_address(delivery.incidents[0].id, rank)), cause)
        for rank, cause in enumerate(text.plots, start=1)
    ]
    return [
        {"type": "Image", "url": url, "altText": _shown(Value(clean(plot_alternative(cause)))), "size": "Stretch"}
        for url, cause in addressed
        if url
    ]


def _fitting(sections: Sequence[tuple[int, list[Element]]], room: int) -> list[Element]:
    """Those that there is room for, in their order; where some are left out, that is said."""
    missing = _block(line("More than fits here: the rest is shown by the command."), subtle=True)
    room -= len(_written(missing)) + 1
    kept: dict[int, list[Element]] = {}
    whole = True
    for place, (_, elements) in sorted(enumerate(sections), key=lambda ranked: ranked[1][0]):
        taken: list[Element] = []
        for element in elements:
            size = len(_written(element)) + 1
            if size > room:
                whole = False
                break
            room -= size
            taken.append(element)
        kept[place] = taken
    shown = [element for place in range(len(sections)) for element in kept[place]]
    return shown if whole else [*shown, missing]


def _block(
    text: Line,
    *,
    size: str = "Default",
    weight: str = "Default",
    subtle: bool = False,
    separator: bool = False,
) -> Element:
    runs = list(_runs(text, size, weight, subtle))
    block: Element = {"type": "RichTextBlock", "inlines": runs or [{"type": "TextRun", "text": " "}]}
    return {**block, "separator": True, "spacing": "Medium"} if separator else {**block, "spacing": "Small"}


def _runs(text: Line, size: str, weight: str, subtle: bool) -> Iterable[Element]:
    """Our words, and values from data in a font of their own."""
    for part in text.parts:
        if part:
            data = isinstance(part, Value)
            run: Element = {"type": "TextRun", "text": _shown(part)}
            run |= {"size": size} if size != "Default" else {}
            run |= {"weight": weight} if weight != "Default" else {}
            run |= {"isSubtle": True} if subtle else {}
            run |= {"fontType": "Monospace"} if data and size != "Large" else {}
            yield run


def _shown(part: str) -> str:
    shown = inert(part) if isinstance(part, Value) else part
    return shorten(shown, _LINE_CHARACTERS)


def _plain(text: Line) -> str:
    return shorten("".join(map(_shown, text.parts)), _LINE_CHARACTERS)


def _separated(elements: list[Element]) -> list[Element]:
    return [{**elements[0], "separator": True, "spacing": "Medium"}, *elements[1:]] if elements else []


def _style(delivery: Delivery, text: Text) -> str:
    if text.over or not delivery.incidents:
        return "good"
    return _STYLES.get(delivery.incidents[0].severity, "default")


def _written(document: Element) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
