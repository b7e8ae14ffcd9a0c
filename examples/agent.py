"""Kernelbox's agent from Python over gRPC: a session that is asked in words, with files in and out.

It is set up like examples/quickstart.py. Then, from the repository's root:

    python examples/agent.py "What is 17*23?"
    python examples/agent.py "Which column has the largest mean?" examples/bike-rentals.csv
"""

import json
import os
import pathlib
import sys
from collections.abc import Callable

import grpc
from google.protobuf import json_format
from kernelbox.v1 import file_pb2, file_pb2_grpc, session_pb2, session_pb2_grpc, turn_pb2, turn_pb2_grpc


class Agent:
    """A session. It lasts: the same id finds it again, from another process, too."""

    def __init__(self, session_id: str = "", tools: dict[Callable, dict] | None = None, **settings):
        """`tools` are functions of this program that the model may call, each with the JSON schema of its arguments."""
        channel = grpc.insecure_channel(os.environ.get("KERNELBOX_ENDPOINT", "127.0.0.1:7070").removeprefix("http://"))
        self.key = [("authorization", f"Bearer {os.environ['KERNELBOX_API_KEY']}")]
        self.sessions = session_pb2_grpc.SessionServiceStub(channel)
        self.turns = turn_pb2_grpc.TurnServiceStub(channel)
        self.files = file_pb2_grpc.FileServiceStub(channel)
        self.tools = {function.__name__: function for function in tools or {}}
        declared = [
            session_pb2.Tool(name=name, description=function.__doc__ or "", parameters=tools[function])
            for name, function in self.tools.items()
        ]
        if session_id:
            self.name = f"sessions/{session_id}"
        else:
            session = session_pb2.Session(tools=declared, **settings)
            self.name = self.sessions.CreateSession(
                session_pb2.CreateSessionRequest(session=session), metadata=self.key
            ).name

    @property
    def id(self) -> str:
        return self.name.removeprefix("sessions/")

    def ask(self, message: str, *paths: str) -> tuple[turn_pb2.TurnCompleted, list[bytes]]:
        """The answer with its files and its code, and the pictures that were shown."""
        names = [self.upload(path) for path in paths]
        request = turn_pb2.StartTurnRequest(session=self.name, message=message, attachments=names)
        pictures = []
        for event in self.turns.StartTurn(request, metadata=self.key):
            match event.WhichOneof("kind"):
                case "text":
                    print(event.text.text, end="", flush=True)
                case "code_proposed":
                    print(f"\n{event.code_proposed.code}\n")
                case "execution":
                    print(event.execution.stdout.text, end="")
                    parts = [*event.execution.display.parts, *event.execution.result.bundle.parts]
                    pictures += [part.data for part in parts if part.media_type == "image/png" and part.data]
                case "tool_call_requested":
                    self.answer(event.turn, event.tool_call_requested)
                case "completed":
                    return event.completed, pictures
                case "failed":
                    raise RuntimeError(event.failed.message)
        raise RuntimeError("the turn was cancelled")

    def answer(self, turn: str, call: turn_pb2.ToolCallRequested) -> None:
        """Calls the function that the model wants."""
        try:
            content, failed = json.dumps(self.tools[call.tool](**json_format.MessageToDict(call.arguments))), False
        except Exception as error:
            content, failed = str(error), True
        result = turn_pb2.SubmitToolResultRequest(name=turn, tool_call=call.tool_call, content=content, failed=failed)
        self.turns.SubmitToolResult(result, metadata=self.key)

    def upload(self, path: str) -> str:
        name = os.path.basename(path)

        def parts():
            header = file_pb2.UploadHeader(session=self.name, path=name, overwrite=True)
            yield file_pb2.UploadRequest(header=header)
            with open(path, "rb") as file:
                while chunk := file.read(256 * 1024):
                    yield file_pb2.UploadRequest(chunk=chunk)

        return self.files.Upload(parts(), metadata=self.key).path

    def download(self, path: str) -> bytes:
        request = file_pb2.DownloadRequest(session=self.name, path=path)
        return b"".join(part.chunk for part in self.files.Download(request, metadata=self.key))

    def stop(self) -> None:
        """Removes the session, its files and its memory. Without it they stay."""
        self.sessions.DeleteSession(session_pb2.DeleteSessionRequest(name=self.name), metadata=self.key)


def main() -> None:
    question, *paths = sys.argv[1:]
    agent = Agent()
    try:
        completed, pictures = agent.ask(question, *paths)
        print()
        for artifact in completed.artifacts:
            pathlib.Path(os.path.basename(artifact.path)).write_bytes(agent.download(artifact.path))
            print("saved", os.path.basename(artifact.path))
        for number, picture in enumerate(pictures, 1):
            pathlib.Path(f"picture-{number}.png").write_bytes(picture)
            print(f"saved picture-{number}.png")
    finally:
        agent.stop()


if __name__ == "__main__":
    main()
