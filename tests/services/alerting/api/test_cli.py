"""The commands against a running interface: what they print, and what they say when something is wrong."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.alerting.api.connection import Connection, own_token, read_connection, write_connection
from services.cli import output
from services.cli.alerting_client import alerting_client
from services.cli.incidents import _happened
from services.cli.main import main
from services.cli.silences import parse_matches

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(api: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Runs a command line against the interface with an operator's token; returns status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(output.stdout, "width", 200)
    for name in list(os.environ):
        if name.startswith("DRIFTLINE_ALERTING"):
            monkeypatch.delenv(name)
    write_connection(tmp_path / ".driftline" / "alerting.json", Connection(api.url, api.token("operator")))

    def command(*arguments: str) -> tuple[int, str, str]:
        status = 0
        try:
            main(arguments)
        except SystemExit as end:
            status = int(end.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    return command


def test_an_incident_is_answered_from_the_command_line(api: Any, run: Run, make_alert: Any) -> None:
    (incident,) = api.take(make_alert())
    status, out, _ = run("incidents", "list")
    assert status == 0 and incident in out and "credit" in out and "open" in out
    status, out, _ = run("incidents", "show", incident[:5])
    assert status == 0 and "Data drift" in out and "Story" in out and "incident.opened" in out
    shown = _happened({"action": "notification.sent", "detail": {"kind": "trigger", "receiver": "pager"}})
    assert shown == "notification.sent: trigger to pager"
    assert _happened({"action": "incident.noted", "detail": {"kind": "note"}}) == "incident.noted"
    for arguments, said in (
        (("ack", incident, "--reason", "on it"), "is yours"),
        (("unack", incident), "given back"),
        (("assign", incident, "ada"), "looked after by ada"),
        (("note", incident, "the feed was empty"), "has the note"),
        (("silence", incident, "--for", "4h", "-r", "fix"), "silent for 4h"),
        (("resolve", incident, "-r", "repaired"), "is over"),
        (("reopen", incident), "open again"),
    ):
        status, out, err = run("incidents", *arguments)
        assert status == 0 and said in out, (arguments, out, err)
    story = api.get(f"incidents/{incident}").json["story"]
    people = [(e["action"], e["actor"], e["via"]) for e in story if e["actor_kind"] == "human"]
    assert [action for action, *_ in people] == [
        "incident.acknowledged",
        "incident.unacknowledged",
        "incident.assigned",
        "incident.noted",
        "incident.silenced",
        "incident.resolved",
        "incident.reopened",
    ]
    assert {(actor, via) for _, actor, via in people} == {("operator-person", "cli")}


def test_every_command_prints_json_for_machines(api: Any, run: Run, make_alert: Any) -> None:
    (incident,) = api.take(make_alert())
    silence = json.loads(run("silences", "add", "deployment=x", "--for", "1h", "-r", "y", "--json")[1])["id"]
    for arguments in (
        ("incidents", "list"),
        ("incidents", "show", incident),
        ("incidents", "ack", incident),
        ("silences", "list"),
        ("silences", "end", silence),
        ("notifications", "list"),
        ("receivers", "list"),
        ("receivers", "test", "chat"),
        ("token", "list"),
    ):
        status, out, err = run(*arguments, "--json")
        assert status == 0, err
        assert json.loads(out) is not None


def test_lists_go_on_over_pages(api: Any, run: Run, make_apart: Any) -> None:
    api.take(*(make_apart(number) for number in range(5)))
    assert len(json.loads(run("incidents", "list", "--json", "--limit", "4")[1])) == 4
    status, out, err = run("incidents", "list", "--limit", "4")
    assert status == 0 and "there are more" in err and out.count("model-") >= 4
    api.post(f"incidents/{api.take()[0]}/resolve", {"reason": "x"})
    assert len(json.loads(run("incidents", "list", "--json")[1])) == 4
    assert len(json.loads(run("incidents", "list", "--json", "--all")[1])) == 5


def test_silences_are_made_and_ended(api: Any, run: Run) -> None:
    status, out, _ = run("silences", "add", "deployment=credit-*", "severity!=critical", "--for", "1d", "-r", "load")
    assert status == 0 and "deployment=credit-*" in out
    (silence,) = api.get("silences").json["silences"]
    assert silence["match"] == {"deployment": "credit-*", "severity": {"not": "critical"}}
    assert silence["via"] == "cli"
    assert silence["id"] in run("silences", "list")[1]
    assert "is over" in run("silences", "end", silence["id"])[1]
    assert "nothing is silenced" in run("silences", "list")[2]


def test_matches_are_read_as_the_routing_file_has_them() -> None:
    import typer

    assert parse_matches(["a=b", "c=d,e", "f!=g", "h=", "tag.x=y=z"]) == {
        "a": "b",
        "c": ["d", "e"],
        "f": {"not": "g"},
        "h": "",
        "tag.x": "y=z",
    }
    for wrong in (["a"], ["=b"], ["!=b"], ["a=b", "a=c"]):
        with pytest.raises(typer.BadParameter):
            parse_matches(wrong)


def test_dead_messages_are_seen_and_tried_again(api: Any, run: Run) -> None:
    import sqlalchemy as sa

    from services.alerting.database import tables as t

    run("receivers", "test", "chat")
    with api.database.transaction() as connection:
        connection.execute(sa.update(t.notifications).values(status="dead", last_error="HTTP 400: no"))
    status, out, _ = run("notifications", "list", "--status", "dead")
    assert status == 0 and "HTTP 400" in out
    assert "chat" in run("receivers", "list")[1]
    assert "1 message(s)" in run("notifications", "retry", "--receiver", "chat")[1]
    assert run("notifications", "retry")[0] == 2
    assert run("notifications", "retry", "1", "--receiver", "chat")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("incidents", "show", "ffff"), 2, "no such incident"),
        (("incidents", "ack", "../x"), 2, "incident"),
        (("incidents", "list", "--severity", "fatal"), 2, "critical"),
        (("incidents", "silence", "0123", "--for", "soon", "-r", "x"), 2, "30m"),
        (("incidents", "resolve", "0123"), 2, "reason"),
        (("silences", "add", "deploymnt=x", "--for", "1h", "-r", "x"), 2, "deploymnt"),
        (("receivers", "test", "nobody"), 2, "pager, chat"),
        (("notifications", "retry", "4711"), 2, "no such message"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(run: Run, arguments: tuple[str, ...], status: int, said: str) -> None:
    found, out, err = run(*arguments)
    assert (found, out) == (status, "") and said in err


def test_a_role_that_may_not_is_told_so(api: Any, run: Run, tmp_path: Path, make_alert: Any) -> None:
    (incident,) = api.take(make_alert())
    write_connection(tmp_path / ".driftline" / "alerting.json", Connection(api.url, api.token("viewer")))
    status, _, err = run("incidents", "ack", incident)
    assert status == 1 and "incidents:act" in err and "viewer" in err


def test_a_service_that_does_not_run_is_said_plainly(run: Run, tmp_path: Path) -> None:
    write_connection(tmp_path / ".driftline" / "alerting.json", Connection("http://127.0.0.1:9", "driftline_canary"))
    status, _, err = run("incidents", "list")
    assert status == 1 and "does not answer" in err and "driftline up" in err and "canary" not in err
    (tmp_path / ".driftline" / "alerting.json").unlink()
    status, _, err = run("incidents", "list")
    assert status == 1 and "driftline up" in err and "DRIFTLINE_ALERTING_URL" in err


def test_what_answers_and_is_no_alerting_service_is_said(run: Run, tmp_path: Path) -> None:
    import http.server
    import threading

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if "show" in self.path or "ffff" in self.path else 200)
            self.send_header("Location", "http://127.0.0.1:9/stolen")
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        write_connection(tmp_path / ".driftline" / "alerting.json", Connection(url, "driftline_x"))
        assert "expected JSON" in run("incidents", "list")[2]
        assert "HTTP 302" in run("incidents", "show", "ffff")[2]  # not followed: the token would go along
        server.shutdown()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"DRIFTLINE_ALERTING_URL": "http://x"}, "TOKEN_FILE"),
        ({"DRIFTLINE_ALERTING_URL": "ftp://x", "DRIFTLINE_ALERTING_TOKEN": "t"}, "http://HOST:PORT"),
        ({"DRIFTLINE_ALERTING_URL": "http://u:p@x", "DRIFTLINE_ALERTING_TOKEN": "t"}, "http://HOST:PORT"),
        ({"DRIFTLINE_ALERTING_URL": "http://x:y", "DRIFTLINE_ALERTING_TOKEN": "t"}, "http://HOST:PORT"),
        ({"DRIFTLINE_ALERTING_URL": "http://x", "DRIFTLINE_ALERTING_TOKEN": "a\nb"}, "one token"),
        ({"DRIFTLINE_ALERTING_URL": "http://x", "DRIFTLINE_ALERTING_TOKEN_FILE": "/nowhere/at/all"}, "cannot be read"),
        ({"DRIFTLINE_ALERTING_CONNECTION_FILE": "/dev/null"}, "expected an address and a token"),
    ],
)
def test_settings_that_cannot_be_used_are_named(environment: dict[str, str], said: str) -> None:
    from services.errors import ServicesError

    with pytest.raises(ServicesError) as refused:
        alerting_client(environment)
    assert said in str(refused.value)


def test_the_environment_names_a_service_elsewhere(api: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(api.token("auditor") + "\n")
    client = alerting_client({"DRIFTLINE_ALERTING_URL": api.url + "/", "DRIFTLINE_ALERTING_TOKEN_FILE": str(file)})
    assert client.get("whoami")["name"] == "auditor-person"


def test_a_request_whose_connection_broke_is_sent_again_and_done_once(api: Any, make_alert: Any) -> None:
    """The first answer is lost after the service has done it; the command asks again under the same request id."""
    import http.client

    (incident,) = api.take(make_alert())
    client = alerting_client({"DRIFTLINE_ALERTING_URL": api.url, "DRIFTLINE_ALERTING_TOKEN": api.token("operator")})
    genuine, asked = type(client)._answer, []

    def lossy(self: Any, request: Any) -> Any:
        answer = genuine(self, request)
        asked.append(request.get_header("X-request-id"))
        if len(asked) == 1:
            raise http.client.RemoteDisconnected
        return answer

    type(client)._answer = lossy  # type: ignore[method-assign]
    try:
        client.post("incidents", incident, "note", body={"reason": "once"})
    finally:
        type(client)._answer = genuine  # type: ignore[method-assign]
    assert len(asked) == 2 and asked[0] == asked[1]
    notes = [e for e in api.get(f"incidents/{incident}").json["story"] if e["action"] == "incident.noted"]
    assert len(notes) == 1


def test_hostile_names_do_nothing_to_a_terminal(api: Any, run: Run, make_alert: Any) -> None:
    hostile = "\x1b]0;owned\x07[bold]x[/bold]\u202e<!channel>\r\n"
    (incident,) = api.take(make_alert(deployment_id=hostile, owner=hostile))
    api.post(f"incidents/{incident}/note", {"reason": hostile})
    api.post(f"incidents/{incident}/assign", {"to": hostile})
    api.post("silences", {"match": {"deployment": hostile}, "duration": "1h", "reason": hostile})
    for arguments in (("incidents", "list"), ("incidents", "show", incident), ("silences", "list")):
        status, out, err = run(*arguments)
        assert status == 0
        assert not [c for c in out + err if c in "\x1b\x07\u202e\r"]
        assert "[bold]x[/bold]" in out or "[bold]" not in out


def test_tokens_from_the_command_line(api: Any, run: Run, tmp_path: Path) -> None:
    status, out, err = run("token", "create", "eve", "--role", "owner", "--deployment", "credit-*", "--expires", "90d")
    token = out.strip()
    assert status == 0 and token.startswith("driftline_") and "incidents:act" in err
    file = tmp_path / ".driftline" / "tokens.yaml"
    assert token not in file.read_text() and stat.S_IMODE(file.stat().st_mode) == 0o600
    status, out, _ = run("token", "list")
    assert status == 0 and "eve" in out and "credit-*" in out and token not in out
    assert run("token", "create", "eve", "--role", "viewer")[0] == 2
    assert run("token", "create", "bob", "--role", "king")[0] == 2
    assert run("token", "create", "bob", "--role", "viewer", "--expires", "soon")[0] == 2
    assert run("token", "create", "bob", "--role", "viewer", "--deployment", " ")[0] == 2
    assert run("token", "revoke", "eve")[0] == 0
    assert run("token", "revoke", "eve")[0] == 2


def test_the_connection_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "alerting.json"
    token, own = own_token("me")
    write_connection(path, Connection("http://127.0.0.1:1", token))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_connection(path) == Connection("http://127.0.0.1:1", token)
    assert token not in repr(read_connection(path)) and token not in repr(own) and own.sha256 not in repr(own)
    assert read_connection(tmp_path / "none") is None


def test_help_says_how_and_gives_examples(run: Run) -> None:
    for command in ("incidents", "silences", "notifications", "receivers", "token"):
        status, out, _ = run(command, "--help")
        assert status == 0 and f"driftline {command} " in out and "Example" in out
    for arguments in (("incidents", "ack"), ("silences", "add"), ("notifications", "retry"), ("token", "create")):
        assert "Example: driftline" in run(*arguments, "--help")[1]


def test_listing_commands_loads_neither_kafka_nor_the_service() -> None:
    """The first key press must not wait for what another command needs."""
    code = (
        "import sys, services.cli.incidents, services.cli.silences, services.cli.notifications, services.cli.receivers,"
        " services.cli.tokens;"
        "print([m for m in ('confluent_kafka', 'sqlalchemy', 'aiohttp', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
