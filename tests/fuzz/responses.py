"""Lets an upstream send the bytes of a case and compares the client's response with the reference reader.

The request of another client follows. It must get its own response, even if it shares a connection to the upstream
with the case.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from typing import Final

from tests.fuzz.campaign import Wrong, without_ranges
from tests.fuzz.mutation import cuts_of, pieces
from tests.fuzz.requests import closes_connection
from tests.fuzz.response_grammar import ResponseGrammar
from tests.fuzz.response_reference import Asked, Given, Outcome, Then, read
from tests.support.engines import lacks
from tests.support.processes import Engine, Gateway
from tests.support.raw import Answer, BadAnswer, Caller, NoAnswer
from tests.support.recording import Exchange, Link, RecordingUpstream
from tests.support.scripts import response
from tests.support.waiting import eventually
from tests.support.wording import request

_THENS: Final[tuple[Then, ...]] = ("keep", "keep", "keep", "keep", "fin", "fin", "reset")
_PAUSE: Final = 0.001  # seconds between two pieces, so that the gateway reads them apart
_LATE: Final = 0.003
_PATIENCE: Final = 4.0
_IN_FLIGHT: Final = 30_000  # bytes that a socket takes at once
ASKED: Final = Asked()
_REQUESTS: Final = {
    ASKED: request("/web/case", fields=["TE: trailers", "Connection: TE"]),
    Asked("HEAD"): request("/web/case", method="HEAD"),
    Asked("POST"): request("/web/case", method="POST", body=b"hello"),
    Asked("GET", 0): request("/web/case", version="1.0"),
}
_UPLOADS: Final = [request("/web/case", method="POST", body=b"x" * 300_000, version=f"1.{minor}") for minor in (0, 1)]
# The fields that belong to the connection to the client, or that the gateway can add.
_APART: Final = frozenset(b"connection transfer-encoding content-length keep-alive trailer".split())
_REFUSALS: Final = ((502, "upstream_invalid"), (502, "upstream_unreachable"), (502, None))  # None: the answer to HEAD
_NO_TRAILERS: Final = frozenset(b"content-length transfer-encoding set-cookie".split())


@dataclass(frozen=True)
class ResponseCase:
    """The bytes that an upstream sends for a request, and the positions that cut them into pieces.

    `then` it keeps the connection, closes it, or resets it; it sends the `late` bytes a moment later. `early`: the
    client uploads, and the upstream does not read the body first. That many `times` clients send the request in turn.
    """

    sent: bytes
    cuts: tuple[int, ...] = ()
    then: Then = "keep"
    late: bytes = b""
    asked: Asked = ASKED
    early: bool = False
    times: int = 1

    @classmethod
    def make(cls, random: Random) -> "ResponseCase":
        grammar = ResponseGrammar(random)
        sent = grammar.response()
        then: Then = random.choice(_THENS)
        late = grammar.late() if then == "keep" and random.random() < 0.15 else b""
        asked = random.choice((*_REQUESTS, ASKED, ASKED, ASKED))
        early = then != "reset" and asked.method != "HEAD" and random.random() < 0.1
        return cls(sent, cuts_of(random, sent), then, late, asked, early, random.choice((1, 1, 1, 2, 3)))

    @property
    def request(self) -> bytes:
        return _UPLOADS[self.asked.minor] if self.early else _REQUESTS[self.asked]

    def smaller(self) -> Iterator["ResponseCase"]:
        for simpler in (
            replace(self, cuts=()),
            replace(self, late=b""),
            replace(self, times=1),
            replace(self, early=False),
            replace(self, asked=ASKED),
            replace(self, then="keep"),
        ):
            if simpler != self:
                yield simpler
        for start, end in without_ranges(self.sent):
            sent = self.sent[:start] + self.sent[end:]
            if sent:
                yield replace(self, sent=sent, cuts=tuple(cut for cut in self.cuts if cut < len(sent)))


class AnsweringUpstream(RecordingUpstream):
    """Sends the bytes of a case for `/web/case`, and for any other path its last segment.

    `sent` is set when the last bytes of a case have left.
    """

    def __init__(self) -> None:
        super().__init__(default=_echo)
        self.sent = threading.Event()

    def play(self, case: ResponseCase, then: Then) -> None:
        """Answer with this case from now on."""
        self.requests.clear()
        self.links.clear()

        async def script(exchange: Exchange) -> None:
            if not case.early:
                await exchange.body()
            try:
                await _send(exchange, case, then)
            finally:
                self.sent.set()
            if exchange.keep:
                await exchange.body()

        self.on("/web/case", script)


async def _send(exchange: Exchange, case: ResponseCase, then: Then) -> None:
    for number, piece in enumerate(pieces(case.sent, case.cuts)):
        if number:
            await asyncio.sleep(_PAUSE)
        await exchange.send(piece)
    if then == "fin":
        exchange.hang_up()
    elif then == "reset":
        await asyncio.sleep(_LATE)  # a reset throws unread bytes away
        exchange.reset()
    elif case.late:
        await asyncio.sleep(_LATE)
        await exchange.send(case.late)


async def _echo(exchange: Exchange) -> None:
    await exchange.body()
    await exchange.send(response(200, [], exchange.request.target.rpartition(b"/")[2]))


class ResponsePlayer:
    """Plays cases over one gateway, whose connections to the upstream outlive each case."""

    def __init__(self, gateway: Gateway, upstream: AnsweringUpstream, engine: Engine) -> None:
        self._gateway = gateway
        self._upstream = upstream
        self._engine = engine
        self._numbers = count(1)

    def play(self, case: ResponseCase) -> None:
        """Raises Wrong."""
        if case.early and lacks(self._engine, "early responses"):
            case = replace(case, early=False)
        outcome = read(case.sent, case.then, case.asked)
        then = case.then
        if outcome.ends and then == "keep":  # the gateway would wait for its time-out
            then, outcome = "fin", read(case.sent, "fin", case.asked)
        if _loses_bytes(case, then, outcome):
            outcome = replace(outcome, begun=outcome.begun or outcome.given)
        self._upstream.play(case, then)
        for _ in range(case.times):
            self._upstream.sent.clear()
            self._once(case, then, outcome)

    def _once(self, case: ResponseCase, then: Then, outcome: Outcome) -> None:
        answer: Answer | None = None
        with self._gateway.caller(timeout=_PATIENCE) as caller:
            try:
                caller.send_until_refused([case.request])
                answer = caller.receive(case.asked.method)
                _judge(answer, outcome)
            except Wrong as wrong:
                raise Wrong(wrong.kind, f"{wrong.detail}\n  got {answer}\n  expected {outcome}") from None
            except (TimeoutError, NoAnswer, BadAnswer) as error:
                raise Wrong(type(error).__name__, f"{error}\n  expected {outcome}") from None
            link = self._upstream.requests[-1].link
            if (case.late or outcome.extra or then != "keep") and not outcome.announced:
                self._upstream.sent.wait(_PATIENCE)
                _await_end(link)
            goes_on = answer.whole and not case.early and not closes_connection(answer)
            self._check_next(caller if goes_on else None)
            odd = case.late or outcome.extra or outcome.announced or outcome.given is None
            if odd and self._upstream.requests[-1].link is link:
                raise Wrong("a connection is used again behind odd bytes", f"\n  got {answer}\n  expected {outcome}")

    def _check_next(self, caller: Caller | None) -> None:
        """The next request gets its own response. A new client sends it if the connection has ended."""
        nonce = b"nonce-%d" % next(self._numbers)
        asked = request(b"/web/" + nonce)
        try:
            answer = self._gateway.ask(asked) if caller is None else caller.send(asked).receive()
        except (TimeoutError, NoAnswer, BadAnswer) as error:
            raise Wrong(f"the next client: {type(error).__name__}", str(error)) from None
        if (answer.status, answer.body, answer.whole) != (200, nonce, True):
            raise Wrong(f"the next client got {answer.status} {answer.code}", f"{answer} instead of {nonce!r}")


def _loses_bytes(case: ResponseCase, then: Then, outcome: Outcome) -> bool:
    """Whether a reset can destroy bytes in flight. Closing on an unread upload is a reset (RFC 9112 9.6)."""
    resets = then == "reset" or (case.early and then == "fin")
    return resets and (outcome.ends or len(case.sent) > _IN_FLIGHT)


def _await_end(link: Link) -> None:
    """Wait a moment for the gateway to close a connection: before it has read late bytes, it can use it again.

    It is a short moment, because the gateway learns from upstreams that close to use idle connections for 50 ms only.
    """
    with suppress(AssertionError):
        eventually(lambda: link.ended, timeout=0.02, every=0.0005)


def _judge(answer: Answer, outcome: Outcome) -> None:
    """Raises Wrong if no allowed outcome explains the response."""
    # The upstream of the fuzzer never sends this type.
    ours = answer.values("content-type") == [b"application/problem+json"]
    if ours and outcome.refused and (answer.status, answer.code) in _REFUSALS:
        return
    begun = outcome.begun
    if begun is not None and not answer.whole:
        if answer.status != begun.status or not begun.body.startswith(answer.body):
            raise Wrong("an aborted response with other bytes", "")
        return
    if outcome.given is None:
        whole = "whole" if answer.whole else "broken"
        raise Wrong(f"a {whole} {'good' if answer.code is None else answer.code} response to a bad one", "")
    _compare(answer, outcome.given)


def _compare(answer: Answer, given: Given) -> None:
    if answer.status != given.status:
        raise Wrong(f"{answer.status} {answer.code} instead of the response", "")
    if not answer.whole:
        raise Wrong("a good response is broken off", "")
    if answer.body != given.body:
        raise Wrong("another body", "")
    if given.reason.strip() and answer.head.reason != given.reason:
        raise Wrong("another reason phrase", "")
    if tuple(head.status for head in answer.interim) != given.interim:
        raise Wrong("other interim responses", "")
    if any(head.has("content-length") or head.has("transfer-encoding") for head in answer.interim):
        raise Wrong("an interim response with framing", "")  # RFC 9110 8.6, RFC 9112 6.1
    if not any(name.lower() == b"date" for name, _ in given.fields) and len(answer.values("date")) != 1:
        raise Wrong("no Date", "")
    fields = [field for field in answer.fields if field[0].lower() not in _APART]
    expected = [field for field in given.fields if field[0].lower() not in _APART]
    if not answer.values("date") or (b"Date", answer.values("date")[0]) not in expected:
        fields = [field for field in fields if field[0].lower() != b"date"]
    if fields != expected:
        raise Wrong("other header fields", "")
    lengths = [int(value) for value in answer.values("content-length")]
    if given.status == 204 and lengths:
        raise Wrong("a 204 with Content-Length", "")
    if given.length is not None and lengths != [given.length]:
        raise Wrong("another Content-Length", "")
    if any(name.lower() in _NO_TRAILERS for name, _ in answer.trailers):
        raise Wrong("a trailer that must not be one", "")
