"""The values of each page. Templates get them as `page`: they are frozen, and hold no secret but a new API key."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal


@dataclass(frozen=True, slots=True)
class SignInView:
    """sign_in.html. `remember`: people can choose to stay signed in."""

    remember: bool


@dataclass(frozen=True, slots=True)
class AddressView:
    """confirm.html, email.html and sign_out.html: the address that is signed in. Empty: signed out."""

    email: str


@dataclass(frozen=True, slots=True)
class RegisterView:
    """register.html. `by_mail`: a link comes first, and the password is chosen behind it."""

    by_mail: bool
    min_length: int


@dataclass(frozen=True, slots=True)
class MailSentView:
    """mail_sent.html: the kind of the link."""

    kind: Literal["verify", "reset", "email"]


@dataclass(frozen=True, slots=True)
class LinkView:
    """verify.html, reset.html and invitation.html: the kind of form behind a link, and the address of the link."""

    kind: str
    email: str
    min_length: int


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session. `name`: its browser and system in words."""

    id: str
    name: str
    is_browser: bool
    is_current: bool
    began: datetime
    used: datetime
    address: str


@dataclass(frozen=True, slots=True)
class KeyRow:
    """An API key. `roles`: empty for all roles of the account."""

    id: str
    name: str
    roles: tuple[str, ...]
    expires: datetime | None
    used: datetime | None


@dataclass(frozen=True, slots=True)
class AccountView:
    """account.html. `has_mail`: addresses can be verified and changed."""

    email: str
    email_verified: bool
    has_mail: bool
    has_password: bool
    sessions: tuple[SessionRow, ...]
    keys: tuple[KeyRow, ...]


@dataclass(frozen=True, slots=True)
class PasswordView:
    """password.html."""

    email: str
    has_password: bool
    min_length: int


@dataclass(frozen=True, slots=True)
class KeyView:
    """key.html. `lifetimes`: in days, 0 for a key without an end."""

    lifetimes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CreatedKeyView:
    """key_created.html: the only page that shows the key."""

    name: str
    key: str


@dataclass(frozen=True, slots=True)
class DeniedView:
    """denied.html. `email`: the signed-in address, or empty. `can_retry`: the failure can be over soon."""

    email: str
    request_id: str
    can_retry: bool
