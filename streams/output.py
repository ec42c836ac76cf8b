"""What a partition has to say until its next commit: emissions, the order of what it applied, records that changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from streams.alerts import dead_letter
from streams.deployment import Deployment, Version, fields_of, key_of
from streams.messages import Emission, Message

END_PREFIX = "end:"
"""What the order says, with the deployment's name, where one was retired; otherwise it names a digest."""


class Output:
    """Gathers what is to be committed.

    Attributes:
        urgent: An alarm was raised or resolved since :meth:`take`: somebody waits for it.
        dead_letters: Refusals ever.
    """

    def __init__(self) -> None:
        self._emissions: list[Emission] = []
        self._order: list[dict[str, Any]] = []
        self._changed: dict[bytes, Any] = {}
        self.urgent = False
        self.dead_letters = 0

    @property
    def has_order(self) -> bool:
        """Whether anything was applied since the last :meth:`take`."""
        return bool(self._order)

    def emit(self, *emissions: Emission) -> None:
        """Something is to be published."""
        self._emissions += emissions

    def emit_alerts(self, emissions: Iterable[Emission]) -> None:
        """Something is to be published that somebody waits for."""
        before = len(self._emissions)
        self._emissions += emissions
        self.urgent |= len(self._emissions) > before

    def refuse(self, message: Message, reason: str, error: str, rows: Sequence[int] = ()) -> None:
        """A message, or some rows of it, cannot be used."""
        self.dead_letters += 1
        self._emissions.append(dead_letter(message, reason, error, rows))

    def refuse_unknown(self, deployment_id: str, message: Message) -> None:
        """A message is of a deployment that nobody has specified."""
        self.refuse(
            message,
            "unknown_deployment",
            f"deployment {deployment_id!r} is not known: apply its specification with "
            "'driftline deployment apply FILE', then publish again",
        )

    def refuse_key(self, deployment_id: str, shards: int, message: Message) -> None:
        """A message has another key than its deployment's."""
        expected = repr(deployment_id) if shards == 1 else f"'{deployment_id}#0' to '{deployment_id}#{shards - 1}'"
        came = "no key" if message.key is None else repr(message.key[:80].decode("utf-8", "replace"))
        self.refuse(message, "wrong_key", f"expected the Kafka key {expected}, came {came}")

    def order_message(self, message: Message) -> None:
        """A message was applied."""
        last = self._order[-1] if self._order else None
        if last is not None and last["source"] == message.topic and last["last_offset"] == message.offset - 1:
            last["last_offset"] = message.offset
            return
        self._append_order(message.topic, message.offset)

    def order_control(self, digest: str) -> None:
        """A specification or baseline came into force, or went."""
        self._append_order("control", 0, digest)

    def order_time(self, time_ms: int) -> None:
        """Time passed."""
        self._append_order("clock", time_ms)

    def _append_order(self, source: str, offset: int, digest: str | None = None) -> None:
        self._order.append({"source": source, "first_offset": offset, "last_offset": offset, "digest": digest})

    def touch(self, kind: str, *names: object, what: Any) -> None:
        """A record of the journal has changed; None: it is gone."""
        self._changed[key_of(kind, *names)] = what

    def is_touched(self, kind: str, *names: object) -> bool:
        """Whether a record has changed since the last :meth:`take`."""
        return key_of(kind, *names) in self._changed

    def touch_deployment(self, deployment: Deployment) -> None:
        """What is counted of a deployment has changed."""
        self.touch("deployment", deployment.spec.deployment_id, what=deployment)

    def touch_version(self, deployment: Deployment, version: Version, *, evidence: bool) -> None:
        """What is counted of a version has changed, and perhaps its evidence."""
        names = deployment.spec.deployment_id, version.baseline.model_version
        self.touch("slot", *names, what=version)
        if evidence:
            self.touch("evidence", *names, what=version)

    def take(self) -> tuple[dict[bytes, dict[str, Any] | None], list[Emission], list[dict[str, Any]]]:
        """Records that changed (None to delete), emissions, order. Forgets all three."""
        records: dict[bytes, dict[str, Any] | None] = {
            key: fields_of(key, changed) for key, changed in self._changed.items()
        }
        taken = records, self._emissions, self._order
        self._changed, self._emissions, self._order = {}, [], []
        self.urgent = False
        return taken
