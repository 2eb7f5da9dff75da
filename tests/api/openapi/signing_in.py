"""An extension for schemathesis that signs in for every request, because many requests end their own session."""

import json
import os
import urllib.request
from typing import Any

import schemathesis


@schemathesis.auth(refresh_interval=None)
class SignedIn:
    """The bearer token of the account in the environment."""

    def get(self, case: schemathesis.Case[Any], context: schemathesis.AuthContext) -> str:
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
