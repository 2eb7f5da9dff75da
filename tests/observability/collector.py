"""A trace collector: accepts OTLP over HTTP on loopback, and stores the received spans."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.waiting import eventually


class Span(NamedTuple):
    """A received span; ids in hexadecimal, times in seconds."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    began: float
    ended: float
    attributes: dict[str, Any]
    failed: bool


class Collector:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.raw = b""
        self.service: dict[str, Any] = {}
        self.refuses_with: tuple[int, dict[str, str]] | None = None
        self.refused = 0
        self._spans: list[Span] = []

    def receive(self, body: bytes) -> None:
        self.raw += body
        request = ExportTraceServiceRequest()
        request.ParseFromString(body)
        for resource in request.resource_spans:
            self.service = _said(resource.resource.attributes)
            for scope in resource.scope_spans:
                self._spans += [_span(one) for one in scope.spans]

    def spans(self, trace: str) -> dict[str, Span]:
        """The spans of one trace, by name."""
        return {span.name: span for span in list(self._spans) if span.trace == trace}

    def wait_for(self, trace: str, names: set[str]) -> dict[str, Span]:
        eventually(lambda: self.spans(trace).keys() >= names, timeout=10, every=0.05)
        spans = self.spans(trace)
        assert spans.keys() == names
        return spans

    @property
    def traces(self) -> set[str]:
        return {span.trace for span in list(self._spans)}


def _said(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def _span(one: Any) -> Span:
    times = one.start_time_unix_nano / 1e9, one.end_time_unix_nano / 1e9
    ids = one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex()
    return Span(one.name, *ids, one.kind, *times, _said(one.attributes), one.status.code == 2)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector: Collector

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if collector.refuses_with is not None:
                collector.refused += 1
                self._answer(*collector.refuses_with)
                return
            assert self.path == "/v1/traces"
            assert self.headers["content-type"] == "application/x-protobuf"
            collector.receive(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            self._answer(200, {})

        def do_GET(self) -> None:
            """A sign-in page as the target of redirects."""
            self._answer(200, {})

        def _answer(self, status: int, fields: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in fields.items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Disable logging."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield collector
    server.shutdown()
    thread.join()
    server.server_close()
