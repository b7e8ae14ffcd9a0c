"""How a kernel sends what is printed: in pieces that every reader can take, and never more in memory than it must."""

import codecs
import fcntl
import json
import os
import re
import select
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ipykernel import iostream
from jupyter_client.jsonutil import json_default
from jupyter_client.session import json_packer

# A stream message holds at most this many bytes of text: characters, of which one can take four bytes.
MESSAGE_BYTES = 256 * 1024
# Beyond so many characters unsent, whoever prints waits until they are with the sending thread.
PENDING_CHARACTERS = 4 * 1024 * 1024
LOOK_SECONDS = 0.0005
_SURROGATES = re.compile("[\ud800-\udfff]")


def pack(message: Any) -> bytes:
    """Serialise a part of a message, always to valid UTF-8: text may hold lone surrogates (undecodable file names)."""
    try:
        text = json.dumps(message, default=json_default, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        text = json_packer(message).decode("utf-8", "replace")
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text).encode()


class IOPubThread(iostream.IOPubThread):
    """The sending thread."""

    def schedule(self, f: Callable[[], None]) -> None:
        """Do it in the sending thread, after all that it was given before.

        What that thread gives itself does not go through its pipe: it would wait for ever for itself once that is full.
        """
        if threading.current_thread() is self.thread:
            self._events.append(f)
            self.io_loop.add_callback(self._handle_event, [])
        else:
            super().schedule(f)


class OutStream(iostream.OutStream):
    """sys.stdout or sys.stderr of a kernel."""

    flush_interval = 0.1

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._pending = 0
        self._flushing = False
        self._looked = 0.0
        self._pipe_lock = threading.RLock()
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        super().__init__(*arguments, **options)

    def write(self, string: str) -> int:
        """Write, piece by piece if it is long, so that not everything is held twice."""
        # Looking is a system call, at which other threads get their turn: not for every write of many. No program that
        # was waited for took less time than this.
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._take_piped()
        if not isinstance(string, str) or len(string) <= PENDING_CHARACTERS:
            self._write_piece(string)
        else:
            for start in range(0, len(string), PENDING_CHARACTERS):
                self._write_piece(string[start : start + PENDING_CHARACTERS])
        return len(string)

    def flush(self) -> None:
        """Send what was written, by programs too: a cell's end must not overtake the output of what it ran."""
        self._take_piped()
        # Each cell flushes four times, mostly nothing, and each time would wait for the sending thread. Asked in this
        # order: text that has just left the buffer may not have been handed over yet.
        if self._buffers or self._flushing or not self._is_master_process():
            super().flush()

    def _flush(self) -> None:
        self._flushing = True
        try:
            super()._flush()
        finally:
            self._flushing = False

    def _write_piece(self, piece: str) -> None:
        super().write(piece)
        self._pending += len(piece)
        if self._pending > PENDING_CHARACTERS and self._is_master_process():
            self._pending = 0
            super().flush()

    def _flush_buffers(self) -> Iterator[tuple[dict[str, Any], str]]:
        self._pending = 0
        for parent, data in super()._flush_buffers():
            step = MESSAGE_BYTES if data.isascii() else MESSAGE_BYTES // 4
            for start in range(0, len(data), step):
                yield parent, data[start : start + step]

    def _watch_pipe_fd(self) -> None:
        """Take what programs and C code write to the descriptor itself, in a thread.

        Unlike ipykernel's own it does not cut characters in two, and does not copy everything to the kernel's log.
        """
        if self._fid is None:
            return
        poll = select.poll()
        poll.register(self._fid, select.POLLIN)
        try:
            # Hung up, without anything to read, is what it is once nobody can write any more.
            while poll.poll()[0][1] & select.POLLIN and self._should_watch:
                self._take_piped()
        except Exception:
            self._exc = sys.exc_info()

    def _take_piped(self) -> None:
        """Take what is in the pipe now. Whoever writes or flushes does so first, and so sees to the order."""
        if self._fid is None or not self._is_master_process():
            return
        self._looked = time.monotonic()
        with self._pipe_lock:
            waiting = bytearray(4)
            fcntl.ioctl(self._fid, termios.FIONREAD, waiting)
            if size := int.from_bytes(waiting, sys.byteorder):
                self._write_piece(self._decode(os.read(self._fid, size)))
