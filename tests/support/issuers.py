"""An identity provider for the gateway: an HTTP server on loopback that publishes its keys."""

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.processes import free_port
from tests.support.token_factory import Part, Sign, shared_rsa_key, token, with_curve, with_rsa

DISCOVERY = "/.well-known/openid-configuration"
JWKS = "/jwks"


def number(value: int) -> str:
    """A number in a JWK: base64url of its bytes."""
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


def coordinate(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes(32, "big")).rstrip(b"=").decode()


def jwk_of(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, kid: str | None, **members: Any) -> dict[str, Any]:
    """The public half as a JWK; None removes a member."""
    if isinstance(key, rsa.RSAPrivateKey):
        public = key.public_key().public_numbers()
        jwk: dict[str, Any] = {"kty": "RSA", "alg": "RS256", "n": number(public.n), "e": number(public.e)}
    else:
        point = key.public_key().public_numbers()
        jwk = {"kty": "EC", "crv": "P-256", "alg": "ES256", "x": coordinate(point.x), "y": coordinate(point.y)}
    jwk = {**jwk, "kid": kid, "use": "sig"} | members
    return {name: value for name, value in jwk.items() if value is not None}


class Issuer:
    """An issuer with an RSA key `r1` and a curve key `c1`, both published. `answers` replaces the response of a path: a
    status, fields and a body. `asked` counts the requests for each path."""

    def __init__(self, *, audience: str = "api", rsa_key: int = 0) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.audience = audience
        self.rsa = shared_rsa_key(rsa_key)
        self.curve = ec.generate_private_key(ec.SECP256R1())
        self.keys = [jwk_of(self.rsa, "r1"), jwk_of(self.curve, "c1")]
        self.answers: dict[str, tuple[int, Mapping[str, str], bytes]] = {}
        self.asked: Counter[str] = Counter()
        self._server: ThreadingHTTPServer | None = None

    # ---- the server

    def start(self) -> "Issuer":
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                issuer.asked[self.path] += 1
                status, fields, body = issuer.answer(self.path)
                self.send_response(status)
                for name, value in fields.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop: the port refuses connections."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def answer(self, path: str) -> tuple[int, Mapping[str, str], bytes]:
        if path in self.answers:
            return self.answers[path]
        if path == DISCOVERY:
            return 200, {}, json.dumps({"issuer": self.url, "jwks_uri": self.url + JWKS}).encode()
        if path == JWKS:
            return 200, {}, json.dumps({"keys": self.keys}).encode()
        return 404, {}, b""

    # ---- tokens

    def settings(self, name: str = "idp", **changes: Any) -> dict[str, Any]:
        """The entry for `tokens.external`."""
        settings = {
            "issuer": self.url,
            "audience": self.audience,
            "name": name,
            "roles_claim": "realm_access.roles",
            "role_map": {"idp-admins": "admin", "idp-editors": "editor"},
            "algorithms": ["RS256", "ES256"],
        }
        return settings | changes

    def claims(self, sub: str = "bob", **changes: Any) -> dict[str, Any]:
        """Valid claims with changes; None removes a claim."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": self.audience, "sub": sub, "iat": now, "exp": now + 600} | changes
        return {name: value for name, value in claims.items() if value is not None}

    def header(self, **changes: Any) -> dict[str, Any]:
        header = {"alg": "RS256", "kid": "r1", "typ": "at+jwt"} | changes
        return {name: value for name, value in header.items() if value is not None}

    @property
    def sign(self) -> Sign:
        return with_rsa(self.rsa, hashes.SHA256())

    def token(self, sub: str = "bob", *, header: Part | None = None, roles: Any = None, **changes: Any) -> str:
        """A token signed by `r1`; `roles` are in the configured claim."""
        claims = self.claims(sub, **changes)
        if roles is not None:
            claims["realm_access"] = {"roles": roles}
        return token(self.header() if header is None else header, claims, self.sign)

    def curve_token(self, sub: str = "bob", *, kid: str = "c1", **changes: Any) -> str:
        """A token signed by the curve key."""
        return token(self.header(alg="ES256", kid=kid), self.claims(sub, **changes), with_curve(self.curve))
