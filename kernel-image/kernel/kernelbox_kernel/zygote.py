"""The zygotes: single-threaded processes that have imported much and fork children that need it at once.

The host zygote forks a session zygote for every session. Neither runs a line of user code: that happens in children,
which return from `run`.
"""

import os
import selectors
import socket

from kernelbox_kernel import process, warmup
from kernelbox_kernel.loop import Loop
from kernelbox_kernel.process import log
from kernelbox_kernel.session import Session
from kernelbox_kernel.wire import Connection


def run_host(path: str, warm_up: str) -> None:
    """Serve sessions on a Unix socket until standard input ends."""
    host = Host(path)
    warmup.load(warm_up.split(",") if warm_up else [])
    connection = host.run()
    if connection is not None:
        serve_session(connection)


def run_session(descriptor: int, warm_up: str) -> None:
    """Serve the one session whose supervisor holds the other end of an inherited socket."""
    peer = socket.socket(fileno=descriptor)
    peer.set_inheritable(False)
    warmup.load(warm_up.split(",") if warm_up else [])
    serve_session(Connection(peer))


def serve_session(connection: Connection) -> None:
    """Be a session zygote; in a child forked by it, do the child's work."""
    job = Session(connection).run()
    if job is not None:
        job()


class Host(Loop):
    """The host zygote."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.sessions: set[int] = set()
        self.connections: dict[socket.socket, Connection] = {}
        if os.path.exists(path):
            os.unlink(path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        os.chmod(path, 0o600)
        # Before the warm-up: whoever connects during it waits, rather than tries again.
        self.listener.listen(128)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(0, selectors.EVENT_READ)

    def run(self) -> Connection | None:
        """Fork sessions until standard input ends, then None; in a forked session zygote, its connection."""
        log("ready")
        while not self.ending:
            for source in self.wait():
                if source == 0:
                    self.ending = self.ending or not os.read(0, 65536)
                elif source is self.listener:
                    self.accept()
                elif connection := self.start(self.connections[source]):
                    return connection
            if ended := process.reap():
                self.sessions.difference_update(pid for pid, _ in ended)
                self.end_orphans()
        os.unlink(self.path)
        process.kill_descendants()
        return None

    def accept(self) -> None:
        """Take a connection; its first line begins a session."""
        try:
            peer, _ = self.listener.accept()
        except OSError as error:
            log(f"could not accept a connection: {error}")
            return
        self.connections[peer] = Connection(peer)
        self.selector.register(peer, selectors.EVENT_READ)

    def start(self, connection: Connection) -> Connection | None:
        """Fork a session zygote for a connection that has said something. In the child: the connection."""
        alive = connection.fill()
        if alive and not connection.begun:
            return None
        peer = connection.socket
        self.selector.unregister(peer)
        del self.connections[peer]
        if connection.begun:
            try:
                pid = self.fork(keep=peer)
                if pid == 0:
                    return connection
                self.sessions.add(pid)
            except OSError as error:
                log(f"could not fork a session: {error}")
        peer.close()
        return None

    def end_orphans(self) -> None:
        """Kill what a session zygote left behind that was killed itself. What that leaves comes here in turn."""
        for pid in process.own_children():
            if pid not in self.sessions:
                process.kill(pid)
