"""What servers or readers would hold against a mail: RFC 5322, headers that nobody meant, HTML that loads or runs
something.
"""

from __future__ import annotations

import email
import email.policy
import html.parser
import re
from email.message import EmailMessage

MAX_BYTES = 10 * 1024 * 1024
_REQUIRED = ("from", "to", "date", "message-id", "subject", "mime-version")
_FORBIDDEN_ELEMENTS = frozenset(
    [
        "script",
        "iframe",
        "object",
        "embed",
        "form",
        "input",
        "button",
        "svg",
        "math",
        "base",
        "style",
        "link",
        "video",
        "audio",
        "template",
    ]
)
_KNOWN = frozenset(
    {
        *_REQUIRED,
        "in-reply-to",
        "references",
        "auto-submitted",
        "x-auto-response-suppress",
        "list-id",
        "importance",
        "content-type",
        "content-transfer-encoding",
        "x-driftline-kind",
        "x-driftline-key",
        "x-driftline-severity",
        "x-driftline-state",
        "x-driftline-incident",
    }
)


def mail_problems(raw: bytes) -> list[str]:
    """What servers or readers would hold against a mail: RFC 5322's lines and headers, headers that nobody meant, a
    picture that is not there, anything in the HTML that would load from elsewhere or run.
    """
    problems = []
    if len(raw) > MAX_BYTES:
        problems.append(f"{len(raw)} bytes, at most {MAX_BYTES}")
    if re.search(rb"(?<!\r)\n|\r(?!\n)", raw):
        problems.append("a line that does not end in CR LF")
    if any(len(line) > 998 for line in raw.split(b"\r\n")):
        problems.append("a line of more than 998 characters")
    if not raw.isascii():
        problems.append("bytes beyond ASCII")
    message = email.message_from_bytes(raw, policy=email.policy.default)
    names = [name.lower() for name in message.keys()]  # noqa: SIM118  - a message is no mapping
    problems += [f"header {name} {names.count(name)} times" for name in _REQUIRED if names.count(name) != 1]
    problems += [f"header {name} that nobody meant" for name in names if name not in _KNOWN]
    problems += [f"a defect: {type(defect).__name__}" for part in message.walk() for defect in part.defects]
    if not re.fullmatch(r"<[^<>@\s]+@[^<>@\s]+>", str(message["Message-ID"])):
        problems.append("Message-ID is none")
    plain, marked = message.get_body(("plain",)), message.get_body(("html",))
    if plain is None or marked is None or not str(plain.get_content()).strip():
        problems.append("text or HTML is missing")
    else:
        problems += _html_problems(str(marked.get_content()), message)
    return problems


class _Reader(html.parser.HTMLParser):
    """What is in HTML, as a browser reads it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.problems: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _FORBIDDEN_ELEMENTS:
            self.problems.append(f"<{tag}> in the HTML")
        for name, content in attrs:
            if name.startswith("on"):
                self.problems.append(f"{name} in the HTML, which would run")
            if name in ("src", "background", "srcset", "poster"):
                self.sources.append(content or "")
            if name == "href" and not (content or "").startswith(("http://", "https://")):
                self.problems.append("a link that is no address")
            if name == "style" and "url(" in (content or "").lower():
                self.problems.append("a style that loads something")


def _html_problems(text: str, message: EmailMessage) -> list[str]:
    reader = _Reader()
    reader.feed(text)
    reader.close()
    there = {str(part["Content-ID"]).strip("<>") for part in message.walk() if part["Content-ID"]}
    for source in reader.sources:
        if not source.startswith("cid:") or source.removeprefix("cid:") not in there:
            reader.problems.append("a picture that is not in the mail")
    if len(text.encode()) > 102_000:
        reader.problems.append(f"HTML of {len(text.encode())} bytes; Gmail cuts it at 102 KB")
    return reader.problems
