"""The zygotes over their real socket: programs, exits, clean-up, and requests that are wrong."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from driver import ENTRY, Host, Session, alive, wait_until

# Starts a process that leaves its parent, process group and session behind, and writes its pid.
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        with open(sys.argv[1] + ".part", "w") as file:
            file.write(str(os.getpid()))
        os.rename(sys.argv[1] + ".part", sys.argv[1])
        time.sleep(1000)
    os._exit(0)
os.wait()
time.sleep(1000 if sys.argv[2] == "stay" else 0)
"""


def start_daemon(session: Session, then: str) -> int:
    path = session.folder / "daemon.pid"
    session.execute(sys.executable, "-c", DAEMON, str(path), then)
    wait_until(path.exists, "the daemon")
    pid = int(path.read_text())
    assert alive(pid)
    return pid


def test_a_program_runs_and_its_exit_is_told(session: Session) -> None:
    out, err = session.folder / "out", session.folder / "err"
    script = "echo to stdout; echo to stderr >&2; cat; echo $EXTRA $KERNELBOX_SANDBOX; pwd; exit 3"
    pid = session.execute("sh", "-c", script, env={"EXTRA": "more"}, stdout=str(out), stderr=str(err))
    assert os.waitstatus_to_exitcode(session.status(pid)) == 3
    name = f"sandbox-{session.folder.name[1:]}"
    assert out.read_text().splitlines() == ["to stdout", f"more {name}", str(session.workspace)]
    assert err.read_text() == "to stderr\n"


def test_a_program_that_cannot_start_is_told_and_harms_nothing(session: Session) -> None:
    session.say(op="exec", id=77, argv=["/nonexistent/program"], env={}, cwd=None)
    event = session.hear("failed")
    assert event["id"] == 77
    assert "FileNotFoundError" in event["error"]
    session.say(op="exec", id=78, argv=["true"], env={}, cwd="/nonexistent")
    assert session.hear("failed")["id"] == 78
    assert session.status(session.execute("true")) == 0


def test_programs_start_clean(session: Session) -> None:
    """Nothing open but the standard descriptors, no input, default signals, a process session of its own."""
    script = """
import json, os
print(json.dumps({
    "fds": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],
    "stdin": os.readlink("/proc/self/fd/0"),
    "leader": os.getpid() == os.getsid(0) == os.getpgrp(),
    "nice": os.nice(0), "oom": int(open("/proc/self/oom_score_adj").read()),
}))
"""
    out = session.folder / "out"
    # Python itself ignores two signals when it starts, so a shell looks first.
    shell = "grep -E '^Sig(Ign|Blk)' /proc/self/status >&2; exec \"$@\""
    err = session.folder / "err"
    pid = session.execute("sh", "-c", shell, "sh", sys.executable, "-c", script, stdout=str(out), stderr=str(err))
    assert session.status(pid) == 0
    found = json.loads(out.read_text())
    signals = dict(line.split(":\t") for line in err.read_text().splitlines())
    own = 0b11 << 31  # the C library's two, which it may leave ignored
    assert {name: int(value, 16) & ~own for name, value in signals.items()} == {"SigBlk": 0, "SigIgn": 0}
    assert found["fds"] == [0, 1, 2]
    assert found["stdin"] == "/dev/null"
    assert found["leader"]
    assert found["nice"] > os.nice(0)
    assert found["oom"] == int(Path("/proc/self/oom_score_adj").read_text()) + 500


def test_in_a_pod_too_a_program_is_the_first_to_go() -> None:
    """There all begins near the most that there is."""
    script = """
import os
from kernelbox_kernel import process
def score(value=None):
    with open("/proc/self/oom_score_adj", "w" if value else "r") as file:
        return file.write(value) if value else int(file.read())
score("990")
if os.fork() == 0:
    process.become_worker(os.getppid())
    print(score(), flush=True)
    os._exit(0)
os.wait()
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ENTRY.parents[1], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "1000\n"


def test_every_exit_is_told_once_and_no_zombie_stays(session: Session) -> None:
    for number in range(100):
        session.say(op="exec", id=1000 + number, argv=["true"], env={}, cwd=None)
    started = {session.hear("started")["pid"] for _ in range(100)}
    assert len(started) == 100
    assert {session.status(pid) for pid in started} == {0}
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)


def test_signals_reach_only_what_was_started(session: Session) -> None:
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        pid = session.execute("sleep", "1000")
        group = session.execute("sh", "-c", "sleep 1000 & wait")
        session.say(op="signal", pid=bystander.pid, signal=signal.SIGKILL, group=False)
        session.say(op="signal", pid=pid, signal=signal.SIGTERM, group=False)
        session.say(op="signal", pid=group, signal=signal.SIGKILL, group=True)
        assert os.WTERMSIG(session.status(pid)) == signal.SIGTERM
        assert os.WTERMSIG(session.status(group)) == signal.SIGKILL
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize(
    "line",
    [
        b"no json",
        b"[1, 2]",
        b"{}",
        b'{"op":"fork"}',
        b'{"op":"exec","id":5,"argv":[]}',
        b'{"op":"signal"}',
        b'{"op":7}',
        b"",
    ],
)
def test_a_wrong_request_harms_nothing(session: Session, line: bytes) -> None:
    session.peer.sendall(line + b"\n")
    assert session.status(session.execute("true")) == 0


def test_a_line_without_end_ends_the_session(session: Session) -> None:
    try:
        for _ in range(6):
            session.peer.sendall(b"x" * (1 << 20))
    except OSError:
        pass  # it hung up meanwhile
    wait_until(lambda: not alive(session.pid), "the end of the session zygote")


@pytest.mark.parametrize("how", ["end", "eof", "term"])
def test_an_ending_session_kills_all_of_its_processes(session: Session, how: str) -> None:
    daemon = start_daemon(session, "leave")
    kernel = session.fork(session.connection())
    stubborn = session.execute("sh", "-c", "trap '' TERM INT HUP; while :; do sleep 1000; done")
    if how == "end":
        session.say(op="end")
    elif how == "eof":
        session.peer.shutdown(socket.SHUT_WR)
    else:
        os.kill(session.pid, signal.SIGTERM)
    wait_until(lambda: not alive(session.pid), "the end of the session zygote")
    assert [pid for pid in (daemon, kernel, stubborn) if alive(pid)] == []


def test_a_killed_session_zygote_leaves_nothing(bare_host: Host) -> None:
    session, other = bare_host.session(), bare_host.session()
    daemon = start_daemon(session, "stay")
    kernel = session.fork(session.connection())
    os.kill(session.pid, signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in (daemon, kernel, session.pid)), "the orphans' end")
    assert other.status(other.execute("true")) == 0


@pytest.mark.parametrize("how", ["eof", "term"])
def test_an_ending_host_leaves_nothing(how: str) -> None:
    host = Host(warm_up="")
    sessions = [host.session(), host.session()]
    daemons = [start_daemon(session, "leave") for session in sessions]
    kernels = [session.fork(session.connection()) for session in sessions]
    if how == "eof":
        host.process.stdin.close()
    else:
        host.process.send_signal(signal.SIGTERM)
    assert host.process.wait(30) == 0
    pids = [*daemons, *kernels, *(session.pid for session in sessions)]
    assert [pid for pid in pids if alive(pid)] == []
    assert not host.path.exists()
    host.close()


def test_a_host_whose_parent_is_killed_leaves_nothing(short_folder: Path) -> None:
    """The parent holds the pipe and gets no chance to say goodbye."""
    script = """
import subprocess, sys, time
host = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
print(host.pid, flush=True)
time.sleep(1000)
"""
    path = short_folder / "zygote.sock"
    command = [sys.executable, "-c", script, sys.executable, str(ENTRY), "host", str(path), ""]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    host = int(parent.stdout.readline())
    wait_until(path.exists, "the host zygote")
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(str(path))
    session = Session(peer, short_folder, {"PATH": os.environ["PATH"]}, "orphan")
    daemon = start_daemon(session, "leave")
    kernel, _ = session.kernel()
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(alive(pid) for pid in (host, session.pid, daemon, kernel)), "everybody's end")
    session.close()
    parent.stdout.close()


def test_a_library_that_cannot_be_imported_is_logged_and_left_out() -> None:
    host = Host(warm_up="nonexistent_library,json")
    try:
        assert "nonexistent_library failed: ModuleNotFoundError" in host.log
        _, client = host.session().kernel()
        assert client.value("1 + 1") == 2
    finally:
        host.close()


def test_a_session_zygote_without_a_host(short_folder: Path) -> None:
    """As in a pod: the supervisor starts it with the socket as an inherited descriptor."""
    ours, theirs = socket.socketpair()
    (short_folder / "hub.py").write_text("import os\ncache = os.environ.get('HUB_CACHE')\n")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(short_folder), "HUB_CACHE": "/models"}
    command = [sys.executable, str(ENTRY), "session", str(theirs.fileno()), "hub"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=environment)
    theirs.close()
    session = Session(ours, short_folder, environment, "pod")
    assert session.pid == process.pid
    _, client = session.kernel()
    assert client.value("__import__('hub').cache") == "/models", "warm-up imports see the kernels' environment"
    shown = Path(f"/proc/{session.pid}/environ").read_bytes().rstrip(b"\0")
    assert shown == b"KERNELBOX_SANDBOX=pod"
    client.close()
    ours.close()
    assert process.wait(30) == 0


def test_zygotes_cannot_be_looked_into_and_kernels_can() -> None:
    """A supervisor that is not root reads the memory use of kernels, so those are dumpable; the zygotes are not."""
    # Root without its powers is as any user.
    powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.getuid() == 0 else ()
    host = Host(warm_up="", prefix=powerless)

    def look(pid: int) -> int:
        command = [*powerless, "cat", f"/proc/{pid}/smaps_rollup"]
        return subprocess.run(command, capture_output=True, check=False).returncode

    try:
        session = host.session()
        kernel, _ = session.kernel()
        assert [look(kernel), look(session.pid), look(host.process.pid)] == [0, 1, 1]
    finally:
        host.close()


def test_a_busy_session_hears_of_exits_at_once(session: Session) -> None:
    """A scan that takes its time holds nothing up."""
    session.say(op="scan", id=500, code="x = " + "(" * 5000, policy="known", workspace=str(session.workspace))
    began = time.monotonic()
    assert session.status(session.execute("true")) == 0
    assert time.monotonic() - began < 2
