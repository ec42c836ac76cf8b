"""The pages that messages lead to. They say nothing of any incident: whoever follows a link has no token."""

from __future__ import annotations

from aiohttp import web

from services.alerting.api.endpoints import Call
from services.alerting.words.pages import STYLE_SOURCE, incident_page, runbook_page

_POLICY = f"default-src 'none'; style-src {STYLE_SOURCE}; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


async def incident(call: Call) -> web.Response:
    """How to see an incident."""
    return _page(incident_page(call.path["incident"]))


async def incidents(_: Call) -> web.Response:
    """How to see incidents."""
    return _page(incident_page(""))


async def runbook(_: Call) -> web.Response:
    """What each alarm means, and what to do."""
    return _page(runbook_page())


def _page(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": _POLICY})
