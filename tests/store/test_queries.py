"""What every trace store promises of what it is asked, and of what it is told to erase."""

from __future__ import annotations

import itertools
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from clearstone.errors import TraceNotFoundError
from clearstone.span import Chunk, Event, Failure, Outcome, Payload, Span, Status, StatusCode
from clearstone.store.base import SpanQuery
from clearstone.store.rows import batch_of

if TYPE_CHECKING:
    from clearstone.store.base import TraceStore

_numbers = itertools.count(1)
ONE, TWO, THREE = (str(n) * 32 for n in (1, 2, 3))


def stored(value: Any) -> Payload:
    return Payload("pickle", pickle.dumps(value, 5))


def a_span(name: str, start_ns: int = 1_000, *, trace_id: str = ONE, **fields: Any) -> Span:
    number = next(_numbers)
    made = {"span_id": f"{number:016x}", "parent_id": None, "end_ns": start_ns + 10, "order": number, **fields}
    return Span(trace_id=trace_id, name=name, start_ns=start_ns, **made)


def names(store: TraceStore, **conditions: Any) -> list[str]:
    return [span.name for span in store.spans(SpanQuery(**conditions))]


@pytest.fixture
def filled(store: TraceStore) -> TraceStore:
    failure = Failure("app.Denied", "no refund today", "", "", stored({"code": "E17"}))
    error, ok = Status(StatusCode.ERROR, "app.Denied: no refund today"), Status(StatusCode.OK)
    store.apply(batch_of([
        a_span("agent", 10, status=error, outcome=Outcome("raised", failure=failure)),
        a_span("ask", 20, span_type="llm", status=ok, parent_id="f" * 16, input=stored((("Where is my order?",), {}))),
        a_span("think", 30, trace_id=TWO, span_type="llm", end_ns=None, input=stored("order of the day")),
        a_span("tool", 40, trace_id=TWO, span_type="tool", attributes={"user_id": "ada_7", "tags": ["Größe"]},
               events=(Event("retried", 41, {"why": "timeout reached"}),)),
        a_span("talk", 50, trace_id=THREE, outcome=Outcome("streamed", stored("fin"), chunks=tuple(
            Chunk(n, stored(part)) for n, part in enumerate(["Hel", "lo wor", "ld, ", {"delta": "object"}, "ok"])))),
        a_span("cjk", 60, trace_id=THREE, input=stored("請求退款的訂單")),
    ]))  # fmt: skip
    return store


# --- metadata --------------------------------------------------------------------------------------------------------


def test_all_spans_come_in_the_order_they_started(filled: TraceStore) -> None:
    assert names(filled) == ["agent", "ask", "think", "tool", "talk", "cjk"]
    assert names(filled, newest_first=True) == ["cjk", "talk", "tool", "think", "ask", "agent"]


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ({"trace_id": TWO}, ["think", "tool"]),
        ({"trace_id": "no id"}, []),
        ({"name": "ask"}, ["ask"]),
        ({"name": "as"}, []),
        ({"span_type": "llm"}, ["ask", "think"]),
        ({"span_type": ""}, ["agent", "talk", "cjk"]),
        ({"status": StatusCode.ERROR}, ["agent"]),
        ({"status": StatusCode.OK, "span_type": "llm"}, ["ask"]),
        ({"since_ns": 40}, ["tool", "talk", "cjk"]),
        ({"until_ns": 20}, ["agent"]),
        ({"since_ns": 20, "until_ns": 40, "newest_first": True}, ["think", "ask"]),
        ({"since_ns": -(10**30), "until_ns": 10**30, "limit": 1}, ["agent"]),
        ({"limit": 2}, ["agent", "ask"]),
        ({"limit": 0}, []),
        ({"limit": 2, "newest_first": True}, ["cjk", "talk"]),
        ({"interrupted": True}, ["think"]),
        ({"interrupted": False, "span_type": "llm"}, ["ask"]),
    ],
)
def test_conditions_choose_spans(filled: TraceStore, conditions: dict[str, Any], found: list[str]) -> None:
    filled.interrupt("")
    assert names(filled, **conditions) == found


def test_without_payloads_a_span_tells_what_happened_but_not_with_which_values(filled: TraceStore) -> None:
    agent, ask, *_ = filled.spans()
    assert ask.input is None
    assert agent.outcome is not None
    assert agent.outcome.failure is not None
    assert (agent.outcome.kind, agent.outcome.failure.type_name) == ("raised", "app.Denied")
    assert agent.outcome.failure.message == "no refund today"
    assert b"read without payloads" in agent.outcome.failure.value.data


def test_with_payloads_spans_are_those_of_their_traces(filled: TraceStore) -> None:
    assert tuple(filled.spans(SpanQuery(trace_id=THREE), payloads=True)) == filled.get_trace(THREE).spans
    assert tuple(filled.spans(SpanQuery(text="object"), payloads=True)) == filled.get_trace(THREE).spans[:1]


def test_an_iterator_shows_the_store_as_it_was_and_holds_nobody_up(filled: TraceStore) -> None:
    spans = filled.spans()
    assert next(spans).name == "agent"
    filled.apply(batch_of([a_span("new", 70)]))
    filled.forget(TWO)
    assert [span.name for span in spans] == ["ask", "think", "tool", "talk", "cjk"]
    assert names(filled) == ["agent", "ask", "talk", "cjk", "new"]


def test_an_iterator_may_be_left_early(filled: TraceStore) -> None:
    spans = filled.spans(SpanQuery(text="order"), payloads=True)
    next(spans)
    spans.close()
    assert list(spans) == []


# --- text ------------------------------------------------------------------------------------------------------------

SEARCHES = [
    ("order", ["ask", "think"]),
    ("ORDER", ["ask", "think"]),
    ("where order", ["ask"]),
    ("order where", ["ask"]),
    ('"my order"', ["ask"]),
    ('"order my"', []),
    ('"order of" day', ["think"]),
    ("refund", ["agent"]),
    ("Denied E17", ["agent"]),
    ("app.Denied", ["agent"]),
    ("ord", []),
    ("user_id", ["tool"]),
    ("ada_7", ["tool"]),
    ("größe", ["tool"]),
    ("GRÖSSE", ["tool"]),
    ("timeout retried", ["tool"]),
    ("hello world", ["talk"]),
    ('"hello world"', ["talk"]),
    ("object", ["talk"]),
    ("fin", ["talk"]),
    ("退款", ["cjk"]),
    ("款退", []),
    ("refund order", []),
    ("delta", ["talk"]),
    ("n", []),
    ("", ["agent", "ask", "think", "tool", "talk", "cjk"]),
]
HOSTILE = ['"', '""', "*", "ord*", "order*", "NEAR(a b)", "words:order", "-order", "order OR", "(", "^order", "'", "%",
           "\0", "\ud800", "order AND order", 'or"der', "; DROP TABLE spans", "!!!", "  "]  # fmt: skip


@pytest.mark.parametrize(("text", "found"), SEARCHES)
def test_text_finds_spans_by_their_words(filled: TraceStore, text: str, found: list[str]) -> None:
    assert names(filled, text=text) == found
    assert names(filled, text=text, newest_first=True) == found[::-1]
    assert names(filled, text=text, limit=1) == found[:1]
    assert names(filled, text=text, trace_id=ONE) == [name for name in found if name in {"agent", "ask"}]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_is_a_syntax_error(filled: TraceStore, text: str) -> None:
    assert set(names(filled, text=text)) <= {"ask", "think"}


def test_what_ends_or_comes_after_a_search_is_found_by_the_next(filled: TraceStore) -> None:
    assert names(filled, text="later") == []
    (opened,) = filled.spans(SpanQuery(interrupted=False, trace_id=TWO, span_type="llm"), payloads=True)
    filled.apply(batch_of([Span(**{**fields(opened), "end_ns": 99, "attributes": {"note": "later than that"}})]))
    filled.apply(batch_of([a_span("new", 70, input=stored(["sooner or later"]))]))
    assert names(filled, text="later") == ["think", "new"]


def fields(span: Span) -> dict[str, Any]:
    return {name: getattr(span, name) for name in span.__slots__}


# --- forgetting ------------------------------------------------------------------------------------------------------


def test_a_forgotten_trace_is_gone_and_the_others_are_as_they_were(filled: TraceStore) -> None:
    filled.tidy(5)
    others = [filled.get_trace(TWO).spans[1:], filled.get_trace(THREE).spans]
    assert names(filled, text="refund") == ["agent"]
    assert filled.forget(ONE).spans == 2
    assert [filled.get_trace(TWO).spans[1:], filled.get_trace(THREE).spans] == others
    assert names(filled) == ["think", "tool", "talk", "cjk"]
    assert names(filled, text="order") == ["think"]
    assert names(filled, text="refund") == []
    with pytest.raises(TraceNotFoundError):
        filled.get_trace(ONE)
    assert {each.trace_id for each in filled.traces()} == {TWO, THREE}


@pytest.mark.parametrize("trace_id", ["9" * 32, "1", "", "no id"])
def test_forgetting_what_is_not_there_is_an_error_and_erases_nothing(filled: TraceStore, trace_id: str) -> None:
    with pytest.raises(TraceNotFoundError):
        filled.forget(trace_id)
    assert len(names(filled)) == 6


def test_a_forgotten_trace_may_be_recorded_again(filled: TraceStore) -> None:
    again = filled.get_trace(ONE).spans
    filled.forget(ONE)
    filled.apply(batch_of(again))
    assert filled.get_trace(ONE).spans == again
    assert names(filled, text="refund") == ["agent"]


# --- collecting ------------------------------------------------------------------------------------------------------


def test_collecting_erases_traces_nothing_of_which_is_newer(filled: TraceStore) -> None:
    assert (filled.collect(21).traces, filled.collect(30).traces) == (0, 0)
    found = filled.collect(31)
    assert (found.traces, found.spans) == (1, 2)
    assert {each.trace_id for each in filled.traces()} == {TWO, THREE}


def test_collecting_may_keep_what_failed_or_was_interrupted(filled: TraceStore) -> None:
    filled.interrupt("")
    assert filled.collect(10**6, keep_failed=True).traces == 1
    assert {each.trace_id for each in filled.traces()} == {ONE, TWO}


@pytest.mark.parametrize("keep_failed", [True, False])
def test_a_dry_run_tells_the_same_and_erases_nothing(filled: TraceStore, *, keep_failed: bool) -> None:
    before = [filled.get_trace(ONE).spans, filled.get_trace(THREE).spans], filled.traces()
    told = filled.collect(100, keep_failed=keep_failed, dry_run=True)
    assert ([filled.get_trace(ONE).spans, filled.get_trace(THREE).spans], filled.traces()) == before
    done = filled.collect(100, keep_failed=keep_failed)
    assert (told.traces, told.spans) == (done.traces, done.spans)
