"""The operations about one's own account, and those of the administration, as OpenAPI describes them: a row each."""

from typing import Final

from gateway.accounts.bodies import (
    AccountChange,
    KeyRequest,
    Login,
    LoginForm,
    NewAccount,
    PasswordChange,
    Refresh,
    Registration,
)
from gateway.accounts.declaring import schema_of
from gateway.accounts.queries import AuditQuery, UserQuery
from gateway.accounts.reading import FORM, JSON
from gateway.described import DONE, MOMENT, TEXT, Answer, Operation, Operations, Schema, exactly, or_null, ref

_ROLES: Final[Schema] = {"type": "array", "items": TEXT, "uniqueItems": True}
_CHANGES: Final = or_null({"type": "object", "additionalProperties": True})

_KEY: Final[dict[str, Schema]] = {
    "id": TEXT,
    "name": TEXT,
    "roles": _ROLES | {"description": "What it may at most: less where its owner has less."},
    "created_at": MOMENT,
    "expires_at": or_null(MOMENT),
    "last_used_at": or_null(MOMENT),
}

SCHEMAS: Final[dict[str, Schema]] = {
    "Tokens": exactly(
        {
            "access_token": TEXT,
            "token_type": {"const": "bearer"},
            "expires_in": {"type": "integer", "minimum": 0, "description": "Seconds."},
            "refresh_token": TEXT,
        }
    ),
    "Account": exactly(
        {
            "id": TEXT,
            "email": TEXT,
            "is_active": {"type": "boolean"},
            "roles": _ROLES | {"description": "Its own, without those they imply."},
            "created_at": or_null(MOMENT) | {"description": "Null: the account is another issuer's."},
        }
    ),
    "AccountPage": exactly(
        {"users": {"type": "array", "items": ref("Account")}, "next_cursor": or_null(TEXT)},
    ),
    "Session": exactly(
        {
            "id": TEXT | {"description": "The `sid` of its tokens."},
            "created_at": MOMENT,
            "last_used_at": MOMENT,
            "expires_at": MOMENT,
            "address": TEXT,
            "user_agent": TEXT,
            "is_current": {"type": "boolean"},
        }
    ),
    "SessionList": exactly({"sessions": {"type": "array", "items": ref("Session")}}),
    "ApiKey": exactly(_KEY),
    "NewApiKey": exactly({**_KEY, "key": TEXT | {"description": "The key itself; it is not shown again."}}),
    "ApiKeyList": exactly({"api_keys": {"type": "array", "items": ref("ApiKey")}}),
    "AuditRecord": exactly(
        {
            "id": {"type": "integer"},
            "at": MOMENT,
            "action": TEXT | {"examples": ["user.created", "user.roles_set", "sessions.ended"]},
            "actor": TEXT | {"description": "A user's id, or `command-line`."},
            "subject": TEXT | {"description": "Whose account it was: a user's id."},
            "address": TEXT,
            "request_id": TEXT,
            "before": _CHANGES,
            "after": _CHANGES,
        }
    ),
    "AuditPage": exactly({"records": {"type": "array", "items": ref("AuditRecord")}, "next_cursor": or_null(TEXT)}),
}

_TOKENS: Final = Answer("Signed in.", ref("Tokens"))
_ACCOUNT: Final = Answer("The account.", ref("Account"))

OPERATIONS: Final[Operations] = {
    "accounts.register": Operation(
        summary="Make an account, and sign in",
        answers={201: _TOKENS},
        bodies={JSON: schema_of(Registration)},
        refusals=("email_taken", "registration_closed", "rate_limited", "overloaded", "storage_unavailable"),
    ),
    "accounts.login": Operation(
        summary="Sign in",
        text="The same answer, after the same time, whether the account does not exist or the password is wrong.",
        answers={200: _TOKENS},
        bodies={JSON: schema_of(Login), FORM: schema_of(LoginForm)},
        refusals=("invalid_credentials", "account_disabled", "locked_out", "overloaded", "storage_unavailable"),
    ),
    "accounts.refresh": Operation(
        summary="Get new tokens for a refresh token",
        text="The refresh token is replaced. One that was replaced before ends its session.",
        answers={200: _TOKENS},
        bodies={JSON: schema_of(Refresh)},
        refusals=("refresh_invalid", "refresh_reused", "storage_unavailable"),
    ),
    "accounts.logout": Operation(summary="End this session", answers={204: DONE}, refusals=("forbidden",)),
    "accounts.logout_all": Operation(
        summary="End all of one's own sessions", answers={204: DONE}, refusals=("forbidden",)
    ),
    "accounts.me": Operation(summary="Show who one is", answers={200: _ACCOUNT}),
    "accounts.password": Operation(
        summary="Change one's own password",
        text="Every other session ends.",
        answers={204: DONE},
        bodies={JSON: schema_of(PasswordChange)},
        refusals=("invalid_credentials", "locked_out", "forbidden", "overloaded"),
    ),
    "accounts.sessions.list": Operation(
        summary="List one's own sessions",
        answers={200: Answer("Those that have not ended.", ref("SessionList"))},
        refusals=("forbidden",),
    ),
    "accounts.sessions.end": Operation(
        summary="End one of one's own sessions", answers={204: DONE}, refusals=("not_found", "forbidden")
    ),
    "accounts.api_keys.list": Operation(
        summary="List one's own API keys",
        answers={200: Answer("Those that were neither deleted nor have expired.", ref("ApiKeyList"))},
        refusals=("forbidden",),
    ),
    "accounts.api_keys.create": Operation(
        summary="Make an API key",
        text="It may what its owner may, or only what `roles` allow; sent as `Authorization: Bearer gwk_…`. An access "
        "token alone does not make one: the request carries the current password of the owner.",
        answers={201: Answer("Made.", ref("NewApiKey"))},
        bodies={JSON: schema_of(KeyRequest)},
        refusals=("invalid_credentials", "locked_out", "forbidden", "too_many_api_keys", "overloaded"),
    ),
    "accounts.api_keys.delete": Operation(
        summary="Delete one of one's own API keys", answers={204: DONE}, refusals=("not_found", "forbidden")
    ),
    "admin.users.list": Operation(
        summary="List and search accounts",
        text="In the order of addresses, or of domains where a domain is searched for.",
        answers={200: Answer("Some accounts.", ref("AccountPage"))},
        query=schema_of(UserQuery),
    ),
    "admin.users.create": Operation(
        summary="Make an account",
        text="It gets `accounts.default_roles` unless `roles` are given, and registration need not be open.",
        answers={201: Answer("Made.", ref("Account"), headers={"Location": "Where it is."})},
        bodies={JSON: schema_of(NewAccount)},
        refusals=("email_taken", "overloaded"),
    ),
    "admin.users.show": Operation(summary="Show an account", answers={200: _ACCOUNT}, refusals=("not_found",)),
    "admin.users.change": Operation(
        summary="Disable or enable an account, or replace its roles",
        text="What is left out stays as it is. It takes effect at once, and on all replicas within 100 ms.",
        answers={200: _ACCOUNT},
        bodies={JSON: schema_of(AccountChange)},
        refusals=("not_found", "last_admin"),
    ),
    "admin.users.delete": Operation(
        summary="Delete an account",
        text="Its audit records stay.",
        answers={204: DONE},
        refusals=("not_found", "last_admin"),
    ),
    "admin.users.revoke": Operation(
        summary="End every session and every API key of an account", answers={204: DONE}, refusals=("not_found",)
    ),
    "admin.audit": Operation(
        summary="Read the audit trail",
        text="The newest first. Nothing changes or deletes a record over HTTP.",
        answers={200: Answer("Some records.", ref("AuditPage"))},
        query=schema_of(AuditQuery),
    ),
}
