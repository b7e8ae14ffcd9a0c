"""Every cell puts out the same, in the same order, through the server as with jupyter_client on an ordinary kernel."""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import pytest
from cells import Cell, load
from ours import Kernelbox
from outputs import diff
from reference import Reference

FILES = load()


@pytest.fixture(scope="module")
def both(client, tmp_path_factory):
    """Runs a file's cells on both sides at once, when the first of them is asked for."""
    runs: dict[str, tuple[Future, Future]] = {}

    def reference(file: str):
        with closing(Reference(str(tmp_path_factory.mktemp(file)))) as side:
            return side.run(FILES[file])

    def kernelbox(file: str):
        with closing(Kernelbox(client)) as side:
            return side.run(FILES[file])

    with ThreadPoolExecutor(2) as pool:

        def results(file: str):
            if file not in runs:
                runs[file] = (pool.submit(reference, file), pool.submit(kernelbox, file))
            return tuple(run.result() for run in runs[file])

        yield results


@pytest.mark.parametrize("cell", [cell for cells in FILES.values() for cell in cells], ids=lambda cell: cell.id)
def test_same_outputs(both, cell: Cell):
    expected, got = both(cell.file)
    if got[cell.id] != expected[cell.id]:
        pytest.fail(f"{cell.id} differs:\n{diff(expected[cell.id], got[cell.id])}", pytrace=False)


def test_there_are_enough_cells():
    assert sum(map(len, FILES.values())) >= 60
