"""What ``clearstone show`` marks in the calls of a trace."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clearstone.cli import spans, values
from clearstone.span import Chunk, Failure, Outcome, Payload, Span, Status, StatusCode, Trace

if TYPE_CHECKING:
    import pytest

STAND_IN = Payload("stand-in", b'{"type": "app.Lock", "repr": "<lock>", "reason": "TypeError: no"}')


def stored(value: Any, **fields: Any) -> Payload:
    return Payload("pickle", pickle.dumps(value, 5), **fields)


def a_span(**fields: Any) -> Span:
    made = {"name": "Agent.ask", "start_ns": 10**18, "end_ns": 10**18 + 5_000_000, **fields}
    return Span(trace_id="7" * 32, span_id="5" * 16, parent_id=None, **made)


def shown(capsys: pytest.CaptureFixture[str], **fields: Any) -> str:
    spans.trace_tree(Trace("7" * 32, (a_span(**fields),)))
    return capsys.readouterr().out


def test_a_value_that_was_not_recorded_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, input=STAND_IN, outcome=Outcome("returned", STAND_IN))
    assert text.count("<not recorded: <lock> of type app.Lock, TypeError: no>") == 2


def test_redacted_values_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    hidden = stored((("key ***",), {}), redacted=True)
    failure = Failure("app.Denied", "no", "", "", stored("no", redacted=True))
    assert "'key ***' <redacted>" in shown(capsys, input=hidden)
    assert "raised app.Denied: no <redacted>" in shown(capsys, outcome=Outcome("raised", failure=failure))
    assert "1 chunk(s) <redacted>" in shown(capsys, outcome=Outcome("streamed", chunks=(Chunk(1, hidden),)))
    told = spans.span_json(a_span(input=hidden, outcome=Outcome("streamed", None, failure, (Chunk(1, hidden),))))
    assert told["redacted"] == ["input", "error", "chunks/0"]


def test_large_values_tell_their_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert "<9.0 MB>" in shown(capsys, outcome=Outcome("returned", stored(bytes(9 << 20))))


def test_an_interrupted_span_is_marked_and_an_open_one_is_open(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Agent.ask interrupted" in shown(capsys, end_ns=None, interrupted=True)
    assert "Agent.ask open" in shown(capsys, end_ns=None)


def test_a_cancelled_call_did_not_fail(capsys: pytest.CaptureFixture[str]) -> None:
    failure = Failure("asyncio.exceptions.CancelledError", "", "", "", stored("E"))
    outcome = Outcome("raised", failure=failure)
    text = shown(capsys, status=Status(StatusCode.ERROR), outcome=outcome)
    assert "→ cancelled" in text or "-> cancelled" in text
    assert "raised" not in text
    assert spans.span_json(a_span(outcome=outcome))["outcome"]["error"]["cancelled"] is True


def test_the_object_a_method_was_called_on_is_told_where_there_are_several(capsys: pytest.CaptureFixture[str]) -> None:
    both = [replace(a_span(instance=f"app:Agent#{n}"), span_id=f"{n:016x}") for n in (3, 4)]
    spans.trace_tree(Trace("7" * 32, (*both, a_span(instance="app:Model#1"), a_span())))
    told = capsys.readouterr().out
    assert "on Agent#3" in told
    assert "on Agent#4" in told
    assert told.count(" on ") == 2
    assert spans.span_json(a_span(instance="app:Agent#3"))["instance"] == "app:Agent#3"
    assert spans.span_json(a_span())["instance"] is None


EFFECTS = {
    "set": {"count": 2},
    "deleted": ["draft"],
    "extended": {"notes": ["new"]},
    "added": {"seen": {"a": 1}},
    "contents": {"open": []},
    "arguments": (([1, 2],), {}),
    "ambiguous": True,
}


def test_what_a_call_did_to_its_object_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, outcome=Outcome("returned", stored(None), effects=stored(EFFECTS)))
    for line in (
        "self.count = 2",
        "del self.draft",
        "self.notes += ['new']",
        "self.seen |= {'a': 1}",
        "self.open[:] = []",
        "arguments afterwards: (([1, 2],), {})",
        "another call was at work on the same object",
    ):
        assert line in text
    told = values.outcome_json(Outcome("returned", effects=stored(EFFECTS)))
    assert told is not None
    assert told["effects"]["set"] == {"count": 2}


def test_effects_that_are_none_of_ours_are_shown_and_break_nothing() -> None:
    for odd in (stored([1]), stored({"set": 5, "deleted": "x"}), STAND_IN, Payload("pickle", b"no pickle")):
        assert all(isinstance(line, str) for line in values.effects_lines(odd))
    assert "not recorded" in values.effects_lines(STAND_IN)[0]


def test_an_excerpt_shows_the_text_around_the_word() -> None:
    span = a_span(input=stored("a" * 200 + " the Refund was paid " + "b" * 200))
    assert "the Refund was paid" in values.excerpt(span, [("refund",)], 70)
    assert values.excerpt(span, [("absent",)], 70) == ""
