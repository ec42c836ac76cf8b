"""Finds what a request names, if the token may see it; what it may not see is not there."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from services.access.tokens import Identity
from services.alerting.api.endpoints import PARAMETERS
from services.alerting.api.models import IncidentQuery
from services.alerting.api.problems import ProblemError
from services.alerting.api.showing import Seen, seen
from services.alerting.database import tables as t
from services.alerting.incidents.drafts import chunks
from services.alerting.incidents.loading import SearchError, find_incidents, load_incidents
from services.alerting.policy.model import Policy

_ROUNDS = 40
_AMBIGUOUS = 50


def no_incident(named: str, *, denied: str = "") -> ProblemError:
    """There is no such incident, or it is none of this token's: the answer is the same."""
    return ProblemError(
        "not-found",
        "there is no such incident",
        expected=PARAMETERS["incident"][1],
        came=named,
        do=PARAMETERS["incident"][2],
        denied=denied,
    )


def incident_id(connection: sa.Connection, named: str, who: Identity, *, to_act: bool = False) -> str:
    """The whole id of an incident that a request names.

    Args:
        connection: Of a transaction.
        named: The id or its beginning.
        who: Must see it.
        to_act: Whether all of its deployments must be the token's: whoever changes it changes it for all of them.

    Raises:
        ProblemError: There is none, there are several, or it touches other deployments too.
    """
    found = connection.execute(
        sa.select(t.incidents.c.id, t.incidents.c.deployment_id)
        .where(t.incidents.c.id >= named, t.incidents.c.id < named + "g")
        .order_by(t.incidents.c.id)
        .limit(_AMBIGUOUS)
    ).all()
    touched = _deployments(connection, [row.id for row in found])
    own = [row.id for row in found if who.sees_any(touched.get(row.id) or {row.deployment_id})]
    if not own:
        raise no_incident(named, denied="an incident of deployments that the token does not see" if found else "")
    if len(own) > 1:
        raise ProblemError(
            "refused",
            f"{len(own)} incidents begin like this",
            expected="enough digits to tell them apart",
            came=named,
            do="Give more of the id: " + ", ".join(own[:5]),
        )
    if to_act and not who.sees_all(touched.get(own[0], ())):
        raise ProblemError(
            "deployments",
            "the incident also touches deployments that this token does not see, and would change for them too",
            expected="a token for all deployments of the incident",
            do="Ask somebody whose token is not limited.",
        )
    return str(own[0])


def visible(connection: sa.Connection, incident_ids: Iterable[str], who: Identity) -> set[str]:
    """Of some incidents, those that a token sees something of."""
    ids = sorted(set(incident_ids))
    if not who.limited:
        return set(ids)
    return {each for each, names in _deployments(connection, ids).items() if who.sees_any(names)}


def owned(connection: sa.Connection, incident_ids: Iterable[str], who: Identity) -> set[str]:
    """Of some incidents, those that are the token's entirely."""
    ids = sorted(set(incident_ids))
    if not who.limited:
        return set(ids)
    return {each for each, names in _deployments(connection, ids).items() if who.sees_all(names)}


def _deployments(connection: sa.Connection, ids: Sequence[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    d = t.incident_deployments.c
    for some in chunks(ids):
        for row in connection.execute(sa.select(d.incident_id, d.deployment_id).where(d.incident_id.in_(some))):
            found.setdefault(row.incident_id, set()).add(row.deployment_id)
    return found


def seen_incident(
    connection: sa.Connection, policy: Policy, named: str, who: Identity, now_ms: int, *, entries: int = 0
) -> Seen:
    """An incident as the token may see it.

    Raises:
        ProblemError: There is none.
    """
    whole = incident_id(connection, named, who)
    incident = load_incidents(connection, policy, [whole], now_ms, entries=entries).get(whole)
    what = None if incident is None else seen(incident, who)
    if what is None:
        raise no_incident(named)
    return what


def seen_incidents(
    connection: sa.Connection, policy: Policy, query: IncidentQuery, who: Identity, now_ms: int
) -> tuple[list[Seen], str | None]:
    """A page of incidents that the token may see, and the cursor of the next.

    A limited token's page may be short although more is to come: so much is looked at for it and no more.
    """
    asked = {
        "status": query.status,
        "deployment": query.deployment,
        "severity": query.severity,
        "owner": query.owner,
        "text": query.text,
    }
    if who.limited and query.deployment is not None and not who.sees(query.deployment):
        return [], None
    found: list[Seen] = []
    cursor = None if query.before is None else _place(query.before)
    for _ in range(_ROUNDS if who.limited else 1):
        try:
            page, cursor = find_incidents(
                connection, policy, now_ms, before=cursor, limit=query.limit - len(found), **asked
            )
        except SearchError as error:
            raise ProblemError("invalid", str(error)) from error
        found += [what for each in page if (what := seen(each, who)) is not None and _still(what, query)]
        if cursor is None or len(found) == query.limit:
            break
    return found, cursor


def _place(before: str) -> str:
    """A cursor, once it is one: its numbers go into a question to the database, which takes so many digits.

    Raises:
        ProblemError: It is none.
    """
    try:
        said = base64.urlsafe_b64decode(before + "=" * (-len(before) % 4))
    except (binascii.Error, ValueError):
        said = b""
    if not re.fullmatch(rb"[0-9]{1,17}\.[0-9a-f]{12}", said):
        raise ProblemError("invalid", "before is no cursor", expected="`next` of the page before", came=before)
    return before


def _still(what: Seen, query: IncidentQuery) -> bool:
    """Whether what is left of an incident is what was asked for: a search must not tell what is hidden."""
    if not what.withheld:
        return True
    incident = what.incident
    if query.severity is not None and incident.severity != query.severity:
        return False
    if query.owner is not None and incident.owner != query.owner:
        return False
    if query.text is not None:
        said = json.dumps([incident.id, incident.title, incident.owner, *incident.deployments], ensure_ascii=False)
        return query.text.casefold() in said.casefold()
    return True


def about(row: Any) -> list[str]:
    """The ids of the incidents that a row of the outbox tells of."""
    return [str(each["incident"]) for each in row or () if isinstance(each, dict) and "incident" in each]
