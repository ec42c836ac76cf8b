"""Two hundred kills -9, at random moments and at every named point, with a message under way in every channel.

What is counted, of each channel: incidents that nobody was told of, ends that nobody was told of, triggers after their
end, and messages that came twice. Alertmanager is killed as often, told as Prometheus tells it.
"""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from rich.progress import Progress

from bench.alerting.alertmanager import VERSION, NotBuiltError
from bench.alerting.everywhere import CHANNELS, Everywhere
from bench.alerting.machine import Installation, alert, broker, name_of, wait_for
from bench.alerting.storm import CHANNELS as PEER_CHANNELS
from bench.alerting.storm import PeerReceiver, peer_alert, running_peer
from bench.alerting.storm import told as peer_told
from bench.report import OUTPUT, Figure, figure, print_table
from services.alerting.crash import ENVIRONMENT, POINTS
from services.demo.receivers import Answer

_PER_KILL = 3
_LAST_SECONDS = 300.0


def measure(seed: int, quick: bool) -> list[Figure]:
    """The kills of both, one after the other."""
    kills = 24 if quick else 200
    figures = _ours(seed, kills)
    try:
        figures += _theirs(seed, kills)
    except NotBuiltError as error:
        figures.append(figure("kills: Alertmanager left out", 1, "", note=str(error)))
    return figures


def _ours(seed: int, kills: int) -> list[Figure]:
    chance = random.Random(seed)
    incidents = _PER_KILL * (kills + 1)
    at_points = Counter[str]()
    with broker() as (servers, folder), Everywhere() as everywhere:
        service = Installation(servers, folder / "kills", everywhere.policy, everywhere.environment)
        with Progress(transient=True) as progress:
            task = progress.add_task("kills -9", total=kills)
            for kill in range(kills):
                point = POINTS[kill // 2 % len(POINTS)] if kill % 2 else ""
                # Alerts are taken and messages decided on in batches: those points are passed once or twice a start.
                count = chance.randint(1, 6 if point.startswith("outbox") else 1)
                service.start("--history", "all", ready=False, **({ENVIRONMENT: f"{point}:{count}"} if point else {}))
                first = _PER_KILL * kill
                service.publish(alert(n) for n in range(first, first + _PER_KILL))
                service.publish(alert(n, "resolved") for n in range(max(first - _PER_KILL, 0), first))
                if point and service.wait_end(12.0):
                    at_points[point] += 1
                else:
                    everywhere.wait_for_more(chance.randint(1, 10), 12.0)
                    time.sleep(chance.uniform(0, 0.3))
                    service.end(signal.SIGKILL)
                progress.advance(task)
        service.start("--history", "all")
        first = _PER_KILL * kills
        service.publish(alert(n) for n in range(first, first + _PER_KILL))
        service.publish(alert(n, "resolved") for n in range(first - _PER_KILL, first + _PER_KILL))
        whole = wait_for(lambda: everywhere.complete(incidents) and not service.unfinished, _LAST_SECONDS, 0.5)
        time.sleep(2.0)
        service.end()
        doubts = service.count("select coalesce(sum(doubts), 0) from notifications")
        messages = everywhere.messages()
        if not whole:
            OUTPUT.mkdir(parents=True, exist_ok=True)
            for path in (service.database, service.log):
                shutil.copy(path, OUTPUT / f"kills-{path.name}")
            print(f"not everything arrived: see {OUTPUT}/kills-{service.database.name} and the log", file=sys.stderr)
    random_kills = kills - sum(at_points.values())
    note = f"{kills} kills, {sum(at_points.values())} at {len(at_points)} named points; {incidents} incidents"
    print(f"{random_kills} kills at random, at points: {dict(at_points)}; {doubts} attempts in doubt", file=sys.stderr)
    rows, figures = [], []
    for channel in CHANNELS:
        heard = messages[channel]
        untold = sum(1 for n in range(incidents) if ("trigger", name_of(n)) not in heard.first)
        unended = sum(1 for n in range(incidents) if ("resolve", name_of(n)) not in heard.first)
        disordered = sum(1 for n in range(incidents) if heard.disordered(name_of(n)))
        rate = heard.repeated / max(2 * incidents, 1)
        rows.append((channel, untold, unended, disordered, heard.sent_again, heard.repeated, f"{rate:.2%}"))
        figures += [
            figure(f"kills, {channel}: incidents not told", untold, "", at_most=0, note=note),
            figure(f"kills, {channel}: ends not told", unended, "", at_most=0, note=note),
            figure(f"kills, {channel}: triggers after their end", disordered, "", at_most=0, note=note),
            figure(f"kills, {channel}: requests sent again", heard.sent_again, "", note="before the receiver merges"),
            figure(f"kills, {channel}: messages that people see twice", heard.repeated, "", note=f"{rate:.2%} of all"),
        ]
    headings = ("channel", "not told", "not ended", "out of order", "sent again", "seen twice", "of all messages")
    print_table(f"Driftline: {note}", headings, rows)
    return figures


def _theirs(seed: int, kills: int) -> list[Figure]:
    chance = random.Random(seed)
    incidents = _PER_KILL * (kills + 1)
    begun: dict[int, float] = {}
    ended: set[int] = set()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        receiver = stack.enter_context(PeerReceiver())
        for channel in PEER_CHANNELS:
            receiver.answer_always(channel, Answer(202 if channel == PEER_CHANNELS[0] else 200, delay_seconds=0.03))
        peer = stack.enter_context(running_peer(folder, receiver, interval_seconds=2))

        def tell() -> None:
            now = time.monotonic()
            peer.tell(peer_alert(n, ended=n in ended, seconds=now - since) for n, since in begun.items())

        for kill in range(kills + 1):
            first = _PER_KILL * kill
            begun |= dict.fromkeys(range(first, first + _PER_KILL), time.monotonic())
            ended |= set(range(max(first - _PER_KILL, 0), first))
            tell()
            if kill < kills:
                time.sleep(chance.uniform(0.5, 4.0))
                peer.end(signal.SIGKILL)
                peer.start()
        time.sleep(5.0)
        ended |= set(begun)
        for _ in range(4):
            tell()
            time.sleep(5.0)
        messages = peer_told(receiver)
    note = f"Alertmanager {VERSION}: {kills} kills, told again after each start as Prometheus would"
    rows, figures = [], []
    for channel in PEER_CHANNELS:
        kinds = [messages[channel].get(name_of(n), []) for n in range(incidents)]
        untold = sum(1 for k in kinds if "trigger" not in k)
        unended = sum(1 for k in kinds if "resolve" not in k)
        again = sum(max(k.count("trigger") - 1, 0) + max(k.count("resolve") - 1, 0) for k in kinds)
        rows.append((channel, untold, unended, again, f"{again / (2 * incidents):.1%}"))
        figures += [
            figure(f"kills, {channel}: incidents not told: Alertmanager", untold, "", note=note),
            figure(f"kills, {channel}: ends not told: Alertmanager", unended, "", note=note),
            figure(f"kills, {channel}: requests sent again: Alertmanager", again, "", note=note),
        ]
    print_table(note, ("channel", "not told", "not ended", "sent again", "of all messages"), rows)
    return figures
