"""A client generated in Python does real work: a file in, code, a file out."""

import hashlib

import grpc
import pytest
from support.client import execution_pb2, file_pb2, session_pb2

CSV = b"name,amount\nada,3\nbob,4\n"


def kinds(events) -> list[str]:
    return [event.WhichOneof("kind") for event in events]


def test_a_file_goes_in_is_worked_on_and_comes_out(client, session):
    written = client.upload(session, "in/data.csv", CSV, sha256=hashlib.sha256(CSV).hexdigest())
    assert (written.path, written.size, written.type) == ("in/data.csv", len(CSV), file_pb2.FILE_TYPE_FILE)

    code = """
import pandas as pd
frame = pd.read_csv("in/data.csv")
frame.assign(double=frame.amount * 2).to_csv("out.csv", index=False)
print(frame.amount.sum())
"""
    events = list(client.execute(session, code))

    assert "".join(event.stdout.text for event in events) == "7\n"
    assert events[-1].finished.status == execution_pb2.EXECUTION_STATUS_OK
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    made = {event.artifact.path: event.artifact for event in events if event.WhichOneof("kind") == "artifact"}
    whole = client.download(session, "out.csv")
    assert whole == b"name,amount,double\nada,3,6\nbob,4,8\n"
    assert made["out.csv"].sha256 == hashlib.sha256(whole).hexdigest()
    assert made["out.csv"].change == execution_pb2.ARTIFACT_CHANGE_CREATED


def test_variables_last_from_one_call_to_the_next(client, session):
    list(client.execute(session, "x = 41"))
    events = list(client.execute(session, "x + 1"))
    (result,) = [event.result for event in events if event.WhichOneof("kind") == "result"]
    assert [part.text for part in result.bundle.parts if part.media_type == "text/plain"] == ["42"]


def test_an_exception_is_an_event_and_not_a_failed_call(client, session):
    events = list(client.execute(session, "1 / 0"))
    assert "error" in kinds(events)
    assert events[-1].finished.status == execution_pb2.EXECUTION_STATUS_ERROR


def test_a_session_that_is_not_there_is_not_found(client):
    request = session_pb2.GetSessionRequest(name="sessions/never-made")
    with pytest.raises(grpc.RpcError) as refused:
        client.sessions.GetSession(request, metadata=client.metadata)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
