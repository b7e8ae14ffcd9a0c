"""pip, as code in a sandbox calls it: what it installs goes beside the workspace, and the environment stays as it is.

pip itself finds out what is lacking, with the environment's own versions as given: another version of something that
is there is a conflict, and told as one. What is lacking is installed exactly as it was found.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Whoever says where packages go is obeyed.
PLACES = ("-t", "--target", "--prefix", "--root", "--user", "-e", "--editable", "--dry-run", "-h", "--help")
# What holds for the second step as well: where packages come from, and how they are built.
SOURCES = ("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--trusted-host")
CONNECTION = ("--proxy", "--cert", "--client-cert", "--timeout", "--retries")
WITH_VALUE = (*SOURCES, *CONNECTION, "-C", "--config-settings")
ALONE = ("--no-index", "--no-build-isolation", "--isolated", "-q", "--quiet", "-v", "--verbose")
# How the installer of a template's sandboxes is told the same.
SETTINGS = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_TRUSTED_HOST": "UV_INSECURE_HOST",
}


def main(arguments: list[str]) -> int:
    """Be pip; answer its exit code."""
    packages = os.environ.pop("KERNELBOX_PACKAGES")
    if arguments[:1] != ["install"] or any(_option(argument) in PLACES for argument in arguments):
        return _pip(arguments, packages).returncode
    with tempfile.TemporaryDirectory() as folder:
        return _install(arguments[1:], packages, Path(folder))


def _install(arguments: list[str], packages: str, folder: Path) -> int:
    given, report, pins = folder / "given.txt", folder / "report.json", folder / "pins.txt"
    given.write_text("".join(f"{pin}\n" for pin in sorted(_environments_own(packages))))
    cache = ["--cache-dir", str(folder / "cache")]
    look = ["install", "--dry-run", "--report", str(report), "--constraint", str(given)]
    looked = _pip([*look, *arguments, *cache], packages, stdout=subprocess.PIPE)
    if looked.returncode or not report.exists():
        # Of what is in conflict with what it speaks there, not among the errors.
        sys.stdout.buffer.write(looked.stdout)
        return looked.returncode
    lacking = json.loads(report.read_text())["install"]
    if not lacking:
        print("Nothing to install: all of it is there.")
        return 0
    pins.write_text("".join(f"{_pin(item)}\n" for item in lacking))
    put = ["install", "--target", packages, "--no-deps", "--upgrade", "--requirement", str(pins)]
    done = _pip([*put, *_kept(arguments), *cache], packages)
    if done.returncode == 0:
        _forget_earlier(Path(packages), [item["metadata"] for item in lacking])
    return done.returncode


def _environments_own(packages: str) -> set[str]:
    own = [folder for folder in sys.path[1:] if folder != packages]
    found = importlib.metadata.distributions(path=own)
    return {f"{it.metadata['Name']}=={it.version}" for it in found if it.metadata["Name"]}


def _pin(item: dict[str, Any]) -> str:
    """The very file, or commit, that was found. https://packaging.python.org/specifications/direct-url-data-structure"""
    name, source = item["metadata"]["name"], item["download_info"]
    url, after = source["url"], []
    if "vcs_info" in source:
        url = f"{source['vcs_info']['vcs']}+{url}@{source['vcs_info']['commit_id']}"
    if digest := source.get("archive_info", {}).get("hashes", {}).get("sha256"):
        after.append(f"sha256={digest}")
    if "subdirectory" in source:
        after.append(f"subdirectory={source['subdirectory']}")
    return f"{name} @ {url}" + ("#" + "&".join(after) if after else "")


def _kept(arguments: list[str]) -> list[str]:
    kept, rest = [], iter(arguments)
    for argument in rest:
        option, has_value = _option(argument), "=" in argument
        if option in WITH_VALUE and not has_value:
            kept += [argument, next(rest, "")]
        elif option in WITH_VALUE or option in ALONE:
            kept.append(argument)
    return kept


def _forget_earlier(packages: Path, installed: list[dict[str, Any]]) -> None:
    """With a target pip puts a new version's files over the old one's, and leaves both versions' metadata."""
    versions = {_normal(it["name"]): it["version"] for it in installed}
    for folder in packages.glob("*.dist-info"):
        name, _, version = folder.name.removesuffix(".dist-info").partition("-")
        if versions.get(_normal(name), version) != version:
            shutil.rmtree(folder)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _option(argument: str) -> str:
    return argument.partition("=")[0]


def _pip(arguments: list[str], packages: str, stdout: int | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run pip itself. It sees what was installed before, and goes to the index that uv is told of."""
    before = os.environ.get("PYTHONPATH")
    of_uv = {pips: os.environ[uvs] for pips, uvs in SETTINGS.items() if uvs in os.environ}
    environment = {
        **of_uv,
        **os.environ,
        "PYTHONPATH": f"{packages}:{before}" if before else packages,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }
    pip = [sys.executable, "-m", "pip", *arguments]
    return subprocess.run(pip, env=environment, stdout=stdout, check=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
