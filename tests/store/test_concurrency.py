"""One SQLite file used by several stores at once: what each promises holds whatever the others do."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import subprocess
import sys
import textwrap
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from clearstone.errors import TraceNotFoundError
from clearstone.span import Payload, Span
from clearstone.store.base import SpanQuery
from clearstone.store.rows import batch_of
from clearstone.store.sqlite import SQLiteTraceStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TRACES, STEPS = 8, 40


def a_trace(number: int, chooser: random.Random) -> list[Span]:
    """A trace of calls that each pass a longer history; the messages are those of other traces too."""
    messages = [f"message {n} of {number % 3} " + "x" * 200 for n in range(STEPS)]
    chooser.shuffle(messages)
    return [
        Span(
            trace_id=f"{number + 1:032x}", span_id=f"{number * 1000 + n + 1:016x}", parent_id=None, name="ask",
            start_ns=number * 1000 + n, end_ns=number * 1000 + n + 1, order=n,
            input=Payload("pickle", pickle.dumps(messages[: n + 1], 5)),
        )
        for n in range(STEPS)
    ]  # fmt: skip


class Together:
    """Runs several jobs on stores of their own until all writers are done; an error of any is raised."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.over = threading.Event()
        self.errors: list[BaseException] = []

    def run(
        self, writers: list[Callable[[SQLiteTraceStore], None]], *others: Callable[[SQLiteTraceStore], None]
    ) -> None:
        writing = [threading.Thread(target=self._job, args=(job,)) for job in writers]
        beside = [threading.Thread(target=self._until_over, args=(job,)) for job in others]
        for thread in [*writing, *beside]:
            thread.start()
        for thread in writing:
            thread.join()
        self.over.set()
        for thread in beside:
            thread.join()
        assert self.errors == []

    def _job(self, job: Callable[[SQLiteTraceStore], None]) -> None:
        try:
            with closing(SQLiteTraceStore(self.path)) as store:
                job(store)
        except BaseException as error:
            self.errors.append(error)

    def _until_over(self, job: Callable[[SQLiteTraceStore], None]) -> None:
        def again(store: SQLiteTraceStore) -> None:
            while not self.over.wait(0.001):
                job(store)

        self._job(again)


def writing(spans: list[Span]) -> Callable[[SQLiteTraceStore], None]:
    def write(store: SQLiteTraceStore) -> None:
        for at in range(0, len(spans), 5):
            store.apply(batch_of(spans[at : at + 5]))

    return write


def forgetting(traces: list[list[Span]]) -> Callable[[SQLiteTraceStore], None]:
    turns = itertools.cycle(traces)

    def forget(store: SQLiteTraceStore) -> None:
        try:
            store.forget(next(turns)[0].trace_id)
        except TraceNotFoundError:
            store.collect(0)

    return forget


def search(store: SQLiteTraceStore) -> None:
    for span in store.spans(SpanQuery(text="message 3", newest_first=True, limit=5), payloads=True):
        assert span.input is not None


def tidy(store: SQLiteTraceStore) -> None:
    store.tidy(0.01)


@pytest.mark.once
@pytest.mark.parametrize("seed", range(3))
def test_writing_tidying_searching_and_forgetting_at_once_lose_nothing_else(tmp_path: Path, seed: int) -> None:
    chooser = random.Random(seed)
    kept, doomed = ([a_trace(number, chooser) for number in range(first, first + TRACES)] for first in (0, 100))
    mixed = [span for pair in zip(itertools.chain(*kept), itertools.chain(*doomed), strict=True) for span in pair]
    Together(tmp_path / "traces.db").run(
        [writing(mixed[::2]), writing(mixed[1::2]), writing(mixed)], forgetting(doomed), search, tidy
    )
    with closing(SQLiteTraceStore(tmp_path / "traces.db")) as store:
        for again in range(2):
            for spans in kept:
                assert store.get_trace(spans[0].trace_id).spans == tuple(spans), f"reading {again}"
            assert store.tidy(60) is False
        found = {span.span_id for span in store.spans(SpanQuery(text='"message 3"'))}
    expected = {span.span_id for spans in kept for span in spans if span.input and b"message 3 " in span.input.data}
    assert expected <= found


FORKED = textwrap.dedent("""
    import os, sys
    from clearstone.span import Span
    from clearstone.store.rows import batch_of
    from clearstone.store.sqlite import SQLiteTraceStore

    def spans(numbers):
        return batch_of([Span("7" * 32, f"{n:016x}", None, "n", n, n) for n in numbers])

    store = SQLiteTraceStore(sys.argv[1])
    store.apply(spans(range(1, 100)))
    reading = store.spans()
    next(reading)
    child = os.fork()
    if child == 0:
        store.forget_connection()
        del reading
        store.apply(spans(range(100, 200)))
        store.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    store.apply(spans(range(200, 300)))
    print(len(list(reading)), len(store.get_trace("7" * 32)))
""")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_an_iterator_that_a_forked_child_drops_goes_on_in_its_parent(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORKED, tmp_path / "traces.db"], capture_output=True, check=True, timeout=60, text=True
    )
    assert run.stdout.split() == ["98", "299"]
