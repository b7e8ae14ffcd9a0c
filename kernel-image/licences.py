"""Prints what is in the image and under which licences: Debian's packages and Python's, one a line."""

import re
import subprocess
from importlib import metadata
from pathlib import Path


def debian() -> list[str]:
    """Name, version and licences, as the copyright files say that Debian has in a form for machines."""
    asked = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n"]
    packages = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.splitlines()
    return [f"{package}: {of_debian(package.split()[0])}" for package in sorted(packages)]


def of_debian(package: str) -> str:
    file = Path("/usr/share/doc", package, "copyright")
    if not file.is_file():
        return f"see {file}"
    text = file.read_text(encoding="utf-8", errors="replace")
    if text.startswith("Format:"):
        return "; ".join(sorted({line.strip() for line in re.findall(r"^License:[ \t]*(\S.*)$", text, re.MULTILINE)}))
    # Prose: which licence is for what, only a reader can tell.
    common = {Path(path).name for path in re.findall(r"/usr/share/common-licenses/[\w.+-]*\w", text)}
    return f"see {file}" + (f", which names {', '.join(sorted(common))}" if common else "")


def python() -> list[str]:
    """Name, version and licence, as the distributions say."""
    found = {dist.metadata["Name"]: dist for dist in metadata.distributions()}
    return [
        f"{name} {dist.version}: {of_python(dist)}"
        for name, dist in sorted(found.items(), key=lambda it: it[0].lower())
    ]


def of_python(dist: metadata.Distribution) -> str:
    said = dist.metadata
    if expression := said.get("License-Expression"):
        return expression
    classifiers = [
        text.rpartition(" :: ")[2] for text in said.get_all("Classifier", []) if text.startswith("License ::")
    ]
    # Some put the whole text there; its first line says which one it is.
    first = next((line.strip() for line in said.get("License", "").splitlines() if line.strip()), "")
    return "; ".join(classifiers) or first or "not said"


if __name__ == "__main__":
    print("# Debian packages. The whole texts are in /usr/share/doc/*/copyright.")
    print("\n".join(debian()))
    print("\n# Python distributions. The whole texts are in their .dist-info folders.")
    print("\n".join(python()))
