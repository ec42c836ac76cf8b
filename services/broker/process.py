"""A child process that ends with its parent."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1

# What a JVM may need of the environment. The rest stays here: secrets are none of its business, and JAVA_TOOL_OPTIONS
# or JDK_JAVA_OPTIONS, set for other programs, would change this one.
_PASSED_ON = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")


def spawn(
    command: Sequence[str], *, cwd: Path, output: IO[bytes], keep_open: int, detached: bool
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own.

    Unless `detached`, it is killed when this process is gone, however that came about; Linux only.

    Args:
        command: program and arguments.
        cwd: its working directory.
        output: where its stdout and stderr go.
        keep_open: a file descriptor that it inherits.
        detached: let it outlive this process.

    Raises:
        OSError: it cannot be started.

    """

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(keep_open,),
            # Ctrl-C on a terminal is for this process, which ends the child when it has no more use for it.
            start_new_session=True,
            preexec_fn=None if detached else _die_with(os.getpid()),
        )

    return start() if detached else _in_lasting_thread(start)


def end(process: subprocess.Popen[bytes], *, grace_seconds: float) -> None:
    """Ask a process to end, kill it when it has not after `grace_seconds` (0: at once), and reap it."""
    if process.poll() is None and grace_seconds > 0:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds)
    if process.poll() is None:
        process.kill()
    process.wait()


def _die_with(parent: int) -> Callable[[], None] | None:
    """Return what a child of `parent` runs before `exec` so that the kernel kills it when its parent is gone."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def arrange() -> None:
        # SIGKILL, not SIGTERM: nobody is left who could insist, and Kafka recovers from it.
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # gone before the call
            os._exit(1)

    return arrange


def _in_lasting_thread(start: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Start a process from a thread that lives as long as it does.

    Linux sends the signal of PR_SET_PDEATHSIG when the *thread* ends that made the child: a broker started from a
    pool's worker would be killed in the middle of its work.
    """
    outcome: list[subprocess.Popen[bytes] | BaseException] = []
    started = threading.Event()

    def keep() -> None:
        try:
            process = start()
        except BaseException as error:
            outcome.append(error)
            return
        else:
            outcome.append(process)
        finally:
            started.set()
        process.wait()

    threading.Thread(target=keep, name="embedded-broker", daemon=True).start()
    started.wait()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]
