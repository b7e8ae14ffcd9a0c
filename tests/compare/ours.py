"""Runs cells through the server, with the generated client."""

import json
import threading
import time

import grpc
from cells import Cell
from google.protobuf import json_format
from outputs import Normaliser, Output, binary, canonical
from support.client import Client, execution_pb2

LIMIT_SECONDS = 60
SETTLE_SECONDS = 1.0


class Kernelbox:
    """One session; its outputs are kept by the cell that made them, also when they come late."""

    def __init__(self, client: Client):
        self.client = client
        self.session = client.create_session(start=True)
        self.outputs: dict[str, list[Output]] = {}
        folder = "".join(
            event.stdout.text for event in client.execute(self.session, "!pwd -P", context="helper")
        ).strip()
        self.normaliser = Normaliser(folder)
        self.late = client.watch(self.session)
        self.listener = threading.Thread(target=self.listen)
        self.listener.start()

    def close(self) -> None:
        self.late.cancel()
        self.listener.join()
        self.client.delete_session(self.session)

    def run(self, cells: list[Cell]) -> dict[str, list[Output]]:
        names = {cell.id: self.cell(cell) for cell in cells}
        time.sleep(SETTLE_SECONDS)
        return {cell: self.normaliser.cell(self.outputs[name]) for cell, name in names.items()}

    def cell(self, cell: Cell) -> str:
        answers = list(cell.answers or ())
        interrupted = not cell.interrupt
        outputs: list[Output] = []
        name = f"{cell.id} did not start"
        try:
            for event in self.client.execute(
                self.session,
                cell.code,
                timeout=LIMIT_SECONDS,
                allow_input=cell.answers is not None,
                auto_install="AUTO_INSTALL_OFF",
            ):
                name = event.execution
                self.outputs.setdefault(name, outputs)
                if output := self.to_output(event):
                    outputs.append(output)
                asked = event.WhichOneof("kind") == "input_requested"
                if asked and interrupted:
                    self.client.send_input(name, event.input_requested.input, answers.pop(0))
                elif not interrupted and (asked or (outputs and cell.answers is None)):
                    self.client.interrupt(name)
                    interrupted = True
        except grpc.RpcError as error:
            # A difference like any other; the cells after it are compared all the same.
            outputs.append(("failed", error.code().name, error.details()))
            self.outputs.setdefault(name, outputs)
        if cell.settle:
            time.sleep(SETTLE_SECONDS)
        return name

    def listen(self) -> None:
        try:
            for event in self.late:
                late = event.late_output
                kind = late.WhichOneof("output") if event.WhichOneof("kind") == "late_output" else None
                if kind in ("stdout", "stderr"):
                    self.outputs.setdefault(late.execution, []).append((kind, getattr(late, kind).text))
                elif kind == "display":
                    self.outputs.setdefault(late.execution, []).append(("display", *self.bundle(late.display)))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                raise

    def to_output(self, event) -> Output | None:
        match event.WhichOneof("kind"):
            case ("stdout" | "stderr") as stream:
                return (stream, getattr(event, stream).text)
            case "display":
                return ("display", *self.bundle(event.display))
            case "result":
                return ("result", *self.bundle(event.result.bundle), event.result.execution_count)
            case "display_update":
                return ("update", *self.bundle(event.display_update.bundle))
            case "clear_output":
                return ("clear", event.clear_output.wait)
            case "error":
                return ("error", event.error.name, event.error.value, list(event.error.traceback))
            case "input_requested":
                return ("input", event.input_requested.prompt, event.input_requested.password)
            case ("truncated" | "kernel_died") as kind:
                return (kind, str(getattr(event, kind)))
            case "finished" if event.finished.status not in (
                execution_pb2.EXECUTION_STATUS_OK,
                execution_pb2.EXECUTION_STATUS_ERROR,
                execution_pb2.EXECUTION_STATUS_INTERRUPTED,
            ):
                return ("finished", str(event.finished))
            case _:
                return None

    def bundle(self, bundle) -> tuple:
        parts = {part.media_type: self.content(part) for part in bundle.parts}
        return parts, json_format.MessageToDict(bundle.metadata), bundle.display_id

    def content(self, part) -> str:
        match part.WhichOneof("content"):
            case "text":
                return part.text
            case "data":
                return binary(part.data)
            case "json":
                return canonical(json.loads(part.json))
            case "artifact":
                whole = self.client.download(self.session, part.artifact.path)
                textual = part.media_type.startswith("text/") or part.media_type == "image/svg+xml"
                return whole.decode() if textual else binary(whole)
            case _:
                return ""
