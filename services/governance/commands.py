"""The commands ``driftline governance`` and ``driftline audit …``."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from driftline.errors import DriftlineError
from driftline.settings import KafkaSettings
from services.cli.output import JSON_OPTION, fail, print_json, safe, stderr, stdout
from services.governance.checkpoint import VerifierKey, load_key
from services.governance.checkpoints import seal_records
from services.governance.errors import GovernanceError, KeyFileError
from services.governance.export import export_topic
from services.governance.replay import Filter, ReplayedEvent, iso_time, parse_time, replay
from services.governance.settings import GovernanceSettings
from services.governance.topic import LogRecord, TopicReader
from services.governance.verify import SEAL_WITHIN_SECONDS, Verification, verify, verify_export

audit = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Read, verify and export the audit record.",
    epilog="Example: driftline audit verify --public-key audit.pub",
)

_COLUMNS = "{:<24}  {:<24}  {:<36}  {:<20}  {}"


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except DriftlineError as error:
        fail(str(error))


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def governance() -> None:
    """Keep the ledger of the audit topic: append every record, sign and publish checkpoints.

    Runs until SIGTERM or Ctrl-C, then seals what is there. The first start makes the audit key and prints its public
    half, which everybody who is to verify needs.

    Example: driftline governance

    Settings: DRIFTLINE_GOVERNANCE_DATABASE_URL (sqlite:///.driftline/governance.db), DRIFTLINE_AUDIT_KEY_FILE
    (.driftline/audit-key), DRIFTLINE_AUDIT_ORIGIN (driftline.local/audit).
    """
    from services.governance.service import GovernanceService  # brings the database, which no other command needs

    logger = logging.getLogger("driftline.governance")
    if not logger.hasHandlers():
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with _clear_errors(), _stop_on_signals() as stop:
        GovernanceService(KafkaSettings.from_environment(), GovernanceSettings.from_environment()).run(stop)


@audit.command("replay", epilog="Example: driftline audit replay --from 2026-05-12 --action 'deployment.*' --json")
def replay_command(
    from_time: Annotated[str | None, typer.Option("--from", help="Happened at this time or later: ISO 8601.")] = None,
    to_time: Annotated[str | None, typer.Option("--to", help="Happened before this time: ISO 8601.")] = None,
    action: Annotated[str | None, typer.Option(help="Action, with * and ?: 'alert.*'.")] = None,
    subject: Annotated[str | None, typer.Option(help="Subject, with * and ?: 'deployment:*'.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Print the events of the audit topic in their order, as a table or as JSON, one object a line."""
    with _clear_errors():
        wanted = Filter(_time(from_time, "--from"), _time(to_time, "--to"), action, subject)
        with _stop_on_signals() if follow else contextlib.nullcontext(threading.Event()) as stop:
            events = replay(KafkaSettings.from_environment(), wanted, follow=follow, stopped=stop.is_set)
            if not as_json:
                sys.stdout.write(_COLUMNS.format("TIME", "ACTION", "SUBJECT", "ACTOR", "REASON") + "\n")
            for event in events:
                _print_event(event, as_json, flush=follow)


@audit.command("verify", epilog="Example: driftline audit verify --public-key audit.pub --file audit.jsonl")
def verify_command(
    public_key: Annotated[
        str | None,
        typer.Option(help="The public key, or a file with it; by default the public half of this machine's key."),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Verify this export instead of the topic.")] = None,
    remember: Annotated[
        Path | None,
        typer.Option(
            help="A checkpoint kept from before: the record has to extend it. Written anew when everything stands."
        ),
    ] = None,
    seal_within: Annotated[
        float, typer.Option(min=0, help="Seconds a record may wait for its checkpoint.")
    ] = SEAL_WITHIN_SECONDS,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Verify that no record was altered, removed, put in or moved since it was signed.

    Exit status 0: everything stands. 1: it does not, and the first record that does not is named.
    """
    with _clear_errors():
        key = _public_key(public_key)
        known = _read(remember) if remember is not None and remember.exists() else None
        try:
            if file is not None:
                result = verify_export(file, key, seal_within_seconds=seal_within, known_note=known)
            else:
                result = _verify_topics(key, seal_within, known)
        except OSError as error:
            fail(f"{file}: {error.strerror}")
        except ValueError as error:
            fail(str(error))
        if result.ok and remember is not None and result.head is not None:
            _write(remember, result.head)
        _print_verification(result, as_json)
    raise typer.Exit(0 if result.ok else 1)


@audit.command("export", epilog="Example: driftline audit export audit-2026-05.jsonl")
def export_command(
    file: Annotated[Path, typer.Argument(help="The file to write; replaced when complete.")],
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Write all records and checkpoints, exact bytes, to one file that verifies without this installation."""
    with _clear_errors():
        with _progress("exporting") as progress:
            summary = export_topic(KafkaSettings.from_environment(), file, progress=progress)
        if as_json:
            print_json(
                {
                    "file": str(summary.path),
                    "records": summary.records,
                    "checkpoints": summary.checkpoints,
                    "sha256": summary.sha256,
                }
            )
        else:
            stdout.print(
                f"{summary.records:,} records and {summary.checkpoints:,} checkpoints written to {safe(summary.path)}\n"
                f"verify with: driftline audit verify --file {safe(summary.path)} --public-key PUBLIC_KEY",
                soft_wrap=True,
            )


@audit.command("key", epilog="Example: driftline audit key > audit.pub")
def key_command(as_json: Annotated[bool, JSON_OPTION] = False) -> None:
    """Print the public key that verifies this ledger: hand it out by a way of its own."""
    with _clear_errors():
        key = load_key(GovernanceSettings.from_environment().key_file).verifier
        if as_json:
            print_json({"public_key": str(key), "name": key.name, "key_id": key.key_id.hex()})
        else:
            sys.stdout.write(f"{key}\n")


def _verify_topics(key: str, seal_within: float, known: str | None) -> Verification:
    kafka = KafkaSettings.from_environment()
    now_ms = time.time_ns() // 1_000_000
    with TopicReader(kafka, kafka.topics.audit_checkpoints) as seals:
        checkpoints = list(seal_records(seals))  # to their end before the first record is read
    with TopicReader(kafka, kafka.topics.audit) as reader, _progress("verifying") as progress:
        records = _watched(reader, progress)
        return verify(records, checkpoints, key, now_ms=now_ms, seal_within_seconds=seal_within, known_note=known)


def _watched(reader: TopicReader, progress: Callable[[int, int], None]) -> Iterator[LogRecord]:
    _, high = reader.watermarks()
    for batch in reader.batches():
        yield from batch
        progress(batch[-1].offset + 1, high)


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield advance


def _print_event(event: ReplayedEvent, as_json: bool, *, flush: bool) -> None:
    record = event.event
    if as_json:
        line = json.dumps(event.to_json())  # ASCII: no control sequence reaches a terminal
    elif record is None:
        line = _row(event.time_us, "(undecodable)", f"offset {event.offset}", "", event.problem or "")
    else:
        line = _row(event.time_us, record["action"], record["subject"], record["actor"], record["reason"])
    sys.stdout.write(line + "\n")
    if flush:
        sys.stdout.flush()


def _row(time_us: int, *cells: str) -> str:
    # As `safe` does, without the console's markup: a million lines are printed here.
    plain = ("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cell) for cell in cells)
    return _COLUMNS.format(iso_time(time_us), *plain).rstrip()


def _print_verification(result: Verification, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(result.to_json(), indent=2) + "\n")  # ASCII: it may quote an event
        return
    style = "[bold green]stands[/]" if result.ok else "[bold red]DOES NOT STAND[/]"
    stdout.print(f"{style}: {safe(result.message)}", soft_wrap=True)
    bad = result.first_bad
    if bad is None:
        return
    facts = {
        "what": bad.kind,
        "record": bad.index,
        "offset": bad.offset,
        "event id": bad.event_id,
        "checkpoint at offset": bad.checkpoint_offset,
    }
    for name, value in facts.items():
        if value is not None:
            stdout.print(f"  {name}: {safe(value)}", soft_wrap=True, highlight=False)
    stdout.print(f"  proven before it: {result.sealed:,} of {result.records:,} records read", soft_wrap=True)


def _public_key(given: str | None) -> str:
    if given is None:
        path = GovernanceSettings.from_environment().key_file
        if not path.exists():
            raise KeyFileError(f"there is no audit key at {path}: give the public key with --public-key FILE or KEY")
        return str(load_key(path).verifier)
    text = given if given.count("+") >= 2 and not Path(given).is_file() else _read(Path(given))
    return str(VerifierKey.parse(text))


def _time(text: str | None, option: str) -> int | None:
    try:
        return None if text is None else parse_time(text)
    except (ValueError, OverflowError) as error:
        raise GovernanceError(f"{option}: expected a date or time like 2026-05-12T14:00, came {text!r}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise GovernanceError(f"{path} cannot be read: {error}") from error


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise GovernanceError(f"{path} cannot be written: {error}") from error
