"""The Markdown pages of this checkout: their links, headings and commands."""

import dataclasses
import functools
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")


@dataclasses.dataclass(frozen=True)
class Page:
    path: pathlib.Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @functools.cached_property
    def text(self) -> str:
        return self.path.read_text()

    @functools.cached_property
    def prose(self) -> str:
        """Without what stands in fences."""
        return FENCE.sub("", self.text)

    def links(self) -> list[str]:
        return LINK.findall(re.sub(r"`[^`]*`", "", self.prose))

    def code(self) -> list[str]:
        """What stands in backticks, and is no link's text."""
        return [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", LINK.sub("", self.prose))]

    def scripts(self) -> list[str]:
        """What is to be typed into a shell, a fence each."""
        found = []
        for kind, body in FENCE.findall(self.text):
            if kind == "sh":
                found.append(body)
            if kind == "console":
                typed = [line.removeprefix("$ ") for line in body.splitlines() if line.startswith("$ ")]
                found.append("\n".join(typed))
        return found

    def anchors(self) -> set[str]:
        """Of its headings, as forges and mdBook make them."""
        found: set[str] = set()
        for heading in re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE):
            slug = re.sub(r"[^\w\- ]", "", LINK.sub("", heading).lower()).strip().replace(" ", "-")
            again = sum(1 for it in found if it == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", it))
            found.add(f"{slug}-{again}" if again else slug)
        return found


@functools.cache
def tracked() -> frozenset[str]:
    """Files of the repository, those included that are about to be added; and its folders."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    files = {name for name in listed if (ROOT / name).exists()}
    folders = {str(folder) for name in files for folder in pathlib.PurePath(name).parents}
    return frozenset(files | folders)


def all_pages() -> list[Page]:
    return [Page(ROOT / name) for name in sorted(tracked()) if name.endswith(".md")]
