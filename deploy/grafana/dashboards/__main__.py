"""Writes Grafana's dashboards as JSON: dashboards FOLDER. What is in them, each one's module says."""

import json
import sys
from pathlib import Path

import agent
import gpu
import internals
import overview
import sandboxes
from grafana_foundation_sdk.cog.encoder import JSONEncoder

MODULES = (overview, sandboxes, agent, gpu, internals)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for module in MODULES:
        written = json.dumps(module.dashboard(), cls=JSONEncoder, sort_keys=True, indent=1)
        (folder / f"{module.__name__}.json").write_text(written + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
