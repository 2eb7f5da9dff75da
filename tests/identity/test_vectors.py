"""Signatures, keys and tokens of Project Wycheproof, if its files are next to the checkout (`../shared/vectors`).

The vectors sign arbitrary bytes without the claims of an access token, so they test two layers: parsing and verifying a
JWS with one key, and creating keys.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.errors import Refusal
from gateway.identity.jws import parse_jws
from gateway.identity.keys import PublicKey, UnusableKey, VerifyingKey

FOLDER = Path(__file__).parents[3] / "shared" / "vectors"
CURVES: dict[str, type[ec.SECP256R1 | ec.SECP384R1 | ec.SECP521R1]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
}

# Skipped vectors by name. Key sets and the declared use of foreign JWKs concern external issuers.
LEFT_OUT = {
    "rejectsKeyWithRocaVulnerability": "keys of ROCA devices look like any other",
    "rejectsWrongUse": "no foreign JWK is read here",
    "rejectWrongUse": "no foreign JWK is read here",
    "rejectWrongKeyOps": "no foreign JWK is read here",
    "rejectsDuplicateKid": "ambiguous; a ring of keys refuses it",
    "rejectsValid": "ambiguous: a secret and a public key in one set",
    "invalidBase64Padding": "the file holds the same bytes as for ValidMac",
    "invalidBase64PaddingInPayload": "the file holds the same bytes as for ValidMac",
    "invalid_use": "no foreign JWK is read here",
}
# Valid in the files, but refused by the gateway.
REFUSED_HERE = {
    "InvalidCharacterInsertedInHeader": "a token has one spelling",
    "InvalidCharacterInsertedInPayload": "a token has one spelling",
    "Figure20": "the JWK names another algorithm than the token",
    "Figure27": "the JWK names another algorithm than the token",
}


class Vector(NamedTuple):
    """One test of a file: its keys, its token, and the expected result."""

    name: str
    keys: list[dict[str, Any]]
    jws: Any
    valid: bool


def vectors(file: str) -> Iterator[Vector]:
    path = FOLDER / file
    if not path.is_file():
        return
    for group in json.loads(path.read_text())["testGroups"]:
        keys = group.get("public") or group["private"]
        for test in group["tests"]:
            if not {test["comment"], group["comment"]} & set(LEFT_OUT):
                yield Vector(
                    f"{group['comment']}-{test['tcId']}-{test['comment']}",
                    keys.get("keys", [keys]),
                    test["jws"],
                    test["result"] == "valid" and test["comment"] not in REFUSED_HERE,
                )


def parameters(file: str) -> list[Any]:
    found = [pytest.param(each, id=each.name) for each in vectors(file)]
    missing = pytest.mark.skip(reason=f"{file} does not lie in ../shared/vectors")
    return found or [pytest.param(None, id=file, marks=missing)]


def number(text: str) -> int:
    return int.from_bytes(octets(text), "big")


def octets(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def material(jwk: dict[str, Any]) -> PublicKey | bytes:
    """The key in a JWK. Raises ValueError for other content."""
    if jwk["kty"] == "oct":
        return octets(jwk["k"])
    if jwk["kty"] == "RSA" and "n" in jwk:
        return rsa.RSAPublicNumbers(number(jwk["e"]), number(jwk["n"])).public_key()
    if jwk["kty"] == "EC" and jwk["crv"] in CURVES:
        return ec.EllipticCurvePublicNumbers(number(jwk["x"]), number(jwk["y"]), CURVES[jwk["crv"]]()).public_key()
    raise ValueError("no key")


def verified(vector: Vector) -> bool:
    """Whether the gateway accepts a JWS with one of these keys, each bound to the algorithm of its JWK."""
    if not isinstance(vector.jws, str):
        return False  # JSON serialization does not fit into an Authorization field
    try:
        jws = parse_jws(vector.jws.encode())
        keys = [VerifyingKey(material(jwk), jwk["alg"], jwk.get("kid", "none")) for jwk in vector.keys]
    except (Refusal, UnusableKey, ValueError):
        return False
    named = [key for key in keys if key.kid == jws.header.get("kid", key.kid)]
    return any(key.algorithm == jws.header.get("alg") and key.verifies(jws.signed, jws.signature) for key in named)


@pytest.mark.parametrize("vector", parameters("json_web_signature_test.json"))
def test_signed_tokens_of_wycheproof(vector: Vector) -> None:
    assert verified(vector) is vector.valid


@pytest.mark.parametrize("vector", parameters("json_web_crypto_test.json"))
def test_more_signed_tokens_of_wycheproof(vector: Vector) -> None:
    assert verified(vector) is vector.valid


@pytest.mark.parametrize("vector", parameters("json_web_key_test.json"))
def test_keys_of_wycheproof(vector: Vector) -> None:
    assert verified(vector) is vector.valid


def ecdsa() -> Iterator[Any]:
    path = FOLDER / "ecdsa_secp256r1_sha256_p1363_test.json"
    if not path.is_file():
        missing = pytest.mark.skip(reason=f"{path.name} does not lie in ../shared/vectors")
        yield pytest.param("", {}, id=path.name, marks=missing)
        return
    for group in json.loads(path.read_text())["testGroups"]:
        for test in group["tests"]:
            yield pytest.param(group["publicKey"]["uncompressed"], test, id=f"{test['tcId']}-{test['comment']}")


@pytest.mark.parametrize(("point", "test"), list(ecdsa()))
def test_es256_signatures_of_wycheproof(point: str, test: dict[str, Any]) -> None:
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), bytes.fromhex(point))
    key = VerifyingKey(public, "ES256", "k")
    message, signature = bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"])
    assert key.verifies(message, signature) is (test["result"] == "valid")
