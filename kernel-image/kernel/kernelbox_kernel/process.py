"""What Linux offers for keeping a tree of processes: prctl, /proc, signals. Knows nothing of kernels or protocols."""

import contextlib
import ctypes
import os
import signal
import sys
import time

SANDBOX_VARIABLE = "KERNELBOX_SANDBOX"
# Room, in the environment that a zygote is started with, for the name of the sandbox that it becomes.
SANDBOX_PLACEHOLDER = "-" * 128

# How kernels and programs stand against the supervisor: less CPU, and first to go when memory runs out.
NICE = 5
OOM_SCORE = 500
MOST_OOM_SCORE = 1000
# How long an end waits for processes that will not die (in uninterruptible sleep, or another user's).
KILL_SECONDS = 10.0

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def log(text: str) -> None:
    """Write a line to standard error, which is the zygote's log."""
    print(f"kernelbox zygote {os.getpid()}: {text}", file=sys.stderr, flush=True)


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process."""
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _children() -> dict[int, list[int]]:
    """Who has which children, as /proc shows it; zombies too."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError):
            continue  # it ended while we looked
        children.setdefault(parent, []).append(int(name))
    return children


def own_children() -> list[int]:
    """Pids of this process's children, adopted ones too."""
    return _children().get(os.getpid(), [])


def descendants(root: int) -> list[int]:
    """Pids of all processes below `root`, parents before their children."""
    children = _children()
    found = list(children.get(root, ()))
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def reap() -> list[tuple[int, int]]:
    """Collect every child that has ended: (pid, raw wait status)."""
    ended = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, status))


def kill_descendants() -> bool:
    """Kill everything below this process and reap it; true when nothing is left.

    It needs to be a subreaper: what a killed process leaves behind comes to us and is found in the next round.
    """
    deadline = time.monotonic() + KILL_SECONDS
    while True:
        reap()
        found = descendants(os.getpid())
        if not found:
            return True
        if time.monotonic() > deadline:
            log(f"could not end processes {found}")
            return False
        for pid in found:
            kill(pid)
        time.sleep(0.002)


def _write(path: str, text: str) -> None:
    """Set a tunable of the kernel's that may be missing or not allowed."""
    with contextlib.suppress(OSError), open(path, "w") as file:
        file.write(text)


def become_worker(parent: int) -> None:
    """Set up a child forked to run code: in a process session of its own, gone when its zygote is, last in line."""
    os.setsid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the zygote went before it could take us along
    # Zygotes are not dumpable, so that code cannot read or trace them. Workers are: else a supervisor that is not root
    # could not read their memory use (PSS) in /proc, and they have nothing to hide from the code that they run.
    prctl(PR_SET_DUMPABLE, 1)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    # With autogroups, `nice` counts within a process session only: the group has one of its own.
    _write("/proc/self/autogroup", str(NICE))
    # From where it is: in a pod everything begins near the most.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj") as file:
        _write(file.name, str(min(int(file.read()) + OOM_SCORE, MOST_OOM_SCORE)))


def default_signals() -> None:
    """Give a program about to be executed the signal dispositions that programs expect."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):  # some are the C library's
            signal.signal(number, signal.SIG_DFL)


def redirect(path: str, *descriptors: int) -> None:
    """Make descriptors append to a file. O_NONBLOCK: somebody may have put a FIFO there, which would hang us."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    os.set_blocking(file, True)
    for descriptor in descriptors:
        os.dup2(file, descriptor)
    os.close(file)


def null_input() -> None:
    """Make standard input empty."""
    file = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(file, 0)
    os.close(file)


def show_environment(sandbox: str) -> None:
    """Make /proc/PID/environ, of this process and of all forked from it, say nothing but which sandbox it belongs to.

    It shows the memory in which the environment stood at exec, so that memory is overwritten. os.environ must be empty:
    the C library's pointers lead there.
    """
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[47]), int(fields[48])
    text = f"{SANDBOX_VARIABLE}={sandbox}".encode() + b"\0"
    if start and len(text) <= end - start:
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, text, len(text))
