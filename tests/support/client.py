"""The generated client with a key."""

import uuid

import grpc
from kernelbox.v1 import (
    code_pb2,
    code_pb2_grpc,
    execution_pb2,
    file_pb2,
    file_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
    turn_pb2,
    turn_pb2_grpc,
)

from support.server import Server

__all__ = ["Client", "code_pb2", "execution_pb2", "file_pb2", "session_pb2", "turn_pb2"]

CHUNK = 256 * 1024


class Client:
    def __init__(self, server: Server):
        self.channel = grpc.insecure_channel(server.address)
        self.metadata = [("authorization", f"Bearer {server.key}")]
        self.sessions = session_pb2_grpc.SessionServiceStub(self.channel)
        self.code = code_pb2_grpc.CodeServiceStub(self.channel)
        self.files = file_pb2_grpc.FileServiceStub(self.channel)
        self.turns = turn_pb2_grpc.TurnServiceStub(self.channel)

    def close(self) -> None:
        self.channel.close()

    def create_session(self, start: bool = False, **settings) -> str:
        request = session_pb2.CreateSessionRequest(session=session_pb2.Session(**settings), start=start)
        return self.sessions.CreateSession(request, metadata=self.metadata, timeout=120).name

    def delete_session(self, name: str) -> None:
        self.sessions.DeleteSession(session_pb2.DeleteSessionRequest(name=name), metadata=self.metadata, timeout=60)

    def execute(self, session: str, code: str, timeout: float = 120, **fields):
        """The events of an execution, as they come."""
        request = code_pb2.ExecuteRequest(session=session, code=code, request_id=str(uuid.uuid4()), **fields)
        return self.code.Execute(request, metadata=self.metadata, timeout=timeout)

    def start_turn(self, session: str, message: str, timeout: float = 120, **fields):
        """The events of a turn, as they come."""
        request = turn_pb2.StartTurnRequest(session=session, message=message, request_id=str(uuid.uuid4()), **fields)
        return self.turns.StartTurn(request, metadata=self.metadata, timeout=timeout)

    def send_input(self, execution: str, question: str, value: str) -> None:
        request = code_pb2.SendInputRequest(name=execution, input=question, value=value)
        self.code.SendInput(request, metadata=self.metadata, timeout=30)

    def interrupt(self, execution: str) -> None:
        self.code.Interrupt(code_pb2.InterruptRequest(name=execution), metadata=self.metadata, timeout=30)

    def watch(self, session: str):
        return self.sessions.WatchSession(session_pb2.WatchSessionRequest(name=session), metadata=self.metadata)

    def upload(self, session: str, path: str, content: bytes, **fields):
        def parts():
            header = file_pb2.UploadHeader(session=session, path=path, **fields)
            yield file_pb2.UploadRequest(header=header)
            for start in range(0, len(content), CHUNK):
                yield file_pb2.UploadRequest(chunk=content[start : start + CHUNK])

        return self.files.Upload(parts(), metadata=self.metadata, timeout=60)

    def download(self, session: str, path: str, **fields) -> bytes:
        request = file_pb2.DownloadRequest(session=session, path=path, **fields)
        return b"".join(part.chunk for part in self.files.Download(request, metadata=self.metadata, timeout=60))
