"""What every trace store promises of what it is given."""

from __future__ import annotations

import itertools
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

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
)
from clearstone.store.batch import Batch, ChunkRow, EndRow, ProcessRow, RawPayload, SiteRow, SpanRow
from clearstone.store.rows import batch_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from clearstone.store.base import TraceStore

_orders = itertools.count(1)


def trace_id_of(text: str) -> str:
    """Return a trace id that begins with some hex digits."""
    return text.ljust(32, "0")


T, ONE, TWO = map(trace_id_of, ("7", "01", "02"))


def write(store: TraceStore, spans: Iterable[Span]) -> None:
    store.apply(batch_of(spans))


def a_span(trace_id: str, name: str = "work", *, start_ns: int = 1_000, **fields: Any) -> Span:
    made = {
        "span_id": os.urandom(8).hex(),
        "parent_id": None,
        "end_ns": start_ns + 10,
        "order": next(_orders),
        **fields,
    }
    return Span(trace_id=trace_id, name=name, start_ns=start_ns, **made)


def seen_at_no_time(trace: Trace) -> Trace:
    """Leave out when open spans were looked at: each store looks at its own moment."""
    return Trace(trace.trace_id, tuple(replace(span, observed_ns=0) for span in trace))


# --- writing and reading ---------------------------------------------------------------------------------------------

FULL = a_span(
    os.urandom(16).hex(),
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
    called_at="app.py:9",
)


@pytest.mark.parametrize("first", ["told", "plain", "open"])
def test_of_several_ends_of_a_span_in_one_batch_the_first_stays(store: TraceStore, first: str) -> None:
    plain = a_span(T, outcome=Outcome("returned", Payload("pickle", b"N.")))
    told = replace(plain, status=Status(StatusCode.UNSET, "told"), end_ns=plain.start_ns + 5)
    started = replace(plain, end_ns=None, outcome=None)
    given = {"told": [told, plain], "plain": [plain, told], "open": [started, told, plain]}[first]
    batches = [batch_of([each]) for each in given]
    store.apply(batches[0]._replace(spans=[row for each in batches for row in each.spans]))
    (found,) = store.get_trace(T)
    assert found.end_ns == (plain if first == "plain" else told).end_ns
    assert found.status.description == ("" if first == "plain" else "told")


def test_a_span_with_everything_comes_back_equal(store: TraceStore) -> None:
    write(store, [FULL])
    assert store.get_trace(FULL.trace_id) == Trace(FULL.trace_id, (FULL,))


def test_a_span_with_nothing_comes_back_equal(store: TraceStore) -> None:
    span = Span(trace_id=T, span_id="5" * 16, parent_id=None, name="", start_ns=0, end_ns=0)
    write(store, [span])
    assert store.get_trace(T) == Trace(T, (span,))


def test_spans_of_one_site_keep_the_places_they_were_made_in(store: TraceStore) -> None:
    spans = [a_span(T, start_ns=n, site="app:ask", called_at=each) for n, each in enumerate(["a.py:1", "", "a.py:2"])]
    write(store, spans)
    write(store, [a_span(T, start_ns=9, site="app:ask", called_at="a.py:1")])
    assert [span.called_at for span in store.get_trace(T)] == ["a.py:1", "", "a.py:2", "a.py:1"]


def test_an_open_span_comes_back_open_with_the_time_so_far(store: TraceStore) -> None:
    span = a_span(T, end_ns=None, observed_ns=1_500)
    write(store, [span])
    (found,) = store.get_trace(T)
    assert found.is_open
    assert found.duration_ms > 0


def test_spans_come_in_the_order_they_started_whatever_the_order_of_arrival(store: TraceStore) -> None:
    spans = [a_span(T, name, start_ns=start, order=order) for name, start, order in
             [("c", 2, 3), ("a", 1, 4), ("d", 2, 9), ("b", 2, 1)]]  # fmt: skip
    write(store, spans[:1])
    write(store, spans[1:])
    assert [span.name for span in store.get_trace(T)] == ["a", "b", "c", "d"]


def test_many_chunks_come_back_in_their_order(store: TraceStore) -> None:
    chunks = tuple(Chunk(n, Payload("pickle", str(n).encode())) for n in range(300))
    write(store, [a_span(T, outcome=Outcome("streamed", chunks=chunks))])
    (found,) = store.get_trace(T)
    assert found.outcome is not None
    assert found.outcome.chunks == chunks


def test_traces_are_kept_apart(store: TraceStore) -> None:
    write(store, [a_span(ONE, "a"), a_span(TWO, "b"), a_span(ONE, "c", start_ns=2_000)])
    assert [span.name for span in store.get_trace(ONE)] == ["a", "c"]
    assert [span.name for span in store.get_trace(TWO)] == ["b"]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("order", ["open first", "ended first"])
def test_the_ended_span_wins_with_all_it_holds(store: TraceStore, order: str, *, together: bool) -> None:
    ended = replace(FULL, attributes={"when": "ended"}, input=None)
    opened = replace(FULL, end_ns=None, attributes={"when": "open"}, outcome=None, events=())
    arriving = [opened, ended] if order == "open first" else [ended, opened]
    for batch in [arriving] if together else [[span] for span in arriving]:
        write(store, batch)
    assert store.get_trace(FULL.trace_id).spans == (ended,)


def test_of_two_looks_at_an_open_span_the_first_stays(store: TraceStore) -> None:
    first = a_span(T, end_ns=None, input=Payload("pickle", b"first"))
    write(store, [first])
    write(store, [replace(first, input=Payload("pickle", b"later"), attributes={"n": 1})])
    (found,) = store.get_trace(T)
    assert found.input == Payload("pickle", b"first")


def test_what_ended_first_stays(store: TraceStore) -> None:
    write(store, [FULL])
    write(store, [replace(FULL, name="again", input=Payload("pickle", b"other"), outcome=None)])
    assert store.get_trace(FULL.trace_id).spans == (FULL,)


def test_writing_nothing_stores_nothing(store: TraceStore) -> None:
    write(store, [])
    assert store.traces() == []


def test_a_text_with_half_a_surrogate_pair_loses_no_span(store: TraceStore) -> None:
    half = "cut \ud83d"
    failure = Failure(half, half, half, f"{half}.py:1", Payload("pickle", b""))
    texts: dict[str, Any] = dict.fromkeys(["span_type", "site", "tracer_name", "tracer_version"], half)
    write(store, [a_span(T, half, status=Status(StatusCode.ERROR, half), outcome=Outcome("raised", failure=failure),
                        attributes={half: half}, events=(Event(half, 1, {half: half}),), **texts)])  # fmt: skip
    (found,) = store.get_trace(T)
    assert found.name.startswith("cut ")
    assert dict(found.attributes) == {half: half}


def test_threads_may_write_and_read_at_the_same_time(store: TraceStore) -> None:
    def work(name: str) -> None:
        for n in range(20):
            write(store, [a_span(T, name, start_ns=n)])
            assert len(store.get_trace(T)) > n
            store.traces()

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.get_trace(T)) == 80


def test_a_closed_store_opens_itself_again(store: TraceStore) -> None:
    store.close()
    write(store, [FULL])
    store.close()
    store.close()
    assert store.get_trace(FULL.trace_id).spans == (FULL,)


def test_an_unknown_trace_is_named(store: TraceStore) -> None:
    write(store, [FULL])
    with pytest.raises(TraceNotFoundError, match="'abc'"):
        store.get_trace("abc")


# --- summaries -------------------------------------------------------------------------------------------------------


def test_a_summary_is_about_the_span_that_started_first(store: TraceStore) -> None:
    write(store, [
        a_span(T, "late", start_ns=7, end_ns=9, status=Status(StatusCode.OK)),
        a_span(T, "first", start_ns=5, end_ns=30, status=Status(StatusCode.ERROR, "why")),
    ])  # fmt: skip
    (summary,) = store.traces()
    assert (summary.trace_id, summary.name, summary.start_ns, summary.end_ns) == (T, "first", 5, 30)
    assert (summary.spans, summary.open_spans, summary.status) == (2, 0, Status(StatusCode.ERROR, "why"))


def test_a_trace_with_an_open_span_has_not_ended(store: TraceStore) -> None:
    write(store, [a_span(T), a_span(T, end_ns=None)])
    (summary,) = store.traces()
    assert (summary.end_ns, summary.open_spans) == (None, 1)


def test_the_newest_traces_come_first_and_no_more_than_asked_for(store: TraceStore) -> None:
    write(store, [a_span(trace_id_of(f"{start}"), start_ns=start) for start in (3, 1, 5, 4, 2)])
    assert [each.trace_id[0] for each in store.traces()] == ["5", "4", "3", "2", "1"]
    assert [each.trace_id[0] for each in store.traces(2)] == ["5", "4"]
    assert store.traces(0) == []


# --- finding ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(store: TraceStore) -> TraceStore:
    write(
        store, [a_span(trace_id, start_ns=n) for n, trace_id in enumerate(map(trace_id_of, ["aa11", "ab22", "cc33"]))]
    )
    return store


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("latest", "cc33"),
        ("aa11", "aa11"),
        ("ab2", "ab22"),
        ("AB", "ab22"),
        ("c", "cc33"),
        (trace_id_of("cc33"), "cc33"),
    ],
)
def test_a_reference_finds_its_trace(filled: TraceStore, reference: str, found: str) -> None:
    assert filled.find(reference) == trace_id_of(found)


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("a", "'a' is the beginning of 2 traces .*give more digits"),
        ("zz", "no trace begins with 'zz'; 'clearstone traces' lists what is there"),
        ("", "no trace begins with ''"),
        ("%", "no trace begins with '%'"),
        ("aa111", "no trace begins with 'aa111'"),
        ("0" * 33, "no trace begins with"),
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


# --- rows: ends, chunks, processes -----------------------------------------------------------------------------------

PROCESS = ProcessRow("token", 1, "host", "boot", 5)
SITE = SiteRow("app:f", "f", "tool", "serve", "INTERNAL", "", "")
NOTHING = (None,) * 4
VALUE = RawPayload(0, b"N.")


def a_start(number: int, **fields: Any) -> SpanRow:
    known = {"input": VALUE, **fields}
    head = (number, bytes(16), None, 0, True, number, number, "app:Class#1")
    start = SpanRow(*head, None, "UNSET", "", None, True, None, None, *NOTHING, *NOTHING)
    return start._replace(**known)


def an_end(number: int, **fields: Any) -> EndRow:
    return EndRow(number, number + 5, "OK", "", "returned", True, None, None, *NOTHING, VALUE)._replace(**fields)


def a_batch(spans: Sequence[SpanRow] = (), ends: Sequence[EndRow] = (), chunks: Sequence[ChunkRow] = ()) -> Batch:
    return Batch(PROCESS, [SITE], spans, ends, chunks)


def test_an_end_of_a_later_batch_ends_the_span_and_keeps_what_was_known_at_its_start(store: TraceStore) -> None:
    store.apply(a_batch([a_start(1)]))
    store.apply(a_batch(ends=[an_end(1, attributes='{"n": 1}', effects=VALUE)]))
    (span,) = store.get_trace("0" * 32)
    assert (span.end_ns, span.input, span.instance) == (6, Payload("pickle", b"N."), "app:Class#1")
    assert dict(span.attributes) == {"n": 1}
    assert span.outcome == Outcome("returned", Payload("pickle", b"N."), effects=Payload("pickle", b"N."))


def test_an_end_may_bring_the_input_of_a_hand_written_span(store: TraceStore) -> None:
    store.apply(a_batch([a_start(1, input=None)]))
    store.apply(a_batch(ends=[an_end(1, input=RawPayload(0, b"later"))]))
    assert store.get_trace("0" * 32).spans[0].input == Payload("pickle", b"later")


def test_of_two_ends_the_first_counts(store: TraceStore) -> None:
    store.apply(a_batch([a_start(1), a_start(2)]))
    store.apply(a_batch(ends=[an_end(1), an_end(1, end_ns=99), an_end(2)]))
    store.apply(a_batch(ends=[an_end(2, end_ns=99)]))
    assert [span.end_ns for span in store.get_trace("0" * 32)] == [6, 7]


def test_ends_and_chunks_of_unknown_spans_are_dropped(store: TraceStore) -> None:
    store.apply(a_batch(ends=[an_end(1)], chunks=[ChunkRow(1, 0, 5, VALUE)]))
    assert store.traces() == []
    store.apply(a_batch([a_start(1)]))
    (span,) = store.get_trace("0" * 32)
    assert (span.end_ns, span.outcome) == (None, None)


def test_the_chunks_of_a_stream_that_goes_on_are_there(store: TraceStore) -> None:
    store.apply(a_batch([a_start(1)], chunks=[ChunkRow(1, 1, 8, VALUE), ChunkRow(1, 0, 7, VALUE)]))
    store.apply(a_batch(chunks=[ChunkRow(1, 1, 99, VALUE)]))
    (span,) = store.get_trace("0" * 32)
    assert span.outcome == Outcome(
        "streamed", chunks=(Chunk(7, Payload("pickle", b"N.")), Chunk(8, Payload("pickle", b"N."))), complete=False
    )


def test_a_batch_applied_again_changes_nothing(store: TraceStore) -> None:
    batches = [a_batch([a_start(1), a_start(2)], chunks=[ChunkRow(2, 0, 7, VALUE)]), a_batch(ends=[an_end(1)])]
    for batch in batches:
        store.apply(batch)
    before = seen_at_no_time(store.get_trace("0" * 32)), store.traces()
    for batch in [*batches, *batches]:
        store.apply(batch)
    assert (seen_at_no_time(store.get_trace("0" * 32)), store.traces()) == before


def test_the_open_spans_of_a_dead_process_are_interrupted_and_no_others(store: TraceStore) -> None:
    store.apply(a_batch([a_start(1), a_start(2)], [an_end(1)]))
    store.apply(a_batch([a_start(3)])._replace(process=ProcessRow("another", 2, "", "", 6)))
    assert (store.interrupt("token"), store.interrupt("token"), store.interrupt("nobody")) == (1, 0, 0)
    assert [span.interrupted for span in store.get_trace("0" * 32)] == [False, True, False]
    (summary,) = store.traces()
    assert (summary.open_spans, summary.interrupted, summary.end_ns) == (1, 1, None)


def test_a_span_whose_end_comes_after_all_is_not_interrupted(store: TraceStore) -> None:
    store.apply(a_batch([a_start(1)]))
    store.interrupt("token")
    store.apply(a_batch(ends=[an_end(1)]))
    assert [span.interrupted for span in store.get_trace("0" * 32)] == [False]


def test_a_trace_without_a_top_span_comes_last(store: TraceStore) -> None:
    write(store, [a_span(T, start_ns=900, parent_id="b" * 16), a_span(ONE, start_ns=5), a_span(TWO, start_ns=7)])
    assert [each.trace_id for each in store.traces()] == [TWO, ONE, T]
    assert [each.trace_id for each in store.traces(2)] == [TWO, ONE]
    assert store.find("latest") == TWO


def test_a_trace_is_as_new_as_its_first_top_span(store: TraceStore) -> None:
    write(store, [a_span(ONE, start_ns=1), a_span(TWO, start_ns=5), a_span(ONE, start_ns=9), a_span(TWO, start_ns=6)])
    assert [each.trace_id for each in store.traces()] == [TWO, ONE]
    assert store.find("latest") == TWO
