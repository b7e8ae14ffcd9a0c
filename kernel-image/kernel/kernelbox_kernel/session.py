"""The session zygote: it forks a session's kernels, runs its programs, reaps all processes and ends with them."""

import os
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from kernelbox_kernel import process, warmup
from kernelbox_kernel.loop import Loop
from kernelbox_kernel.process import log
from kernelbox_kernel.wire import Connection

SCAN_SECONDS = 3.0

Job = Callable[[], None]


class Scanner:
    """A forked process that finds missing imports: parsing hostile code may take long or crash."""

    def __init__(self, peer: socket.socket, pid: int) -> None:
        self.connection = Connection(peer)
        self.pid = pid
        self.request: dict[str, Any] | None = None
        self.deadline = 0.0

    def ask(self, request: dict[str, Any]) -> None:
        """Send a request; its answer is due from now on."""
        self.request = request
        self.deadline = time.monotonic() + SCAN_SECONDS
        self.connection.send(request)

    def seconds_left(self) -> float | None:
        """Until the answer is late; None while none is due."""
        return None if self.request is None else max(0.0, self.deadline - time.monotonic())


class Session(Loop):
    """A session zygote: all processes of one session are below it, and end with it."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.environment: dict[str, str] | None = None
        # Pids that the supervisor knows of.
        self.started: set[int] = set()
        self.scanner: Scanner | None = None
        self.scans: deque[dict[str, Any]] = deque()
        # Set in a forked child only: what it is to do.
        self.job: Job | None = None
        self.selector.register(connection.socket, selectors.EVENT_READ)

    def run(self) -> Job | None:
        """Do what the supervisor asks until the end, then None; in a forked child, its job."""
        self.handle_arrived()  # the first messages may have come with the connection
        while self.job is None and not self.ending:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.connection.waiting else 0)
            self.selector.modify(self.connection.socket, wanted)
            ready = self.wait(self.scanner.seconds_left() if self.scanner else None)
            if self.connection.socket in ready:
                self.connection.flush()
                self.ending = self.ending or not self.connection.fill()
            self.report_exits()
            self.collect_scan(ready)
            self.handle_arrived()
        if self.job is None:
            process.kill_descendants()
        return self.job

    def handle_arrived(self) -> None:
        """Do the requests that are here, in order."""
        for message in self.connection.messages():
            if self.job is not None or self.ending:
                return
            self.handle(message)

    def handle(self, message: dict[str, Any]) -> None:
        """Do one request. Whatever is wrong with it must not end the session."""
        try:
            match message.get("op"):
                case "begin" if self.environment is None:
                    self.begin(message)
                case "fork" if self.environment is not None:
                    self.fork_kernel(message)
                case "exec" if self.environment is not None:
                    self.execute(message)
                case "signal":
                    self.send_signal(int(message["pid"]), int(message["signal"]), bool(message.get("group")))
                case "scan" if self.environment is not None:
                    self.scans.append(message)
                    self.next_scan()
                case "end":
                    self.ending = True
                case other:
                    log(f"refused {other!r}")
        except Exception as error:
            log(f"{message.get('op')!r} failed: {type(error).__name__}: {error}")
            text = f"{type(error).__name__}: {error}"
            self.connection.send({"event": "failed", "id": message.get("id", 0), "error": text})

    def begin(self, message: dict[str, Any]) -> None:
        """Become the zygote of a session: its environment, folder and log."""
        process.redirect(message["log"], 1, 2)
        process.null_input()
        if os.getpid() != os.getsid(0):
            os.setsid()
        environment = {str(name): str(value) for name, value in message["env"].items()}
        environment[process.SANDBOX_VARIABLE] = str(message["sandbox"])
        environment["KERNELBOX_PACKAGES"] = packages = str(message["packages"])
        state = environment.get("KERNELBOX_STATE_DIR") or os.path.dirname(message["log"])
        environment.setdefault("HOME", os.path.join(state, "home"))
        environment.setdefault("MPLCONFIGDIR", os.path.join(environment["HOME"], ".config", "matplotlib"))
        environment.setdefault("IPYTHONDIR", os.path.join(environment["HOME"], ".ipython"))
        for folder in (environment["HOME"], environment["MPLCONFIGDIR"], environment["IPYTHONDIR"], packages):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        os.environ.clear()
        process.show_environment(str(message["sandbox"]))
        os.environ.update(environment)
        os.chdir(message["cwd"])
        sys.path.append(packages)
        warmup.forget_places()
        self.environment = environment
        self.connection.send({"event": "ready", "pid": os.getpid()})

    def fork_kernel(self, message: dict[str, Any]) -> None:
        """Fork a kernel from this interpreter."""
        from kernelbox_kernel import kernel

        connection_file, folder = str(message["connection_file"]), message.get("cwd")
        extra = {str(name): str(value) for name, value in message.get("env", {}).items()}
        parent = os.getpid()
        pid = self.fork()
        if pid:
            self.announce(message, pid)
            return

        def job() -> None:
            process.become_worker(parent)
            os.environ.update(extra)
            if folder:
                os.chdir(folder)
            warmup.make_own()
            kernel.run(connection_file)

        self.job = job

    def announce(self, message: dict[str, Any], pid: int) -> None:
        """Say that a process has started."""
        self.started.add(pid)
        self.connection.send({"event": "started", "id": message["id"], "pid": pid})

    def execute(self, message: dict[str, Any]) -> None:
        """Fork and execute a program. Its setup reports failure through a socket that a successful exec closes."""
        parent = os.getpid()
        reader, writer = socket.socketpair()
        with reader:
            with writer:
                pid = self.fork(keep=writer)
                if pid == 0:
                    self.become_program(parent, message, writer)
            error = reader.recv(4096)
        if error:
            os.waitpid(pid, 0)
            raise OSError(error.decode(errors="replace"))
        self.announce(message, pid)

    def become_program(self, parent: int, message: dict[str, Any], failure: socket.socket) -> None:
        """In the forked child: never returns."""
        try:
            process.become_worker(parent)
            process.default_signals()
            if message.get("cwd"):
                os.chdir(message["cwd"])
            for descriptor, name in ((1, "stdout"), (2, "stderr")):
                if message.get(name):
                    process.redirect(message[name], descriptor)
            arguments = message["argv"]
            os.execvpe(arguments[0], arguments, {**self.environment, **message.get("env", {})})
        except BaseException as error:
            failure.send(f"{type(error).__name__}: {error}".encode(errors="replace")[:4096])
        finally:
            os._exit(127)

    def send_signal(self, pid: int, number: int, group: bool) -> None:
        """Signal a process that was started for the supervisor, or its whole group."""
        if pid not in self.started:
            return
        if group:
            try:
                os.killpg(pid, number)
                return
            except ProcessLookupError:
                pass  # it has not yet made its group
        process.kill(pid, number)

    def report_exits(self) -> None:
        """Reap, and tell of those that the supervisor knows."""
        for pid, status in process.reap():
            if pid in self.started:
                self.started.discard(pid)
                self.connection.send({"event": "exited", "pid": pid, "status": status})

    def next_scan(self) -> None:
        """Give the scanner its next request, and make one if there is none."""
        if not self.scans or (self.scanner is not None and self.scanner.request is not None):
            return
        if self.scanner is None:
            parent = os.getpid()
            ours, theirs = socket.socketpair()
            pid = self.fork(keep=theirs)
            if pid == 0:
                ours.detach()  # closed by the fork
                self.job = lambda: self.become_scanner(parent, theirs)
                return
            theirs.close()
            self.scanner = Scanner(ours, pid)
            self.selector.register(ours, selectors.EVENT_READ)
        self.scanner.ask(self.scans.popleft())

    def become_scanner(self, parent: int, peer: socket.socket) -> None:
        """In the forked child: answer scans until the zygote goes."""
        from kernelbox_kernel import imports

        process.become_worker(parent)
        peer.setblocking(True)
        with peer.makefile("rwb") as stream:
            for line in stream:
                stream.write(imports.answer(line) + b"\n")
                stream.flush()

    def collect_scan(self, ready: list[Any]) -> None:
        """Pass the scanner's answer on, or say that there will be none and end it."""
        scanner = self.scanner
        if scanner is None:
            return
        alive, answer = True, None
        if scanner.connection.socket in ready:
            scanner.connection.flush()
            alive = scanner.connection.fill()
            answer = next(scanner.connection.messages(), None)
        if answer is None and (not alive or scanner.seconds_left() == 0.0):
            reason = "the scan took too long" if alive else "the scanner crashed"
            answer = {"missing": [], "unknown": [], "error": reason}
            self.selector.unregister(scanner.connection.socket)
            scanner.connection.socket.close()
            process.kill(scanner.pid)
            self.scanner = None
        if answer is not None and scanner.request is not None:
            self.connection.send({"event": "scanned", "id": scanner.request["id"], **answer})
            scanner.request = None
            self.next_scan()
