"""The response to OPTIONS and TRACE with Max-Forwards: 0, whose final recipient is the gateway (RFC 9110 7.6.2)."""

import asyncio
from typing import Final

from gateway.gate.admission import Admission
from gateway.policy.route import allowed_methods
from gateway.proxy.interfaces import Downstream, Field

# RFC 9110 9.3.8: the response excludes fields that can contain credentials. Names do not tell which do, so it contains
# only the fields that trace the way of a request.
_SHOWN: Final = frozenset((b"max-forwards", b"via"))
_VERSIONS: Final = (b"1.0", b"1.1", b"2")


class FinalRecipient:
    """Implements Exchange without an upstream. The request body is ignored, because the response does not depend on
    it."""

    waiting = False

    def __init__(
        self, admission: Admission, downstream: Downstream, *, loop: asyncio.AbstractEventLoop, date: bytes
    ) -> None:
        self._admission = admission
        self._downstream = downstream
        self._date = date
        self._cancelled = False
        loop.call_soon(self._answer)  # the handle refers to this object, so keeping it would create a reference cycle

    def write(self, data: bytes) -> None:
        """Discard a piece of the body."""

    def end_body(self) -> None:
        """Do nothing, because the response does not wait for the body."""

    def cancel(self) -> None:
        self._cancelled = True

    def pause(self) -> None:
        """Do nothing, because the response is one piece."""

    def resume(self) -> None:
        """Do nothing, because the response is one piece."""

    def _answer(self) -> None:
        if self._cancelled:
            return
        answer = _trace if self._admission.request.method == b"TRACE" else _options
        fields, body = answer(self._admission)
        fields += ((b"Cache-Control", b"no-store"), (b"Date", self._date), (b"Content-Length", b"%d" % len(body)))
        self._downstream.head(200, b"", fields, len(body))
        if body:
            self._downstream.body(body)
        self._downstream.end()


def _options(admission: Admission) -> tuple[tuple[Field, ...], bytes]:
    return ((b"Allow", b", ".join(sorted(allowed_methods(admission.route)))),), b""


def _trace(admission: Admission) -> tuple[tuple[Field, ...], bytes]:
    """Build the message/http form of the request as received, without fields that can be secret (RFC 9110 9.3.8)."""
    request = admission.request
    fields = request.fields
    shown = [field for field in fields.kept if field[0].lower() in _SHOWN]
    shown += [field for _, field in fields.conditional if field[0].lower() in _SHOWN]
    if fields.host is not None:
        shown.insert(0, (b"Host", fields.host))
    line = b"%b %b HTTP/%b\r\n" % (request.method, request.target, _VERSIONS[request.minor])
    block = b"".join([b"%b: %b\r\n" % field for field in shown])
    return ((b"Content-Type", b"message/http"),), b"%b%b\r\n" % (line, block)
