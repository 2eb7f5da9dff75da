"""What requests about accounts may say: each body as a model, and every problem of one as a sentence for its field."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar, dataclass_transform

from gateway.accounts.emails import EmailAddress, email_address
from gateway.accounts.passwords import Password, chosen_password, presented_password
from gateway.accounts.roles import accepted_roles
from gateway.errors import FieldError, Refusal
from gateway.identity.refresh import RefreshToken
from gateway.settings.model import Settings

M = TypeVar("M", bound="Body")

_MAX_REPORTED: Final = 20  # problems in one answer: a body may hold thousands of unknown fields
_MAX_NAME: Final = 64  # characters of an unknown field's name
_READS: Final = "gateway.accounts.reads"

# What a value says, or ValueError with a sentence that follows the field's name.
Read = Callable[[object, Settings], Any]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def _email(value: object, _: Settings) -> EmailAddress:
    return email_address(_text(value))


def _new_password(value: object, settings: Settings) -> Password:
    return chosen_password(_text(value), min_length=settings.accounts.password.min_length)


# None is what cannot be anybody's password or token: to the caller no more than a wrong one.
def _presented(value: object, _: Settings) -> Password | None:
    return presented_password(_text(value))


def _refresh_token(value: object, _: Settings) -> RefreshToken | None:
    return RefreshToken.parse(_text(value))


def _roles(value: object, settings: Settings) -> frozenset[str]:
    if not isinstance(value, Iterable) or isinstance(value, str):
        raise ValueError("must be a list of role names")
    return accepted_roles([_text(name) for name in value], settings)


def _read_by(read: Read, *, secret: bool = False) -> Any:
    """A field of a body: what reads it, and whether it may be shown."""
    return field(metadata={_READS: read}, repr=not secret)


@dataclass_transform(frozen_default=True, field_specifiers=(_read_by,))
def _body(cls: type[M]) -> type[M]:
    return dataclass(frozen=True, slots=True)(cls)


class Body:
    """A JSON object with exactly these fields: nothing that is not asked for is ever obeyed (mass assignment)."""

    __slots__ = ()


@_body
class Registration(Body):
    """POST /register."""

    email: EmailAddress = _read_by(_email)
    password: Password = _read_by(_new_password, secret=True)


@_body
class Login(Body):
    """POST /login."""

    email: EmailAddress = _read_by(_email)
    password: Password | None = _read_by(_presented, secret=True)


@_body
class LoginForm(Body):
    """POST /login as a form, with the names that OAuth 2 has for them (RFC 6749 4.3.2)."""

    username: EmailAddress = _read_by(_email)
    password: Password | None = _read_by(_presented, secret=True)


@_body
class PasswordChange(Body):
    """POST /password."""

    current_password: Password | None = _read_by(_presented, secret=True)
    new_password: Password = _read_by(_new_password, secret=True)


@_body
class Refresh(Body):
    """POST /refresh."""

    refresh_token: RefreshToken | None = _read_by(_refresh_token, secret=True)


@_body
class NewAccount(Body):
    """An account as an administrator makes it."""

    email: EmailAddress = _read_by(_email)
    password: Password = _read_by(_new_password, secret=True)
    roles: frozenset[str] = _read_by(_roles)


@_body
class EmailOnly(Body):
    """An account as an administrator names it."""

    email: EmailAddress = _read_by(_email)


@_body
class PasswordOnly(Body):
    """A password as an administrator sets it."""

    password: Password = _read_by(_new_password, secret=True)


@_body
class RolesOnly(Body):
    """The roles that an administrator gives."""

    roles: frozenset[str] = _read_by(_roles)


def accept(model: type[M], values: Mapping[str, Any], settings: Settings) -> M:
    """The body, or Refusal("invalid_fields") with every problem of it. No value is ever repeated: it may be secret."""
    found: dict[str, Any] = {}
    errors = []
    readers: dict[str, Read] = {one.name: one.metadata[_READS] for one in fields(model)}  # type: ignore[arg-type]
    for name, read in readers.items():
        if name not in values:
            errors.append(FieldError(name, "is required"))
            continue
        try:
            found[name] = read(values[name], settings)
        except ValueError as error:
            errors.append(FieldError(name, str(error)))
    unknown = [name for name in values if name not in readers]
    errors += [FieldError(name[:_MAX_NAME], "is not a field of this request") for name in unknown[:_MAX_REPORTED]]
    if errors:
        raise Refusal("invalid_fields", fields=errors[:_MAX_REPORTED])
    return model(**found)
