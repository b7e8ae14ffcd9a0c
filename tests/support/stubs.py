"""Generates the Python client from proto/, as any user would, and makes it importable."""

import importlib.resources
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "target" / "python-client"


def generate() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    protos = sorted(path.relative_to(ROOT / "proto") for path in (ROOT / "proto/kernelbox/v1").glob("*.proto"))
    includes = [ROOT / "proto", importlib.resources.files("grpc_tools") / "_proto"]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--python_out={OUT}", f"--grpc_python_out={OUT}"]
    subprocess.run([*command, *(f"-I{path}" for path in includes), *map(str, protos)], check=True)
    sys.path.insert(0, str(OUT))
