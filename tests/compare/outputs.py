"""What a cell put out, in one form for both sides, without what may differ between two runs of the same kernel."""

import base64
import difflib
import hashlib
import itertools
import json
import os
import pprint
import re

# One output: ("stdout" | "stderr", text), ("display" | "result" | "update", bundle...), ("clear", wait),
# ("error", name, value, traceback), ("input", prompt, password).
Output = tuple

LONG = 4_000

# Sessions have a home of their own, so that paths are not shortened to "~" where an ordinary kernel's are.
HOME = os.path.expanduser("~/")

# (pattern, replacement): addresses, timings, and the kernel's own names for cells, threads and random ids.
VARYING = [
    (re.compile(r"0x[0-9a-fA-F]{6,}"), "0xADDRESS"),
    # ipykernel puts it below the folder for temporary files, which is a session's own.
    (re.compile(r"(/[\w.~-]{1,80}){0,12}/ipykernel_\d+/\d+\.py"), "CELL.py"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "HEX32"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"\b\d+(\.\d+)?(e[+-]\d+)? ?(ns|us|µs|μs|ms|s|min)\b"), "TIME"),
    (re.compile(r"\bThread-\d+\b"), "Thread-N"),
    (re.compile(r"\bTask-\d+\b"), "Task-N"),
    (re.compile(r"<dc:date>[^<]*</dc:date>"), "<dc:date/>"),
]


class Normaliser:
    """Cleans the outputs of one session, whose working directory is `folder`."""

    def __init__(self, folder: str):
        self.folder = folder

    def text(self, text: str) -> str:
        text = text.replace(self.folder, "/workspace").replace(HOME, "~/")
        for pattern, replacement in VARYING:
            text = pattern.sub(replacement, text)
        return text

    def value(self, value):
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.value(item) for key, item in sorted(value.items())}
        if isinstance(value, list | tuple):
            return type(value)(self.value(item) for item in value)
        # A google.protobuf.Struct has no integers.
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def cell(self, outputs: list[Output]) -> list[Output]:
        """Merges neighbouring texts of one stream: how text is cut into messages is a matter of timing."""
        merged: list[Output] = []
        for output in outputs:
            if merged and output[0] in ("stdout", "stderr") and merged[-1][0] == output[0]:
                merged[-1] = (output[0], merged[-1][1] + output[1])
            else:
                merged.append(shallow(output) if output[0] == "error" else output)
        return [shorten(self.value(output)) for output in merged]


def shallow(error: Output) -> Output:
    """How deep a recursion gets depends on the frames below it; equal frames in a row are told once."""
    kind, name, value, traceback = error
    return (kind, name, value, [line for line, _ in itertools.groupby(traceback)])


def binary(data: bytes) -> str:
    return "base64:" + base64.b64encode(data).decode()


def is_binary(media_type: str) -> bool:
    return media_type == "application/pdf" or (media_type.startswith("image/") and media_type != "image/svg+xml")


def canonical(document) -> str:
    return "json:" + json.dumps(document, sort_keys=True)


def shorten(value):
    """Keeps a diff readable: the middle of a long text becomes its digest."""
    if isinstance(value, str) and len(value) > LONG:
        digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return f"{value[:200]} ...[{len(value)} characters, {digest}]... {value[-200:]}"
    if isinstance(value, dict):
        return {key: shorten(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(shorten(item) for item in value)
    return value


def diff(expected: list[Output], got: list[Output]) -> str:
    def lines(outputs):
        return pprint.pformat(outputs, width=110).splitlines()

    return "\n".join(difflib.unified_diff(lines(expected), lines(got), "jupyter_client", "kernelbox", lineterm=""))
