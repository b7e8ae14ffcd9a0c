"""One server for all Python suites, and a client for each module."""

import pytest
from support.client import Client
from support.server import Server


@pytest.fixture(scope="session")
def server():
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    made = Client(server)
    yield made
    made.close()


@pytest.fixture
def session(client):
    name = client.create_session()
    yield name
    client.delete_session(name)
