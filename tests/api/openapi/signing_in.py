"""An extension for schemathesis that signs in, and again after each request that can have ended the session."""

import json
import os
import urllib.request
from typing import Any

import schemathesis

_HARMLESS = ("GET", "HEAD", "OPTIONS")
_tokens: list[str] = []


@schemathesis.hook
def after_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], response: schemathesis.Response
) -> None:
    """Forget the token after a request that changed something. A refused request ends no session."""
    if response.status_code == 401 or (response.status_code < 400 and case.method.upper() not in _HARMLESS):
        _tokens.clear()


@schemathesis.auth(refresh_interval=None)
class SignedIn:
    """The bearer token of the account in the environment."""

    def get(self, case: schemathesis.Case[Any], context: schemathesis.AuthContext) -> str:
        if not _tokens:
            _tokens.append(self._sign_in())
        return _tokens[0]

    def _sign_in(self) -> str:
        body = {"email": os.environ["GATEWAY_EMAIL"], "password": os.environ["GATEWAY_PASSWORD"]}
        request = urllib.request.Request(
            f"{os.environ['GATEWAY_URL']}/auth/login",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            token: str = json.load(answer)["access_token"]
            return token

    def set(self, case: schemathesis.Case[Any], data: str, context: schemathesis.AuthContext) -> None:
        case.headers["Authorization"] = f"Bearer {data}"
