"""D, for external issuers: a token makes statements only for its issuer, and never for a local user.

The issuers are real HTTP servers on loopback. Both publish a key named `r1`, as real issuers do.
"""

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization

from tests.support.expectations import passes, refuses
from tests.support.gateways import Gateways, signed_in
from tests.support.issuers import DISCOVERY, JWKS, Issuer, jwk_of
from tests.support.processes import Face, Gateway
from tests.support.raw import Answer
from tests.support.recording import RecordingUpstream
from tests.support.token_factory import Sign, TokenFactory, token, unsigned, with_curve, with_rsa
from tests.support.wording import bearer, request

Present = Callable[..., Answer]


@dataclass(frozen=True, slots=True)
class Environment:
    """A gateway that accepts two issuers: `idp` by discovery, `other` by the URL of its keys."""

    gateway: Gateway
    idp: Issuer
    other: Issuer

    def admits(self, upstream: RecordingUpstream, credential: str, path: str = "/api/x") -> dict[str, list[bytes]]:
        """Send a request that must be allowed, and return the identity received by the upstream."""
        received = passes(self.gateway, upstream, request(path, fields=[bearer(credential)]))
        return {name: received.values(f"x-user-{name}") for name in ("id", "email", "roles")}


@pytest.fixture(scope="module")
def issuers() -> Iterator[tuple[Issuer, Issuer]]:
    idp, other = Issuer().start(), Issuer(audience="other-api", rsa_key=1).start()
    yield idp, other
    idp.stop()
    other.stop()


@pytest.fixture(scope="module")
def environment(gateways: Gateways, face: Face, issuers: tuple[Issuer, Issuer]) -> Environment:
    idp, other = issuers
    external = [idp.settings("idp"), other.settings("other", jwks_url=other.url + JWKS)]
    return Environment(gateways.gateway("external", face, tokens={"external": external}), idp, other)


@pytest.fixture
def present(environment: Environment, upstream: RecordingUpstream) -> Present:
    def check(presented: str | bytes, *codes: str) -> Answer:
        data = request("/api/x", fields=[bearer(presented)])
        answer = refuses(environment.gateway, upstream, data, 401, codes or ("token_invalid",))
        assert b'error="invalid_token"' in (answer.value("www-authenticate") or b"")
        return answer

    return check


# ---- accepted tokens


def test_both_issuers_are_accepted_and_distinguished(environment: Environment, upstream: RecordingUpstream) -> None:
    """The precondition of all refusals below."""
    identity = environment.admits(upstream, environment.idp.token(roles=["idp-editors"], email="bob@idp.example"))
    assert identity == {"id": [b"idp|bob"], "email": [b"bob@idp.example"], "roles": [b"editor,user"]}
    assert environment.admits(upstream, environment.other.token())["id"] == [b"other|bob"]
    assert environment.admits(upstream, environment.idp.curve_token("carl"))["id"] == [b"idp|carl"]


def test_roles_are_the_mapped_ones_and_those_that_they_imply(
    environment: Environment, upstream: RecordingUpstream
) -> None:
    assert environment.admits(upstream, environment.idp.token(roles=["idp-admins"]), "/admin/x")["roles"] == [
        b"admin,editor,user"
    ]
    for roles in (["admin"], ["idp-editors"], [], None):
        data = request("/admin/x", fields=[bearer(environment.idp.token(roles=roles))])
        refuses(environment.gateway, upstream, data, 403, "forbidden")


def test_CVE_2021_32701_each_token_has_its_own_roles(environment: Environment, upstream: RecordingUpstream) -> None:
    """The same subject with more and with fewer roles, alternating: cached roles of one token never apply to the
    other."""
    admin, plain = environment.idp.token("dora", roles=["idp-admins"]), environment.idp.token("dora")
    for _ in range(3):
        environment.admits(upstream, admin, "/admin/x")
        refuses(environment.gateway, upstream, request("/admin/x", fields=[bearer(plain)]), 403, "forbidden")


def test_an_external_subject_owns_its_own_paths_and_none_of_a_local_user(
    environment: Environment, upstream: RecordingUpstream
) -> None:
    user = signed_in(environment.gateway, "user@example.com")
    stranger = environment.idp.token(user.id)
    assert environment.admits(upstream, stranger)["id"] == [f"idp|{user.id}".encode()]
    for path in (f"/mine/{user.id}", f"/users/{user.id}/x"):
        refuses(environment.gateway, upstream, request(path, fields=[bearer(stranger)]), 403, "forbidden")
    environment.admits(upstream, stranger, f"/mine/idp%7C{user.id}")


def test_on_an_optional_route_a_bad_one_is_anonymous(environment: Environment, upstream: RecordingUpstream) -> None:
    assert environment.admits(upstream, environment.idp.token(), "/optional/x")["id"] == [b"idp|bob"]
    bad = (environment.idp.token(aud="else"), environment.idp.token(header=environment.idp.header(kid="unknown")))
    for credential in bad:
        assert environment.admits(upstream, credential, "/optional/x")["id"] == []


# ---- the issuer of a token


def test_two_issuers_with_the_same_kid_are_not_mixed_up(environment: Environment, present: Present) -> None:
    """The key is looked up only at the issuer named by the token."""
    idp, other = environment.idp, environment.other
    present(token(idp.header(), idp.claims(), other.sign))
    present(token(other.header(), other.claims(), idp.sign))
    present(token(other.header(), other.claims(aud=["api", "other-api"]), idp.sign))


def test_CVE_2026_33496_a_token_verified_for_one_issuer_is_not_accepted_for_another(
    environment: Environment, upstream: RecordingUpstream, present: Present
) -> None:
    good = environment.idp.token("eve")
    environment.admits(upstream, good)
    header, _, signature = good.split(".")
    forged = token(
        environment.idp.header(), environment.idp.claims("eve", iss=environment.other.url, aud="other-api"), unsigned
    )
    present(".".join((header, forged.split(".")[1], signature)))
    assert environment.admits(upstream, good)["id"] == [b"idp|eve"]


def test_no_issuer_can_speak_for_the_gateway(
    environment: Environment, present: Present, token_factory: TokenFactory, upstream: RecordingUpstream
) -> None:
    """Local claims need a local key, independent of the kid of published keys. No `sub` equals a local user id."""
    user = signed_in(environment.gateway, "admin@example.com")
    idp = environment.idp
    local = token_factory.claims(user.token)
    for header in (idp.header(), idp.header(kid="k1"), idp.header(kid="k1", alg="ES256")):
        present(token(header, local, idp.sign))
    present(token(idp.header(alg="ES256", kid="k1"), local, with_curve(idp.curve)))
    # The gateway cannot issue tokens for an issuer either.
    present(token(token_factory.header(), idp.claims(), with_curve(token_factory.curve)))
    present(token(token_factory.header(typ="at+jwt"), idp.claims(aud="api"), with_curve(token_factory.curve)))
    present(token_factory.good(user.token, sub="idp|bob"))
    assert environment.admits(upstream, user.token)["id"] == [user.id.encode()]


# ---- algorithms and keys


def hmac_with(secret: bytes) -> Sign:
    return lambda message: hmac.new(secret, message, hashlib.sha256).digest()


def test_CVE_2022_29217_a_published_key_is_no_secret(environment: Environment, present: Present) -> None:
    """CVE-2026-48526: PEM, JWK and JWKS texts as HMAC secrets."""
    idp = environment.idp
    pem = idp.rsa.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem, pem.strip(), json.dumps(idp.keys[0]).encode(), json.dumps({"keys": idp.keys}).encode(), b""):
        present(token(idp.header(alg="HS256"), idp.claims(), hmac_with(secret)))


def test_algorithms_that_are_not_the_keys_or_not_accepted(environment: Environment, present: Present) -> None:
    """CVE-2026-48523, and variants of `none`."""
    idp = environment.idp
    present(token(idp.header(alg="RS512"), idp.claims(), with_rsa(idp.rsa, hashes.SHA512())))
    present(token(idp.header(), idp.claims(), with_rsa(idp.rsa, hashes.SHA512())))
    present(token(idp.header(alg="ES256"), idp.claims(), with_curve(idp.curve)))
    for name in ("none", "None", "nOnE", ""):
        present(token(idp.header(alg=name), idp.claims(), unsigned))
    present(token(idp.header(alg=None), idp.claims(), idp.sign))


def test_keys_that_a_token_brings_or_points_to(
    environment: Environment, present: Present, token_factory: TokenFactory
) -> None:
    asked = environment.other.asked.copy()
    own = jwk_of(token_factory.rsa, "mine")
    elsewhere = environment.other.url + "/evil"
    for members in ({"jwk": own}, {"jku": elsewhere}, {"x5u": elsewhere}, {"kid": "../../../../dev/null"}):
        header = environment.idp.header(kid="mine") | members
        present(token(header, environment.idp.claims(), with_rsa(token_factory.rsa, hashes.SHA256())))
    assert environment.other.asked == asked


def test_CVE_2026_32597_extensions_that_must_be_understood(environment: Environment, present: Present) -> None:
    cases: list[dict[str, Any]] = [{"crit": ["x"]}, {"crit": []}, {"b64": False, "crit": ["b64"]}]
    for members in cases:
        present(environment.idp.token(header=environment.idp.header() | members))


# ---- the type of a token


def test_other_tokens_of_the_same_issuer_are_no_access_tokens(environment: Environment, present: Present) -> None:
    idp = environment.idp
    for kind in ("id+jwt", "logout+jwt", "dpop+jwt", "identity+jwt", "secevent+jwt", "x", ""):
        present(idp.token(header=idp.header(typ=kind)))
    cases: list[dict[str, Any]] = [
        {"typ": "ID"},
        {"typ": "Refresh"},
        {"token_use": "id"},
        {"at_hash": "x"},
        {"events": {}},
        {"cnf": {"jkt": "x"}},
    ]
    for claims in cases:
        present(idp.token(header=idp.header(typ="JWT"), **claims))


def test_claims_that_are_missing_wrong_or_out_of_time(environment: Environment, present: Present) -> None:
    """Kong `claims_to_verify`, APISIX #13468."""
    idp, now = environment.idp, int(time.time())
    wrong: list[dict[str, Any]] = [
        {"exp": None},
        {"exp": str(now + 600)},
        {"exp": float("inf")},
        {"exp": 1e400},
        {"exp": True},
        {"iat": None},
        {"iat": now + 3600},
        {"nbf": now + 3600},
        {"nbf": "0"},
        {"aud": None},
        {"aud": "web"},
        {"aud": "api web"},
        {"sub": None},
        {"sub": ""},
        {"sub": 1},
        {"sub": "bob\r\nX-User-Roles: admin"},
    ]
    for changes in wrong:
        present(idp.token(**changes))
    present(idp.token(exp=now - 60), "token_expired")


# ---- external principals at built-in endpoints


def test_me_names_the_subject_and_has_no_creation_time(environment: Environment) -> None:
    credential = environment.idp.token("frank", roles=["idp-admins"], email="frank@idp.example")
    answer = environment.gateway.ask(request("/auth/me", fields=[bearer(credential)]))
    assert answer.status == 200 and answer.json() == {
        "id": "idp|frank",
        "email": "frank@idp.example",
        "is_active": True,
        "roles": ["admin"],
        "created_at": None,
        "email_verified": False,
        "has_password": False,
        "second_factors": [],
    }


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/auth/logout", b""),
        ("POST", "/auth/logout-all", b""),
        ("POST", "/auth/password", b'{"current_password": "a", "new_password": "correct horse battery"}'),
        ("GET", "/auth/sessions", b""),
        ("DELETE", "/auth/sessions/x", b""),
        ("GET", "/auth/api-keys", b""),
        ("POST", "/auth/api-keys", b'{"name": "ci"}'),
        ("DELETE", "/auth/api-keys/x", b""),
    ],
)
def test_endpoints_that_need_an_account_are_forbidden(
    environment: Environment, method: str, path: str, body: bytes
) -> None:
    fields = [bearer(environment.idp.token(roles=["idp-admins"])), b"Content-Type: application/json"]
    answer = environment.gateway.ask(request(path, method=method, fields=fields, body=body))
    assert answer.refused() == (403, "forbidden"), answer.body


# ---- issuers that are down or change their keys


@pytest.fixture
def own_environment(gateways: Gateways, face: Face) -> Iterator[Environment]:
    """A separate issuer and gateway."""
    idp = Issuer().start()
    gateway = gateways.gateway(f"external-{idp.port}", face, tokens={"external": [idp.settings()]})
    yield Environment(gateway, idp, idp)
    idp.stop()


def test_CVE_2025_64527_an_issuer_that_is_out(own_environment: Environment, upstream: RecordingUpstream) -> None:
    """Known keys keep working, unknown ones give 401 and never 500, fetches are limited, and the gateway stays up."""
    gateway, idp = own_environment.gateway, own_environment.idp
    own_environment.admits(upstream, idp.token())
    idp.stop()
    own_environment.admits(upstream, idp.token("not seen before"))
    for number in range(5):
        unknown = idp.token(header=idp.header(kid=f"new-{number}"))
        refuses(gateway, upstream, request("/api/x", fields=[bearer(unknown)]), 401, "token_invalid")
    own_environment.admits(upstream, idp.token("still"))


def test_unknown_keys_are_asked_for_once_in_thirty_seconds(
    own_environment: Environment, upstream: RecordingUpstream
) -> None:
    gateway, idp = own_environment.gateway, own_environment.idp
    own_environment.admits(upstream, idp.token())
    before = idp.asked[JWKS]
    for number in range(20):
        unknown = idp.token(header=idp.header(kid=f"new-{number}"))
        refuses(gateway, upstream, request("/api/x", fields=[bearer(unknown)]), 401, "token_invalid")
    assert idp.asked[JWKS] - before <= 1


def test_a_new_key_is_accepted_as_soon_as_it_signs(own_environment: Environment, upstream: RecordingUpstream) -> None:
    idp = own_environment.idp
    own_environment.admits(upstream, idp.token())
    idp.keys.append(jwk_of(idp.curve, "c2"))
    assert own_environment.admits(upstream, idp.curve_token(kid="c2"))["id"] == [b"idp|bob"]


def test_an_issuer_that_is_out_when_the_gateway_starts(
    gateways: Gateways, face: Face, upstream: RecordingUpstream
) -> None:
    """The gateway starts without it; its tokens give 401 until it is up."""
    idp = Issuer()
    gateway = gateways.gateway(f"external-{idp.port}", face, tokens={"external": [idp.settings()]})
    environment = Environment(gateway, idp, idp)
    refuses(gateway, upstream, request("/api/x", fields=[bearer(idp.token())]), 401, "token_invalid")
    assert passes(gateway, upstream, request("/public/x"))
    idp.start()
    try:
        deadline = time.monotonic() + 20
        while gateway.ask(request("/api/x", fields=[bearer(idp.token())])).status != 200:
            assert time.monotonic() < deadline, "the keys are not fetched again"
            time.sleep(0.1)
        assert environment.admits(upstream, idp.token())["id"] == [b"idp|bob"]
    finally:
        idp.stop()


WRONG_DOCUMENTS: dict[str, tuple[str, tuple[int, dict[str, str], bytes]]] = {
    "another issuer's configuration": (DISCOVERY, (200, {}, b'{"issuer": "https://evil", "jwks_uri": "KEYS"}')),
    "a redirect": (JWKS, (302, {"Location": "KEYS"}, b"")),
    "too large": (JWKS, (200, {}, b'{"keys": []' + b" " * 300_000 + b"}")),
    "no key set": (JWKS, (200, {}, b"<html>")),
    "an error": (JWKS, (500, {}, b"")),
}


@pytest.mark.parametrize("case", WRONG_DOCUMENTS)
def test_keys_from_a_wrong_document_are_not_taken(case: str, gateways: Gateways, upstream: RecordingUpstream) -> None:
    idp, evil = Issuer(), Issuer(rsa_key=1).start()
    place, (status, fields, body) = WRONG_DOCUMENTS[case]
    keys = evil.url + JWKS
    answer = (status, {name: value.replace("KEYS", keys) for name, value in fields.items()}, body)
    idp.answers[place] = (answer[0], answer[1], body.replace(b"KEYS", keys.encode()))
    idp.start()
    try:
        gateway = gateways.gateway(f"external-{idp.port}", "serve", tokens={"external": [idp.settings()]})
        for credential in (idp.token(), token(idp.header(), idp.claims(), evil.sign)):
            refuses(gateway, upstream, request("/api/x", fields=[bearer(credential)]), 401, "token_invalid")
        assert evil.asked[JWKS] == 0
    finally:
        idp.stop()
        evil.stop()
