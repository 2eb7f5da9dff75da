"""Models of request bodies about accounts, with a reader for each type of value."""

from typing import Any, Final

from gateway.accounts.emails import EmailAddress, email_address
from gateway.accounts.inputs import Body, body, composed, read_by
from gateway.accounts.passwords import Password, chosen_password, is_common, presented_password
from gateway.errors import FieldError, Refusal
from gateway.identity.refresh_token import RefreshToken
from gateway.policy.roles import accepted_roles
from gateway.settings.model import UNSET, Settings, Unset

_MOST_ROLES: Final = 100  # Per account.
MAX_KEY_NAME: Final = 100  # In characters.
_MAX_UTF8: Final = 4  # Bytes per character.
MAX_KEY_LIFE: Final = 10 * 365 * 86_400  # In seconds.


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def _email(value: object, _: Settings) -> EmailAddress:
    return email_address(_text(value))


def _new_password(value: object, settings: Settings) -> Password:
    password = chosen_password(_text(value), min_length=settings.accounts.password.min_length)
    if is_common(password):
        raise ValueError("is one of the most common passwords")
    return password


def chosen(text: str, settings: Settings, *, field: str) -> Password:
    """Validate a new password whose rules depend on the link that comes with it. Raises `invalid_fields`."""
    try:
        return _new_password(text, settings)
    except ValueError as error:
        raise Refusal("invalid_fields", fields=[FieldError(field, str(error))]) from None


def _secret_text(value: object, _: Settings) -> str:
    return _text(value)


def _cookie(value: object, _: Settings) -> bool:
    if value != "cookie":
        raise ValueError('must be "cookie"')
    return True


# None stands for text that cannot be a password or token. The client gets the response to a wrong one.
def _presented(value: object, _: Settings) -> Password | None:
    return presented_password(_text(value))


def _refresh_token(value: object, _: Settings) -> RefreshToken | None:
    return RefreshToken.parse(_text(value))


def _roles(value: object, settings: Settings) -> frozenset[str]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise ValueError("must be a list of role names")
    if len(value) > _MOST_ROLES:
        raise ValueError(f"must be at most {_MOST_ROLES} role names")
    return accepted_roles([_text(name) for name in value], settings)


def _flag(value: object, _: Settings) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _remember(value: object, settings: Settings) -> bool:
    remember = _flag(value, settings)
    if remember and (settings.sessions is None or settings.sessions.remember is None):
        raise ValueError("is not offered here")
    return remember


def _key_name(value: object, _: Settings) -> str:
    name = composed(_text(value).strip(), max_bytes=MAX_KEY_NAME * _MAX_UTF8)
    if not 0 < len(name) <= MAX_KEY_NAME or not name.isprintable():
        raise ValueError(f"must be 1 to {MAX_KEY_NAME} printable characters")
    return name


def longest_key_life(settings: Settings) -> int:
    """In seconds. Keys without expiry still need a bound for `expires_in`, because dates are bounded."""
    longest = settings.accounts.api_keys.max_ttl
    return MAX_KEY_LIFE if longest is None else max(1, int(longest))


def _expires_in(value: Any, settings: Settings) -> int | None:
    if value is None:
        return None
    return _whole_seconds(value, longest_key_life(settings))


def _invitation_life(value: Any, settings: Settings) -> int:
    return _whole_seconds(value, int(settings.accounts.invitations.ttl))


def _whole_seconds(value: Any, longest: int) -> int:
    # True is an int in Python, but not a number in JSON. 60.0 is a whole number in JSON.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 1 <= value <= longest and value == int(value):
        return int(value)
    raise ValueError(f"must be a whole number of seconds from 1 to {longest}")


@body
class Registration(Body):
    """POST /register. `session`: a browser session instead of tokens."""

    email: EmailAddress = read_by(_email)
    password: Password = read_by(_new_password, secret=True)
    session: bool = read_by(_cookie, default=False)


@body
class Login(Body):
    """POST /login."""

    email: EmailAddress = read_by(_email)
    password: Password | None = read_by(_presented, secret=True)


@body
class BrowserLogin(Body):
    """POST /session."""

    email: EmailAddress = read_by(_email)
    password: Password | None = read_by(_presented, secret=True)
    remember: bool = read_by(_remember, default=False)


@body
class PasswordProof(Body):
    """POST /session/confirm."""

    password: Password | None = read_by(_presented, secret=True)


@body
class LoginForm(Body):
    """POST /login as a form, with the field names of OAuth 2 (RFC 6749 4.3.2)."""

    username: EmailAddress = read_by(_email)
    password: Password | None = read_by(_presented, secret=True)


@body
class PasswordChange(Body):
    """POST /password."""

    new_password: Password = read_by(_new_password, secret=True)
    # An account without a password has none to present.
    current_password: Password | Unset | None = read_by(_presented, secret=True, default=UNSET)
    end_api_keys: bool = read_by(_flag, default=False)


@body
class Refresh(Body):
    """POST /refresh."""

    refresh_token: RefreshToken | None = read_by(_refresh_token, secret=True)


@body
class KeyRequest(Body):
    """POST /api-keys."""

    name: str = read_by(_key_name)
    roles: frozenset[str] | None = read_by(_roles, default=None)
    expires_in: int | None = read_by(_expires_in, default=None)


@body
class NewAccount(Body):
    """POST /users, and `gateway users create`."""

    email: EmailAddress = read_by(_email)
    password: Password = read_by(_new_password, secret=True)
    roles: frozenset[str] | None = read_by(_roles, default=None)


@body
class AccountChange(Body):
    """PATCH /users/{id}. Omitted fields stay unchanged."""

    is_active: bool | None = read_by(_flag, default=None)
    roles: frozenset[str] | None = read_by(_roles, default=None)


@body
class EmailOnly(Body):
    """The address by which an administrator selects an account."""

    email: EmailAddress = read_by(_email)


@body
class PasswordOnly(Body):
    """A password set by an administrator."""

    password: Password = read_by(_new_password, secret=True)


@body
class RolesOnly(Body):
    """Roles set by an administrator."""

    roles: frozenset[str] = read_by(_roles)


@body
class RegistrationRequest(Body):
    """POST /register, where a link comes before the account."""

    email: EmailAddress = read_by(_email)


@body
class Verify(Body):
    """POST /verify. The kind of the link decides which fields are needed."""

    token: str = read_by(_secret_text, secret=True)
    password: str | None = read_by(_secret_text, secret=True, default=None)
    new_password: Password | None = read_by(_new_password, secret=True, default=None)
    session: bool = read_by(_cookie, default=False)


@body
class ResetByLink(Body):
    """POST /password/reset."""

    token: str = read_by(_secret_text, secret=True)
    new_password: Password = read_by(_new_password, secret=True)


@body
class NewInvitation(Body):
    """POST /invitations, and `gateway users invite`."""

    email: EmailAddress = read_by(_email)
    roles: frozenset[str] = read_by(_roles)
    deliver: bool = read_by(_flag)
    expires_in: int | None = read_by(_invitation_life, default=None)


@body
class AcceptedInvitation(Body):
    """POST /invitations/accept."""

    token: str = read_by(_secret_text, secret=True)
    password: str | None = read_by(_secret_text, secret=True, default=None)
    session: bool = read_by(_cookie, default=False)
