"""The tables of a trace database, version 1.

Idea: metadata and payloads are kept apart, so that listing and searching never read a payload. A payload row is one
serialised value of one span: its input, its output, the exception it raised, or one chunk of its stream.

Invariant: ``PRAGMA application_id`` says that the file is ours and ``PRAGMA user_version`` which version wrote it; a
newer one is refused, never guessed at.
"""

from __future__ import annotations

APPLICATION_ID = 0x434C5354
"""``CLST`` in ASCII: what makes a SQLite file a Clearstone trace database."""

VERSION = 1

TABLES = """
CREATE TABLE spans (
    span_id         TEXT PRIMARY KEY,          -- 16 hex digits
    trace_id        TEXT NOT NULL,             -- 32 hex digits
    parent_id       TEXT,                      -- span_id of the caller; NULL for a root
    name            TEXT NOT NULL,
    start_ns        INTEGER NOT NULL,          -- nanoseconds since the epoch
    end_ns          INTEGER,                   -- NULL while open, and for ever when interrupted
    start_order     INTEGER NOT NULL,          -- counts starts within one process; breaks ties of start_ns
    kind            TEXT NOT NULL,             -- OpenTelemetry's span kind
    span_type       TEXT NOT NULL,             -- llm, tool, agent, ...; '' for a plain step
    site            TEXT NOT NULL,             -- module:qualname of the decorated callable; '' for a hand-written span
    replay          TEXT NOT NULL,             -- serve | run
    tracer_name     TEXT NOT NULL,
    tracer_version  TEXT NOT NULL,
    status          TEXT NOT NULL,             -- UNSET | OK | ERROR
    status_text     TEXT NOT NULL,
    attributes      TEXT NOT NULL,             -- JSON object
    events          TEXT NOT NULL,             -- JSON array of {name, at_ns, attributes}
    outcome         TEXT,                      -- returned | raised | streamed; NULL: none was recorded
    complete        INTEGER NOT NULL,          -- 0: a stream its consumer closed early
    error_type      TEXT,                      -- of the exception that ended it
    error_message   TEXT,
    error_traceback TEXT,
    error_raised_at TEXT                       -- file:line
);
CREATE INDEX spans_by_trace ON spans (trace_id, start_ns, start_order);
CREATE INDEX roots_by_time ON spans (start_ns) WHERE parent_id IS NULL;

CREATE TABLE payloads (
    span_id TEXT NOT NULL,
    role    TEXT NOT NULL,                     -- input | output | error | chunk
    number  INTEGER NOT NULL,                  -- position of a chunk; 0 for the others
    at_ns   INTEGER NOT NULL,                  -- when a chunk came; 0 for the others
    codec   TEXT NOT NULL,                     -- pickle | cloudpickle | stand-in
    data    BLOB NOT NULL,
    PRIMARY KEY (span_id, role, number)
) WITHOUT ROWID;
"""

SPAN_COLUMNS = (
    "span_id", "trace_id", "parent_id", "name", "start_ns", "end_ns", "start_order", "kind", "span_type", "site",
    "replay", "tracer_name", "tracer_version", "status", "status_text", "attributes", "events", "outcome", "complete",
    "error_type", "error_message", "error_traceback", "error_raised_at",
)  # fmt: skip

WRITE_SPAN = (
    f"INSERT INTO spans ({', '.join(SPAN_COLUMNS)}) VALUES ({', '.join('?' * len(SPAN_COLUMNS))}) "  # noqa: S608 - constants
    "ON CONFLICT (span_id) DO UPDATE SET "
    + ", ".join(f"{column} = excluded.{column}" for column in SPAN_COLUMNS[1:])
    + " WHERE spans.end_ns IS NULL"
)

REMOVE_PAYLOADS = "DELETE FROM payloads WHERE span_id = ?"

WRITE_PAYLOAD = "INSERT INTO payloads (span_id, role, number, at_ns, codec, data) VALUES (?, ?, ?, ?, ?, ?)"

READ_SPANS = f"SELECT {', '.join(SPAN_COLUMNS)} FROM spans WHERE trace_id = ? ORDER BY start_ns, start_order"  # noqa: S608

READ_PAYLOADS = """
SELECT p.span_id, p.role, p.number, p.at_ns, p.codec, p.data
FROM payloads AS p JOIN spans AS s ON s.span_id = p.span_id
WHERE s.trace_id = ? ORDER BY p.span_id, p.role, p.number
"""

READ_SUMMARIES = """
SELECT t.trace_id, f.name, t.start_ns, t.end_ns, t.spans, t.open_spans, f.status, f.status_text
FROM (
    SELECT trace_id, min(start_ns) AS start_ns, max(end_ns) AS end_ns, count(*) AS spans,
           sum(end_ns IS NULL) AS open_spans
    FROM spans GROUP BY trace_id ORDER BY 2 DESC, 1 DESC LIMIT ?
) AS t
JOIN spans AS f ON f.span_id = (
    SELECT span_id FROM spans WHERE trace_id = t.trace_id ORDER BY start_ns, start_order LIMIT 1
)
ORDER BY t.start_ns DESC, t.trace_id DESC
"""

READ_IDS = "SELECT trace_id FROM spans GROUP BY trace_id ORDER BY min(start_ns) DESC, trace_id DESC"
