"""The spans in a checkpoint say where their calls were made; those that an earlier version wrote are read without."""

from __future__ import annotations

import json

from clearstone.checkpoint import spans
from clearstone.span import Span, Trace
from clearstone.store.batch import SiteRow

TRACE = Trace(
    "7" * 32,
    tuple(
        Span("7" * 32, f"{number:016x}", None, "ask", number, number + 1, order=number, called_at=line)
        for number, line in enumerate(["agent.py:3", "", "agent.py:9", "agent.py:3"])
    ),
)


def test_each_call_comes_back_with_its_place() -> None:
    assert spans.unpack(TRACE.trace_id, *spans.pack(TRACE)) == TRACE


def test_a_place_stands_there_once() -> None:
    table, _ = spans.pack(TRACE)
    assert json.loads(table)["called_at"] == ["agent.py:3", "", "agent.py:9"]


def test_an_earlier_version_reads_the_sites_and_is_read() -> None:
    table, payloads = spans.pack(TRACE)
    held = json.loads(table)
    del held["called_at"]
    assert {len(site) for site in held["sites"]} == {len(SiteRow._fields) - 1}
    found = spans.unpack(TRACE.trace_id, json.dumps(held).encode(), payloads)
    assert [(span.span_id, span.called_at) for span in found] == [(span.span_id, "") for span in TRACE]
