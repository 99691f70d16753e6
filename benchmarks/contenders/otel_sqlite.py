"""A fair exporter of OpenTelemetry spans into SQLite: one transaction a batch, statements of many rows."""

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from contenders.base import as_json, insert, rows_in

SCHEMA = """PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;
CREATE TABLE spans (span_id TEXT PRIMARY KEY, trace_id TEXT, parent_id TEXT, name TEXT, start_ns INTEGER,
                    end_ns INTEGER, status TEXT, attributes TEXT) WITHOUT ROWID;"""


class SQLiteExporter(SpanExporter):
    def __init__(self, folder: Path) -> None:
        self._path = folder / "spans.db"
        self._lock = threading.Lock()
        self._database = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        self._database.executescript(SCHEMA)

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        rows = [_row(span) for span in spans]
        with self._lock:
            self._database.execute("BEGIN")
            insert(self._database, "spans", rows)
            self._database.execute("COMMIT")
        return SpanExportResult.SUCCESS

    def found(self) -> int:
        return rows_in(self._path)

    def shutdown(self) -> None:
        with self._lock:
            self._database.close()

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True


def _row(span: Any) -> tuple[Any, ...]:
    context, parent = span.context, span.parent
    return (
        format(context.span_id, "016x"),
        format(context.trace_id, "032x"),
        format(parent.span_id, "016x") if parent is not None else None,
        span.name,
        span.start_time,
        span.end_time,
        span.status.status_code.name,
        as_json(dict(span.attributes or {})),
    )
