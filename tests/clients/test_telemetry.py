"""OpenTelemetry is off by default; switched on it exports public facts and nothing else."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from fakes.spools import status

from fedge.config import TelemetrySettings
from fedge.records import GatewayStatus
from fedge_client.agent.telemetry import COUNTERS, GAUGES, NoTelemetry, open_telemetry

metrics_pb = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
traces_pb = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

STATUS = status().model_copy(update={"next_slot": 4711})


class Collector:
    """A collector on loopback that keeps what it is sent."""

    def __init__(self) -> None:
        self.bodies: dict[str, list[bytes]] = {"/v1/metrics": [], "/v1/traces": []}
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                bodies[self.path].append(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.close()


def test_it_is_off_unless_a_collector_is_named() -> None:
    assert isinstance(
        open_telemetry(TelemetrySettings(), gateway="g", status=lambda: STATUS), NoTelemetry
    )


def test_nothing_of_it_is_loaded_while_it_is_off() -> None:
    code = (
        "import sys; import fedge_client.agent.telemetry as t\n"
        "from fedge.config import TelemetrySettings as S\n"
        "t.open_telemetry(S(), gateway='g', status=lambda: None).span('x').__enter__()\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_metrics_are_the_listed_public_facts(collector: Collector) -> None:
    settings = TelemetrySettings(otlp_url=collector.url, interval_s=3600)
    telemetry = open_telemetry(settings, gateway="ab" * 16, status=lambda: STATUS)
    telemetry.close()  # exports once more before it ends

    (body,) = collector.bodies["/v1/metrics"]
    request = metrics_pb.ExportMetricsServiceRequest.FromString(body)
    (resource,) = request.resource_metrics
    values = {}
    for metric in resource.scope_metrics[0].metrics:
        points = metric.sum.data_points or metric.gauge.data_points
        values[metric.name] = points[0].as_int
        assert not points[0].attributes
    assert set(values) == {f"fedge.{name}" for name in (*COUNTERS, *GAUGES)}
    assert values["fedge.next_slot"] == 4711
    attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
    assert attributes["service.instance.id"] == "ab" * 16


def test_what_may_fall_is_no_counter() -> None:
    """A counter that falls is taken for one that began anew, and its sum is wrong."""
    assert not {"spool_gaps", "refused_envelopes", "spool_depth"} & set(COUNTERS)


def test_every_metric_is_a_field_of_the_public_record() -> None:
    assert set(COUNTERS) | set(GAUGES) <= set(GatewayStatus.model_fields)


def test_a_span_carries_a_name_and_no_error_text(collector: Collector) -> None:
    settings = TelemetrySettings(otlp_url=collector.url, interval_s=3600, traces=True)
    telemetry = open_telemetry(settings, gateway="g", status=lambda: STATUS)
    with pytest.raises(ValueError, match="CANARY"), telemetry.span("window"):
        raise ValueError("CANARY in row 7")
    telemetry.close()

    (body,) = collector.bodies["/v1/traces"]
    request = traces_pb.ExportTraceServiceRequest.FromString(body)
    (span,) = request.resource_spans[0].scope_spans[0].spans
    assert span.name == "window"
    assert b"CANARY" not in body


def test_a_collector_that_is_away_stops_nothing() -> None:
    settings = TelemetrySettings(otlp_url="http://127.0.0.1:9", interval_s=3600, traces=True)
    telemetry = open_telemetry(settings, gateway="g", status=lambda: STATUS)

    with telemetry.span("window"):
        pass
    telemetry.close()


def test_facts_that_cannot_be_collected_are_left_out(collector: Collector) -> None:
    def broken() -> GatewayStatus:
        raise RuntimeError("the supervisor does not answer")

    settings = TelemetrySettings(otlp_url=collector.url, interval_s=3600)
    open_telemetry(settings, gateway="g", status=broken).close()

    for body in collector.bodies["/v1/metrics"]:
        request = metrics_pb.ExportMetricsServiceRequest.FromString(body)
        assert not [m for r in request.resource_metrics for s in r.scope_metrics for m in s.metrics]
