"""Clearstone: recording, idle (suspended in the context) and disabled (``CLEARSTONE_DISABLED=1``)."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import clearstone
from clearstone.observability import SQLiteTraceStore
from clearstone.run import suspended
from contenders.base import Contender, rows_in

ALL_OF_IT = 600.0
TIDY_SECONDS = 10.0


class Recording(Contender):
    keeps = "pickled arguments and result, redacted, journaled"
    burst = 1_000_000

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.provider = clearstone.configure(home=folder)

    def wrap(self, function: Callable[..., Any], kind: str, *, method: bool = False) -> Callable[..., Any]:
        return clearstone.traced(span_type=kind)(function)

    def flush(self) -> None:
        report = self.provider.flush(ALL_OF_IT)
        if not report:
            raise RuntimeError(str(report))

    def found(self) -> int:
        return rows_in(self.folder / "traces.db", "SELECT count(*) FROM spans WHERE end_ns IS NOT NULL")

    def tidy(self) -> bool:
        """Do now what the recorder does when nobody records."""
        store = SQLiteTraceStore(self.folder / "traces.db")
        while store.tidy(TIDY_SECONDS):
            pass
        store.close()
        return True

    def close(self) -> None:
        self.provider.shutdown(ALL_OF_IT)


class Idle(Recording):
    keeps = "nothing: suspended"

    def around(self) -> contextlib.AbstractContextManager[Any]:
        return suspended()

    def found(self) -> None:
        return None

    def tidy(self) -> bool:
        return False


class Disabled(Recording):
    keeps = "nothing: CLEARSTONE_DISABLED=1"

    def found(self) -> None:
        return None

    def tidy(self) -> bool:
        return False
