"""The whole way through a cluster that demands TLS and a password: topics, apply, publish, worker, windows."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

import services.broker.embedded as embedded
from services.broker.configuration import HOST
from services.broker.ports import free_port

PASSWORD = "canary-5f1d-secret"
SPECIFICATION = """\
deployment: loans
model: loan
task: other
features: {x: numeric}
columns: {prediction_id: id, timestamp: at, prediction: score}
"""


def certificate(folder: Path) -> tuple[Path, str, str]:
    """A self-signed certificate for 127.0.0.1: the file for clients; key and certificate as PEM text for Kafka."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "driftline test")])
    now = dt.datetime.now(dt.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain = signed.public_bytes(serialization.Encoding.PEM).decode()
    pem = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(serialization.Encoding.PEM, pem, serialization.NoEncryption()).decode()
    path = folder / "ca.pem"
    path.write_text(chain, "utf-8")
    return path, chain, private


@pytest.fixture
def secure_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Environment variables for a real broker with a second listener that speaks SASL_SSL only."""
    authority, chain, private = certificate(tmp_path)
    port, plain = free_port(HOST), embedded.server_properties

    def with_secure_listener(*arguments: Any) -> str:
        def one_line(text: str) -> str:
            return text.strip().replace("\n", "\\n")

        jaas = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_driftline="{PASSWORD}";'
        lines = []
        for line in plain(*arguments).splitlines():
            if line.startswith(("listeners=", "advertised.listeners=")):
                line += f",SECURE://{HOST}:{port}"
            if line.startswith("listener.security.protocol.map="):
                line += ",SECURE:SASL_SSL"
            lines.append(line)
        lines += [
            "listener.name.secure.ssl.keystore.type=PEM",
            f"listener.name.secure.ssl.keystore.certificate.chain={one_line(chain)}",
            f"listener.name.secure.ssl.keystore.key={one_line(private)}",
            "listener.name.secure.sasl.enabled.mechanisms=PLAIN",
            f"listener.name.secure.plain.sasl.jaas.config={jaas}",
            "inter.broker.listener.name=PLAINTEXT",
        ]
        return "\n".join(lines) + "\n"

    monkeypatch.setattr(embedded, "server_properties", with_secure_listener)
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n", "utf-8")
    with embedded.EmbeddedBroker(tmp_path / "broker"):
        yield {
            "DRIFTLINE_BOOTSTRAP_SERVERS": f"{HOST}:{port}",
            "DRIFTLINE_PARTITIONS": "1",
            "DRIFTLINE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "DRIFTLINE_KAFKA_SASL_MECHANISM": "PLAIN",
            "DRIFTLINE_KAFKA_SASL_USERNAME": "driftline",
            "DRIFTLINE_KAFKA_SASL_PASSWORD_FILE": str(secret),
            "DRIFTLINE_KAFKA_SSL_CA_LOCATION": str(authority),
        }


def driftline(environment: dict[str, str], *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.cli.main", *words],
        env={**os.environ, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def write_csv(path: Path, rows: int, first_hour: int) -> None:
    rng = np.random.default_rng(first_hour)
    lines = ["id,at,x,score"]
    for i in range(rows):
        at = dt.datetime(2026, 1, 1, first_hour, tzinfo=dt.UTC) + dt.timedelta(seconds=i)
        lines.append(f"r{first_hour}-{i},{at.isoformat()},{rng.normal():.4f},{rng.random():.4f}")
    path.write_text("\n".join(lines) + "\n", "utf-8")


def test_a_cluster_with_tls_and_a_password_serves_every_part(secure_cluster: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "loans.yaml").write_text(SPECIFICATION, "utf-8")
    write_csv(tmp_path / "reference.csv", 1000, 0)
    write_csv(tmp_path / "live.csv", 1000, 2)
    outputs = []

    def run(*words: str, behind: bool = False) -> str:
        done = driftline(secure_cluster, *words, folder=tmp_path)
        outputs.append(done.stdout + done.stderr)
        assert behind or done.returncode == 0, done.stderr
        return done.stdout

    run("topics", "create")
    run("deployment", "apply", "loans.yaml")
    run("baseline", "build", "loans", "reference.csv", "--version", "1")
    run("publish", "predictions", "loans", "live.csv", "--version", "1")
    log = tmp_path / "worker.log"
    with (
        log.open("w") as stream,
        subprocess.Popen(
            [sys.executable, "-m", "services.cli.main", "worker"],
            env={**os.environ, **secure_cluster},
            cwd=tmp_path,
            stdout=stream,
            stderr=subprocess.STDOUT,
        ) as worker,
    ):
        try:
            applied, deadline = 0, time.monotonic() + 60
            while applied < 1000 and time.monotonic() < deadline and worker.poll() is None:
                status = json.loads(run("status", "--json", behind=True))
                applied = sum(deployment.get("rows", 0) for deployment in status["deployments"])
        finally:
            worker.terminate()
            worker.wait(30)
    assert applied == 1000, log.read_text("utf-8")[-2000:]
    assert PASSWORD not in "".join(outputs) + log.read_text("utf-8")


def test_a_wrong_password_is_said_plainly(secure_cluster: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "password").write_text("wrong", "utf-8")
    done = driftline(secure_cluster, "topics", folder=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "authentic" in done.stderr.lower()
