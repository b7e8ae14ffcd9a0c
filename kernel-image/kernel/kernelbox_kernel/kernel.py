"""The Python kernel: ipykernel's own, with in-memory history, output in pieces, and a few more messages.

It behaves as an ordinary ipykernel to code and to Jupyter clients. It runs in a child forked by a zygote or in an
interpreter of its own; `run` is the same for both.
"""

import asyncio
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ipykernel
import zmq
from ipykernel import kernelapp
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from traitlets.config import Config

from kernelbox_kernel import output, variables

OPTIONS = Config(
    {
        "HistoryManager": {"hist_file": ":memory:"},
        "IPKernelApp": {
            "kernel_class": "kernelbox_kernel.kernel.Kernel",
            "outstream_class": "kernelbox_kernel.output.OutStream",
            # "The parent is init": no thread that watches for the parent's death. PDEATHSIG sees to that.
            "parent_handle": 1,
        },
        # ipykernel sleeps half a millisecond after each cell, for clients that mix up the order of channels.
        "Kernel": {"_execute_sleep": 0},
        "Session": {"packer": "kernelbox_kernel.output.pack"},
    }
)


class Kernel(IPythonKernel):
    """An IPython kernel that takes Kernelbox's own messages and metadata too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.control_handlers["kernelbox_bind_request"] = self.bind_request
        self.control_handlers["kernelbox_variables_request"] = self.variables_request
        self._describer = variables.Describer()
        self._tasks: set[asyncio.Task[None]] = set()
        self._packages = os.environ.get("KERNELBOX_PACKAGES", "")
        self._packages_seen = 0

    def bind_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Take the environment of the session that this kernel now belongs to."""
        os.environ.update({str(name): str(value) for name, value in parent["content"].get("env", {}).items()})
        self.session.send(stream, "kernelbox_bind_reply", {"status": "ok"}, parent, ident=ident)

    def variables_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Describe the user's variables. The answer comes when it is ready: the channel serves others meanwhile."""
        content = parent["content"]
        names = variables.of_user(self.shell.user_ns, self.shell.user_ns_hidden)

        async def answer() -> None:
            found, incomplete = await self._describer.describe(
                names,
                limit=int(content.get("limit", 1000)),
                repr_limit=int(content.get("repr_limit", 200)),
                seconds=int(content.get("timeout_ms", 2000)) / 1000,
            )
            reply = {"status": "ok", "variables": found, "incomplete": incomplete}
            self.session.send(stream, "kernelbox_variables_reply", reply, parent, ident=ident)

        task = asyncio.get_running_loop().create_task(answer())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def do_execute(self, code: str, silent: bool, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Run a cell, in the folder and environment that its metadata asks for."""
        self._see_new_packages()
        settings = (options.get("cell_meta") or {}).get("kernelbox") or {}
        if not settings:
            return await super().do_execute(code, silent, *arguments, **options)
        try:
            with _place(settings.get("cwd"), settings.get("env") or {}):
                return await super().do_execute(code, silent, *arguments, **options)
        except _NoSuchPlace as error:
            cause = error.__cause__
            content = {"ename": type(cause).__name__, "evalue": str(cause), "traceback": [str(error)]}
            self.send_response(self.iopub_socket, "error", content, ident=self._topic("error"))
            count = self.shell.execution_count
            return {"status": "error", **content, "execution_count": count, "user_expressions": {}, "payload": []}

    def _see_new_packages(self) -> None:
        """Let imports see packages installed since the last cell, however coarse the file system's clock is."""
        try:
            changed = os.stat(self._packages).st_mtime_ns
        except OSError:
            return
        if changed != self._packages_seen:
            self._packages_seen = changed
            importlib.invalidate_caches()


class _NoSuchPlace(Exception):
    """The folder that a cell is to run in cannot be entered; the cause says why."""


@contextmanager
def _place(folder: str | None, environment: dict[str, str]) -> Iterator[None]:
    """Change folder and environment, and back."""
    before = {name: os.environ.get(name) for name in environment}
    try:
        home = os.getcwd()
    except OSError:
        home = None  # the folder was deleted
    try:
        if folder:
            os.chdir(folder)
    except OSError as error:
        raise _NoSuchPlace(f"cannot run in {folder}: {error.strerror}") from error
    os.environ.update(environment)
    try:
        yield
    finally:
        if folder and home is not None:
            with suppress(OSError):  # the code deleted it
                os.chdir(home)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class App(IPKernelApp):
    """Starts the kernel."""

    def init_iopub(self, context: Any) -> None:
        # There is no setting for it: this is the name by which it is made.
        kernelapp.IOPubThread = output.IOPubThread
        super().init_iopub(context)

    def _bind_socket(self, s: Any, port: int) -> int:
        # The publisher never drops what the supervisor has not taken yet. This has to be said before it is bound.
        if s.type == zmq.XPUB:
            s.sndhwm = 0
        return super()._bind_socket(s, port)


def run(connection_file: str) -> None:
    """Be the kernel of a connection file until it is shut down."""
    os.environ.pop("JPY_PARENT_PID", None)
    packages = os.environ.get("KERNELBOX_PACKAGES")
    if packages and packages not in sys.path:
        os.makedirs(packages, mode=0o700, exist_ok=True)
        sys.path.append(packages)
    # As it is where Jupyter starts a kernel.
    launcher = os.path.join(os.path.dirname(os.path.dirname(ipykernel.__file__)), "ipykernel_launcher.py")
    sys.argv[:] = [launcher, "-f", connection_file]
    app = App.instance(config=OPTIONS, connection_file=connection_file)
    app.initialize(sys.argv[1:])
    app.start()
