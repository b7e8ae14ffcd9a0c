"""What a zygote imports before it forks, and how a child makes the imported libraries its own.

Imports must leave the zygote single-threaded: a fork copies only the thread that forks.
"""

import contextlib
import ctypes
import gc
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable

from kernelbox_kernel.process import log

# Read by the libraries that make a pool of threads when they are loaded.
THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
INLINE_BACKEND = "module://matplotlib_inline.backend_inline"
# The names under which builds of OpenBLAS offer the setting of their thread count.
OPENBLAS_SETTERS = (
    "scipy_openblas_set_num_threads64_",
    "scipy_openblas_set_num_threads",
    "openblas_set_num_threads64_",
    "openblas_set_num_threads",
)
# What a kernel imports between its start and its first few answers. Versions differ: one that is not there is skipped.
LATE_MODULES = (
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.logger",
    "IPython.core.magics.ast_mod",
    "IPython.core.magics.execution",
    "IPython.core.magics.namespace",
    "IPython.core.oinspect",
    "IPython.core.pylabtools",
    "IPython.extensions.storemagic",
    "IPython.utils.timing",
    "encodings.idna",
    "faulthandler",
    "ipykernel.debugger",
    "mimetypes",
    "pexpect",
    "pygments.formatters.terminal256",
    "sqlite3",
    "stack_data",
    "tornado.platform.asyncio",
)
# The same of warm-up libraries, when they are first used.
COMPANIONS = {
    "matplotlib.pyplot": (
        "PIL.BmpImagePlugin",
        "PIL.GifImagePlugin",
        "PIL.JpegImagePlugin",
        "PIL.PngImagePlugin",
        "PIL.PpmImagePlugin",
        "matplotlib.backends.backend_agg",
    ),
    "pandas": ("pandas.io.formats.html",),
}

_blas_setters: list[Callable[[int], None]] = []


def load(modules: list[str]) -> None:
    """Import the kernel and the warm-up libraries. One that cannot be imported is logged and left out."""
    os.environ["MPLBACKEND"] = INLINE_BACKEND
    cache = os.environ.get("KERNELBOX_STATE_DIR")
    if cache and "MPLCONFIGDIR" not in os.environ:
        os.environ["MPLCONFIGDIR"] = os.path.join(cache, "matplotlib")
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # else debugpy writes a warning
    from kernelbox_kernel import imports, kernel, variables  # noqa: F401

    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:
            log(f"warm-up import of {name} failed: {type(error).__name__}: {error}")
    companions = [name for library in COMPANIONS.keys() & sys.modules.keys() for name in COMPANIONS[library]]
    for name in [*LATE_MODULES, *companions]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # This one hooks into the shell when it is imported. There is none here, and figures would be lost: children import
    # it anew.
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib_inline"]:
        del sys.modules[name]
    imports.table()
    _find_blas()
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        log(f"{threads} threads after the warm-up: a library started some, and children will lack them")
    # What is here stays: the collector neither looks at it nor, by looking, copies its memory into every child.
    gc.collect()
    gc.disable()
    gc.freeze()


def _find_blas() -> None:
    """Remember how to tell each loaded OpenBLAS its number of threads: it read the environment only once."""
    with open("/proc/self/maps") as maps:
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if "openblas" in line}
    for path in sorted(paths):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for name in OPENBLAS_SETTERS:
            if hasattr(library, name):
                setter = getattr(library, name)
                setter.argtypes, setter.restype = [ctypes.c_int], None
                _blas_setters.append(setter)
                break


def make_own() -> None:
    """Make what was imported before the fork the child's own: called in a forked kernel, its environment in place."""
    gc.enable()
    # Python reseeds its own `random` at a fork; numpy's global generator has to be told.
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()
    # Imported without a shell, pandas took a terminal's word for the width of tables.
    if pandas := sys.modules.get("pandas"):
        pandas.set_option("display.max_columns", 20)
    wanted = next((os.environ[name] for name in THREAD_VARIABLES[:2] if name in os.environ), "")
    threads = int(wanted) if wanted.isdigit() and int(wanted) > 0 else len(os.sched_getaffinity(0))
    for setter in _blas_setters:
        setter(threads)


def forget_places() -> None:
    """Drop what libraries remember of the environment and folders in which they were imported."""
    tempfile.tempdir = None
    time.tzset()
    importlib.invalidate_caches()
    matplotlib = sys.modules.get("matplotlib")
    for name in ("get_configdir", "get_cachedir"):
        remembered = getattr(matplotlib, name, None)
        if original := getattr(remembered, "__wrapped__", None):
            setattr(matplotlib, name, _once(original))
    folder = os.environ.get("MPLCONFIGDIR", "")
    for name in ("matplotlib.style", "matplotlib.style.core"):
        if paths := getattr(sys.modules.get(name), "USER_LIBRARY_PATHS", None):
            paths[:] = [os.path.join(folder, "stylelib")]
    tex = getattr(sys.modules.get("matplotlib.texmanager"), "TexManager", None)
    for name in ("_cache_dir", "_texcache"):
        if cache := getattr(tex, name, None):
            setattr(tex, name, type(cache)(os.path.join(folder, "tex.cache")))


def _once(function: Callable[..., str]) -> Callable[..., str]:
    """As the function that matplotlib has in its place: called once, at first need."""
    answers: list[str] = []

    def remembered(**options: str) -> str:
        if not answers:
            answers.append(function(**options))
        return answers[0]

    remembered.__wrapped__ = function
    return remembered
