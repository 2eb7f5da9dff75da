"""D. A token is valid if one of the gateway's keys signed it with its own algorithm, and all its claims are valid."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes

from tests.support.expectations import passes, refuses
from tests.support.gateways import Gateways
from tests.support.processes import Account, Configuration, Face, Gateway, command, write_configuration
from tests.support.raw import Answer
from tests.support.recording import RecordingUpstream
from tests.support.token_factory import (
    TokenFactory,
    claims_of,
    decoded,
    encoded,
    header_of,
    token,
    unsigned,
    with_curve,
    with_rsa,
    with_secret,
)
from tests.support.wording import bearer, request

INVALID = "token_invalid"


@pytest.fixture
def gateway(gateways: Gateways, face: Face) -> Gateway:
    """A gateway with keys of three kinds."""
    return gateways.gateway("three-keys", face, tokens={"keys": gateways.token_factory.settings_with_rsa()})


@pytest.fixture
def present(gateway: Gateway, upstream: RecordingUpstream) -> Callable[..., Answer]:
    """Presents a token on a protected route: it must be refused with one of these codes and a matching challenge."""

    def check(presented: str | bytes, *codes: str) -> Answer:
        data = request("/api/x", fields=[bearer(presented)])
        answer = refuses(gateway, upstream, data, 401, codes or (INVALID,))
        assert b'error="invalid_token"' in (answer.value("www-authenticate") or b"")
        return answer

    return check


Present = Callable[..., Answer]


def test_the_forgeries_of_these_tests_would_be_accepted_with_the_right_key(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, token_factory: TokenFactory
) -> None:
    """The precondition of all refusals below. All three keys verify, each with its own algorithm."""
    claims = token_factory.claims(user.token)
    for good in (
        token_factory.good(user.token),
        token(token_factory.header(kid="k0", alg="HS256"), claims, with_secret(token_factory.secret)),
        token(token_factory.header(kid="k2", alg="RS512"), claims, with_rsa(token_factory.rsa, hashes.SHA512())),
    ):
        received = passes(gateway, upstream, request("/api/x", fields=[bearer(good)]))
        assert received.values("x-user-id") == [user.id.encode()]


def test_the_tokens_we_issue_have_the_promised_form(gateway: Gateway, user: Account) -> None:
    assert header_of(user.token) == {"alg": "ES256", "kid": "k1", "typ": "at+jwt"}
    claims = claims_of(user.token)
    assert set(claims) == {"iss", "sub", "aud", "exp", "iat", "nbf", "jti", "sid", "auth_time", "acr", "amr"}
    assert (claims["iss"], claims["aud"]) == ("gateway", "gateway")
    assert claims["exp"] - claims["iat"] == 2 * 60 * 60


# ---- algorithms and keys


def test_CVE_2022_29217_our_public_key_is_no_secret(
    gateway: Gateway, present: Present, user: Account, token_factory: TokenFactory
) -> None:
    """CVE-2024-33663, CVE-2026-39999, CVE-2026-48526, CVE-2026-102273: PEM, JWK and JWKS texts as HMAC secrets."""
    jwks = gateway.get("/.well-known/jwks.json").json()
    claims = token_factory.claims(user.token)
    for text in token_factory.public_texts(jwks):
        for kid in ("k1", "k0", "k2", None):
            present(token(token_factory.header(alg="HS256", kid=kid), claims, with_secret(text)))


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
def test_an_hmac_is_no_signature_of_the_curve_key(
    present: Present, user: Account, token_factory: TokenFactory, digest: str
) -> None:
    claims = token_factory.claims(user.token)
    for algorithm in ("HS256", "HS384", "HS512", "ES256"):
        for secret in (token_factory.secret, b"", b"\0", b"k1"):
            if (algorithm, digest, secret) != ("HS256", "sha256", token_factory.secret):
                present(token(token_factory.header(alg=algorithm, kid="k1"), claims, with_secret(secret, digest)))


def test_CVE_2026_102266_an_empty_or_short_secret_is_refused_at_start(gateways: Gateways, tmp_path: Path) -> None:
    secrets = ["", " ", "short", "thirty-one-bytes-are-not-enough"]
    keys = [{"kid": f"h{n}", "algorithm": "HS256", "secret": secret} for n, secret in enumerate(secrets)]
    output = _refused_at_start(gateways, tmp_path, keys)
    assert secrets[-1] not in output, "the secret itself must not be printed"


def test_a_key_of_an_algorithm_that_does_not_fit_is_refused_at_start(gateways: Gateways, tmp_path: Path) -> None:
    curve, secret, rsa = gateways.token_factory.settings_with_rsa()
    wrong = [curve | {"algorithm": name} for name in ("none", "HS256", "XX", "")]
    wrong += [secret | {"algorithm": name} for name in ("none", "ES256", "RS256")]
    wrong += [rsa | {"algorithm": "HS512"}]
    output = _refused_at_start(gateways, tmp_path, [key | {"kid": f"w{n}"} for n, key in enumerate(wrong)])
    assert "PRIVATE" not in output, output
    output = _refused_at_start(gateways, tmp_path, [curve | {"algorithm": "ES512"}])
    assert "PRIVATE" not in output, output


def _refused_at_start(gateways: Gateways, folder: Path, keys: list[dict[str, str]]) -> str:
    """Every one of these keys is reported, and the gateway does not start."""
    configuration: Configuration = gateways.configuration(folder)
    configuration["tokens"]["keys"] = keys
    done = command(write_configuration(folder, configuration), "serve", "--port", "1")
    output = done.stdout + done.stderr
    assert done.returncode == 2, output
    for number in range(len(keys)):
        assert f"tokens.keys[{number}]" in output, (number, output)
    return output


@pytest.mark.parametrize("claimed", ["RS256", "RS384", "PS512", "PS256", "ES256", "HS512"])
def test_CVE_2026_48523_the_algorithm_is_the_keys_not_the_headers(
    present: Present, user: Account, token_factory: TokenFactory, claimed: str
) -> None:
    claims = token_factory.claims(user.token)
    for digest in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512()):
        present(token(token_factory.header(alg=claimed, kid="k2"), claims, with_rsa(token_factory.rsa, digest)))
    present(token(token_factory.header(alg="RS512", kid="k2"), claims, with_rsa(token_factory.rsa, hashes.SHA256())))
    present(
        token(token_factory.header(alg=claimed, kid="k1"), claims, with_curve(token_factory.curve))
    ) if claimed != "ES256" else None


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "nOnE", "", None, "es256", " ES256", ["ES256"], 7, True, {}]
)
@pytest.mark.parametrize("kid", ["k1", None])
def test_the_none_family(
    present: Present, user: Account, token_factory: TokenFactory, algorithm: Any, kid: str | None
) -> None:
    header = token_factory.header(kid=kid) | {"alg": algorithm}
    claims = token_factory.claims(user.token)
    present(token(header, claims, unsigned))
    present(token(header, claims, with_curve(token_factory.curve)))
    del header["alg"]
    present(token(header, claims, unsigned))
    present(token(header, claims, with_curve(token_factory.curve)))


@pytest.mark.parametrize("crit", [["x"], ["exp"], ["b64"], [], "x", None, ["alg"], 1])
def test_CVE_2026_32597_critical_extensions_are_not_understood(
    present: Present, user: Account, token_factory: TokenFactory, crit: Any
) -> None:
    header = token_factory.header() | {"crit": crit, "x": 1, "b64": False}
    present(token(header, token_factory.claims(user.token), with_curve(token_factory.curve)))


@pytest.mark.parametrize(
    "kid",
    ["../../dev/null", "/dev/null", "k3", "", "K1", "k1 ", "k1\0", "' OR 1=1", "file:///dev/null", 1, ["k1"],
     {"kid": "k1"}, True, "k" * 3000],
)  # fmt: skip
def test_a_kid_is_a_name_and_nothing_else(
    present: Present, user: Account, token_factory: TokenFactory, kid: Any
) -> None:
    claims = token_factory.claims(user.token)
    for sign in (with_curve(token_factory.curve), with_secret(b""), unsigned):
        present(token(token_factory.header(kid=kid), claims, sign))


@pytest.mark.parametrize("name", ["jku", "x5u", "jwk", "x5c"])
def test_keys_that_a_token_brings_along_are_not_looked_at(
    present: Present, upstream: RecordingUpstream, user: Account, token_factory: TokenFactory, name: str
) -> None:
    numbers = token_factory.stranger.public_key().public_numbers()
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "kid": "k9",
        "x": encoded(numbers.x.to_bytes(32, "big")).decode(),
        "y": encoded(numbers.y.to_bytes(32, "big")).decode(),
    }
    brought = {"jku": upstream.url + "/jwks", "x5u": upstream.url + "/x5u", "jwk": jwk, "x5c": ["AAAA"]}[name]
    links = len(upstream.links)
    for kid in ("k9", "k1", None):
        header = token_factory.header(kid=kid) | {name: brought}
        present(token(header, token_factory.claims(user.token), with_curve(token_factory.stranger)))
    assert upstream.requests == []
    assert len(upstream.links) == links


def _signing_with(signature: bytes) -> Callable[[bytes], bytes]:
    return lambda _: signature


def test_a_signature_by_another_key_is_refused(present: Present, user: Account, token_factory: TokenFactory) -> None:
    claims = token_factory.claims(user.token)
    present(token(token_factory.header(), claims, with_curve(token_factory.stranger)))
    for signature in (b"", bytes(64), bytes(63), b"\xff" * 64, b"\0" * 32 + b"\1" + b"\0" * 31):
        present(token(token_factory.header(), claims, _signing_with(signature)))


def test_no_secret_is_in_the_public_key_set(gateway: Gateway, token_factory: TokenFactory) -> None:
    answer = gateway.get("/.well-known/jwks.json")
    assert answer.value("cache-control") == b"max-age=300"
    keys = answer.json()["keys"]
    assert {key["kid"] for key in keys} == {"k1", "k2"}
    private = {"d", "p", "q", "dp", "dq", "qi", "k", "oth"}
    assert not any(private & set(key) for key in keys)
    assert token_factory.secret not in answer.body


# ---- claims


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "sid"])
def test_kong_claims_to_verify_every_claim_is_required(
    present: Present, user: Account, token_factory: TokenFactory, name: str
) -> None:
    present(token_factory.good(user.token, **{name: None}), INVALID, "token_expired")


NOW = time.time
WRONG_CLAIMS: dict[str, Callable[[], dict[str, Any]]] = {
    "exp as text": lambda: {"exp": str(int(NOW()) + 600)},
    "exp infinite": lambda: {"exp": float("inf")},
    "exp not a number": lambda: {"exp": float("nan")},
    "exp as a list": lambda: {"exp": [int(NOW()) + 600]},
    "exp true": lambda: {"exp": True},
    "exp negative": lambda: {"exp": -1},
    "exp null": lambda: {"exp": json.loads("null")},
    "exp too large for a clock": lambda: {"exp": 10**400},
    "nbf in the future": lambda: {"nbf": int(NOW()) + 60},
    "nbf as text": lambda: {"nbf": "0"},
    "iat in the future": lambda: {"iat": int(NOW()) + 60},
    "iat as text": lambda: {"iat": "0"},
    "another issuer": lambda: {"iss": "https://evil.example"},
    "issuer in a list": lambda: {"iss": ["gateway"]},
    "issuer in another case": lambda: {"iss": "Gateway"},
    "another audience": lambda: {"aud": "other"},
    "audience in another case": lambda: {"aud": "GATEWAY"},
    "audience as an object": lambda: {"aud": {"gateway": True}},
    "audience empty": lambda: {"aud": []},
    "audience of numbers": lambda: {"aud": [1]},
    "subject a number": lambda: {"sub": 1},
    "subject a list": lambda: {"sub": ["1"]},
    "subject empty": lambda: {"sub": ""},
    "session a number": lambda: {"sid": 7},
    "session a list": lambda: {"sid": ["7"]},
    "id a number": lambda: {"jti": 7},
}


@pytest.mark.parametrize("changes", WRONG_CLAIMS.values(), ids=WRONG_CLAIMS)
def test_apisix_13468_a_claim_of_a_wrong_kind_is_refused(
    present: Present, user: Account, token_factory: TokenFactory, changes: Callable[[], dict[str, Any]]
) -> None:
    claims = token_factory.claims(user.token) | changes()
    present(token(token_factory.header(), claims, with_curve(token_factory.curve)), INVALID, "token_expired")


@pytest.mark.parametrize(
    "text", ["1e400", "-1e400", "NaN", "Infinity", "1e9999", '"1e10"', "99999999999999999999.5", "0x7fffffff"]
)
def test_apisix_13468_a_time_that_is_no_time_is_refused(
    present: Present, user: Account, token_factory: TokenFactory, text: str
) -> None:
    claims = token_factory.claims(user.token)
    for name in ("exp", "nbf", "iat"):
        changed = json.dumps(claims | {name: "HERE"}).replace('"HERE"', text).encode()
        present(token(token_factory.header(), changed, with_curve(token_factory.curve)), INVALID, "token_expired")


def test_an_expired_token_is_refused_as_expired_beyond_the_leeway(
    gateway: Gateway, upstream: RecordingUpstream, present: Present, user: Account, token_factory: TokenFactory
) -> None:
    for age in (10, 3600, 10**8):
        present(token_factory.good(user.token, exp=int(time.time()) - age), "token_expired")
    still = token_factory.good(user.token, exp=int(time.time()) - 1)
    passes(gateway, upstream, request("/api/x", fields=[bearer(still)]))


@pytest.mark.parametrize(
    "typ", [None, "JWT", "jwt", "", "rt+jwt", "refresh", "at", "at+jwt ", 7, ["at+jwt"], "id+jwt", "logout+jwt"]
)
def test_token_type_confusion(present: Present, user: Account, token_factory: TokenFactory, typ: Any) -> None:
    present(token(token_factory.header(typ=typ), token_factory.claims(user.token), with_curve(token_factory.curve)))


def test_a_refresh_token_is_no_access_token(gateway: Gateway, present: Present) -> None:
    answer = gateway.post("/auth/login", {"email": "user@example.com", "password": "correct horse battery"})
    tokens = answer.json()
    assert set(tokens) == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert (tokens["token_type"], tokens["expires_in"]) == ("bearer", 7200)
    present(tokens["refresh_token"])


@pytest.mark.parametrize(
    "subject", ["0", "nobody", "{id}:x", "{id}|x", "x|{id}", " {id}", "{id} ", "*", "../{id}", "{id}\0", "%", "_"]
)
def test_CVE_2026_33729_a_subject_is_never_empty(
    present: Present, user: Account, token_factory: TokenFactory, subject: str
) -> None:
    present(token_factory.good(user.token, sub=subject.format(id=user.id)), "user_inactive", INVALID)


# ---- transport of a credential

GARBAGE = [
    "Bearer",
    "Bearer ",
    "Bearer garbage",
    "Bearer a.b",
    "Bearer a.b.c",
    "Bearer ..",
    "Bearer ...",
    "Bearer a.b.c.d.e",
    "Bearer null",
    "Bearer undefined",
    "Bearer {good} {good}",
    "Bearer {good},{good}",
    "Bearer {good}=",
    "Bearer {good}==",
    "Bearer {good}.",
    "Bearer .{good}",
    'Bearer "{good}"',
    "Bearer {good}\x01",
    "Bearer {good}+",
    "Bearer {good}/",
    "Bearer: {good}",
    "Bearer={good}",
    "Bearer,{good}",
    "{good}",
    "Token {good}",
    "Basic {good}",
    "BearerX {good}",
    "Negotiate",
    "",
]


@pytest.mark.parametrize("value", GARBAGE)
def test_CVE_2022_29226_the_presence_of_a_credential_is_not_enough(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, value: str
) -> None:
    line = "Authorization: " + value.format(good=user.token)
    for path in ("/api/x", "/admin/x", "/forwarded/x", "/mine/x", "/editors/x", "/auth/me"):
        upstream.requests.clear()
        answer = gateway.ask(request(path, fields=[line]))
        assert answer.status in ((400, 401) if "\x01" in value else (401,)), answer
        assert upstream.requests == []


def test_the_scheme_is_compared_without_case(gateway: Gateway, upstream: RecordingUpstream, user: Account) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        passes(gateway, upstream, request("/api/x", fields=[f"Authorization: {scheme} {user.token}"]))


@pytest.mark.parametrize("lines", ["two", "same twice", "good then bad", "bad then good", "other scheme first"])
def test_kong_9946_two_credentials_are_none(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, admin: Account, lines: str
) -> None:
    other = {
        "two": [user.line, admin.line],
        "same twice": [user.line, user.line],
        "good then bad": [user.line, b"authorization: Bearer x"],
        "bad then good": [b"AUTHORIZATION: Bearer x", user.line],
        "other scheme first": [b"Authorization: Basic eDp5", user.line],
    }[lines]
    refuses(gateway, upstream, request("/api/x", fields=other), 401, INVALID)


def test_kong_9946_tokens_in_cookies_queries_and_bodies_are_not_looked_at(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, admin: Account
) -> None:
    elsewhere = [f"Cookie: token={admin.token}; access_token={admin.token}", f"X-Access-Token: {admin.token}"]
    target = f"/api/x?access_token={admin.token}&token={admin.token}"
    refuses(gateway, upstream, request(target, fields=elsewhere), 401, "token_missing")
    form = f"access_token={admin.token}".encode()
    fields = ["Content-Type: application/x-www-form-urlencoded"]
    refuses(gateway, upstream, request("/api/x", method="POST", fields=fields, body=form), 401, "token_missing")
    received = passes(gateway, upstream, request(target, fields=[user.line, *elsewhere]))
    assert received.values("x-user-id") == [user.id.encode()]


def test_CVE_2024_33664_a_credential_over_8_KiB_is_refused_unread(
    gateway: Gateway, upstream: RecordingUpstream, present: Present, user: Account, token_factory: TokenFactory
) -> None:
    padded = token_factory.good(user.token, pad="x" * 5000)
    assert len(padded) < 8000
    passes(gateway, upstream, request("/api/x", fields=[bearer(padded)]))
    large = token_factory.good(user.token, pad="x" * 6200)
    assert len(large) > 8192
    present(large)
    present("x" * 8193)


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("change", ["+", "/", "=", " ", "\t", "%2e", "-.", "é"])
def test_characters_outside_base64url_are_refused(
    gateway: Gateway, upstream: RecordingUpstream, user: Account, part: int, change: str
) -> None:
    parts = user.token.split(".")
    for position in (0, len(parts[part]) // 2, len(parts[part])):
        changed = list(parts)
        changed[part] = parts[part][:position] + change + parts[part][position:]
        line = f"Authorization: Bearer {'.'.join(changed)}"
        upstream.requests.clear()
        answer = gateway.ask(request("/api/x", fields=[line]))
        if (part, position, change) == (2, len(parts[2]), " ") or (part, position, change) == (2, len(parts[2]), "\t"):
            continue  # RFC 9110 5.5: white space around a field's value is not part of it
        if part == 0 and position == 0 and change in " \t":
            continue  # RFC 9110 11.4: more than one space after the scheme is allowed (1*SP)
        assert answer.status == 401, (line, answer)
        assert upstream.requests == []


def test_a_changed_token_is_refused_though_the_good_one_is_cached(
    gateway: Gateway, upstream: RecordingUpstream, present: Present, user: Account
) -> None:
    """Okta 2024, CVE-2025-22228: a cache must compare all bytes of tokens, not the first 72."""
    passes(gateway, upstream, request("/api/x", fields=[user.line]))
    passes(gateway, upstream, request("/api/x", fields=[user.line]))
    header, claims, signature = user.token.split(".")
    body = json.loads(decoded(claims))
    for changed in (
        f"{header}.{claims}.{signature[:-4]}AAAA",
        f"{header}.{claims}.{signature}A",
        f"{header}.{claims}.",
        f"{header}.{claims}",
        f"{header}.{encoded(json.dumps(body | {'sub': '1'}).encode()).decode()}.{signature}",
        user.token.swapcase(),
        user.token[:-1],
    ):
        present(changed)


@pytest.mark.parametrize(
    "text",
    [
        b"null",
        b"[]",
        b'"x"',
        b"1",
        b"",
        b"{",
        b"{}",
        b"\xff\xfe",
        b"[" * 3000,
        b'{"sub":' * 500,
        b"{}{}",
        b"\xef\xbb\xbf{}",
    ],
)
def test_parts_that_are_not_the_json_they_should_be(
    present: Present, user: Account, token_factory: TokenFactory, text: bytes
) -> None:
    present(token(text, token_factory.claims(user.token), with_curve(token_factory.curve)))
    present(token(token_factory.header(), text, with_curve(token_factory.curve)))


def test_an_encrypted_token_is_no_token(present: Present) -> None:
    header = encoded(json.dumps({"alg": "dir", "enc": "A256GCM", "zip": "DEF", "kid": "k0", "typ": "at+jwt"}).encode())
    present(b".".join([header, b"", encoded(b"\0" * 12), encoded(b"\0" * 64), encoded(b"\0" * 16)]))
