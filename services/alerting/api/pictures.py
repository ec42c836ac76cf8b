"""The endpoint of pictures that messages link to."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa
from aiohttp import web

from services.alerting.api import showing
from services.alerting.api.endpoints import Call
from services.alerting.api.plots import genuine
from services.alerting.api.problems import ProblemError
from services.alerting.incidents.loading import load_incidents
from services.alerting.incidents.views import Incident
from services.alerting.words.plots import plot_png


async def picture(call: Call) -> web.Response:
    """A small picture of expected against observed; the address is its own ticket, for a while."""
    services, incident, rank = call.services, call.path["incident"], int(call.path["rank"])
    query = call.query
    if not genuine(services.plot_key, incident, rank, query.expires, query.signature):
        raise ProblemError("signature", "the address was not made here", do="Take it from a message or the API.")
    now = services.wall()
    if now.timestamp() >= query.expires:
        ended = dt.datetime.fromtimestamp(query.expires, dt.UTC)
        raise ProblemError("expired", f"the address ended on {ended:%Y-%m-%d}", do="Open the incident for a new one.")

    def read(connection: sa.Connection) -> Incident | None:
        return load_incidents(connection, services.policy.current, [incident], services.now_ms()).get(incident)

    found = await call.read(read)
    content = None if found is None else await call.thread(lambda: _png(found, rank, services.now_ms()))
    if content is None:
        raise ProblemError("not-found", "there is no such picture, or not any more")
    left = max(int(query.expires - now.timestamp()), 0)
    return web.Response(
        body=content,
        content_type="image/png",
        headers={
            "Cache-Control": f"private, max-age={min(left, 3600)}",
            "Cross-Origin-Resource-Policy": "cross-origin",  # web mail and PagerDuty show it in pages of their own
        },
    )


def _png(incident: Incident, rank: int, now_ms: int) -> bytes | None:
    plots = showing.text_of(incident, now_ms, "").plots
    return plot_png(plots[rank - 1]) if rank <= len(plots) else None
