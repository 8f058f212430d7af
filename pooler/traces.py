"""Transactions as OpenTelemetry spans: waiting and executing as children, under the caller's trace.

Needs the extra `otel`; nothing of OpenTelemetry is imported unless `traces.endpoint` is set. Names
of spans and attributes follow its semantic conventions for databases; a statement is shown by its
outline. Spans are sent by a thread of the SDK's, in batches, and dropped when a collector is slow.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pooler
from pooler.config.model import Settings
from pooler.core.meter import Transaction

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

LAST_SPANS: Final = 2.0
"""Seconds that a collector has for the last spans."""
_SECOND: Final = 1_000_000_000  # in nanoseconds, OpenTelemetry's unit


class Tracing:
    """The traces of a service, on or off as its settings have it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._settings: Any = None
        self._traces: Traces | None = None
        self._closing: set[asyncio.Future[None]] = set()

    def configure(self, settings: Settings) -> None:
        """Go by other settings from now on."""
        if settings.traces == self._settings:
            return
        self._settings = settings.traces
        self._end()
        if settings.traces.endpoint:
            self._traces = Traces(settings, self._now())

    def add(self, transaction: Transaction) -> None:
        """Send a transaction that is over."""
        if self._traces is not None:
            self._traces.add(transaction)

    def _end(self) -> None:
        traces, self._traces = self._traces, None
        if traces is not None:
            future = asyncio.get_running_loop().run_in_executor(None, traces.close)
            self._closing.add(future)
            future.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Send what there is, for a moment."""
        self._end()
        if self._closing:
            await asyncio.wait(self._closing, timeout=LAST_SPANS)


class Traces:
    """Sends spans where the settings say; `now` is the core's clock when it is made."""

    def __init__(self, settings: Settings, now: float) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        resource = Resource.create(
            {"service.name": settings.traces.service_name, "service.version": pooler.__version__}
        )
        # The meter decides which transactions are traced: all that come here are.
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource)
        exporter = OTLPSpanExporter(endpoint=settings.traces.endpoint)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer: Tracer = self._provider.get_tracer("pooler", pooler.__version__)
        self._offset = datetime.now(UTC).timestamp() - now

    def add(self, transaction: Transaction) -> None:
        """Make spans of a transaction that is over."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        client, server = transaction.client, transaction.server
        span = self._tracer.start_span(
            "transaction",
            context=_caller(transaction.parent),
            kind=SpanKind.SERVER,
            start_time=self._time(transaction.began),
            attributes={
                "db.system.name": "postgresql",
                "db.namespace": client.database,
                "db.user": client.user,
                "server.address": server.host.host,
                "server.port": server.host.port,
                "pooler.client": client.ident,
                "pooler.server": server.ident,
                "pooler.backend_pid": server.pid,
                "pooler.queries": len(transaction.queries) + transaction.left_out,
            },
        )
        within = set_span_in_context(span)
        self._child("wait", within, transaction.began, transaction.began + transaction.wait)
        for query in transaction.queries:
            child = self._child("execute", within, query.began, query.ended, end=False)
            child.set_attributes(
                {
                    "db.query.text": query.statement,
                    "db.response.returned_rows": query.rows,
                    "pooler.bytes": query.sent,
                }
            )
            if query.sqlstate:
                _failed(child, query.sqlstate)
                _failed(span, query.sqlstate)
            child.end(self._time(query.ended))
        span.end(self._time(transaction.ended))

    def close(self) -> None:
        """Send what there is, and no more; blocks for as long as the collector takes."""
        self._provider.shutdown()

    def _time(self, stamp: float) -> int:
        return int((stamp + self._offset) * _SECOND)

    def _child(
        self, name: str, within: "Context", began: float, ended: float, *, end: bool = True
    ) -> "Span":
        span = self._tracer.start_span(name, context=within, start_time=self._time(began))
        if end:
            span.end(self._time(ended))
        return span


def _failed(span: "Span", sqlstate: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR)
    span.set_attribute("db.response.status_code", sqlstate)
    span.set_attribute("error.type", sqlstate)


def _caller(parent: str) -> "Context | None":
    """Return the caller's context, as W3C's `traceparent` has it."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
