"""A response as read by an engine, as a value for comparisons between engines."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gateway.proxy.forward import UpstreamRequest
from gateway.proxy.interfaces import Field
from tests.proxy.upstreams.harness import Outcome, ended, running, settings
from tests.support.processes import Engine

ENGINES: tuple[Engine, ...] = ("native", "httpx")


class Telling(NamedTuple):
    """Every part of a response that can reach a client, except trailers. `end` is `end`, `abort`, or the code of a
    refusal."""

    end: str
    status: int = 0
    reason: bytes = b""
    fields: tuple[Field, ...] = ()
    length: int | None = None
    body: bytes = b""
    interims: tuple[tuple[int, tuple[Field, ...]], ...] = ()
    lasting: bool = False


class ExchangeRecorder(Outcome):
    """A Downstream that records all notifications."""

    def __init__(self) -> None:
        super().__init__()
        self.interims: list[tuple[int, tuple[Field, ...]]] = []
        self.reason = b""
        self.fields: tuple[Field, ...] = ()
        self.length: int | None = None
        self.lasting = False

    def interim(self, status: int, fields: Sequence[Field]) -> None:
        self.interims.append((status, tuple(fields)))

    def head(
        self,
        status: int,
        reason: bytes,
        fields: Sequence[Field],
        length: int | None,
        serialized: bytes | None = None,
    ) -> None:
        assert not self.done.done()
        super().head(status, reason, fields, length)
        own = {b"Date"}  # The engine's own, because no response in these tests has one.
        self.reason, self.length = reason, length
        self.fields = tuple(field for field in fields if field[0] not in own)

    def on_event_stream(self) -> None:
        self.lasting = True

    @property
    def telling(self) -> Telling:
        if self.refusal is not None:
            return Telling(self.refusal.code, interims=tuple(self.interims))
        return Telling(
            "end" if self.aborted is None else "abort",
            self.status,
            self.reason,
            self.fields,
            self.length,
            # The length of a broken body depends on timing.
            self.content if self.aborted is None else b"",
            tuple(self.interims),
            self.lasting,
        )


async def tellings(engine: Engine, url: str, methods: Iterable[str]) -> list[Telling]:
    """The responses of an engine to a request with each of these methods."""
    async with running(settings(url, engine=engine, eject=None, retries=0)) as harness:
        found = []
        for method in methods:
            recorder = ExchangeRecorder()
            request = UpstreamRequest(method.encode(), b"%b /x HTTP/1.1\r\n" % method.encode(), b"", length=0)
            request.response_timeout = 2.0
            harness.engine.open(request, recorder, asyncio.get_running_loop().time())
            await ended(recorder)
            found.append(recorder.telling)
        return found
