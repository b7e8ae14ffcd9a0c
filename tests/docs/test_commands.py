"""What the pages say to type is there: shells can read it, programs have the commands and flags, the chart has the
values, the checkout the files.

It is not run here. What a page says of having been run, it says itself.
"""

import itertools
import re
import shlex
import subprocess

import pages
import programs
import pytest
import yaml

SCRIPTS = [(page.name, script) for page in pages.all_pages() for script in page.scripts()]
VALUES = yaml.safe_load((pages.ROOT / "charts/kernelbox/values.yaml").read_text())
DEFINITIONS = {
    it["spec"]["names"]["kind"]: it["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for it in yaml.safe_load_all((pages.ROOT / "deploy/crds/kernelbox.dev.yaml").read_text())
}
PUNCTUATION = "|;&<>()\n"
# What may stand before a command's name.
BEFORE = {"do", "then", "else", "time", "nice", "sudo", "exec", "{", "--"}
CHECKED = (*programs.NAMES, "helm", "kubectl", "make", "kind")


def calls(text: str) -> list[list[str]]:
    """The commands of a script that something is known about, each with its words."""
    text = re.sub(r"(^|\s)#[^\n]*", r"\1", text.replace("\\\n", " "))
    found: list[list[str]] = []
    while inner := re.search(r"\$\(([^()]*)\)", text):
        found += calls(inner[1])
        text = f"{text[: inner.start()]}INNER{text[inner.end() :]}"
    lexer = shlex.shlex(text, posix=True, punctuation_chars=PUNCTUATION)
    lexer.commenters, lexer.whitespace, lexer.whitespace_split = "", " \t", True
    is_first, is_file = True, False
    for word in lexer:
        if set(word) <= set(PUNCTUATION):
            is_file = word[-1] in "<>" or word == ">&"
            is_first = not is_file
        elif is_file:
            is_file = False
        elif is_first and not (word in BEFORE or re.match(r"\w+=", word)):
            found.append([word.rsplit("/", 1)[-1]])
            is_first = False
        elif word == "--":
            is_first = True
        elif not is_first:
            found[-1].append(word)
    return [call for call in found if call[0] in CHECKED]


def mistakes_of_ours(call: list[str]) -> list[str]:
    command, left = [call[0]], list(call[1:])
    while left and left[0] in programs.commands(*command):
        command.append(left.pop(0))
    if command[-1] == "help":
        return []
    if len(command) == 1 and programs.commands(*command) and left and re.fullmatch(r"[a-z][a-z-]*", left[0]):
        return [f"{call[0]} has no command {left[0]}"]
    known = programs.flags(*command)
    names = {"--help", "--version", *(flag.name for flag in known)}
    shorts = {"-h", "-V", *(flag.short for flag in known)}
    wrong = []
    for word in left:
        name = word.split("=")[0]
        if re.fullmatch(r"--[a-z][\w-]*", name) and name not in names:
            wrong.append(f"{' '.join(command)} has no {name}")
        if re.fullmatch(r"-[A-Za-z]", name) and name not in shorts:
            wrong.append(f"{' '.join(command)} has no {name}")
    return wrong


def is_value(path: list[str]) -> bool:
    """Of the chart. Templates and pools have names of their own."""
    if path[:1] == ["sandboxes"] and path[1:2] and path[1] in ("templates", "pools") and len(path) > 2:
        kind = {"templates": "SandboxTemplate", "pools": "SandboxPool"}[path[1]]
        return is_field(path[3:], kind)
    at = VALUES
    for name in path:
        if not isinstance(at, dict) or name not in at:
            return False
        at = at[name]
    return True


def is_field(path: list[str], kind: str) -> bool:
    """Of the spec of one of our resources."""
    at = DEFINITIONS[kind]
    for name in path:
        if "properties" not in at:
            return "additionalProperties" in at or "x-kubernetes-preserve-unknown-fields" in at
        if name not in at["properties"]:
            return False
        at = at["properties"][name]
    return True


def mistakes_of_helm(call: list[str]) -> list[str]:
    settings = [word.removeprefix("--set=") for word in call if word.startswith("--set=")]
    settings += [after for word, after in itertools.pairwise(call) if word == "--set"]
    keys = [part.split("=")[0] for setting in settings for part in setting.split(",")]
    return [f"the chart has no value {key}" for key in keys if not is_value(key.split("."))]


def mistakes_of_make(call: list[str]) -> list[str]:
    targets = re.findall(r"^([a-z-]+):", (pages.ROOT / "Makefile").read_text(), re.MULTILINE)
    return [f"make has no {word}" for word in call[1:] if "=" not in word and word not in targets]


def mistakes_of_kubectl(call: list[str]) -> list[str]:
    made = (pages.ROOT / "deploy/base").glob("*.yaml")
    text = "".join(path.read_text() for path in made)
    found = [re.fullmatch(r"(?:deploy|deployment|service|svc)/(kernelbox-[\w-]+)", word) for word in call]
    return [f"there is no {it[0]}" for it in found if it and f"name: {it[1]}\n" not in text]


CHECKS = {
    "helm": mistakes_of_helm,
    "make": mistakes_of_make,
    "kubectl": mistakes_of_kubectl,
    "kind": lambda call: [],
}


def mistakes(text: str) -> list[str]:
    wrong = []
    for call in calls(text):
        wrong += CHECKS.get(call[0], mistakes_of_ours)(call)
        # What is applied, installed and run is there.
        folders = ("charts/", "deploy/", "examples/", "tests/", "scripts/", "docs/", "proto/")
        files = [word for word in call[1:] if word.startswith(folders) and not re.search(r"[*$]|kernelbox-\w+$", word)]
        wrong += [f"there is no {file}" for file in files if file.rstrip("/") not in pages.tracked()]
    return wrong


@pytest.mark.parametrize(("page", "script"), SCRIPTS, ids=[name for name, _ in SCRIPTS])
def test_scripts_can_be_read_and_name_what_there_is(page, script):
    read = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr
    assert not mistakes(script)


@pytest.mark.parametrize("page", pages.all_pages(), ids=lambda page: page.name)
def test_what_stands_in_backticks_is_there(page):
    wrong = []
    for text in page.code():
        if re.match(rf"({'|'.join(programs.NAMES)}|helm|make) ", text) and "..." not in text:
            wrong += mistakes(text)
        # Values of the chart and fields of resources, as prose names them.
        if re.fullmatch(r"[a-z]\w*(\.\w+)+", text, re.ASCII) and not re.search(r"\.(\w{1,4}|proto)$", text):
            path = text.split(".")
            is_known = path[0] in VALUES or any(path[0] in it["properties"] for it in DEFINITIONS.values())
            if is_known and not is_value(path) and not any(is_field(path, kind) for kind in DEFINITIONS):
                wrong.append(f"neither the chart nor a resource has {text}")
    assert not wrong


def test_mistakes_are_found():
    wrong = mistakes(
        "kernelbox serve --no-such-flag x | kernelbox nothing\nhelm upgrade a charts/none --set=b=1 && make tea"
    )
    assert len(wrong) == 5, wrong
    assert not mistakes("kernelbox exec --session s1 'x = 1' >out; A=$(true) kernelbox run 'What --is this?'")
