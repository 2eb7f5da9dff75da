"""The proof that a request comes from an own page, and the addresses that a redirect accepts."""

import pytest

from gateway.wire.own_pages import OwnOrigins

OWN = OwnOrigins(("https://app.example.com", "https://admin.example.com:8443"))

PROOFS = [
    ("Sec-Fetch-Site: same-origin",),
    ("Sec-Fetch-Site: same-origin", "Origin: null"),
    ("Sec-Fetch-Site: same-origin", "Origin: https://app.example.com"),
    ("sec-fetch-site:  same-origin ",),
    ("Origin: https://app.example.com",),
    ("origin: HTTPS://App.Example.com",),
    ("Origin: https://admin.example.com:8443",),
    ("Origin: https://app.example.com", "Sec-Fetch-Site: cross-site"),
    ("Origin: https://app.example.com", "Sec-Fetch-Site: same-site"),
    ("Origin: https://app.example.com", "Sec-Fetch-Site: nonsense"),
]
NO_PROOFS = [
    ((), "neither Origin nor Sec-Fetch-Site"),
    (("Origin: null",), "neither Origin nor Sec-Fetch-Site"),
    (("Origin: ",), "Origin is not listed"),
    (("Origin: ", "Sec-Fetch-Site: same-origin"), "Origin is not listed"),
    (("Origin: https://evil.example",), "Origin is not listed"),
    (("Origin: https://evil.example", "Sec-Fetch-Site: same-origin"), "Origin is not listed"),
    (("Origin: https://x.example.com", "Sec-Fetch-Site: same-site"), "Origin is not listed"),
    (("Origin: http://app.example.com",), "Origin is not listed"),
    (("Origin: https://app.example.com:443",), "Origin is not listed"),
    (("Origin: https://app.example.com/",), "Origin is not listed"),
    (("Origin: https://app.example.com.evil.example",), "Origin is not listed"),
    (("Origin: https://admin.example.com",), "Origin is not listed"),
    (("Origin: https://app.example.com https://evil.example",), "Origin is not listed"),
    (("Origin: https://app.example.com", "Origin: https://app.example.com"), "several Origin fields"),
    (("Origin: null", "Origin: null", "Sec-Fetch-Site: same-origin"), "several Origin fields"),
    (("Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: same-origin"), "several Sec-Fetch-Site fields"),
    (
        ("Origin: https://app.example.com", "Sec-Fetch-Site: none", "Sec-Fetch-Site: none"),
        "several Sec-Fetch-Site fields",
    ),
    (("Sec-Fetch-Site: same-site",), "Sec-Fetch-Site is not same-origin"),
    (("Sec-Fetch-Site: none",), "Sec-Fetch-Site is not same-origin"),
    (("Sec-Fetch-Site: Same-Origin",), "Sec-Fetch-Site is not same-origin"),
    (("Sec-Fetch-Site: same-origin, same-origin",), "Sec-Fetch-Site is not same-origin"),
    (("Sec-Fetch-Site: cross-site", "Origin: null"), "Sec-Fetch-Site is not same-origin"),
    (("Sec_Fetch_Site: same-origin",), "neither Origin nor Sec-Fetch-Site"),
    (("X-Origin: https://app.example.com",), "neither Origin nor Sec-Fetch-Site"),
    (("Referer: https://app.example.com/form",), "neither Origin nor Sec-Fetch-Site"),
]


def fields(lines: tuple[str, ...]) -> list[tuple[bytes, bytes]]:
    pairs = (line.partition(":") for line in lines)
    return [(name.encode(), value.encode()) for name, _, value in pairs]


@pytest.mark.parametrize("lines", PROOFS, ids="; ".join)
def test_an_own_page_proves_itself(lines: tuple[str, ...]) -> None:
    assert OWN.missing_proof(fields(lines)) == ""


@pytest.mark.parametrize(("lines", "missing"), NO_PROOFS, ids=lambda value: "; ".join(value) or "nothing")
def test_everything_else_proves_nothing_and_names_the_field(lines: tuple[str, ...], missing: str) -> None:
    assert OWN.missing_proof(fields(lines)) == missing


def test_the_hosts_of_the_origins_have_neither_port_nor_brackets_of_another_spelling() -> None:
    own = OwnOrigins(("http://[::1]:8000", "http://localhost:5173"))

    assert own.hosts == {b"[::1]", b"localhost"}
    assert own.at(b"localhost") == "http://localhost:5173"
    assert own.at(b"other.example") == own.at(None) == own.main == "http://[::1]:8000"


SAFE = [
    "/",
    "/orders",
    "/orders?page=2&sort=a%2Fb",
    "/a%20b",
    "/orders?next=//evil.example",
    "https://app.example.com",
    "https://app.example.com/orders?x=1",
    "HTTPS://APP.example.com/",
    "https://app.example.com?x=1",
    "https://admin.example.com:8443/x",
]
UNSAFE = [
    "",
    "orders",
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t//evil.example",
    "/\n/evil.example",
    "/.//evil.example",
    "/..//evil.example",
    "/%2f/evil.example",
    "/%5cevil.example",
    "/%2e%2e/x",
    "/orders?x=\\evil",
    "/orders#fragment",
    "/ orders",
    "/ördner",
    "/a%00b",
    "//evil.example@app.example.com",
    "https:/evil.example",
    "https:evil.example",
    "https://evil.example",
    "https://app.example.com.evil.example",
    "https://app.example.com@evil.example",
    "https://app.example.com:443@evil.example/",
    "https://app.example.com\\@evil.example",
    "https://app.example.com//evil.example",
    "http://app.example.com/",
    "https://admin.example.com/",
    "javascript:alert(1)",
    "data:text/html,x",
    "mailto:a@b.example",
    "/" + "x" * 8192,
]


@pytest.mark.parametrize("address", SAFE)
def test_a_redirect_can_lead_to_an_own_address(address: str) -> None:
    assert OWN.is_safe_return(address, relaxed=False)


@pytest.mark.parametrize("address", UNSAFE)
@pytest.mark.parametrize("relaxed", [False, True])
def test_a_redirect_leads_nowhere_else(address: str, relaxed: bool) -> None:
    assert not OWN.is_safe_return(address, relaxed=relaxed)


def test_relaxed_paths_are_those_of_the_policy() -> None:
    assert OWN.is_safe_return("/a;b=1", relaxed=True)
    assert not OWN.is_safe_return("/a;b=1", relaxed=False)
