"""How fast spans go into the SQLite store and come out of it, while it grows from ten thousand spans to a million.

    python benchmarks/store.py [--most 1000000] [--out FOLDER]

The store grows by batches as the recorder's writer makes them (`Store.apply`). At each size it is told how many spans a
second the last ten thousand went in, how many a second whole traces come out, and how many traces a second are listed
and found by the beginning of their id; each is the median of some repeats.
"""

import argparse
import itertools
import json
import os
import pickle
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import overhead
import tables
from environments import HERE

from clearstone.observability import SQLiteTraceStore, TracerProvider
from clearstone.span import PICKLE
from clearstone.store.batch import Batch, ProcessRow, RawPayload, SiteRow, SpanRow

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
BATCH, TRACE = 2000, 100
"""Spans a batch, and of them a trace."""

MEASURED = 10_000
REPEATS, READ, LISTED = 7, 20, 50
PROCESS = ProcessRow("0" * 32, 1, "a-host", "a-boot", 1)
SITES = [SiteRow("agent:ask", "ask", "llm", "serve", "INTERNAL", "", "")]
START_NS = 1_700_000_000_000_000_000


def spans() -> Iterator[SpanRow]:
    """Yield ended spans for ever, a hundred a trace, each with about 200 bytes of arguments and as many of result."""
    drawn = random.Random(7)
    trace = b""
    for number in itertools.count(1):
        if number % TRACE == 1:
            trace = drawn.randbytes(16)
        text = f"{number} {drawn.getrandbits(600):x}"
        given, gave = pickle.dumps(((text,), {}), 5), pickle.dumps(text, 5)
        yield SpanRow(
            span_id=number,
            trace_id=trace,
            parent_id=number - 1 if number % TRACE != 1 else None,
            site=0,
            top=number % TRACE == 1,
            start_ns=START_NS + number * 1000,
            start_order=number,
            instance=None,
            end_ns=START_NS + number * 1000 + 500,
            status="OK",
            status_text="",
            outcome="returned",
            complete=True,
            attributes=None,
            events=None,
            error_type=None,
            error_message=None,
            error_traceback=None,
            error_raised_at=None,
            input=RawPayload(PICKLE, given),
            output=RawPayload(PICKLE, gave),
            error=None,
            effects=None,
        )


def fill(store: Any, source: Iterator[SpanRow], count: int) -> list[float]:
    """Store `count` spans of `source`; return the spans a second of each batch."""
    found = []
    for _ in range(0, count, BATCH):
        batch = Batch(PROCESS, SITES, list(itertools.islice(source, BATCH)))
        start = time.perf_counter()
        store.apply(batch)
        found.append(BATCH / (time.perf_counter() - start))
    return found


def rate(work: Callable[[], int]) -> float:
    """Return how many things a second `work` does, which returns how many it did."""
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        done = work()
        found.append(done / (time.perf_counter() - start))
    return statistics.median(found)


def read_traces(store: Any, ids: list[str]) -> int:
    return sum(len(store.get_trace(trace_id).spans) for trace_id in random.sample(ids, READ))


def find_traces(store: Any, ids: list[str]) -> int:
    return len([store.find(trace_id[:12]) for trace_id in random.sample(ids, READ)])


def measure(path: Path, most: int) -> dict[str, list[dict[str, float]]]:
    """Grow a store to `most` spans; return the curves."""
    store, source, ids, held = SQLiteTraceStore(path), spans(), [], 0
    curves: dict[str, list[dict[str, float]]] = {}

    def note(curve: str, value: float) -> None:
        curves.setdefault(curve, []).append({"spans": held, "per_second": value})

    reader = TracerProvider(path).trace_store
    for size in (size for size in SIZES if size <= most):
        fill(store, source, size - held - MEASURED)
        into = statistics.median(fill(store, source, MEASURED))
        held = size
        ids = ids_in(path)
        note("spans in (apply)", into)
        note("spans out (get_trace)", rate(lambda ids=ids: read_traces(reader, ids)))
        note("traces listed (traces)", rate(lambda: len(reader.traces(LISTED))))
        note("traces found (find)", rate(lambda ids=ids: find_traces(reader, ids)))
        print(f"{held:,} spans, {path.stat().st_size / held:.0f} bytes a span", file=sys.stderr, flush=True)
    return curves


def ids_in(path: Path) -> list[str]:
    """Return the ids of all traces."""
    return [summary.trace_id for summary in SQLiteTraceStore(path).traces()]


def shown(raw: dict[str, Any]) -> str:
    """Return the curves as a table: a row a size."""
    curves = raw["curves"]
    sizes = [f"{point['spans']:,}" for point in next(iter(curves.values()))]
    columns = [[tables.number(point["per_second"]) for point in points] for points in curves.values()]
    rows = [list(row) for row in zip(sizes, *columns, strict=True)]
    title = f"{raw['machine']}; a second, medians of {REPEATS}; {TRACE} spans a trace.\n"
    return f"{title}\n{tables.table(['spans in the store', *curves], rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=SIZES[-1], help="grow to so many spans")
    parser.add_argument("--out", type=Path, default=HERE / ".results", help="where store.json, .md and .svg go")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        curves = measure(Path(folder) / "traces.db", options.most)
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    options.out.mkdir(parents=True, exist_ok=True)
    raw = {"machine": machine, "curves": curves}
    (options.out / "store.json").write_text(json.dumps(raw, indent=1) + "\n")
    (options.out / "store.md").write_text(shown(raw))
    print(shown(raw))
    overhead.draw(options.out / "store.json", options.out)


if __name__ == "__main__":
    main()
