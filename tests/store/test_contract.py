"""What every trace store promises, and SQLite compared with the store that is a dict."""

from __future__ import annotations

import itertools
import tempfile
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearstone.errors import TraceNotFoundError
from clearstone.span import (
    Chunk,
    Event,
    Failure,
    Outcome,
    Payload,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Trace,
    new_span_id,
    new_trace_id,
)
from clearstone.store.memory import MemoryTraceStore
from clearstone.store.sqlite import SQLiteTraceStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clearstone.store.base import TraceStore

_orders = itertools.count(1)


def a_span(trace_id: str, name: str = "work", *, start_ns: int = 1_000, **fields: Any) -> Span:
    made = {"span_id": new_span_id(), "parent_id": None, "end_ns": start_ns + 10, "order": next(_orders), **fields}
    return Span(trace_id=trace_id, name=name, start_ns=start_ns, **made)


def seen_at_no_time(trace: Trace) -> Trace:
    """Leave out when open spans were looked at: each store looks at its own moment."""
    return Trace(trace.trace_id, tuple(replace(span, observed_ns=0) for span in trace))


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TraceStore]:
    made = MemoryTraceStore() if request.param == "memory" else SQLiteTraceStore(tmp_path / "traces.db")
    with closing(made):
        yield made


# --- writing and reading ---------------------------------------------------------------------------------------------

FULL = a_span(
    new_trace_id(),
    "ask",
    span_id="a" * 16,
    parent_id="b" * 16,
    kind=SpanKind.CLIENT,
    span_type="llm",
    site="app:ask",
    replay="serve",
    tracer_name="app",
    tracer_version="1.2",
    status=Status(StatusCode.ERROR, "it failed"),
    attributes={"n": 1, "f": 0.5, "none": None, "yes": True, "list": ["a", 1], "\u00fc": "\N{SNOWMAN}"},
    events=(Event("retry", 1_001, {"attempt": 2}), Event("done", 1_002)),
    input=Payload("pickle", b"input"),
    outcome=Outcome(
        "streamed",
        Payload("cloudpickle", b"returned"),
        Failure("app.Error", "message", "traceback", "app.py:3", Payload("stand-in", b"{}")),
        (Chunk(1_003, Payload("pickle", b"one")), Chunk(1_004, Payload("pickle", b""))),
        complete=False,
    ),
)


def test_a_span_with_everything_comes_back_equal(store: TraceStore) -> None:
    store.write([FULL])
    assert store.get_trace(FULL.trace_id) == Trace(FULL.trace_id, (FULL,))


def test_a_span_with_nothing_comes_back_equal(store: TraceStore) -> None:
    span = Span(trace_id="t", span_id="s", parent_id=None, name="", start_ns=0, end_ns=0)
    store.write([span])
    assert store.get_trace("t") == Trace("t", (span,))


def test_an_open_span_comes_back_open_with_the_time_so_far(store: TraceStore) -> None:
    span = a_span("t", end_ns=None, observed_ns=1_500)
    store.write([span])
    (found,) = store.get_trace("t")
    assert found.is_open
    assert found.duration_ms > 0


def test_spans_come_in_the_order_they_started_whatever_the_order_of_arrival(store: TraceStore) -> None:
    spans = [a_span("t", name, start_ns=start, order=order) for name, start, order in
             [("c", 2, 3), ("a", 1, 4), ("d", 2, 9), ("b", 2, 1)]]  # fmt: skip
    store.write(spans[:1])
    store.write(spans[1:])
    assert [span.name for span in store.get_trace("t")] == ["a", "b", "c", "d"]


def test_many_chunks_come_back_in_their_order(store: TraceStore) -> None:
    chunks = tuple(Chunk(n, Payload("pickle", str(n).encode())) for n in range(300))
    store.write([a_span("t", outcome=Outcome("streamed", chunks=chunks))])
    (found,) = store.get_trace("t")
    assert found.outcome is not None
    assert found.outcome.chunks == chunks


def test_traces_are_kept_apart(store: TraceStore) -> None:
    store.write([a_span("one", "a"), a_span("two", "b"), a_span("one", "c", start_ns=2_000)])
    assert [span.name for span in store.get_trace("one")] == ["a", "c"]
    assert [span.name for span in store.get_trace("two")] == ["b"]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("order", ["open first", "ended first"])
def test_the_ended_span_wins_with_all_it_holds(store: TraceStore, order: str, *, together: bool) -> None:
    ended = replace(FULL, attributes={"when": "ended"}, input=None)
    opened = replace(FULL, end_ns=None, attributes={"when": "open"}, outcome=None, events=())
    arriving = [opened, ended] if order == "open first" else [ended, opened]
    for batch in [arriving] if together else [[span] for span in arriving]:
        store.write(batch)
    assert store.get_trace(FULL.trace_id).spans == (ended,)


def test_a_later_look_at_an_open_span_replaces_the_earlier_one(store: TraceStore) -> None:
    first = a_span("t", end_ns=None, input=Payload("pickle", b"first"))
    store.write([first])
    store.write([replace(first, input=Payload("pickle", b"later"), attributes={"n": 1})])
    (found,) = store.get_trace("t")
    assert found.input == Payload("pickle", b"later")
    assert dict(found.attributes) == {"n": 1}


def test_what_ended_first_stays(store: TraceStore) -> None:
    store.write([FULL])
    store.write([replace(FULL, name="again", input=Payload("pickle", b"other"), outcome=None)])
    assert store.get_trace(FULL.trace_id).spans == (FULL,)


def test_writing_nothing_stores_nothing(store: TraceStore) -> None:
    store.write([])
    assert store.traces() == []


def test_a_text_with_half_a_surrogate_pair_loses_no_span(store: TraceStore) -> None:
    half = "cut \ud83d"
    failure = Failure(half, half, half, f"{half}.py:1", Payload("pickle", b""))
    texts: dict[str, Any] = dict.fromkeys(["span_type", "site", "tracer_name", "tracer_version"], half)
    store.write([a_span("t", half, status=Status(StatusCode.ERROR, half), outcome=Outcome("raised", failure=failure),
                        attributes={half: half}, events=(Event(half, 1, {half: half}),), **texts)])  # fmt: skip
    (found,) = store.get_trace("t")
    assert found.name.startswith("cut ")
    assert dict(found.attributes) == {half: half}


def test_threads_may_write_and_read_at_the_same_time(store: TraceStore) -> None:
    def work(name: str) -> None:
        for n in range(20):
            store.write([a_span("t", name, start_ns=n)])
            assert len(store.get_trace("t")) > n
            store.traces()

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.get_trace("t")) == 80


def test_a_closed_store_opens_itself_again(store: TraceStore) -> None:
    store.close()
    store.write([FULL])
    store.close()
    store.close()
    assert store.get_trace(FULL.trace_id).spans == (FULL,)


def test_an_unknown_trace_is_named(store: TraceStore) -> None:
    store.write([FULL])
    with pytest.raises(TraceNotFoundError, match="'abc'"):
        store.get_trace("abc")


# --- summaries -------------------------------------------------------------------------------------------------------


def test_a_summary_is_about_the_span_that_started_first(store: TraceStore) -> None:
    store.write([
        a_span("t", "late", start_ns=7, end_ns=9, status=Status(StatusCode.OK)),
        a_span("t", "first", start_ns=5, end_ns=30, status=Status(StatusCode.ERROR, "why")),
    ])  # fmt: skip
    (summary,) = store.traces()
    assert (summary.trace_id, summary.name, summary.start_ns, summary.end_ns) == ("t", "first", 5, 30)
    assert (summary.spans, summary.open_spans, summary.status) == (2, 0, Status(StatusCode.ERROR, "why"))


def test_a_trace_with_an_open_span_has_not_ended(store: TraceStore) -> None:
    store.write([a_span("t"), a_span("t", end_ns=None)])
    (summary,) = store.traces()
    assert (summary.end_ns, summary.open_spans) == (None, 1)


def test_the_newest_traces_come_first_and_no_more_than_asked_for(store: TraceStore) -> None:
    store.write([a_span(f"t{start}", start_ns=start) for start in (3, 1, 5, 4, 2)])
    assert [each.trace_id for each in store.traces()] == ["t5", "t4", "t3", "t2", "t1"]
    assert [each.trace_id for each in store.traces(2)] == ["t5", "t4"]
    assert store.traces(0) == []


# --- finding ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(store: TraceStore) -> TraceStore:
    store.write([a_span(trace_id, start_ns=n) for n, trace_id in enumerate(["aa11", "ab22", "cc33"])])
    return store


@pytest.mark.parametrize(
    ("reference", "found"), [("latest", "cc33"), ("aa11", "aa11"), ("ab", "ab22"), ("c", "cc33"), ("cc33", "cc33")]
)
def test_a_reference_finds_its_trace(filled: TraceStore, reference: str, found: str) -> None:
    assert filled.find(reference) == found


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("a", "'a' is the beginning of 2 traces .*give more digits"),
        ("zz", "no trace begins with 'zz'; 'clearstone traces' lists 3"),
        ("", "no trace begins with ''"),
        ("%", "no trace begins with '%'"),
        ("aa111", "no trace begins with 'aa111'"),
    ],
)
def test_a_reference_that_finds_none_or_several_is_refused_in_a_sentence(
    filled: TraceStore, reference: str, sentence: str
) -> None:
    with pytest.raises(TraceNotFoundError, match=sentence):
        filled.find(reference)


@pytest.mark.parametrize("reference", ["latest", "aa", ""])
def test_in_an_empty_store_nothing_is_found_and_the_next_step_is_said(store: TraceStore, reference: str) -> None:
    with pytest.raises(TraceNotFoundError, match="no trace is recorded here yet"):
        store.find(reference)


# --- SQLite against memory -------------------------------------------------------------------------------------------

texts = st.text(max_size=6)
times = st.integers(0, 2**63 - 1)
payloads = st.builds(Payload, st.sampled_from(["pickle", "cloudpickle", "stand-in"]), st.binary(max_size=6))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec=None))
attributes = st.dictionaries(st.text(st.characters(codec=None), max_size=4), scalars | st.lists(scalars), max_size=3)
events = st.lists(st.builds(Event, texts, times, attributes), max_size=2).map(tuple)
failures = st.builds(Failure, texts, texts, texts, texts, payloads)
chunks = st.lists(st.builds(Chunk, times, payloads), max_size=3).map(tuple)
outcomes = st.one_of(
    st.none(),
    st.builds(Outcome, st.just("returned"), st.none() | payloads),
    st.builds(Outcome, st.just("raised"), failure=failures),
    st.builds(Outcome, st.just("streamed"), st.none() | payloads, st.none() | failures, chunks, st.booleans()),
)


@st.composite
def span_values(draw: st.DrawFn) -> Span:
    """Draw one look at one of eight spans of three traces: open or ended, each time with other contents."""
    number = draw(st.integers(0, 7))
    return Span(
        trace_id=f"{number % 3}trace",
        span_id=f"{number:016x}",
        parent_id=draw(st.none() | texts),
        name=draw(texts),
        start_ns=draw(times),
        end_ns=draw(st.none() | times),
        order=number,  # no two spans of a process have the same
        kind=draw(st.sampled_from(SpanKind)),
        span_type=draw(texts),
        site=draw(texts),
        replay=draw(st.sampled_from(["serve", "run"])),
        tracer_name=draw(texts),
        tracer_version=draw(texts),
        status=draw(st.builds(Status, st.sampled_from(StatusCode), texts)),
        attributes=draw(attributes),
        events=draw(events),
        input=draw(st.none() | payloads),
        outcome=draw(outcomes),
    )


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(span_values(), max_size=6), max_size=4), st.integers(0, 4))
def test_sqlite_gives_what_memory_gives_after_the_same_batches(batches: list[list[Span]], limit: int) -> None:
    memory = MemoryTraceStore()
    with tempfile.TemporaryDirectory() as folder, closing(SQLiteTraceStore(Path(folder) / "t.db")) as sqlite:
        for batch in batches:
            memory.write(batch)
            sqlite.write(batch)
        assert sqlite.traces() == memory.traces()
        assert sqlite.traces(limit) == memory.traces(limit)
        for summary in memory.traces():
            trace_id = summary.trace_id
            assert seen_at_no_time(sqlite.get_trace(trace_id)) == seen_at_no_time(memory.get_trace(trace_id))
            assert sqlite.find(trace_id[0]) == memory.find(trace_id[0]) == trace_id
        if memory.traces():
            assert sqlite.find("latest") == memory.find("latest")
