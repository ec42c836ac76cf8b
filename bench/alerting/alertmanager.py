"""Prometheus Alertmanager, built from its Go module and run beside Driftline's service.

The module proxy serves the source without its built web interface, so an empty page stands in for it; nothing else is
changed. Without a Go compiler, or without the module, the peer is left out and said to be.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

VERSION = "v0.34.0"
_MODULE = f"github.com/prometheus/alertmanager@{VERSION}"
_BUILD_SECONDS = 900
_READY_SECONDS = 30.0


class NotBuiltError(Exception):
    """Alertmanager cannot be had here; the message says why."""


def built(folder: Path) -> Path:
    """The program, built once into ``folder``.

    Raises:
        NotBuiltError: There is no Go compiler, or the module cannot be had.
    """
    program = folder / f"alertmanager-{VERSION}"
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        raise NotBuiltError("no Go compiler on the path")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        found = subprocess.run(
            [go, "mod", "download", "-json", _MODULE],
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
            check=True,
        )
        source = folder / "source"
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(json.loads(found.stdout)["Dir"], source)
        for path in (source, *source.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)  # the module cache is read-only
        page = source / "ui" / "app" / "dist" / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("<!doctype html><title>not built</title>")
        command = [go, "build", "-o", str(program), "./cmd/alertmanager"]
        subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=True)
        shutil.rmtree(source)
    except (subprocess.SubprocessError, OSError, ValueError, KeyError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise NotBuiltError(said[-1] if said else type(error).__name__) from error
    return program


class Alertmanager:
    """One running Alertmanager. Its data outlive a kill, as they would on a disk."""

    def __init__(self, program: Path, folder: Path, configuration: str, port: int) -> None:
        self._program = program
        self._folder = folder
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "alertmanager.yml").write_text(configuration)

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            str(self._program),
            f"--config.file={self._folder / 'alertmanager.yml'}",
            f"--storage.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--cluster.listen-address=",
        ]
        with (self._folder / "alertmanager.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=2).close()
                return
            except (urllib.error.URLError, OSError):
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise NotBuiltError("Alertmanager does not start") from None
                time.sleep(0.05)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it by a signal."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(30)

    def tell(self, alerts: Iterable[Mapping[str, Any]]) -> bool:
        """Post alerts as Prometheus does; False if it did not take them (Prometheus would try again a minute later)."""
        body = json.dumps(list(alerts)).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/api/v2/alerts", body, {"Content-Type": "application/json"}
        )
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except (urllib.error.URLError, OSError):
            return False
        return True
