"""OpenAPI descriptions of the account and administration operations."""

from typing import Final

from gateway.accounts.commands import (
    AccountChange,
    KeyRequest,
    Login,
    LoginForm,
    NewAccount,
    PasswordChange,
    Refresh,
    Registration,
)
from gateway.accounts.inputs import Schema, schema_of
from gateway.api.body import FORM, JSON
from gateway.api.openapi.operation import (
    DATE_TIME,
    NO_CONTENT,
    TEXT,
    Operation,
    Operations,
    ResponseDescription,
    closed_object,
    nullable,
    ref,
)
from gateway.api.queries import AuditQuery, UserQuery

_ROLES: Final[Schema] = {"type": "array", "items": TEXT, "uniqueItems": True}
_CHANGES: Final = nullable({"type": "object", "additionalProperties": True})

_KEY: Final[dict[str, Schema]] = {
    "id": TEXT,
    "name": TEXT,
    "roles": _ROLES | {"description": "The maximum: the key never has more roles than its owner."},
    "created_at": DATE_TIME,
    "expires_at": nullable(DATE_TIME),
    "last_used_at": nullable(DATE_TIME),
}

SCHEMAS: Final[dict[str, Schema]] = {
    "Tokens": closed_object(
        {
            "access_token": TEXT,
            "token_type": {"const": "bearer"},
            "expires_in": {"type": "integer", "minimum": 0, "description": "In seconds."},
            "refresh_token": TEXT,
        }
    ),
    "Account": closed_object(
        {
            "id": TEXT,
            "email": TEXT,
            "is_active": {"type": "boolean"},
            "roles": _ROLES | {"description": "The account's own roles, without implied ones."},
            "created_at": nullable(DATE_TIME) | {"description": "Null for subjects of external issuers."},
        }
    ),
    "AccountPage": closed_object(
        {"users": {"type": "array", "items": ref("Account")}, "next_cursor": nullable(TEXT)},
    ),
    "Session": closed_object(
        {
            "id": TEXT | {"description": "The `sid` of its tokens."},
            "created_at": DATE_TIME,
            "last_used_at": DATE_TIME,
            "expires_at": DATE_TIME,
            "address": TEXT,
            "user_agent": TEXT,
            "is_current": {"type": "boolean"},
        }
    ),
    "SessionList": closed_object({"sessions": {"type": "array", "items": ref("Session")}}),
    "ApiKey": closed_object(_KEY),
    "NewApiKey": closed_object({**_KEY, "key": TEXT | {"description": "The key itself, shown only in this response."}}),
    "ApiKeyList": closed_object({"api_keys": {"type": "array", "items": ref("ApiKey")}}),
    "AuditRecord": closed_object(
        {
            "id": {"type": "integer"},
            "at": DATE_TIME,
            "action": TEXT | {"examples": ["user.created", "user.roles_set", "sessions.ended"]},
            "actor": TEXT | {"description": "A user's id, or `command-line`."},
            "subject": TEXT | {"description": "The id of the changed account."},
            "address": TEXT,
            "request_id": TEXT,
            "before": _CHANGES,
            "after": _CHANGES,
        }
    ),
    "AuditPage": closed_object(
        {"records": {"type": "array", "items": ref("AuditRecord")}, "next_cursor": nullable(TEXT)}
    ),
}

_TOKENS: Final = ResponseDescription("Signed in.", ref("Tokens"))
_ACCOUNT: Final = ResponseDescription("The account.", ref("Account"))

OPERATIONS: Final[Operations] = {
    "accounts.register": Operation(
        summary="Create an account and sign in",
        answers={201: _TOKENS},
        bodies={JSON: schema_of(Registration)},
        refusals=("email_taken", "registration_closed", "rate_limited", "overloaded", "storage_unavailable"),
    ),
    "accounts.login": Operation(
        summary="Sign in",
        text="The response and its timing are the same for an unknown account and a wrong password.",
        answers={200: _TOKENS},
        bodies={JSON: schema_of(Login), FORM: schema_of(LoginForm)},
        refusals=("invalid_credentials", "account_disabled", "locked_out", "overloaded", "storage_unavailable"),
    ),
    "accounts.refresh": Operation(
        summary="Get new tokens for a refresh token",
        text="The refresh token is replaced. Reusing a replaced token ends its session.",
        answers={200: _TOKENS},
        bodies={JSON: schema_of(Refresh)},
        refusals=("refresh_invalid", "refresh_reused", "storage_unavailable"),
    ),
    "accounts.logout": Operation(summary="End this session", answers={204: NO_CONTENT}, refusals=("forbidden",)),
    "accounts.logout_all": Operation(
        summary="End all of your sessions", answers={204: NO_CONTENT}, refusals=("forbidden",)
    ),
    "accounts.me": Operation(summary="Show the signed-in user", answers={200: _ACCOUNT}),
    "accounts.password": Operation(
        summary="Change your password",
        text="Every other session ends.",
        answers={204: NO_CONTENT},
        bodies={JSON: schema_of(PasswordChange)},
        refusals=("invalid_credentials", "locked_out", "forbidden", "overloaded"),
    ),
    "accounts.sessions.list": Operation(
        summary="List your sessions",
        answers={200: ResponseDescription("The active sessions.", ref("SessionList"))},
        refusals=("forbidden",),
    ),
    "accounts.sessions.end": Operation(
        summary="End one of your sessions", answers={204: NO_CONTENT}, refusals=("not_found", "forbidden")
    ),
    "accounts.api_keys.list": Operation(
        summary="List your API keys",
        answers={200: ResponseDescription("The valid keys.", ref("ApiKeyList"))},
        refusals=("forbidden",),
    ),
    "accounts.api_keys.create": Operation(
        summary="Create an API key",
        text="The key has the roles of its owner, or only `roles`; send it as `Authorization: Bearer gwk_…`. An access "
        "token alone is not enough: the request needs the owner's current password.",
        answers={201: ResponseDescription("Created.", ref("NewApiKey"))},
        bodies={JSON: schema_of(KeyRequest)},
        refusals=("invalid_credentials", "locked_out", "forbidden", "too_many_api_keys", "overloaded"),
    ),
    "accounts.api_keys.delete": Operation(
        summary="Delete one of your API keys", answers={204: NO_CONTENT}, refusals=("not_found", "forbidden")
    ),
    "admin.users.list": Operation(
        summary="List and search accounts",
        text="Sorted by address, or by domain if the query is a domain.",
        answers={200: ResponseDescription("A page of accounts.", ref("AccountPage"))},
        query=schema_of(UserQuery),
    ),
    "admin.users.create": Operation(
        summary="Create an account",
        text="The default for `roles` is `accounts.default_roles`. Works while registration is closed.",
        answers={
            201: ResponseDescription("Created.", ref("Account"), headers={"Location": "The path of the account."})
        },
        bodies={JSON: schema_of(NewAccount)},
        refusals=("email_taken", "overloaded"),
    ),
    "admin.users.show": Operation(summary="Show an account", answers={200: _ACCOUNT}, refusals=("not_found",)),
    "admin.users.change": Operation(
        summary="Disable or enable an account, or replace its roles",
        text="Omitted fields stay unchanged. Takes effect at once, and on all replicas within 100 ms.",
        answers={200: _ACCOUNT},
        bodies={JSON: schema_of(AccountChange)},
        refusals=("not_found", "last_admin"),
    ),
    "admin.users.delete": Operation(
        summary="Delete an account",
        text="Audit records of the account are kept.",
        answers={204: NO_CONTENT},
        refusals=("not_found", "last_admin"),
    ),
    "admin.users.revoke": Operation(
        summary="End every session and every API key of an account", answers={204: NO_CONTENT}, refusals=("not_found",)
    ),
    "admin.audit": Operation(
        summary="Read the audit trail",
        text="Newest first. The API cannot change or delete records.",
        answers={200: ResponseDescription("A page of records.", ref("AuditPage"))},
        query=schema_of(AuditQuery),
    ),
}
