"""The tables of a trace database, and the statements that write and read them.

Idea: metadata and payloads are kept apart, so that listing and searching never read a payload. A payload column of
``spans`` or ``chunks`` holds one of three things: NULL (there is none), a BLOB (a small payload itself: 16 bytes of
name, one of form, its bytes), or an INTEGER (the ``id`` of a row of ``payloads``, which equal payloads share).

Invariant: ``PRAGMA application_id`` says that the file is ours and ``PRAGMA user_version`` which version wrote it. An
older one is migrated step by step (see `clearstone.store.migrations`), a newer one refused, never guessed at.

docs/schema.md is generated from the comments in `TABLES` by ``make schema`` (see `clearstone.store.schema_page`).
"""

from __future__ import annotations

from typing import Any

from clearstone.store.batch import ChunkRow, EndRow, SiteRow, SpanRow

APPLICATION_ID = 0x434C5354
"""``CLST`` in ASCII: what makes a SQLite file a Clearstone trace database."""

VERSION = 3

TABLES = """
CREATE TABLE processes (           -- who recorded
    id         INTEGER PRIMARY KEY,
    token      TEXT NOT NULL UNIQUE,  -- unique among all processes of all machines; a forked child has its own
    pid        INTEGER NOT NULL,      -- for people: another container has the same ones
    host       TEXT NOT NULL,
    boot_id    TEXT NOT NULL,         -- which boot of the machine; '' where that is not known
    started_ns INTEGER NOT NULL       -- when its journal began, nanoseconds since the epoch
);

CREATE TABLE sites (               -- what the spans of one decorated callable share; of a served one, of one place
    id             INTEGER PRIMARY KEY,
    key            TEXT NOT NULL,     -- module:qualname of the callable; '' for a hand-written span
    name           TEXT NOT NULL,     -- the spans' name
    span_type      TEXT NOT NULL,     -- llm, tool, agent, ...; '' for a plain step
    replay         TEXT NOT NULL,     -- serve | run
    kind           TEXT NOT NULL,     -- OpenTelemetry's span kind
    tracer_name    TEXT NOT NULL,
    tracer_version TEXT NOT NULL,
    called_at      TEXT NOT NULL DEFAULT '',  -- file:line of the code that makes the calls; '' where it is not known
    UNIQUE (key, name, span_type, replay, kind, tracer_name, tracer_version, called_at)
);

CREATE TABLE spans (               -- recorded calls
    span_id         INTEGER PRIMARY KEY,  -- the 8 bytes of the id as a signed integer
    trace_id        BLOB NOT NULL,    -- 16 bytes
    parent_id       INTEGER,          -- span_id of the caller, NULL for a root
    process         INTEGER NOT NULL, -- processes.id
    site            INTEGER NOT NULL, -- sites.id
    top             INTEGER NOT NULL, -- 1: no span of its process is above it
    start_ns        INTEGER NOT NULL, -- nanoseconds since the epoch
    start_order     INTEGER NOT NULL, -- counts starts within one process; breaks ties of start_ns
    instance        TEXT,             -- the object a method was called on: module:Class#number
    end_ns          INTEGER,          -- NULL while open, and for ever when interrupted
    status          TEXT NOT NULL,    -- UNSET | OK | ERROR
    status_text     TEXT NOT NULL,
    outcome         TEXT,             -- returned | raised | streamed; NULL: none was recorded
    complete        INTEGER NOT NULL, -- 0: a stream its consumer closed early
    attributes      TEXT,             -- JSON object
    events          TEXT,             -- JSON array of {name, at_ns, attributes}
    error_type      TEXT,             -- of the exception that ended it
    error_message   TEXT,
    error_traceback TEXT,
    error_raised_at TEXT,             -- file:line
    input,                            -- payload: the arguments, as (args, kwargs)
    output,                           -- payload: the returned value; what a generator returned
    error,                            -- payload: the exception as data
    effects,                          -- payload: what the call did to the object it was bound to
    interrupted     INTEGER NOT NULL DEFAULT 0  -- 1: its process died before it ended
);
CREATE INDEX spans_by_trace ON spans (trace_id, start_ns, start_order);
CREATE INDEX spans_by_time ON spans (start_ns);
CREATE INDEX top_spans_by_time ON spans (start_ns) WHERE top;
CREATE INDEX open_spans ON spans (process) WHERE end_ns IS NULL;

CREATE TABLE chunks (              -- the items of streams
    span_id INTEGER NOT NULL,
    number  INTEGER NOT NULL,         -- its position, from 0
    at_ns   INTEGER NOT NULL,         -- when it came
    value,                            -- payload
    PRIMARY KEY (span_id, number)
) WITHOUT ROWID;

CREATE TABLE payloads (            -- payloads of more than a few hundred bytes, each once
    id     INTEGER PRIMARY KEY AUTOINCREMENT,  -- never another's, even after it was erased
    name   BLOB NOT NULL UNIQUE,      -- keyed BLAKE2b of form and bytes, 16 bytes
    form   INTEGER NOT NULL,          -- codec, and flags 0x10 buffers, 0x20 redacted
    size   INTEGER NOT NULL,          -- of its bytes before compression
    packed INTEGER NOT NULL,          -- 0: as it came, in raw_data; 1: zstd, 2: not compressible, in packed_data
    base   INTEGER,                   -- payloads.id that serves zstd as its dictionary; of packed = 0 a proposal
    depth  INTEGER NOT NULL           -- how many bases lie below it
);
CREATE INDEX payloads_by_base ON payloads (base) WHERE base IS NOT NULL;

CREATE TABLE raw_data (            -- bytes that wait for compression; emptied as a whole, so that its pages are free
    id   INTEGER PRIMARY KEY,         -- payloads.id
    data BLOB NOT NULL
);

CREATE TABLE packed_data (         -- bytes that stay
    id   INTEGER PRIMARY KEY,         -- payloads.id
    data BLOB NOT NULL
);

CREATE TABLE texts (               -- distinct strings of spans that ended; empty until the first search for text
    id     INTEGER PRIMARY KEY AUTOINCREMENT,  -- rowid of its words in text_words
    digest BLOB NOT NULL UNIQUE       -- BLAKE2b of the string, 16 bytes
);

CREATE TABLE text_spans (          -- which spans hold which string
    text    INTEGER NOT NULL,         -- texts.id
    span_id INTEGER NOT NULL,
    PRIMARY KEY (text, span_id)
) WITHOUT ROWID;

CREATE TABLE unindexed (           -- ranges of span ids the next search indexes first; empty until the first search
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    first INTEGER NOT NULL,           -- span_id
    last  INTEGER NOT NULL            -- span_id, included
);
"""

TEXT_INDEX = """
CREATE VIRTUAL TABLE text_words USING fts5 (  -- full text index, made by the first search: the words of each string
    words,                            -- as clearstone.store.texts gives them; not kept, only indexed
    content = '', detail = none, columnsize = 0, tokenize = 'ascii'
);
"""

SPAN_COLUMNS = (*SpanRow._fields[:3], "process", *SpanRow._fields[3:])
_AT_END = SpanRow._fields[SpanRow._fields.index("end_ns") :]
PLAIN = ("UNSET", "", "returned", True, None, None, None, None, None, None)
"""What most spans that ended have from ``status`` on up to their payloads; nor have they an error or effects."""

_PLAIN_COLUMNS, _PLAIN_VALUES = ("status", "status_text", "outcome", "complete"), ("'UNSET'", "''", "'returned'", "1")
BLOCKS = (64, 16, 4, 1)
"""Rows of one statement. Each lets other threads run: a busy program gives the turn back after milliseconds."""


def statements() -> list[str]:
    """Return `TABLES` as single statements."""
    return [each.strip() for each in TABLES.split(";\n") if each.strip()]


def _rows(columns: int, rows: int) -> str:
    one = f"({', '.join('?' * columns)})"
    return ", ".join([one] * rows)


def _added(rows: int) -> str:
    return f"INSERT OR IGNORE INTO spans ({', '.join(SPAN_COLUMNS)}) VALUES {_rows(len(SPAN_COLUMNS), rows)}"  # noqa: S608


def _added_plain(rows: int) -> str:
    """Columns that are not bound cost nothing: binding all of them takes twice the time."""
    columns = (*SPAN_COLUMNS[:10], *_PLAIN_COLUMNS, "input", "output")
    values = f"({', '.join('?' * 10)}, {', '.join(_PLAIN_VALUES)}, ?, ?)"
    return f"INSERT OR IGNORE INTO spans ({', '.join(columns)}) VALUES {', '.join([values] * rows)}"  # noqa: S608


def whole(plain: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values of `WRITE_SPANS` for a row of `ADD_PLAIN_SPANS`."""
    return (*plain[:10], *PLAIN, *plain[10:], None, None)


def _written(rows: int) -> str:
    return (
        f"INSERT INTO spans ({', '.join(SPAN_COLUMNS)}) VALUES {_rows(len(SPAN_COLUMNS), rows)} "  # noqa: S608 - constants
        "ON CONFLICT (span_id) DO UPDATE SET interrupted = 0, "
        + ", ".join(f"{column} = excluded.{column}" for column in _AT_END)
        + " WHERE spans.end_ns IS NULL AND excluded.end_ns IS NOT NULL"
    )


def _ended(rows: int) -> str:
    columns = EndRow._fields
    set_all = ", ".join(f"{column} = given.{column}" for column in columns[1:-1])
    return (
        f"WITH given ({', '.join(columns)}) AS (VALUES {_rows(len(columns), rows)}) "  # noqa: S608 - constants
        f"UPDATE spans SET interrupted = 0, {set_all}, input = coalesce(given.input, spans.input) "
        "FROM given WHERE spans.span_id = given.span_id AND spans.end_ns IS NULL"
    )


ADD_SPANS = {rows: _added(rows) for rows in BLOCKS}
ADD_PLAIN_SPANS = {rows: _added_plain(rows) for rows in BLOCKS}
"""Of ended spans whose columns between ``end_ns`` and the payloads are as `PLAIN` says, without error and effects."""

WRITE_SPANS = {rows: _written(rows) for rows in BLOCKS}
"""Where some of the rows were there already: three microseconds a row more."""

WRITE_ENDS = {rows: _ended(rows) for rows in BLOCKS}
WRITE_CHUNKS = {
    rows: f"WITH given ({', '.join(ChunkRow._fields)}) AS (VALUES {_rows(4, rows)}) "  # noqa: S608 - constants
    "INSERT OR IGNORE INTO chunks SELECT * FROM given WHERE span_id IN (SELECT span_id FROM spans)"
    for rows in BLOCKS
}
WRITE_PAYLOADS = {
    rows: f"INSERT INTO payloads (id, name, form, size, packed, base, depth) VALUES {_rows(7, rows)}"  # noqa: S608
    for rows in BLOCKS
}
WRITE_RAW_DATA = {rows: f"INSERT INTO raw_data (id, data) VALUES {_rows(2, rows)}" for rows in BLOCKS}  # noqa: S608

FIND_PROCESS = "SELECT id FROM processes WHERE token = ?"
ADD_PROCESS = "INSERT INTO processes (token, pid, host, boot_id, started_ns) VALUES (?, ?, ?, ?, ?)"
FIND_SITE = f"SELECT id FROM sites WHERE {' AND '.join(f'{column} = ?' for column in SiteRow._fields)}"  # noqa: S608
ADD_SITE = f"INSERT INTO sites ({', '.join(SiteRow._fields)}) VALUES {_rows(len(SiteRow._fields), 1)}"  # noqa: S608

INTERRUPT = """
UPDATE spans SET interrupted = 1
WHERE end_ns IS NULL AND interrupted = 0 AND process = (SELECT id FROM processes WHERE token = ?)
"""

END_NS = SpanRow._fields.index("end_ns")
"""Where it stands in a row that `READ_SPANS` gives."""

_ROW = ", ".join(f"s.{column}" for column in SpanRow._fields)
_SITE = ", ".join(f"t.{column}" for column in SiteRow._fields)

FIRST_FIRST = "ORDER BY s.start_ns, s.start_order, s.span_id"
LAST_FIRST = "ORDER BY s.start_ns DESC, s.start_order DESC, s.span_id DESC"

READ_SPANS = f"SELECT {_ROW}, {_SITE}, s.interrupted FROM spans AS s JOIN sites AS t ON t.id = s.site"  # noqa: S608
"""Conditions and an order follow."""

READ_CHUNKS = "SELECT at_ns, value FROM chunks WHERE span_id = ? ORDER BY number"

READ_NEWEST = """
SELECT s.trace_id FROM spans AS s
WHERE s.top AND s.span_id = (
    SELECT f.span_id FROM spans AS f WHERE f.trace_id = s.trace_id AND f.top
    ORDER BY f.start_ns, f.start_order, f.span_id LIMIT 1
)
ORDER BY s.start_ns DESC, s.trace_id DESC LIMIT ?
"""
"""Trace ids, the newest first: it walks backwards along the top spans, and stops where enough are found."""

READ_TOPLESS = """
WITH RECURSIVE each (trace_id) AS (
    SELECT min(trace_id) FROM spans
    UNION ALL
    SELECT (SELECT min(s.trace_id) FROM spans AS s WHERE s.trace_id > each.trace_id) FROM each
    WHERE each.trace_id IS NOT NULL
)
SELECT trace_id FROM each
WHERE trace_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM spans AS s WHERE s.trace_id = each.trace_id AND s.top)
ORDER BY (SELECT min(s.start_ns) FROM spans AS s WHERE s.trace_id = each.trace_id) DESC, trace_id DESC LIMIT ?
"""
"""Ids of traces of which no top span is stored; it jumps from trace to trace along an index."""

READ_SUMMARY = f"""
SELECT n.name, f.start_ns, t.end_ns, t.spans, t.without_end, t.interrupted, f.status, f.status_text, f.attributes
FROM (
    SELECT max(end_ns) AS end_ns, count(*) AS spans, sum(end_ns IS NULL) AS without_end,
           sum(interrupted) AS interrupted
    FROM spans WHERE trace_id = ?
) AS t, (SELECT * FROM spans AS s WHERE s.trace_id = ? {FIRST_FIRST} LIMIT 1) AS f
JOIN sites AS n ON n.id = f.site
"""  # noqa: S608 - constants

FIND_TRACES = "SELECT DISTINCT trace_id FROM spans WHERE trace_id BETWEEN ? AND ? LIMIT ?"
