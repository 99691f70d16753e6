"""A store of each kind, empty."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from clearstone.store.memory import MemoryTraceStore
from clearstone.store.sqlite import SQLiteTraceStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clearstone.store.base import TraceStore


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TraceStore]:
    made = MemoryTraceStore() if request.param == "memory" else SQLiteTraceStore(tmp_path / "traces.db")
    with closing(made):
        yield made
