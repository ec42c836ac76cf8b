"""Mail by SMTP.

The connection is encrypted before anything is said: at once (``tls``) or by STARTTLS, which is asked for whether the
server offers it or not, so that nobody between can strip it; the certificate and its name are checked. A password goes
over an encrypted connection only. Without encryption mail goes to this machine alone.

One mail goes to every address of the receiver. Addresses that the server refuses for now (4xx) are tried again by
themselves: those that took the mail are kept in the receipt and do not get it twice. Addresses that it refuses for good
are named in the receipt, and the mail has failed only if nobody took it.

In doubt the mail is sent again under the same ``Message-ID``.

Sources: RFC 5321 (sections 4.2.1 and 4.5.3.2), RFC 3207 (STARTTLS), RFC 8314 (implicit TLS).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from email.utils import parseaddr

import aiosmtplib

from services.alerting.channels.base import Again, Failed, Outcome, Pacer, Redactor, Sent, system_words
from services.alerting.channels.delivery import Delivery
from services.alerting.channels.email_message import MESSAGE_ID, compose, domain_of, message_ids
from services.alerting.errors import AlertingSettingsError
from services.alerting.policy.model import EmailReceiver
from services.alerting.words.text import clean, shorten

log = logging.getLogger("driftline.alerting")

TAKEN = "mail_taken"
"""In a receipt: the key of the mail, and who has it already."""
REFUSED = "mail_refused"
"""In a receipt: addresses that the server refused for good."""

_ERROR_CHARACTERS = 300
_REMEMBERED = 1000
# What a server does with a mail before it answers (scanning it) takes longer than any other command.
_DATA_PATIENCE = 4


class _TurnedDownError(Exception):
    """A dialogue that ended before the mail was sent, with the outcome."""

    def __init__(self, outcome: Again | Failed) -> None:
        super().__init__()
        self.outcome = outcome


class EmailChannel:
    """Sends to the addresses of one receiver.

    Args:
        receiver: Its settings.
        redact: For what the server says.

    Raises:
        AlertingSettingsError: The settings would send a password or mail unencrypted, or name a file that is none.
    """

    def __init__(self, receiver: EmailReceiver, redact: Redactor) -> None:
        self._receiver = receiver
        self._redact = redact
        self._tls = _tls_context(receiver)
        # Who has which mail, should the receipt of a half delivered one be lost on its way.
        self._taken: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        for address in (receiver.sender, *receiver.to):
            if not _is_address(address):
                raise AlertingSettingsError(f"receiver {receiver.name}: {clean(address)!r} is no mail address")

    def __repr__(self) -> str:
        return f"EmailChannel({self._receiver.name!r})"

    async def close(self) -> None:
        """It holds nothing: each mail has a connection of its own."""

    async def send(self, delivery: Delivery, pace: Pacer) -> Outcome:
        """Send a mail. See :class:`services.alerting.channels.base.Channel`."""
        taken = self._who_has(delivery)
        left = [address for address in self._receiver.to if address not in taken]
        if not left:
            return Sent(self._receipt(delivery, ()), repeated=True)
        message = await asyncio.to_thread(lambda: compose(delivery, self._receiver).as_bytes())
        await pace()
        in_doubt = False
        # aiosmtplib keeps the time of each command; a server that drips its answers must not hold a lane for hours.
        patience = self._receiver.timeout_seconds * (_DATA_PATIENCE + 6 + len(left))
        client = self._client()
        try:
            async with asyncio.timeout(patience):
                await self._greet(client)
                accepted, later, never = await self._name_recipients(client, left)
                if accepted:
                    in_doubt = True
                    await client.data(message, timeout=self._receiver.timeout_seconds * _DATA_PATIENCE)
        except Exception as error:
            return self._failure(error, in_doubt)
        finally:
            await _hang_up(client)
        return self._outcome(delivery, (*taken, *accepted), later, never)

    # The dialogue

    def _client(self) -> aiosmtplib.SMTP:
        return aiosmtplib.SMTP(
            hostname=self._receiver.host,
            port=self._receiver.port,
            timeout=self._receiver.timeout_seconds,
            use_tls=self._receiver.security == "tls",
            start_tls=False,  # done by hand, below: aiosmtplib would also log in of itself
            tls_context=self._tls,
        )

    async def _greet(self, client: aiosmtplib.SMTP) -> None:
        await client.connect()
        if self._receiver.security == "starttls":
            await client.ehlo()
            if not client.supports_extension("starttls"):
                raise _TurnedDownError(
                    Again("the server offers no STARTTLS: nothing is sent unencrypted; is it the right port?")
                )
            await client.starttls(tls_context=self._tls)
        encrypted = client.get_transport_info("ssl_object") is not None
        if not encrypted and self._receiver.security != "none":
            raise _TurnedDownError(Again("the connection is not encrypted"))
        if self._receiver.username and self._receiver.password is not None:
            if not encrypted:
                raise _TurnedDownError(Failed("a password is not sent over an unencrypted connection"))
            await client.ehlo()
            if not client.supported_auth_methods:
                raise _TurnedDownError(Failed("the server takes no password by any way known here"))
            await client.login(self._receiver.username, self._receiver.password.get_secret_value())

    async def _name_recipients(
        self, client: aiosmtplib.SMTP, addresses: Sequence[str]
    ) -> tuple[list[str], dict[str, str], dict[str, str]]:
        """Say who it is from and for: those taken, and those refused for now and for good with what the server says."""
        await client.mail(parseaddr(self._receiver.sender)[1])
        accepted: list[str] = []
        later: dict[str, str] = {}
        never: dict[str, str] = {}
        for address in addresses:
            try:
                await client.rcpt(parseaddr(address)[1])
            except aiosmtplib.SMTPResponseException as error:
                if error.code == 421:  # the server is leaving: that is about none of them
                    raise
                said = self._said(error)
                (never if 500 <= error.code < 600 else later)[address] = said
            else:
                accepted.append(address)
        return accepted, later, never

    # What came of it

    def _outcome(
        self, delivery: Delivery, taken: Sequence[str], later: Mapping[str, str], never: Mapping[str, str]
    ) -> Outcome:
        reasons = "; ".join(f"{address}: {said}" for address, said in (*later.items(), *never.items()))
        if later:
            self._remember(delivery.key, taken)
            have = f"{len(taken)} of {len(self._receiver.to)} addresses have it; " if taken else ""
            return Again(
                shorten(f"{have}{reasons}", 2 * _ERROR_CHARACTERS),
                receipt={TAKEN: {"key": delivery.key, "to": list(taken)}} if taken else {},
            )
        if not taken:
            return Failed(shorten(f"every address was refused: {reasons}", 2 * _ERROR_CHARACTERS))
        if never:
            log.warning("%s: some addresses were refused for good: %s", self._receiver.name, shorten(reasons, 1000))
        self._taken.pop(delivery.key, None)
        return Sent(self._receipt(delivery, tuple(never)))

    def _receipt(self, delivery: Delivery, never: Sequence[str]) -> dict[str, object]:
        receipt: dict[str, object] = {MESSAGE_ID: message_ids(delivery, domain_of(self._receiver.sender))[1]}
        if never:
            receipt[REFUSED] = list(never)
        return receipt

    def _who_has(self, delivery: Delivery) -> tuple[str, ...]:
        """Addresses that took the mail at an earlier attempt."""
        told = delivery.receipt.get(TAKEN)
        kept = told.get("to") if isinstance(told, Mapping) and told.get("key") == delivery.key else ()
        known = {*self._taken.get(delivery.key, ()), *(kept if isinstance(kept, list) else ())}
        return tuple(address for address in self._receiver.to if address in known)

    def _remember(self, key: str, taken: Sequence[str]) -> None:
        if taken:
            self._taken[key] = tuple(taken)
            self._taken.move_to_end(key)
        while len(self._taken) > _REMEMBERED:
            self._taken.popitem(last=False)

    def _failure(self, error: Exception, in_doubt: bool) -> Outcome:
        """What an exception means, in our words and the server's, never in the library's."""
        if isinstance(error, _TurnedDownError):
            return error.outcome
        if isinstance(error, aiosmtplib.SMTPResponseException):
            said = self._said(error)
            if isinstance(error, aiosmtplib.SMTPAuthenticationError):
                said = f"the server refused the password: {said}"
            return Failed(said) if 500 <= error.code < 600 else Again(said)
        if _of_certificate(error):
            return Again("the server's TLS certificate is not valid for its name, or not by a known authority")
        if isinstance(error, aiosmtplib.SMTPConnectTimeoutError):
            return Again("no connection in time")
        if isinstance(error, aiosmtplib.SMTPConnectError):
            cause = error.__cause__
            return Again(f"no connection: {system_words(cause) if isinstance(cause, OSError) else 'closed at once'}")
        if isinstance(error, TimeoutError):
            return Again("no answer in time", doubtful=in_doubt)
        if isinstance(error, ssl.SSLError):
            return Again("the encryption failed", doubtful=in_doubt)
        if isinstance(error, ConnectionError | aiosmtplib.SMTPServerDisconnected):
            return Again("the server closed the connection without an answer", doubtful=in_doubt)
        return Again(f"the mail could not be sent: {type(error).__name__}", doubtful=in_doubt)

    def _said(self, error: aiosmtplib.SMTPResponseException) -> str:
        said = shorten(clean(self._redact(" ".join(str(error.message).split()))), _ERROR_CHARACTERS)
        return f"SMTP {error.code}: {said}"


async def _hang_up(client: aiosmtplib.SMTP) -> None:
    """Say goodbye; the mail's fate is known already."""
    try:
        if client.is_connected:
            async with asyncio.timeout(2):
                await client.quit()
    except (aiosmtplib.SMTPException, OSError, TimeoutError):
        pass
    finally:
        client.close()


def _of_certificate(error: BaseException | None) -> bool:
    """Whether a certificate is at the bottom of it."""
    depth = 0
    while error is not None and depth < 10:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
        depth += 1
    return False


def _tls_context(receiver: EmailReceiver) -> ssl.SSLContext | None:
    if receiver.security == "none":
        if not _is_this_machine(receiver.host):
            raise AlertingSettingsError(
                f"receiver {receiver.name}: without encryption mail goes to this machine only; use security: starttls"
            )
        if receiver.username:
            raise AlertingSettingsError(
                f"receiver {receiver.name}: a password is not sent unencrypted; use security: starttls, or no username"
            )
        return None
    try:
        context = ssl.create_default_context(cafile=receiver.ca_file or None)
    except (OSError, ssl.SSLError):
        raise AlertingSettingsError(
            f"receiver {receiver.name}: ca_file {receiver.ca_file!r} cannot be read as certificates in PEM"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _is_address(text: str) -> bool:
    """Enough for an envelope: one plain address, maybe with a name before it, and nothing that could end a line."""
    address = parseaddr(text)[1]
    name, at, domain = address.rpartition("@")
    printable = text.isascii() and all(32 <= ord(c) < 127 for c in text)
    return printable and bool(name and at and domain) and not set(address) & set(' <>,;:\\"')
