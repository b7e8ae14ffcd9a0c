"""What the Python suites share: a server of their own, and a client generated from the contract."""

from support.stubs import generate

generate()
