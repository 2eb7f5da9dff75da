"""OpenAPI descriptions of the operations endpoints."""

from typing import Final

from gateway.accounts.inputs import Schema
from gateway.api.openapi.operation import Operation, Operations, ResponseDescription, closed_object, ref

SCHEMAS: Final[dict[str, Schema]] = {
    "Health": closed_object({"status": {"const": "ok"}}),
    "Readiness": closed_object(
        {
            "status": {"enum": ["starting", "ready", "degraded", "draining"]},
            "degraded": {
                "type": "array",
                "items": {"enum": ["database", "redis"]},
                "description": "The unavailable stores.",
            },
            "policy": {"type": "string", "description": "The version of the policy in force."},
        }
    ),
    "KeySet": closed_object({"keys": {"type": "array", "items": {"type": "object", "required": ["kty", "kid"]}}}),
}

OPERATIONS: Final[Operations] = {
    "tokens.jwks": Operation(
        summary="Read the public keys that sign tokens",
        answers={200: ResponseDescription("A JSON Web Key Set (RFC 7517).", ref("KeySet"))},
    ),
    "operations.health": Operation(
        summary="Check that the process is alive", answers={200: ResponseDescription("Alive.", ref("Health"))}
    ),
    "operations.ready": Operation(
        summary="Check that the process can receive requests",
        text="With `?strict`, an unavailable store also returns 503.",
        answers={
            200: ResponseDescription("Ready.", ref("Readiness")),
            503: ResponseDescription("Not ready.", ref("Readiness")),
        },
        query=lambda _: {"properties": {"strict": {"type": "string"}}, "required": []},
    ),
    "operations.metrics": Operation(
        summary="Read the metrics",
        text="For callers from `observability.operations_allow`.",
        answers={200: ResponseDescription("In the text format of Prometheus.", {"type": "string"}, "text/plain")},
        refusals=("forbidden", "no_route"),
    ),
    "operations.verify": Operation(
        summary="Decide on a request without proxying it",
        text="For `auth_request`, `forwardAuth` and `ext_authz` of another proxy, with any method. A proxy in "
        "`server.trusted_proxies` describes the request in `X-Forwarded-*` or `X-Original-*`. The response has the "
        "identity headers, or is the refusal of the request.",
        answers={200: ResponseDescription("Allowed.")},
        refusals=(
            "token_missing",
            "token_invalid",
            "token_expired",
            "token_revoked",
            "user_inactive",
            "forbidden",
            "no_route",
            "method_not_allowed",
            "rate_limited",
            "storage_unavailable",
        ),
    ),
    "operations.openapi": Operation(
        summary="Read this description",
        answers={
            200: ResponseDescription("An OpenAPI 3.1 document.", {"type": "object", "required": ["openapi", "paths"]})
        },
    ),
    "operations.docs": Operation(
        summary="Read this description as a page",
        answers={200: ResponseDescription("HTML.", {"type": "string"}, "text/html")},
    ),
}
