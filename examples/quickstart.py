"""Kernelbox from Python over gRPC: open a session, upload a file, run code on it, download what it made.

Run it from the repository's root, with a server that runs (`kernelbox up`):

    python3 -m venv /tmp/quickstart && . /tmp/quickstart/bin/activate
    pip install grpcio grpcio-tools
    mkdir -p /tmp/quickstart/generated
    python -m grpc_tools.protoc -I proto --python_out=/tmp/quickstart/generated \
        --grpc_python_out=/tmp/quickstart/generated proto/kernelbox/v1/*.proto
    export PYTHONPATH=/tmp/quickstart/generated
    export KERNELBOX_API_KEY=$(cat ~/.local/share/kernelbox/key)
    python examples/quickstart.py
"""

import os
import sys

import grpc
from kernelbox.v1 import code_pb2, code_pb2_grpc, file_pb2, file_pb2_grpc, session_pb2, session_pb2_grpc

CODE = """
import pandas as pd
rides = pd.read_csv("rides.csv")
rides.describe().to_csv("summary.csv")
print(len(rides), "days")
rides[["member_rides", "casual_rides"]].mean().round()
"""


def upload(session: str, path: str, name: str):
    """The messages of an upload: the header, then chunks."""
    yield file_pb2.UploadRequest(header=file_pb2.UploadHeader(session=session, path=name))
    with open(path, "rb") as file:
        while chunk := file.read(256 * 1024):
            yield file_pb2.UploadRequest(chunk=chunk)


def main() -> None:
    channel = grpc.insecure_channel(os.environ.get("KERNELBOX_ENDPOINT", "127.0.0.1:7070").removeprefix("http://"))
    key = [("authorization", f"Bearer {os.environ['KERNELBOX_API_KEY']}")]
    sessions = session_pb2_grpc.SessionServiceStub(channel)
    code = code_pb2_grpc.CodeServiceStub(channel)
    files = file_pb2_grpc.FileServiceStub(channel)

    session = sessions.CreateSession(session_pb2.CreateSessionRequest(), metadata=key).name
    print("opened", session)
    try:
        files.Upload(upload(session, "examples/bike-rentals.csv", "rides.csv"), metadata=key)
        for event in code.Execute(code_pb2.ExecuteRequest(session=session, code=CODE), metadata=key):
            match event.WhichOneof("kind"):
                case "stdout":
                    sys.stdout.write(event.stdout.text)
                case "result":
                    texts = [part.text for part in event.result.bundle.parts if part.media_type == "text/plain"]
                    print(*texts)
                case "error":
                    print(f"{event.error.name}: {event.error.value}", file=sys.stderr)
                case "artifact":
                    print("made", event.artifact.path)
        download = file_pb2.DownloadRequest(session=session, path="summary.csv")
        summary = b"".join(part.chunk for part in files.Download(download, metadata=key))
        print(summary.decode())
    finally:
        sessions.DeleteSession(session_pb2.DeleteSessionRequest(name=session), metadata=key)


if __name__ == "__main__":
    main()
