"""The floor: the least a recorder in pure Python can do. Pickle into a queue, a thread, rows in SQLite.

No journal (what is queued dies with the process), no redaction, no fallback for what does not pickle, no exceptions, no
generators, no methods' effects, no fork. A recorder that does all that is measured against it.
"""

import asyncio
import collections
import contextvars
import itertools
import pickle
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wrapt

from contenders.base import Contender, insert, rows_in

LIMIT, BATCH, LOOK_SECONDS = 20_000, 1000, 0.05
SCHEMA = """PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;
CREATE TABLE spans (id INTEGER PRIMARY KEY, trace INTEGER, parent INTEGER, name TEXT, kind TEXT,
                    start_ns INTEGER, end_ns INTEGER, input BLOB, output BLOB);"""


class Prototype(Contender):
    keeps = "pickled arguments and result"
    burst = LIMIT

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.queue: collections.deque[Any] = collections.deque()
        self.ids = itertools.count(1)
        self.current: contextvars.ContextVar[tuple[int, int] | None] = contextvars.ContextVar("current", default=None)
        self.bell, made = threading.Event(), threading.Event()
        threading.Thread(target=self._write_all, args=(made,), daemon=True).start()
        made.wait()

    def wrap(self, function: Callable[..., Any], kind: str, *, method: bool = False) -> Callable[..., Any]:
        name, now, dumps, append = function.__name__, time.time_ns, pickle.dumps, self.queue.append
        current, ids, queue = self.current, self.ids, self.queue

        def called(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            start, given, above, span = now(), dumps((args, kwargs), 5), current.get(), next(ids)
            trace, parent = above or (span, None)
            token = current.set((trace, span))
            try:
                result = wrapped(*args, **kwargs)
            finally:
                current.reset(token)
            append((span, trace, parent, name, kind, start, now(), given, dumps(result, 5)))
            if len(queue) > LIMIT:
                self._wait_for_room()
            return result

        async def awaited(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            start, given, above, span = now(), dumps((args, kwargs), 5), current.get(), next(ids)
            trace, parent = above or (span, None)
            token = current.set((trace, span))
            try:
                result = await wrapped(*args, **kwargs)
            finally:
                current.reset(token)
            append((span, trace, parent, name, kind, start, now(), given, dumps(result, 5)))
            return result

        return wrapt.FunctionWrapper(function, awaited if asyncio.iscoroutinefunction(function) else called)

    def flush(self) -> None:
        """Send a barrier through the queue: polling for an empty one misses the batch that is being written."""
        barrier = threading.Event()
        self.queue.append(barrier)
        self.bell.set()
        barrier.wait()

    def found(self) -> int:
        return rows_in(self.folder / "spans.db")

    def _wait_for_room(self) -> None:
        self.bell.set()
        while len(self.queue) > LIMIT // 2:
            time.sleep(0.001)

    def _write_all(self, made: threading.Event) -> None:
        database = sqlite3.connect(self.folder / "spans.db", isolation_level=None)
        database.executescript(SCHEMA)
        made.set()
        while True:
            rows = [self.queue.popleft() for _ in range(min(len(self.queue), BATCH))]
            spans = [row for row in rows if type(row) is tuple]
            if spans:
                database.execute("BEGIN")
                insert(database, "spans", spans)
                database.execute("COMMIT")
            for barrier in rows:
                if type(barrier) is threading.Event:
                    barrier.set()
            if not rows:
                self.bell.wait(LOOK_SECONDS)
                self.bell.clear()
