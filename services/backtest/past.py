"""What was in force: the specifications and baselines that are still on their topics, and those that are gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from driftline.codec import Record, decode
from driftline.errors import CodecError
from driftline.settings import KafkaSettings
from driftline.topics import record_key
from services.kafka import broker_time_ms, read_to_end
from streams.baseline import Baseline
from streams.errors import StreamsError
from streams.specification import DeploymentSpec


@dataclass
class Past:
    """Specifications and baselines of a deployment that are still on their compacted topics, oldest first.

    ``specs`` and ``baselines`` are by digest, each with the broker's time, milliseconds.
    """

    settings: KafkaSettings
    deployment_id: str
    specs: dict[str, tuple[DeploymentSpec, int]] = field(default_factory=dict)
    baselines: dict[str, tuple[Baseline, int]] = field(default_factory=dict)
    _gone: dict[str, str] | None = None

    @classmethod
    def read(cls, settings: KafkaSettings, deployment_id: str) -> Past:
        """Read both topics; a record that no worker would use is passed over.

        Raises:
            ClusterError: Kafka does not answer, or a topic is missing.
        """
        past, topics = cls(settings, deployment_id), settings.topics
        for topic, prefix in ((topics.deployments, record_key(deployment_id)), (topics.baselines, None)):
            for message in read_to_end(settings, topic):
                key, sent_ms = message.key() or b"", broker_time_ms(message) or 0
                ours = key == prefix if prefix is not None else key.startswith(f"{deployment_id}@".encode())
                if not ours or message.value() is None:
                    continue
                try:
                    past._take(decode(message.value())[1], sent_ms, is_spec=prefix is not None)
                except (CodecError, StreamsError, TypeError, KeyError, ValueError):
                    continue
        return past

    def _take(self, record: Record, sent_ms: int, *, is_spec: bool) -> None:
        if is_spec:
            spec = DeploymentSpec.from_record(record)
            spec.check()
            self.specs[spec.digest()] = spec, sent_ms
        else:
            baseline = Baseline.from_record(record)
            baseline.check()
            self.baselines[baseline.digest] = baseline, sent_ms

    @property
    def keys(self) -> frozenset[bytes]:
        """The Kafka keys of its messages, under any of the specifications."""
        shards = max(spec.shards for spec, _ in self.specs.values())
        return frozenset({record_key(self.deployment_id)} | {record_key(self.deployment_id, s) for s in range(shards)})

    def subject_of(self, digest: str) -> str | None:
        """What a digest that is on neither topic stood for, if it was the deployment's.

        The audit record knows: ``deployment:ID`` or ``baseline:ID@VERSION``.
        """
        if self._gone is None:
            self._gone = {}
            prefixes = f"deployment:{self.deployment_id}".encode(), f"baseline:{self.deployment_id}@".encode()
            for message in read_to_end(self.settings, self.settings.topics.audit):
                key = message.key() or b""
                if key != prefixes[0] and not key.startswith(prefixes[1]):
                    continue
                try:
                    event = decode(message.value())[1]
                except CodecError:
                    continue
                self._gone[event["after_digest"] or ""] = event["subject"]
        return self._gone.get(digest)

    def oldest_baseline(self, model_version: str) -> Baseline | None:
        """The oldest baseline of a version that is still there."""
        return next((b for b, _ in self.baselines.values() if b.model_version == model_version), None)

    def at(self, sent_ms: int) -> tuple[DeploymentSpec | None, list[Baseline]]:
        """What was in force at a time of the broker; the oldest that is there where what was then is gone.

        None if the deployment was not there yet.
        """
        oldest, oldest_ms = next(iter(self.specs.values()))
        if oldest_ms > sent_ms and oldest.revision == 1:
            return None, []
        versions = dict.fromkeys(baseline.model_version for baseline, _ in self.baselines.values())
        known = self.baselines.values()
        return _latest(self.specs.values(), sent_ms), [
            _latest([item for item in known if item[0].model_version == version], sent_ms) for version in versions
        ]


def _latest(items: Iterable[tuple[Any, int]], sent_ms: int) -> Any:
    in_time = sorted(items, key=lambda item: item[1])
    earlier = [item for item in in_time if item[1] <= sent_ms]
    return (earlier or in_time[:1])[-1][0]
