"""docs/schema.md: the tables as their comments describe them.

``python -m clearstone.store.schema_page`` prints it; ``make schema`` writes it, and a test compares the two.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from clearstone.store import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = re.compile(r"CREATE (?:VIRTUAL )?TABLE (\w+)[^-]*(?:--\s*(.*))?$")
_COLUMN = re.compile(r"    (\w+),?\s*([^-,]*?),?\s*(?:--\s*(.*))?$")
_INDEX = re.compile(r"CREATE INDEX (\w+) ON (\w+) \((.*)\)(?: WHERE (.*))?;")
_CONSTRAINTS = ("UNIQUE", "PRIMARY", "content")


def page() -> str:
    """Return the document."""
    return "\n".join([_introduction(), *_sections()])


def _introduction() -> str:
    return f"""# The trace database

This page is generated from `clearstone/store/schema.py` by `make schema`.

A trace database is one SQLite file (`traces.db`), with its log (`traces.db-wal`) while it is in use, the journals of
processes that record into it (`traces.db.journal/`), and a file for each payload too large for a database
(`traces.db.blobs/`). `PRAGMA application_id` is `{schema.APPLICATION_ID:#x}` ("CLST"), `PRAGMA user_version` is the
schema's version: **{schema.VERSION}**. An older database is brought up to date when it is opened, a newer one refused.

The schema is an implementation detail: it changes with its version. `clearstone export` gives what stays.

A column said to be a *payload* holds NULL (there is none), a BLOB (a small payload itself: 16 bytes of name, one of
form, its bytes), or an INTEGER (the `id` of a row of `payloads`). The form is a codec (0 pickle, 1 cloudpickle, 2 a
stand-in, as JSON) with flags: 0x10 buffers out of band, 0x20 redacted, 0x40 the bytes are the name of a file. Never
unpickle a payload of a database you do not trust: `clearstone show` looks without loading.
"""


def _sections() -> Iterator[str]:
    for statement in [*schema.statements(), schema.TEXT_INDEX.strip()]:
        if "TABLE" in statement.partition("(")[0]:
            yield from _table(statement)
            indexes = [_index(each) for each in _INDEX.finditer(schema.TABLES) if each[2] == _name(statement)]
            yield from ["Indexes:", "", *indexes, ""] if indexes else []


def _name(statement: str) -> str:
    found = _HEAD.match(statement.splitlines()[0])
    assert found is not None  # noqa: S101 - ours
    return found[1]


def _table(statement: str) -> Iterator[str]:
    head, *lines = statement.splitlines()
    comment = head.partition("--")[2].strip()
    yield f"## {_name(statement)}\n"
    yield f"{comment[:1].upper()}{comment[1:]}.\n"
    yield "| column | type | |"
    yield "|---|---|---|"
    for line in lines:
        found = _COLUMN.match(line)
        if found is not None and found[1] not in _CONSTRAINTS:
            yield f"| `{found[1]}` | {found[2].strip()} | {_cell(found[3] or '')} |"
    yield ""


def _cell(comment: str) -> str:
    return comment.replace("|", r"\|")


def _index(found: re.Match[str]) -> str:
    condition = f", where `{found[4]}`" if found[4] else ""
    return f"- `{found[1]}` on `{found[3]}`{condition}"


if __name__ == "__main__":
    sys.stdout.write(page())
