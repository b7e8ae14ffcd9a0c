"""Entry point: `host LISTEN_PATH WARMUP`, `session FD WARMUP` or `kernel CONNECTION_FILE`.

It is run as a file, so it makes the package importable itself. It leaves no folder of its own on sys.path, where user
code would see it.
"""

import importlib.util
import os
import sys

PACKAGE = "kernelbox_kernel"
# What a zygote keeps of the environment that it was started with. Kernels get theirs with `begin`, nothing of this.
KEPT = {"HOME", "PATH", "TMPDIR", "TZ", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "MPLCONFIGDIR", "KERNELBOX_STATE_DIR"}


def load_package() -> None:
    """Make this file's folder importable as the package, without touching what user code can import."""
    folder = os.path.dirname(os.path.abspath(__file__))
    if sys.path and os.path.abspath(sys.path[0]) == folder:
        del sys.path[0]
    spec = importlib.util.spec_from_file_location(
        PACKAGE, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


def scrub_environment() -> None:
    """Start this program anew with an environment that holds no secrets.

    Deleting from os.environ would not do: /proc/self/environ of every process forked from this one shows what was there
    at exec.
    """
    from kernelbox_kernel.process import SANDBOX_PLACEHOLDER, SANDBOX_VARIABLE

    kept = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith("LC_")}
    kept[SANDBOX_VARIABLE] = SANDBOX_PLACEHOLDER
    if dict(os.environ) != kept:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], kept)


def main(arguments: list[str]) -> None:
    """Run the subcommand; in a forked child this returns when the child has done its work."""
    load_package()
    match arguments:
        case ["host", path, warm_up]:
            scrub_environment()
            from kernelbox_kernel import zygote

            zygote.run_host(path, warm_up)
        case ["session", descriptor, warm_up]:
            # Its environment is that of its kernels already, and nothing else. Libraries that read theirs when they are
            # imported, as where a cache is, must see it in the warm-up.
            from kernelbox_kernel import zygote

            zygote.run_session(int(descriptor), warm_up)
        case ["kernel", connection_file]:
            from kernelbox_kernel import kernel

            kernel.run(connection_file)
        case _:
            sys.exit("usage: host LISTEN_PATH WARMUP | session FD WARMUP | kernel CONNECTION_FILE")


if __name__ == "__main__":
    main(sys.argv[1:])
