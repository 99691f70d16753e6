"""The text index of a SQLite store: made by the first search, brought up to date by each later one.

Idea: a conversation repeats its strings call after call, so each distinct string is one document of an FTS5 table that
keeps no text, and ``text_spans`` says which spans hold it. A string that is known costs a row there and no indexing.
What is still to do is kept as ranges of span ids: the first search puts down all of them, and from then on each batch
adds those of its spans that ended; that is all the recorder ever does for it.

Invariant: only spans that have ended are indexed, for they no longer change; those that have not are looked at one by
one. Indexing goes on in small transactions, and where several processes do it, or one dies in the middle, the result is
the same. Where there is no FTS5, or the file cannot be written now, a search finds the same spans by reading them all.

Refused: indexing when spans are stored (it takes several times as long as storing them); one document a span (a history
would be indexed at every call).
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from clearstone.errors import StoreError
from clearstone.store import reading, schema, texts
from clearstone.store.payloads import PayloadReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from clearstone.store.batch import Batch
    from clearstone.store.database import Database
    from clearstone.store.reading import Hits
    from clearstone.store.texts import Term

SPANS_AT_ONCE = 200
MOST_CHARACTERS = 4 << 20
"""Of one transaction, about."""

GAP = 64
"""Ids that lie closer together than this are one range: a process counts its spans."""

_FIRST, _LAST = -(1 << 63), (1 << 63) - 1
_Range = tuple[int, int, int]
_Texts = dict[int, dict[bytes, str]]


# --- the recorder's part ---------------------------------------------------------------------------------------------


def note(db: sqlite3.Connection, batch: Batch) -> None:
    """Put down which spans of a batch are to be indexed, if there is an index.

    Args:
        db: in the transaction that stores the batch.
        batch: what it stores.
    """
    if not is_there(db):
        return
    ended = [row.span_id for row in batch.spans if row.end_ns is not None]
    touched = {*ended, *(row.span_id for row in batch.ends), *(row.span_id for row in batch.chunks)}
    for first, last in _ranges(sorted(touched)):
        db.execute("INSERT INTO unindexed (first, last) VALUES (?, ?)", (first, last))


def _ranges(ids: Iterable[int]) -> list[list[int]]:
    found: list[list[int]] = []
    for number in ids:
        if found and number - found[-1][1] <= GAP:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found


def is_there(db: sqlite3.Connection) -> bool:
    """Whether a search has made the index."""
    return db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'text_words'").fetchone() is not None


# --- searching -------------------------------------------------------------------------------------------------------


class TextIndex:
    """Brings the index up to date and asks it.

    Args:
        database: the file.
        folder: where blob files are.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder

    def hits(self, wanted: Sequence[Term]) -> Hits | None:
        """Return a SELECT of the ids of the spans to look at.

        Args:
            wanted: the terms to be found; one at least.

        Returns:
            SQL and its values: every span that has ended and holds the words of each term in one string, and every
            span that has not ended. None where there is no index to ask: all spans are to be looked at.
        """
        try:
            self._bring_up_to_date()
        except StoreError:  # read-only, locked, full or without FTS5
            return None
        each = "SELECT span_id FROM text_spans WHERE text IN (SELECT rowid FROM text_words WHERE text_words MATCH ?)"
        ended = " INTERSECT ".join(each for _ in wanted)
        return f"{ended} {_NOT_ENDED}", [_asked(term) for term in wanted]

    def _bring_up_to_date(self) -> None:
        with self._database.reading() as db:
            made = is_there(db)
        if not made:
            self._make()
        with self._database.reading() as db:
            (until,) = db.execute("SELECT max(id) FROM unindexed").fetchone()
        while until is not None and self._index_some(until):
            pass

    def _make(self) -> None:
        with self._database.writing() as db:
            if not is_there(db):  # another process may have been faster
                db.execute(schema.TEXT_INDEX)
                db.execute("INSERT INTO unindexed (first, last) VALUES (?, ?)", (_FIRST, _LAST))

    def _index_some(self, until: int) -> bool:
        """Index a few spans; return whether there may be more among the ranges up to the id `until`."""
        with self._database.apart() as db:
            found = db.execute("SELECT id, first, last FROM unindexed WHERE id <= ? ORDER BY id", (until,)).fetchone()
            if found is None:
                return False
            of_spans, done = self._read(db, found)
        with self._database.writing() as db:
            if _cut(db, found, done):  # else another process has done it
                _add(db, of_spans)
        return True

    def _read(self, db: sqlite3.Connection, part: _Range) -> tuple[_Texts, int]:
        """Return the strings of the first spans of a range, and up to which id."""
        _, first, last = part
        reader = PayloadReader(db, self._folder)
        of_spans: _Texts = {}
        size, done = 0, last
        found = db.execute(f"{schema.READ_SPANS} {_ENDED}", (first, last))
        for number, row in enumerate(found):
            of_spans[row[0]] = _distinct(texts.texts(reading.searchable(db, reader, row)))
            size += sum(map(len, of_spans[row[0]].values()))
            if number + 1 == SPANS_AT_ONCE or size > MOST_CHARACTERS:
                done = row[0]
                break
        return of_spans, done


_NOT_ENDED = "UNION SELECT span_id FROM spans WHERE end_ns IS NULL"
_ENDED = "WHERE s.span_id BETWEEN ? AND ? AND s.end_ns IS NOT NULL ORDER BY s.span_id"


def _asked(term: Term) -> str:
    return " ".join(f'"{word}"' for word in term)


def _distinct(found: Iterable[str]) -> dict[bytes, str]:
    return {_digest(text): text for text in set(found)}


def _digest(text: str) -> bytes:
    import hashlib

    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _cut(db: sqlite3.Connection, part: _Range, done: int) -> bool:
    """Take what was read off its range; False where somebody else has."""
    number, first, last = part
    if done >= last:
        found = db.execute("DELETE FROM unindexed WHERE id = ? AND first = ?", (number, first))
    else:
        found = db.execute("UPDATE unindexed SET first = ? WHERE id = ? AND first = ?", (done + 1, number, first))
    return found.rowcount == 1


def _add(db: sqlite3.Connection, of_spans: _Texts) -> None:
    known: dict[bytes, int] = {}
    for span_id, found in of_spans.items():
        if db.execute("SELECT 1 FROM spans WHERE span_id = ?", (span_id,)).fetchone():  # else it was erased meanwhile
            pairs = [(_text(db, known, digest, text), span_id) for digest, text in found.items()]
            db.executemany("INSERT OR IGNORE INTO text_spans (text, span_id) VALUES (?, ?)", pairs)


def _text(db: sqlite3.Connection, known: dict[bytes, int], digest: bytes, text: str) -> int:
    number = known.get(digest)
    if number is None:
        found = db.execute("SELECT id FROM texts WHERE digest = ?", (digest,)).fetchone()
        number = known[digest] = int(found[0]) if found else _add_text(db, digest, text)
    return number


def _add_text(db: sqlite3.Connection, digest: bytes, text: str) -> int:
    number = db.execute("INSERT INTO texts (digest) VALUES (?)", (digest,)).lastrowid
    assert number is not None  # noqa: S101 - it was an INSERT
    db.execute("INSERT INTO text_words (rowid, words) VALUES (?, ?)", (number, " ".join(texts.words(text))))
    return number


# --- erasing ---------------------------------------------------------------------------------------------------------


def forget(db: sqlite3.Connection, reader: PayloadReader, doomed: str) -> None:
    """Take spans out of the index, and every string that no other span holds.

    The index keeps no text, so a string must be given to it once more to be taken out. Where that cannot be done (a
    damaged payload), the index is emptied; the next search makes it anew.

    Args:
        db: in a transaction, before the spans are deleted.
        reader: of the same connection.
        doomed: SQL of the ids of the spans.
    """
    if not is_there(db):
        return
    db.execute("CREATE TEMP TABLE doomed_texts (digest BLOB PRIMARY KEY, text TEXT)")
    for row in db.execute(f"{schema.READ_SPANS} WHERE s.span_id IN ({doomed})"):
        found = _distinct(texts.texts(reading.searchable(db, reader, row)))
        db.executemany("INSERT OR IGNORE INTO doomed_texts VALUES (?, ?)", _encodable(found))
    db.execute(f"DELETE FROM text_spans WHERE span_id IN ({doomed})")  # noqa: S608 - ours
    if all(_take_out(db, *each) for each in db.execute(_HELD_BY_NONE).fetchall()):
        db.execute("INSERT INTO text_words (text_words) VALUES ('optimize')")  # until then it only hides the words
    else:
        empty(db)
    db.execute("DROP TABLE doomed_texts")


_HELD_BY_NONE = """
SELECT texts.id, doomed_texts.rowid FROM texts LEFT JOIN doomed_texts USING (digest)
WHERE texts.id NOT IN (SELECT text FROM text_spans)
"""


def _encodable(found: dict[bytes, str]) -> Iterator[tuple[bytes, str]]:
    """Half a surrogate pair is no UTF-8; it is in no word either."""
    return ((digest, text.encode("utf-8", "replace").decode("utf-8")) for digest, text in found.items())


def _take_out(db: sqlite3.Connection, number: int, doomed: int | None) -> bool:
    if doomed is None:
        return False
    (text,) = db.execute("SELECT text FROM doomed_texts WHERE rowid = ?", (doomed,)).fetchone()
    db.execute("INSERT INTO text_words (text_words, rowid, words) VALUES ('delete', ?, ?)",
               (number, " ".join(texts.words(text))))  # fmt: skip
    db.execute("DELETE FROM texts WHERE id = ?", (number,))
    return True


def empty(db: sqlite3.Connection) -> None:
    """Undo the index: the next search makes it anew."""
    db.execute("DROP TABLE IF EXISTS text_words")
    for table in ("texts", "text_spans", "unindexed"):
        db.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
