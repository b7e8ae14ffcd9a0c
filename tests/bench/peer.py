"""A session of codeinterpreterapi, for turns.py: run by the interpreter of .tools/codeinterpreterapi, never imported.

Reads a command a line (start, turn, stop) and answers each with a line of JSON. Ends with its input.
"""

import json
import os
import subprocess
import sys
import time

from codeinterpreterapi import CodeInterpreterSession

QUESTION = "What is 17*23?"


class Loopback(subprocess.Popen):
    """LocalBox lets its Jupyter gateway listen on all addresses of the machine, with no password. Not here."""

    def __init__(self, command, *args, **kwargs):
        super().__init__([str(word).replace("0.0.0.0", "127.0.0.1") for word in command], *args, **kwargs)


class Peer:
    def __init__(self):
        self.session = None

    def start(self) -> dict:
        begin = time.perf_counter()
        self.session = CodeInterpreterSession()
        status = self.session.start()
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "status": str(status)}

    def turn(self) -> dict:
        begin = time.perf_counter()
        response = self.session.generate_response(QUESTION)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "answer": response.content, "code_log": response.code_log}

    def stop(self) -> dict:
        if self.session is not None:
            self.session.stop()
            self.session = None
        return {}


def main() -> None:
    # What the libraries print is not for the other side.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    subprocess.Popen = Loopback
    peer = Peer()
    try:
        for line in sys.stdin:
            answers.write(json.dumps(getattr(peer, line.strip())()) + "\n")
            answers.flush()
    finally:
        peer.stop()


if __name__ == "__main__":
    main()
