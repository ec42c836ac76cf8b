"""The client of serving applications: hand over a prediction in microseconds, hear nothing more of it."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from driftline import columns as read
from driftline import limits
from driftline.batcher import Delivery
from driftline.batches import OutcomeRow, PredictionRow, between, random_ids
from driftline.buffer import Buffer, Counters
from driftline.errors import ClientClosedError, SettingsError
from driftline.events import OutcomeColumns, PredictionColumns, checked_name
from driftline.humility import cache, follow
from driftline.humility.deciding import Decider
from driftline.humility.decision import Decision
from driftline.humility.decisions import Decisions, check_rows_of, row_decision
from driftline.humility.follow import Follower, HumilityStatus
from driftline.registry import Registry
from driftline.sender import GRACE_SECONDS, Sender, abandon_all, close_all
from driftline.settings import KafkaSettings
from driftline.spool import default_directory, folder_for
from driftline.tables import outcome_table, prediction_table, row_count

log = logging.getLogger("driftline")

WhenUnavailable = Literal["spool", "block", "drop"]
_CHUNK_BATCHES = 20  # a large table is handed over in pieces of so many batches, so that it need not fit the buffer
_EXIT_SECONDS = 10.0
_MAX_VERSIONS = 1000


class Client:
    """Publishes the predictions and outcomes of one deployment.

    Rows are copied into a bounded buffer; a background thread batches, encodes and delivers them. Any number of
    threads may share a client. A forked child starts afresh: rows waiting in the parent are the parent's to send.

    **Monitoring must never break serving.** What cannot be a prediction or an outcome is counted as ``rejected`` and
    logged at powers of ten; ``strict=True`` raises instead, for tests and for jobs that publish files.

    When Kafka is away, ``when_unavailable`` decides:

    ``"spool"``
        Batches go to disk, and to Kafka in the same order when it is back, by this process or the next one of the
        same deployment on this machine. Nothing waits for the network.
    ``"block"``
        Batches are offered again without end; once ``max_buffered_rows`` wait, the caller waits too, and gets
        :class:`KafkaUnavailableError` after ``block_timeout_seconds``.
    ``"drop"``
        Batches are dropped after ``delivery_timeout_seconds``, new rows once the buffer is full; both are counted.

    Delivery is at least once, with the same prediction ids, by which the streams recognise what comes again.

    Args:
        deployment_id: The deployment that serves; also the Kafka key.
        model_version: The version that answers, unless a call names another.
        model_id: The model behind the deployment.
        settings: How to reach Kafka; by default from the environment.
        shard: Which of the deployment's shards to use; an outcome must use its prediction's.
        batch_rows: Rows that make a batch.
        batch_ms: Milliseconds after which a smaller batch goes out.
        max_buffered_rows: Rows in memory, at most.
        when_unavailable: See above.
        block_timeout_seconds: How long ``block`` waits.
        delivery_timeout_seconds: How long Kafka has to acknowledge a batch.
        spool_dir: Where spools lie, by default ``$XDG_STATE_HOME/driftline/spool``.
        spool_limit_bytes: How large this process's spool may grow; then new batches are dropped.
        max_message_bytes: Larger batches are split.
        headers: Further Kafka headers of every message.
        strict: Raise on bad input.
        follow_humility: Follow the humility rules from the start, not only from the first :meth:`decide` on.
        humility_wait_seconds: How long following may wait for the rules when it starts and none are kept on disk.

    Raises:
        EventError: ``deployment_id`` or ``model_version`` cannot be one.
        SettingsError: A setting cannot be used.
    """

    def __init__(
        self,
        deployment_id: str,
        model_version: str,
        *,
        model_id: str | None = None,
        settings: KafkaSettings | None = None,
        shard: int | None = None,
        batch_rows: int = 500,
        batch_ms: int = 200,
        max_buffered_rows: int = 100_000,
        when_unavailable: WhenUnavailable = "spool",
        block_timeout_seconds: float = 30.0,
        delivery_timeout_seconds: float = 10.0,
        spool_dir: str | Path | None = None,
        spool_limit_bytes: int = 1 << 30,
        max_message_bytes: int = 900_000,
        headers: Mapping[str, str] | None = None,
        strict: bool = False,
        follow_humility: bool = False,
        humility_wait_seconds: float = 0.0,
    ) -> None:
        _check("batch_rows", batch_rows, 1)
        _check("batch_ms", batch_ms, 1)
        _check("max_buffered_rows", max_buffered_rows, batch_rows)
        _check("max_message_bytes", max_message_bytes, 1000)
        _check("delivery_timeout_seconds", delivery_timeout_seconds, 0.1)
        _check("humility_wait_seconds", humility_wait_seconds, 0)
        if when_unavailable not in ("spool", "block", "drop"):
            raise SettingsError(f"when_unavailable: expected 'spool', 'block' or 'drop', came {when_unavailable!r}")
        settings = KafkaSettings.from_environment() if settings is None else settings
        self._deployment_id = checked_name(deployment_id, "deployment_id")
        self._model_version = checked_name(model_version, "model_version")
        self._versions = {model_version}
        self._strict = strict
        self._closed = False
        self._delivery = Delivery(
            deployment_id=deployment_id,
            model_id=model_id,
            shard=shard,
            settings=settings,
            batch_rows=batch_rows,
            max_buffered_rows=max_buffered_rows,
            max_message_bytes=max_message_bytes,
            when_unavailable=when_unavailable,
            delivery_timeout_seconds=delivery_timeout_seconds,
            spool_folder=folder_for(
                default_directory() if spool_dir is None else Path(spool_dir),
                settings.bootstrap_servers,
                settings.topics.prefix,
                deployment_id,
            ),
            spool_limit_bytes=spool_limit_bytes,
            headers=tuple((headers or {}).items()),
        )
        self._batch_ms = batch_ms
        self._block_timeout_seconds = block_timeout_seconds
        self._registry = Registry.from_settings(settings)
        self._lock = threading.Lock()
        self._buffer = self._new_buffer()
        self._sender: Sender | None = None
        self._start(check=True)
        follower = Follower(
            deployment_id, shard, settings, self._registry, self._delivery.spool_folder / cache.FILE_NAME
        )
        self._decider = Decider(
            follower, deployment_id, model_version, wait_seconds=humility_wait_seconds, strict=strict
        )
        self._stop_when_forgotten()
        _CLIENTS.add(self)
        if follow_humility:
            self._decider.begin()

    # Deciding

    def decide(
        self,
        features: Mapping[str, Any],
        prediction: float | None = None,
        class_probabilities: Mapping[Any, float] | None = None,
        *,
        prediction_label: Any = None,
        prediction_low: float | None = None,
        prediction_high: float | None = None,
        segments: Mapping[str, Any] | None = None,
        challengers: Mapping[str, Any] | None = None,
        timestamp: Any = None,
        model_version: str | None = None,
    ) -> Decision:
        """Ask the deployment's humility rules what is to be served, in microseconds and without the network.

        The first call starts a background thread that follows the rules in Kafka, and knows at once what was kept on
        disk. Where there are no rules, or none are known yet, the prediction is answered as it is, with an empty
        ``policy``; so it is where deciding fails. Both are counted in :meth:`humility_status`.

        Args:
            features: As given to the model; see :meth:`log_prediction`, as for everything below.
            prediction: Predicted value or score.
            class_probabilities: Class to probability.
            prediction_label: Predicted class.
            prediction_low: Lower end of the model's own interval.
            prediction_high: Upper end of it.
            segments: Segment attributes that are not features.
            challengers: Version to what it would answer: a number, a class as text, or an :class:`Answer` of both.
            timestamp: Event time; now if not given.
            model_version: The version that answered, if not the client's.

        Returns:
            What to do: ``decision.result()`` is what to serve, or raises :class:`PredictionRefusedError`. Give it to
            :meth:`log_prediction` with the same values.

        Raises:
            Exception: Whatever went wrong, if ``strict``.

        Example::

            decision = client.decide(features, score, {"default": score, "repaid": 1 - score})
            if decision.answered:
                respond(decision.prediction)
            client.log_prediction(features, score, decision=decision)
        """
        return self._decider.decide(
            features,
            prediction,
            class_probabilities,
            prediction_label,
            prediction_low,
            prediction_high,
            segments,
            challengers,
            timestamp,
            model_version,
        )

    def decide_many(
        self,
        features: Any,
        prediction: Any = None,
        class_probabilities: Any = None,
        *,
        prediction_label: Any = None,
        prediction_low: Any = None,
        prediction_high: Any = None,
        segments: Any = None,
        challengers: Any = None,
        timestamps: Any = None,
        model_version: str | None = None,
    ) -> Decisions:
        """Ask the humility rules about many predictions, by columns of equal length.

        Columns are what :meth:`log_predictions` takes; every row is decided as :meth:`decide` would. A table that
        cannot be read is answered as it is, and counted.

        Args:
            features: Name to column.
            prediction: Column of predicted values or scores.
            class_probabilities: Class to column.
            prediction_label: Column of predicted classes.
            prediction_low: Column of lower ends of the model's own intervals.
            prediction_high: Column of upper ends.
            segments: Segment attribute to column.
            challengers: Version to column, of numbers or of classes, or to a tuple of both columns.
            timestamps: Column of event times, or one for all; now if not given.
            model_version: The version that answered, if not the client's.

        Raises:
            Exception: Whatever went wrong, if ``strict``.

        Example::

            decisions = client.decide_many(frame[inputs], scores)
            served = decisions.predictions[decisions.answered | decisions.overridden]
            client.log_predictions(frame[inputs], scores, decisions=decisions)
        """
        return self._decider.decide_many(
            features,
            prediction,
            model_version,
            class_probabilities=class_probabilities,
            prediction_label=prediction_label,
            prediction_low=prediction_low,
            prediction_high=prediction_high,
            segments=segments,
            challengers=challengers,
            timestamps=timestamps,
        )

    def humility_status(self) -> HumilityStatus:
        """What is known of the humility rules, how old it is, and whether it is followed."""
        return self._decider.status()

    def wait_for_humility(self, timeout_seconds: float | None = 10.0) -> bool:
        """Start to follow the humility rules, and wait until all that is in Kafka is known.

        Returns:
            Whether it is. False when the time is over: what was kept on disk decides meanwhile.
        """
        self._decider.follower.start()
        return self._decider.follower.wait(timeout_seconds)

    # Logging

    def log_prediction(
        self,
        features: Mapping[str, Any],
        prediction: float | None = None,
        *,
        prediction_id: Any = None,
        prediction_label: Any = None,
        class_probabilities: Mapping[Any, float] | None = None,
        timestamp: Any = None,
        segments: Mapping[str, Any] | None = None,
        latency_ms: float | None = None,
        error: str | BaseException | None = None,
        model_version: str | None = None,
        prediction_low: float | None = None,
        prediction_high: float | None = None,
        challengers: Mapping[str, Any] | None = None,
        decision: Decision | None = None,
    ) -> str:
        """Log one prediction.

        Args:
            features: Name to number, text, boolean, None, or for an embedding a list or array of numbers. Copied: the
                mapping and its arrays may be used again.
            prediction: Predicted value or score.
            prediction_id: Unique within the deployment; made if not given.
            prediction_label: Predicted class.
            class_probabilities: Class to probability.
            timestamp: ``datetime`` with a zone, integer of microseconds since 1970-01-01 UTC or RFC 3339 text; now if
                not given.
            segments: Segment attributes that are not features.
            latency_ms: Milliseconds taken to answer.
            error: Why the request could not be answered: a short class such as ``'timeout'``, or the exception, which
                counts under its type's name.
            model_version: The version that answered, if not the client's.
            prediction_low: Lower end of the model's own interval for the actual value; both ends or neither, finite.
            prediction_high: Upper end of it.
            challengers: Version to what it would have answered: a number, a class as text, or an :class:`Answer` of
                both.
            decision: What :meth:`decide` said; ``timestamp`` is the decision's if not given. ``prediction`` and
                ``prediction_label`` stay what the model said, whatever was served.

        Returns:
            The prediction id, for :meth:`log_outcome`.

        Raises:
            EventError: Bad input and ``strict``.
            ClientClosedError: The client is closed and ``strict``.
            KafkaUnavailableError: The policy is ``block`` and the time is over.
        """
        try:
            plain, vectors = read.plain_features(features)
            low, high = limits.interval(prediction_low, prediction_high)
            if decision is not None and timestamp is None:
                timestamp = decision.timestamp_us or None
            by_number, by_class = (None, None) if challengers is None else read.challengers(challengers)
            row = PredictionRow(
                self._model_version if model_version is None else self._version(model_version),
                random_ids(1)[0] if prediction_id is None else read.identifier(prediction_id),
                time.time_ns() // 1000 if timestamp is None else read.time_us(timestamp),
                plain,
                vectors,
                read.number(prediction, "prediction"),
                read.label(prediction_label, "prediction_label"),
                None
                if class_probabilities is None
                else read.numbers_by_class(class_probabilities, "class_probabilities"),
                None if segments is None else read.labels_by_name(segments, "segments"),
                read.number(latency_ms, "latency_ms"),
                None if error is None else read.error_class(error, "error"),
                low,
                high,
                by_number,
                by_class,
                None if decision is None else row_decision(decision),
            )
            self._ready()
        except Exception as trouble:  # whatever a caller's object does when it is looked at
            self._reject(trouble, 1)
            return prediction_id if isinstance(prediction_id, str) else random_ids(1)[0]
        self._buffer.add_prediction(row)
        return row.prediction_id

    def log_predictions(
        self,
        features: Any,
        prediction: Any = None,
        *,
        prediction_ids: Any = None,
        prediction_label: Any = None,
        class_probabilities: Any = None,
        timestamps: Any = None,
        segments: Any = None,
        latency_ms: Any = None,
        error: Any = None,
        model_version: str | None = None,
        prediction_low: Any = None,
        prediction_high: Any = None,
        challengers: Any = None,
        decisions: Decisions | None = None,
    ) -> list[str]:
        """Log many predictions, by columns of equal length.

        A column is a numpy array, a list, or a pandas, polars or pyarrow column; ``features``,
        ``class_probabilities`` and ``segments`` are mappings of name to column, data frames or tables. An embedding is
        a two-dimensional array, or a column of lists or arrays of one length. Columns are copied. ``timestamps`` may be
        ``datetime64``, which is UTC, or one time for all; those of ``decisions``, or now, if not given. ``challengers``
        maps versions to columns of numbers or of classes, or to tuples of both; ``decisions`` are what
        :meth:`decide_many` said of the same rows. For the other arguments see :meth:`log_prediction`. A table with one
        bad value is rejected whole.

        Returns:
            The prediction ids; none if the table was rejected.

        Raises:
            EventError: Bad input and ``strict``.
            ClientClosedError: The client is closed and ``strict``.
            KafkaUnavailableError: The policy is ``block`` and the time is over.
        """
        try:
            if decisions is not None and decisions.columns is not None:
                check_rows_of(decisions, row_count(features, prediction_ids, prediction))
                timestamps = decisions.timestamps_us if timestamps is None else timestamps
            table = prediction_table(
                features,
                prediction,
                deployment_id=self._deployment_id,
                model_version=self._model_version if model_version is None else model_version,
                model_id=self._delivery.model_id,
                prediction_ids=prediction_ids,
                prediction_label=prediction_label,
                class_probabilities=class_probabilities,
                timestamps=timestamps,
                segments=segments,
                latency_ms=latency_ms,
                error=error,
                prediction_low=prediction_low,
                prediction_high=prediction_high,
                challengers=challengers,
                decisions=None if decisions is None else decisions.columns,
            )
            self._ready()
        except Exception as trouble:
            self._reject(trouble, row_count(features, prediction_ids, prediction))
            return []
        self._add_table(table)
        return list(table.prediction_ids)

    def log_outcome(
        self,
        prediction_id: Any,
        actual_value: float | None = None,
        actual_label: Any = None,
        actual_timestamp: Any = None,
        was_acted_on: bool | None = None,
        *,
        labelling_probability: float | None = None,
    ) -> None:
        """Log what turned out to be true for one prediction; a value or a label is needed.

        To correct an outcome, log it again with a later ``actual_timestamp``: the latest one counts.

        Args:
            prediction_id: The prediction.
            actual_value: Actual value; finite. NaN is none.
            actual_label: Actual class.
            actual_timestamp: When it became known; now if not given. See :meth:`log_prediction`.
            was_acted_on: Whether somebody acted on the prediction, and may so have changed what it was about; None
                where nobody knows.
            labelling_probability: Where only a sample is ever labelled: how probable it was that this prediction was
                chosen, above 0 and at most 1. Not given, it was certain.

        Example::

            prediction_id = client.log_prediction({"amount": 40.0}, 0.83, prediction_label="fraud")
            ...
            client.log_outcome(prediction_id, actual_label="fine", was_acted_on=True)

        Raises:
            EventError: Bad input and ``strict``.
            ClientClosedError: The client is closed and ``strict``.
            KafkaUnavailableError: The policy is ``block`` and the time is over.
        """
        try:
            label = read.label(actual_label, "actual_label")
            row = OutcomeRow(
                read.identifier(prediction_id),
                time.time_ns() // 1000 if actual_timestamp is None else read.time_us(actual_timestamp),
                limits.actual(actual_value, label),
                label,
                read.flag(was_acted_on, "was_acted_on"),
                limits.probability(labelling_probability, "labelling_probability"),
            )
            self._ready()
        except Exception as error:
            self._reject(error, 1)
            return
        self._buffer.add_outcome(row)

    def log_outcomes(
        self,
        prediction_ids: Any,
        actual_value: Any = None,
        actual_label: Any = None,
        actual_timestamps: Any = None,
        was_acted_on: Any = None,
        *,
        labelling_probability: Any = None,
    ) -> None:
        """Log many outcomes, by columns of equal length; a column of values or one of labels is needed.

        Leave out the rows that are not resolved yet: a table with one bad value, or with a row without value and
        label, is rejected whole. To correct outcomes, log them again with later ``actual_timestamps``.

        Args:
            prediction_ids: Column of the predictions.
            actual_value: Column of actual values; finite. NaN is none.
            actual_label: Column of actual classes.
            actual_timestamps: Column of when each became known, or one time for all; now if not given. See
                :meth:`log_predictions`.
            was_acted_on: Column of True, False or None (1, 0 or NaN), or one for all.
            labelling_probability: Column of probabilities above 0 and at most 1, none missing, or one for all. See
                :meth:`log_outcome`.

        Raises:
            EventError: Bad input and ``strict``.
            ClientClosedError: The client is closed and ``strict``.
            KafkaUnavailableError: The policy is ``block`` and the time is over.

        Example::

            known = frame[frame["verdict"].notna()]
            client.log_outcomes(known["id"], actual_label=known["verdict"], actual_timestamps=known["closed"])
        """
        try:
            table = outcome_table(
                self._deployment_id,
                prediction_ids,
                actual_value,
                actual_label,
                actual_timestamps,
                was_acted_on,
                labelling_probability,
            )
            self._ready()
        except Exception as error:
            self._reject(error, row_count({}, prediction_ids))
            return
        self._add_table(table)

    # Life

    def counters(self) -> Counters:
        """What became of the rows so far; one consistent snapshot."""
        return self._buffer.counters()

    def flush(self, timeout_seconds: float | None = 10.0) -> int:
        """Wait until everything logged so far is delivered, on disk or dropped.

        Returns:
            Rows still in memory when the time was over; 0 is success.
        """
        return self._buffer.flush(timeout_seconds)

    def close(self, timeout_seconds: float = 10.0) -> None:
        """Flush and end the background thread.

        What Kafka has not acknowledged in time goes to disk (``spool``) or is dropped and counted. Without effect on
        a closed client.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        follower = self._decider.follower
        follower.stop()
        if self._sender is not None:
            self._sender.close(time.monotonic() + timeout_seconds)
        if self._sender is not None and not self._sender.join(timeout_seconds + GRACE_SECONDS):
            log.error("the client's background thread did not end: %s", self.counters())
        if not follower.join(GRACE_SECONDS):
            log.error("the thread that follows the humility rules did not end")
        counters = self.counters()
        if counters.dropped or counters.rejected:
            log.warning("closed with rows lost: %s", counters)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._deployment_id!r}, {self._model_version!r}, {self.counters()})"

    # Inner workings

    def _new_buffer(self) -> Buffer:
        return Buffer(
            limit_rows=self._delivery.max_buffered_rows,
            batch_rows=self._delivery.batch_rows,
            batch_ms=self._batch_ms,
            policy=self._delivery.when_unavailable,
            block_timeout_seconds=self._block_timeout_seconds,
        )

    def _version(self, name: str) -> str:
        if name not in self._versions:
            checked_name(name, "model_version")
            if len(self._versions) < _MAX_VERSIONS:
                self._versions.add(name)
        return name

    def _ready(self) -> None:
        if self._closed:
            raise ClientClosedError("the client is closed: make a new one")
        if self._sender is None:
            self._start()

    def _start(self, *, check: bool = False) -> None:
        with self._lock:
            if self._sender is None:
                sender = Sender(self._buffer, self._delivery, self._registry)
                if check:
                    sender.check()
                sender.start()
                self._sender = sender
                # A client that is forgotten flushes, too; at exit, close_all sees to it.
                weakref.finalize(self, _close_forgotten, sender).atexit = False
                _close_with_worker()

    def _stop_when_forgotten(self) -> None:
        weakref.finalize(self, self._decider.follower.stop).atexit = False

    def _add_table(self, table: PredictionColumns | OutcomeColumns) -> None:
        delivery = self._delivery
        step = max(1, min(_CHUNK_BATCHES * delivery.batch_rows, delivery.max_buffered_rows // 4))
        for start in range(0, table.rows, step):
            self._buffer.add_columns(between(table, start, min(start + step, table.rows)))

    def _reject(self, error: Exception, rows: int) -> None:
        if self._strict:
            raise error
        before = self._buffer.reject(rows)
        if not before or len(str(before)) != len(str(before + rows)):
            log.warning("rejected, not logged (%d so far): %s", before + rows, error)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._sender = None
        self._buffer = self._new_buffer()
        self._registry = Registry.from_settings(self._delivery.settings)
        self._decider = self._decider.forked(self._registry)
        self._stop_when_forgotten()


def _check(name: str, value: float, least: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= least:
        raise SettingsError(f"{name}: expected a number of at least {least}, came {value!r}")


_CLIENTS: weakref.WeakSet[Client] = weakref.WeakSet()


def _close_forgotten(sender: Sender) -> None:
    sender.close(time.monotonic() + _EXIT_SECONDS)


def _close_with_worker() -> None:
    """Close at the end of a worker of multiprocessing, too: such a child leaves without running ``atexit``."""
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.parent_process() is not None:
        util.Finalize(None, _close_all, exitpriority=100)


def _close_all() -> None:
    """End every background thread of this process."""
    follow.stop_all()
    close_all(_EXIT_SECONDS)
    follow.join_all(GRACE_SECONDS)


def _after_fork_in_child() -> None:
    abandon_all()
    follow.abandon_all()
    for client in list(_CLIENTS):
        client._after_fork()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
