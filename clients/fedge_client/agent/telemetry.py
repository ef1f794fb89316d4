"""OpenTelemetry of public facts: metrics, and a span for each piece of the agent's work.

Off unless a collector is named. What is exported is `GatewayStatus`, whose every field
is a public fact, and the names and durations of loops; nothing that depends on what a
request held. Exporting runs on the library's own threads; a collector that is away costs
a counted failure, never a delay. The library is imported only when this is on.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from fedge.breaker import CircuitBreaker
from fedge.config import TelemetrySettings
from fedge.errors import OutboundError, SettingError
from fedge.records import GatewayStatus

log = logging.getLogger(__name__)

EXPORT_TIMEOUT_S = 5.0
COUNTERS = (
    *("windows", "dropped_observations", "withheld_windows"),
    *("spool_dropped", "spool_corrupt", "worker_restarts"),
)
"""Fields that only grow; the other numbers are gauges. Counts of labels are not exported."""
GAUGES = ("release", "next_slot", "spool_depth", "spool_gaps", "refused_envelopes")


class Telemetry(Protocol):
    """What the agent tells about itself."""

    def span(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Time one piece of work."""
        ...

    def close(self) -> None: ...


class NoTelemetry:
    """The default: nothing is exported."""

    def span(self, name: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def close(self) -> None:
        pass


def open_telemetry(
    settings: TelemetrySettings, *, gateway: str, status: Callable[[], GatewayStatus]
) -> Telemetry:
    """The telemetry that the settings ask for.

    Args:
        gateway: this gateway's fingerprint, the `service.instance.id`.
        status: asked at each export.

    Raises:
        SettingError: it is switched on, and OpenTelemetry is not installed.
    """
    if not settings.otlp_url:
        return NoTelemetry()
    try:
        return OtlpTelemetry(settings, gateway=gateway, status=status)
    except ImportError as error:
        raise SettingError(
            "telemetry.otlp_url is set, but OpenTelemetry is not installed: "
            "pip install 'fedge[telemetry]'"
        ) from error


class OtlpTelemetry:
    """Exports over OTLP/HTTP; made by `open_telemetry`."""

    def __init__(
        self, settings: TelemetrySettings, *, gateway: str, status: Callable[[], GatewayStatus]
    ) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource

        resource = Resource.create(
            {"service.name": "fedge-gateway", "service.instance.id": gateway}
        )
        base = settings.otlp_url.rstrip("/")
        self._status = _Latest(status, settings.interval_s / 2)
        exporter = _guarded(OTLPMetricExporter, "metrics")(
            endpoint=f"{base}/v1/metrics", timeout=EXPORT_TIMEOUT_S
        )
        reader = PeriodicExportingMetricReader(
            exporter,
            export_interval_millis=1000 * settings.interval_s,
            export_timeout_millis=1000 * EXPORT_TIMEOUT_S,
        )
        self._meters = MeterProvider(metric_readers=[reader], resource=resource)
        self._instruments()
        self._tracer: Any = None
        if settings.traces:
            self._open_traces(base, resource)

    def span(self, name: str) -> contextlib.AbstractContextManager[None]:
        if self._tracer is None:
            return contextlib.nullcontext()
        return self._span(name)

    @contextlib.contextmanager
    def _span(self, name: str) -> Iterator[None]:
        # Neither the error's text nor its trace: either may quote what a request held.
        with self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        ):
            yield

    def close(self) -> None:
        self._meters.shutdown(timeout_millis=1000 * EXPORT_TIMEOUT_S)
        if self._tracer is not None:
            self._traces.shutdown()

    def _instruments(self) -> None:
        from opentelemetry.metrics import Observation

        meter = self._meters.get_meter("fedge")

        def observe(field: str) -> Callable[[Any], list[Observation]]:
            def read(_: Any) -> list[Observation]:
                latest = self._status.get()
                return [] if latest is None else [Observation(getattr(latest, field))]

            return read

        for field in COUNTERS:
            meter.create_observable_counter(f"fedge.{field}", callbacks=[observe(field)])
        for field in GAUGES:
            meter.create_observable_gauge(f"fedge.{field}", callbacks=[observe(field)])

    def _open_traces(self, base: str, resource: Any) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._traces = TracerProvider(resource=resource)
        exporter = _guarded(OTLPSpanExporter, "traces")(
            endpoint=f"{base}/v1/traces", timeout=EXPORT_TIMEOUT_S
        )
        self._traces.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._traces.get_tracer("fedge")


def _guarded(exporter: type[Any], what: str) -> type[Any]:
    """An exporter behind a circuit breaker: a collector that is away is left alone for a while."""
    breaker = CircuitBreaker(f"telemetry {what}", time.monotonic)

    class Guarded(exporter):  # type: ignore[misc]
        def export(self, *args: Any, **options: Any) -> Any:
            """See the exporter's own; while the breaker is open nothing is sent."""
            try:
                breaker.check()
            except OutboundError:
                return type(self).failure()
            result = super().export(*args, **options)
            if result == type(self).failure():
                breaker.failed()
            else:
                breaker.succeeded()
            return result

        @staticmethod
        def failure() -> Any:
            """What the SDK calls a failed export, of metrics or of traces."""
            if what == "metrics":
                from opentelemetry.sdk.metrics.export import MetricExportResult

                return MetricExportResult.FAILURE
            from opentelemetry.sdk.trace.export import SpanExportResult

            return SpanExportResult.FAILURE

    return Guarded


class _Latest:
    """One snapshot for all instruments of an export: collecting facts once is enough."""

    def __init__(self, status: Callable[[], GatewayStatus], max_age_s: float) -> None:
        self._ask, self._max_age_s = status, max_age_s
        self._at = float("-inf")
        self._value: GatewayStatus | None = None

    def get(self) -> GatewayStatus | None:
        """The snapshot, asked for again where it is older than allowed; None where that failed."""
        now = time.monotonic()
        if now - self._at > self._max_age_s:
            try:
                self._value = self._ask()
            except Exception:  # an export must not end because a fact is missing
                log.exception("facts for telemetry")
                self._value = None
            self._at = now
        return self._value
