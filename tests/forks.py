"""`guava-aug` with the fake model as real processes, without the seconds that imports take: forks of one server."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SERVER = Path(__file__).with_name("fork_server.py")


class ForkServer:
    """Starts processes; each is a fork of one Python process that has imported everything."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        self._folder = tempfile.TemporaryDirectory(prefix="guava-aug-forks-")
        self._started = 0
        self._unread = b""
        self._codes: dict[int, int] = {}  # of the processes that have ended
        self._last: int | None = None  # the process that was started last

    def start(self, *arguments: str, seconds_per_frame: float = 0.0, environment: dict[str, str] | None = None) -> Fork:
        """`guava-aug` with these arguments; its model takes `seconds_per_frame` for every frame of a view."""
        assert self._process.stdin is not None
        self._started += 1
        said = [str(Path(self._folder.name) / f"{self._started}.{stream}") for stream in ("out", "err")]
        order = [seconds_per_frame, list(arguments), environment or {}, said]
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._last = None
        while self._last is None:
            self._read(None)
        return Fork(self, self._last, Path(said[0]), Path(said[1]))

    def code(self, pid: int, timeout: float | None) -> int | None:
        """The exit code, negative for a signal; None if it still runs after so many seconds (None: wait for ever)."""
        end = None if timeout is None else time.monotonic() + timeout
        while pid not in self._codes:
            left = None if end is None else end - time.monotonic()
            if left is not None and left < 0:
                return None
            self._read(left)
        return self._codes[pid]

    def _read(self, timeout: float | None) -> None:
        """Take in what the server says next, if it says anything in this time."""
        assert self._process.stdout is not None
        stdout = self._process.stdout.fileno()
        if not select.select([stdout], [], [], timeout)[0]:
            return
        piece = os.read(stdout, 65536)
        assert piece, "the server of the forks has died"
        *lines, self._unread = (self._unread + piece).split(b"\n")
        for line in lines:
            word, *numbers = line.split()
            if word == b"started":
                self._last = int(numbers[0])
            else:
                self._codes[int(numbers[0])] = int(numbers[1])

    def close(self) -> None:
        """End the server. What still runs then is killed."""
        self._process.communicate()
        self._folder.cleanup()


class Fork:
    """One process; the part of subprocess.Popen that tests use."""

    def __init__(self, server: ForkServer, pid: int, out: Path, err: Path) -> None:
        self._server, self.pid, self._out, self._err = server, pid, out, err

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        return self._server.code(self.pid, 0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._server.code(self.pid, timeout)
        if code is None:
            raise subprocess.TimeoutExpired("guava-aug", timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it said, when it has ended."""
        self.wait(timeout)
        return self._out.read_text(encoding="utf-8"), self._err.read_text(encoding="utf-8")

    def stderr(self) -> str:
        """What it has said so far."""
        return self._err.read_text(encoding="utf-8")

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
