"""A mail server on this machine that keeps what it gets, for tests, rehearsals and benches: a real one, by aiosmtpd.

It can want STARTTLS or TLS with a certificate of its own authority, want a password, refuse addresses, answer as it is
told to, close the connection without an answer, or be silent. Each mail is looked at for what mail servers and readers
would hold against it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import email
import email.policy
import ipaddress
import json
import ssl
import threading
import time
import warnings
from collections import deque
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.demo.mail_limits import MAX_BYTES, mail_problems

HOST = "127.0.0.1"

DROP = "drop"
"""Take the mail and close the connection without an answer."""
SILENCE = "silence"
"""Take the mail and answer nothing."""

_START_SECONDS = 10.0
_SILENCE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail that came in whole.

    Attributes:
        sender: Of the envelope.
        recipients: Of the envelope: those that were not refused.
        raw: As it came.
        message: The same, parsed.
        encrypted: Whether the connection was.
        user: Who had given a password; empty for nobody.
        status: What was answered; 0 for nothing.
        problems: What servers or readers would hold against it.
        monotonic_seconds: When it came, by ``time.monotonic()``.
    """

    sender: str
    recipients: tuple[str, ...]
    raw: bytes
    message: EmailMessage
    encrypted: bool
    user: str
    status: int
    problems: tuple[str, ...]
    monotonic_seconds: float

    @property
    def accepted(self) -> bool:
        """Whether the sender was told that it arrived."""
        return self.status == 250

    def part(self, subtype: Literal["plain", "html"]) -> str:
        """The text of the mail, one way or the other."""
        found = self.message.get_body((subtype,))
        return "" if found is None else str(found.get_content()).replace("\r\n", "\n")

    @property
    def pictures(self) -> list[EmailMessage]:
        """Pictures inside it."""
        return [part for part in self.message.walk() if part.get_content_maintype() == "image"]


class Mailbox:
    """The server, on a loopback port, in a thread of its own. Thread-safe.

    Args:
        directory: Where the certificate of its authority is put (``ca.pem``); needed for TLS.
        security: As in the routing file.
        login: Name and password it wants.
        offer_starttls: Whether it says that it can, when ``security`` is ``starttls``.
        certified_for: The name in its certificate, besides the address.
        record_file: Append each mail to this file, one JSON object per line.
        port: To listen on; 0 for a free one.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        security: Literal["none", "starttls", "tls"] = "none",
        login: tuple[str, str] | None = None,
        offer_starttls: bool = True,
        certified_for: str = "localhost",
        record_file: Path | None = None,
        port: int = 0,
    ) -> None:
        self._security = security
        self._login = login
        self._record_file = record_file
        self._asked_port = port
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._mails: list[Mail] = []
        self._refused: dict[str, tuple[str, int | None]] = {}
        self._scripted: deque[str] = deque()
        self._senders: deque[str] = deque()
        self._standing: str | None = None
        self._context: ssl.SSLContext | None = None
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mailbox", daemon=True)
        self.logins: list[tuple[str, bool]] = []
        """Names that gave a password, and whether the connection was encrypted."""
        self.port = 0
        self.ca_file = ""
        if security != "none":
            if directory is None:
                raise ValueError("a directory for the certificates is needed for TLS")
            self._context, self.ca_file = certificates(directory, certified_for)
        self._starttls = self._context if security == "starttls" and offer_starttls else None

    # What arrived

    def mails(self) -> list[Mail]:
        """Every mail so far, in order, also those that were refused in the end."""
        with self._lock:
            return list(self._mails)

    def accepted(self) -> list[Mail]:
        """The mails whose sender was told that they arrived."""
        return [mail for mail in self.mails() if mail.accepted]

    def wait_for(self, count: int, timeout_seconds: float = 30.0) -> list[Mail]:
        """Wait until so many are accepted; returns what is there when the time is over."""
        deadline = time.monotonic() + timeout_seconds
        with self._arrived:
            while True:
                found = [mail for mail in self._mails if mail.accepted]
                left = deadline - time.monotonic()
                if len(found) >= count or left <= 0:
                    return found
                self._arrived.wait(left)

    def repeated(self) -> int:
        """How many times an address got a ``Message-ID`` that it had already."""
        seen: set[tuple[str, str]] = set()
        again = 0
        for mail in self.mails():
            if mail.status in (0, 250):
                for address in mail.recipients:
                    pair = (str(mail.message["Message-ID"]), address)
                    again += pair in seen
                    seen.add(pair)
        return again

    # How to answer

    def refuse(self, address: str, reply: str | None, times: int | None = None) -> None:
        """Refuse a recipient with a reply such as ``"452 mailbox full"``, so many times or for ever; None takes it."""
        with self._lock:
            self._refused.pop(address, None)
            if reply is not None:
                self._refused[address] = (reply, times)

    def script(self, *replies: str) -> None:
        """Answer the next mails like this, one each: a reply such as ``"451 later"``, :data:`DROP` or
        :data:`SILENCE`; later ones are accepted again.
        """
        with self._lock:
            self._scripted.extend(replies)

    def script_sender(self, *replies: str) -> None:
        """Answer the next commands ``MAIL`` like this, one each."""
        with self._lock:
            self._senders.extend(replies)

    def answer_always(self, reply: str | None) -> None:
        """Answer every mail like this until told otherwise; None accepts again."""
        with self._lock:
            self._standing = reply

    # Life

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(_START_SECONDS)

    def stop(self) -> None:
        """Stop listening."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(_START_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def _start(self) -> None:
        implicit = self._context if self._security == "tls" else None
        self._server = await self._loop.create_server(self._protocol, HOST, self._asked_port, ssl=implicit)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _protocol(self) -> SMTP:
        with warnings.catch_warnings():
            # It takes passwords without TLS, so that a client that gives one away is seen to.
            warnings.simplefilter("ignore", UserWarning)
            return SMTP(
                self,
                hostname="mailbox.example.org",
                loop=self._loop,
                data_size_limit=MAX_BYTES,
                tls_context=self._starttls,
                require_starttls=self._starttls is not None,
                auth_required=self._login is not None,
                auth_require_tls=False,
                authenticator=self._authenticate,
            )

    # Called by aiosmtpd

    def _authenticate(self, server: SMTP, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        given = (
            (data.login.decode("utf-8", "replace"), data.password.decode("utf-8", "replace"))
            if isinstance(data, LoginPassword)
            else ("", "")
        )
        self.logins.append((given[0], _is_encrypted(server)))
        return AuthResult(success=given == self._login, handled=False, auth_data=given[0])

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        """Called for the command MAIL."""
        with self._lock:
            if self._senders:
                return self._senders.popleft()
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        """Called for the command RCPT."""
        with self._lock:
            reply, times = self._refused.get(address, ("", 0))
            if reply and times is not None:
                if times <= 1:
                    del self._refused[address]
                else:
                    self._refused[address] = (reply, times - 1)
        if reply:
            return reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802
        """Called when a mail has come in whole."""
        with self._lock:
            reply = self._scripted.popleft() if self._scripted else self._standing
        raw: bytes = envelope.original_content or b""
        problems = mail_problems(raw)
        if reply is None:
            reply = "250 OK" if not problems else "554 " + "; ".join(problems)[:400]
        status = int(reply[:3]) if reply[:3].isdigit() else 0
        message = email.message_from_bytes(raw, policy=email.policy.default)
        self._note(
            Mail(
                envelope.mail_from or "",
                tuple(envelope.rcpt_tos),
                raw,
                message,
                _is_encrypted(server),
                session.auth_data if isinstance(session.auth_data, str) else "",
                status,
                tuple(problems),
                time.monotonic(),
            )
        )
        if reply == SILENCE:
            await asyncio.sleep(_SILENCE_SECONDS)
        if reply in (DROP, SILENCE) and isinstance(server.transport, asyncio.WriteTransport):
            server.transport.abort()
        return reply if status else "451 the connection is closed"

    def _note(self, mail: Mail) -> None:
        with self._arrived:
            self._mails.append(mail)
            self._arrived.notify_all()
            if self._record_file is not None:
                line = {
                    "service": "mail",
                    "status": mail.status,
                    "problems": mail.problems,
                    "recipients": mail.recipients,
                    "message_id": str(mail.message["Message-ID"]),
                    "subject": str(mail.message["Subject"]),
                    "kind": str(mail.message["X-Driftline-Kind"]),
                    "key": str(mail.message["X-Driftline-Key"]),
                    "incident": str(mail.message["X-Driftline-Incident"]),
                    "references": str(mail.message["References"] or ""),
                }
                with self._record_file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _is_encrypted(server: SMTP) -> bool:
    transport = server.transport
    return transport is not None and transport.get_extra_info("ssl_object") is not None


def certificates(directory: Path, name: str) -> tuple[ssl.SSLContext, str]:
    """A new authority and a server's certificate by it, for a name and this machine's address."""
    now = dt.datetime.now(dt.UTC)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Mailbox authority")])

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=30))
        )

    root = (
        builder(authority, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    if name == "localhost":
        names.append(x509.IPAddress(ipaddress.ip_address(HOST)))
    leaf = (
        builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    directory.mkdir(parents=True, exist_ok=True)
    ca_file, chain = directory / "ca.pem", directory / "server.pem"
    ca_file.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    chain.touch(mode=0o600)
    chain.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + leaf.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain)
    return context, str(ca_file)
