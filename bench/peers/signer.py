"""Tokens for peers without accounts: ES256 and HS256, with keys generated for one run."""

import base64
import json
import secrets
import time
import uuid

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

ISSUER = "bench"
AUDIENCE = "bench"
LIFETIME = 12 * 3600
USER_ID = "5d3c9f5e-6c1c-4a52-8f6b-1d2c3b4a5f60"
EMAIL = "caller@example.com"


class Signer:
    """Signs tokens like an identity provider."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.kid = "bench-1"
        self.secret = secrets.token_hex(32)

    def token(self, *, roles: list[str], algorithm: str = "ES256") -> str:
        """An access token as large as the gateway's, with the claims for identity headers."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": USER_ID,
            "aud": AUDIENCE,
            "exp": now + LIFETIME,
            "iat": now,
            "nbf": now,
            "jti": uuid.uuid4().hex,
            "email": EMAIL,
            "role": ",".join(roles),
            "roles": roles,
        }
        key = self._key if algorithm == "ES256" else self.secret
        return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": self.kid, "typ": "at+jwt"})

    def public_pem(self) -> str:
        public = self._key.public_key()
        return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()

    def jwks(self) -> str:
        numbers = self._key.public_key().public_numbers()
        key = {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid}
        return json.dumps({"keys": [{**key, "x": _coordinate(numbers.x), "y": _coordinate(numbers.y)}]})


def _coordinate(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()
