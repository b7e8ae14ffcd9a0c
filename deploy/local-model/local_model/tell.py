"""Progress: one line that is rewritten on a terminal, and plain lines now and then elsewhere."""

import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

#: Between two lines of one job where there is no terminal, seconds.
BETWEEN_LINES = 10.0
#: Between two pictures of the line on a terminal, seconds.
BETWEEN_PICTURES = 0.2


class Teller:
    """What several jobs are doing. May be used from any thread."""

    def __init__(self, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out or sys.stderr
        self._terminal = self._out.isatty()
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[str, str] = {}
        self._told: dict[str, float] = {}
        self._drawn = 0.0

    def say(self, text: str) -> None:
        """A line that stays."""
        with self._lock:
            self._clear()
            self._write(f"{text}\n")

    def progress(self, job: str, text: str) -> None:
        """How far a job is; replaces what was said of it."""
        with self._lock:
            self._jobs[job] = text
            now = self._clock()
            if self._terminal:
                if now - self._drawn >= BETWEEN_PICTURES:
                    self._drawn = now
                    line = " | ".join(f"{name}: {what}" for name, what in self._jobs.items())
                    width = shutil.get_terminal_size().columns - 1
                    self._write(f"\r\x1b[K{line[:width]}")
            elif job not in self._told or now - self._told[job] >= BETWEEN_LINES:
                self._told[job] = now
                self._write(f"{job}: {text}\n")

    def done(self, job: str, text: str) -> None:
        """The job's last line."""
        with self._lock:
            self._jobs.pop(job, None)
            self._clear()
            self._write(f"{job}: {text}\n")

    def _clear(self) -> None:
        if self._terminal:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        # Nobody may be reading any more; the work goes on.
        try:
            self._out.write(text)
            self._out.flush()
        except OSError:
            pass


def megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
