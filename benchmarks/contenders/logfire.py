"""logfire: its `instrument` decorator, arguments and results on, into the same SQLite exporter."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import logfire
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from contenders.base import Contender
from contenders.otel_sqlite import SQLiteExporter

FLUSH_MILLISECONDS = 600_000


class Logfire(Contender):
    keeps = "arguments and result as JSON, scrubbed"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.exporter = SQLiteExporter(folder)
        logfire.configure(
            send_to_logfire=False,
            console=False,
            metrics=False,
            data_dir=folder / "logfire",
            additional_span_processors=[BatchSpanProcessor(self.exporter)],
        )

    def wrap(self, function: Callable[..., Any], kind: str, *, method: bool = False) -> Callable[..., Any]:
        return logfire.instrument(function.__name__, extract_args=True, record_return=True)(function)

    def flush(self) -> None:
        logfire.force_flush(FLUSH_MILLISECONDS)

    def found(self) -> int:
        return self.exporter.found()

    def close(self) -> None:
        logfire.shutdown()
