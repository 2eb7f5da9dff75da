"""Fixtures live in tests/support, one file for each kind of real server; this file only names them."""

pytest_plugins = [
    "tests.support.valkey",
    "tests.support.postgres",
    "tests.support.upstreams",
    "tests.support.gateways",
]
