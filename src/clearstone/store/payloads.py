"""The payloads of a SQLite store: small ones beside their span, large ones once, compressed when there is time.

Idea: what is stored is decided by size. Up to `INLINE` bytes a payload stands in its span's row. A larger one is a row
of its own, which equal payloads share by name. Rows come as they are, for the writer must keep up with the program;
`Packer` compresses them later, each against the payload before it at the same place (the same argument of the same
callable): a conversation that is passed again with one more message costs that message.

Invariant: reading needs no key and no base but those in the database. A row whose base is gone, or is not the one that
it was compressed against (each has a checksum), is an error of that payload alone: it is never read as another value.

Refused: splitting payloads into chunks by their content (references to the chunks of a long history grow with its
length at every call, as the history itself did); a shared prefix found by ourselves (a history from which the oldest
messages fall has none).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from itertools import chain
from typing import TYPE_CHECKING, Any

from clearstone.codec.keys import machine_key, nobodys
from clearstone.errors import StoreError
from clearstone.span import BLOB
from clearstone.store import blobs, schema

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Hashable, Iterable, Iterator, Sequence
    from pathlib import Path

    from clearstone.codec.keys import Key
    from clearstone.codec.spilled import Pile
    from clearstone.store.batch import RawPayload
    from clearstone.store.database import Database

INLINE = 256
"""Bytes up to which a payload stands in its span's row."""

DEEPEST = 200
"""A payload rests on so many others at most: each must be unpacked to read it."""

SIMILAR = 0.7
"""A base is kept where it brings a payload down to this part of what it takes without one."""

LEVEL = 3
MOST_MEMORY = 8 << 20
MOST_PLACES = 4096
PACKED_AT_ONCE = 32

"""Names payloads of which nobody knows whether this machine recorded them: the names prove nothing."""

Column = int | bytes | None
FORMS = tuple(bytes((form,)) for form in range(256))
RAW, ZSTD, INCOMPRESSIBLE = 0, 1, 2


class Columns:
    """The columns of one batch's payloads.

    Args:
        key: names small payloads.
        folder: where blob files are.
        ids: the rows of large ones.
    """

    def __init__(self, key: Key, folder: Path, ids: dict[RawPayload, int]) -> None:
        self._key = key
        self._folder = folder
        self._ids = ids

    def of(self, raw: RawPayload | None) -> Column:
        """Return the column of a payload; None for none."""
        if raw is None:
            return None
        form, data = raw
        if len(data) > INLINE:
            return self._ids[raw]
        name = blobs.name(self._key, form, self._folder, data) if form & BLOB else self._key.name(form, data)
        return name + FORMS[form] + data


class PayloadWriter:
    """Gives payloads their columns, and adds those that are not stored yet.

    Args:
        folder: where blob files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: OrderedDict[RawPayload, bytes] = OrderedDict()
        self._size = 0
        self._last: OrderedDict[Hashable, bytes] = OrderedDict()  # may name what was rolled back or erased: looked up

    def columns(
        self, db: sqlite3.Connection, large: Iterable[tuple[Hashable, RawPayload]], *, trusted: bool = True
    ) -> Columns:
        """Return the columns of a batch's payloads, having stored those that need a row.

        Args:
            db: inside a transaction.
            large: each payload of more than `INLINE` bytes with its place (the same argument of the same callable).
            trusted: whether their names may prove that this machine recorded them.
        """
        key = machine_key() if trusted else nobodys()
        named: dict[RawPayload, bytes] = {}
        first: dict[bytes, tuple[Hashable, RawPayload]] = {}
        for place, raw in large:
            name = named[raw] = self._name(key, raw)
            first.setdefault(name, (place, raw))
        ids = self._stored(db, first) if first else {}
        return Columns(key, self._folder, {raw: ids[name] for raw, name in named.items()})

    def _name(self, key: Key, raw: RawPayload) -> bytes:
        """A repeated payload is looked up by its bytes: five times cheaper than its name is made."""
        name = self._names.get(raw) if key.secret else None
        if name is None:
            name = key.name(*raw)
            if key.secret and len(raw.data) <= MOST_MEMORY // 8:
                self._names[raw] = name
                self._size += len(raw.data)
                while self._size > MOST_MEMORY:
                    self._size -= len(self._names.popitem(last=False)[0].data)
        return name

    def _stored(self, db: sqlite3.Connection, large: dict[bytes, tuple[Hashable, RawPayload]]) -> dict[bytes, int]:
        known = self._known(db, [*large, *{self._last.get(place, b"") for place, _ in large.values()}])
        last = _last_id(db)
        rows: list[tuple[Any, ...]] = []
        raw: list[tuple[int, bytes]] = []
        for name, (place, (form, data)) in large.items():
            if name not in known:
                base, depth = known.get(self._last.get(place, b""), (None, -1))
                if depth + 1 >= DEEPEST:
                    base, depth = None, -1
                last += 1
                known[name] = (last, depth + 1)
                rows.append((last, name, form, len(data), RAW, base, depth + 1))
                raw.append((last, data))
            self._last[place] = name
            self._last.move_to_end(place)
        while len(self._last) > MOST_PLACES:
            self._last.popitem(last=False)
        in_blocks(db, schema.WRITE_PAYLOADS, rows)
        in_blocks(db, schema.WRITE_RAW_DATA, raw)
        return {name: known[name][0] for name in large}

    def _known(self, db: sqlite3.Connection, names: list[bytes]) -> dict[bytes, tuple[int, int]]:
        found: dict[bytes, tuple[int, int]] = {}
        for start in range(0, len(names), 500):
            some = names[start : start + 500]
            marks = ", ".join("?" * len(some))
            query = f"SELECT name, id, depth FROM payloads WHERE name IN ({marks})"  # noqa: S608 - question marks
            found |= {name: (number, depth) for name, number, depth in db.execute(query, some)}
        return found


def _last_id(db: sqlite3.Connection) -> int:
    """Ids are not used again: a reader or packer of another process may still hold the bytes of an erased one."""
    found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'payloads'").fetchone()
    return int(found[0]) if found else 0


def blob_file(column: Column) -> bytes | None:
    """Return the name of the file that a column's payload is in; None for one that is in the database."""
    return column[17:] if isinstance(column, bytes) and column[16] & BLOB else None


def in_blocks(db: sqlite3.Connection, statements: dict[int, str], rows: Sequence[tuple[Any, ...]]) -> int:
    """Execute a statement for `rows`, in as few executions as its block sizes allow; return how many it changed."""
    at = changed = 0
    for size, statement in statements.items():
        while len(rows) - at >= size:
            changed += db.execute(statement, list(chain.from_iterable(rows[at : at + size]))).rowcount
            at += size
    return changed


class Unpacked:
    """The bytes of rows of ``payloads`` that were read last through one connection.

    In one file they never change, and no id is used twice. Another file, put in the place of the first, gives the same
    ids to other payloads: it has another connection.

    Args:
        db: the connection.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self._held: OrderedDict[int, bytes] = OrderedDict()
        self._size = 0

    def get(self, number: int) -> bytes | None:
        """Return the bytes of a row; None where they are not at hand."""
        return self._held.get(number)

    def keep(self, number: int, data: bytes) -> None:
        """Keep the bytes of a row at hand, for the rows that rest on it."""
        if number in self._held or len(data) > MOST_MEMORY // 2:
            return
        self._held[number] = data
        self._size += len(data)
        while self._size > MOST_MEMORY:
            self._size -= len(self._held.popitem(last=False)[1])


class PayloadReader:
    """Reads payloads inside one transaction.

    Args:
        db: the connection.
        folder: where blob files are.
        unpacked: what an earlier reader read; of use if it read through the same connection.
        pile: makes the payloads of one trace, which are all kept; None where they are looked at one after the other.
    """

    def __init__(
        self, db: sqlite3.Connection, folder: Path, unpacked: Unpacked | None = None, pile: Pile | None = None
    ) -> None:
        self._db = db
        self._folder = folder
        self.unpacked = unpacked if unpacked is not None and unpacked.db is db else Unpacked(db)
        self.pile = pile

    def raw(self, column: Column) -> tuple[bytes, int, bytes] | None:
        """Return name, form and bytes of what a column holds; None for none.

        Raises:
            StoreError: it is damaged, or what it rests on is gone.
        """
        if column is None:
            return None
        if isinstance(column, bytes):
            name, form, data = column[:16], column[16], column[17:]
            return (name, form & ~BLOB, blobs.read(self._folder, data)) if form & BLOB else (name, form, data)
        found = self._db.execute("SELECT name, form FROM payloads WHERE id = ?", (column,)).fetchone()
        if found is None:
            raise StoreError(f"payload {column} is not in the database: it is damaged")
        return (*found, self.bytes_of(column))

    def bytes_of(self, number: int) -> bytes:
        """Return the bytes of a row of ``payloads``.

        Raises:
            StoreError: it is damaged, or what it rests on is gone.
        """
        resting: list[tuple[int, int, int, bytes]] = []
        below: int | None = number
        data: bytes | None = None
        while below is not None and data is None:
            data = self.unpacked.get(below)
            if data is None:
                row = self._db.execute(_READ, (below,)).fetchone()
                if row is None or row[3] is None or len(resting) > DEEPEST:
                    raise StoreError(f"payload {number} rests on {below}, which is not there: the database is damaged")
                resting.append((below, row[0], row[1], row[3]))
                below = row[2] if row[1] == ZSTD else None
        for each, size, packed, held in reversed(resting):
            data = _unpacked(held, size, data) if packed == ZSTD else held
            self.unpacked.keep(each, data)
        assert data is not None  # noqa: S101 - there is one row at least
        return data


_READ = """
SELECT size, packed, base, CASE packed WHEN 0 THEN (SELECT data FROM raw_data AS r WHERE r.id = p.id)
                                       ELSE (SELECT data FROM packed_data AS d WHERE d.id = p.id) END
FROM payloads AS p WHERE id = ?
"""


class Packer:
    """Compresses payloads that were stored as they came.

    Args:
        database: the file.
        folder: where blob files are.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._unpacked: Unpacked | None = None

    def pack(self, seconds: float) -> bool:
        """Compress for about so many seconds, and give back the room; return whether some is left.

        Raises:
            StoreError: the file cannot be used now.
        """
        until = time.monotonic() + seconds
        while some := self._some_packed():
            with self._database.writing() as db:
                if self._unpacked is not None and self._unpacked.db is db:  # else the file was replaced meanwhile
                    for row in some:
                        _keep(db, *row)
            if time.monotonic() > until:
                return True
        return self._give_back(until)

    def _some_packed(self) -> list[tuple[Any, ...]]:
        with self._database.reading(waiting=True) as db:
            reader = PayloadReader(db, self._folder, self._unpacked)
            self._unpacked = reader.unpacked
            return [packed(reader, *row) for row in _next_raw(db)]

    def _give_back(self, until: float) -> bool:
        with self._database.using() as db:
            while _free_pages(db):
                db.executescript(f"PRAGMA incremental_vacuum({PAGES_AT_ONCE})")  # `execute` gives back one page
                if time.monotonic() > until:
                    return _free_pages(db)
        return False


def _free_pages(db: sqlite3.Connection) -> bool:
    """Whether there are pages that can be given back one by one; a database of version 1 has none such."""
    (vacuum,), (free,) = (db.execute(f"PRAGMA {name}").fetchone() for name in ("auto_vacuum", "freelist_count"))
    return bool(vacuum == INCREMENTAL and free > 0)


PAGES_AT_ONCE = 1000
INCREMENTAL = 2


def _keep(db: sqlite3.Connection, kind: int, base: int | None, data: bytes, number: int) -> None:
    if db.execute(_PACK, (kind, base, number, base, base)).rowcount:
        db.execute("DELETE FROM raw_data WHERE id = ?", (number,))
        db.execute("INSERT INTO packed_data (id, data) VALUES (?, ?)", (number, data))


_PACK = """
UPDATE payloads SET packed = ?, base = ?
WHERE id = ? AND packed = 0 AND (? IS NULL OR EXISTS (SELECT 1 FROM payloads AS below WHERE below.id = ?))
"""
"""The base may have been erased since it was read; the row then waits for another turn, without it."""

_NEXT = "SELECT r.id, p.base, r.data FROM raw_data AS r JOIN payloads AS p ON p.id = r.id ORDER BY r.id LIMIT ?"


def _next_raw(db: sqlite3.Connection) -> Iterator[tuple[int, int | None, bytes]]:
    """Yield rows to compress, no more than fit into a little memory, and one at least."""
    size = 0
    for row in db.execute(_NEXT, (PACKED_AT_ONCE,)):
        yield row
        size += len(row[2])
        if size > MOST_MEMORY:
            return


def packed(reader: PayloadReader, number: int, base: int | None, data: bytes) -> tuple[Any, ...]:
    """Return how a payload is kept: ``packed``, ``base``, ``data`` and ``id`` of its row.

    Args:
        reader: reads its base.
        number: its id.
        base: the id of what it may resemble.
        data: its bytes.
    """
    import zstandard

    reader.unpacked.keep(number, data)
    alone = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(data)
    below = _base_of(reader, base)
    if below is not None:
        dictionary = _dictionary(below)
        beside = zstandard.ZstdCompressor(level=LEVEL, dict_data=dictionary, write_checksum=True).compress(data)
        if len(beside) < len(alone) * SIMILAR:
            return ZSTD, base, beside, number
    if len(alone) < len(data):
        return ZSTD, None, alone, number
    return INCOMPRESSIBLE, None, data, number


def _base_of(reader: PayloadReader, base: int | None) -> bytes | None:
    try:
        return reader.bytes_of(base) if base is not None else None
    except StoreError:  # erased meanwhile
        return None


def _unpacked(data: bytes, size: int, base: bytes | None) -> bytes:
    import zstandard

    dictionary = _dictionary(base) if base is not None else None
    try:
        return zstandard.ZstdDecompressor(dict_data=dictionary).decompress(data, max_output_size=size)
    except zstandard.ZstdError as error:
        raise StoreError(f"a payload cannot be decompressed ({error}): the database is damaged") from error


def _dictionary(base: bytes) -> Any:
    import zstandard

    return zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
