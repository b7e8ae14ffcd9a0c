"""What the programs of this checkout say of themselves with --help: their commands and their flags."""

import dataclasses
import functools
import os
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = ("kernelbox", "kernelbox-controller", "kernelbox-supervisor")


@dataclasses.dataclass
class Flag:
    name: str
    short: str
    value: str
    words: str
    variable: str = ""
    default: str = ""
    is_required: bool = False


@functools.cache
def help_of(*command: str) -> str:
    program = ROOT / "target" / "debug" / command[0]
    if not program.exists():
        raise FileNotFoundError(f"{program} is missing; build it with: cargo build --workspace --bins")
    # The values of variables are a part of what is said.
    env = {name: value for name, value in os.environ.items() if name in ("HOME", "PATH")}
    return subprocess.run(
        [program, *command[1:], "--help"], env=env, check=True, capture_output=True, text=True, timeout=60
    ).stdout


def commands(*command: str) -> list[str]:
    """The commands below this one."""
    section = re.search(r"^Commands:\n((?:  .*\n)+)", help_of(*command), re.MULTILINE)
    return re.findall(r"^  ([a-z][\w-]*)", section[1], re.MULTILINE) if section else []


def flags(*command: str) -> list[Flag]:
    """The flags of a command, in their order."""
    text = help_of(*command)
    usage = re.search(r"^Usage: (.*)$", text, re.MULTILINE)[1]
    found = []
    for line in text.splitlines():
        head = re.match(r"^ {2,6}(?:(-\w), )?(--[\w-]+)(?: <([^>]+)>)?(?:\.\.\.)?(?:\s{2,}(.*))?$", line)
        if head:
            short, name, value, words = (part or "" for part in head.groups())
            found.append(Flag(name, short, value, words, is_required=f" {name} <" in usage))
        elif found and re.match(r"^ {10,}\S", line):
            found[-1].words = f"{found[-1].words} {line.strip()}".strip()
    for flag in found:
        flag.variable, flag.words = _taken(flag.words, r"\[env: (\w+)=?[^\]]*\]")
        flag.default, flag.words = _taken(flag.words, r"\[default: ([^\]]*)\]")
        _, flag.words = _taken(flag.words, r"\[possible values: ([^\]]*)\]")
        # Values that have words of their own are a list.
        flag.words, _, values = flag.words.partition(" Possible values: - ")
        if values:
            told = (it.partition(": ") for it in values.split(" - "))
            flag.words += ": " + ", ".join(f"`{value}` ({words[0].lower()}{words[1:]})" for value, _, words in told)
    return [flag for flag in found if flag.name not in ("--help", "--version")]


def _taken(words: str, pattern: str) -> tuple[str, str]:
    found = re.search(pattern, words)
    if not found:
        return "", words
    return found[1], " ".join(f"{words[: found.start()]} {words[found.end() :]}".split())
