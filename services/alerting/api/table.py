"""The table of endpoints. Routing, authorisation and the OpenAPI document are made from it, so that no endpoint is
without a rule.
"""

from __future__ import annotations

from services.access.roles import Permission
from services.alerting.api import (
    administration,
    hooks,
    incidents,
    models,
    notifications,
    pages,
    pictures,
    routes,
    silences,
)
from services.alerting.api.endpoints import Access, Endpoint

_READ, _ACT, _SILENCE = Permission.INCIDENTS_READ, Permission.INCIDENTS_ACT, Permission.SILENCES_WRITE
_MESSAGES, _SEND = Permission.NOTIFICATIONS_READ, Permission.NOTIFICATIONS_WRITE
_API = "/api/v1"
_FORM, _JSON = "application/x-www-form-urlencoded", "application/json"
_ONE = f"{_API}/incidents/{{incident}}"

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        f"{_API}/incidents",
        _READ,
        incidents.list_incidents,
        "List incidents, those opened last first",
        models.Incidents,
        query=models.IncidentQuery,
    ),
    Endpoint(
        "GET",
        _ONE,
        _READ,
        incidents.show_incident,
        "Show an incident with its signals, story and messages",
        models.IncidentStory,
        query=models.StoryQuery,
    ),
    *(
        Endpoint("POST", f"{_ONE}/{name}", rule, handler, summary, models.Incident, body=body, acts=True)
        for name, rule, handler, summary, body in (
            ("acknowledge", _ACT, incidents.acknowledge, "Take an incident", models.AcknowledgeBody),
            ("unacknowledge", _ACT, incidents.unacknowledge, "Give an incident back", models.AcknowledgeBody),
            ("resolve", _ACT, incidents.resolve, "Call an incident over", models.NoteBody),
            ("reopen", _ACT, incidents.reopen, "Open an incident again", models.AcknowledgeBody),
            ("note", _ACT, incidents.note, "Write a note into the story", models.NoteBody),
            ("assign", _ACT, incidents.assign, "Say who looks after an incident", models.AssignBody),
            (
                "silence",
                _SILENCE,
                incidents.silence,
                "Tell nobody of an incident for a while",
                models.IncidentSilenceBody,
            ),
        )
    ),
    Endpoint(
        "GET",
        f"{_API}/silences",
        _READ,
        silences.list_silences,
        "List silences, the latest first",
        models.Silences,
        query=models.SilenceQuery,
    ),
    Endpoint(
        "POST",
        f"{_API}/silences",
        _SILENCE,
        silences.create_silence,
        "Silence everything that matches",
        models.Silence,
        body=models.SilenceBody,
        status=201,
        acts=True,
    ),
    Endpoint("GET", f"{_API}/silences/{{silence}}", _READ, silences.show_silence, "Show a silence", models.Silence),
    Endpoint(
        "POST",
        f"{_API}/silences/{{silence}}/end",
        _SILENCE,
        silences.end_silence,
        "End a silence before its time",
        models.Silence,
        body=models.AcknowledgeBody,
        acts=True,
    ),
    Endpoint(
        "GET",
        f"{_API}/route",
        Permission.ROUTES_READ,
        routes.show_routes,
        "Show the routing file in force",
        models.Routing,
    ),
    Endpoint(
        "POST",
        f"{_API}/route/explain",
        Permission.ROUTES_READ,
        routes.explain_route,
        "Say who would be told, and why",
        models.Explained,
        body=models.ExplainBody,
    ),
    Endpoint(
        "GET",
        f"{_API}/notifications",
        _MESSAGES,
        notifications.list_messages,
        "List messages, the latest first",
        models.Notifications,
        query=models.NotificationQuery,
    ),
    Endpoint(
        "POST",
        f"{_API}/notifications/redrive",
        _SEND,
        notifications.redrive_messages,
        "Try dead messages again",
        models.Redriven,
        body=models.RedriveBody,
        acts=True,
    ),
    Endpoint(
        "GET",
        f"{_API}/receivers",
        _MESSAGES,
        notifications.list_receivers,
        "List receivers with their health",
        models.Receivers,
    ),
    Endpoint(
        "POST",
        f"{_API}/receivers/{{receiver}}/test",
        _SEND,
        notifications.test_receiver,
        "Send a test message",
        models.Testing,
        body=models.Nothing,
        status=202,
        acts=True,
    ),
    Endpoint(
        "POST",
        f"{_API}/reload",
        Permission.CONFIGURATION_WRITE,
        routes.reload,
        "Load the routing file anew",
        models.Reloaded,
        body=models.Nothing,
        acts=True,
    ),
    Endpoint(
        "GET",
        f"{_API}/whoami",
        Access.TOKEN,
        administration.whoami,
        "Whose token it is, and what it may",
        models.WhoAmI,
    ),
    Endpoint("GET", f"{_API}/openapi.json", Access.OPEN, administration.openapi, "This description", _JSON),
    Endpoint("GET", "/healthz", Access.OPEN, administration.healthz, "Whether the service works", models.HealthAnswer),
    Endpoint("GET", "/readyz", Access.OPEN, administration.readyz, "Whether it can be asked", models.HealthAnswer),
    Endpoint("GET", "/metrics", Access.OPEN, administration.metrics, "Prometheus metrics", "text/plain"),
    Endpoint(
        "POST",
        "/hooks/slack/{receiver}",
        Access.SIGNATURE,
        hooks.slack,
        "What somebody pressed in Slack",
        _JSON,
        raw=(_FORM,),
    ),
    Endpoint(
        "POST",
        "/hooks/pagerduty/{receiver}",
        Access.SIGNATURE,
        hooks.pagerduty,
        "What somebody did in PagerDuty (webhooks v3)",
        _JSON,
        raw=(_JSON,),
    ),
    Endpoint("GET", "/incidents", Access.OPEN, pages.incidents, "How incidents are seen", "text/html"),
    Endpoint("GET", "/incidents/{incident}", Access.OPEN, pages.incident, "How an incident is seen", "text/html"),
    Endpoint("GET", "/runbook", Access.OPEN, pages.runbook, "What each alarm means, and what to do", "text/html"),
    Endpoint(
        "GET",
        "/plots/{incident}/{rank}.png",
        Access.SIGNATURE,
        pictures.picture,
        "A picture of expected against observed",
        "image/png",
        query=models.PlotQuery,
    ),
)
