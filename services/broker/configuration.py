"""Settings of the embedded broker: one node, both KRaft roles, reachable from this machine only."""

import re
from collections.abc import Mapping

from services.broker.errors import BrokerError

HOST = "127.0.0.1"
NODE_ID = 1

# Paths are relative to the data directory, where the JVM is started: nothing that the name of that directory may hold
# (commas, `${...}`, `%d`) means anything to Kafka or log4j, and the directory can be moved.
DATA = "data"
LOG_FILE = "broker.log"

# A 10 MB message with its headers, and batches around it.
_MESSAGE_MAX_BYTES = 16 * 1024 * 1024

# What a user may change with `settings`.
_DEFAULTS = {
    "auto.create.topics.enable": "false",
    "num.partitions": "4",
    "message.max.bytes": str(_MESSAGE_MAX_BYTES),
    "replica.fetch.max.bytes": str(_MESSAGE_MAX_BYTES),
    # One node holds every replica.
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    # Kafka waits 3 s for more members before the first rebalance of a group.
    "group.initial.rebalance.delay.ms": "0",
    # Kafka's least session time-out is 6 s: too long for a test that leaves a consumer stopped.
    "group.min.session.timeout.ms": "1000",
    # After a kill the broker cannot register again before its last session is over: by default 9 s of waiting.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # By default 128 MiB of the heap, reserved at the start.
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
    "num.network.threads": "2",
    "num.io.threads": "4",
    # An idle node otherwise writes and syncs a record to its metadata log twice a second.
    "metadata.max.idle.interval.ms": "5000",
}

_OWNED = re.compile(
    r"process\.roles|node\.id|broker\.id|listeners|advertised\.listeners|early\.start\.listeners|log\.dirs?|"
    r"metadata\.log\.dir|inter\.broker\.listener\.name|(listener|controller|security)\..*"
)
_NAME = re.compile(r"[a-zA-Z0-9._-]+")


def server_properties(port: int, controller_port: int, settings: Mapping[str, str]) -> str:
    """Return the text of Kafka's `server.properties`.

    Raises:
        BrokerError: `settings` names something that the embedded broker decides itself, or is no property name.

    """
    for name in settings:
        if not _NAME.fullmatch(name):
            raise BrokerError(
                f"broker setting {name!r}: a Kafka property name has letters, digits, '.', '_' and '-' only."
            )
        if _OWNED.fullmatch(name):
            raise BrokerError(
                f"broker setting {name!r}: the embedded broker sets its roles, listeners and directories itself. "
                "Use its port and data directory options, or a Kafka cluster of your own."
            )
    properties = {
        "process.roles": "broker,controller",
        "node.id": str(NODE_ID),
        "controller.quorum.voters": f"{NODE_ID}@{HOST}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": DATA,
        **_DEFAULTS,
        **settings,
    }
    return "".join(f"{name}={_escaped(value)}\n" for name, value in properties.items())


def log4j_properties() -> str:
    """Return the text of a log4j 2 configuration that keeps at most 5 files of 10 MB."""
    properties = {
        # Kafka's own shutdown hook still logs when log4j's would have closed the file.
        "shutdownHook": "disable",
        "appender.file.type": "RollingFile",
        "appender.file.name": "file",
        "appender.file.fileName": LOG_FILE,
        "appender.file.filePattern": f"{LOG_FILE}.%i",
        "appender.file.layout.type": "PatternLayout",
        "appender.file.layout.pattern": "%d{yyyy-MM-dd'T'HH:mm:ss.SSSXXX} %-5p %c{1}: %m%n",
        "appender.file.policies.type": "Policies",
        "appender.file.policies.size.type": "SizeBasedTriggeringPolicy",
        "appender.file.policies.size.size": "10MB",
        "appender.file.strategy.type": "DefaultRolloverStrategy",
        "appender.file.strategy.max": "4",
        "rootLogger.level": "INFO",
        "rootLogger.appenderRef.file.ref": "file",
        # 250 lines of settings on every start, most of them defaults.
        "logger.config.name": "org.apache.kafka.common.config",
        "logger.config.level": "WARN",
    }
    return "".join(f"{name}={_escaped(value)}\n" for name, value in properties.items())


def _escaped(value: str) -> str:
    """Escape a value for `java.util.Properties`, so that it stays one value whatever it holds."""
    text = "".join(
        {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\f": "\\f"}.get(character)
        or (character if 0x20 <= ord(character) < 0x7F else _unicode_escapes(character))
        for character in value
    )
    return "\\" + text if text.startswith(" ") else text


def _unicode_escapes(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
