"""The interface over both databases, with TLS, over a restart, and on addresses it cannot have."""

import contextlib
import datetime as dt
import ipaddress
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.alerting.api.connection import Connection
from services.alerting.api.server import ApiServer
from services.alerting.errors import AlertingError
from services.cli.alerting_client import AlertingClient, ServiceAwayError


def test_everything_is_the_same_over_both_databases(
    start_api: Callable[..., Any], any_database: Any, make_apart: Any
) -> None:
    api = start_api(any_database)
    first, second = api.take(make_apart(1, deployment_id="credit-eu"), make_apart(2, deployment_id="fraud"))
    credit = api.token("owner", "credit-*")
    assert [each["id"] for each in api.get("incidents").json["incidents"]] == [second, first]
    assert [each["id"] for each in api.get("incidents", token=credit).json["incidents"]] == [first]
    assert api.get(f"incidents/{second}", token=credit).status == 404
    assert api.post(f"incidents/{first[:6]}/acknowledge", {"reason": "on it"}).json["status"] == "acknowledged"
    body = {"match": {"deployment": "credit-eu"}, "duration": "1h", "reason": "x"}
    silence = api.post("silences", body, token=credit).json["id"]
    assert [s["id"] for s in api.get("silences", token=credit).json["silences"]] == [silence]
    assert api.get(f"incidents/{first}").json["incident"]["state"] == "silenced"
    assert api.get(f"silences/{silence[:6]}", token=credit).json["id"] == silence
    assert api.post(f"silences/{silence}/end", {}, token=credit).json["state"] == "expired"
    assert api.post("receivers/chat/test").status == 202
    assert len(api.get("notifications", limit=1).json["notifications"]) == 1
    assert [r["name"] for r in api.get("receivers").json["receivers"]] == ["pager", "chat"]
    assert api.post("notifications/redrive", {"receiver": "chat"}).status == 404
    counts = api.counts()
    assert counts['driftline_alerting_incidents{severity="error",status="acknowledged"}'] == 1
    assert counts['driftline_alerting_messages{receiver="chat",status="pending"}'] == 1
    for hostile in ("a\u202eb", "'; --", "🙈" * 300, "%_\\"):
        assert api.post(f"incidents/{first}/note", {"reason": hostile}).status == 200
        assert api.get("incidents", text=hostile[:100]).status == 200


def test_a_repeat_past_a_restart_changes_nothing(start_api: Callable[..., Any], database: Any, make_alert: Any) -> None:
    api = start_api(database)
    (incident,) = api.take(make_alert())
    headers = {"X-Request-Id": "the-same"}
    assert api.post(f"incidents/{incident}/note", {"reason": "once"}, headers=headers).status == 200
    body = {"match": {"deployment": "x"}, "duration": "1h", "reason": "y"}
    silence = api.post("silences", body, headers={"X-Request-Id": "s"}).json["id"]
    token = api.token("operator")
    again = start_api(database)
    again.now_ms += 60_000
    assert again.post(f"incidents/{incident}/note", {"reason": "once"}, headers=headers, token=token).status == 200
    assert again.post("silences", body, headers={"X-Request-Id": "s"}, token=token).json["id"] == silence
    story = again.get(f"incidents/{incident}", token=token).json["story"]
    assert [entry["reason"] for entry in story if entry["action"] == "incident.noted"] == ["once"]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of this machine's own, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "driftline")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


@pytest.fixture
def tls(api: Any, certificate: tuple[Path, Path]) -> Iterator[ApiServer]:
    """A second server of the same interface, with TLS."""
    server = ApiServer(api.services, "127.0.0.1", 0, certificate=certificate[0], key=certificate[1])
    api._on_loop(server.start())
    yield server
    api._on_loop(server.stop())


def test_commands_speak_tls_and_check_the_certificate(api: Any, tls: ApiServer, certificate: tuple[Path, Path]) -> None:
    assert tls.url.startswith("https://127.0.0.1:")
    token = api.token("viewer")
    client = AlertingClient(Connection(tls.url, token, str(certificate[0])))
    assert client.get("whoami")["name"] == "viewer-person"
    with pytest.raises(ServiceAwayError, match="certificate"):
        AlertingClient(Connection(tls.url, token)).get("whoami")


def test_browsers_are_told_to_stay_with_tls(api: Any, tls: ApiServer, certificate: tuple[Path, Path]) -> None:
    import ssl
    import urllib.request

    context = ssl.create_default_context(cafile=str(certificate[0]))
    with urllib.request.urlopen(tls.url + "/healthz", context=context, timeout=20) as answer:
        assert answer.headers["Strict-Transport-Security"].startswith("max-age=")
    assert "Strict-Transport-Security" not in api.ask("GET", "/healthz", token=None).headers


def test_half_a_certificate_is_refused(api: Any, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("none")
    for given, said in (
        ({"certificate": certificate[0]}, "both a certificate and a key"),
        ({"certificate": certificate[0], "key": tmp_path / "none.pem"}, "expected a PEM certificate"),
        ({"certificate": tmp_path / "missing", "key": certificate[1]}, "expected a PEM certificate"),
    ):
        with pytest.raises(AlertingError, match=said):
            api._on_loop(ApiServer(api.services, "127.0.0.1", 0, **given).start())


def test_a_port_that_is_taken_is_named(api: Any) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AlertingError, match=f"port {port} on 127.0.0.1 cannot be used.*--port"):
            api._on_loop(ApiServer(api.services, "127.0.0.1", port).start())
