"""The scripted model without latency, and asking it directly."""

import http.client
import json
import subprocess
import time

from support.server import ROOT

TIMEOUT_SECONDS = 60


class Model:
    """tests/src/bin/model-server.rs as a process. It ends with its standard input, and so with this process."""

    def __init__(self, profile: str):
        program = ROOT / "target" / profile / "model-server"
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.url = self.process.stdout.readline().strip()
        self.base_url = f"{self.url}/v1"
        self.connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=TIMEOUT_SECONDS)

    def answering_seconds(self) -> float:
        """How long it has been answering so far."""
        self.process.stdin.write("\n")
        return int(self.process.stdout.readline()) / 1e9

    def first_text(self, message: str) -> float:
        """Seconds from a question to the first text of its answer; all of it is read, and the connection kept."""
        body = {"model": "scripted", "stream": True, "messages": [{"role": "user", "content": message}]}
        start = time.perf_counter()
        first = None
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        for line in self.connection.getresponse():
            if first is None and line.startswith(b"data: {"):
                choices = json.loads(line.removeprefix(b"data: "))["choices"]
                if choices and choices[0]["delta"].get("content"):
                    first = time.perf_counter()
        if first is None:
            raise RuntimeError("the model said nothing")
        return first - start

    def close(self) -> None:
        self.connection.close()
        self.process.stdin.close()
        self.process.wait(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
