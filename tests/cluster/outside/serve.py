"""The host outside the cluster: live data, a package index, and what listens at 169.254.169.254.

serve.py FOLDER PORT...
"""

import base64
import hashlib
import http.server
import json
import pathlib
import sys
import threading
import time
import zipfile

NAME, VERSION = "kernelbox_sample", "1.0"
WHEEL = f"{NAME}-{VERSION}-py3-none-any.whl"


def write_index(folder: pathlib.Path) -> None:
    """A simple repository (PEP 503) with one package."""
    project = folder / "simple" / NAME.replace("_", "-")
    project.mkdir(parents=True, exist_ok=True)
    info = f"{NAME}-{VERSION}.dist-info"
    files = {
        f"{NAME}.py": "WHERE = 'from outside'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: kernelbox\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},sha256={digest(text)},{len(text)}\n" for name, text in files.items())
    with zipfile.ZipFile(project / WHEEL, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")
    (project / "index.html").write_text(f'<!DOCTYPE html><a href="{WHEEL}">{WHEEL}</a>')


def digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path != "/now":
            return super().do_GET()
        body = json.dumps({"nanoseconds": time.time_ns()}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return None


def main(folder: str, *ports: str) -> None:
    write_index(pathlib.Path(folder))

    def handler(*args):
        return Handler(*args, directory=folder)

    for port in ports:
        server = http.server.ThreadingHTTPServer(("", int(port)), handler)
        threading.Thread(target=server.serve_forever).start()


main(*sys.argv[1:])
