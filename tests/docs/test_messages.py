"""Messages that docs/troubleshoot.md quotes are those of the code."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "troubleshoot.md"
SOURCES = ("gateway/src", "controller/src", "kernel-image/supervisor/src", "proto/src")
# What others say; and reasons, which have a list of their own below.
NOT_OURS = ("What Kubernetes and Helm say", "How sandboxes end")


def code() -> str:
    files = (path for folder in SOURCES for path in (ROOT / folder).rglob("*.rs"))
    # A string that goes on in the next line is one.
    text = "\n".join(re.sub(r"\\\n\s*", "", path.read_text()) for path in files)
    return text.replace('\\"', '"').lower()


def quoted() -> list[str]:
    found = []
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        if not section.startswith(NOT_OURS):
            found += [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [message for cell in found for message in re.findall(r"`([^`]+)`", cell)]


def test_the_code_says_what_the_page_quotes():
    text, unknown = code(), []
    messages = quoted()
    for message in messages:
        # A message is put together of parts; each is there as it is. Codes of errors are names in the code.
        parts = [part.strip(" ,") for part in re.split(r"\.\.\.|[;:()] ?", message)]
        if re.fullmatch("[A-Z_]+", message):
            parts = [message.replace("_", "")]
        unknown += [f"{part!r} of {message!r}" for part in parts if len(part) > 3 and part.lower() not in text]
    assert len(messages) > 60
    assert not unknown, "\n".join(unknown)


def test_each_reason_of_an_end_is_told_of():
    source = (ROOT / "controller/api/src/sandbox.rs").read_text()
    body = re.search(r"pub enum EndReason \{(.*?)\n\}", source, re.DOTALL)[1]
    reasons = re.findall(r"^    (\w+),", body, re.MULTILINE)
    section = PAGE.read_text().split("## How sandboxes end")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == reasons
