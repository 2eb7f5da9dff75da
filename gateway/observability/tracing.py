"""Traces for an OpenTelemetry collector, if `observability.tracing` is set. Requires the extra `tracing`; this module
is imported only then.

A trace from a client's `traceparent` (W3C Trace Context) is continued and sampled according to its flag; otherwise a
new one starts. A request has up to four spans:

    GET orders            from the request head to the end of the response
      decide              until the decision
        lookup            while stores are queried
      upstream            until the head of the upstream's response; the upstream receives its `traceparent`

Spans are sent in the background. They contain no credentials: of the target only the canonical path, without the query.
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from threading import Thread
from typing import Any, Final, TypeVar

import requests
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import DEFAULT_ON
from opentelemetry.trace import Span, SpanKind, StatusCode, format_span_id, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import gateway
from gateway.errors import Refusal
from gateway.gate.admission import PendingDecision, RequestHead
from gateway.observability.access_log import loggable_path
from gateway.observability.escaping import without_tokens
from gateway.observability.metrics.request_counters import METHODS
from gateway.observability.observer import CompletedRequest, OnComplete
from gateway.settings.model import TracingSettings
from gateway.wire.fields import Field

D = TypeVar("D")

_TIMEOUT: Final = 5.0  # seconds for one batch of spans
_FAREWELL: Final = 2.0  # seconds for the last batch
_OTHER: Final = "_OTHER"  # the name of unknown methods in the semantic conventions

log: Final = logging.getLogger("gateway.observability.tracing")

_propagator: Final = TraceContextTextMapPropagator()


class Tracer:
    """Creates traces and sends them to the collector."""

    def __init__(self, settings: TracingSettings) -> None:
        resource = Resource.create(
            {"service.name": os.environ.get("OTEL_SERVICE_NAME", "gateway"), "service.version": gateway.__version__}
        )
        self._provider = TracerProvider(sampler=DEFAULT_ON, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(SpanCollector(settings.otlp_endpoint)))
        self._tracer = self._provider.get_tracer("gateway", gateway.__version__)

    def decide(self, admit: Callable[[RequestHead], D], request: RequestHead) -> D:
        """Trace a request and return the gate's decision."""
        trace = request.trace = RequestTrace(self, request)
        decision = admit(request)
        if not isinstance(decision, PendingDecision):
            trace.decided(decision)
        return decision

    def observing(self, completed: OnComplete) -> OnComplete:
        """Wrap `completed` so that the trace of each finished request ends too."""

        def observed(finished: CompletedRequest) -> None:
            completed(finished)
            if isinstance(finished.request.trace, RequestTrace):
                finished.request.trace.finish(finished)

        return observed

    def begin(self, name: str, context: Context | None, kind: SpanKind, at: int) -> Span:
        """Start a span. `at` is in nanoseconds since the epoch."""
        return self._tracer.start_span(name, context, kind, start_time=at)

    def close(self) -> None:
        """Send the remaining spans. Waits at most two seconds for the collector."""
        farewell = Thread(target=self._provider.shutdown, daemon=True)
        farewell.start()
        farewell.join(_FAREWELL)


class SpanCollector(SpanExporter):
    """Sends spans to the collector at `endpoint`, and logs the reason if spans are lost.

    The library's exporter treats a 3xx response as success or follows it with a GET, and so loses spans silently.
    """

    def __init__(self, endpoint: str) -> None:
        self._address = f"{endpoint.rstrip('/')}/v1/traces"
        self._session = _Session()
        self._exporter = OTLPSpanExporter(endpoint=self._address, timeout=_TIMEOUT, session=self._session)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans. Runs in the thread of the processor."""
        self._session.outcome = "was not asked"
        try:
            result = self._exporter.export(spans)
        except requests.RequestException:  # raised by releases before 1.45
            result = SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS:
            log.warning("spans are lost: the collector at %s %s", self._address, self._session.outcome)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # OpenTelemetry declares no types for it

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Session(requests.Session):
    """A session that follows no redirects. `outcome` describes the last request for the log."""

    outcome = ""

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        """Send a request. Raises RequestException: TooManyRedirects for a 3xx response."""
        try:
            response = super().request(*arguments, **{**options, "allow_redirects": False})
        except requests.RequestException as error:
            self.outcome = f"cannot be reached ({_innermost(error)})"
            raise
        self.outcome = f"answered {response.status_code} {response.reason}"
        if response.is_redirect or 300 <= response.status_code < 400:
            raise requests.TooManyRedirects(self.outcome, response=response)
        return response


def _innermost(error: BaseException) -> str:
    """The root cause of an error of `requests`. The texts of other causes contain addresses of objects."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return f"{type(error).__name__}: {error}"


class RequestTrace:
    """The trace of one request. `trace_id` appears in the access log."""

    def __init__(self, tracer: Tracer, request: RequestHead) -> None:
        self._tracer = tracer
        self._method = request.method.decode("ascii") if request.method in METHODS else _OTHER
        parent, self._is_continued = _parent(request.fields.kept)
        self._wall, self._clock = time.time_ns(), time.monotonic()
        self._span = tracer.begin(self._method, parent, SpanKind.SERVER, self._wall)
        self._within = set_span_in_context(self._span)
        self._deciding: Span | None = tracer.begin("decide", self._within, SpanKind.INTERNAL, self._wall)
        self._upstream: Span | None = None
        self.trace_id = format_trace_id(self._span.get_span_context().trace_id)

    async def look_up(self, concluding: Awaitable[D]) -> D:
        """The decision after the query of stores."""
        assert self._deciding is not None
        within = set_span_in_context(self._deciding)
        lookup = self._tracer.begin("lookup", within, SpanKind.INTERNAL, self._at(time.monotonic()))
        try:
            decision = await concluding
        finally:
            lookup.end(self._at(time.monotonic()))
        self.decided(decision)
        return decision

    def decided(self, decision: object) -> None:
        """End the span of the decision."""
        if self._deciding is not None:
            if isinstance(decision, Refusal):
                self._deciding.set_attribute("gateway.code", decision.code)
            self._deciding.end(self._at(time.monotonic()))
            self._deciding = None

    def sent_on(self, fields: list[Field]) -> list[Field]:
        """Start the upstream span; returns the request fields with its `traceparent`."""
        self._upstream = self._tracer.begin("upstream", self._within, SpanKind.CLIENT, self._at(time.monotonic()))
        context = self._upstream.get_span_context()
        ours = f"00-{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}-{context.trace_flags:02x}"
        # Trace Context, section 3.3: a tracestate is meaningless without its traceparent.
        gone = (b"traceparent",) if self._is_continued else (b"traceparent", b"tracestate")
        kept = [field for field in fields if field[0].lower() not in gone]
        return [*kept, (b"traceparent", ours.encode("ascii"))]

    def finish(self, finished: CompletedRequest) -> None:
        """End the trace of a finished request."""
        end = time.monotonic()
        self.decided(None)
        if self._upstream is not None:
            self._finish_upstream(self._upstream, finished, finished.answered_at or end)
        span, admission, request = self._span, finished.admission, finished.request
        route = finished.route if admission is None else admission.route.name
        path: bytes = loggable_path(request.target) if admission is None else admission.target.path
        span.update_name(f"{self._method} {route}" if route else self._method)
        span.set_attributes(
            {
                "http.request.method": self._method,
                "url.scheme": request.peer.scheme,
                "url.path": without_tokens(path.decode("latin-1")),
                "client.address": request.client,
                "http.response.status_code": finished.status,
                "gateway.route": route,
                "gateway.code": finished.code,
                "gateway.request_id": without_tokens(request.request_id.decode("latin-1")),
            }
        )
        if admission is not None:
            span.set_attribute("http.route", admission.route.pattern)
        if finished.status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end(self._at(end))

    def _finish_upstream(self, span: Span, finished: CompletedRequest, end: float) -> None:
        assert finished.admission is not None
        span.set_attributes(
            {"http.request.method": self._method, "gateway.upstream": finished.admission.route.upstream or ""}
        )
        if finished.code:  # no response, or an unusable one
            span.set_attribute("gateway.code", finished.code)
            span.set_status(StatusCode.ERROR)
        else:
            span.set_attribute("http.response.status_code", finished.status)
        span.end(self._at(end))

    def _at(self, clock: float) -> int:
        return self._wall + int((clock - self._clock) * 1e9)


def _parent(fields: Iterable[Field]) -> tuple[Context | None, bool]:
    """The trace context of the client; None and False without a valid one. A repeated traceparent is invalid."""
    carrier: dict[str, str] = {}
    for name, value in fields:
        folded = name.lower()
        if folded == b"traceparent":
            if "traceparent" in carrier:
                return None, False
            carrier["traceparent"] = value.decode("latin-1")
        elif folded == b"tracestate":
            before = f"{carrier['tracestate']}," if "tracestate" in carrier else ""
            carrier["tracestate"] = before + value.decode("latin-1")
    context = _propagator.extract(carrier, context=Context())
    return (context, True) if context else (None, False)
