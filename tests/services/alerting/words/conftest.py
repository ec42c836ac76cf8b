"""What the tests of words share: hostile names, any alert there can be, incidents, and what every text must keep."""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from hypothesis import strategies as st

from services.alerting.channels.delivery import Delivery
from services.alerting.incidents.views import Entry, Incident, Mute, Signal
from services.alerting.notify.kinds import Kind
from services.alerting.policy.labels import labels_of
from services.alerting.words.text import Line, Value

_ROLES = ["feature", "prediction", "joint", "association", "quality", "service", "rate", "something else"]
_ROLES += ["outcome", "labels", "fairness"]
_STREAMS = ["loss", "loss_tail", "calibration", "residual", "outcome", "labels:1", "labels:x", "selected"]
_MONITORS = ["concept_drift", "labels", "fairness", "data_quality"]

_HOSTILE = [
    "<!channel>",
    "<!here|here>",
    "@here",
    "<script>alert(1)</script>",
    "<https://evil.example|click>",
    "=cmd()",
    "a`b*c_d~e",
    "line\r\nline\nline",
    "\x1b[31mred\x07",
    "\u202etxet tfel ot thgir\u2066",
    "zero\u200bwidth\ufeff",
    "&lt;!channel&gt;",
    "x" * 10_000,
    "&" * 10_000,
    "<" * 10_000,
    "`" * 10_000,
    "é" * 10_000,
    "",
    "\U000e0041tag",
]


_INVISIBLE = ("Cc", "Cf", "Zl", "Zp", "Cs", "Co")
OPENED_MS = 1_371_057_630_000


_text = st.text(max_size=200)
_double = st.floats()
_long = st.integers(-(2**63), 2**63 - 1)


@st.composite
def _any_cause(draw: st.DrawFn) -> dict[str, Any]:
    effects = ("psi", "jensen_shannon", "total_variation", "hellinger", "kl")
    ordered = ("kolmogorov_smirnov", "kolmogorov_smirnov_error", "wasserstein", "wasserstein_error")
    unknown = {name: draw(st.none() | _double) for name in ("chi_square", "independent_rows", *ordered)}
    names = _text | st.sampled_from(["psi", "total_variation"])
    intervals = draw(st.dictionaries(names, st.lists(_double, max_size=3), max_size=3))
    return {
        "stream": draw(_text | st.sampled_from(["prediction", "prediction_label", "probability:<!here>", *_STREAMS])),
        "role": draw(_text | st.sampled_from(_ROLES)),
        "segment": draw(_text),
        "inputs": draw(st.lists(_text, max_size=3)),
        "interval_ms": draw(_long),
        "evidence_share": draw(_double),
        "log_evidence_nats": draw(_double),
        "change_time_us": draw(_long),
        "rows": draw(_long),
        "effects": {name: draw(_double) for name in effects} | unknown | {"intervals": intervals},
        "tv_low": draw(_double),
        "tv_high": draw(_double),
        "bins": draw(st.lists(_text, max_size=15)),
        "expected": draw(st.lists(_double, max_size=15)),
        "observed": draw(st.lists(_long, max_size=15)),
    }


@st.composite
def _any_alert(draw: st.DrawFn) -> dict[str, Any]:
    names = ("id", "incident_key", "deployment_id", "model_id", "model_version", "monitor", "baseline_digest", "owner")
    times = ("episode", "change_time_us", "detection_time_us", "trigger_time_ms", "rows_since_change", "spec_revision")
    return {
        **{name: draw(_text) for name in (*names, "false_alarms", "diagnosis")},
        **{name: draw(_long) for name in times},
        **draw(st.fixed_dictionaries({}, optional={"monitor": st.sampled_from(_MONITORS)})),
        "severity": draw(st.sampled_from(["critical", "error", "warning", "info"])),
        "status": draw(st.sampled_from(["firing", "resolved"])),
        "log_evidence_nats": draw(_double),
        "threshold_nats": draw(_double),
        "causes": draw(st.lists(_any_cause(), max_size=6)),
        "evidence_offsets": [],
        "tags": draw(st.dictionaries(_text, _text, max_size=8)),
        "runbook_url": draw(st.none() | _text | st.just("https://wiki.example.org/a?b=c&d=e")),
    }


@pytest.fixture(scope="session")
def any_alert() -> st.SearchStrategy[dict[str, Any]]:
    """Alerts with any values that the schema allows."""
    return _any_alert()


@pytest.fixture(scope="session")
def hostile_names() -> list[str]:
    """Names that are orders to some program, or too long, or not visible."""
    return _HOSTILE


@pytest.fixture(scope="session")
def hostile_alert(make_alert: Any) -> Callable[..., dict[str, Any]]:
    """An alert in which everything that comes from data is this name."""

    def build(name: str, status: str = "firing", monitor: str | None = None) -> dict[str, Any]:
        alert: dict[str, Any] = make_alert(1, status)
        for cause in alert["causes"]:
            cause["stream"] = name
            cause |= {"bins": [name] * len(cause["bins"]), "segment": name, "inputs": [name, name]}
        changes = dict.fromkeys(
            ("deployment_id", "model_id", "model_version", "monitor", "owner", "false_alarms"), name
        )
        if monitor is not None:
            changes["monitor"] = monitor
        return alert | changes | {"tags": {name: name}, "runbook_url": name, "id": name, "incident_key": name}

    return build


@pytest.fixture(scope="session")
def lines_of() -> Callable[[Any], list[str]]:
    """Every text that people read, after checking that it is visible, short, and keeps what came from data apart."""

    def pieces(thing: Any) -> list[str]:
        if isinstance(thing, Line):
            assert all(isinstance(part, Value) or not set("<>`\x00") & set(part) for part in thing.parts), thing
            return [str(thing)]
        if isinstance(thing, str):
            return [thing]
        if is_dataclass(thing):
            kept = [field.name for field in fields(thing) if field.name != "plots"]
            return [text for name in kept for text in pieces(getattr(thing, name))]
        return [text for item in thing for text in pieces(item)] if isinstance(thing, tuple) else []

    def check(text: Any) -> list[str]:
        found = pieces(text)
        for said in found:
            assert not [c for c in said if unicodedata.category(c) in _INVISIBLE], said
            assert len(said) < 3000, "no sentence is longer than a section of Slack's"
        return found

    return check


@pytest.fixture(scope="session")
def make_signal(make_alert: Any) -> Callable[..., Signal]:
    """A signal whose record is alert ``number``; ``ended`` adds the record of its end."""

    def build(number: int = 1, *, ended: bool = False, mute: Mute | None = None, **changes: Any) -> Signal:
        firing = make_alert(number, **changes)
        resolved = make_alert(number, "resolved", **changes) if ended else None
        return Signal(
            id=number,
            incident_key=firing["incident_key"],
            episode=number,
            origin="alerts",
            status="resolved" if ended else "firing",
            severity=firing["severity"],
            labels=labels_of(firing),
            change_time_us=firing["change_time_us"],
            opened_us=firing["detection_time_us"],
            resolved_us=None if resolved is None else resolved["detection_time_us"],
            firing=firing,
            resolved=resolved,
            words=None,
            mute=mute,
        )

    return build


@pytest.fixture(scope="session")
def make_incident() -> Callable[..., Incident]:
    """An incident with these signals."""

    def build(signals: Sequence[Signal], **changes: Any) -> Incident:
        first = signals[0].labels if signals else {}
        made = {
            "id": "0123456789ab",
            "status": "open",
            "episode": 1,
            "severity": signals[0].severity if signals else "error",
            "deployment_id": first.get("deployment", ""),
            "owner": first.get("owner", ""),
            "upstream": "",
            "started_us": min((s.change_time_us for s in signals), default=0),
            "last_us": max((s.opened_us or 0 for s in signals), default=0),
            "opened_ms": OPENED_MS,
            "updated_ms": OPENED_MS,
            "resolved_ms": None,
            "acknowledged_ms": None,
            "acknowledged_by": "",
            "assigned_to": "",
            "flapping": False,
            "title": "",
            "revision": 1,
            "signals": tuple(signals),
        }
        return Incident(**{**made, **changes})

    return build


@pytest.fixture(scope="session")
def make_delivery() -> Callable[..., Delivery]:
    """A message of a kind about these incidents, an hour after they opened."""

    def build(kind: Kind, *incidents: Incident, **changes: Any) -> Delivery:
        made = {
            "key": "11111111-1111-4111-8111-111111111111",
            "kind": kind,
            "receiver": "chat",
            "thread_key": "22222222-2222-4222-8222-222222222222",
            "incidents": incidents,
            "attempt": 1,
            "doubtful": False,
            "receipt": {},
            "reason": "",
            "created_ms": OPENED_MS + 3_600_000,
            "sent_ms": OPENED_MS + 3_600_000,
            "public_url": "https://driftline.example.org/alerting",
        }
        return Delivery(**{**made, **changes})

    return build


@pytest.fixture(scope="session")
def make_entry() -> Callable[..., Entry]:
    """An entry of an incident's story, so many minutes after it opened."""

    def build(
        action: str, minutes: int = 0, *, by: str = "", via: str = "alerts", reason: str = "", **detail: Any
    ) -> Entry:
        kind, actor = ("human", by) if by else ("service", "alerting")
        return Entry(OPENED_MS + 60_000 * minutes, action, kind, actor, via, reason, detail)

    return build
