"""SQLite compared with the store that is a few dicts, after whatever both are told to do."""

from __future__ import annotations

import pickle
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from clearstone.errors import TraceNotFoundError
from clearstone.span import Span, StatusCode
from clearstone.store.base import SpanQuery
from clearstone.store.batch import Batch, ChunkRow, EndRow, ProcessRow, RawPayload, SiteRow, SpanRow
from clearstone.store.memory import MemoryTraceStore
from clearstone.store.sqlite import SQLiteTraceStore

TRACES = [bytes([n]) * 16 for n in (1, 2, 3)]
SITES = [
    SiteRow(f"app:{name}", name, kind, "serve", "INTERNAL", "", "") for name, kind in [("ask", "llm"), ("use", "tool")]
]
PROCESSES = [ProcessRow(token, 1, "host", "boot", 5) for token in "ab"]
WORDS = ["alpha", "beta", "gamma", "alpha beta", "beta alpha"]

numbers = st.integers(1, 12)  # few, so that the same spans come again
moments = st.integers(1, 40)
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=2)
large = st.integers(0, 5).map(lambda n: [" ".join(WORDS), [f"message {m} " + "x" * 300 for m in range(n)]])
values = st.one_of(texts, large).map(lambda value: pickle.dumps(value, 5))
stand_ins = st.just(RawPayload(2, b'{"type": "app.Lock", "repr": "<lock alpha>", "reason": "no"}'))
raws = st.builds(RawPayload, st.sampled_from([0, 1, 0x20]), values) | stand_ins
errors = st.sampled_from([(None, None, None, None), ("app.Denied", "no gamma", "traceback", "app.py:1")])
jsons = st.sampled_from([None, '{"note": "alpha"}', '{"n": 1}'])
events = st.sampled_from([None, '[{"name": "retried", "at_ns": 5, "attributes": {"why": "gamma"}}]'])
maybe = st.none() | raws


def of_span(number: int) -> tuple[Any, ...]:
    """What is known at the start of a span follows from its number, as it does in life."""
    trace, parent = TRACES[number % 3], None if number % 4 else number - 1
    return number, trace, parent, number % 2, parent is None, 10 + number // 2, number, f"app:Agent#{number % 2}"


@st.composite
def ends(draw: st.DrawFn, number: int | None = None) -> EndRow:
    told, error = draw(errors), None
    if told[0] is not None:
        error = draw(raws)
    return EndRow(
        number if number is not None else draw(numbers), draw(moments), draw(st.sampled_from(["OK", "ERROR", "UNSET"])),
        draw(st.sampled_from(["", "gamma"])), draw(st.sampled_from(["returned", "raised", "streamed"])),
        draw(st.booleans()), draw(jsons), draw(events), *told, draw(maybe), error, draw(maybe), draw(maybe),
    )  # fmt: skip


@st.composite
def spans(draw: st.DrawFn) -> SpanRow:
    number = draw(numbers)
    at_end: tuple[Any, ...]
    if draw(st.booleans()):
        at_end = (None, "UNSET", "", None, True, draw(jsons), None, *(None,) * 4, draw(maybe), None, None, None)
    else:
        end = draw(ends(number))
        at_end = (*end[1:12], draw(maybe), end.output, end.error, end.effects)
    return SpanRow._make([*of_span(number), *at_end])


chunks = st.builds(ChunkRow, numbers, st.integers(0, 3), moments, raws)
batches = st.builds(
    Batch,
    st.sampled_from(PROCESSES),
    st.just(SITES),
    st.lists(spans(), max_size=6),
    st.lists(ends(), max_size=4),
    st.lists(chunks, max_size=4),
)
queries = st.builds(
    SpanQuery,
    trace_id=st.none() | st.sampled_from([trace.hex() for trace in TRACES]),
    name=st.none() | st.sampled_from(["ask", "use", "none"]),
    span_type=st.none() | st.sampled_from(["llm", "tool"]),
    status=st.none() | st.sampled_from(StatusCode),
    interrupted=st.none() | st.booleans(),
    since_ns=st.none() | moments,
    until_ns=st.none() | moments,
    text=st.none()
    | st.sampled_from([*WORDS, '"alpha beta"', '"beta alpha"', "gamma denied", "message 3", "lock", "zeta"]),
    limit=st.none() | st.integers(0, 4),
    newest_first=st.booleans(),
)


def seen(span: Span) -> Span:
    """Leave out when an open span was looked at."""
    return replace(span, observed_ns=0)


class Stores(RuleBasedStateMachine):
    """Does the same to both."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.memory = MemoryTraceStore()
        self.sqlite = SQLiteTraceStore(Path(self.folder.name) / "traces.db")

    def teardown(self) -> None:
        self.sqlite.close()
        self.folder.cleanup()

    @rule(batch=batches)
    def apply(self, batch: Batch) -> None:
        self.memory.apply(batch)
        self.sqlite.apply(batch)

    @rule(token=st.sampled_from("abc"))
    def interrupt(self, token: str) -> None:
        assert self.sqlite.interrupt(token) == self.memory.interrupt(token)

    @rule()
    def tidy(self) -> None:
        assert self.sqlite.tidy(60) == self.memory.tidy(60) is False

    @rule()
    def close(self) -> None:
        self.sqlite.close()

    @rule()
    def open_another(self) -> None:
        self.sqlite.close()
        self.sqlite = SQLiteTraceStore(self.sqlite.path, create=False)

    @rule(trace=st.sampled_from(TRACES))
    def forget(self, trace: bytes) -> None:
        try:
            expected = self.memory.forget(trace.hex()).spans
        except TraceNotFoundError:
            expected = 0
        try:
            found = self.sqlite.forget(trace.hex()).spans
        except TraceNotFoundError:
            found = 0
        assert found == expected

    @rule(older_than_ns=moments, keep_failed=st.booleans(), dry_run=st.booleans())
    def collect(self, older_than_ns: int, keep_failed: bool, dry_run: bool) -> None:
        told = [
            each.collect(older_than_ns, keep_failed=keep_failed, dry_run=dry_run) for each in (self.memory, self.sqlite)
        ]
        assert (told[0].traces, told[0].spans) == (told[1].traces, told[1].spans)

    @rule(query=queries, payloads=st.booleans())
    def search(self, query: SpanQuery, payloads: bool) -> None:
        found = [list(map(seen, each.spans(query, payloads=payloads))) for each in (self.memory, self.sqlite)]
        assert found[0] == found[1]

    @invariant()
    def both_tell_the_same(self) -> None:
        assert self.sqlite.traces() == self.memory.traces()
        assert self.sqlite.traces(1) == self.memory.traces(1)
        for summary in self.memory.traces():
            read = [each.get_trace(summary.trace_id) for each in (self.memory, self.sqlite)]
            assert list(map(seen, read[0])) == list(map(seen, read[1]))
            assert self.sqlite.find(summary.trace_id[:3]) == self.memory.find(summary.trace_id[:3])


TestStores = pytest.mark.once(Stores.TestCase)
TestStores.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
