"""The embedded broker: a real Kafka that starts, answers, stops, and says why when it cannot."""

from confluent_kafka.admin import AdminClient

from services.broker.embedded import EmbeddedBroker


def test_answers_a_metadata_request(kafka: EmbeddedBroker) -> None:
    metadata = AdminClient({"bootstrap.servers": kafka.bootstrap_servers}).list_topics(timeout=10)
    assert len(metadata.brokers) == 1
