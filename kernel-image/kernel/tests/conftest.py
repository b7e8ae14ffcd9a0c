"""What the tests are given: a host zygote, sessions of it, and clients of kernels forked there."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver import Client, Host, Session


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="kb"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    """A host zygote with the usual libraries, shared."""
    host = Host(env={"KERNELBOX_TEST_SECRET": "of the host"})
    yield host
    host.close()


@pytest.fixture
def session(host: Host) -> Iterator[Session]:
    """A session of one test."""
    session = host.session()
    yield session
    session.close()


@pytest.fixture
def bare_host() -> Iterator[Host]:
    """A host zygote without libraries, of one test."""
    host = Host(warm_up="")
    yield host
    host.close()


@pytest.fixture(scope="module")
def shared_session(host: Host) -> Iterator[Session]:
    """A session of one module."""
    session = host.session()
    yield session
    session.close()


@pytest.fixture(scope="module")
def client(shared_session: Session) -> Client:
    """A kernel that the tests of a module share."""
    return shared_session.kernel()[1]
