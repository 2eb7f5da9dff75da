"""The exception hierarchy.

    GatewayError
    ├── Refusal                a request gets an error response
    ├── ConfigurationError     every problem of a configuration file, with its position; exit code 2
    ├── CannotStart            the command cannot run, with the remedy; exit code 2
    └── StorageUnavailable     the database or Redis did not answer in time

A refusal contains the public part (status, code, detail) and, separately, a private reason for the log. Errors of other
libraries are translated into one of these where the library is called.
"""

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

# Only an annotation. Every command imports this module, and pathlib takes 4 ms of `gateway --help`.
if TYPE_CHECKING:
    from pathlib import Path

E = TypeVar("E", bound=BaseException)


class GatewayError(Exception):
    """The base class of all exceptions that the gateway raises deliberately."""


# code -> (status, public detail).
CODES: Final[Mapping[str, tuple[int, str]]] = {
    "bad_path": (400, "The request path is not in an accepted form"),
    "bad_host": (400, "The Host header is missing, repeated or malformed"),
    "bad_request": (400, "The request could not be understood"),
    "email_taken": (400, "Email already registered"),
    "link_invalid": (400, "This link is not valid any more"),
    "token_missing": (401, "Not authenticated"),
    "token_invalid": (401, "Invalid or expired token"),
    "token_expired": (401, "Invalid or expired token"),
    "token_revoked": (401, "Invalid or expired token"),
    "user_inactive": (401, "User not found or inactive"),
    "reauthentication_required": (401, "Confirm that it is you"),
    "invalid_credentials": (401, "Invalid email or password"),
    "refresh_invalid": (401, "Invalid or expired refresh token"),
    "refresh_reused": (401, "Refresh token was used before; the session has been ended"),
    "forbidden": (403, "Insufficient permissions"),
    "account_disabled": (403, "Account is disabled"),
    "registration_closed": (403, "Registration is closed"),
    "cross_site": (403, "The request does not come from a page of this site"),
    "credential_not_allowed": (403, "This kind of credential is not accepted here"),
    "email_unverified": (403, "Verify your e-mail address first"),
    "websocket_not_allowed": (403, "WebSocket is not allowed on this route"),
    "origin_not_allowed": (403, "Origin is not allowed on this route"),
    "no_route": (404, "Nothing is served at this path"),
    "method_not_allowed": (405, "This method is not served at this path"),
    "request_timeout": (408, "The request came too slowly"),
    "body_too_large": (413, "The request body is too large"),
    "misdirected": (421, "This host is not served here"),
    "rate_limited": (429, "Too many requests"),
    "locked_out": (429, "Too many failed attempts; try again later"),
    "headers_too_large": (431, "The request head is too large"),
    "method_not_implemented": (501, "This method is not implemented"),
    "upstream_unreachable": (502, "The upstream could not be reached"),
    "upstream_invalid": (502, "The upstream gave an invalid response"),
    "upstream_unavailable": (503, "No upstream is available at the moment"),
    "overloaded": (503, "The gateway is overloaded; try again shortly"),
    "storage_unavailable": (503, "A store the gateway needs is unavailable; try again shortly"),
    "upstream_timeout": (504, "The upstream did not answer in time"),
    # ---- of single endpoints, and of failures
    "invalid_fields": (422, "Some fields are missing or not acceptable"),
    "unsupported_media_type": (415, "The media type of the request body is not accepted"),
    "not_found": (404, "Not found"),
    "too_many_api_keys": (409, "This account has the maximum number of API keys"),
    "account_exists": (409, "An account with this address exists already"),
    "last_admin": (409, "The last active administrator cannot be disabled, demoted or deleted"),
    "internal_error": (500, "The gateway failed to answer; the failure has been logged"),
}
_SEE_OTHER: Final = 303
_PHRASES: Final = {status: HTTPStatus(status).phrase for status in (_SEE_OTHER, *(each for each, _ in CODES.values()))}


class FieldError(NamedTuple):
    """An invalid field of a request: its name and a message for the user."""

    field: str
    message: str


class Caller(Protocol):
    """The refused principal. `own_roles` does not contain implied roles."""

    @property
    def id(self) -> str: ...

    @property
    def own_roles(self) -> frozenset[str]: ...


class RefusedCredential(Protocol):
    """The credential of a refused principal: its kind, and the class and time of its sign-in."""

    @property
    def kind(self) -> str: ...

    @property
    def acr(self) -> str: ...

    @property
    def auth_time(self) -> float: ...


class Refusal(GatewayError):
    """A request that gets an error response.

    code: a key of CODES.
    reason: private, for the log only. A function makes it when it is read: most refusals are never logged.
    detail: replaces the default sentence. Must not contain secrets.
    presented: the request carried a credential, so a 401 names `invalid_token`. RFC 6750 3.1: a request without any
      credential must not receive an error code.
    retry_after: in seconds.
    allow: the Allow header of a 405.
    route: the name of the refusing route.
    caller: the refused principal, for the log only; None if none was loaded. credential: that of the caller.
    headers: extra response fields.
    members: further members of the JSON body.
    challenge: replaces the WWW-Authenticate field of a 401.
    location: the path of the sign-in page to which the response redirects a browser that navigates, on `origin`.
    """

    status: int
    detail: str
    presented: bool
    retry_after: int | None
    allow: str | None
    fields: Sequence[FieldError]
    route: str | None
    caller: Caller | None
    credential: RefusedCredential | None
    headers: Sequence[tuple[bytes, bytes]]
    members: Mapping[str, str | int]
    challenge: str | None
    location: str | None
    origin: str

    def __init__(
        self,
        code: str,
        reason: str | Callable[[], str] = "",
        *,
        detail: str | None = None,
        presented: bool = False,
        retry_after: int | None = None,
        allow: str | None = None,
        fields: Sequence[FieldError] = (),
        route: str | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
        members: Mapping[str, str | int] | None = None,
        challenge: str | None = None,
    ) -> None:
        # BaseException.__new__ has stored the arguments.
        self.code = code
        self.status, default = CODES[code]
        self.detail = default if detail is None else detail
        self._reason = reason
        if presented:
            self.presented = True
        if retry_after is not None:
            self.retry_after = retry_after
        if allow is not None:
            self.allow = allow
        if fields:
            self.fields = tuple(fields)
        if route is not None:
            self.route = route
        if headers:
            self.headers = tuple(headers)
        if members is not None:
            self.members = members
        if challenge is not None:
            self.challenge = challenge

    def redirect(self, location: str, origin: str) -> None:
        """Answer 303 with this location. The code stays, for logs and metrics."""
        self.status, self.location, self.origin = _SEE_OTHER, location, origin

    def refuse(self) -> None:
        """Answer with the status of the code again, without a redirect."""
        self.status, self.location = CODES[self.code][0], None

    @property
    def reason(self) -> str:
        return self._reason if isinstance(self._reason, str) else self._reason()

    @property
    def title(self) -> str:
        """The status phrase, as RFC 9457 requires for the type about:blank."""
        return _PHRASES[self.status]


# Most refusals have few of these attributes, and each assignment takes the time of a call. mypyc ignores defaults in
# the body of an exception class.
_DEFAULTS: Final[Mapping[str, object]] = {
    "presented": False,
    "retry_after": None,
    "allow": None,
    "fields": (),
    "route": None,
    "caller": None,
    "credential": None,
    "headers": (),
    "members": {},
    "challenge": None,
    "location": None,
    "origin": "",
}
for _name, _default in _DEFAULTS.items():
    setattr(Refusal, _name, _default)


def reauthentication_required(max_age: float, reason: str) -> Refusal:
    """A sign-in that is too old: `max_age` seconds at most. RFC 9470 3: the client learns the age that suffices."""
    seconds = int(max_age)
    detail = CODES["reauthentication_required"][1]
    challenge = (
        f'Bearer error="insufficient_user_authentication", error_description="{detail}", acr_values="aal1", '
        f'max_age="{seconds}"'
    )
    members: Mapping[str, str | int] = {"max_age": seconds, "acr_values": "aal1"}
    return Refusal("reauthentication_required", reason, members=members, challenge=challenge)


class Problem(NamedTuple):
    """One problem in a file. `line` and `column` count from 1; `key` is the dotted path (`routes[2].upstream`); `code`
    is the name of a warning, "" for an error."""

    file: str
    line: int
    column: int
    key: str
    message: str
    code: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.key}: {self.message}"


class ConfigurationError(GatewayError):
    """Every problem of a configuration, in file order."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class CannotStart(GatewayError):
    """The command cannot run. The text is one line with the cause and the remedy."""


class StorageUnavailable(GatewayError):
    """A store did not answer. `store` is `database` or `redis`; `reason` is for the log only."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(f"{store}: {reason}")
        self.store = store
        self.reason = reason


def without_traceback(error: E) -> E:
    """The error without traceback and causes, for storing it in a variable, an attribute or a future.

    A traceback references the frames that raised the error, and `f_back` references their callers. If one of these
    frames references the error, only the garbage collector frees the cycle and the request in it.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def cannot_read(path: "Path", error: OSError) -> str:
    """The cause of a read failure in one line, for example `config/x.yaml: No such file or directory`."""
    return f"{path}: {error.strerror or type(error).__name__}"
