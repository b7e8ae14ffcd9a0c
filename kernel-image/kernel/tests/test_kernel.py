"""The Python kernel over its real sockets: what ordinary ipykernel does, and Kernelbox's additions."""

import threading
import time

import pytest
from driver import TIMEOUT, Client, Session


def test_outputs_come_as_from_any_ipykernel(client: Client) -> None:
    outputs = client.run("print('out')\nimport sys\nprint('err', file=sys.stderr)\ndisplay({'a': 1})\n1 + 1")
    kinds = [kind for kind, _ in outputs.messages if kind != "status"]
    assert kinds == ["execute_input", "stream", "stream", "display_data", "execute_result"]
    assert (outputs.stdout, outputs.text("stderr")) == ("out\n", "err\n")
    assert outputs.of("execute_result")[0]["data"] == {"text/plain": "2"}
    assert outputs.reply["status"] == "ok"


def test_frames_have_html(client: Client) -> None:
    outputs = client.run("import pandas as pd\npd.DataFrame({'a': [1, 2]})")
    assert sorted(outputs.of("execute_result")[0]["data"]) == ["text/html", "text/plain"]


def test_errors_carry_their_traceback(client: Client) -> None:
    outputs = client.run("1/0")
    assert outputs.error == "ZeroDivisionError: division by zero"
    assert outputs.reply["status"] == "error"
    assert client.run("import no_such_module").error == "ModuleNotFoundError: No module named 'no_such_module'"


def test_programs_write_into_the_cells_output(client: Client) -> None:
    outputs = client.run("import subprocess; subprocess.run(['sh', '-c', 'echo öut; echo err >&2']); print('after')")
    assert outputs.stdout == "öut\nafter\n"
    assert outputs.text("stderr") == "err\n"
    assert client.run("!echo from a magic").stdout.strip() == "from a magic"
    assert client.run("%%bash\necho from bash").stdout == "from bash\n"


def test_the_end_of_a_cell_does_not_overtake_its_programs(client: Client) -> None:
    for number in range(50):
        assert client.run(f"import os; os.write(1, b'{number}'); None").stdout == str(number)


def test_text_in_more_pieces_than_the_sending_threads_pipe_holds_is_sent(client: Client) -> None:
    code = """
from kernelbox_kernel import output
output.MESSAGE_BYTES = 8
print("x" * 40_000, flush=True)
output.MESSAGE_BYTES = 256 * 1024
"""
    assert client.run(code).stdout == "x" * 40_000 + "\n"


def test_text_never_falls_behind_what_is_shown_after_it(client: Client) -> None:
    # The sending thread flushes by itself meanwhile, so that the text is in the buffer, on its way, or sent.
    code = """
import sys, time
sys.stdout.flush_interval = 0.0002
for number in range(500):
    sys.stdout.write(f"{number}\\n")
    if number % 2:
        time.sleep(number / 1e6)
    display(number)
del sys.stdout.flush_interval
"""
    shown = [
        content["text"].strip() if kind == "stream" else content["data"]["text/plain"]
        for kind, content in client.run(code).messages
        if kind in ("stream", "display_data")
    ]
    assert shown == [str(number) for number in range(500) for _ in range(2)]


def test_characters_are_not_cut_in_two(client: Client) -> None:
    program = "import sys; sys.stdout.buffer.write(('x' + 'ö€😀' * 40000).encode())"
    outputs = client.run(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}]); None")
    assert outputs.stdout == "x" + "ö€😀" * 40000


def test_input_is_asked_for(client: Client) -> None:
    code = "import getpass\nname = input('Name? ')\nsecret = getpass.getpass('Word? ')\nprint(name, secret)"
    outputs = client.run(code, answers=("Ada", "sesame"))
    assert outputs.prompts == [{"prompt": "Name? ", "password": False}, {"prompt": "Word? ", "password": True}]
    assert outputs.stdout == "Ada sesame\n"
    assert client.run("input()").error.startswith("StdinNotImplementedError")


def test_magics_and_await_work(client: Client) -> None:
    assert client.run("import asyncio\nawait asyncio.sleep(0)\n'awaited'").of("execute_result")
    assert "Wall time" in client.run("%%time\nsum(range(10))").stdout
    assert client.run("len?").reply["payload"][0]["source"] == "page"


def test_an_interrupt_ends_the_cell_and_not_the_kernel(shared_session: Session) -> None:
    pid, client = shared_session.kernel()
    client.run("kept = 1")
    request = client.start("print('began', flush=True)\nwhile True: pass")
    while client.jupyter.get_iopub_msg(timeout=TIMEOUT)["content"].get("text") != "began\n":
        pass
    shared_session.say(op="signal", pid=pid, signal=2, group=False)
    while (reply := client.jupyter.get_shell_msg(timeout=TIMEOUT))["parent_header"]["msg_id"] != request:
        pass
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert client.value("kept") == 1


@pytest.mark.parametrize("text", ["x" * 79 + "\n", "ö€😀" * 20 + "\n", "\x1b[31mred\x1b[0m\n"])
def test_long_output_comes_in_pieces_and_whole(client: Client, text: str) -> None:
    repeat = 40_000_000 // len(text.encode())
    outputs = client.run(f"import sys\nfor _ in range({repeat // 1000}): sys.stdout.write({text!r} * 1000)")
    pieces = [content["text"] for content in outputs.of("stream")]
    assert "".join(pieces) == text * (repeat // 1000 * 1000)
    assert max(len(piece.encode()) for piece in pieces) <= 256 * 1024


def test_one_huge_string_comes_in_pieces_and_whole(client: Client) -> None:
    outputs = client.run("print('0123456789' * 3_000_000)")
    pieces = [content["text"] for content in outputs.of("stream")]
    assert "".join(pieces) == "0123456789" * 3_000_000 + "\n"
    assert max(map(len, pieces)) <= 256 * 1024


def test_a_program_that_writes_much_fills_no_log(client: Client, shared_session: Session) -> None:
    before = shared_session.log.stat().st_size
    outputs = client.run(
        "import subprocess; subprocess.run(['head', '-c', '20000000', '/dev/zero']); print('.', end='')"
    )
    assert len(outputs.stdout) == 20_000_001
    assert shared_session.log.stat().st_size - before < 1000


def test_a_slow_reader_loses_nothing(shared_session: Session) -> None:
    """More messages than any queue's default limit wait while nobody reads."""
    _, client = shared_session.kernel()
    request = client.start("for n in range(5000): display(n)")
    while (reply := client.jupyter.get_shell_msg(timeout=TIMEOUT))["parent_header"]["msg_id"] != request:
        pass
    texts = []
    while True:
        message = client.jupyter.get_iopub_msg(timeout=TIMEOUT)
        if message["parent_header"].get("msg_id") != request:
            continue
        if message["msg_type"] == "display_data":
            texts.append(message["content"]["data"]["text/plain"])
        if message["content"].get("execution_state") == "idle":
            break
    assert reply["content"]["status"] == "ok"
    assert texts == [str(n) for n in range(5000)]


def test_output_comes_while_the_cell_runs(client: Client) -> None:
    client.start("import time\nprint('early')\ntime.sleep(1.5)\nprint('late')")
    while client.jupyter.get_iopub_msg(timeout=TIMEOUT)["content"].get("text") != "early\n":
        pass
    began = time.monotonic()
    while client.jupyter.get_iopub_msg(timeout=TIMEOUT)["content"].get("text") != "late\n":
        pass
    assert time.monotonic() - began > 0.7


def test_text_that_is_no_text_arrives(client: Client) -> None:
    """Names of files that are not UTF-8 have lone surrogates; one of those must not swallow the output around it."""
    outputs = client.run("print('before'); print('a\\udcffb'); print('\\ud800'); print('after')\n'\\udcff'")
    assert outputs.stdout == "before\na\ufffdb\n\ufffd\nafter\n"
    assert client.run("raise ValueError('\\udcff')").error == "ValueError: \ufffd"


def test_a_cell_runs_in_its_own_place(client: Client, shared_session: Session) -> None:
    (shared_session.workspace / "sub").mkdir(exist_ok=True)
    place = str(shared_session.workspace / "sub")
    client.run("import os; os.environ['CHANGED'] = 'before'")
    metadata = {"kernelbox": {"cwd": place, "env": {"CHANGED": "during", "ADDED": "during"}}}
    shown = "print(os.getcwd(), os.environ.get('CHANGED'), os.environ.get('ADDED'))"
    assert client.run(shown, metadata).stdout == f"{place} during during\n"
    assert client.run("os.chdir('/'); 1/0", metadata).error.startswith("ZeroDivisionError")
    assert client.run(shown).stdout == f"{shared_session.workspace} before None\n"


def test_a_place_that_is_not_there_is_an_error(client: Client) -> None:
    outputs = client.run("print('ran')", {"kernelbox": {"cwd": "/nonexistent"}})
    assert outputs.error.startswith("FileNotFoundError")
    assert outputs.reply["status"] == "error"
    assert outputs.stdout == ""
    assert client.value("1 + 1") == 2


def test_bind_brings_the_environment_to_a_running_kernel(client: Client) -> None:
    assert client.control("kernelbox_bind_request", {"env": {"BOUND": "yes"}}) == {"status": "ok"}
    assert client.value("__import__('os').environ['BOUND']") == "yes"
    assert client.run("!echo $BOUND").stdout.strip() == "yes"


def test_subshells_run_beside_a_busy_cell(shared_session: Session) -> None:
    _, client = shared_session.kernel()
    client.start("import threading; event = threading.Event(); event.wait(30)")
    subshell = client.control("create_subshell_request", {})["subshell_id"]
    message = client.jupyter.session.msg(
        "execute_request", {"code": "event.set()", "silent": False, "stop_on_error": False}
    )
    message["header"]["subshell_id"] = subshell
    client.jupyter.shell_channel.send(message)
    replies = [client.jupyter.get_shell_msg(timeout=TIMEOUT)["content"]["status"] for _ in range(2)]
    assert replies == ["ok", "ok"]


def test_forked_workers_print_into_the_cell(client: Client) -> None:
    code = """
import multiprocessing
def work(n):
    print("worker", n, flush=True)
    return n * n
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(work, range(3)))
"""
    outputs = client.run(code)
    assert "[0, 1, 4]" in outputs.stdout
    assert outputs.error is None


def test_threads_can_print_much_at_once(client: Client) -> None:
    code = """
import threading
def shout(letter):
    for _ in range(200):
        print(letter * 50_000)
threads = [threading.Thread(target=shout, args=letter) for letter in "abcd"]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    outputs = client.run(code)
    assert {letter: outputs.stdout.count(letter) for letter in "abcd"} == dict.fromkeys("abcd", 10_000_000)
    assert threading.active_count() < 50
