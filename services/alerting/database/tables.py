"""The tables. SQLite and PostgreSQL alike.

What is in them comes from the topics ``alerts`` and ``audit`` and can be rebuilt from them
(:mod:`services.alerting.incidents.rebuilding`). Times that end in ``_ms`` are the service's clock, milliseconds since
1970 UTC; those that end in ``_us`` are event time, microseconds since 1970 UTC.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

positions = sa.Table(
    "positions",
    metadata,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("next_offset", sa.BigInteger, nullable=False),
    # Alerts before this offset were there before this database was; see AlertingSettings.history.
    sa.Column("history_end", sa.BigInteger, nullable=False),
    sa.Column("history_told", sa.Boolean, nullable=False),
)

alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("record", sa.LargeBinary, nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("partition", sa.Integer, nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("seen_ms", sa.BigInteger, nullable=False),
)

incidents = sa.Table(
    "incidents",
    metadata,
    # Twelve hexadecimal digits of the SHA-256 of the id of the alert that opened it.
    sa.Column("id", sa.Text, primary_key=True),
    # open, acknowledged or resolved; "silenced" is not a state of its own but what muting makes of an open one.
    sa.Column("status", sa.Text, nullable=False),
    # When it was opened first: lists are in this order, which nothing that happens later changes.
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    # 1, and one more each time it is opened again.
    sa.Column("episode", sa.Integer, nullable=False),
    # The highest among its firing signals; when none fires, the last that was.
    sa.Column("severity", sa.Text, nullable=False),
    # Of the signal that opened it.
    sa.Column("deployment_id", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    # What several deployments have in common: "feature:NAME" or "source:NAME"; empty while it is one deployment's.
    sa.Column("upstream", sa.Text, nullable=False),
    sa.Column("started_us", sa.BigInteger, nullable=False),  # earliest estimated change
    sa.Column("last_us", sa.BigInteger, nullable=False),  # latest detection or resolution
    sa.Column("opened_ms", sa.BigInteger, nullable=False),  # of this episode
    sa.Column("updated_ms", sa.BigInteger, nullable=False),
    sa.Column("resolved_ms", sa.BigInteger),
    sa.Column("resolved_us", sa.BigInteger),
    sa.Column("acknowledged_ms", sa.BigInteger),
    sa.Column("acknowledged_by", sa.Text, nullable=False, server_default=""),
    sa.Column("acknowledged_severity", sa.Text, nullable=False, server_default=""),
    sa.Column("assigned_to", sa.Text, nullable=False, server_default=""),
    sa.Column("flapping", sa.Boolean, nullable=False, server_default=sa.false()),
    # The headline, for lists and searches.
    sa.Column("title", sa.Text, nullable=False, server_default=""),
    # One more with each change that people may be told of.
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Index("incidents_by_creation", "created_ms", "id"),
    sa.Index("incidents_by_status", "status", "updated_ms"),
    sa.Index("incidents_by_deployment", "deployment_id", "updated_ms"),
)

# A signal is one episode of one alarm: what the records with the same (incident_key, episode) tell of.
signals = sa.Table(
    "signals",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("incident_id", sa.Text, sa.ForeignKey("incidents.id"), nullable=False),
    sa.Column("incident_key", sa.Text, nullable=False),
    sa.Column("episode", sa.BigInteger, nullable=False),
    # "alerts": told by the topic; "watch": by the monitor of the monitor, which has no record on a topic.
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("deployment_id", sa.Text, nullable=False),
    sa.Column("monitor", sa.Text, nullable=False),
    sa.Column("severity", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),  # firing or resolved
    sa.Column("labels", sa.JSON, nullable=False),  # services.alerting.policy.labels
    # What the first causes read: "feature:NAME", "source:NAME"; how incidents of several deployments find each other.
    sa.Column("upstreams", sa.JSON, nullable=False),
    sa.Column("change_time_us", sa.BigInteger, nullable=False),
    # How far its evidence was above the threshold when it fired; ranks signals of one kind and severity.
    sa.Column("evidence_nats", sa.Float, nullable=False, server_default=sa.text("0")),
    # Event time. None where the record that says so was never seen.
    sa.Column("opened_us", sa.BigInteger),
    sa.Column("resolved_us", sa.BigInteger),
    sa.Column("firing_alert_id", sa.Text),
    sa.Column("resolved_alert_id", sa.Text),
    # Of the monitor of the monitor: its words (services.alerting.words.system).
    sa.Column("words", sa.JSON),
    sa.Column("updated_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("incident_key", "episode"),
    sa.Index("signals_by_incident", "incident_id"),
    sa.Index("signals_by_status", "status"),
    sa.Index("signals_by_deployment", "deployment_id", "status"),
)

# Whose signals an incident has: how it is found by deployment, whoever opened it.
incident_deployments = sa.Table(
    "incident_deployments",
    metadata,
    sa.Column("deployment_id", sa.Text, primary_key=True),
    sa.Column("incident_id", sa.Text, sa.ForeignKey("incidents.id"), primary_key=True),
    sa.Index("incident_deployments_by_incident", "incident_id"),
)

# Signals by what they read and when it changed: one line for each of a signal's upstreams.
signal_upstreams = sa.Table(
    "signal_upstreams",
    metadata,
    sa.Column("upstream", sa.Text, primary_key=True),
    sa.Column("signal_id", sa.Integer, sa.ForeignKey("signals.id"), primary_key=True),
    sa.Column("incident_id", sa.Text, nullable=False),
    sa.Column("change_time_us", sa.BigInteger, nullable=False),
    sa.Column("opened_us", sa.BigInteger, nullable=False),
    sa.Index("signal_upstreams_by_change", "upstream", "change_time_us"),
    sa.Index("signal_upstreams_by_detection", "upstream", "opened_us"),
)

# What happened to an incident, in order: the story that people read, and what the audit was told.
entries = sa.Table(
    "entries",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("key", sa.Text, nullable=False, unique=True),  # the audit event's id: a repeat changes nothing
    sa.Column("incident_id", sa.Text, nullable=False),
    sa.Column("time_ms", sa.BigInteger, nullable=False),
    sa.Column("action", sa.Text, nullable=False),  # as in the audit: incident.opened, notification.sent …
    sa.Column("actor_kind", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("via", sa.Text, nullable=False),  # cli, api, slack, pagerduty, alerts, clock
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
    sa.Index("entries_by_incident", "incident_id", "id"),
)

silences = sa.Table(
    "silences",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("match", sa.JSON, nullable=False),  # as in the routing file
    sa.Column("incident_id", sa.Text),  # of one incident only; then match is empty
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("via", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("starts_ms", sa.BigInteger, nullable=False),
    sa.Column("ends_ms", sa.BigInteger, nullable=False),
    sa.Column("ended_by", sa.Text, nullable=False, server_default=""),  # who ended it before its time
    sa.Column("told_end", sa.Boolean, nullable=False, server_default=sa.false()),  # its end was acted upon
    sa.Index("silences_by_end", "ends_ms"),
)

# A thread is what one receiver is told about one group of incidents: one message that changes, and its answers.
threads = sa.Table(
    "threads",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("receiver", sa.Text, nullable=False),
    sa.Column("group_key", sa.Text, nullable=False),  # services.alerting.policy.routing.Assignment.group_key
    # Threads of one group follow one another; this one's number, from 1.
    sa.Column("episode", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),  # waiting (nothing told yet), open, closed
    sa.Column("route", sa.Text, nullable=False),  # path of the route that made it
    sa.Column("group_labels", sa.JSON, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    # When it is looked at next; None when nothing will come of itself.
    sa.Column("next_flush_ms", sa.BigInteger),
    sa.Column("last_told_ms", sa.BigInteger),
    # What the channel returned: message ids and the like.
    sa.Column("receipt", sa.JSON, nullable=False),
    sa.UniqueConstraint("receiver", "group_key", "episode"),
    sa.Index("threads_by_flush", "next_flush_ms"),
    sa.Index("threads_by_status", "status"),
)

thread_incidents = sa.Table(
    "thread_incidents",
    metadata,
    sa.Column("thread_id", sa.Integer, sa.ForeignKey("threads.id"), primary_key=True),
    sa.Column("incident_id", sa.Text, sa.ForeignKey("incidents.id"), primary_key=True),
    # What the receiver was last told of it (decided, not yet arrived): "" for nothing yet, firing, acknowledged,
    # silenced, resolved.
    sa.Column("told_status", sa.Text, nullable=False),
    sa.Column("told_revision", sa.Integer, nullable=False),
    sa.Column("told_severity", sa.Text, nullable=False),
    sa.Column("told_episode", sa.Integer, nullable=False),
    # It is told whatever the tree says: by an escalation, or in place of a receiver that failed.
    sa.Column("because", sa.Text, nullable=False, server_default=""),
    sa.Index("thread_incidents_by_incident", "incident_id"),
)

escalations = sa.Table(
    "escalations",
    metadata,
    sa.Column("incident_id", sa.Text, sa.ForeignKey("incidents.id"), primary_key=True),
    sa.Column("chain", sa.Text, primary_key=True),
    sa.Column("episode", sa.Integer, primary_key=True),  # of the incident
    sa.Column("started_ms", sa.BigInteger, nullable=False),
    sa.Column("next_step", sa.Integer, nullable=False),
    sa.Column("next_ms", sa.BigInteger),  # None: over
    sa.Index("escalations_by_time", "next_ms"),
)

notifications = sa.Table(
    "notifications",
    metadata,
    # The order in which they were decided.
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    sa.Column("thread_id", sa.Integer, sa.ForeignKey("threads.id"), nullable=True),  # None: heartbeats and tests
    # Within a receiver, messages of one lane are sent one after the other, in order.
    sa.Column("lane", sa.Text, nullable=False),
    sa.Column("receiver", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),  # services.alerting.notify.kinds
    sa.Column("reason", sa.Text, nullable=False),  # why it was decided, in words
    # What is told: [{"incident": ID, "status": …, "revision": …, "episode": …}] as decided.
    sa.Column("incidents", sa.JSON, nullable=False),
    sa.Column("urgency", sa.Integer, nullable=False),  # 0 critical … 3 info
    sa.Column("status", sa.Text, nullable=False),  # services.alerting.notify.outbox: pending, sending …
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("doubts", sa.Integer, nullable=False),  # attempts whose end nobody knows
    sa.Column("next_attempt_ms", sa.BigInteger, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("finished_ms", sa.BigInteger),
    sa.Column("last_error", sa.Text, nullable=False),
    # The next to send is found in these without looking at what is finished, or at what else waits.
    sa.Index("notifications_by_receiver", "receiver", "status", "urgency", "id"),
    sa.Index("notifications_by_lane", "receiver", "lane", "status"),
    sa.Index("notifications_by_thread", "thread_id"),
)

receivers = sa.Table(
    "receivers",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("hold_until_ms", sa.BigInteger, nullable=False),
    sa.Column("last_sent_ms", sa.BigInteger),
    sa.Column("failing_since_ms", sa.BigInteger),  # first failure since the last success
    sa.Column("failures", sa.Integer, nullable=False),  # since then
    sa.Column("last_error", sa.Text, nullable=False),
)

# Small facts of the monitor of the monitor that outlive the process.
watch = sa.Table(
    "watch",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.JSON, nullable=False),
)

publications = sa.Table(
    "publications",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("key", sa.LargeBinary),
    sa.Column("value", sa.LargeBinary, nullable=False),
    sa.Column("headers", sa.JSON, nullable=False),
)
