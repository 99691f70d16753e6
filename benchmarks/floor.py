"""The floor under a recorded call: what each part of it costs when nothing else is done.

    python benchmarks/floor.py [--repeats 9]

Parts are timed in turn in each round, so that a slow phase of the machine hits all of them; figures are medians in
nanoseconds, less an empty call, and as multiples of the pass-through. A part this version does not have is left out,
which is said.
"""

import argparse
import itertools
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import tables
import workloads
from contenders import yardsticks

Part = Callable[[], Any]
ROUND_NS = 4_000_000
"""About so long a part is timed in a round."""

BLOCK = 100

SMALL, LARGE = 100, 7_000
"""Bytes of a journal record of W1 and of W2."""

POOL = 3000
"""So many different payloads are redacted in turn."""

USED, LIMIT = 80 << 20, 4 << 30
"""What a journal has taken before its segments are all of the largest size and come back; and its limit."""


def parts(closing: ExitStack) -> Iterator[tuple[str, Callable[[], Part]]]:
    """Yield each part's name and what makes it; making one may raise ImportError where it is not there."""
    current: ContextVar[int] = ContextVar("current")
    function = yardsticks.pass_through(lambda n: n, "tool")
    w1, w2 = ((5,), {}), ((workloads.REPEATED[0],), workloads.OPTIONS)
    reply = {"role": "assistant", "content": workloads.REPLIES[0], "usage": {"input": 1500, "output": 130}}
    yield "wrapt pass-through", lambda: lambda: function(1)
    yield "time_ns, twice", lambda: lambda: (time.time_ns(), time.time_ns())
    yield "context variable, set and reset", lambda: lambda: current.reset(current.set(1))
    yield "pickle, W1 arguments", lambda: lambda: pickle.dumps(w1, 5)
    yield "pickle, W1 result", lambda: lambda: pickle.dumps(5, 5)
    yield "pickle, W2 arguments", lambda: lambda: pickle.dumps(w2, 5)
    yield "pickle, W2 result", lambda: lambda: pickle.dumps(reply, 5)
    yield "redaction, W2 arguments seen before", seen_before
    yield "redaction, W2 arguments with one new message", lambda: redacting(grown(POOL))
    new = [pickled(workloads.fresh_conversation()) for _ in range(POOL)]
    yield "redaction, W2 arguments all new", lambda: redacting(new)
    yield "a start of W1, packed into its place", lambda: packing(closing)
    for size in (SMALL, LARGE):
        yield f"journal, {size:,} bytes into pages used before", lambda size=size: appending(size, closing, USED)
        yield f"journal, {size:,} bytes into new pages", lambda size=size: appending(size, closing, 0)


def redacting(payloads: list[bytes]) -> Part:
    """Return the redaction of one payload after the other."""
    from clearstone.codec.redact import Redactor, Rules

    redactor, rest = Redactor(Rules()), itertools.cycle(payloads)
    return lambda: redactor.payload("W2 given", next(rest))


def seen_before() -> Part:
    """Return the look-up of payloads that were seen before, each time as bytes of their own."""
    from clearstone.codec.redact import Redactor, Rules

    redactor, histories = Redactor(Rules()), [pickled(each) for each in workloads.REPEATED]
    for each in histories:
        redactor.payload("W2 given", each)
    rest = itertools.cycle([bytes(bytearray(histories[i % len(histories)])) for i in range(POOL)])
    return lambda: redactor.knows("W2 given", next(rest))


def grown(calls: int) -> list[bytes]:
    """Return W2 arguments in which each call has one new message and nineteen of the call before."""
    history = [message for _ in range(calls // 20 + 2) for message in workloads.fresh_conversation()]
    return [pickled(history[at : at + 20]) for at in range(calls)]


def pickled(messages: list[dict[str, str]]) -> bytes:
    return pickle.dumps(((messages,), workloads.OPTIONS), 5)


def packing(closing: ExitStack) -> Part:
    """Return the packing of a start into a segment, without the reservation of its place."""
    from clearstone.record import identity, packed
    from clearstone.record.journal import Journal
    from clearstone.record.layout import PUBLISHED, TOP

    journal = Journal(Path(closing.enter_context(tempfile.TemporaryDirectory())) / "journal", lambda: None)
    journal.append(b"the first")
    data, head, given = journal.segment.data, packed.start_head(1, TOP), pickle.dumps(((5,), {}), 5)
    pack, length, _ = packed.STARTS[len(given)]
    span, trace, start_ns, places = (
        next(identity.count),
        identity.next_trace(),
        time.time_ns(),
        itertools.cycle(range(4096, 512 << 10, 128)),
    )
    return lambda: pack(data, next(places), length, head, span, 0, trace, start_ns, len(given), given, PUBLISHED)


def appending(size: int, closing: ExitStack, used: int) -> Part:
    """Return an append of `size` bytes to a journal on disk.

    Args:
        size: of the record.
        closing: ends the journal and removes its folder.
        used: so many bytes are appended before, and full segments released, so that they come back. With 0 they stay.
    """
    from clearstone.record.journal import Journal

    folder = Path(closing.enter_context(tempfile.TemporaryDirectory()))

    def release() -> None:
        if used:
            journal.advance(journal.appended - journal.stored)

    journal = Journal(folder / "traces.db.journal", release, LIMIT, "drop-and-count")
    journal.parked = False
    closing.callback(journal.close)
    append, record = journal.append, b"x" * size
    for _ in range(used // size):
        append(record)
    return lambda: append(record)


def timed(part: Part, calls: int) -> float:
    """Return the nanoseconds of a call, the median of blocks of a hundred."""
    found = []
    for _ in range(max(1, calls // BLOCK)):
        start = time.perf_counter_ns()
        for _ in range(BLOCK):
            part()
        found.append((time.perf_counter_ns() - start) / BLOCK)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    with ExitStack() as closing:
        made, missing = {"empty call": lambda: None}, []
        for name, make in parts(closing):
            try:
                made[name] = make()
            except ImportError as error:
                missing.append(f"left out: {name} ({error})")
        print(measured(made, repeats))
    print("\n".join(missing))


def measured(made: dict[str, Part], repeats: int) -> str:
    """Time every part in `repeats` rounds; return the table."""
    calls = {name: max(BLOCK, int(ROUND_NS / timed(part, 100))) for name, part in made.items()}
    found: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(repeats):
        for name, part in made.items():
            found[name].append(timed(part, calls[name]))
    empty = found.pop("empty call")
    unit = [one - none for one, none in zip(found["wrapt pass-through"], empty, strict=True)]
    rows = []
    for name, values in found.items():
        less = [value - none for value, none in zip(values, empty, strict=True)]
        multiple = statistics.median(value / of for value, of in zip(less, unit, strict=True))
        rows.append(
            [name, f"{statistics.median(less):,.0f}", f"{min(less):,.0f}", f"{max(less):,.0f}", f"{multiple:.2f}"]
        )
    return tables.table(["", "ns", "lowest", "highest", "multiple of the pass-through"], rows)


if __name__ == "__main__":
    main()
