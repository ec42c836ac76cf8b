"""Follows the routing file while the service runs: a good one takes over whole, a bad one changes nothing and is told.

It is read again when it changed, on SIGHUP (:meth:`Reloader.wake`) and when somebody asks (:meth:`Reloader.reload`).
Every reading is in the audit. Files with secrets are read again with it, but their change alone is not noticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from driftline.topics import Topics
from services.alerting.database.opening import Database
from services.alerting.incidents.actions import Actor
from services.alerting.notify.publishing import publish
from services.alerting.policy.linting import lint_at
from services.alerting.policy.loading import load_policy
from services.alerting.policy.model import Policy, PolicyHolder
from services.alerting.policy.problems import PolicyError
from services.alerting.records import audit_event

log = logging.getLogger("driftline.alerting")

LOOK_SECONDS = 1.0
"""Between two looks at the file. A change is taken once two of them saw the same: then it has been written whole."""

_SUBJECT = "policy"
_FILE, _SIGNAL, _START = (Actor("alerting", via, "service") for via in ("file", "signal", "start"))
_Seen = tuple[int, int, int] | None


class Reloader:
    """Keeps the policy in force.

    Args:
        path: The routing file; None for the environment alone, which is read again when asked.
        holder: Of the policy in force.
        database: For the audit events.
        topics: For the audit events.
        now_ms: Clock.
        acted: Called after each audit event is written, in any thread.
        environment: Where secrets come from; None for the process's own.
        counted: Told of each reading that nobody asked for, whether it was good.

    Attributes:
        trouble: Why the last reading was refused; empty when all is well.
    """

    def __init__(
        self,
        path: Path | None,
        holder: PolicyHolder,
        database: Database,
        topics: Topics,
        now_ms: Callable[[], int],
        acted: Callable[[], None],
        *,
        environment: Mapping[str, str] | None = None,
        counted: Callable[[bool], None] = lambda good: None,
    ) -> None:
        self._path = path
        self._holder = holder
        self._database = database
        self._topics = topics
        self._now_ms = now_ms
        self._acted = acted
        self._environment = os.environ if environment is None else environment
        self._counted = counted
        self._adopted: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._readings = 0
        self._wake = asyncio.Event()
        self._taken: _Seen = None
        self.trouble = ""

    def wake(self) -> None:
        """Read the file again now. Call on the event loop."""
        self._wake.set()

    def reload(self, actor: Actor) -> str:
        """Read the file again for somebody; returns why it was refused, or the empty text. Thread-safe.

        Raises:
            DBAPIError: What was decided could not be written down, so nothing has changed.
        """
        with self._lock:
            seen = self._look()
            read = self._read()
            if isinstance(read, PolicyError):
                self._refuse(read, actor)
                self._taken = seen
                return str(read)
            policy = read
            self._record(policy, actor)
            self._holder.current = policy
            self._taken = seen
            self.trouble = ""
        log.info("the routing file %s is in force, for %s by %s", policy.origin, actor.name, actor.via)
        self._warn(policy)
        self._adopted()
        return ""

    def _read(self) -> Policy | PolicyError:
        try:
            return load_policy(self._path, self._environment)
        except PolicyError as error:
            return error
        except Exception as error:
            # Whatever a file does to its reader, those that are told already go on being told.
            # Without its text, which may hold a secret that nobody knows yet.
            log.error("unforeseen %s while reading the routing file", type(error).__name__)
            return PolicyError(f"the routing file cannot be read: unforeseen {type(error).__name__}")

    async def run(self, adopted: Callable[[], None]) -> None:
        """Follow the file until cancelled; ``adopted`` is called, in any thread, when another policy is in force."""
        self._adopted = adopted
        await asyncio.to_thread(self._begin)
        before = self._taken
        while True:
            asked = await self._asked()
            seen = await asyncio.to_thread(self._look)
            # Without a file there is nothing to follow.
            changed = self._path is not None and seen == before != self._taken
            before = seen
            if asked or changed:
                await asyncio.to_thread(self._follow, _SIGNAL if asked else _FILE)

    async def _asked(self) -> bool:
        try:
            await asyncio.wait_for(self._wake.wait(), LOOK_SECONDS)
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    def _begin(self) -> None:
        """The start is a reading too."""
        policy = self._holder.current
        seen = self._look()
        with contextlib.suppress(OSError):
            # Otherwise it changed between the start's reading and now, and is read again.
            if self._path is not None and hashlib.sha256(self._path.read_bytes()).hexdigest() == policy.digest:
                self._taken = seen
        with contextlib.suppress(DBAPIError):
            self._record(policy, _START)
        for warning in lint_at(policy, self._now_ms()):
            log.warning("%s: %s", policy.origin, warning)

    def _follow(self, actor: Actor) -> None:
        try:
            refused = self.reload(actor)
        except DBAPIError as error:
            # The file is still another than the one taken, so the next look tries again.
            self.trouble = f"the routing file could not be loaded anew: the database does not take it: {error.orig}"
            return
        self._counted(not refused)

    def _look(self) -> _Seen:
        """What tells one state of the file from another; through links, so that a link that changes counts."""
        if self._path is None:
            return None
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _refuse(self, error: PolicyError, actor: Actor) -> None:
        before = self._holder.current
        count = len(error.problems)
        more = f" (and {count - 1} more)" if count > 1 else ""
        where = self._path or "the environment"
        self.trouble = f"{where} is refused, and the routing before it stays in force: {error.problems[0]}{more}"
        log.error("%s", error)
        log.error("the routing before it stays in force (%s)", before.origin)
        self._write(
            "policy.refused",
            actor,
            before_digest=before.digest,
            reason="; ".join(error.problems),
            detail={"origin": str(where), "via": actor.via, "problems": count},
        )

    def _record(self, policy: Policy, actor: Actor) -> None:
        before = None if actor is _START else self._holder.current.digest
        self._write(
            "policy.loaded",
            actor,
            before_digest=before,
            after_digest=policy.digest,
            reason="the service started" if actor is _START else "",
            detail={
                "origin": policy.origin,
                "via": actor.via,
                "receivers": ", ".join(policy.receivers),
                "warnings": len(policy.warnings),
            },
        )

    def _write(
        self,
        action: str,
        actor: Actor,
        *,
        reason: str,
        detail: Mapping[str, object],
        before_digest: str | None = None,
        after_digest: str | None = None,
    ) -> None:
        now_ms = self._now_ms()
        self._readings += 1
        event = audit_event(
            self._topics.audit,
            action=action,
            subject=_SUBJECT,
            identity=(now_ms, self._readings, actor.name, actor.via),
            time_ms=now_ms,
            reason=reason,
            actor=actor.name,
            actor_kind=actor.kind,
            before_digest=before_digest,
            after_digest=after_digest,
            detail=detail,
        )
        with self._database.transaction() as connection:
            publish(connection, [event])
        self._acted()

    def _warn(self, policy: Policy) -> None:
        for warning in (*policy.warnings, *lint_at(policy, self._now_ms())):
            log.warning("%s: %s", policy.origin, warning)
