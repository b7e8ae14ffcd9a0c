"""Kernelbox beside jupyter_client on an ordinary ipykernel, in turn in one run: both meet the same noise.

python tests/bench/bench.py [--rounds 10] [--calls 500] [--profile release] [--output FILE]
"""

import argparse
import math
import pathlib
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from jupyter_client.manager import KernelManager
from support.client import Client, execution_pb2
from support.server import Server

IMPORTS = "import numpy, pandas, matplotlib.pyplot as plt\nprint(pandas.Series([1, 2]).sum())"
STREAM = "print('first', flush=True)\nimport time\ntime.sleep(0.05)"
LIMIT_SECONDS = 120


class Jupyter:
    name = "jupyter_client"

    def open(self):
        manager = KernelManager()
        manager.kernel_spec.argv[:] = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        manager.start_kernel(cwd=tempfile.gettempdir())
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=LIMIT_SECONDS)
        return manager, client

    def run(self, session, code: str) -> float | None:
        """Runs code to its end; says when its first text arrived."""
        _, client = session
        message = client.execute(code)
        first, idle = None, False
        while not idle:
            got = client.get_iopub_msg(timeout=LIMIT_SECONDS)
            if got["parent_header"].get("msg_id") != message:
                continue
            if got["msg_type"] == "stream" and first is None:
                first = time.perf_counter()
            elif got["msg_type"] == "error":
                raise RuntimeError(got["content"]["evalue"])
            idle = got["msg_type"] == "status" and got["content"]["execution_state"] == "idle"
        while client.get_shell_msg(timeout=LIMIT_SECONDS)["parent_header"].get("msg_id") != message:
            pass
        return first

    def close(self, session) -> None:
        manager, client = session
        client.stop_channels()
        manager.shutdown_kernel(now=True)


class Kernelbox:
    name = "kernelbox"

    def __init__(self, client: Client):
        self.client = client

    def open(self):
        return self.client.create_session()

    def run(self, session, code: str) -> float | None:
        first = None
        for event in self.client.execute(session, code):
            kind = event.WhichOneof("kind")
            if kind == "stdout" and first is None:
                first = time.perf_counter()
            elif kind == "finished" and event.finished.status != execution_pb2.EXECUTION_STATUS_OK:
                raise RuntimeError(str(event.finished))
        return first

    def close(self, session) -> None:
        self.client.delete_session(session)


def milliseconds(since: float, until: float | None) -> float:
    if until is None:
        raise RuntimeError("nothing was printed")
    return (until - since) * 1000


def first_answers(sides, rounds: int) -> dict:
    """A new session to the first text of code that imports numpy, pandas and pyplot."""
    taken = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 else reversed(sides):
            start = time.perf_counter()
            session = side.open()
            taken[side.name].append(milliseconds(start, side.run(session, IMPORTS)))
            side.close(session)
    return taken


def calls(sides, count: int) -> tuple[dict, dict]:
    """Round trips of `1+1`, and the time to the first text of a stream, in sessions that are open."""
    trips = {side.name: [] for side in sides}
    texts = {side.name: [] for side in sides}
    sessions = {side.name: side.open() for side in sides}
    try:
        for number in range(-20, count):
            for side in sides if number % 2 else reversed(sides):
                start = time.perf_counter()
                side.run(sessions[side.name], "1+1")
                if number >= 0:
                    trips[side.name].append(milliseconds(start, time.perf_counter()))
        for number in range(max(10, count // 10)):
            for side in sides if number % 2 else reversed(sides):
                start = time.perf_counter()
                texts[side.name].append(milliseconds(start, side.run(sessions[side.name], STREAM)))
    finally:
        for side in sides:
            side.close(sessions[side.name])
    return trips, texts


def percentile(values: list[float], percent: float) -> float:
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def row(what: str, taken: dict, measure) -> str:
    theirs, ours = measure(taken[Jupyter.name]), measure(taken[Kernelbox.name])
    return f"| {what} | {theirs:.1f} ms | {ours:.1f} ms | {theirs / ours:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10, help="new sessions of each side")
    parser.add_argument("--calls", type=int, default=500, help="round trips of each side")
    parser.add_argument("--profile", default="release", choices=["debug", "release"])
    parser.add_argument("--output", type=pathlib.Path, help="write the table there, too")
    arguments = parser.parse_args()
    with Server(profile=arguments.profile) as server:
        client = Client(server)
        sides = [Jupyter(), Kernelbox(client)]
        # What is made once, at the first session, is no part of a session.
        for side in sides:
            session = side.open()
            side.run(session, IMPORTS)
            side.close(session)
        answers = first_answers(sides, arguments.rounds)
        trips, texts = calls(sides, arguments.calls)
        client.close()
    table = "\n".join(
        [
            "| | jupyter_client | kernelbox | times faster |",
            "| --- | --- | --- | --- |",
            row("first answer of a new session, with numpy, pandas and pyplot (median)", answers, statistics.median),
            row("`1+1`, p50", trips, statistics.median),
            row("`1+1`, p99", trips, lambda values: percentile(values, 99)),
            row("first text of a stream (median)", texts, statistics.median),
        ]
    )
    print(table)
    if arguments.output:
        arguments.output.write_text(table + "\n")


if __name__ == "__main__":
    main()
