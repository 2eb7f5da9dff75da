"""Plays the bytes of one client connection against a running gateway and compares with the reference reader."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from random import Random
from time import sleep
from typing import Final

from tests.fuzz.campaign import Wrong, without_ranges
from tests.fuzz.mutation import cuts_of, pieces
from tests.fuzz.reference import Forwarded, Message, Reading, read
from tests.fuzz.request_grammar import RequestGrammar
from tests.fuzz.usual_heads import usual_stream
from tests.support.processes import Gateway
from tests.support.raw import Answer, BadAnswer, Caller, NoAnswer
from tests.support.recording import Exchange, Received, RecordingUpstream
from tests.support.wording import request

_PAUSE: Final = 0.001  # seconds between two pieces, so that the gateway reads them apart
_PATIENCE: Final = 5.0
_STOCK_PATIENCE: Final = 0.5  # a stock server can wait for more bytes where the reference predicts a response
_LAST: Final = request("/public/last")
# The fields that the gateway adds to each request; the rest must be the client's.
_ADDED: Final = frozenset(
    b"host connection te content-length transfer-encoding x-request-id x-forwarded-for x-forwarded-proto "
    b"x-forwarded-host x-forwarded-port".split()
)


@dataclass(frozen=True)
class RequestCase:
    """The bytes of one connection, and the positions that cut them into pieces."""

    data: bytes
    cuts: tuple[int, ...] = ()

    @classmethod
    def make(cls, random: Random) -> "RequestCase":
        if random.random() < 0.25:
            return cls(*usual_stream(random))
        data = RequestGrammar(random).stream()
        return cls(data, cuts_of(random, data))

    def smaller(self) -> Iterator["RequestCase"]:
        if self.cuts:
            yield RequestCase(self.data)
            for cut in self.cuts:
                yield RequestCase(self.data, tuple(one for one in self.cuts if one != cut))
        for start, end in without_ranges(self.data):
            data = self.data[:start] + self.data[end:]
            yield RequestCase(data, tuple(one for one in self.cuts if one < len(data)))


class NumberingUpstream(RecordingUpstream):
    """Answers each whole request with its number; `whole` are the requests by number."""

    def __init__(self) -> None:
        self.whole: dict[int, Received] = {}
        self._numbers = count(1)
        super().__init__(default=self._answer)

    async def _answer(self, exchange: Exchange) -> None:
        await exchange.body()
        number = next(self._numbers)
        self.whole[number] = exchange.request
        text = b"%d" % number
        body = b"" if exchange.request.method == b"HEAD" else text
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), body))

    def clear(self) -> None:
        self.whole.clear()
        self.requests.clear()
        self.links.clear()


class RequestPlayer:
    """Plays cases. Each must have exactly the outcome that the reference predicts, however it is cut."""

    def __init__(self, gateway: Gateway, upstream: NumberingUpstream) -> None:
        self._gateway = gateway
        self._upstream = upstream

    def play(self, case: RequestCase) -> None:
        """Raises Wrong."""
        self._upstream.clear()
        reading = read(case.data)
        answers: list[Answer] = []
        try:
            with self._gateway.caller(timeout=_PATIENCE) as caller:
                send(caller, case)
                for message in reading.messages:
                    answers.append(caller.receive(message.method))
                    _judge(answers[-1], message)
                    if closes_connection(answers[-1]):
                        break
                self._check_end(caller, reading, answers)
            self._check_upstream(reading, answers)
        except Wrong as wrong:
            raise Wrong(wrong.kind, f"{wrong.detail}{_shown(reading, answers)}") from None
        except (TimeoutError, NoAnswer, BadAnswer) as error:
            kind = f"{type(error).__name__} instead of {_due(reading, answers)}"
            raise Wrong(kind, f"{error}{_shown(reading, answers)}") from None

    def _check_end(self, caller: Caller, reading: Reading, answers: list[Answer]) -> None:
        """After the responses, the connection is in the predicted state."""
        closed = bool(answers) and closes_connection(answers[-1])
        rest = b""
        if closed:
            _, rest = caller.ended(_PATIENCE)
            if reading.messages[len(answers) - 1].method == "HEAD" and answers[-1].status >= 400:
                rest = b""  # the gateway can fail to read the method, and send the body of its refusal
        elif reading.end == "open":
            answer = caller.send(_LAST).receive()
            rest = b"" if answer.status == 200 else b"%d" % answer.status
        else:
            caller.finish_sending()
            _, rest = caller.ended(_PATIENCE)
            rest = rest.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
            if rest[:10] in (b"HTTP/1.1 4", b"HTTP/1.1 5") and rest.count(b"HTTP/1.1 ") == 1:
                rest = b""  # an early refusal of an incomplete message
        if rest:
            raise Wrong(f"a response too many, {reading.end}", repr(rest[:200]))

    def _check_upstream(self, reading: Reading, answers: list[Answer]) -> None:
        """The upstream got the predicted requests and no other, and each response went to its client."""
        whole = dict(self._upstream.whole)
        for message, answer in zip(reading.messages, answers, strict=False):
            if answer.status in message.statuses:
                continue
            number = min(whole, default=0)
            if message.method != "HEAD" and answer.body != b"%d" % number:
                raise Wrong("the response to another request", f"{answer.body!r} instead of {number}")
            assert message.forwarded is not None
            compare_request(whole.pop(number), message.forwarded)
        for received in whole.values():
            if received.target != b"/public/last":
                raise Wrong("a request that no client sent", repr(received.head))


class StockPlayer:
    """Plays cases under a stock ASGI server, which reads requests more loosely than the reference.

    No response is a 5xx, and no bytes that the reference takes for a body reach the upstream as a request.
    """

    def __init__(self, gateway: Gateway, upstream: NumberingUpstream) -> None:
        self._gateway = gateway
        self._upstream = upstream

    def play(self, case: RequestCase) -> None:
        """Raises Wrong."""
        self._upstream.clear()
        reading = read(case.data)
        with self._gateway.caller(timeout=_STOCK_PATIENCE) as caller:
            send(caller, case)
            with suppress(OSError, NoAnswer, BadAnswer):
                for message in reading.messages:
                    status = caller.receive(message.method).status
                    if status >= 500 and status != 501:
                        raise Wrong(f"a {status}", str(message))
                caller.finish_sending()
                caller.ended(_STOCK_PATIENCE)
        self._check_next()
        predicted = [message.forwarded for message in reading.messages if message.forwarded is not None]
        too_large = any(431 in message.statuses for message in reading.messages)  # uvicorn has no such limit
        for arrived in self._upstream.whole.values():
            bodies = [forwarded.body for forwarded in predicted if forwarded.line == arrived.line]
            if b"smuggled" in arrived.target and not bodies and not too_large:
                raise Wrong("a body reached the upstream as a request", repr(arrived.head))
            if len(predicted) == len(reading.messages) and bodies and arrived.body not in bodies:
                raise Wrong("another body", f"{arrived.head!r} {bytes(arrived.body[:200])!r}")
            if arrived.target.startswith(b"/admin"):
                raise Wrong("a request passed the policy", repr(arrived.head))
            if arrived.values("x-forwarded-for") != [b"127.0.0.1"] or arrived.seen_as("x-user-id"):
                raise Wrong("fields of the client took the place of the gateway's", repr(arrived.head))

    def _check_next(self) -> None:
        """Another client gets its response. Late requests of the case reach the upstream in the same time."""
        try:
            status = self._gateway.ask(_LAST).status
        except (TimeoutError, NoAnswer, BadAnswer) as error:
            raise Wrong(f"the next client: {type(error).__name__}", str(error)) from None
        if status != 200:
            raise Wrong(f"the next client got {status}", "")


def _judge(answer: Answer, message: Message) -> None:
    """The status and the state of the connection are predicted ones. Raises Wrong."""
    if answer.status not in message.statuses and (message.forwarded is None or answer.status != 200):
        raise Wrong(f"{answer.status} instead of {sorted(message.statuses) or [200]}", "")
    if not answer.whole:
        raise Wrong(f"a {answer.status} broke off", "")
    closes = closes_connection(answer)
    if message.closes is not None and closes != message.closes:
        raise Wrong(f"{answer.status} {'closes' if closes else 'keeps'} the connection", "")


def send(caller: Caller, case: RequestCase) -> None:
    """Send the pieces until the gateway closes the connection."""
    try:
        for number, piece in enumerate(pieces(case.data, case.cuts)):
            if number:
                sleep(_PAUSE)
            caller.send(piece)
    except (BrokenPipeError, ConnectionResetError):
        pass


def closes_connection(answer: Answer) -> bool:
    options = [one.strip().lower() for value in answer.values("connection") for one in value.split(b",")]
    return b"close" in options or (answer.head.version == b"HTTP/1.0" and b"keep-alive" not in options)


def compare_request(received: Received, forwarded: Forwarded) -> None:
    """Raises Wrong if the upstream got a different request."""
    got = f"got {received.head!r} and a body of {len(received.body)} bytes, expected {forwarded}"
    fields = list(received.fields)
    if received.line != forwarded.line:
        raise Wrong("another request line", got)
    if (received.framing, bytes(received.body)) != (forwarded.framing, forwarded.body):
        raise Wrong("another body", got)
    if received.trailers:
        raise Wrong("request trailers reached the upstream", got)
    if (b"Via", b"1.1 gateway") in fields:
        fields.remove((b"Via", b"1.1 gateway"))
    elif (b"Via", b"1.0 gateway") in fields:
        fields.remove((b"Via", b"1.0 gateway"))
    else:
        raise Wrong("no Via", got)
    if [one for one in fields if one[0].lower() not in _ADDED] != list(forwarded.fields):
        raise Wrong("other header fields", got)
    for name, value in (("x-forwarded-for", b"127.0.0.1"), ("x-forwarded-proto", b"http")):
        if received.values(name) != [value]:
            raise Wrong(f"another {name}", got)
    if len(received.values("host")) != 1 or len(received.values("x-request-id")) != 1:
        raise Wrong("Host or X-Request-Id is not there once", got)


def _due(reading: Reading, answers: list[Answer]) -> str:
    if len(answers) < len(reading.messages):
        message = reading.messages[len(answers)]
        return f"{sorted(message.statuses) or [200]}"
    return f"the end, {reading.end}"


def _shown(reading: Reading, answers: list[Answer]) -> str:
    got = [(answer.status, answer.code, answer.body[:20]) for answer in answers]
    return f"\n  got {got}\n  expected {reading}"
