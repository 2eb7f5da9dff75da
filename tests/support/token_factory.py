"""Tokens built by hand, byte by byte, with errors that no library would allow."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

Sign = Callable[[bytes], bytes]
Part = Mapping[str, Any] | bytes


def encoded(data: bytes) -> bytes:
    """base64url without padding (RFC 7515)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def decoded(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return base64.urlsafe_b64decode(data + b"=" * (-len(data) % 4))


def token(header: Part, claims: Part, sign: Sign) -> str:
    """A compact JWS of exactly this header and these claims; bytes are used as the JSON text itself."""
    message = encoded(_json(header)) + b"." + encoded(_json(claims))
    return (message + b"." + encoded(sign(message))).decode()


def claims_of(issued: str) -> dict[str, Any]:
    """The claims of a token, unverified."""
    claims = json.loads(decoded(issued.split(".")[1]))
    assert isinstance(claims, dict)
    return claims


def header_of(issued: str) -> dict[str, Any]:
    header = json.loads(decoded(issued.split(".")[0]))
    assert isinstance(header, dict)
    return header


def _json(part: Part) -> bytes:
    return part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode()


def unsigned(_: bytes) -> bytes:
    return b""


def with_secret(secret: bytes, digest: str = "sha256") -> Sign:
    return lambda message: hmac.new(secret, message, getattr(hashlib, digest)).digest()


def with_curve(key: ec.EllipticCurvePrivateKey) -> Sign:
    def sign(message: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    return sign


def with_rsa(key: rsa.RSAPrivateKey, digest: hashes.HashAlgorithm) -> Sign:
    return lambda message: key.sign(message, padding.PKCS1v15(), digest)


@cache
def shared_rsa_key(number: int) -> rsa.RSAPrivateKey:
    """A 2048-bit key, another for each number. The tests of one process share them, because a new one takes a tenth of
    a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class TokenFactory:
    """The signing keys of the gateways under test, and an attacker's uses of their public halves.

    `k1` (ES256) signs; `k0` (HS256) and `k2` (RS512) only verify. Few gateways have `k2`, because OpenSSL takes 25 ms
    to check an RSA key, at each start and at each command.
    """

    def __init__(self) -> None:
        self.curve = ec.generate_private_key(ec.SECP256R1())
        self.secret = b"0123456789abcdef0123456789abcdef-for-tests"
        self.stranger = ec.generate_private_key(ec.SECP256R1())

    @cached_property
    def rsa(self) -> rsa.RSAPrivateKey:
        return shared_rsa_key(2)

    def settings(self) -> list[dict[str, str]]:
        """The value of `tokens.keys` without `k2`."""
        return [
            {"kid": "k1", "algorithm": "ES256", "private_key": _pem(self.curve)},
            {"kid": "k0", "algorithm": "HS256", "secret": self.secret.decode()},
        ]

    def settings_with_rsa(self) -> list[dict[str, str]]:
        """The value of `tokens.keys` with all keys."""
        return [*self.settings(), {"kid": "k2", "algorithm": "RS512", "private_key": _pem(self.rsa)}]

    def public_texts(self, jwks: dict[str, Any]) -> list[bytes]:
        """Every text of the public keys that could be mistaken for an HMAC secret."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        texts = [
            key.public_key().public_bytes(encoding, form)
            for key in (self.curve, self.rsa)
            for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER)
        ]
        texts += [text.strip() for text in texts]
        for document in (jwks, {"jwks": jwks}, *jwks["keys"]):
            texts += [json.dumps(document).encode(), json.dumps(document, separators=(",", ":")).encode()]
        return texts

    def claims(self, issued: str, **changes: Any) -> dict[str, Any]:
        """The claims of a real token with changes; None removes a claim."""
        claims = claims_of(issued) | {"iat": int(time.time()), "exp": int(time.time()) + 600} | changes
        return {name: value for name, value in claims.items() if value is not None}

    def header(self, **changes: Any) -> dict[str, Any]:
        header = {"alg": "ES256", "kid": "k1", "typ": "at+jwt"} | changes
        return {name: value for name, value in header.items() if value is not None}

    def good(self, issued: str, **changes: Any) -> str:
        """A token signed by the right key, with the claims of a real one and changes."""
        return token(self.header(), self.claims(issued, **changes), with_curve(self.curve))


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
