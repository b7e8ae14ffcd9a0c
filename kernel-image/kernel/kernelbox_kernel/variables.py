"""Describes the user's variables while their code may be running, and trusts none of it.

A repr, a property or a size may raise, never return or be huge. So a thread of its own looks at them, is interrupted
where one takes long, and is left behind where it cannot be; whoever asked gets what there is in time.
"""

import asyncio
import ctypes
import sys
import threading
import time
from collections import deque
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

# One variable's share of the time, as a part of the whole.
SHARE = 8
POLL_SECONDS = 0.01
# How much of a container is looked at for its repr.
ITEMS = 8
DEPTH = 3
COLUMNS = 1000
DIMENSIONS = 32


def of_user(namespace: dict[str, Any], hidden: dict[str, Any]) -> dict[str, Any]:
    """The variables, functions and classes that the user's code made: nothing imported, nothing of IPython's."""
    found = {}
    for name, value in list(namespace.items()):
        if not isinstance(name, str) or name.startswith("_") or (name in hidden and hidden[name] is value):
            continue
        kind = type(value)
        if issubclass(kind, (ModuleType, BuiltinFunctionType)):
            continue
        if kind is FunctionType and value.__module__ != "__main__":
            continue
        if issubclass(kind, type) and _of_type(value, "__module__") != "__main__":
            continue
        found[name] = value
    return found


def _of_type(kind: type, attribute: str) -> str:
    """An attribute of a class as `type` has it: a metaclass could answer anything."""
    try:
        value = type.__getattribute__(kind, attribute)
    except AttributeError:
        return ""
    return str.__str__(value) if isinstance(value, str) else ""


def type_name(kind: type) -> str:
    """How users know a type: int, Point, pandas.DataFrame."""
    module, name = _of_type(kind, "__module__"), _of_type(kind, "__qualname__")
    if module in ("builtins", "__main__", ""):
        return name
    package = module.partition(".")[0]
    namespace = getattr(sys.modules.get(package), "__dict__", {})
    return f"{package}.{name}" if namespace.get(name) is kind else f"{module}.{name}"


def _outline(name: str, value: Any) -> dict[str, Any]:
    """What can be said of a variable without running any of its code."""
    return {"name": name, "type": type_name(type(value)), "size": 0, "repr": ""}


class _TooSlow(BaseException):
    """Raised in the describing thread. No Exception: code that catches those does not catch this."""


class _Work:
    """One request: what to describe and what was found out. The thread writes it, others read it."""

    def __init__(self, items: list[tuple[str, Any]], repr_limit: int) -> None:
        self.items = items
        self.found = [_outline(name, value) for name, value in items]
        self.skipped = False
        self.repr_limit = repr_limit
        self.position = -1
        self.since = 0.0
        self.cancelled = False
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, name="kernelbox variables", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while not self.cancelled and self.position + 1 < len(self.items):
                self._describe_next()
        except BaseException:
            self.skipped = True  # an interrupt came late, between two variables
        finally:
            self.items = []
            self.done.set()

    def _describe_next(self) -> None:
        try:
            self.since = time.monotonic()
            self.position += 1
            found = self.found[self.position]
            self.found[self.position] = found | _describe(self.items[self.position][1], self.repr_limit)
        except BaseException:
            self.skipped = True  # what was found without running its code stands

    def interrupt(self) -> None:
        """Raise _TooSlow in the thread, wherever it is next in Python code."""
        self.since = time.monotonic()
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.thread.ident), ctypes.py_object(_TooSlow))


class Describer:
    """Describes variables in time. At most one thread is left behind: while it lives, only types are told."""

    def __init__(self) -> None:
        self._stuck: _Work | None = None

    async def describe(
        self, variables: dict[str, Any], *, limit: int, repr_limit: int, seconds: float
    ) -> tuple[list[dict[str, Any]], bool]:
        """Descriptions sorted by name, and whether any are missing or cut short."""
        items = sorted(variables.items(), key=lambda item: item[0])
        more = len(items) > limit
        if self._stuck is not None and not self._stuck.done.is_set():
            return [_outline(name, value) for name, value in items[:limit]], True
        work = self._stuck = _Work(items[:limit], repr_limit)
        end = time.monotonic() + seconds * 0.9
        while not work.done.is_set():
            await asyncio.sleep(POLL_SECONDS)
            now = time.monotonic()
            if now >= end:
                work.cancelled = True
                work.interrupt()
                break
            if work.position >= 0 and now - work.since > seconds / SHARE:
                work.interrupt()
        return list(work.found), more or work.skipped or not work.done.is_set()


def _describe(value: Any, limit: int) -> dict[str, Any]:
    """What running a little of its own code tells of a value."""
    described: dict[str, Any] = {}
    for key, find in (("size", _size), ("shape", _shape), ("columns", _columns)):
        try:
            if (answer := find(value)) is not None:
                described[key] = answer
        except Exception:
            continue
    try:
        described["repr"] = _shorten(_repr(value, DEPTH, limit, described), limit)
    except Exception:
        described["repr"] = ""
    return described


def _shorten(text: str, limit: int) -> str:
    text = str.__str__(text)
    return text if len(text) <= limit else text[: max(limit - 1, 0)] + "…"


def _is_array(value: Any) -> bool:
    """Something with dimensions: an array, a tensor, a series, a frame. A class or function of the user's is none."""
    return _of_type(type(value), "__module__") not in ("builtins", "__main__") and hasattr(type(value), "shape")


def _size(value: Any) -> int:
    size: Any = None
    if _is_array(value):
        if hasattr(value, "memory_usage"):
            used = value.memory_usage(index=True)
            size = used if isinstance(used, int) else used.sum()
        elif hasattr(value, "estimated_size"):
            size = value.estimated_size()
        else:
            size = getattr(value, "nbytes", None)
    size = sys.getsizeof(value) if size is None else int(size)
    return size if 0 <= size < 1 << 63 else 0


def _shape(value: Any) -> list[int] | None:
    if not _is_array(value):
        return None
    return [int(extent) for extent in tuple(value.shape)[:DIMENSIONS]]


def _columns(value: Any) -> list[dict[str, str]] | None:
    if not _is_array(value):
        return None
    if hasattr(value, "dtypes") and hasattr(value, "columns"):
        names, dtypes = list(value.columns[:COLUMNS]), list(value.dtypes)[:COLUMNS]
        return [
            {"name": _shorten(str(name), 200), "dtype": _shorten(str(dtype), 100)}
            for name, dtype in zip(names, dtypes, strict=False)
        ]
    if hasattr(value, "dtype"):
        return [{"name": "", "dtype": _shorten(str(value.dtype), 100)}]
    return None


def _repr(value: Any, depth: int, limit: int, known: dict[str, Any] | None = None) -> str:
    """A repr that looks at no more than it shows: the interpreter lets nobody else run while it makes a long one."""
    kind = type(value)
    if kind in (str, bytes, bytearray):
        return repr(value if len(value) <= limit else value[:limit])
    if kind is int and value.bit_length() > 4 * limit:
        return f"an integer of {value.bit_length()} bits"
    if kind in (list, tuple, set, frozenset, deque):
        return _repr_items(value, kind, depth, limit)
    if kind is dict:
        if depth == 0:
            return "{...}"
        pairs = []
        for key, item in value.items():
            if len(pairs) == ITEMS:
                pairs.append("...")
                break
            pairs.append(f"{_repr(key, depth - 1, limit)}: {_repr(item, depth - 1, limit)}")
        return "{" + ", ".join(pairs) + "}"
    if kind is FunctionType:
        return f"<function {value.__name__}>"
    if issubclass(kind, type):
        return f"<class {type_name(value)}>"
    if known and known.get("shape") is not None:
        return _repr_array(value, known["shape"], limit)
    return repr(value)


def _repr_items(value: Any, kind: type, depth: int, limit: int) -> str:
    brackets = {list: "[]", tuple: "()", deque: "[]"}.get(kind, "{}")
    if depth == 0:
        return brackets[0] + "..." + brackets[1]
    shown = []
    for item in value:
        if len(shown) == ITEMS:
            shown.append("...")
            break
        shown.append(_repr(item, depth - 1, limit))
    body = ", ".join(shown) + ("," if kind is tuple and len(shown) == 1 else "")
    text = brackets[0] + body + brackets[1]
    if kind is list or kind is tuple or (kind is set and shown):
        return text
    return f"{kind.__name__}({text if shown else ''})"


def _repr_array(value: Any, shape: list[int], limit: int) -> str:
    """The head of an array or frame, on one line."""
    if hasattr(value, "head") and shape:
        text = str(value.head(ITEMS))
    elif shape and shape[0] > ITEMS:
        text = repr(value[:ITEMS])
    else:
        text = repr(value)
    return " ".join(_shorten(text, 10 * limit).split())
