"""What a fork copies that a kernel must not share: one test for each trap."""

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest
from driver import Client, Host, Session
from kernelbox_kernel import warmup


@pytest.fixture(scope="module")
def pair(shared_session: Session) -> list[tuple[int, Client]]:
    """Two kernels of one zygote."""
    return [shared_session.kernel(), shared_session.kernel()]


def test_two_kernels_draw_different_random_numbers(pair: list[tuple[int, Client]]) -> None:
    expression = "[__import__('random').random(), float(__import__('numpy').random.random())]"
    first, second = (client.value(expression) for _, client in pair)
    assert first[0] != second[0]
    assert first[1] != second[1]


def test_libraries_are_there_already(pair: list[tuple[int, Client]]) -> None:
    assert (
        pair[0][1].value("[name in __import__('sys').modules for name in ('numpy', 'pandas', 'matplotlib.pyplot')]")
        == [True] * 3
    )


def test_the_zygotes_have_one_thread(host: Host, shared_session: Session) -> None:
    for pid in (host.process.pid, shared_session.pid):
        assert len(os.listdir(f"/proc/{pid}/task")) == 1
    assert "threads after the warm-up" not in host.log


def test_linear_algebra_has_all_processors_again(shared_session: Session, pair: list[tuple[int, Client]]) -> None:
    count = """
import ctypes, numpy
[path] = {line.split(maxsplit=5)[5].strip() for line in open("/proc/self/maps") if "openblas" in line}
library = ctypes.CDLL(path)
names = [prefix + "openblas_get_num_threads" + suffix for prefix in ("scipy_", "") for suffix in ("64_", "")]
print(next(getattr(library, name) for name in names if hasattr(library, name))())
assert (numpy.ones((600, 600)) @ numpy.ones((600, 600)) == 600).all()
"""
    outputs = pair[0][1].run(count)
    assert outputs.error is None
    assert int(outputs.stdout) == len(os.sched_getaffinity(0))
    _, limited = shared_session.kernel(env={"OPENBLAS_NUM_THREADS": "1"})
    assert int(limited.run(count).stdout) == 1
    assert pair[0][1].value("[name for name in __import__('os').environ if name.endswith('_THREADS')]") == []


def test_the_environment_is_the_sessions_and_no_other(host: Host) -> None:
    session = host.session(env={"OF_THE_SESSION": "yes"})
    pid, client = session.kernel(env={"OF_THE_KERNEL": "yes"})
    environment = client.value("dict(__import__('os').environ)")
    assert environment["OF_THE_SESSION"] == environment["OF_THE_KERNEL"] == "yes"
    assert environment["KERNELBOX_SANDBOX"].startswith("sandbox-")
    assert "KERNELBOX_TEST_SECRET" not in environment
    assert not {"JPY_PARENT_PID", "KERNELBOX_STATE_DIR", "PYDEVD_DISABLE_FILE_VALIDATION"} & set(environment)
    # The C library's view, which programs started by the cell get.
    outputs = client.run("!env")
    assert "OF_THE_SESSION=yes" in outputs.stdout
    assert "KERNELBOX_TEST_SECRET" not in outputs.stdout
    for process in (pid, session.pid):
        shown = Path(f"/proc/{process}/environ").read_bytes().rstrip(b"\0")
        assert shown == f"KERNELBOX_SANDBOX={environment['KERNELBOX_SANDBOX']}".encode()


def test_the_host_was_executed_without_secrets(host: Host) -> None:
    shown = Path(f"/proc/{host.process.pid}/environ").read_bytes()
    assert b"KERNELBOX_TEST_SECRET" not in shown
    assert b"PATH=" in shown


def test_no_descriptor_of_a_zygote_is_open(shared_session: Session, pair: list[tuple[int, Client]]) -> None:
    def sockets(pid: int) -> set[str]:
        links = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        return {link for link in links if link.startswith(("socket:", "pipe:"))}

    assert sockets(shared_session.pid)
    for pid, _ in pair:
        assert not sockets(pid) & sockets(shared_session.pid)
    assert not sockets(pair[0][0]) & sockets(pair[1][0])


def test_standard_input_is_empty(pair: list[tuple[int, Client]]) -> None:
    assert pair[0][1].value("[__import__('os').readlink('/proc/self/fd/0'), __import__('os').read(0, 1).decode()]") == [
        "/dev/null",
        "",
    ]


def test_children_of_a_kernel_are_its_own(pair: list[tuple[int, Client]]) -> None:
    """SIGCHLD is as in any Python, and wait statuses are not taken by somebody else."""
    code = """
import signal, subprocess
codes = [subprocess.run(["sh", "-c", f"exit {n}"]).returncode for n in range(5)]
"""
    assert pair[0][1].run(code).error is None
    assert pair[0][1].value("[codes, signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL]") == [[0, 1, 2, 3, 4], True]
    assert pair[0][1].value("signal.getsignal(signal.SIGTERM) == signal.SIG_DFL")


def test_a_kernel_leads_its_process_session(pair: list[tuple[int, Client]]) -> None:
    for pid, _ in pair:
        assert os.getsid(pid) == os.getpgid(pid) == pid


def test_a_kernel_dies_with_its_zygote(pair: list[tuple[int, Client]]) -> None:
    code = """
import ctypes
number = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(number))
print(number.value)
"""
    assert int(pair[0][1].run(code).stdout) == 9


def test_a_kernel_stands_back(pair: list[tuple[int, Client]]) -> None:
    found = pair[0][1].value("[__import__('os').nice(0), open('/proc/self/oom_score_adj').read().strip()]")
    assert found[0] > os.nice(0)
    assert found[1] == "500"


def test_messaging_is_each_kernels_own(pair: list[tuple[int, Client]]) -> None:
    expression = "[get_ipython().kernel.session.session, get_ipython().kernel.ident, get_ipython().kernel.session.pid]"
    (first_pid, first), (second_pid, second) = ((pid, client.value(expression)) for pid, client in pair)
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert (first[2], second[2]) == (first_pid, second_pid)


def test_nobody_watches_for_the_parent(pair: list[tuple[int, Client]]) -> None:
    names = pair[0][1].value("[type(thread).__name__ for thread in __import__('threading').enumerate()]")
    assert not [name for name in names if "Poller" in name]


def test_homes_and_caches_are_the_sessions(host: Host) -> None:
    session = host.session(env={"TMPDIR": "/var/tmp", "TZ": "Asia/Tokyo"})
    _, client = session.kernel()
    code = """
import json, os, sys, tempfile, time, matplotlib
from matplotlib.texmanager import TexManager
from IPython.paths import get_ipython_dir
style = sys.modules["matplotlib.style"]
styles = getattr(style, "USER_LIBRARY_PATHS", None) or style.core.USER_LIBRARY_PATHS
places = [os.path.expanduser("~"), get_ipython_dir(), matplotlib.get_configdir(), matplotlib.get_cachedir()]
print(json.dumps([*places, *styles, str(getattr(TexManager, '_cache_dir', None) or TexManager._texcache)]))
print(json.dumps([tempfile.gettempdir(), time.strftime("%Z")]))
"""
    outputs = client.run(code)
    assert outputs.error is None
    places, others = (json.loads(line) for line in outputs.stdout.splitlines())
    assert [place for place in places if not place.startswith(str(session.folder))] == []
    assert others == ["/var/tmp", "JST"]
    for folder in (session.folder / "home", session.packages):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_the_folder_for_temporary_files_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tempfile.gettempdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", before)
    warmup.forget_places()
    assert tempfile.gettempdir() == str(tmp_path)


def test_history_is_in_memory(host: Host) -> None:
    session = host.session()
    _, client = session.kernel()
    client.run("remember_me = 1")
    assert client.value("get_ipython().history_manager.hist_file") == ":memory:"
    assert client.run("%history -n 1").stdout.strip().endswith("remember_me = 1")
    assert not list(session.folder.rglob("*.sqlite"))


def test_inherited_objects_are_frozen_and_the_collector_works(pair: list[tuple[int, Client]]) -> None:
    code = """
import gc, weakref
class Node: pass
node = Node(); node.self = node; seen = weakref.ref(node); del node
gc.collect()
"""
    assert pair[0][1].run(code).error is None
    assert pair[0][1].value("[gc.isenabled(), gc.get_freeze_count() > 100_000, seen() is None]") == [True] * 3


def test_import_paths_are_as_everywhere(pair: list[tuple[int, Client]], shared_session: Session) -> None:
    """Packages of the session come last, the working folder is there, and nothing of Kernelbox's."""
    path = pair[0][1].value("__import__('sys').path")
    assert path[-1] == str(shared_session.packages)
    assert "" in path
    assert not [entry for entry in path if "kernelbox" in entry.lower() or entry.endswith("kernel-image/kernel")]
    (shared_session.packages / "installed_later.py").write_text("value = 7\n")
    assert pair[0][1].value("__import__('installed_later').value") == 7


def test_figures_are_shown_also_when_the_backend_was_imported_before() -> None:
    host = Host(warm_up="matplotlib.pyplot,matplotlib_inline.backend_inline")
    try:
        _, client = host.session().kernel()
        displays = client.run("import matplotlib.pyplot as plt\nplt.plot([1, 2]);").of("display_data")
        assert [sorted(content["data"]) for content in displays] == [["image/png", "text/plain"]]
    finally:
        host.close()


@pytest.mark.parametrize("show", ["plt.show()", ""])
def test_figures_are_shown(shared_session: Session, show: str) -> None:
    """In the first cell already, and by its end if nobody shows them: the backend must know the shell."""
    _, client = shared_session.kernel()
    displays = client.run(f"import matplotlib.pyplot as plt\nplt.plot([1, 2]);{show}").of("display_data")
    assert [sorted(content["data"]) for content in displays] == [["image/png", "text/plain"]]
    displays = client.run(f"plt.plot([1, 2]);{show}").of("display_data")
    assert [sorted(content["data"]) for content in displays] == [["image/png", "text/plain"]]


def test_a_fresh_kernel_is_the_same_but_for_the_fork(shared_session: Session) -> None:
    pid, client = shared_session.fresh_kernel()
    assert client.value("[__import__('os').getpid(), 'pandas' in __import__('sys').modules]") == [pid, False]
    assert client.value("__import__('sys').path")[-1] == str(shared_session.packages)
    assert client.value("get_ipython().history_manager.hist_file") == ":memory:"
    displays = client.run("import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()").of("display_data")
    assert [sorted(content["data"]) for content in displays] == [["image/png", "text/plain"]]
    seeds = "__import__('sys').flags.hash_randomization, hash('text')"
    forked = [shared_session.kernel()[1].value(f"[{seeds}]") for _ in range(2)]
    assert forked[0] == forked[1]
    assert client.value(f"[{seeds}]") != forked[0]
    assert client.control("kernelbox_variables_request", {})["status"] == "ok"


def test_a_kernel_exits_like_an_interpreter(shared_session: Session) -> None:
    """Exit handlers run, and a code given to os._exit is told."""
    pid, client = shared_session.kernel()
    mark = shared_session.folder / "exited"
    client.run(f"import atexit, pathlib; atexit.register(pathlib.Path({str(mark)!r}).touch)")
    client.control("shutdown_request", {"restart": False})
    assert os.waitstatus_to_exitcode(shared_session.status(pid)) == 0
    assert mark.exists()
    pid, client = shared_session.kernel()
    client.start("import os; os._exit(42)")
    assert os.waitstatus_to_exitcode(shared_session.status(pid)) == 42


def test_python_version_is_the_same(pair: list[tuple[int, Client]]) -> None:
    assert pair[0][1].value("__import__('sys').version") == sys.version
