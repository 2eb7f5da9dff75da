"""Matching peer addresses."""

from ipaddress import ip_network

import pytest

from gateway.wire.addresses import Networks, TrustedProxies
from tests.support.memory import strings_in

TRUSTED = TrustedProxies([ip_network("10.0.0.0/8"), ip_network("192.0.2.7/32"), ip_network("2001:db8::/32")])


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("10.1.2.3", True),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("11.0.0.1", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.0.0.1", False),
        ("2001:db8::1%eth0", True),
        ("", False),
        ("/run/gateway.sock", False),
        ("010.1.2.3", False),
        ("10.1.2.3:80", False),
        ("localhost", False),
    ],
)
def test_a_peer_is_trusted_only_inside_a_named_network(peer: str, trusted: bool) -> None:
    assert TRUSTED.trusts(peer) is trusted
    assert TRUSTED.trusts(peer) is trusted  # and the cached result is the same


def test_without_networks_no_peer_is_trusted() -> None:
    assert not TrustedProxies([]).trusts("127.0.0.1")


def test_the_memory_of_peers_is_bounded_and_answers_stay_right() -> None:
    networks = Networks([ip_network("10.0.0.0/16")])
    held = strings_in(networks)
    for number in range(10_000):
        assert networks.contains(f"10.{number % 4}.{number // 256}.{number % 256}") is (number % 4 == 0)
    assert strings_in(networks) <= held + 4096
