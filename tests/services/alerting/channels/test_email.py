"""Mail: encrypted, threaded, readable, once to each address."""

import dataclasses
import email
import email.policy
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from services.alerting.channels import email_message
from services.alerting.channels.base import Again, Failed, Redactor, Sent
from services.alerting.channels.email_channel import EmailChannel
from services.alerting.errors import AlertingSettingsError
from services.alerting.notify.kinds import Kind
from services.alerting.policy.model import EmailReceiver, Pace
from services.demo.mail_limits import mail_problems
from services.demo.mailbox import DROP, SILENCE, Mailbox

SECRET = "a-password-nobody-may-see"


def settings(port: int, **changes: Any) -> EmailReceiver:
    usual: dict[str, Any] = {
        "name": "mail",
        "pace": Pace(1000.0, 1000),
        "timeout_seconds": 15.0,
        "host": "127.0.0.1",
        "port": port,
        "sender": "driftline@example.org",
        "to": ("ops@example.org",),
        "security": "none",
    }
    return EmailReceiver(**{**usual, **changes})


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with Mailbox() as running:
        yield running


@pytest.fixture
def send(at_once: Any) -> Callable[..., Any]:
    async def run(channel: EmailChannel, delivery: Any) -> Any:
        return await channel.send(delivery, at_once)

    return run


@pytest.fixture
def incident(make_incident: Any, make_signal: Any, make_alert: Any) -> Any:
    return make_incident(make_signal(1, make_alert(1)))


def channel(port: int, **changes: Any) -> EmailChannel:
    receiver = settings(port, **changes)
    return EmailChannel(receiver, Redactor(receiver.secrets()))


# What it looks like


async def test_a_mail_says_how_bad_and_what_in_text_and_html(
    mailbox: Mailbox, send: Any, incident: Any, make_delivery: Any
) -> None:
    assert isinstance(await send(channel(mailbox.port), make_delivery(Kind.TRIGGER, incident)), Sent)
    (mail,) = mailbox.mails()
    assert mail.problems == ()
    assert mail.recipients == ("ops@example.org",)
    assert mail.sender == "driftline@example.org"
    assert mail.message["Subject"] == "[error, open] Data drift in credit, version 1"
    assert mail.message["Auto-Submitted"] == "auto-generated"
    assert mail.message["List-Id"] == "Driftline alerts <mail.driftline.example.org>"
    assert mail.message["X-Driftline-Severity"] == "error"
    assert mail.message["X-Driftline-State"] == "open"
    assert mail.message["X-Driftline-Incident"] == incident.id
    for text in (mail.part("plain"), re.sub(r"<[^>]*>", "", mail.part("html"))):
        assert "temperature" in text
        assert "Since about" in text
        assert f"driftline incidents show {incident.id}" in text
    assert f'href="https://driftline.example.org/alerting/incidents/{incident.id}"' in mail.part("html")
    assert 'href="https://wiki.example.org/runbooks/drift"' in mail.part("html")


async def test_the_picture_is_inside_the_mail_and_said_in_words(
    mailbox: Mailbox, send: Any, incident: Any, make_delivery: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(email_message, "plot_png", lambda cause: b"\x89PNG\r\n\x1a\n" + b"x" * 5000)
    monkeypatch.setattr(email_message, "plot_alternative", lambda cause: f'{cause["stream"]} "moved" <up>')
    await send(channel(mailbox.port), make_delivery(Kind.TRIGGER, incident))
    (mail,) = mailbox.mails()
    assert mail.problems == ()
    assert mail.pictures
    first = mail.pictures[0]
    assert first.get_content_type() == "image/png"
    assert first.get_content_disposition() == "inline"
    assert f'src="cid:{first["Content-ID"].strip("<>")}"' in mail.part("html")
    assert 'alt="temperature &#34;moved&#34; &lt;up&gt;"' in mail.part("html")
    assert '[Picture: temperature "moved" <up>]' in mail.part("plain")


async def test_a_picture_that_cannot_be_drawn_holds_no_mail_back(
    mailbox: Mailbox, send: Any, incident: Any, make_delivery: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(cause: Any) -> bytes:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(email_message, "plot_png", fails)
    assert isinstance(await send(channel(mailbox.port), make_delivery(Kind.TRIGGER, incident)), Sent)
    (mail,) = mailbox.mails()
    assert not mail.pictures
    assert mail.problems == ()


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("severity", ["critical", "error", "warning", "info"])
@pytest.mark.parametrize("status", ["open", "resolved"])
async def test_every_colour_of_text_has_its_background_and_is_readable_on_it(
    mailbox: Mailbox, send: Any, incident: Any, make_delivery: Any, severity: str, status: str
) -> None:
    kind = Kind.TRIGGER if status == "open" else Kind.RESOLVE
    changed = dataclasses.replace(incident, severity=severity, status=status)
    await send(channel(mailbox.port), make_delivery(kind, changed))
    html = mailbox.mails()[0].part("html")
    assert '<meta name="color-scheme" content="light dark">' in html
    coloured = [style for style in re.findall(r'style="([^"]*)"', html) if re.search(r"(?<![-\w])color:", style)]
    assert coloured
    for style in coloured:
        text = re.search(r"(?<![-\w])color:(#[0-9a-f]{6})", style)
        back = re.search(r"background-color:(#[0-9a-f]{6})", style)
        assert text and back, style
        light, dark = sorted((_luminance(text[1]), _luminance(back[1])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, style


# The thread


async def test_later_mails_refer_to_the_threads_first(
    mailbox: Mailbox, send: Any, incident: Any, make_delivery: Any
) -> None:
    way = channel(mailbox.port)
    first = await send(way, make_delivery(Kind.TRIGGER, incident))
    later = make_delivery(Kind.UPDATE, incident, number=2, receipt=first.receipt)
    second = await send(way, later)
    over = dataclasses.replace(incident, status="resolved")
    await send(way, make_delivery(Kind.RESOLVE, over, number=3, receipt={**first.receipt, **second.receipt}))
    one, two, three = mailbox.mails()
    assert one.message["In-Reply-To"] is None
    assert len({mail.message["Message-ID"] for mail in (one, two, three)}) == 3
    for mail in (two, three):
        assert mail.message["In-Reply-To"] == mail.message["References"] == one.message["Message-ID"]
    assert three.message["Subject"] == "[error] Resolved: Data drift in credit, version 1"


async def test_an_attempt_that_is_made_again_has_the_same_message_id(
    mailbox: Mailbox, send: Any, incident: Any, make_delivery: Any
) -> None:
    for delivery in (make_delivery(Kind.TRIGGER, incident), make_delivery(Kind.UPDATE, incident, number=2)):
        for attempt in (1, 2):
            again = dataclasses.replace(delivery, attempt=attempt, doubtful=attempt > 1)
            await send(channel(mailbox.port), again)
    ids = [mail.message["Message-ID"] for mail in mailbox.mails()]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert mailbox.repeated() == 2


async def test_a_thread_that_begins_anew_refers_to_what_was_before_under_an_id_of_its_own(
    mailbox: Mailbox, send: Any, incident: Any, make_delivery: Any
) -> None:
    way = channel(mailbox.port)
    first = await send(way, make_delivery(Kind.TRIGGER, incident))
    anew = make_delivery(Kind.TRIGGER, incident, number=9, thread_key="another", receipt=first.receipt)
    await send(way, anew)
    one, two = mailbox.mails()
    assert two.message["References"] == one.message["Message-ID"] != two.message["Message-ID"]


async def test_ids_stay_whole_however_long_the_senders_domain_is(
    mailbox: Mailbox, send: Any, incident: Any, make_delivery: Any
) -> None:
    domain = f"alerts.risk-management.{'x' * 60}.{'y' * 60}.example.org"
    way = channel(mailbox.port, sender=f"driftline@{domain}")
    first = await send(way, make_delivery(Kind.TRIGGER, incident))
    await send(way, make_delivery(Kind.UPDATE, incident, number=2, receipt=first.receipt))
    one, two = mailbox.mails()
    assert one.problems == two.problems == ()
    assert one.pictures
    own = f"\r\nMessage-ID: {one.message['Message-ID']}\r\n".encode()
    assert own in one.raw
    assert own.replace(b"Message-ID", b"References") in two.raw
    assert own.replace(b"Message-ID", b"In-Reply-To") in two.raw
    assert f"\r\nList-Id: Driftline alerts <mail.driftline.{domain}>\r\n".encode() in two.raw


@pytest.mark.parametrize("kind", [Kind.HEARTBEAT, Kind.TEST])
async def test_a_sign_of_life_belongs_to_no_thread(mailbox: Mailbox, send: Any, make_delivery: Any, kind: Kind) -> None:
    assert isinstance(await send(channel(mailbox.port), make_delivery(kind)), Sent)
    (mail,) = mailbox.mails()
    assert mail.problems == ()
    assert mail.message["References"] is None
    assert mail.message["X-Driftline-Kind"] == kind


# Several addresses


async def test_who_took_the_mail_does_not_get_it_again_when_others_are_tried_again(
    mailbox: Mailbox, send: Any, incident: Any, make_delivery: Any
) -> None:
    to = ("a@example.org", "b@example.org", "c@example.org")
    mailbox.refuse("b@example.org", "452 mailbox full", times=1)
    delivery = make_delivery(Kind.TRIGGER, incident)
    outcome = await send(channel(mailbox.port, to=to), delivery)
    assert isinstance(outcome, Again)
    assert not outcome.doubtful
    assert "452" in outcome.error and "2 of 3" in outcome.error
    # Another process goes on, with what the first returned.
    second = await send(channel(mailbox.port, to=to), dataclasses.replace(delivery, attempt=2, receipt=outcome.receipt))
    assert isinstance(second, Sent)
    assert [mail.recipients for mail in mailbox.mails()] == [("a@example.org", "c@example.org"), ("b@example.org",)]
    assert len({mail.message["Message-ID"] for mail in mailbox.mails()}) == 1
    assert mailbox.repeated() == 0


async def test_who_took_the_mail_is_known_within_a_process_without_a_receipt(
    mailbox: Mailbox, send: Any, incident: Any, make_delivery: Any
) -> None:
    mailbox.refuse("b@example.org", "452 mailbox full", times=1)
    way = channel(mailbox.port, to=("a@example.org", "b@example.org"))
    for _ in range(2):
        outcome = await send(way, make_delivery(Kind.TRIGGER, incident))
    assert isinstance(outcome, Sent)
    assert [mail.recipients for mail in mailbox.mails()] == [("a@example.org",), ("b@example.org",)]


async def test_what_one_mail_left_behind_says_nothing_about_the_next(
    mailbox: Mailbox, send: Any, incident: Any, make_delivery: Any
) -> None:
    mailbox.refuse("b@example.org", "452 mailbox full", times=1)
    way = channel(mailbox.port, to=("a@example.org", "b@example.org"))
    half = await send(way, make_delivery(Kind.TRIGGER, incident))
    await send(way, make_delivery(Kind.UPDATE, incident, number=2, receipt=half.receipt))
    assert mailbox.mails()[-1].recipients == ("a@example.org", "b@example.org")


async def test_an_address_refused_for_good_is_named_and_stops_nobody_else(
    mailbox: Mailbox, send: Any, incident: Any, make_delivery: Any
) -> None:
    mailbox.refuse("gone@example.org", "550 no such user")
    outcome = await send(
        channel(mailbox.port, to=("a@example.org", "gone@example.org")), make_delivery(Kind.TRIGGER, incident)
    )
    assert isinstance(outcome, Sent)
    assert outcome.receipt["mail_refused"] == ["gone@example.org"]


async def test_a_mail_that_every_address_refuses_for_good_has_failed(
    mailbox: Mailbox, send: Any, incident: Any, make_delivery: Any
) -> None:
    mailbox.refuse("ops@example.org", "550 no such\tuser <!channel>")
    outcome = await send(channel(mailbox.port), make_delivery(Kind.TRIGGER, incident))
    assert isinstance(outcome, Failed)
    assert "550" in outcome.error and "\t" not in outcome.error


# What the server answers


@pytest.mark.parametrize(
    ("reply", "kind"), [("451 later", Again), ("421 leaving", Again), ("552 too big", Failed), ("554 spam", Failed)]
)
async def test_four_hundreds_are_tried_again_and_five_hundreds_are_not(
    mailbox: Mailbox, send: Any, incident: Any, make_delivery: Any, reply: str, kind: type[Again] | type[Failed]
) -> None:
    mailbox.script(reply)
    outcome = await send(channel(mailbox.port), make_delivery(Kind.TRIGGER, incident))
    assert isinstance(outcome, kind)
    assert reply[:3] in outcome.error
    assert not (isinstance(outcome, Again) and outcome.doubtful)
    mailbox.script_sender(reply)
    assert isinstance(await send(channel(mailbox.port), make_delivery(Kind.TRIGGER, incident)), kind)


@pytest.mark.parametrize("reply", [DROP, SILENCE])
async def test_no_answer_to_a_mail_that_had_gone_out_is_doubtful(
    mailbox: Mailbox, send: Any, incident: Any, make_delivery: Any, reply: str
) -> None:
    mailbox.script(reply)
    way = channel(mailbox.port, timeout_seconds=1.0)
    outcome = await send(way, make_delivery(Kind.TRIGGER, incident))
    assert isinstance(outcome, Again)
    assert outcome.doubtful


async def test_no_connection_is_not_doubtful(send: Any, incident: Any, make_delivery: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        outcome = await send(channel(taken.getsockname()[1]), make_delivery(Kind.TRIGGER, incident))
    assert isinstance(outcome, Again)
    assert not outcome.doubtful
    assert "127.0.0.1" not in outcome.error


async def test_a_server_that_greets_nobody_is_given_up_in_time(send: Any, incident: Any, make_delivery: Any) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        way = channel(silent.getsockname()[1], timeout_seconds=0.3)
        outcome = await send(way, make_delivery(Kind.TRIGGER, incident))
    assert isinstance(outcome, Again)
    assert not outcome.doubtful


# Encryption


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_mail_and_password_go_over_tls(
    tmp_path: Path, send: Any, incident: Any, make_delivery: Any, security: Any
) -> None:
    with Mailbox(tmp_path, security=security, login=("driftline", SECRET)) as server:
        secured = {
            "security": security,
            "ca_file": server.ca_file,
            "username": "driftline",
            "password": SecretStr(SECRET),
        }
        for host in ("127.0.0.1", "localhost"):
            outcome = await send(channel(server.port, host=host, **secured), make_delivery(Kind.TRIGGER, incident))
            assert isinstance(outcome, Sent), outcome
        assert [(mail.encrypted, mail.user) for mail in server.mails()] == [(True, "driftline")] * 2
        assert server.logins == [("driftline", True)] * 2


async def test_a_wrong_password_fails_and_is_not_shown(
    tmp_path: Path, send: Any, incident: Any, make_delivery: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    with Mailbox(tmp_path, security="starttls", login=("driftline", "another")) as server:
        way = channel(
            server.port,
            security="starttls",
            ca_file=server.ca_file,
            username="driftline",
            password=SecretStr(SECRET),
        )
        outcome = await send(way, make_delivery(Kind.TRIGGER, incident))
    assert isinstance(outcome, Failed)
    assert "535" in outcome.error
    assert SECRET not in outcome.error + repr(way) + caplog.text


async def test_starttls_that_is_stripped_stops_the_mail_and_the_password(
    tmp_path: Path, send: Any, incident: Any, make_delivery: Any
) -> None:
    with Mailbox(tmp_path, security="starttls", offer_starttls=False, login=("driftline", SECRET)) as server:
        way = channel(
            server.port,
            security="starttls",
            ca_file=server.ca_file,
            username="driftline",
            password=SecretStr(SECRET),
        )
        outcome = await send(way, make_delivery(Kind.TRIGGER, incident))
        assert isinstance(outcome, Again)
        assert "STARTTLS" in outcome.error
        assert server.mails() == []
        assert server.logins == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
@pytest.mark.parametrize("wrong", ["authority", "name"])
async def test_a_certificate_of_an_unknown_authority_or_another_name_stops_the_mail(
    tmp_path: Path, send: Any, incident: Any, make_delivery: Any, security: Any, wrong: str
) -> None:
    name = "localhost" if wrong == "authority" else "mail.example.org"
    with Mailbox(tmp_path, security=security, certified_for=name) as server:
        way = channel(server.port, security=security, ca_file="" if wrong == "authority" else server.ca_file)
        outcome = await send(way, make_delivery(Kind.TRIGGER, incident))
        assert isinstance(outcome, Again)
        assert "certificate" in outcome.error
        assert not outcome.doubtful
        assert server.mails() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"host": "mail.example.org"}, "this machine only"),
        ({"username": "driftline", "password": SecretStr(SECRET)}, "not sent unencrypted"),
        ({"security": "tls", "ca_file": "/no/such/file"}, "ca_file"),
        ({"to": ("a@example.org\r\nBcc: b@example.org",)}, "no mail address"),
        ({"sender": "nobody"}, "no mail address"),
    ],
)
def test_settings_that_would_give_something_away_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(AlertingSettingsError, match=words) as raised:
        channel(25, **changes)
    assert SECRET not in str(raised.value)


# The stand-in itself


def test_the_mailbox_notices_what_readers_would_hold_against_a_mail() -> None:
    good = (
        b"From: a@b.example\r\nTo: c@d.example\r\nDate: x\r\nMessage-ID: <1@b.example>\r\nSubject: s\r\n"
        b'MIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary="x"\r\n\r\n'
        b"--x\r\nContent-Type: text/plain\r\n\r\ntext\r\n--x\r\nContent-Type: text/html\r\n\r\n<p>html</p>\r\n--x--\r\n"
    )
    assert mail_problems(good) == []
    assert any("bcc" in problem for problem in mail_problems(b"Bcc: e@f.example\r\n" + good))
    assert any("<script>" in problem for problem in mail_problems(good.replace(b"<p>", b"<script>")))
    assert any("picture" in problem for problem in mail_problems(good.replace(b"<p>", b'<img src="http://e.example">')))
    assert any("run" in problem for problem in mail_problems(good.replace(b"<p>", b"<p onclick=x>")))
    assert any("CR LF" in problem for problem in mail_problems(good.replace(b"text\r\n", b"text\n")))
    assert any("message-id 0 times" in p for p in mail_problems(good.replace(b"Message-ID: <1@b.example>\r\n", b"")))
    assert email.message_from_bytes(good, policy=email.policy.default)["Subject"] == "s"
