"""What requests about accounts may say: each body as a model, and every problem of one as a sentence for its field."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from gateway.accounts.emails import EmailAddress, email_address
from gateway.accounts.passwords import Password, chosen_password, presented_password
from gateway.accounts.roles import accepted_roles
from gateway.errors import FieldError, Refusal
from gateway.identity.refresh import RefreshToken
from gateway.settings.model import Settings

M = TypeVar("M", bound="Body")

_MAX_REPORTED: Final = 20  # problems in one answer: a body may hold thousands of unknown fields
_MAX_NAME: Final = 64  # characters of an unknown field's name
_SENTENCES: Final = {"missing": "is required", "extra_forbidden": "is not a field of this request"}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def _email(value: object) -> EmailAddress:
    return email_address(_text(value))


def _new_password(value: object, info: ValidationInfo) -> Password:
    return chosen_password(_text(value), min_length=_settings(info).accounts.password.min_length)


def _presented(value: object) -> Password | None:
    return presented_password(_text(value))


def _roles(value: object, info: ValidationInfo) -> frozenset[str]:
    if not isinstance(value, Iterable) or isinstance(value, str):
        raise ValueError("must be a list of role names")
    return accepted_roles([_text(name) for name in value], _settings(info))


def _refresh_token(value: object) -> RefreshToken | None:
    return RefreshToken.parse(_text(value))


def _settings(info: ValidationInfo) -> Settings:
    assert isinstance(info.context, Settings)
    return info.context


Email = Annotated[EmailAddress, PlainValidator(_email)]
NewPassword = Annotated[Password, PlainValidator(_new_password)]
# None is what cannot be anybody's password or token: to the caller no more than a wrong one.
PresentedPassword = Annotated[Password | None, PlainValidator(_presented)]
PresentedToken = Annotated[RefreshToken | None, PlainValidator(_refresh_token)]
Roles = Annotated[frozenset[str], PlainValidator(_roles)]


class Body(BaseModel):
    """A JSON object with exactly these fields: nothing that is not asked for is ever obeyed (mass assignment)."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, arbitrary_types_allowed=True)


class Registration(Body):
    """POST /register."""

    email: Email
    password: NewPassword = Field(repr=False)


class Login(Body):
    """POST /login."""

    email: Email
    password: PresentedPassword = Field(repr=False)


class LoginForm(Body):
    """POST /login as a form, with the names that OAuth 2 has for them (RFC 6749 4.3.2)."""

    username: Email
    password: PresentedPassword = Field(repr=False)


class PasswordChange(Body):
    """POST /password."""

    current_password: PresentedPassword = Field(repr=False)
    new_password: NewPassword = Field(repr=False)


class Refresh(Body):
    """POST /refresh."""

    refresh_token: PresentedToken


class NewAccount(Body):
    """An account as an administrator makes it."""

    email: Email
    password: NewPassword = Field(repr=False)
    roles: Roles


class EmailOnly(Body):
    """An account as an administrator names it."""

    email: Email


class PasswordOnly(Body):
    """A password as an administrator sets it."""

    password: NewPassword = Field(repr=False)


class RolesOnly(Body):
    """The roles that an administrator gives."""

    roles: Roles


def accept(model: type[M], values: Mapping[str, Any], settings: Settings) -> M:
    """The body, or Refusal("invalid_fields") with every problem of it. No value is ever repeated: it may be secret."""
    try:
        return model.model_validate(dict(values), context=settings)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
    raise Refusal("invalid_fields", fields=[_field_error(details) for details in found[:_MAX_REPORTED]])


def _field_error(details: ErrorDetails) -> FieldError:
    message = _SENTENCES.get(details["type"]) or str(details["ctx"]["error"])
    return FieldError(str(details["loc"][0])[:_MAX_NAME], message)
