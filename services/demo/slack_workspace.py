"""A stand-in for a Slack workspace: channels with their messages, what an app may do to them, and what people press.

It keeps the rules that matter to an app: a message is updated by its ``ts``; answers in threads are not in the
channel's history unless they were broadcast; metadata is given back only where it is asked for; an upload is announced,
put and completed; a form opens only within three seconds of a press; scopes may be missing.
Source: https://docs.slack.dev/reference/methods
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from services.demo.slack_limits import elements_of, slack_problems, view_problems

ALL_SCOPES = frozenset({"chat:write", "channels:history", "files:write"})

_TRIGGER_SECONDS = 3.0
_TICKET_SECONDS = 30.0
_PAGE = 100

Message = dict[str, Any]


class SlackRefusalError(Exception):
    """Slack answers ``ok: false``."""

    def __init__(self, code: str, *problems: str) -> None:
        super().__init__(code)
        self.code = code
        self.problems = problems or (code,)


class SlackWorkspace:
    """Channels, messages and forms. Thread-safe.

    Attributes:
        scopes: What the app's token may do.
        ephemeral: Messages that one person saw.
        views: Forms that are open, by their id.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._messages: dict[str, dict[str, Message]] = {}
        self._last_ts = 0
        self._uploads: dict[str, dict[str, Any]] = {}
        self._triggers: dict[str, float] = {}
        self._tickets: dict[str, float] = {}
        self.scopes: set[str] = set(ALL_SCOPES)
        self.ephemeral: list[Message] = []
        self.views: dict[str, dict[str, Any]] = {}

    # What is there

    def messages(self, channel: str | None = None) -> list[Message]:
        """Everything that was posted, in order, as it is now; answers in threads too."""
        with self._lock:
            found = [m for name, posted in self._messages.items() if channel in (None, name) for m in posted.values()]
            return sorted((dict(m) for m in found), key=lambda m: float(m["ts"]))

    def roots(self, channel: str | None = None) -> list[Message]:
        """Messages that are no answers."""
        return [m for m in self.messages(channel) if not m.get("thread_ts")]

    def replies(self, ts: str) -> list[Message]:
        """Answers in the thread of a message."""
        return [m for m in self.messages() if m.get("thread_ts") == ts]

    # What an app does

    def call(self, method: str, token: str, args: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        """Check a call; what is returned does it and gives the answer.

        Raises:
            SlackRefusalError: Slack would refuse it.
        """
        if not token:
            raise SlackRefusalError("not_authed")
        if (method == "apps.connections.open") != token.startswith("xapp-"):
            raise SlackRefusalError("not_allowed_token_type")
        with self._lock:
            found = _METHODS.get(method)
            if found is None:
                raise SlackRefusalError("unknown_method")
            scope, check = found
            if scope and scope not in self.scopes:
                raise SlackRefusalError("missing_scope")
            do = check(self, args)

        def locked() -> dict[str, Any]:
            with self._lock:
                return {"ok": True, **do()}

        return locked

    def _post(self, args: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        channel = _channel_id(args.get("channel"))
        _refuse(slack_problems(args))
        if (parent := args.get("thread_ts")) and self._message(channel, str(parent)) is None:
            raise SlackRefusalError("thread_not_found")
        return lambda: {"channel": channel, "ts": self._add(channel, args)["ts"]}

    def _add(self, channel: str, args: Mapping[str, Any]) -> Message:
        self._last_ts = max(self._last_ts + 1, int(time.time() * 1_000_000))
        ts = f"{self._last_ts // 1_000_000}.{self._last_ts % 1_000_000:06d}"
        kept = ("text", "blocks", "metadata", "thread_ts", "reply_broadcast", "files")
        message = {"type": "message", "ts": ts, "channel": channel, **{n: args[n] for n in kept if args.get(n)}}
        self._messages.setdefault(channel, {})[ts] = message
        return message

    def _update(self, args: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        channel = _channel_id(args.get("channel"), only_id=True)
        message = self._message(channel, str(args.get("ts")))
        if message is None:
            raise SlackRefusalError("message_not_found")
        _refuse(slack_problems(args))

        def do() -> dict[str, Any]:
            message.update({n: args[n] for n in ("text", "blocks", "metadata") if n in args})
            message["edited"] = {"ts": f"{time.time():.6f}"}
            return {"channel": channel, "ts": message["ts"], "text": message.get("text", "")}

        return do

    def _ephemeral(self, args: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        channel = _channel_id(args.get("channel"), only_id=True)
        _refuse(slack_problems(args) + ([] if args.get("user") else ["user_not_in_channel"]))

        def do() -> dict[str, Any]:
            self.ephemeral.append({**args, "channel": channel})
            return {"message_ts": f"{time.time():.6f}"}

        return do

    def _history(self, args: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        channel = _channel_id(args.get("channel"), only_id=True)
        posted = self._messages.get(channel, {}).values()
        shown = [m for m in posted if not m.get("thread_ts") or m.get("reply_broadcast")]
        return lambda: _page(list(reversed(shown)), args)

    def _replies(self, args: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        channel = _channel_id(args.get("channel"), only_id=True)
        parent = self._message(channel, str(args.get("ts")))
        if parent is None:
            raise SlackRefusalError("thread_not_found")
        answers = [m for m in self._messages[channel].values() if m.get("thread_ts") == parent["ts"]]
        return lambda: _page([parent, *answers], args, always=1)

    def _upload_url(self, args: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        length = str(args.get("length", ""))
        if not args.get("filename") or not length.isdigit() or not int(length):
            raise SlackRefusalError("invalid_arguments")
        if len(str(args.get("alt_txt", ""))) > 1000:
            raise SlackRefusalError("alt_txt_too_large")
        file_id = f"F{uuid.uuid4().hex[:10].upper()}"

        def do() -> dict[str, Any]:
            self._uploads[file_id] = {"id": file_id, "length": int(length), "name": args["filename"], "bytes": None}
            return {"upload_url": f"upload/v1/{file_id}", "file_id": file_id}

        return do

    def put(self, file_id: str, content: bytes) -> bool:
        """The bytes of an upload; whether they are those that were announced."""
        with self._lock:
            upload = self._uploads.get(file_id)
            if upload is None or upload["bytes"] is not None or upload["length"] != len(content):
                return False
            upload["bytes"] = content
            return True

    def _complete(self, args: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        files = args.get("files") or []
        files = json.loads(files) if isinstance(files, str) else files
        uploads = [self._uploads.get(str(file.get("id"))) for file in files]
        if not uploads or any(upload is None or upload["bytes"] is None for upload in uploads):
            raise SlackRefusalError("file_not_found")
        channel = _channel_id(args.get("channel_id"), only_id=True)
        if (parent := args.get("thread_ts")) and self._message(channel, str(parent)) is None:
            raise SlackRefusalError("invalid_thread_ts")

        def do() -> dict[str, Any]:
            found = [upload for upload in uploads if upload is not None]
            self._add(
                channel, {"thread_ts": parent, "files": [{k: u[k] for k in ("id", "name", "bytes")} for u in found]}
            )
            return {"files": [{"id": upload["id"]} for upload in found]}

        return do

    def _open_view(self, args: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        since = self._triggers.get(str(args.get("trigger_id")))
        if since is None or time.monotonic() - since > _TRIGGER_SECONDS:
            raise SlackRefusalError("expired_trigger_id")
        view = args.get("view")
        view = json.loads(view) if isinstance(view, str) else dict(view or {})
        _refuse(view_problems(view), "invalid_arguments")

        def do() -> dict[str, Any]:
            self._triggers.pop(str(args["trigger_id"]), None)
            view_id = f"V{uuid.uuid4().hex[:10].upper()}"
            self.views[view_id] = {"id": view_id, "hash": uuid.uuid4().hex, **view}
            return {"view": self.views[view_id]}

        return do

    def _open_connection(self, args: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        def do() -> dict[str, Any]:
            ticket = uuid.uuid4().hex
            self._tickets[ticket] = time.monotonic()
            return {"url": f"link/?ticket={ticket}"}

        return do

    def redeem(self, ticket: str) -> bool:
        """Whether a connection may be made with a ticket: once, and soon."""
        with self._lock:
            since = self._tickets.pop(ticket, None)
            return since is not None and time.monotonic() - since < _TICKET_SECONDS

    def _auth(self, args: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        return lambda: {"team": "Example", "user": "driftline", "bot_id": "B0000"}

    def _message(self, channel: str, ts: str) -> Message | None:
        return self._messages.get(channel, {}).get(ts)

    # What people do

    def pressed(
        self, what: str, *, choice: str, incident: str, ts: str, user: str, name: str, channel: str
    ) -> dict[str, Any]:
        """What Slack tells the app when somebody presses something: ``what`` is the beginning of its label, or of the
        choice in a menu; ``choice`` that of an option.

        Raises:
            LookupError: No message shows such a thing: nobody could press it.
        """
        shown = [m for m in self.messages(channel or None) if m.get("blocks") and ts in ("", m["ts"])]
        for message in reversed(shown):
            for element in elements_of(message["blocks"]):
                if (action := _action(element, what, choice, incident)) is not None:
                    return self._interaction(message, action, user, name)
        raise LookupError(f"no message shows {what!r}{f' with {choice!r}' if choice else ''} to be pressed")

    def _interaction(self, message: Message, action: dict[str, Any], user: str, name: str) -> dict[str, Any]:
        trigger = f"{uuid.uuid4().int % 10**12}.{uuid.uuid4().int % 10**10}.{uuid.uuid4().hex}"
        with self._lock:
            self._triggers[trigger] = time.monotonic()
        return {
            "type": "block_actions",
            "api_app_id": "A0000000000",
            "team": {"id": "T0000000000", "domain": "example"},
            "user": {"id": user, "username": name, "name": name, "team_id": "T0000000000"},
            "trigger_id": trigger,
            "channel": {"id": message["channel"], "name": "alerts"},
            "container": {"type": "message", "message_ts": message["ts"], "channel_id": message["channel"]},
            "message": {name: content for name, content in message.items() if name != "metadata"},
            "response_url": "https://hooks.slack.com/actions/T0000000000/1/none",
            "actions": [{**action, "action_ts": f"{time.time():.6f}"}],
        }

    def submitted(self, text: str, *, user: str, name: str) -> dict[str, Any]:
        """What Slack tells the app when somebody fills in and submits the form opened last.

        Raises:
            LookupError: None is open.
        """
        with self._lock:
            if not self.views:
                raise LookupError("no form is open")
            view = list(self.views.values())[-1]
        field = next(block for block in view["blocks"] if block["type"] == "input")
        typed = {field["block_id"]: {field["element"]["action_id"]: {"type": "plain_text_input", "value": text}}}
        return {
            "type": "view_submission",
            "api_app_id": "A0000000000",
            "team": {"id": "T0000000000", "domain": "example"},
            "user": {"id": user, "username": name, "name": name, "team_id": "T0000000000"},
            "trigger_id": uuid.uuid4().hex,
            "view": {**view, "state": {"values": typed}},
        }

    def close_view(self, view_id: str) -> None:
        """The form was taken."""
        with self._lock:
            self.views.pop(view_id, None)


_METHODS: Mapping[str, tuple[str, Callable[[SlackWorkspace, Mapping[str, Any]], Callable[[], dict[str, Any]]]]] = {
    "chat.postMessage": ("chat:write", SlackWorkspace._post),
    "chat.update": ("chat:write", SlackWorkspace._update),
    "chat.postEphemeral": ("chat:write", SlackWorkspace._ephemeral),
    "conversations.history": ("channels:history", SlackWorkspace._history),
    "conversations.replies": ("channels:history", SlackWorkspace._replies),
    "files.getUploadURLExternal": ("files:write", SlackWorkspace._upload_url),
    "files.completeUploadExternal": ("files:write", SlackWorkspace._complete),
    "views.open": ("", SlackWorkspace._open_view),
    "apps.connections.open": ("", SlackWorkspace._open_connection),
    "auth.test": ("", SlackWorkspace._auth),
}


def _action(element: Mapping[str, Any], what: str, choice: str, incident: str) -> dict[str, Any] | None:
    """What is told of an element if it is the one that is meant."""
    label = str((element.get("text") or element.get("placeholder") or {}).get("text", ""))
    told = {name: element[name] for name in ("type", "action_id") if name in element}
    if element.get("type") == "button":
        fits = label.lower().startswith(what.lower()) and not choice and incident in element.get("value", "")
        return {**told, "text": element["text"], "value": element.get("value", "")} if fits else None
    menu = element.get("type") == "overflow"
    if not menu and not label.lower().startswith(what.lower()):
        return None
    wanted = f"{what} for {choice}" if menu and choice else what if menu else choice
    for option in element.get("options", []):
        if option["text"]["text"].lower().startswith(wanted.lower()) and incident in option["value"]:
            return {**told, "selected_option": option}
    return None


def _channel_id(channel: object, *, only_id: bool = False) -> str:
    """The id of a channel that may be named; only posting takes names."""
    text = str(channel or "")
    if re.fullmatch(r"[A-Z][A-Z0-9]*", text):
        return text
    if only_id or not re.fullmatch(r"#?[a-z0-9][a-z0-9_-]{0,79}", text):
        raise SlackRefusalError("channel_not_found")
    return f"C{hashlib.sha256(text.lstrip('#').encode()).hexdigest()[:10].upper()}"


def _refuse(problems: list[str], code: str = "invalid_blocks") -> None:
    if problems:
        words = [problem for problem in problems if re.fullmatch(r"[a-z_]+", problem)]
        raise SlackRefusalError(words[0] if words else code, *problems)


def _page(messages: list[Message], args: Mapping[str, Any], always: int = 0) -> dict[str, Any]:
    """A page of messages; the first ``always`` are in it whatever their time."""
    oldest, latest = float(args.get("oldest") or 0), float(args.get("latest") or "inf")
    fitting = [m for i, m in enumerate(messages) if i < always or oldest < float(m["ts"]) < latest]
    start, limit = int(args.get("cursor") or 0), min(int(args.get("limit") or _PAGE), 999)
    shown = [_seen(message, args) for message in fitting[start : start + limit]]
    more = start + limit < len(fitting)
    cursor = str(start + limit) if more else ""
    return {"messages": shown, "has_more": more, "response_metadata": {"next_cursor": cursor}}


def _seen(message: Message, args: Mapping[str, Any]) -> Message:
    """Metadata is told only if it is asked for; what is in files is fetched elsewhere."""
    asked = str(args.get("include_all_metadata", "")).lower() in ("1", "true")
    seen = {name: content for name, content in message.items() if name not in ("channel", "files")}
    if "metadata" in seen and not asked:
        seen["metadata"] = {"event_type": seen["metadata"]["event_type"]}
    return seen
