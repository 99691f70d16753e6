"""What a store takes: rows, batch by batch.

Idea: what a journal holds, nearly as it stands there. A span comes as one row when it started and ended in the same
batch, else as a row without an end and an `EndRow` later.

Refused: spans as frozen values on the way in. Making them costs more than storing their rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class RawPayload(NamedTuple):
    """A serialised value on its way to the store.

    Args:
        form: `span.PICKLE`, `CLOUDPICKLE` or `STAND_IN`, plus the flags `BUFFERS`, `REDACTED` and `BLOB`.
        data: the bytes; with `BUFFERS` packed as `clearstone.codec.buffers` says; with `BLOB` the name of a blob file.
    """

    form: int
    data: bytes


class SiteRow(NamedTuple):
    """What the spans of one site share, those of a served one that are made in one place."""

    key: str
    name: str
    span_type: str
    replay: str
    kind: str
    tracer_name: str
    tracer_version: str
    called_at: str = ""  # "file:line"


class ProcessRow(NamedTuple):
    """A process that recorded. `token` is unique among all processes of all machines; the rest is for people."""

    token: str
    pid: int
    host: str
    boot_id: str
    started_ns: int


class SpanRow(NamedTuple):
    """One span as a row; `end_ns` is None while it is open. Text of JSON columns is None where there is nothing.

    The first part is known at its start, the second (from `end_ns` on) at its end.
    """

    span_id: int  # the 8 bytes as a signed integer
    trace_id: bytes  # 16
    parent_id: int | None
    site: int  # index into `Batch.sites`
    top: int  # 1: no span of this process is above it
    start_ns: int
    start_order: int
    instance: str | None  # the object a method was called on: "module:Class#number"
    end_ns: int | None
    status: str
    status_text: str
    outcome: str | None
    complete: bool
    attributes: str | None  # JSON object
    events: str | None  # JSON array of {name, at_ns, attributes}
    error_type: str | None
    error_message: str | None
    error_traceback: str | None
    error_raised_at: str | None
    input: RawPayload | None
    output: RawPayload | None
    error: RawPayload | None
    effects: RawPayload | None  # what the call did to `self`


class EndRow(NamedTuple):
    """The end of a span whose start was in an earlier batch."""

    span_id: int
    end_ns: int
    status: str
    status_text: str
    outcome: str | None
    complete: bool
    attributes: str | None
    events: str | None
    error_type: str | None
    error_message: str | None
    error_traceback: str | None
    error_raised_at: str | None
    output: RawPayload | None
    error: RawPayload | None = None
    effects: RawPayload | None = None
    input: RawPayload | None = None  # of a hand-written span, which may be given one after its start


class ChunkRow(NamedTuple):
    """One item of a stream."""

    span_id: int
    number: int
    at_ns: int
    value: RawPayload


class Batch(NamedTuple):
    """What one process has to store: the order among the lists is spans, ends, chunks.

    `trusted` is False for what was found and may be anybody's: its payloads get names that prove nothing, so that no
    replay loads them unasked (see `clearstone.codec.keys`).
    """

    process: ProcessRow
    sites: Sequence[SiteRow]
    spans: Sequence[SpanRow] = ()
    ends: Sequence[EndRow] = ()
    chunks: Sequence[ChunkRow] = ()
    trusted: bool = True
