"""The pages that messages lead to, as HTML: the runbook, and where an incident is to be seen.

A browser that follows a link has no token, so nothing of an incident is on its page: it says how to see it.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from services.alerting.words.text import command

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46em;margin:2em auto;padding:0 1em;color:#1c1c1c;"
    "background:#fafaf7}code,pre{font:14px ui-monospace,monospace;background:#ececea;padding:.1em .3em}"
    "pre{padding:.8em;white-space:pre-wrap}h2{margin-top:2em}:target{background:#fff3c4}"
    "@media(prefers-color-scheme:dark){body{color:#ececea;background:#1c1c1c}code,pre{background:#333}"
    "a{color:#7cc4f0}:target{background:#4a3d00}}"
)
STYLE_SOURCE = "'sha256-" + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode() + "'"
"""What a content security policy must name for the pages to look like something."""

_INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\*([^*]+)\*|\[([^\]]+)\]\(([^)\s]+)\)")
_BESIDE = Path(__file__).with_name("runbook.md")
_IN_REPOSITORY = Path(__file__).parents[3] / "docs" / "runbook.md"


def incident_page(incident_id: str) -> str:
    """Where an incident is to be seen; ``incident_id`` empty: the list of them."""
    shown = command("incidents show", incident_id) if incident_id else command("incidents list")
    address = f"/api/v1/incidents/{incident_id}" if incident_id else "/api/v1/incidents"
    title, up = (f"Incident {incident_id}", "../") if incident_id else ("Incidents", "")
    return _page(
        title,
        f"<h1>{html.escape(title)}</h1><p>On the command line:</p><pre>{html.escape(shown)}</pre>"
        f"<p>By HTTP, with a token: <code>GET {html.escape(address)}</code>.</p>"
        f'<p>What an alarm means, and what to do: <a href="{up}runbook">runbook</a>.</p>',
    )


@cache
def runbook_page() -> str:
    """docs/runbook.md as HTML."""
    path = _BESIDE if _BESIDE.exists() else _IN_REPOSITORY
    return _page("Runbook", "\n".join(_blocks(path.read_text("utf-8"))))


def _page(title: str, body: str) -> str:
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    return f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}</style></head><body>{body}</body></html>'


def _blocks(markdown: str) -> Iterator[str]:
    """The little Markdown that the runbook is written in: headings, paragraphs, numbered lists, blocks of code."""
    for number, piece in enumerate(re.split(r"^```\w*\n(.*?)^```\n", markdown, flags=re.MULTILINE | re.DOTALL)):
        if number % 2:
            yield f"<pre>{html.escape(piece)}</pre>"
            continue
        for block in filter(None, map(str.strip, piece.split("\n\n"))):
            yield from _block(block)


def _block(block: str) -> Iterator[str]:
    heading = re.fullmatch(r"(#+) (.+)", block)
    if heading is not None:
        level = len(heading[1])
        anchor = re.sub(r"[^\w\- ]", "", heading[2].lower()).replace(" ", "-")
        yield f'<h{level} id="{anchor}">{_inline(heading[2])}</h{level}>'
        return
    paragraph = [text for text in block.split("\n") if not re.match(r"\d+\. ", text)]
    if paragraph:
        yield f"<p>{_inline(' '.join(paragraph))}</p>"
    steps = re.findall(r"^\d+\. (.+)$", block, re.MULTILINE)
    if steps:
        yield "<ol>" + "".join(f"<li>{_inline(step)}</li>" for step in steps) + "</ol>"


def _inline(text: str) -> str:
    found, end = [], 0
    for match in _INLINE.finditer(text):
        found.append(html.escape(text[end : match.start()]))
        code, strong, emphasis, words, target = match.groups()
        if code is not None:
            found.append(f"<code>{html.escape(code)}</code>")
        elif strong is not None:
            found.append(f"<strong>{_inline(strong)}</strong>")
        elif emphasis is not None:
            found.append(f"<em>{_inline(emphasis)}</em>")
        elif target.startswith("#"):
            found.append(f'<a href="{html.escape(target)}">{_inline(words)}</a>')
        else:
            found.append(_inline(words))  # the other documents are not served
        end = match.end()
    return "".join(found) + html.escape(text[end:])
