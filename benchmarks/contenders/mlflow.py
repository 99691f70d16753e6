"""mlflow: its `trace` decorator into its own SQLite store, logging in the background as it does by default."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow

from contenders.base import Contender, rows_in

KINDS = {"llm": "LLM", "tool": "TOOL", "step": "AGENT"}


class MLflow(Contender):
    keeps = "arguments and result as JSON"
    block = burst = 20
    most_calls = {"W1": 60, "W2": 40, "W2f": 40, "W2m": 20, "W3": 20, "W4": 40, "W5": 40, "W6": 400}  # noqa: RUF012

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        mlflow.set_experiment("benchmark")

    def wrap(self, function: Callable[..., Any], kind: str, *, method: bool = False) -> Callable[..., Any]:
        return mlflow.trace(function, span_type=KINDS[kind])

    def flush(self) -> None:
        mlflow.flush_trace_async_logging()

    def found(self) -> int:
        return rows_in(self.folder / "mlflow.db")
