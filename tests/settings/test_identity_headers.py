"""Valid names of identity headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.settings.reader import InvalidValue, Scalar
from gateway.settings.types_network import HeaderName, folded
from gateway.wire.fields import FORWARDING_NAMES, SPECIAL_NAMES, fold


@pytest.mark.parametrize("name", sorted(SPECIAL_NAMES | FORWARDING_NAMES))
def test_a_name_that_has_a_meaning_to_the_gateway_is_refused_in_every_spelling(name: bytes) -> None:
    text = name.decode()
    for spelling in (text, text.title(), text.replace("-", "_"), text.replace("-", "!")):
        with pytest.raises(InvalidValue):
            HeaderName().accept(Scalar(spelling, plain=False))


@given(st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=12))
def test_names_are_folded_as_those_of_requests(name: str) -> None:
    assert folded(name).encode() == fold(name.encode())
