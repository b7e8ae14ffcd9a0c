"""Memory of a process and all that it started, as PSS: what processes share is counted once."""

import contextlib
import pathlib


def children() -> dict[int, list[int]]:
    tree: dict[int, list[int]] = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name is in brackets and may hold anything.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            tree.setdefault(parent, []).append(int(stat.parent.name))
    return tree


def mebibytes(pid: int) -> float:
    tree, left, kibibytes = children(), [pid], 0
    while left:
        pid = left.pop()
        left.extend(tree.get(pid, []))
        # It may have ended meanwhile.
        with contextlib.suppress(OSError):
            lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kibibytes += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kibibytes / 1024
