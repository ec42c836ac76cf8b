"""The worker's state machine without Kafka: the same messages, decoded and applied by the same code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from driftline.codec import encode
from driftline.events import PredictionColumns
from driftline.topics import Topics, record_key
from streams.baseline import Baseline
from streams.decoding import decode_message
from streams.messages import Message
from streams.partition import Partition
from streams.specification import DeploymentSpec

Alert = Mapping[str, Any]


class Machine:
    """One partition with one deployment, and the alerts it raised."""

    def __init__(self, spec: DeploymentSpec, baseline: Baseline) -> None:
        self._topics = Topics("bench.")
        self._key = record_key(spec.deployment_id)
        self.partition = Partition(0, self._topics)
        self.partition.put_spec_in_force(spec)
        self.partition.put_baseline_in_force(baseline)
        self.alerts: list[Alert] = []
        self.state: dict[bytes, Any] = {}

    def apply(self, columns: PredictionColumns) -> list[Alert]:
        """Apply one message; the alarms it raised. The log's time is that of the message's last event."""
        offset = self.partition.position[self._topics.predictions]
        value = encode("PredictionBatch", columns.to_record())
        time_ms = int(columns.timestamps_us.max()) // 1000
        message = Message(self._topics.predictions, 0, offset, time_ms, self._key, value)
        self.partition.apply(decode_message(message, self._topics))
        records, emissions, _ = self.partition.take()
        self.state |= records
        alerts = [emission.record for emission in emissions if emission.record_name == "Alert"]
        self.alerts += alerts
        return [alert for alert in alerts if alert["status"] == "firing"]

    @property
    def firing(self) -> list[Alert]:
        """Alarms that were raised, resolved or not."""
        return [alert for alert in self.alerts if alert["status"] == "firing"]


def batches(columns: PredictionColumns, sizes: Iterable[int]) -> Iterable[PredictionColumns]:
    """Columns cut into messages of these sizes; the last one takes what is left."""
    from services.publish.reading import take

    first = 0
    for size in sizes:
        if first >= columns.rows:
            return
        yield take(columns, np.arange(first, min(first + size, columns.rows)))
        first += size
    if first < columns.rows:
        yield take(columns, np.arange(first, columns.rows))
