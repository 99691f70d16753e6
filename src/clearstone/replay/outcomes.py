"""Recorded outcomes as answers: the value, the exception or the stream that a span holds."""

from __future__ import annotations

from asyncio import CancelledError
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from clearstone.codec import payload
from clearstone.codec.exceptions import load_exception, type_name
from clearstone.run import AWAITED, ITSELF, STREAM, Answer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from clearstone.run import StreamKind
    from clearstone.span import Outcome, Span, Trace

_CANCELLED = type_name(CancelledError)

NOTHING: Mapping[str, Any] = MappingProxyType({})


def answer(outcome: Outcome, attributes: Mapping[str, Any] = NOTHING) -> Answer:
    """Return fresh copies of what a call gave.

    Args:
        outcome: the recorded outcome.
        attributes: its span's; they say in what an outcome was wrapped.

    Raises:
        UnservableOutcome: a value was not recorded, or does not load today.
    """
    if not attributes and outcome.kind == "returned" and outcome.value is not None:  # nearly every call
        return Answer(payload.load(outcome.value))
    value = payload.load(outcome.value) if outcome.value is not None else None
    error = load_exception(outcome.failure) if outcome.failure is not None else None
    chunks = [payload.load(chunk.value) for chunk in outcome.chunks] if outcome.kind == "streamed" else None
    stream: StreamKind = "async iterator" if attributes.get(STREAM) == "async iterator" else "iterator"
    return Answer(value, error, chunks, outcome.complete, stream, bool(attributes.get(AWAITED)))


def has_an_end(span: Span) -> bool:
    """Whether a call ended by itself; False where it had not ended, and where others cancelled it."""
    failure = span.outcome.failure if span.outcome is not None else None
    is_cancelled = failure is not None and failure.type_name == _CANCELLED and not span.attributes.get(ITSELF)
    return span.outcome is not None and not is_cancelled


def of_type(trace: Trace, span_type: str) -> list[Span]:
    """Return the spans of a type that hold an outcome, in the order they started."""
    return [span for span in trace if span.span_type == span_type and span.outcome is not None]


def outermost_served(trace: Trace) -> Iterator[Span]:
    """Yield the served calls a replay reaches: those not made inside another served call."""
    by_id: dict[str | None, Span] = {span.span_id: span for span in trace}
    for span in trace:
        if span.replay == "serve" and not any(above.replay == "serve" for above in _ancestors(span, by_id)):
            yield span


def _ancestors(span: Span, by_id: dict[str | None, Span]) -> Iterator[Span]:
    above = by_id.get(span.parent_id)
    while above is not None:
        yield above
        above = by_id.get(above.parent_id)
