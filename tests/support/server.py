"""A server of this checkout, with a data directory of its own, on a free port."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_SECONDS = 120


def program(profile: str = "debug") -> pathlib.Path:
    path = ROOT / "target" / profile / "kernelbox"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; build it with: cargo build --workspace --bins")
    return path


class Server:
    def __init__(self, *flags: str, profile: str = "debug"):
        # Short, as paths of Unix sockets are limited.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="kbt-", dir="/tmp"))
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"
        python = os.environ.get("KERNELBOX_TEST_PYTHON", sys.executable)
        # It ends with this process, however that ends.
        command = [
            "setpriv",
            "--pdeathsig=TERM",
            program(profile),
            "serve",
            "--listen=127.0.0.1:0",
            f"--data-dir={self.data}",
            f"--python={python}",
        ]
        # ipykernel leaves the descriptors alone when it sees that it is part of a pytest run.
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "KERNELBOX_"))}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, f"--run-dir={self.folder / 'run'}", f"--uv={ROOT / '.tools/bin/uv'}", *flags],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
            )  # fmt: skip
        said = self.wait()
        self.endpoint: str = said["endpoint"]
        self.address = self.endpoint.removeprefix("http://")
        self.key = (self.data / "key").read_text().strip()

    def wait(self) -> dict:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                return json.loads((self.data / "server.json").read_text())
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.log.read_text()}")
            time.sleep(0.02)
        self.stop()
        raise TimeoutError(f"no server after {START_SECONDS} s:\n{self.log.read_text()}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
