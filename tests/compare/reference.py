"""Runs cells with jupyter_client on an ordinary ipykernel."""

import os
import queue
import sys
import time

from cells import Cell
from jupyter_client.manager import KernelManager
from outputs import Normaliser, Output, canonical, is_binary

LIMIT_SECONDS = 60
SETTLE_SECONDS = 1.0


class Reference:
    """One kernel; its outputs are kept by the cell that made them, also when they come late."""

    def __init__(self, folder: str):
        self.manager = KernelManager()
        # ipykernel leaves the descriptors alone when it sees that it is part of a pytest run.
        env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
        self.manager.kernel_spec.argv[:] = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        self.manager.start_kernel(cwd=folder, env=env)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=LIMIT_SECONDS)
        self.outputs: dict[str, list[Output]] = {}
        self.normaliser = Normaliser(os.path.realpath(folder))

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def run(self, cells: list[Cell]) -> dict[str, list[Output]]:
        ids = {cell.id: self.cell(cell) for cell in cells}
        self.listen(SETTLE_SECONDS)
        return {cell: self.normaliser.cell(self.outputs[message]) for cell, message in ids.items()}

    def cell(self, cell: Cell) -> str:
        message = self.client.execute(cell.code, allow_stdin=cell.answers is not None, stop_on_error=False)
        outputs = self.outputs.setdefault(message, [])
        answers = list(cell.answers or ())
        interrupted, idle, reply = not cell.interrupt, False, None
        deadline = time.monotonic() + LIMIT_SECONDS
        while not (idle and reply):
            assert time.monotonic() < deadline, f"{cell.id} did not end in jupyter_client"
            idle = self.iopub(message, 0.02) or idle
            asked = self.take(self.client.stdin_channel, message)
            if asked:
                content = asked["content"]
                outputs.append(("input", content["prompt"], content["password"]))
                if not interrupted:
                    self.manager.interrupt_kernel()
                    interrupted = True
                else:
                    self.client.input(answers.pop(0))
            if not interrupted and cell.answers is None and outputs:
                self.manager.interrupt_kernel()
                interrupted = True
            reply = reply or self.take(self.client.shell_channel, message)
        for payload in reply["content"].get("payload", []):
            # What a front end shows beside the messages: help, and the text of %load.
            if payload["source"] == "page":
                outputs.append(("display", *bundle({"data": payload["data"], "metadata": {}})))
            elif payload["source"] == "set_next_input":
                outputs.append(("display", {"text/plain": payload["text"]}, {}, ""))
        if cell.settle:
            self.listen(SETTLE_SECONDS)
        return message

    def listen(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.iopub("", 0.05)

    @staticmethod
    def take(channel, message: str):
        """The next message on the channel that answers `message`, if it is there."""
        while True:
            try:
                got = channel.get_msg(timeout=0)
            except queue.Empty:
                return None
            if got["parent_header"].get("msg_id") == message:
                return got

    def iopub(self, message: str, timeout: float) -> bool:
        """Takes all that is there; says whether the execution `message` has become idle."""
        idle = False
        while True:
            try:
                got = self.client.iopub_channel.get_msg(timeout=0 if idle else timeout)
            except queue.Empty:
                return idle
            parent = got["parent_header"].get("msg_id", "")
            if got["msg_type"] == "status":
                idle = idle or (parent == message and got["content"]["execution_state"] == "idle")
            elif (output := to_output(got)) and parent in self.outputs:
                self.outputs[parent].append(output)
            if idle:
                timeout = 0


def to_output(message) -> Output | None:
    content = message["content"]
    match message["msg_type"]:
        case "stream":
            return (content["name"], content["text"])
        case "display_data":
            return ("display", *bundle(content))
        case "execute_result":
            return ("result", *bundle(content), content["execution_count"])
        case "update_display_data":
            return ("update", *bundle(content))
        case "clear_output":
            return ("clear", content["wait"])
        case "error":
            return ("error", content["ename"], content["evalue"], content["traceback"])
        case _:
            return None


def bundle(content) -> tuple:
    parts = {}
    for media_type, value in content["data"].items():
        if not isinstance(value, str) or media_type == "application/json" or media_type.endswith("+json"):
            parts[media_type] = canonical(value)
        elif is_binary(media_type):
            parts[media_type] = "base64:" + value.replace("\n", "")
        else:
            parts[media_type] = value
    return parts, content["metadata"], content.get("transient", {}).get("display_id", "")
