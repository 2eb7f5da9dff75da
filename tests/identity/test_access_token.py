"""Access tokens: issued ones are accepted, and similar ones refused."""

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Refusal
from gateway.identity.access_token import Tokens
from gateway.identity.credentials import Authenticator
from gateway.identity.keys import KeyRing, SigningKey
from gateway.identity.user import Claims
from gateway.settings.model import TokensSettings
from tests.support.token_factory import (
    Sign,
    TokenFactory,
    claims_of,
    decoded,
    encoded,
    header_of,
    shared_rsa_key,
    token,
    unsigned,
    with_curve,
    with_rsa,
    with_secret,
)

NOW = 1_800_000_000
SECRET = b"a-secret-of-the-old-days-0123456789"
CURVE = ec.generate_private_key(ec.SECP256R1())
RSA = shared_rsa_key(0)
STRANGER = ec.generate_private_key(ec.SECP256R1())
RING = KeyRing([SigningKey(CURVE, "ES256", "k1"), SigningKey(SECRET, "HS256", "k0"), SigningKey(RSA, "RS512", "k2")])
SIGN = with_curve(CURVE)


class Clock:
    """A clock that moves only on demand."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make(clock: Clock | None = None, **settings: Any) -> Tokens:
    return Tokens(RING, TokensSettings(**settings), clock=clock or Clock())


def claims(**changes: Any) -> dict[str, Any]:
    """Valid claims with changes; None removes a claim."""
    good = {
        "iss": "gateway",
        "sub": "u1",
        "aud": "gateway",
        "exp": NOW + 900,
        "iat": NOW,
        "nbf": NOW,
        "jti": "j",
        "sid": "s1",
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def header(**changes: Any) -> dict[str, Any]:
    return {
        name: value
        for name, value in ({"alg": "ES256", "kid": "k1", "typ": "at+jwt"} | changes).items()
        if value is not None
    }


def refused(tokens: Tokens, credential: str | bytes) -> str:
    """The error code for a refused credential."""
    with pytest.raises(Refusal) as refusal:
        tokens.verify(credential.encode() if isinstance(credential, str) else credential)
    assert (refusal.value.status, refusal.value.presented) == (401, True)
    assert refusal.value.detail == "Invalid or expired token"
    assert refusal.value.reason
    return refusal.value.code


# ---- issuing


def test_an_issued_token_has_the_expected_claims_and_is_accepted() -> None:
    tokens = make()
    issued = tokens.issue(user_id="u1", session_id="s1", roles=["admin"])
    issued_claims = claims_of(issued.token)
    assert header_of(issued.token) == {"alg": "ES256", "kid": "k1", "typ": "at+jwt"}
    assert issued_claims == claims(jti=issued_claims["jti"])
    assert (issued.expires_in, issued.expires_at) == (900, NOW + 900)
    verified = tokens.verify(issued.token.encode())
    assert verified == Claims("u1", "s1", NOW + 900, NOW, issued_claims["jti"], "gateway", signed_by=tokens.keys.signer)


def test_every_token_has_an_id_of_its_own() -> None:
    tokens = make()
    ids = {claims_of(tokens.issue(user_id="u", session_id="s", roles=()).token)["jti"] for _ in range(50)}
    assert len(ids) == 50
    assert min(map(len, ids)) >= 22  # 128 bits


def test_roles_are_in_a_token_only_where_asked_for_and_never_read_from_it() -> None:
    tokens = make(include_roles=True)
    issued = tokens.issue(user_id="u1", session_id="s1", roles=frozenset(["user", "admin"]))
    assert claims_of(issued.token)["roles"] == ["admin", "user"]
    assert tokens.verify(issued.token.encode()).roles is None


@pytest.mark.parametrize(("ttl", "expires_in"), [(0.25, 1), (1.0, 1), (90.5, 90), (900.0, 900)])
def test_a_token_lives_for_whole_seconds_and_at_least_one(ttl: float, expires_in: int) -> None:
    issued = make(Clock(NOW + 0.9), access_ttl=ttl).issue(user_id="u", session_id="s", roles=())
    assert (issued.expires_in, claims_of(issued.token)["exp"]) == (expires_in, NOW + expires_in)


@pytest.mark.parametrize("signer", ["k1", "k0", "k2"])
def test_the_first_key_signs_and_all_verify(signer: str) -> None:
    keys = [SigningKey(CURVE, "ES256", "k1"), SigningKey(SECRET, "HS256", "k0"), SigningKey(RSA, "RS512", "k2")]
    keys.sort(key=lambda key: key.kid != signer)
    issued = Tokens(KeyRing(keys), TokensSettings(), clock=Clock()).issue(user_id="u1", session_id="s1", roles=())
    assert header_of(issued.token)["kid"] == signer
    assert make().verify(issued.token.encode()).subject == "u1"


# ---- other accepted tokens


@pytest.mark.parametrize(
    "good",
    [
        token(header(), claims(), SIGN),
        token(header(typ="AT+JWT"), claims(), SIGN),
        token(header(typ="application/at+jwt"), claims(), SIGN),
        token(
            header(jku="http://evil.example/jwks", x5u="http://evil.example/x", jwk={"kty": "oct", "k": ""}),
            claims(),
            SIGN,
        ),
        token(header(), claims(aud=["other", "gateway"]), SIGN),
        token(header(), claims(extra={"nested": [1.5, None, True]}), SIGN),
        token(header(), claims(roles=["admin"], is_active=True), SIGN),
        token(header(), claims(sub="Jürgen-\u65e5\u672c"), SIGN),
        token(b'{ "kid" : "k1", "alg": "ES256",\n"typ":"at+jwt" }', claims(), SIGN),
        token(header(alg="HS256", kid="k0"), claims(), with_secret(SECRET)),
        token(header(alg="RS512", kid="k2"), claims(), with_rsa(RSA, hashes.SHA512())),
    ],
)
def test_every_own_token_with_all_required_claims_is_accepted(good: str) -> None:
    assert make().verify(good.encode()).session == "s1"


# ---- the header: algorithm and key (JWT advisories)


def _texts_of_our_public_keys() -> list[bytes]:
    token_factory = TokenFactory()
    token_factory.curve, token_factory.rsa = CURVE, RSA
    return token_factory.public_texts({"keys": RING.jwks()["keys"]})


PUBLIC_TEXTS = _texts_of_our_public_keys()


@pytest.mark.parametrize("kid", ["k1", "k2", "k0"])
@pytest.mark.parametrize("text", PUBLIC_TEXTS, ids=range(len(PUBLIC_TEXTS)))  # the same ids in every process
def test_cve_2022_29217_a_token_signed_with_the_text_of_our_public_key_is_refused(text: bytes, kid: str) -> None:
    for algorithm, digest in [("HS256", "sha256"), ("HS512", "sha512")]:
        forged = token(header(alg=algorithm, kid=kid), claims(), with_secret(text, digest))
        assert refused(make(), forged) == "token_invalid"


WRONG_HEADERS: dict[str, tuple[dict[str, Any], Sign]] = {
    "alg none": (header(alg="none"), unsigned),
    "alg None": (header(alg="None"), unsigned),
    "alg nOnE": (header(alg="nOnE"), unsigned),
    "alg empty": (header(alg=""), unsigned),
    "alg missing": (header(alg=None), SIGN),
    "alg none, no kid": ({"alg": "none", "typ": "at+jwt"}, unsigned),
    "alg none, but signed": (header(alg="none"), SIGN),
    "alg lower case": (header(alg="es256"), SIGN),
    "alg a list": (header(alg=["ES256"]), SIGN),
    "alg null": (header() | {"alg": None}, SIGN),
    "alg a number": (header(alg=256), SIGN),
    "alg an object": (header(alg={"ES256": True}), SIGN),
    "CVE-2026-48523: RS256 where the key is bound to RS512": (
        header(alg="RS256", kid="k2"),
        with_rsa(RSA, hashes.SHA256()),
    ),
    "says RS512, signed as RS256": (header(alg="RS512", kid="k2"), with_rsa(RSA, hashes.SHA256())),
    "PS512 on the RS512 key": (header(alg="PS512", kid="k2"), with_rsa(RSA, hashes.SHA512())),
    "the secret with another hash": (header(alg="HS512", kid="k0"), with_secret(SECRET, "sha512")),
    "the kid of another key": (header(kid="k2"), SIGN),
    "the alg of the key, the kid of another": (header(kid="k0"), SIGN),
    "a stranger's key": (header(), with_curve(STRANGER)),
    "kid unknown": (header(kid="k9"), SIGN),
    "kid missing": (header(kid=None), SIGN),
    "kid null": (header() | {"kid": None}, SIGN),
    "kid a path": (header(kid="../../dev/null"), SIGN),
    "kid a file": (header(kid="/etc/hostname"), SIGN),
    "kid an address": (header(kid="http://evil.example/key"), SIGN),
    "kid SQL": (header(kid="k1' OR '1'='1"), SIGN),
    "kid a list": (header(kid=["k1"]), SIGN),
    "kid a number": (header(kid=1), SIGN),
    "kid an object": (header(kid={"k1": 1}), SIGN),
    "kid with a surrogate": (header(kid="\ud800"), SIGN),
    "typ missing": (header(typ=None), SIGN),
    "typ JWT": (header(typ="JWT"), SIGN),
    "typ of an assertion": (header(typ="identity+jwt"), SIGN),
    "typ empty": (header(typ=""), SIGN),
    "typ a list": (header(typ=["at+jwt"]), SIGN),
    "typ with a parameter": (header(typ="at+jwt;x=1"), SIGN),
    "typ with a space": (header(typ="at+jwt "), SIGN),
    "CVE-2026-32597: crit": (header(crit=["x"], x=1), SIGN),
    "crit empty": (header(crit=[]), SIGN),
    "crit null": (header() | {"crit": None}, SIGN),
    "crit of something known": (header(crit=["exp"]), SIGN),
    "b64": (header(b64=False, crit=["b64"]), SIGN),
    "b64 without crit": (header(b64=False), SIGN),
    "embedded key": (
        header(alg="ES256", kid=None, jwk={"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        with_curve(STRANGER),
    ),
}


@pytest.mark.parametrize("case", WRONG_HEADERS)
def test_a_token_whose_header_is_not_ours_is_refused(case: str) -> None:
    given_header, sign = WRONG_HEADERS[case]
    assert refused(make(), token(given_header, claims(), sign)) == "token_invalid"


@pytest.mark.parametrize(
    "text",
    [
        b'{"alg":"ES256","kid":"k1","typ":"at+jwt","alg":"ES256"}',
        b'{"alg":"none","kid":"k1","typ":"at+jwt","alg":"ES256"}',
        b'{"alg":"ES256","kid":"k1","typ":"at+jwt","\\u0061lg":"none"}',
        b'{"alg":"ES256","kid":"k1","typ":"at+jwt","x":{"a":1,"a":2}}',
        b'{"alg":"ES256","kid":"k1","typ":"at+jwt","x":NaN}',
        b'{"alg":"ES256","kid":"k1","typ":"at+jwt","x":Infinity}',
        b'{"alg":"ES256","kid":"k1","typ":"at+jwt",}',
        b'{"alg":"ES256","kid":"k1","typ":"at+jwt"} {}',
        b"{'alg':'ES256'}",
        b'["alg","ES256"]',
        b'"at+jwt"',
        b"null",
        b"1",
        b"",
        b"{",
        b"\xef\xbb\xbf" + json.dumps(header()).encode(),
        json.dumps(header()).encode("utf-16"),
        json.dumps(header()).encode("utf-32-le"),
        b'{"alg":"ES256","kid":"k1","typ":"at+jwt","x":"\xff"}',
        b"[" * 3000,
        b'{"a":' * 1200,
        b'{"alg":' + b"9" * 5000 + b"}",
    ],
    ids=lambda text: repr(text[:60]),
)
def test_a_header_that_is_not_one_plain_json_object_is_refused(text: bytes) -> None:
    assert refused(make(), token(text, claims(), SIGN)) == "token_invalid"


# ---- the claims

WRONG_IDS: dict[str, Any] = {
    "null": None,
    "a number": 1,
    "true": True,
    "a list": ["u1"],
    "an object": {},
    "empty": "",
    "with NUL": "u\0",
    "with a line break": "u\r\nX: y",
    "a surrogate": "\ud800",
    "too long": "u" * 256,
    "with a bidi mark": "u\u202e",
}
WRONG_TIMES: dict[str, Any] = {
    "null": None,
    "text": str(NOW),
    "true": True,
    "false": False,
    "infinite": float("inf"),
    "not a number": float("nan"),
    "a list": [NOW],
    "an object": {},
    "negative": -1,
    "huge": 10**15,
    "beyond 64 bits": 2**70,
}
WRONG_CLAIMS: dict[str, dict[str, Any] | bytes] = {
    "iss another": claims(iss="https://evil.example"),
    "iss missing": claims(iss=None),
    "iss a list": claims(iss=["gateway"]),
    "iss in another case": claims(iss="Gateway"),
    "aud another": claims(aud="orders"),
    "aud missing": claims(aud=None),
    "aud null": claims() | {"aud": None},
    "aud empty": claims(aud=""),
    "aud an empty list": claims(aud=[]),
    "aud of others": claims(aud=["a", "b"]),
    "aud a string that contains ours": claims(aud="gateway gateway2"),
    "aud a part of ours": claims(aud="gate"),
    "aud a list with something else": claims(aud=["gateway", 1]),
    "aud an object": claims(aud={"gateway": True}),
    "aud a nested list": claims(aud=[["gateway"]]),
    "payload a list": json.dumps([claims()]).encode(),
    "payload text": b'"claims"',
    "payload empty": b"",
    "payload not JSON": b"sub=u1",
    "payload with a claim twice": json.dumps(claims()).encode()[:-1] + b',"sub":"root"}',
    "payload not UTF-8": json.dumps(claims()).encode()[:-1] + b',"x":"\xff"}',
    "payload deep": b'{"x":' + b"[" * 3000 + b"]" * 3000 + b"}",
    "exp 1e400": json.dumps(claims(exp=0)).encode().replace(b'"exp": 0', b'"exp": 1e400'),
    "exp of five thousand digits": json.dumps(claims(exp=0)).encode().replace(b'"exp": 0', b'"exp": ' + b"9" * 5000),
    "exp NaN": json.dumps(claims(exp=0)).encode().replace(b'"exp": 0', b'"exp": NaN'),
    "sub of an external issuer": claims(sub="idp|42"),
    **{
        f"{name} {word}": claims() | {name: value}
        for names, values in ((("sub", "sid", "jti"), WRONG_IDS), (("exp", "nbf", "iat"), WRONG_TIMES))
        for name in names
        for word, value in values.items()
    },
    **{f"{name} missing": claims(**{name: None}) for name in ("sub", "sid", "jti", "exp", "nbf", "iat")},
}


@pytest.mark.parametrize("case", WRONG_CLAIMS)
def test_a_well_signed_token_whose_claims_are_not_ours_is_refused(case: str) -> None:
    assert refused(make(), token(header(), WRONG_CLAIMS[case], SIGN)) == "token_invalid"


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"exp": NOW + 1}, None),
        ({"exp": NOW}, None),
        ({"exp": NOW - 4}, None),
        ({"exp": NOW - 5}, "token_expired"),
        ({"exp": NOW - 900}, "token_expired"),
        ({"exp": 0}, "token_expired"),
        ({"nbf": NOW + 5}, None),
        ({"nbf": NOW + 6}, "token_invalid"),
        ({"iat": NOW + 5}, None),
        ({"iat": NOW + 6}, "token_invalid"),
        ({"iat": NOW + 6, "exp": NOW + 6000}, "token_invalid"),
        ({"nbf": 0, "iat": 0}, None),
    ],
)
def test_time_is_kept_to_the_leeway(changes: dict[str, int], outcome: str | None) -> None:
    credential = token(header(), claims(**changes), SIGN)
    if outcome is None:
        assert make(leeway=5.0).verify(credential.encode()).subject == "u1"
    else:
        assert refused(make(leeway=5.0), credential) == outcome


def test_a_stream_ends_when_its_token_expires() -> None:
    clock = Clock()
    tokens = make(clock, leeway=5.0)
    known = tokens.verify(tokens.issue(user_id="u1", session_id="s1", roles=()).token.encode())
    for at, code in [(NOW, None), (NOW + 904.9, None), (NOW + 905, "token_expired")]:
        clock.now = at
        ended = tokens.ended(known)
        assert (ended and ended.code) == code


# ---- changing keys


def a_ring(*keys: tuple[str, Any]) -> KeyRing:
    return KeyRing([SigningKey(key, "ES256", kid) for kid, key in keys])


def test_a_token_is_good_for_as_long_as_its_key_is_there() -> None:
    """Cached or not. Streams authenticated by the key end too."""
    tokens = Tokens(a_ring(("k1", CURVE), ("k2", STRANGER)), TokensSettings(), clock=Clock())
    issued = tokens.issue(user_id="u1", session_id="s1", roles=()).token.encode()
    known = tokens.verify(issued)
    tokens.renew(a_ring(("k2", STRANGER), ("k1", CURVE)), TokensSettings())
    assert tokens.verify(issued) is known, "no key has gone: nothing is verified again"
    assert tokens.ended(known) is None
    assert header_of(tokens.issue(user_id="u1", session_id="s1", roles=()).token)["kid"] == "k2"
    tokens.renew(a_ring(("k2", STRANGER)), TokensSettings())
    assert refused(tokens, issued) == "token_invalid"
    ended = tokens.ended(known)
    assert ended is not None and (ended.code, ended.status) == ("token_invalid", 401)


def test_a_key_of_the_same_name_does_not_stand_for_another() -> None:
    tokens = Tokens(a_ring(("k1", CURVE)), TokensSettings(), clock=Clock())
    issued = tokens.issue(user_id="u1", session_id="s1", roles=()).token.encode()
    known = tokens.verify(issued)
    tokens.renew(a_ring(("k1", STRANGER)), TokensSettings())
    assert refused(tokens, issued) == "token_invalid"
    assert tokens.ended(known) is not None


def test_settings_are_renewed_without_dropping_cached_tokens() -> None:
    tokens = make()
    issued = tokens.issue(user_id="u1", session_id="s1", roles=()).token.encode()
    known = tokens.verify(issued)
    tokens.renew(None, TokensSettings(include_roles=True))
    assert tokens.verify(issued) is known
    assert claims_of(tokens.issue(user_id="u1", session_id="s1", roles=["b", "a"]).token)["roles"] == ["a", "b"]


# ---- the encoding


def _signed() -> bytes:
    return token(header(), claims(), SIGN).encode()


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda good: b"",
    "one part": lambda good: good.split(b".")[1],
    "two parts": lambda good: good.rpartition(b".")[0],
    "no signature": lambda good: good.rpartition(b".")[0] + b".",
    "four parts": lambda good: good + b".",
    "five parts": lambda good: good + b".AAAA.AAAA",
    "padding": lambda good: good + b"=" * (-len(good.rpartition(b".")[2]) % 4 or 4),
    "padding in the middle": lambda good: good.replace(b".", b"=.", 1),
    "a space before": lambda good: b" " + good,
    "a space behind": lambda good: good + b" ",
    "a line break inside": lambda good: good[:20] + b"\n" + good[20:],
    "a foreign character inside": lambda good: good[:20] + b"!" + good[20:],
    "a byte outside ASCII": lambda good: good[:20] + b"\xc3\xa9" + good[20:],
    "the other alphabet": lambda good: b".".join((*good.split(b".")[:2], b"+/" + good.rpartition(b".")[2][2:])),
    "one character less": lambda good: good[:-1],
    "one character more": lambda good: good + b"A",
    "the signature of another token": lambda good: (
        good.rpartition(b".")[0] + b"." + _signed().rpartition(b".")[2][:-4] + b"AAAA"
    ),
    "lower case": bytes.lower,
    "over 8 KiB": lambda good: good + b"A" * 8192,
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_a_token_in_another_spelling_is_refused(case: str) -> None:
    good = _signed()
    assert refused(make(), SPELLINGS[case](good)) == "token_invalid"


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_token_has_one_spelling_even_where_bits_would_be_thrown_away(part: int) -> None:
    """The last character of a part can contain bits that decoding drops, which allows other characters for the same
    bytes."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    others = 0
    for padding in ("", "x", "xx"):
        good = token(header(pad=padding), claims(pad=padding), SIGN).encode()
        parts = good.split(b".")
        for character in alphabet:
            changed = parts[part][:-1] + bytes((character,))
            if changed != parts[part] and decoded(changed) == decoded(parts[part]):
                others += 1
                assert refused(make(), b".".join((*parts[:part], changed, *parts[part + 1 :]))) == "token_invalid"
    assert others >= 3


def of_length(length: int) -> bytes:
    """A valid token of exactly this many bytes."""
    for of_header in ("", "x", "xx"):
        start = 3 * (length - len(token(header(pad=of_header), claims(pad=""), SIGN))) // 4
        for of_claims in range(start - 2, start + 3):
            made = token(header(pad=of_header), claims(pad="x" * of_claims), SIGN)
            if len(made) == length:
                return made.encode()
    raise AssertionError(f"no token has {length} bytes")


@pytest.mark.parametrize("limit", [8192, 16384])
def test_a_token_of_exactly_the_largest_size_is_accepted_and_one_byte_more_is_not(limit: int) -> None:
    credentials = Authenticator(make(), max_size=limit)
    claims = credentials.known(of_length(limit))
    assert claims is not None and claims.subject == "u1"
    with pytest.raises(Refusal, match="token_invalid"):
        credentials.known(of_length(limit + 1))


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
def test_a_time_can_have_a_fraction(name: str) -> None:
    """RFC 7519 2: a NumericDate is a JSON number."""
    times = {"exp": NOW + 600.5, "nbf": NOW - 0.5, "iat": NOW - 0.5}
    assert make().verify(token(header(), claims(**{name: times[name]}), SIGN).encode()).subject == "u1"


# ---- the cache of verified tokens


def test_a_remembered_token_is_judged_by_the_clock_each_time() -> None:
    clock = Clock()
    tokens = make(clock)
    credential = tokens.issue(user_id="u1", session_id="s1", roles=()).token.encode()
    assert tokens.verify(credential) is tokens.verify(credential)
    clock.now = NOW + 904
    assert tokens.verify(credential).subject == "u1"
    clock.now = NOW + 905
    assert refused(tokens, credential) == "token_expired"
    clock.now = NOW - 6
    assert refused(tokens, credential) == "token_invalid"
    clock.now = NOW
    assert tokens.verify(credential).subject == "u1"


class Counting(SigningKey):
    """A key that counts verifications."""

    __slots__ = ("asked",)

    def __init__(self) -> None:
        super().__init__(SECRET, "HS256", "k1")
        self.asked = 0

    def verifies(self, signed: bytes, signature: bytes) -> bool:
        self.asked += 1
        return super().verifies(signed, signature)


def test_a_flood_of_bad_tokens_does_not_push_out_good_ones() -> None:
    key = Counting()
    tokens = Tokens(KeyRing([key]), TokensSettings(), remembered=10, clock=Clock())
    good = tokens.issue(user_id="u1", session_id="s1", roles=()).token.encode()
    tokens.verify(good)
    start = good.rpartition(b".")[0] + b"."
    for number in range(100):
        assert refused(tokens, start + encoded(number.to_bytes(32, "big"))) == "token_invalid"
    asked = key.asked
    tokens.verify(good)
    assert key.asked == asked


def test_expired_tokens_are_not_remembered() -> None:
    clock = Clock()
    key = Counting()
    tokens = Tokens(KeyRing([key]), TokensSettings(), clock=clock)
    expired = tokens.issue(user_id="u1", session_id="s1", roles=()).token.encode()
    clock.now += 10_000
    for _ in range(3):
        assert refused(tokens, expired) == "token_expired"
    assert key.asked == 3


def test_more_tokens_than_the_cache_holds_are_all_verified_rightly() -> None:
    key = Counting()
    tokens = Tokens(KeyRing([key]), TokensSettings(), remembered=10, clock=Clock())
    issued = [tokens.issue(user_id=f"u{number}", session_id="s", roles=()).token.encode() for number in range(40)]
    for _ in range(3):
        assert [tokens.verify(each).subject for each in issued] == [f"u{number}" for number in range(40)]
    assert key.asked == 120  # The cache is too small for this access pattern. It must be slow then, not wrong.


def test_unused_tokens_are_dropped_after_a_while() -> None:
    clock = Clock()
    key = Counting()
    tokens = Tokens(KeyRing([key]), TokensSettings(access_ttl=100.0), clock=clock)
    quiet = token(
        {"alg": "HS256", "kid": "k1", "typ": "at+jwt"}, claims(exp=NOW + 100_000), with_secret(SECRET)
    ).encode()
    tokens.verify(quiet)
    for step in range(1, 4):
        clock.now = NOW + 101 * step
        tokens.verify(tokens.issue(user_id="u", session_id="s", roles=()).token.encode())
    asked = key.asked
    tokens.verify(quiet)
    assert key.asked == asked + 1


def test_two_issuers_are_never_confused_by_the_same_text() -> None:
    """CVE-2026-33496: each Tokens object caches the tokens of one issuer, so the other one verifies by itself."""
    credential = _signed()
    assert make().verify(credential).issuer == "gateway"
    assert refused(make(issuer="other"), credential) == "token_invalid"
    assert refused(make(audience="other"), credential) == "token_invalid"


def test_the_clock_is_the_wall_clock_by_default() -> None:
    tokens = Tokens(RING, TokensSettings())
    issued = tokens.issue(user_id="u1", session_id="s1", roles=())
    assert abs(issued.expires_at - 900 - time.time()) < 3
    assert tokens.verify(issued.token.encode()).subject == "u1"


# ---- arbitrary bytes

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
claim_names = st.sampled_from(["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "sid", "roles", "x"])


def outcome(credential: bytes) -> Claims | str:
    try:
        return make().verify(credential)
    except Refusal as refusal:
        assert refusal.code in ("token_invalid", "token_expired")
        return refusal.code


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(credential: bytes) -> None:
    assert outcome(credential) == "token_invalid"


@given(st.lists(st.binary(max_size=120), min_size=2, max_size=4))
def test_any_parts_are_refused(parts: list[bytes]) -> None:
    assert outcome(b".".join(map(encoded, parts))) == "token_invalid"


@given(st.data())
def test_a_token_changed_anywhere_is_refused(data: st.DataObject) -> None:
    good = bytearray(token(header(alg="HS256", kid="k0"), claims(), with_secret(SECRET)).encode())
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != good[place]))
    assert outcome(bytes(good)) == "token_invalid"


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "x"]), json_values))
def test_any_header_gives_our_claims_or_a_refusal(changes: dict[str, Any]) -> None:
    given_header = header(alg="HS256", kid="k0") | changes
    text = json.dumps(given_header).encode()
    seen = outcome(token(text, claims(), lambda message: hmac.new(SECRET, message, hashlib.sha256).digest()).encode())
    ours = {"alg": "HS256", "kid": "k0"}.items() <= given_header.items() and not {"crit", "b64"} & set(given_header)
    assert isinstance(seen, str) or ours


@given(st.dictionaries(claim_names, json_values))
def test_any_claims_give_well_typed_facts_or_a_refusal(changes: dict[str, Any]) -> None:
    text = json.dumps(claims() | changes).encode()
    seen = outcome(token(header(alg="HS256", kid="k0"), text, with_secret(SECRET)).encode())
    if isinstance(seen, Claims):
        assert seen.roles is None
        assert all(type(value) is str and value for value in (seen.subject, seen.session, seen.token_id))
        assert seen.expires_at > NOW - 5
