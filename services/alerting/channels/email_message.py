"""A message as mail: text and HTML, with pictures inside the mail, in the thread it belongs to.

The first mail of a thread has its ``Message-ID`` from the thread's key, every later one from its own; those refer to
the first, so that mail programs show them together. An attempt that is made again has the same ``Message-ID``: servers
and programs that have it already may drop it.

Sources: RFC 5322 section 3.6.4 (identification), RFC 3834 (``Auto-Submitted``), RFC 2919 (``List-Id``), RFC 2387
(pictures related to the HTML).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import email.headerregistry
import email.policy
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from pathlib import Path

import jinja2

from driftline.codec import Record
from services.alerting.channels.delivery import Delivery
from services.alerting.channels.harmless import mail_text, unlinked
from services.alerting.incidents.views import RESOLVED, Incident
from services.alerting.notify.kinds import PAGING, Kind
from services.alerting.policy.model import SEVERITIES, EmailReceiver
from services.alerting.words.incident import Text, describe
from services.alerting.words.plots import plot_alternative, plot_png
from services.alerting.words.text import Line, Value, clean, line, shorten

log = logging.getLogger("driftline.alerting")

MESSAGE_ID = "message_id"
"""In a receipt: the ``Message-ID`` of the thread's first mail."""

MAX_SUBJECT = 200
MAX_HTML_BYTES = 100_000
"""Gmail cuts a mail at 102 KB."""

_PARTS = (8, 5, 3, 2, 1, 0)
_ALTERNATIVE_CHARACTERS = 500
_PICTURED = (Kind.TRIGGER, Kind.UPDATE, Kind.REPEAT)
"""Kinds that show pictures: drawing takes a tenth of a second, and who takes an incident has seen them."""


class _Whole(email.headerregistry.UnstructuredHeader, email.headerregistry.BaseHeader):
    """A header with an id, on one line. The library would fold one that is long, and put what is longer still into
    encoded words, which no program takes for an id: mails would fall out of their conversation, pictures out of mails.
    """

    def fold(self, *, policy: email.policy.Policy) -> str:
        """The header as it is: RFC 5322 section 2.1.1 allows 998 characters, and a domain has at most 253."""
        return f"{self.name}: {self}{policy.linesep}" if str(self).isascii() else str(super().fold(policy=policy))


def _headers() -> email.headerregistry.HeaderRegistry:
    registry = email.headerregistry.HeaderRegistry()
    for name in ("message-id", "in-reply-to", "references", "list-id", "content-id"):
        registry.map_to_type(name, _Whole)
    return registry


_POLICY = email.policy.SMTP.clone(cte_type="7bit", max_line_length=78, header_factory=_headers())

_BACKGROUNDS = {"critical": "#b3261e", "error": "#a64b00", "warning": "#7a5c00", "info": "#1f5fa8"}
_OVER_BACKGROUND = "#1b6e3c"
_LIFE_BACKGROUND = "#4a5560"


@dataclass(frozen=True, slots=True)
class _Badge:
    """The coloured words above the headline. White on each background has a contrast above 4.5 (WCAG 2.2, 1.4.3)."""

    words: str
    background: str
    text: str = "#ffffff"


@dataclass(frozen=True, slots=True)
class _Picture:
    cid: str
    png: bytes
    alternative: str


def _is_data(part: str) -> bool:
    return isinstance(part, Value)


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
)
_TEMPLATES.tests["data"] = _is_data
_TEMPLATES.filters["unlinked"] = unlinked


def compose(delivery: Delivery, receiver: EmailReceiver) -> EmailMessage:
    """A mail for every address of the receiver. Draws pictures: not for the event loop."""
    text = describe(delivery)
    domain = domain_of(receiver.sender)
    message = EmailMessage(policy=_POLICY)
    message["Subject"] = subject(delivery, text)
    message["From"] = receiver.sender
    message["To"] = ", ".join(receiver.to)
    message["Date"] = _date(delivery.sent_ms)
    own, first = message_ids(delivery, domain)
    message["Message-ID"] = own
    if own != first and delivery.kind not in (Kind.HEARTBEAT, Kind.TEST):
        message["In-Reply-To"] = first
        message["References"] = first
    _add_marks(message, delivery, receiver, domain)
    pictures = _pictures(text.plots, delivery.key, domain) if delivery.kind in _PICTURED else []
    text, marked = _fitting(text, delivery, pictures)
    message.set_content(_plain(text, pictures), cte="quoted-printable")
    message.add_alternative(marked, subtype="html", cte="quoted-printable")
    html = message.get_payload(1)
    assert isinstance(html, EmailMessage)
    for number, picture in enumerate(pictures, start=1):
        html.add_related(
            picture.png,
            maintype="image",
            subtype="png",
            cid=f"<{picture.cid}>",
            filename=f"plot-{number}.png",
            disposition="inline",
        )
    return message


def domain_of(sender: str) -> str:
    """Of an address; ``localhost`` where it has none."""
    return parseaddr(sender)[1].rpartition("@")[2] or "localhost"


def message_ids(delivery: Delivery, domain: str) -> tuple[str, str]:
    """The ``Message-ID`` of this mail and of its thread's first."""
    told = delivery.receipt.get(MESSAGE_ID)
    first = told if isinstance(told, str) and told else f"<{delivery.thread_key}.driftline@{domain}>"
    begins = delivery.kind in (Kind.TRIGGER, Kind.DIGEST) and not told
    return first if begins else f"<{delivery.key}.driftline@{domain}>", first


def subject(delivery: Delivery, text: Text) -> str:
    """Severity, state and headline: '[error, open] Data drift in credit, version 3'; one line whatever the names."""
    headline = str(text.headline)
    if not delivery.incidents or delivery.kind in (Kind.HEARTBEAT, Kind.TEST):
        return shorten(clean(headline), MAX_SUBJECT)
    state = _state(delivery.incidents)
    # The headline begins with a state that is news: "Resolved: …".
    states = "" if headline.lower().startswith(state) else f", {state}"
    return shorten(clean(f"[{_severity(delivery.incidents)}{states}] {headline}"), MAX_SUBJECT)


def _severity(incidents: Sequence[Incident]) -> str:
    """The most urgent of what runs; of everything, once it is over."""
    running = [i.severity for i in incidents if i.status != RESOLVED] or [i.severity for i in incidents]
    return min(running, key=lambda severity: SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES))


def _state(incidents: Sequence[Incident]) -> str:
    states = {i.state for i in incidents if i.status != RESOLVED} or {RESOLVED}
    return states.pop() if len(states) == 1 else "open"


def _add_marks(message: EmailMessage, delivery: Delivery, receiver: EmailReceiver, domain: str) -> None:
    """Headers by which programs sort mail, and which keep them from answering it."""
    message["Auto-Submitted"] = "auto-generated"
    message["X-Auto-Response-Suppress"] = "All"
    name = re.sub(r"[^a-z0-9]+", "-", receiver.name.lower()).strip("-") or "alerts"
    message["List-Id"] = f"Driftline alerts <{name[:60]}.driftline.{domain}>"
    message["X-Driftline-Kind"] = str(delivery.kind)
    message["X-Driftline-Key"] = delivery.key
    if delivery.incidents:
        severity = _severity(delivery.incidents)
        message["X-Driftline-Severity"] = _word(severity)
        message["X-Driftline-State"] = _word(_state(delivery.incidents))
        message["X-Driftline-Incident"] = ", ".join(_word(incident.id) for incident in delivery.incidents[:20])
        if severity == "critical" and delivery.kind in PAGING:
            message["Importance"] = "high"


def _word(text: str) -> str:
    """For a header that programs read."""
    return re.sub(r"[^A-Za-z0-9_.-]", "", text)[:80]


def _date(time_ms: int) -> str:
    try:
        return format_datetime(dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=time_ms))
    except (OverflowError, ValueError):
        return format_datetime(dt.datetime(1970, 1, 1, tzinfo=dt.UTC))


def _badge(delivery: Delivery) -> _Badge:
    if not delivery.incidents or delivery.kind in (Kind.HEARTBEAT, Kind.TEST):
        return _Badge(str(delivery.kind), _LIFE_BACKGROUND)
    severity = _severity(delivery.incidents)
    words = f"{severity} · {_state(delivery.incidents)}"
    return _Badge(words, _OVER_BACKGROUND if delivery.over else _BACKGROUNDS.get(severity, _LIFE_BACKGROUND))


def _pictures(causes: Sequence[Record], key: str, domain: str) -> list[_Picture]:
    """A message without its picture is better than none."""
    drawn = []
    for number, cause in enumerate(causes, start=1):
        try:
            alternative = shorten(clean(plot_alternative(cause)), _ALTERNATIVE_CHARACTERS)
            drawn.append(_Picture(f"plot{number}.{key}.driftline@{domain}", plot_png(cause), alternative))
        except Exception as error:
            log.warning("a picture could not be drawn and the mail goes without: %s", type(error).__name__)
    return drawn


def _fitting(text: Text, delivery: Delivery, pictures: Sequence[_Picture]) -> tuple[Text, str]:
    """With as many parts as the HTML has room for, and the HTML."""
    shown, marked = text, _html(text, delivery, pictures)
    for kept in _PARTS:
        if len(marked.encode()) <= MAX_HTML_BYTES:
            break
        if kept < len(text.parts):
            more = line(f"and {len(text.parts) - kept} more, which would make this mail too long")
            lines = [more] if text.more is None else [more, line(". "), text.more]
            whole = Line(tuple(part for each in lines for part in each.parts))
            shown = dataclasses.replace(text, parts=text.parts[:kept], more=whole)
            marked = _html(shown, delivery, pictures)
    return shown, marked


def _html(text: Text, delivery: Delivery, pictures: Sequence[_Picture]) -> str:
    return _TEMPLATES.get_template("mail.html").render(
        text=text,
        headline=unlinked(f"{text.mark} {text.headline}"),
        badge=_badge(delivery),
        pictures=pictures,
    )


def _plain(text: Text, pictures: Sequence[_Picture]) -> str:
    lines = [f"{text.mark} {mail_text(text.headline)}", ""]
    lines += [*(f"- {mail_text(line)}" for line in text.news), ""] if text.news else []
    for part in text.parts:
        lines += [f"{mail_text(part.headline)} ({mail_text(part.status)})"]
        lines += [mail_text(line) for line in part.sentences]
        lines += [f"  {rank}. {mail_text(line)}" for rank, line in enumerate(part.causes, start=1)]
        lines.append("")
    lines += [f"… {mail_text(text.more)}.", ""] if text.more is not None else []
    lines += [f"[Picture: {unlinked(picture.alternative)}]" for picture in pictures]
    lines += ["", mail_text(text.steps)] if text.steps is not None else []
    lines += ["", "What people did:", *(f"- {mail_text(line)}" for line in text.story)] if text.story else []
    lines += ["", *(f"{name}: {unlinked(value)}" for name, value in text.facts), ""]
    lines += [f"{name}: {address}" for name, address in text.links]
    lines.append(f"On the command line: {mail_text(text.command)}")
    return "\n".join(lines) + "\n"
