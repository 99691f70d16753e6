"""clearstone-sdk: spans by hand, into its own SQLite. It keeps references and serialises them when it flushes."""

from pathlib import Path
from typing import Any

from clearstone.observability import TracerProvider
from contenders.base import Contender, rows_in, spanned


class ClearstoneSdk(Contender):
    keeps = "references to arguments and result, JSON when flushed"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.provider = TracerProvider(db_path=str(folder / "spans.db"))
        self.wrap = spanned(self.provider.get_tracer("benchmark").span, _set_input, _set_output)

    def flush(self) -> None:
        """Flush until nothing waits: one flush takes a hundred spans."""
        while self.provider.span_buffer._queue.qsize():
            self.provider.span_buffer.flush()

    def found(self) -> int:
        return rows_in(self.folder / "spans.db")


def _set_input(span: Any, value: Any) -> None:
    span.input_snapshot = value


def _set_output(span: Any, value: Any) -> None:
    span.output_snapshot = {"result": value}
