"""The Confluent wire format, with a registry that speaks Confluent's HTTP interface."""

import base64
import io
import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fastavro
import pytest
from confluent_kafka import Consumer

import driftline
from driftline import codec
from driftline.errors import CodecError, RegistryError, SettingsError
from driftline.registry import Registry


class RegistryServer(ThreadingHTTPServer):
    """Ids by schema text, subjects with versions; as little of a registry as the client asks for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.schemas: list[str] = []
        self.subjects: dict[str, list[int]] = {}
        self.requests: list[tuple[str, str]] = []
        self.user_info: str | None = None
        self.answer: tuple[int, bytes] | None = None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: RegistryServer

    def log_message(self, *_arguments: Any) -> None:
        pass

    def reply(self, status: int, body: Any) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refused(self) -> bool:
        server = self.server
        server.requests.append((self.command, self.path))
        if server.user_info is not None:
            expected = "Basic " + base64.b64encode(server.user_info.encode()).decode()
            if self.headers.get("Authorization") != expected:
                self.reply(401, {"error_code": 401, "message": "Unauthorized"})
                return True
        if server.answer is not None:
            self.reply(*server.answer)
            return True
        return False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refused():
            return
        subject = self.path.split("/")[2]
        assert body["schemaType"] == "AVRO"
        if body["schema"] not in self.server.schemas:
            self.server.schemas.append(body["schema"])
        schema_id = 100_000 + self.server.schemas.index(body["schema"])
        self.server.subjects.setdefault(subject, []).append(schema_id)
        self.reply(200, {"id": schema_id})

    def do_GET(self) -> None:
        if self.refused():
            return
        index = int(self.path.rpartition("/")[2]) - 100_000
        if 0 <= index < len(self.server.schemas):
            self.reply(200, {"schema": self.server.schemas[index]})
        else:
            self.reply(404, {"error_code": 40403, "message": "Schema not found"})


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


OUTCOME = {
    "prediction_id": "p1",
    "deployment_id": "credit",
    "actual_timestamp": 5,
    "actual_value": 1.0,
    "actual_label": None,
    "was_acted_on": None,
    "labelling_probability": None,
}


def test_a_record_goes_there_and_back_and_each_schema_is_asked_for_once(server: RegistryServer) -> None:
    writer, reader = Registry(server.url), Registry(server.url + "/")
    for _ in range(3):
        data = codec.encode("OutcomeEvent", OUTCOME, writer)
        assert data[:1] == b"\x00"
        assert struct.unpack(">I", data[1:5]) == (100_000,)
        assert codec.decode(data, registry=reader) == ("OutcomeEvent", OUTCOME)
    assert server.requests == [("POST", "/subjects/driftline.OutcomeEvent/versions"), ("GET", "/schemas/ids/100000")]


def test_every_record_has_its_own_subject(server: RegistryServer) -> None:
    registry = Registry(server.url)
    for schema in codec.SCHEMAS.values():
        registry.id_of(schema)
    assert set(server.subjects) == {f"driftline.{name}" for name in codec.SCHEMAS}


def test_an_older_schema_of_the_registry_is_read_as_todays(server: RegistryServer) -> None:
    older = json.loads(codec.SCHEMAS["OutcomeEvent"].text)
    older["fields"] = [field for field in older["fields"] if field["name"] != "was_acted_on"]
    server.schemas.append(json.dumps(older))
    written = codec.parse_schema(json.dumps(older))
    body = io.BytesIO()
    fastavro.schemaless_writer(body, written.parsed, OUTCOME)
    data = b"\x00" + struct.pack(">I", 100_000) + body.getvalue()
    assert codec.decode(data, registry=Registry(server.url)) == ("OutcomeEvent", OUTCOME)


def test_the_header_can_be_changed_without_touching_the_record(server: RegistryServer) -> None:
    registry = Registry(server.url)
    single_object = codec.encode("OutcomeEvent", OUTCOME)
    assert codec.with_registry(single_object, registry) == codec.encode("OutcomeEvent", OUTCOME, registry)
    with pytest.raises(CodecError):
        codec.with_registry(b"\xc3\x0112345678body", registry)


def test_an_unknown_id_is_the_records_fault(server: RegistryServer) -> None:
    with pytest.raises(CodecError, match="knows no schema 7") as caught:
        codec.decode(b"\x00" + struct.pack(">I", 7) + b"x", registry=Registry(server.url))
    assert caught.value.reason == "wrong_schema"


@pytest.mark.parametrize(
    "schema", ['"int"', "{", '["null", "int"]', '{"type": "record", "name": "driftline.Other", "fields": []}', "7"]
)
def test_a_schema_that_is_not_ours_is_the_records_fault(server: RegistryServer, schema: str) -> None:
    server.schemas.append(schema)
    with pytest.raises(CodecError) as caught:
        codec.decode(b"\x00" + struct.pack(">I", 100_000) + b"x", registry=Registry(server.url))
    assert caught.value.reason == "wrong_schema"


@pytest.mark.parametrize(
    "answer", [(500, b"{}"), (422, b'{"message": "incompatible"}'), (200, b"<html>"), (200, b"[]"), (200, b"{}")]
)
def test_a_registry_that_fails_is_not_the_records_fault(server: RegistryServer, answer: tuple[int, bytes]) -> None:
    server.answer = answer
    with pytest.raises(RegistryError):
        Registry(server.url).id_of(codec.SCHEMAS["Alert"])
    if answer != (200, b"{}"):
        with pytest.raises(RegistryError):
            Registry(server.url).schema_of(7)


def test_a_registry_that_is_not_there_is_not_the_records_fault() -> None:
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:1"):
        Registry("http://127.0.0.1:1", timeout_seconds=1).id_of(codec.SCHEMAS["Alert"])


def test_user_and_password_are_sent_and_never_shown(server: RegistryServer) -> None:
    server.user_info = "ann:s3cret:with colon"
    registry = Registry(server.url, user_info=server.user_info)
    assert registry.id_of(codec.SCHEMAS["Alert"]) == 100_000
    in_url = Registry(server.url.replace("http://", "http://ann:s3cret%3Awith%20colon@"))
    assert in_url.id_of(codec.SCHEMAS["Alert"]) == 100_000
    with pytest.raises(RegistryError, match="401") as caught:
        Registry(server.url, user_info="ann:wrong-s3cret").id_of(codec.SCHEMAS["Alert"])
    for text in (str(caught.value), repr(registry), repr(in_url), in_url.url):
        assert "s3cret" not in text


@pytest.mark.parametrize("url", ["ftp://x", "registry:8081", "file:///etc/passwd", "http://", ""])
def test_only_http_urls_are_taken(url: str) -> None:
    with pytest.raises(SettingsError, match="http or https"):
        Registry(url)


def test_the_client_publishes_in_the_wire_format_of_the_registry(
    server: RegistryServer, arrivals: Any, tmp_path: Any
) -> None:
    settings = driftline.KafkaSettings(
        arrivals.settings.bootstrap_servers, arrivals.settings.topics, schema_registry_url=server.url
    )
    with driftline.Client("credit", "v1", settings=settings, spool_dir=tmp_path) as client:
        client.log_prediction({"a": 1.0}, prediction_id="p1")
    data, registry = poll_one(arrivals), Registry(server.url)
    assert data[:1] == b"\x00"
    name, record = codec.decode(data, registry=registry)
    assert (name, record["prediction_ids"]) == ("PredictionBatch", ["p1"])


def test_predictions_wait_on_disk_while_the_registry_is_away(
    server: RegistryServer, arrivals: Any, tmp_path: Any, eventually: Any
) -> None:
    settings = driftline.KafkaSettings(
        arrivals.settings.bootstrap_servers, arrivals.settings.topics, schema_registry_url=server.url
    )
    server.answer = (503, b"{}")
    with driftline.Client("credit", "v1", settings=settings, spool_dir=tmp_path) as client:
        client.log_prediction({"a": 1.0}, prediction_id="p1")
        eventually(lambda: client.counters().spooled == 1)
        server.answer = None
        eventually(lambda: client.counters().delivered == 1)
    assert codec.decode(poll_one(arrivals), registry=Registry(server.url))[1]["prediction_ids"] == ["p1"]


def poll_one(arrivals: Any) -> bytes:
    consumer = Consumer(arrivals.settings.client(group_id="one", auto_offset_reset="earliest"))
    consumer.subscribe([arrivals.settings.topics.predictions])
    try:
        message = consumer.poll(20)
        assert message is not None and message.error() is None
        value = message.value()
        assert isinstance(value, bytes)
        return value
    finally:
        consumer.close()
