"""The canonical host of a request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Refusal
from gateway.wire.hosts import canonical_host


@pytest.mark.parametrize(
    ("raw", "host"),
    [
        (b"example.com", b"example.com"),
        (b"ADMIN.Example.COM", b"admin.example.com"),
        (b"example.com.", b"example.com"),
        (b"example.com:443", b"example.com"),
        (b"example.com.:443", b"example.com"),
        (b"example.com:", b"example.com"),
        (b"example.com:0", b"example.com"),
        (b"example.com:65535", b"example.com"),
        (b"localhost", b"localhost"),
        (b"my_service-1:8080", b"my_service-1"),
        (b"127.0.0.1:8000", b"127.0.0.1"),
        (b"[::1]", b"[::1]"),
        (b"[::1]:8000", b"[::1]"),
        (b"[0:0:0:0:0:0:0:1]", b"[::1]"),
        (b"[2001:DB8::0A]:1", b"[2001:db8::a]"),
        (b"xn--bcher-kva.example", b"xn--bcher-kva.example"),
        (b"a" * 63 + b"." + b"b" * 63, b"a" * 63 + b"." + b"b" * 63),
    ],
)
def test_a_host_has_one_name(raw: bytes, host: bytes) -> None:
    assert canonical_host(raw) == host
    assert canonical_host(host) == host


@pytest.mark.parametrize(
    "raw",
    [
        b"", b".", b"..", b":", b":80", b".example.com", b"example..com", b"example.com..",
        b"example.com:80:80",
        b"example.com:port", b"example.com:65536", b"example.com:999999", b"example.com:-1",
        b"example.com:8_0",
        b"example.com/x", b"a/public/x?y=", b"example.com?x", b"example.com#x", b"user@example.com", b"a:b@c",
        b"example.com,evil.example", b"example.com evil", b" example.com", b"example.com ", b"example.com\t",
        b"example.com\r\n", b"example\x00.com", b"ex%61mple.com", b"b\xc3\xbccher.example", b"*.example.com",
        b"[::1", b"::1", b"[::1]x", b"[::1].", b"[]", b"[:]", b"[1::2::3]", b"[fe80::1%eth0]", b"[v1.a]",
        b"[1.2.3.4]",
        b"[" + b"0" * 50 + b"]", b"a." * 126 + b"aa", b"a" * 254, b"http://example.com", b"\\example.com",
    ],
)  # fmt: skip
def test_a_malformed_host_is_refused(raw: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        canonical_host(raw)
    assert caught.value.code == "bad_host"


def test_the_longest_name_is_accepted() -> None:
    longest = b"a." * 126 + b"a"
    assert len(longest) == 253
    assert canonical_host(longest + b".") == longest


def test_the_starlette_advisory_of_a_path_in_the_host_is_refused() -> None:
    """CVE-2026-48710: `Host: example.com/abc?bar=` changed the path that the application saw."""
    with pytest.raises(Refusal):
        canonical_host(b"example.com/abc?bar=")


@given(st.binary(max_size=40))
def test_a_host_is_refused_or_canonical_and_stays_so(raw: bytes) -> None:
    try:
        host = canonical_host(raw)
    except Refusal as refusal:
        assert refusal.code == "bad_host"
    else:
        assert canonical_host(host) == host
        assert host == host.lower()


def test_the_memory_of_hosts_is_bounded() -> None:
    for number in range(10_000):
        canonical_host(b"h%d.example" % number)
    assert canonical_host.cache_info().currsize <= 4096  # type: ignore[attr-defined]
