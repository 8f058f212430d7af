"""Transactions as spans, received as a collector does: by OTLP over HTTP."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.conftest import RunWithConfig
from tests.live.conftest import Login
from tests.support import rawclient as raw
from tests.support.pooler import Pooler
from tests.support.waiting import wait_until

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
COMMENT = f"/*app='x',traceparent='00-{TRACE}-{PARENT}-01'*/"
NOT_SAMPLED = f"/*traceparent='00-{TRACE}-{PARENT}-00'*/"


class Collector:
    """Receives spans."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        spans.extend(scope.spans)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/traces"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def attributes(span: Any) -> dict[str, Any]:
    kinds = ("string_value", "int_value")
    return {
        item.key: getattr(item.value, next(kind for kind in kinds if item.value.HasField(kind)))
        for item in span.attributes
    }


def tracing(run: RunWithConfig, collector: Collector, sample: int) -> Pooler:
    return run(
        traces={"endpoint": collector.url, "sample": sample},
        session_state={"catalog_interval": 0},
    )


def test_a_transaction_under_its_callers_trace(
    run_with_config: RunWithConfig, collector: Collector, login: Login
) -> None:
    """As SQLCommenter has it; nobody but who is traced is, at this rate."""
    pooler = tracing(run_with_config, collector, sample=1_000_000_000)
    client = login(at=pooler)
    client.query("SELECT 'not traced'")
    client.query("BEGIN")
    client.query(f"SELECT 'a value', pg_sleep(0.01) {COMMENT}")
    client.query("COMMIT")
    client.query(f"SELECT 'not sampled' {NOT_SAMPLED}")
    pooler.terminate()  # which sends what there is
    (transaction,) = collector.named("transaction")
    assert transaction.trace_id.hex() == TRACE
    assert transaction.parent_span_id.hex() == PARENT
    known = attributes(transaction)
    assert (known["db.namespace"], known["db.user"], known["pooler.client"]) == ("app", "app", 1)
    (wait,) = collector.named("wait")
    executed = collector.named("execute")
    assert [attributes(span)["db.query.text"] for span in executed] == [
        "SELECT ?, pg_sleep(?)",
        "COMMIT",
    ]
    for span in (wait, *executed):
        assert span.parent_span_id == transaction.span_id
        assert transaction.start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= transaction.end_time_unix_nano
    first = executed[0]
    assert first.end_time_unix_nano - first.start_time_unix_nano >= 10_000_000
    assert attributes(first)["db.response.returned_rows"] == 1
    assert "value" not in str([attributes(span).get("db.query.text") for span in executed])


def test_all_are_traced_with_their_errors(
    run_with_config: RunWithConfig, collector: Collector, login: Login
) -> None:
    pooler = tracing(run_with_config, collector, sample=1)
    client = login(at=pooler)
    client.query("SELECT 1/0")
    client.send(raw.parse("SELECT $1::int"), raw.bind([b"5"]), raw.execute(), raw.sync())
    client.read_until()
    pooler.terminate()
    failed, other = collector.named("transaction")
    assert attributes(failed)["db.response.status_code"] == "22012"
    assert failed.status.code == 2
    assert other.status.code == 0
    assert not other.parent_span_id
    assert failed.trace_id != other.trace_id


def test_a_collector_that_is_not_there_is_in_nobodys_way(
    run_with_config: RunWithConfig, login: Login
) -> None:
    pooler = run_with_config(traces={"endpoint": "http://127.0.0.1:1/v1/traces", "sample": 1})
    client = login(at=pooler)
    for _ in range(20):
        client.query("SELECT 1")
    client.close()
    wait_until(lambda: pooler.log_contains(event="client closed"))
    assert pooler.terminate() == 0
