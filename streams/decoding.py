"""From a source message to checked columns, or to the reason why there are none."""

from __future__ import annotations

from dataclasses import dataclass

from driftline.codec import SchemaRegistry, decode
from driftline.errors import CodecError, EventError
from driftline.events import OutcomeColumns, PredictionColumns, outcome_from_event, prediction_from_event
from driftline.topics import Topics
from streams.messages import Message


@dataclass(frozen=True, slots=True)
class Decoded:
    """A message and what it says; or why it says nothing (reason, error)."""

    message: Message
    columns: PredictionColumns | OutcomeColumns | None
    refusal: tuple[str, str] | None = None


def decode_message(message: Message, topics: Topics, registry: SchemaRegistry | None = None) -> Decoded:
    """Decode and check a message of the predictions or outcomes topic; never raises for what the bytes say.

    Raises:
        RegistryError: The schema registry cannot be asked: nothing is known about the message.
    """
    is_prediction = message.topic == topics.predictions
    try:
        lone = "PredictionEvent" if is_prediction else "OutcomeEvent"
        name, record = decode(message.value, json_record=lone, registry=registry)
        columns: PredictionColumns | OutcomeColumns
        if is_prediction and name == "PredictionBatch":
            columns = PredictionColumns.from_record(record)
        elif is_prediction and name == "PredictionEvent":
            columns = prediction_from_event(record)
        elif not is_prediction and name == "OutcomeBatch":
            columns = OutcomeColumns.from_record(record)
        elif not is_prediction and name == "OutcomeEvent":
            columns = outcome_from_event(record)
        else:
            raise EventError(f"{name} does not belong on the topic {message.topic}")
    except (CodecError, EventError) as error:
        return Decoded(message, None, (error.reason, str(error)))
    return Decoded(message, columns)
