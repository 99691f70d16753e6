"""From each version of the schema to the next, so that a database of an older Clearstone is read like a new one.

Idea: `MIGRATIONS[n]` takes a database of version n to version n + 1, inside the transaction that opening it holds.

Invariant: a database is migrated whole or not at all.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from clearstone.codec.keys import nobodys
from clearstone.span import CODECS
from clearstone.store import schema

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

_SIGNED = struct.Struct(">q")


def create(db: sqlite3.Connection) -> None:
    """Make the tables of `schema.VERSION` in an empty database."""
    for statement in schema.statements():
        db.execute(statement)


def migrate(db: sqlite3.Connection, version: int) -> None:
    """Take a database of `version` to `schema.VERSION`."""
    for number in range(version, schema.VERSION):
        MIGRATIONS[number](db)


def _from_1(db: sqlite3.Connection) -> None:
    """Version 1 had text ids, a payload row for each role of each span, and neither processes nor sites.

    Nobody can end its open spans any more: they are interrupted. Nor does anything prove who wrote it: its payloads get
    names that prove nothing.
    """
    db.create_function("span_number", 1, _span_number, deterministic=True)
    db.create_function("trace_bytes", 1, bytes.fromhex, deterministic=True)
    db.create_function("inlined", 2, _inlined, deterministic=True)
    for index in ("spans_by_trace", "roots_by_time"):
        db.execute(f"DROP INDEX {index}")
    db.execute("ALTER TABLE spans RENAME TO old_spans")
    db.execute("ALTER TABLE payloads RENAME TO old_payloads")
    create(db)
    db.execute(schema.ADD_PROCESS, ("", 0, "", "", 0))
    for statement in _COPIES_1:
        db.execute(statement)
    db.execute("DROP TABLE old_spans")
    db.execute("DROP TABLE old_payloads")


_PAYLOAD_1 = "(SELECT inlined(codec, data) FROM old_payloads AS p WHERE p.span_id = o.span_id AND p.role = '{role}')"

_COPIES_1 = (
    """
    INSERT OR IGNORE INTO sites (key, name, span_type, replay, kind, tracer_name, tracer_version, called_at)
    SELECT site, name, span_type, replay, kind, tracer_name, tracer_version, '' FROM old_spans
    """,
    f"""
    INSERT INTO spans
    SELECT span_number(o.span_id), trace_bytes(o.trace_id), span_number(o.parent_id),
           (SELECT id FROM processes), t.id, o.parent_id IS NULL, o.start_ns, o.start_order, NULL, o.end_ns, o.status,
           o.status_text, o.outcome, o.complete, nullif(o.attributes, '{{}}'), nullif(o.events, '[]'), o.error_type,
           o.error_message, o.error_traceback, o.error_raised_at,
           {_PAYLOAD_1.format(role="input")}, {_PAYLOAD_1.format(role="output")}, {_PAYLOAD_1.format(role="error")},
           NULL, o.end_ns IS NULL
    FROM old_spans AS o JOIN sites AS t
      ON t.key = o.site AND t.name = o.name AND t.span_type = o.span_type AND t.replay = o.replay AND t.kind = o.kind
     AND t.tracer_name = o.tracer_name AND t.tracer_version = o.tracer_version
    """,  # noqa: S608 - constants
    """
    INSERT INTO chunks SELECT span_number(span_id), number, at_ns, inlined(codec, data)
    FROM old_payloads WHERE role = 'chunk'
    """,
)


def _span_number(text: str | None) -> int | None:
    return _SIGNED.unpack(bytes.fromhex(text))[0] if text is not None else None


def _inlined(codec: str, data: bytes) -> bytes:
    form = CODECS.index(codec)
    return nobodys().name(form, data) + bytes((form,)) + data


def _from_2(db: sqlite3.Connection) -> None:
    """Version 2 did not know where calls were made. What comes from version 1 has today's tables already."""
    if any(name == "called_at" for _, name, *_ in db.execute("PRAGMA table_info(sites)")):
        return
    db.execute("ALTER TABLE sites RENAME TO old_sites")
    db.execute(next(each for each in schema.statements() if each.startswith("CREATE TABLE sites ")))
    db.execute("INSERT INTO sites SELECT *, '' FROM old_sites")
    db.execute("DROP TABLE old_sites")


MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {1: _from_1, 2: _from_2}
