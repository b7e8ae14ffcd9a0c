"""Puts the packages that were installed for a session at the end of sys.path, in every Python of this environment.

And has pip put its packages there, however it is called: the environment itself is every session's, and mostly
read-only.
"""

import os
import re
import sys


def pip_arguments(argv: list[str]) -> list[str] | None:
    """What pip is told, if this is pip: its module, as %pip and most programs run it, or its command."""
    rest = argv[1:]
    while rest and rest[0].startswith("-") and rest[0] != "-m":
        del rest[0]
    match rest:
        case ["-m", "pip", *arguments]:
            return arguments
        case [program, *arguments] if re.fullmatch(r"pip[0-9.]*", os.path.basename(program)):
            return arguments
    return None


_packages = os.environ.get("KERNELBOX_PACKAGES")
if _packages:
    if _packages not in sys.path:
        sys.path.append(_packages)
    _arguments = pip_arguments(sys.orig_argv)
    if _arguments is not None:
        _program = os.path.join(os.path.dirname(__file__), "kernelbox_pip.py")
        os.execv(sys.executable, [sys.executable, _program, *_arguments])
