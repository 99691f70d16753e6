"""opentelemetry-sdk: spans by hand with JSON attributes, a BatchSpanProcessor, rows in SQLite."""

from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from contenders.base import Contender, as_json, spanned
from contenders.otel_sqlite import SQLiteExporter

FLUSH_MILLISECONDS = 600_000


class OpenTelemetry(Contender):
    keeps = "arguments and result as JSON"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.exporter, self.provider = SQLiteExporter(folder), TracerProvider()
        self.provider.add_span_processor(BatchSpanProcessor(self.exporter))
        self.wrap = spanned(self.provider.get_tracer("benchmark").start_as_current_span, _set_input, _set_output)

    def flush(self) -> None:
        self.provider.force_flush(FLUSH_MILLISECONDS)

    def found(self) -> int:
        return self.exporter.found()

    def close(self) -> None:
        self.provider.shutdown()


def _set_input(span: Any, value: Any) -> None:
    span.set_attribute("input", as_json(value))


def _set_output(span: Any, value: Any) -> None:
    span.set_attribute("output", as_json(value))
