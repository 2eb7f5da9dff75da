"""Clients that end their sending side before the response (docs/deployment/balancer.md), with `gateway serve`."""

import pytest

from tests.support.gateways import Gateways
from tests.support.recording import RecordingUpstream
from tests.support.scripts import HeldConnection, response
from tests.support.waiting import eventually
from tests.support.wording import chunked, request

UPLOAD = request("/public/x", method="POST", fields=["Transfer-Encoding: chunked"]) + chunked(b"hello")


@pytest.mark.parametrize("data", [request("/public/x"), UPLOAD], ids=["a request", "an upload"])
def test_a_half_closed_connection_cancels_the_upstream_request(
    gateways: Gateways, upstream: RecordingUpstream, data: bytes
) -> None:
    gateway = gateways.gateway("standard", "serve")
    held = HeldConnection(after=response())
    upstream.on("/public/x", held)
    with gateway.caller() as caller:
        caller.send(data)
        held.reached()
        caller.finish_sending()
        ending, received = caller.ended()
    assert (ending, received) == ("fin", b"")
    eventually(lambda: upstream.links[-1].ended is not None)
    assert not held.done


def test_a_connection_without_a_request_is_closed_after_a_half_close(gateways: Gateways) -> None:
    with gateways.gateway("standard", "serve").caller() as caller:
        caller.finish_sending()
        assert caller.ended() == ("fin", b"")
