"""Runs other programs: their output goes to a log, they end with this one, and they hold its lock meanwhile."""

import os
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .place import Place, Problem

#: How often `tick` is called while a program runs, seconds.
TICK = 0.5
#: How long a program may take to end when asked to, seconds.
GRACE = 5.0


class Stopped(Exception):
    """The user has stopped it all."""


class Runner:
    """Runs programs for one Place. May be used from several threads at once."""

    def __init__(self, place: Place) -> None:
        self.place = place
        #: Once set, what runs is ended and nothing new begins.
        self.stopped = threading.Event()

    def check(self) -> None:
        if self.stopped.is_set():
            raise Stopped

    def run(
        self,
        what: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        line: Callable[[str], None] = lambda _: None,
        tick: Callable[[], None] = lambda: None,
        limit: float,
    ) -> None:
        """Runs it to its end. `line` gets each line of its output; `tick` is called twice a second from another thread.

        Raises Problem if it fails or takes more than `limit` seconds.
        """
        self.check()
        tail: deque[str] = deque(maxlen=6)
        try:
            child = subprocess.Popen(
                argv,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=[self.place.lock_fd] if self.place.lock_fd >= 0 else [],
            )
        except OSError as error:
            raise Problem(f"{what}: cannot run {argv[0]}: {error.strerror}") from error
        over, late = threading.Event(), threading.Event()
        try:
            ticker = threading.Thread(target=self._watch, args=(child, over, late, tick, limit), daemon=True)
            ticker.start()
            with child, self.place.log.open("a", encoding="utf-8") as log:
                log.write(f"\n$ {' '.join(map(str, argv))}\n")
                assert child.stdout is not None
                for text in child.stdout:
                    log.write(text)
                    tail.append(text.rstrip())
                    line(text)
        finally:
            over.set()
        self.check()
        if late.is_set():
            raise Problem(f"{what} was not done within {limit / 60:.0f} minutes; {self.place.log} says how far it came")
        if child.returncode != 0:
            last = "\n  ".join(it for it in tail if it)
            raise Problem(
                f"{what} failed (exit code {child.returncode}); {self.place.log} has it all. Its last words:\n  {last}"
            )

    def _watch(
        self,
        child: subprocess.Popen[str],
        over: threading.Event,
        late: threading.Event,
        tick: Callable[[], None],
        limit: float,
    ) -> None:
        until = time.monotonic() + limit
        while not over.wait(TICK):
            tick()
            if time.monotonic() > until:
                late.set()
            if late.is_set() or self.stopped.is_set():
                child.terminate()
                if not over.wait(GRACE):
                    child.kill()
                return
