"""What the tests share: a real host zygote, sessions on its socket, and Jupyter clients of the kernels forked there."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client import BlockingKernelClient

FOLDER = Path(__file__).resolve().parent.parent
ENTRY = FOLDER / "kernelbox_kernel" / "__main__.py"
WARM_UP = "numpy,pandas,matplotlib.pyplot"
TIMEOUT = 60.0

sys.path.insert(0, str(FOLDER))


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition, and fail by name if it never comes."""
    deadline = time.monotonic() + TIMEOUT
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.01)
    return answer


def alive(pid: int) -> bool:
    """A process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] != b"Z"


class Client:
    """A Jupyter client of a kernel that keeps what it sends."""

    def __init__(self, connection_file: Path) -> None:
        self.jupyter = BlockingKernelClient()
        self.jupyter.load_connection_file(str(connection_file))
        self.jupyter.start_channels(hb=False)  # on a busy machine a late beat would be taken for death
        self.jupyter.wait_for_ready(timeout=TIMEOUT)

    def run(self, code: str, metadata: dict[str, Any] | None = None, answers: tuple[str, ...] = ()) -> "Outputs":
        """Run a cell to its end; input requests get the answers in turn."""
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": bool(answers),
            "stop_on_error": False,
        }
        message = self.jupyter.session.msg("execute_request", content, metadata=metadata)
        self.jupyter.shell_channel.send(message)
        replies = iter(answers)
        outputs = Outputs(message["header"]["msg_id"])
        while not outputs.idle:
            if answers and self.jupyter.stdin_channel.msg_ready():
                outputs.prompts.append(self.jupyter.get_stdin_msg(timeout=TIMEOUT)["content"])
                self.jupyter.input(next(replies))
            try:
                outputs.take(self.jupyter.get_iopub_msg(timeout=0.1 if answers else TIMEOUT))
            except Exception:
                if not answers:
                    raise
        while (reply := self.jupyter.get_shell_msg(timeout=TIMEOUT))["parent_header"]["msg_id"] != outputs.request:
            pass
        outputs.reply = reply["content"]
        return outputs

    def start(self, code: str) -> str:
        """Start a cell and do not wait for it; the id of its request."""
        return self.jupyter.execute(code, stop_on_error=False)

    def value(self, expression: str) -> Any:
        """Evaluate an expression whose value is JSON."""
        outputs = self.run(f"import json as _json; print(_json.dumps({expression}))")
        assert outputs.error is None, outputs.error
        return json.loads(outputs.stdout)

    def control(self, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        """Ask on the control channel; the reply's content."""
        message = self.jupyter.session.msg(kind, content)
        self.jupyter.control_channel.send(message)
        while True:
            reply = self.jupyter.get_control_msg(timeout=TIMEOUT)
            if reply["parent_header"]["msg_id"] == message["header"]["msg_id"]:
                return reply["content"]

    def close(self) -> None:
        """Disconnect."""
        self.jupyter.stop_channels()


class Outputs:
    """What a cell sent."""

    def __init__(self, request: str) -> None:
        self.request = request
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, Any]] = []
        self.prompts: list[dict[str, Any]] = []
        self.reply: dict[str, Any] = {}
        self.idle = False

    def take(self, message: dict[str, Any]) -> None:
        """Keep a message if it belongs to the cell."""
        if message["parent_header"].get("msg_id") != self.request:
            return
        self.messages.append((message["msg_type"], message["content"]))
        self.headers.append(message["header"])
        self.idle = message["msg_type"] == "status" and message["content"]["execution_state"] == "idle"

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The contents of all messages of a type."""
        return [content for found, content in self.messages if found == kind]

    def text(self, name: str) -> str:
        """All that was written to a stream."""
        return "".join(content["text"] for content in self.of("stream") if content["name"] == name)

    @property
    def stdout(self) -> str:
        """All that was printed."""
        return self.text("stdout")

    @property
    def error(self) -> str | None:
        """The error's name and value, if the cell raised."""
        return next((f"{content['ename']}: {content['evalue']}" for content in self.of("error")), None)


class Session:
    """A session zygote, driven over its socket as the supervisor does."""

    def __init__(self, peer: socket.socket, folder: Path, env: dict[str, str], name: str) -> None:
        self.peer = peer
        self.folder = folder
        self.workspace = folder / "ws"
        self.packages = folder / "packages"
        self.log = folder / "log"
        self.workspace.mkdir()
        self.clients: list[Client] = []
        self.exits: dict[int, int] = {}
        self._buffer = b""
        self._ids = 0
        self.say(
            op="begin", sandbox=name, env=env, cwd=str(self.workspace), packages=str(self.packages), log=str(self.log)
        )
        self.pid = self.hear("ready")["pid"]

    def say(self, **message: Any) -> None:
        """Send a request."""
        self.peer.sendall(json.dumps(message).encode() + b"\n")

    def hear(self, *kinds: str) -> dict[str, Any]:
        """The next event of the kinds; exits are kept aside."""
        while True:
            event = self._next()
            if event["event"] == "exited":
                assert event["pid"] not in self.exits, "an exit was told twice"
                self.exits[event["pid"]] = event["status"]
            if event["event"] in kinds:
                return event

    def _next(self) -> dict[str, Any]:
        self.peer.settimeout(TIMEOUT)
        while b"\n" not in self._buffer:
            data = self.peer.recv(1 << 20)
            assert data, "the session zygote is gone: " + self.log.read_text()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def execute(self, *argv: str, **options: Any) -> int:
        """Start a program; its pid."""
        self._ids += 1
        self.say(op="exec", id=self._ids, argv=list(argv), env=options.pop("env", {}), cwd=None, **options)
        return self._started()

    def status(self, pid: int) -> int:
        """Wait for a process's end; its raw wait status."""
        while pid not in self.exits:
            self.hear("exited")
        return self.exits[pid]

    def connection(self) -> Path:
        """Write a connection file."""
        self._ids += 1
        prefix = self.folder / f"k{self._ids}"
        ports = {
            f"{name}_port": port for port, name in enumerate(["shell", "stdin", "control", "iopub", "hb"], start=1)
        }
        description = {
            "transport": "ipc",
            "ip": str(prefix),
            "key": "a key",
            "signature_scheme": "hmac-sha256",
            **ports,
        }
        path = prefix.with_suffix(".json")
        path.write_text(json.dumps(description))
        return path

    def fork(self, connection_file: Path, **options: Any) -> int:
        """Fork a kernel; its pid."""
        self._ids += 1
        self.say(op="fork", id=self._ids, connection_file=str(connection_file), env=options.pop("env", {}), cwd=None)
        return self._started()

    def _started(self) -> int:
        while (event := self.hear("started", "failed"))["id"] != self._ids:
            pass
        assert event["event"] == "started", event
        return event["pid"]

    def kernel(self, **options: Any) -> tuple[int, Client]:
        """Fork a kernel and connect to it."""
        connection_file = self.connection()
        pid = self.fork(connection_file, **options)
        return pid, self._connect(connection_file)

    def fresh_kernel(self) -> tuple[int, Client]:
        """Start a kernel in an interpreter of its own and connect to it."""
        connection_file = self.connection()
        pid = self.execute(sys.executable, str(ENTRY), "kernel", str(connection_file))
        return pid, self._connect(connection_file)

    def _connect(self, connection_file: Path) -> Client:
        wait_until(lambda: Path(f"{connection_file.with_suffix('')}-5").exists(), "the kernel's sockets")
        client = Client(connection_file)
        self.clients.append(client)
        return client

    def close(self) -> None:
        """End the session as a dying supervisor does, and wait until it has ended."""
        for client in self.clients:
            client.close()
        self.peer.close()
        wait_until(lambda: not alive(self.pid), "the end of the session zygote")


class Host:
    """A host zygote."""

    def __init__(self, warm_up: str = WARM_UP, env: dict[str, str] | None = None, prefix: tuple[str, ...] = ()) -> None:
        # Not pytest's folder: the paths of ipc sockets must be short.
        self.folder = Path(tempfile.mkdtemp(prefix="kb"))
        self.path = self.folder / "zygote.sock"
        self.sessions: list[Session] = []
        environment = {**os.environ, "KERNELBOX_STATE_DIR": str(self.folder), **(env or {})}
        command = [*prefix, sys.executable, str(ENTRY), "host", str(self.path), warm_up]
        with open(self.folder / "host.log", "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
        wait_until(lambda: "ready" in self.log or self.process.poll() is not None, "the host zygote")

    @property
    def log(self) -> str:
        """What it has logged."""
        return (self.folder / "host.log").read_text()

    def session(self, env: dict[str, str] | None = None) -> Session:
        """Begin a session."""
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(str(self.path))
        folder = self.folder / f"s{len(self.sessions)}"
        folder.mkdir()
        base = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        session = Session(peer, folder, {**base, **(env or {})}, f"sandbox-{len(self.sessions)}")
        self.sessions.append(session)
        return session

    def end(self) -> None:
        """Close its standard input and wait for its end."""
        self.process.stdin.close()
        assert self.process.wait(TIMEOUT) == 0

    def close(self) -> None:
        """End whatever is left."""
        for session in self.sessions:
            session.close()
        if self.process.poll() is None:
            self.end()
        shutil.rmtree(self.folder)
