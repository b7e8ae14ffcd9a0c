"""Turns of the agent beside codeinterpreterapi's, in turn in one run, and what the gateway itself costs.

The model is scripted and has no latency.

python tests/bench/turns.py [--rounds 5] [--turns 10] [--calls 300] [--at-once 200] [--profile release] [--output FILE]
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import memory
from bench import percentile
from model import Model
from support.client import Client
from support.server import ROOT, Server

PEER = ROOT / ".tools" / "codeinterpreterapi" / "bin"
# LocalBox tries no other.
PEER_PORT = 8888
QUESTION = "What is 17*23?"
CODE = "print(17*23)"
CHAT = "Tell me about rainbows."
# Then another session is taken, as what the model is told grows with every turn.
TURNS_OF_A_SESSION = 20
OPENED_AT_ONCE = 8


class CodeInterpreter:
    """codeinterpreterapi with its LocalBox, in a process of its own. One session at a time: LocalBox has one kernel."""

    name = "codeinterpreterapi"

    def __init__(self, model: Model):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", PEER_PORT)) == 0:
                raise RuntimeError(f"port {PEER_PORT} is taken, and {self.name} tries no other")
        self.folder = tempfile.mkdtemp(prefix="kbt-peer-")
        env = {key: value for key, value in os.environ.items() if key in ("LANG", "TZ", "TERM")}
        env |= {"HOME": self.folder, "PATH": f"{PEER}:{os.environ['PATH']}", "SHOW_INFO": "False"}
        env |= {"OPENAI_API_KEY": "none", "OPENAI_API_BASE": model.base_url, "OPENAI_BASE_URL": model.base_url}
        command = ["setpriv", "--pdeathsig=TERM", PEER / "python", pathlib.Path(__file__).with_name("peer.py")]
        self.log = pathlib.Path(self.folder, "log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                cwd=self.folder, env=env, text=True, bufsize=1,
            )  # fmt: skip

    def call(self, command: str) -> dict:
        self.process.stdin.write(command + "\n")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended:\n{self.log.read_text()}")
        return json.loads(line)

    def open(self) -> float:
        return self.call("start")["seconds"]

    def turn(self) -> float:
        said = self.call("turn")
        if (said["answer"], [code for code, _ in said["code_log"]]) != ("391", [CODE]):
            raise RuntimeError(f"{self.name} answers {said}")
        return said["seconds"]

    def memory(self) -> float:
        return memory.mebibytes(self.process.pid)

    def shut(self) -> None:
        self.call("stop")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)
        shutil.rmtree(self.folder)


class Kernelbox:
    name = "kernelbox"

    def __init__(self, client: Client):
        self.client = client

    def open(self) -> float:
        start = time.perf_counter()
        self.session = self.client.create_session(start=True)
        return time.perf_counter() - start

    def turn(self) -> float:
        return turn(self.client, self.session)

    def shut(self) -> None:
        self.client.delete_session(self.session)


def turn(client: Client, session: str) -> float:
    """Asks the question; seconds until the answer."""
    start = time.perf_counter()
    for event in client.start_turn(session, QUESTION):
        if (event.completed.answer, list(event.completed.code_log)) == ("391", [CODE]):
            return time.perf_counter() - start
    raise RuntimeError(f"the turn ended with {event}")


class TurnClient:
    """tests/src/bin/turn-client.rs as a process: of Python's time nothing is in what it measures."""

    def __init__(self, server: Server, profile: str):
        program = ROOT / "target" / profile / "turn-client"
        self.process = subprocess.Popen(
            [program, server.endpoint, server.key],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def ask(self, session: str, question: str) -> dict:
        self.process.stdin.write(f"{session} {question}\n")
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(10)


def beside(sides, rounds: int, turns: int) -> tuple[dict, dict]:
    """Seconds to open sessions, and of turns in them."""
    opened = {side.name: [] for side in sides}
    taken = {side.name: [] for side in sides}
    for number in range(-1, rounds):
        # What is made once, at the first session and its first turn, is no part of either.
        counts = number >= 0
        for side in sides if number % 2 else reversed(sides):
            seconds = side.open()
            opened[side.name] += [seconds] * counts
        for index in range(-1, turns):
            for side in sides if index % 2 else reversed(sides):
                seconds = side.turn()
                taken[side.name] += [seconds] * (counts and index >= 0)
        for side in sides:
            side.shut()
    return opened, taken


@contextlib.contextmanager
def session(client: Client):
    name = client.create_session(start=True)
    try:
        yield name
    finally:
        client.delete_session(name)


def added(client: Client, asker: TurnClient, model: Model, calls: int) -> list[float]:
    """Of each turn, the seconds that neither the model nor the kernel had."""
    seconds = []
    while len(seconds) < calls:
        with session(client) as name:
            for _ in range(min(TURNS_OF_A_SESSION, calls - len(seconds))):
                before = model.answering_seconds()
                told = asker.ask(name, QUESTION)
                if told["answer"] != "391":
                    raise RuntimeError(f"the answer is {told['answer']}")
                seconds.append(told["whole"] - told["kernel"] - (model.answering_seconds() - before))
    return seconds


def first_texts(client: Client, asker: TurnClient, model: Model, calls: int) -> tuple[list[float], list[float]]:
    """Seconds from a question to the first text of its answer: through the gateway, and of the model itself."""
    through, direct = [], []
    while len(through) < calls:
        with session(client) as name:
            for _ in range(min(TURNS_OF_A_SESSION, calls - len(through))):
                through.append(asker.ask(name, CHAT)["first_text"])
                direct.append(model.first_text(CHAT))
    return through, direct


def at_once(client: Client, server: Server, count: int) -> list[str]:
    """Sessions with a kernel each, then a turn in all of them at once."""
    barrier = threading.Barrier(count)
    begun = threading.Event()

    def ask(name: str) -> float | Exception:
        barrier.wait()
        begun.set()
        try:
            return turn(client, name)
        except Exception as error:
            return error

    alone = memory.mebibytes(server.process.pid)
    start = time.perf_counter()
    with ThreadPoolExecutor(OPENED_AT_ONCE) as pool:
        names = list(pool.map(lambda _: client.create_session(start=True), range(count)))
    opened = time.perf_counter() - start
    with ThreadPoolExecutor(count) as pool:
        asked = pool.map(ask, names)
        begun.wait()
        start = time.perf_counter()
        answers = list(asked)
    whole = time.perf_counter() - start
    used = memory.mebibytes(server.process.pid)
    with ThreadPoolExecutor(OPENED_AT_ONCE) as pool:
        list(pool.map(client.delete_session, names))
    failed = [answer for answer in answers if isinstance(answer, Exception)]
    for error in failed[:3]:
        print(error, file=sys.stderr)
    taken = [answer for answer in answers if not isinstance(answer, Exception)] or [0.0]
    return [
        f"| {count} sessions opened, {OPENED_AT_ONCE} at a time | {opened:.1f} s |",
        f"| {count} turns at once: failed | {len(failed)} |",
        f"| {count} turns at once: all answered after | {whole:.2f} s |",
        f"| {count} turns at once: p50, p99 | {statistics.median(taken):.2f} s, {percentile(taken, 99):.2f} s |",
        f"| memory of the server without a session | {alone:.0f} MiB |",
        f"| memory of the server with {count} open sessions, for each | {used / count:.1f} MiB |",
    ]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def compared(what: str, taken: dict) -> str:
    theirs, ours = statistics.median(taken[CodeInterpreter.name]), statistics.median(taken[Kernelbox.name])
    return f"| {what} | {milliseconds(theirs)} | {milliseconds(ours)} | {theirs / ours:.1f} |"


def spread(what: str, seconds: list[float]) -> str:
    return f"| {what} | {milliseconds(statistics.median(seconds))} | {milliseconds(percentile(seconds, 99))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="new sessions of each side")
    parser.add_argument("--turns", type=int, default=10, help="turns in each of them")
    parser.add_argument("--calls", type=int, default=300, help="turns of which the gateway's part is taken")
    parser.add_argument("--at-once", type=int, default=200, help="sessions, and turns at once")
    parser.add_argument("--profile", default="release", choices=["debug", "release"])
    parser.add_argument("--output", type=pathlib.Path, help="write the tables there, too")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(Model(arguments.profile))
        flags = [f"--model-url={model.base_url}", "--model=scripted", f"--max-sandboxes={arguments.at_once + 50}"]
        server = stack.enter_context(Server(*flags, profile=arguments.profile))
        client = stack.enter_context(contextlib.closing(Client(server)))
        peer = stack.enter_context(contextlib.closing(CodeInterpreter(model)))
        opened, taken = beside([peer, Kernelbox(client)], arguments.rounds, arguments.turns)
        asker = stack.enter_context(contextlib.closing(TurnClient(server, arguments.profile)))
        gateway = added(client, asker, model, arguments.calls)
        through, direct = first_texts(client, asker, model, arguments.calls)
        crowd = at_once(client, server, arguments.at_once)
    tables = [
        "| | codeinterpreterapi | kernelbox | times faster |",
        "| --- | --- | --- | --- |",
        compared(f"a turn of two model calls and `{CODE}` (median)", taken),
        compared("a session until it can run code (median)", opened),
        "",
        "| | p50 | p99 |",
        "| --- | --- | --- |",
        spread("added to a turn by the gateway (model's and kernel's time taken out)", gateway),
        spread("first text of an answer, through the gateway", through),
        spread("first text of an answer, from the model itself", direct),
        "",
        "| | |",
        "| --- | --- |",
        *crowd,
    ]
    print("\n".join(tables))
    if arguments.output:
        arguments.output.write_text("\n".join(tables) + "\n")


if __name__ == "__main__":
    main()
