"""Descriptions of variables: what they say, and that no variable can hold them up."""

import asyncio
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from driver import TIMEOUT, Client, Session
from kernelbox_kernel import variables


def describe(
    *, seconds: float = 2.0, limit: int = 1000, repr_limit: int = 200, **named: Any
) -> dict[str, dict[str, Any]]:
    found, incomplete = asyncio.run(
        variables.Describer().describe(named, limit=limit, repr_limit=repr_limit, seconds=seconds)
    )
    return {"incomplete": incomplete, **{entry["name"]: entry for entry in found}}


class Raises:
    def __repr__(self) -> str:
        raise ValueError

    def __sizeof__(self) -> int:
        raise ValueError


class Loops:
    def __repr__(self) -> str:
        while True:
            pass


class LoopsAndCatches:
    stop = False

    def __repr__(self) -> str:
        while not LoopsAndCatches.stop:
            try:
                time.sleep(0.001)
            except BaseException:
                continue
        return ""


class Liar(type):
    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        (1, "int", "1"),
        ("text", "str", "'text'"),
        ([1, [2, [3, [4]]]], "list", "[1, [2, [3, [...]]]]"),
        (list(range(100)), "list", "[0, 1, 2, 3, 4, 5, 6, 7, ...]"),
        ((1,), "tuple", "(1,)"),
        (set(), "set", "set()"),
        ({1}, "set", "{1}"),
        (frozenset(), "frozenset", "frozenset()"),
        ({"a": {1: 2}}, "dict", "{'a': {1: 2}}"),
        (None, "NoneType", "None"),
        pytest.param(1 << 10_000_000, "int", "an integer of 10000001 bits", id="huge integer"),
        (range(3), "range", "range(0, 3)"),
    ],
)
def test_plain_values(value: Any, kind: str, shown: str) -> None:
    found = describe(value=value)
    assert found["value"]["type"] == kind
    assert found["value"]["repr"] == shown
    assert found["value"]["size"] > 0
    assert not found["incomplete"]


def test_long_reprs_are_cut() -> None:
    found = describe(text="x" * 10_000_000, data=b"y" * 10_000_000, items=["z" * 10_000_000] * 5, repr_limit=50)
    assert {len(found[name]["repr"]) for name in ("text", "data", "items")} == {50}


def test_frames_series_and_arrays() -> None:
    frame = pd.DataFrame({"a": [1, 2, 3], "b": [0.5, 1.5, 2.5]})
    found = describe(
        frame=frame, series=frame["b"], array=np.zeros((10, 20, 3), dtype="float32"), scalar=np.float64(1.5)
    )
    assert found["frame"]["type"] == "pandas.DataFrame"
    assert found["frame"]["shape"] == [3, 2]
    assert found["frame"]["columns"] == [{"name": "a", "dtype": "int64"}, {"name": "b", "dtype": "float64"}]
    assert found["frame"]["repr"].startswith("a b 0 1 0.5")
    assert found["series"]["shape"] == [3]
    assert found["series"]["columns"] == [{"name": "", "dtype": "float64"}]
    assert found["array"]["type"] == "numpy.ndarray"
    assert found["array"]["shape"] == [10, 20, 3]
    assert found["array"]["size"] == 10 * 20 * 3 * 4
    assert found["scalar"]["repr"] == "np.float64(1.5)"
    assert not found["incomplete"]


def test_options_that_print_everything_do_not_matter() -> None:
    with pd.option_context("display.max_rows", None), np.printoptions(threshold=1 << 40):
        began = time.monotonic()
        found = describe(frame=pd.DataFrame({"a": range(1_000_000)}), array=np.zeros(10_000_000), flat=np.zeros(9))
        assert time.monotonic() - began < 1.5
    assert found["frame"]["shape"] == [1_000_000, 1]
    assert found["frame"]["repr"] and found["array"]["repr"] and not found["incomplete"]


def test_arrays_of_other_libraries_are_known_by_their_shape() -> None:
    """Tensors and polars frames, whose libraries may not be installed here."""
    tensor = type(
        "Tensor",
        (),
        {
            "__module__": "torch",
            "shape": (2, 3),
            "dtype": "torch.float32",
            "nbytes": 24,
            "__len__": lambda self: 2,
            "__getitem__": lambda self, key: self,
            "__repr__": lambda self: "tensor([...])",
        },
    )()
    frame = type(
        "DataFrame",
        (),
        {
            "__module__": "polars.dataframe.frame",
            "shape": (2, 1),
            "columns": ["a"],
            "dtypes": ["Int64"],
            "estimated_size": lambda self: 16,
            "head": lambda self, n: self,
            "__str__": lambda self: "a table",
        },
    )()
    found = describe(tensor=tensor, frame=frame)
    assert found["tensor"] == {
        "name": "tensor",
        "type": "torch.Tensor",
        "size": 24,
        "repr": "tensor([...])",
        "shape": [2, 3],
        "columns": [{"name": "", "dtype": "torch.float32"}],
    }
    assert (found["frame"]["shape"], found["frame"]["size"]) == ([2, 1], 16)
    assert found["frame"]["columns"] == [{"name": "a", "dtype": "Int64"}]


def test_a_repr_that_raises_is_empty_and_harms_no_other() -> None:
    found = describe(bad=Raises(), good=1)
    assert found["bad"]["repr"] == ""
    assert found["bad"]["type"].endswith("Raises")
    assert found["good"]["repr"] == "1"


def test_a_metaclass_that_lies_harms_nothing() -> None:
    found = describe(value=Liar("Sly", (), {})(), good=1)
    assert found["value"]["type"].endswith("Sly")
    assert found["good"]["repr"] == "1"


def test_a_repr_that_never_returns_is_left_and_the_others_told() -> None:
    began = time.monotonic()
    found = describe(a=1, loop=Loops(), z=2, seconds=2.0)
    assert time.monotonic() - began < 2.0
    assert (found["a"]["repr"], found["loop"]["repr"], found["z"]["repr"]) == ("1", "", "2")
    assert found["incomplete"]


def test_a_repr_that_cannot_be_stopped_costs_one_thread() -> None:
    async def story() -> list[tuple[list[dict[str, Any]], bool]]:
        describer = variables.Describer()
        named = {"a": 1, "stuck": LoopsAndCatches(), "z": 2}
        answers = [await describer.describe(named, limit=10, repr_limit=50, seconds=0.5) for _ in range(3)]
        LoopsAndCatches.stop = True
        while not describer._stuck.done.is_set():
            await asyncio.sleep(0.01)
        answers.append(await describer.describe(named, limit=10, repr_limit=50, seconds=2.0))
        return answers

    began = time.monotonic()
    *hurried, last = asyncio.run(story())
    assert time.monotonic() - began < 5
    for found, incomplete in hurried:
        assert [entry["name"] for entry in found] == ["a", "stuck", "z"]
        assert incomplete
    found, incomplete = last
    assert [entry["repr"] for entry in found] == ["1", "", "2"]
    assert not incomplete


def test_there_are_never_more_than_asked_for() -> None:
    found = describe(limit=3, **{f"v{n}": n for n in range(10)})
    assert sorted(found) == ["incomplete", "v0", "v1", "v2"]
    assert found["incomplete"]


def ask(client: Client, **content: Any) -> dict[str, dict[str, Any]]:
    reply = client.control(
        "kernelbox_variables_request", {"limit": 1000, "repr_limit": 200, "timeout_ms": 2000, **content}
    )
    assert reply["status"] == "ok"
    return {"incomplete": reply["incomplete"], **{entry["name"]: entry for entry in reply["variables"]}}


def test_a_kernel_tells_what_the_user_made(shared_session: Session) -> None:
    _, client = shared_session.kernel()
    assert ask(client) == {"incomplete": False}
    client.run(
        "import os, numpy as np\nfrom math import sqrt\nfrom pathlib import Path\n"
        "x = 1\n_hidden = 2\ndef f(): pass\nclass C: pass\nc = C()\np = Path('/')\nx"
    )
    found = ask(client)
    assert sorted(found) == ["C", "c", "f", "incomplete", "p", "x"]
    assert found["C"] | {"size": 0} == {"name": "C", "type": "type", "size": 0, "repr": "<class C>"}
    assert found["c"]["type"] == "C"
    assert found["f"]["repr"] == "<function f>"


def test_a_kernel_tells_while_a_cell_runs(shared_session: Session) -> None:
    _, client = shared_session.kernel()
    client.run("import numpy as np; array = np.arange(3)")
    request = client.start("print('began', flush=True)\nwhile 'stop' not in globals(): pass")
    while client.jupyter.get_iopub_msg(timeout=TIMEOUT)["content"].get("text") != "began\n":
        pass
    assert ask(client)["array"]["shape"] == [3]
    client.control("kernelbox_bind_request", {"env": {}})
    pid = client.control("usage_request", {})["pid"]
    shared_session.say(op="signal", pid=pid, signal=2, group=False)
    while client.jupyter.get_shell_msg(timeout=TIMEOUT)["parent_header"]["msg_id"] != request:
        pass


def test_a_hostile_variable_holds_up_neither_answer_nor_channel(shared_session: Session) -> None:
    _, client = shared_session.kernel()
    client.run(
        "import time\nclass Evil:\n    def __repr__(self):\n        while True:\n            try: time.sleep(0.01)\n"
        "            except BaseException: pass\nevil = Evil(); fine = 1"
    )
    session = client.jupyter.session
    slow = session.msg("kernelbox_variables_request", {"timeout_ms": 2000})
    quick = session.msg("kernelbox_bind_request", {"env": {}})
    began = time.monotonic()
    client.jupyter.control_channel.send(slow)
    client.jupyter.control_channel.send(quick)
    replies = [client.jupyter.get_control_msg(timeout=TIMEOUT) for _ in range(2)]
    assert time.monotonic() - began < 2.5
    assert [reply["msg_type"] for reply in replies] == ["kernelbox_bind_reply", "kernelbox_variables_reply"]
    assert replies[1]["content"]["incomplete"]
    assert client.value("fine") == 1
