"""Signature algorithms of JSON Web Tokens by their names (RFC 7518 3, RFC 8037 3.1).

ECDSA and EdDSA, the algorithms of generated keys, use cryptography directly. RSA and HMAC are PyJWT's, imported with
the first such key: its package imports X.509 and an HTTP client, 2 MiB and a tenth of a start.
"""

import base64
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Literal, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature


class Algorithm(Protocol):
    """A signature algorithm, in the shape of PyJWT's."""

    def sign(self, msg: bytes, key: Any) -> bytes:
        """The signature of a message."""

    def verify(self, msg: bytes, key: Any, sig: bytes) -> bool:
        """Whether `sig` is a signature of the message by the private key of `key`."""

    def to_jwk(self, key_obj: Any, as_dict: Literal[True]) -> dict[str, Any]:
        """The members of a public key in a JWK (RFC 7517)."""


class _Ecdsa:
    """ECDSA with the curve and hash of one algorithm. A signature is r and s, each as long as the curve's order."""

    def __init__(self, curve: str, size: int, hash_: hashes.HashAlgorithm) -> None:
        self._curve = curve
        self._size = size
        self._scheme = ec.ECDSA(hash_)

    def sign(self, msg: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
        return b"".join(self._octets(number) for number in decode_dss_signature(key.sign(msg, self._scheme)))

    def verify(self, msg: bytes, key: ec.EllipticCurvePublicKey, sig: bytes) -> bool:
        if len(sig) != 2 * self._size:
            return False
        numbers = int.from_bytes(sig[: self._size]), int.from_bytes(sig[self._size :])
        try:
            key.verify(encode_dss_signature(*numbers), msg, self._scheme)
        except InvalidSignature:
            return False
        return True

    def to_jwk(self, key_obj: ec.EllipticCurvePublicKey, as_dict: Literal[True]) -> dict[str, Any]:
        point = key_obj.public_numbers()
        return {"kty": "EC", "crv": self._curve, "x": self._encoded(point.x), "y": self._encoded(point.y)}

    def _octets(self, number: int) -> bytes:
        return number.to_bytes(self._size)

    def _encoded(self, number: int) -> str:
        return _base64url(self._octets(number))


class _EdDsa:
    """EdDSA with Ed25519."""

    def sign(self, msg: bytes, key: ed25519.Ed25519PrivateKey) -> bytes:
        return key.sign(msg)

    def verify(self, msg: bytes, key: ed25519.Ed25519PublicKey, sig: bytes) -> bool:
        try:
            key.verify(sig, msg)
        except InvalidSignature:
            return False
        return True

    def to_jwk(self, key_obj: ed25519.Ed25519PublicKey, as_dict: Literal[True]) -> dict[str, Any]:
        return {"kty": "OKP", "crv": "Ed25519", "x": _base64url(key_obj.public_bytes_raw())}


_OWN: Final[Mapping[str, Algorithm]] = {
    "ES256": _Ecdsa("P-256", 32, hashes.SHA256()),
    "ES384": _Ecdsa("P-384", 48, hashes.SHA384()),
    "ES512": _Ecdsa("P-521", 66, hashes.SHA512()),
    "EdDSA": _EdDsa(),
}


def algorithm(name: str) -> Algorithm:
    """The algorithm with a name of the JOSE registry (RFC 7518 3.1, RFC 8037 5). Raises KeyError for another name."""
    return _OWN[name] if name in _OWN else _pyjwt()[name]


def is_random(secret: bytes) -> bool:
    """Whether a secret is neither a key nor a certificate, whose text others know in part."""
    from jwt.exceptions import InvalidKeyError

    hmac: Any = _pyjwt()["HS256"]
    try:
        hmac.prepare_key(secret)
    except InvalidKeyError:
        return False
    return True


@cache
def _pyjwt() -> Mapping[str, Algorithm]:
    from jwt.algorithms import get_default_algorithms

    return get_default_algorithms()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
