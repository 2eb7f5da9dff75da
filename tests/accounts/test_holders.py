"""Account changes require the signed-in holder."""

import pytest

from gateway.accounts.service import account_holder
from gateway.errors import Refusal
from gateway.identity.user import Actor, Claims
from tests.accounts.harness import ORIGIN

SIGNED_IN = Claims("ann", "s1", 2e9, 1e9, "t1", "gateway")


def test_a_session_is_enough() -> None:
    assert account_holder(SIGNED_IN, ORIGIN) == Actor("ann", ORIGIN)


@pytest.mark.parametrize(
    "claims",
    [
        SIGNED_IN._replace(roles=frozenset(("admin",)), session="k1"),
        SIGNED_IN._replace(roles=frozenset()),
        SIGNED_IN._replace(subject="idp|ann", issuer="https://idp/", roles=frozenset(("admin",))),
        SIGNED_IN._replace(subject="idp|ann", issuer="https://idp/", roles=frozenset()),
    ],
)
def test_neither_an_api_key_nor_another_issuer_s_token_is(claims: Claims) -> None:
    with pytest.raises(Refusal) as refusal:
        account_holder(claims, ORIGIN)
    assert (refusal.value.status, refusal.value.code) == (403, "forbidden")
