"""The services of links that the pages use. They need mail."""

from typing import Protocol

from gateway.accounts.invitations import InvitationAcceptance
from gateway.accounts.password_reset import PasswordReset
from gateway.accounts.verification import Verification


class LinkServices(Protocol):
    """The services of links, which need mail."""

    @property
    def verification(self) -> Verification: ...

    @property
    def resets(self) -> PasswordReset: ...

    @property
    def acceptance(self) -> InvitationAcceptance: ...
