"""The folder that everything is put into, and its manifest, which `kernelbox up` looks for.

The manifest is written last: where there is one, what it names is whole.
"""

import fcntl
import json
import os
import shutil
from pathlib import Path

from .models import Model


class Problem(Exception):
    """Why it cannot be done, and what would help: told to the user as it is."""


class Place:
    """One such folder. Its paths, its lock, its manifest."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest = root / "manifest.json"
        self.template = root / "chat-template.jinja"
        self.server = root / "bin" / "llama-server"
        #: What the server in `bin` was built from.
        self.built_from = root / "bin" / "built-from"
        self.log = root / "get.log"
        #: All that is needed only until the work is done.
        self.work = root / "work"
        self.lock_fd = -1

    def weights(self, model: Model) -> Path:
        return self.root / model.file

    def pieces(self, model: Model) -> Path:
        """The folder of a download that is not whole yet."""
        return self.work / model.name

    def lock(self) -> None:
        """Held until this process and all that it started have ended, whatever ends them."""
        try:
            # The folder above is that of all of Kernelbox's data, which is for this user alone.
            self.root.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.root.mkdir(exist_ok=True, mode=0o700)
            self.lock_fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Problem(
                f"{self.root} cannot be written: {error.strerror}. Choose another folder with --dir"
            ) from error
        try:
            fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Problem(f"another get is at work in {self.root}: wait until it is done") from error

    def release(self) -> None:
        os.close(self.lock_fd)
        self.lock_fd = -1

    def need_room(self, size: int) -> None:
        free = shutil.disk_usage(self.root).free
        if free < size:
            raise Problem(
                f"{self.root} has {free / 1e9:.1f} GB free, and {size / 1e9:.1f} GB are needed."
                " Make room, or choose another folder with --dir"
            )

    def read_manifest(self) -> dict | None:
        try:
            manifest = json.loads(self.manifest.read_bytes())
        except (OSError, ValueError):
            return None
        return manifest if isinstance(manifest, dict) else None

    def write_manifest(self, model: Model, server: Path, context_tokens: int) -> None:
        """Paths are relative to this folder where they lie in it, so that it can be moved."""

        def shown(path: Path) -> str:
            return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)

        manifest = {
            "version": 1,
            "name": model.name,
            "server": shown(server),
            "model": shown(self.weights(model)),
            "sha256": model.sha256,
            "chat_template": shown(self.template),
            "context_tokens": context_tokens,
        }
        replace(self.manifest, (json.dumps(manifest, indent=2) + "\n").encode())


def replace(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Writes a file so that there is always the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.chmod(mode)
    put(part, path)


def put(part: Path, path: Path) -> None:
    """Makes a whole file final, in one step that survives a power cut."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)


def default_root() -> Path:
    """Where `kernelbox` keeps its data, unless told otherwise."""
    base = os.environ.get("XDG_DATA_HOME", "")
    data = Path(base) if base.startswith("/") else Path.home() / ".local/share"
    return data / "kernelbox" / "local-model"
