"""One JSON object a line over a stream socket, without ever blocking."""

import json
import socket
from collections.abc import Iterator
from typing import Any

from kernelbox_kernel.process import log

LINE_LIMIT = 4 * 1024 * 1024


class Connection:
    """A peer that sends and takes messages. Whoever owns it waits until it is readable, or writable while `waiting`."""

    def __init__(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        self.socket = peer
        self._incoming = bytearray()
        self._outgoing = bytearray()

    def fill(self) -> bool:
        """Take what has arrived; false when the peer is gone or speaks something else."""
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._incoming += data
        return bool(data) and (b"\n" in data or len(self._incoming) <= LINE_LIMIT)

    def messages(self) -> Iterator[dict[str, Any]]:
        """The whole messages that have arrived. A line that is not a JSON object is skipped."""
        while (end := self._incoming.find(b"\n")) >= 0:
            line = bytes(self._incoming[:end])
            del self._incoming[: end + 1]
            try:
                message = json.loads(line)
                if not isinstance(message, dict):
                    raise ValueError("not an object")
            except (ValueError, RecursionError) as error:
                log(f"skipped a line that is no message: {error}")
                continue
            yield message

    def send(self, message: dict[str, Any]) -> None:
        """Send a message, now or as soon as the peer takes it."""
        self._outgoing += json.dumps(message).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Send on. A peer that is gone takes nothing more; reading says so."""
        try:
            while self._outgoing:
                del self._outgoing[: self.socket.send(self._outgoing)]
        except BlockingIOError:
            pass
        except OSError:
            self._outgoing.clear()

    @property
    def begun(self) -> bool:
        """A whole message has arrived."""
        return b"\n" in self._incoming

    @property
    def waiting(self) -> bool:
        """Something is still to be sent."""
        return bool(self._outgoing)
