"""The client address behind trusted proxies."""

from ipaddress import ip_network

import pytest

from gateway.wire.addresses import TrustedProxies
from gateway.wire.forwarded import client_address

PROXIES = TrustedProxies([ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")])


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        (b"203.0.113.9", "203.0.113.9"),
        (b"203.0.113.9, 10.0.0.7", "203.0.113.9"),
        (b"127.0.0.1, 203.0.113.9, 10.0.0.7", "203.0.113.9"),  # the rest to the left is a claim of 203.0.113.9
        (b"203.0.113.9:4711", "203.0.113.9"),
        (b"[2001:4860::8888]:443, 2001:db8::1", "2001:4860::8888"),
        (b"10.0.0.9, 10.0.0.7", "10.0.0.9"),
        (b"unknown", "10.0.0.1"),
        (b"evil, 10.0.0.7", "10.0.0.7"),
        (b"", "10.0.0.1"),
        (b"\xff\xfe, 10.0.0.7", "10.0.0.7"),
    ],
)
def test_the_caller_is_the_last_address_that_no_proxy_of_ours_has(forwarded_for: bytes, client: str) -> None:
    assert client_address("10.0.0.1", forwarded_for, PROXIES) == client


@pytest.mark.parametrize(("hops", "client"), [(31, "203.0.113.9"), (32, "10.0.0.7"), (5_000, "10.0.0.7")])
def test_a_chain_of_more_than_32_proxies_is_not_followed(hops: int, client: str) -> None:
    """Each address takes microseconds to parse, and a field of 32 KiB contains 3,000 of them."""
    chain = b", ".join([b"203.0.113.9", *[b"10.0.0.7"] * hops])
    assert client_address("10.0.0.1", chain, PROXIES) == client


def test_caches_filled_by_clients_are_bounded() -> None:
    proxies = TrustedProxies([ip_network("10.0.0.0/8")])
    for number in range(10_000):
        address = f"192.0.{number // 250}.{number % 250}"
        assert client_address("10.0.0.1", address.encode(), proxies) == address
        assert client_address("10.0.0.1", address.encode(), proxies) == address
    assert client_address("10.0.0.1", b"x" * 100_000 + b", 192.0.2.1", proxies) == "192.0.2.1"
    assert len(proxies.clients) <= 4096
    assert max(len(value) for _, value in proxies.clients) <= 256
