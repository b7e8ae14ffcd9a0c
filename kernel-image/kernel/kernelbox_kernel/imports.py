"""Finds the imports of a cell that nothing here can satisfy, and which distribution would.

Nothing is run or imported for it. Code is hostile, and the parser may take long or fall over: it runs in a process of
its own.
"""

import ast
import functools
import importlib
import importlib.machinery
import importlib.util
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

from IPython.core.inputtransformer2 import TransformerManager

TABLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "packages.tsv")
# Modules of the standard library that only other platforms or versions have: no package supplies them.
OTHER_STANDARD = """
_winapi asynchat asyncore binhex cgi cgitb compression crypt distutils formatter imghdr imp macpath mailcap msilib
msvcrt nis nntplib ossaudiodev parser pipes smtpd sndhdr spwd sunau symbol telnetlib tomllib uu winreg winsound
xdrlib
"""
STANDARD = sys.stdlib_module_names | set(OTHER_STANDARD.split())
# Cell and line magics whose text is Python.
PYTHON_MAGICS = {"time", "timeit", "capture", "prun"}
MAGIC_OPTIONS = re.compile(r"^(\s*-\w+\s*\d*)*\s*")


class Entry(NamedTuple):
    """A line of the table: which distribution has a module, and who says so."""

    distribution: str
    source: str


class Import(NamedTuple):
    """An import as the code has it. `module` is certain to be one; `members` may be modules in it."""

    module: str
    members: tuple[str, ...] = ()


@functools.cache
def table() -> dict[str, Entry]:
    """The table of well-known packages, by import name."""
    with open(TABLE, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file if not line.startswith("#")]
    return {name: Entry(distribution, source) for name, distribution, source in rows}


def answer(line: bytes) -> bytes:
    """Answer a request of the zygote's: one line of JSON for another."""
    try:
        request = json.loads(line)
        missing, unknown = scan(request["code"], request["workspace"], any_package=request["policy"] == "any")
        reply: dict[str, Any] = {"missing": missing, "unknown": unknown, "error": None}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        reply = {"missing": [], "unknown": [], "error": None}  # no Python: the kernel says it better
    except Exception as error:
        reply = {"missing": [], "unknown": [], "error": f"{type(error).__name__}: {error}"}
    return json.dumps(reply).encode()


def scan(code: str, workspace: str, *, any_package: bool = False) -> tuple[list[dict[str, str]], list[str]]:
    """What is missing, with its distribution, and missing names that no table has. SyntaxError if it is no Python."""
    importlib.invalidate_caches()
    missing: dict[str, Entry] = {}
    unknown: set[str] = set()
    for module, entry in _missing(_parse(code), workspace):
        if entry is not None:
            missing[module] = entry
        elif any_package and re.fullmatch(r"[A-Za-z0-9_]+", module):
            missing[module] = Entry(re.sub("[-_.]+", "-", module).lower(), "the name of the import")
        else:
            unknown.add(module)
    listed = [{"module": module, **entry._asdict()} for module, entry in sorted(missing.items())]
    return listed, sorted(unknown)


def _parse(code: str) -> list[ast.stmt]:
    """Parse a cell, magics and all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(TransformerManager().transform_cell(code)).body


def _missing(statements: list[ast.stmt], workspace: str) -> list[tuple[str, Entry | None]]:
    """The imports that cannot be satisfied, each with its entry in the table if it has one."""
    return [lost for found in _imports(statements, workspace) for lost in _lost(found, workspace)]


def _imports(statements: list[ast.stmt], workspace: str) -> Iterator[Import]:
    """All imports that may run. Not recursive, but for what depends on whether an import succeeds."""
    pending: list[ast.AST] = list(reversed(statements))
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (Import(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0 and node.module:
                yield Import(node.module, tuple(alias.name for alias in node.names))
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            pending.extend(reversed(node.orelse))
        elif isinstance(node, ast.Try) and any(_catches_import_error(handler) for handler in node.handlers):
            # The code has a way without these modules, and needs that way only if they are missing.
            if _missing(node.body, workspace):
                pending.extend(statement for handler in node.handlers for statement in handler.body)
            else:
                pending.extend(node.orelse)
            pending.extend(node.finalbody)
        else:
            if isinstance(node, ast.Call):
                yield from _of_call(node, workspace)
            pending.extend(reversed(list(ast.iter_child_nodes(node))))


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(getattr(kind, "id", "") in ("ImportError", "ModuleNotFoundError") for kind in caught)


def _of_call(call: ast.Call, workspace: str) -> Iterator[Import]:
    """Imports by function, and those in the text of a magic such as %%time."""
    texts = [
        argument.value
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("import_module", "__import__") and texts and not texts[0].startswith("."):
        yield Import(texts[0])
    elif name in ("run_cell_magic", "run_line_magic") and len(texts) > 1 and texts[0] in PYTHON_MAGICS:
        for text in texts[1:]:
            try:
                statements = _parse(MAGIC_OPTIONS.sub("", text))
            except SyntaxError:
                continue  # the options of the magic
            yield from _imports(statements, workspace)


def _lost(found: Import, workspace: str) -> list[tuple[str, Entry | None]]:
    """What of an import is missing: the longest name that the table knows, or the top-level module."""
    names = {_longest_known(f"{found.module}.{member}") or found.module.partition(".")[0] for member in found.members}
    names = names or {_longest_known(found.module) or found.module.partition(".")[0]}
    return [(name, table().get(name)) for name in sorted(names) if not _is_present(name, workspace)]


def _longest_known(module: str) -> str | None:
    while module and module not in table():
        module = module.rpartition(".")[0]
    return module or None


def _is_present(module: str, workspace: str) -> bool:
    """An import of it would find something. Parent packages are looked into, not run."""
    first, *rest = module.split(".")
    if first in STANDARD or first in sys.builtin_module_names or _is_in_workspace(first, workspace):
        return True
    try:
        spec = importlib.util.find_spec(first)
    except ImportError:
        spec = None
    except ValueError:
        return True  # a module that nobody loaded from anywhere, such as __main__
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return False
        # By its last name alone: the search for a namespace's whole name needs its parents imported.
        spec = importlib.machinery.PathFinder.find_spec(part, list(spec.submodule_search_locations))
    return spec is not None


def _is_in_workspace(name: str, workspace: str) -> bool:
    """A module beside the code. A folder without any Python in it is data, whatever its name."""
    spec = importlib.machinery.PathFinder.find_spec(name, [workspace])
    if spec is None or spec.origin is not None:
        return spec is not None
    return any(entry.name.endswith(".py") for folder in spec.submodule_search_locations for entry in os.scandir(folder))
