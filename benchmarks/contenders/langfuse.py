"""langfuse: its `observe` decorator, into the same SQLite exporter instead of its service."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from langfuse import Langfuse as Client
from langfuse import observe

from contenders.base import Contender
from contenders.otel_sqlite import SQLiteExporter

KINDS = {"llm": "generation", "tool": "tool", "step": "agent"}
KEY = "none"
NOWHERE = "http://127.0.0.1:9"


class Langfuse(Contender):
    keeps = "arguments and result as JSON"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.exporter = SQLiteExporter(folder)
        self.client = Client(public_key=KEY, secret_key=KEY, base_url=NOWHERE, span_exporter=self.exporter)

    def wrap(self, function: Callable[..., Any], kind: str, *, method: bool = False) -> Callable[..., Any]:
        return observe(name=function.__name__, as_type=KINDS[kind])(function)

    def flush(self) -> None:
        self.client.flush()

    def found(self) -> int:
        return self.exporter.found()

    def close(self) -> None:
        self.client.shutdown()
