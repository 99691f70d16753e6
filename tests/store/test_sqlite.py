"""The SQLite store as a file: what it refuses, what it leaves alone, and who may use it at the same time."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import textwrap
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clearstone.errors import StoreError, TraceNotFoundError, UnstorableSpanError
from clearstone.span import Chunk, Event, Outcome, Payload, Span
from clearstone.store import database, schema
from clearstone.store.base import SpanQuery
from clearstone.store.rows import batch_of
from clearstone.store.sqlite import SQLiteTraceStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = 65534


T, ONE, TWO, GOOD, LATER, BEFORE = (digit * 32 for digit in "712345")


def write(store: SQLiteTraceStore, spans: list[Span]) -> None:
    store.apply(batch_of(spans))


def a_span(trace_id: str = T, **fields: object) -> Span:
    made = {"span_id": os.urandom(8).hex(), "parent_id": None, "name": "work", "start_ns": 1, "end_ns": 2, **fields}
    return Span(trace_id=trace_id, **made)  # type: ignore[arg-type]


def filled(path: Path) -> Path:
    """Make a trace database with one span and close it."""
    with closing(SQLiteTraceStore(path)) as store:
        write(
            store, [a_span(attributes={"n": 1, "note": "noted"}, outcome=Outcome("returned", Payload("pickle", b"N.")))]
        )
    return path


def on_disk(folder: Path) -> dict[str, bytes | None]:
    """Tell every file below a folder and its bytes."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    found = {name: path for name, path in found.items() if not name.startswith("config")}  # the machine's key
    return {name: None if path.is_dir() else path.read_bytes() for name, path in found.items()}


# --- what is refused -------------------------------------------------------------------------------------------------


def a_text(folder: Path) -> Path:
    path = folder / "notes.txt"
    path.write_text("these are my notes, and there are enough of them to fill a database header: " * 4)
    return path


def a_short_text(folder: Path) -> Path:
    path = folder / "short.txt"
    path.write_text("xy")
    return path


def another_programs(folder: Path) -> Path:
    path = folder / "other.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE notes (text); INSERT INTO notes VALUES ('mine')")
    return path


def another_programs_with_a_log(folder: Path) -> Path:
    path = another_programs(folder)
    with closing(sqlite3.connect(path)) as db:
        db.executescript("PRAGMA journal_mode = WAL; INSERT INTO notes VALUES ('more')")
    return path


def a_newer_versions(folder: Path) -> Path:
    path = filled(folder / "newer.db")
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    return path


def a_folder(folder: Path) -> Path:
    path = folder / "folder"
    path.mkdir()
    return path


def below_a_file(folder: Path) -> Path:
    return a_text(folder) / "traces.db"


def with_a_zero_byte(folder: Path) -> Path:
    return folder / "traces\0.db"


def with_a_name_too_long(folder: Path) -> Path:
    return folder / ("x" * 300)


def a_cut_database(folder: Path) -> Path:
    path = filled(folder / "cut.db")
    path.write_bytes(path.read_bytes()[:5_000])
    return path


REFUSED: list[tuple[Callable[[Path], Path], str]] = [
    (a_text, "file is not a database"),
    (a_short_text, "file is not a database"),
    (another_programs, "is a SQLite database of another program; give another file with --db"),
    (another_programs_with_a_log, "is a SQLite database of another program; give another file with --db"),
    (a_newer_versions, rf"newer Clearstone \(schema {schema.VERSION + 1}, this one reads up to {schema.VERSION}\)"),
    (a_folder, "is a directory; give the trace database's file, such as traces.db"),
    (below_a_file, "cannot be"),
    (with_a_zero_byte, "cannot be created"),
    (with_a_name_too_long, "cannot be reached.*name too long"),
    (a_cut_database, "malformed"),
]


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize(("make", "sentence"), REFUSED)
def test_what_is_no_trace_database_is_refused_in_a_sentence_and_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], Path], sentence: str, *, create: bool
) -> None:
    path = make(tmp_path)
    before = on_disk(tmp_path)
    expected = sentence if create or "cannot be" not in sentence else "cannot be|there is no trace database"
    store = SQLiteTraceStore(path, create=create)
    for use in (store.open, store.traces, lambda: store.find("latest"), lambda: write(store, [a_span()])):
        with pytest.raises(StoreError, match=expected) as caught:
            use()
        assert str(path) in str(caught.value)
    assert on_disk(tmp_path) == before


def test_a_reader_creates_neither_a_file_nor_a_folder(tmp_path: Path) -> None:
    store = SQLiteTraceStore(tmp_path / "folder" / "traces.db", create=False)
    with pytest.raises(StoreError, match=r"there is no trace database .*run an agent first, or give --home or --db"):
        store.traces()
    assert on_disk(tmp_path) == {}


def test_a_reader_makes_no_database_of_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    path.touch()
    with pytest.raises(StoreError, match="is empty; run an agent first"):
        SQLiteTraceStore(path, create=False).traces()
    assert on_disk(tmp_path) == {"traces.db": b""}


def test_a_writer_makes_a_database_of_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    path.touch()
    filled(path)
    with closing(SQLiteTraceStore(path, create=False)) as store:
        assert len(store.get_trace(T)) == 1


class Odd:
    def __repr__(self) -> str:
        return "an odd one"


def circular() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("odd", "kept"),
    [
        (Odd(), "an odd one"),
        (circular(), "[[[[[[[...]]]]]]]"),
        (10**5000, "<repr of int raised ValueError>"),
        (b"x", "b'x'"),
    ],
    ids=["object", "circular", "huge", "bytes"],
)
def test_of_an_attribute_that_is_no_json_the_repr_is_kept(tmp_path: Path, odd: object, kept: str) -> None:
    attributes = {"odd": odd, "n": 1}
    with closing(SQLiteTraceStore(tmp_path / "traces.db")) as store:
        write(store, [a_span(BEFORE), a_span(attributes=attributes, events=(Event("e", 5, attributes),))])
        (span,) = store.get_trace(T)
    assert dict(span.attributes) == {"odd": kept, "n": 1}
    assert span.events == (Event("e", 5, {"odd": kept, "n": 1}),)


def test_a_span_that_cannot_be_stored_is_refused_with_its_whole_batch(tmp_path: Path) -> None:
    whole = batch_of([a_span(GOOD), a_span()])
    with closing(SQLiteTraceStore(tmp_path / "traces.db")) as store:
        bad: dict[str, Any]
        for bad in ({"start_ns": 2**64}, {"attributes": {}}, {"status": None}, {"site": 7}):
            rows = [whole.spans[0], whole.spans[1]._replace(**bad)]
            with pytest.raises(UnstorableSpanError, match="cannot be stored"):
                store.apply(whole._replace(spans=rows))
        assert store.traces() == []
        write(store, [a_span(GOOD)])
        assert len(store.get_trace(GOOD)) == 1


def test_a_full_disk_stores_nothing_of_the_batch(tmp_path: Path) -> None:
    with closing(SQLiteTraceStore(tmp_path / "traces.db")) as store:
        store.open()
        assert store.database._db is not None
        store.database._db.execute("PRAGMA max_page_count = 40")
        chunks = tuple(Chunk(n, Payload("pickle", bytes([n]) * 4_000)) for n in range(100))
        with pytest.raises(StoreError, match="full"):
            write(store, [a_span(ONE), a_span(TWO, outcome=Outcome("streamed", chunks=chunks))])
        assert store.traces() == []
        write(store, [a_span(ONE)])
        assert [each.trace_id for each in store.traces()] == [ONE]


@pytest.mark.once
def test_a_damaged_file_never_raises_anything_but_a_store_error(tmp_path: Path) -> None:
    whole = filled(tmp_path / "traces.db").read_bytes()
    damaged = tmp_path / "damaged.db"
    refused = 0
    for offset in range(0, len(whole), 61):
        damaged.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x55]) + whole[offset + 1 :])
        with closing(SQLiteTraceStore(damaged)) as store:
            try:
                store.traces()
                store.get_trace(T)
            except (StoreError, TraceNotFoundError):
                refused += 1
    assert refused


def test_a_row_that_makes_no_span_is_said(tmp_path: Path) -> None:
    path = filled(tmp_path / "traces.db")
    for change in ("sites SET kind = 'ODD'", "spans SET attributes = 'no json'", "spans SET status = 'ODD'"):
        with closing(sqlite3.connect(path)) as db, db:
            db.execute(f"UPDATE {change}")
        with closing(SQLiteTraceStore(path)) as store, pytest.raises(StoreError, match="damaged"):
            store.get_trace(T)
    with closing(SQLiteTraceStore(path)) as store, pytest.raises(StoreError, match="damaged"):
        store.traces()


# --- rights ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def plain_user() -> Iterator[Path]:
    """Give a folder of a user without special rights, and be that user."""
    folder = Path(tempfile.mkdtemp())
    was_root = os.geteuid() == 0
    if was_root:
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if was_root:
            os.seteuid(0)
        folder.chmod(0o700)
        shutil.rmtree(folder)


def test_a_new_file_and_its_log_are_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with closing(SQLiteTraceStore(path)) as store:
        write(store, [a_span()])
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("traces*")}
    assert modes == dict.fromkeys(["traces.db", "traces.db-wal", "traces.db-shm"], 0o600)


def test_in_a_folder_that_may_not_be_written_nothing_is_created(plain_user: Path) -> None:
    plain_user.chmod(0o500)
    for path in (plain_user / "traces.db", plain_user / "new" / "traces.db"):
        with pytest.raises(StoreError, match=r"cannot be created: .*Permission denied"):
            SQLiteTraceStore(path).open()
    assert on_disk(plain_user) == {}


def test_a_folder_that_may_not_be_entered_is_said(plain_user: Path) -> None:
    (plain_user / "closed").mkdir(mode=0o000)
    with pytest.raises(StoreError, match=r"cannot be reached: .*Permission denied"):
        SQLiteTraceStore(plain_user / "closed" / "traces.db").open()


def test_a_read_only_file_can_be_read_and_says_so_when_written(plain_user: Path) -> None:
    path = filled(plain_user / "traces.db")
    path.chmod(0o400)
    before = path.read_bytes()
    with closing(SQLiteTraceStore(path)) as store:
        assert len(store.get_trace(T)) == 1
        with pytest.raises(StoreError, match="readonly"):
            write(store, [a_span()])
    assert path.read_bytes() == before


def test_a_file_that_may_not_be_read_is_said(plain_user: Path) -> None:
    path = filled(plain_user / "traces.db")
    path.chmod(0o000)
    with pytest.raises(StoreError, match="cannot be used as a trace database: unable to open"):
        SQLiteTraceStore(path).traces()


def test_a_database_in_a_folder_that_may_not_be_written_can_be_read_and_searched(plain_user: Path) -> None:
    path = filled(plain_user / "traces.db")
    plain_user.chmod(0o500)
    with closing(SQLiteTraceStore(path, create=False)) as store:
        assert store.find("latest") == T
        assert [span.name for span in store.get_trace(T)] == ["work"]
        assert [span.name for span in store.spans(SpanQuery(text="noted"))] == ["work"]
        for erase in (lambda: store.forget(T), lambda: store.collect(10**18), lambda: write(store, [a_span()])):
            with pytest.raises(StoreError, match=r"read-only: give another with --db|unable to open"):
                erase()
        assert len(store.traces()) == 1
    plain_user.chmod(0o700)
    assert list(on_disk(plain_user)) == ["traces.db"]


def test_where_a_log_cannot_be_read_because_of_its_folder_it_is_said_what_to_do(plain_user: Path) -> None:
    with closing(SQLiteTraceStore(plain_user / "traces.db")) as writing:
        write(writing, [a_span()])
        (plain_user / "copy").mkdir()
        for name in ("traces.db", "traces.db-wal"):
            shutil.copy(plain_user / name, plain_user / "copy" / name)
    (plain_user / "copy").chmod(0o500)
    store = SQLiteTraceStore(plain_user / "copy" / "traces.db", create=False)
    with pytest.raises(StoreError, match=r"copy both files to another folder and give --db"):
        store.traces()
    (plain_user / "copy").chmod(0o700)
    assert len(store.traces()) == 1
    store.close()


# --- one file, several users -----------------------------------------------------------------------------------------

WRITER = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from clearstone.span import Span
    from clearstone.store.rows import batch_of
    from clearstone.store.sqlite import SQLiteTraceStore

    me, folder = sys.argv[1], Path(sys.argv[2])
    for number in range(8):  # each file is created by both at the same moment
        (folder / f"ready-{number}-{me}").touch()
        while len(list(folder.glob(f"ready-{number}-*"))) < 2:
            time.sleep(0)
        store = SQLiteTraceStore(folder / f"{number}.db")
        for n in range(10):
            span = Span(trace_id="7" * 32, span_id=(me + str(n)) * 8, parent_id=None, name=me, start_ns=n, end_ns=n)
            store.apply(batch_of([span]))
        store.close()
""")


def test_two_processes_create_and_write_one_file_at_the_same_time(tmp_path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, name, tmp_path]) for name in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    for number in range(8):
        with closing(SQLiteTraceStore(tmp_path / f"{number}.db", create=False)) as store:
            assert {span.span_id for span in store.get_trace(T)} == {
                f"{name}{n}" * 8 for name in "ab" for n in range(10)
            }


def test_readers_read_while_a_writer_is_in_the_middle_of_its_transaction(tmp_path: Path) -> None:
    path = filled(tmp_path / "traces.db")
    with closing(sqlite3.connect(path)) as writer, closing(SQLiteTraceStore(path, create=False)) as store:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM spans")
        assert len(store.get_trace(T)) == 1
        assert store.find("latest") == T
        writer.execute("COMMIT")
        assert store.traces() == []


def test_a_writer_that_waits_in_vain_for_another_says_so_and_stores_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    path = filled(tmp_path / "traces.db")
    with closing(sqlite3.connect(path)) as other, closing(SQLiteTraceStore(path)) as store:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="database is locked"):
            write(store, [a_span(LATER)])
        other.execute("ROLLBACK")
        write(store, [a_span(LATER)])
        assert len(store.get_trace(LATER)) == 1


def test_creating_a_file_that_stays_locked_ends_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    path = tmp_path / "traces.db"
    path.touch()
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="database is locked"):
            SQLiteTraceStore(path).open()


KILLED = textwrap.dedent("""
    import os, sys
    from clearstone.span import Span
    from clearstone.store.rows import batch_of
    from clearstone.store.sqlite import SQLiteTraceStore

    span = Span(trace_id="7" * 32, span_id="5" * 16, parent_id=None, name="n", start_ns=1)
    SQLiteTraceStore(sys.argv[1]).apply(batch_of([span]))
    os.kill(os.getpid(), 9)
""")


def test_a_process_that_was_killed_leaves_what_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    assert subprocess.run([sys.executable, "-c", KILLED, path], check=False, timeout=60).returncode == -9
    with closing(SQLiteTraceStore(path, create=False)) as store:
        (span,) = store.get_trace(T)
    assert span.is_open


FORKING = textwrap.dedent("""
    import json, os, sys
    from clearstone.span import Span
    from clearstone.store.rows import batch_of
    from clearstone.store.sqlite import SQLiteTraceStore

    def write(name):
        span_id = name.encode().hex().ljust(16, "0")[:16]
        span = Span(trace_id="7" * 32, span_id=span_id, parent_id=None, name=name, start_ns=1, end_ns=2)
        store.apply(batch_of([span]))

    store = SQLiteTraceStore(sys.argv[1])
    write("before")
    child = os.fork()
    if child == 0:
        store.forget_connection()
        write("child")
        store.close()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    write("after")
    print(json.dumps([status, sorted(span.name for span in store.get_trace("7" * 32))]))
""")


def test_after_a_fork_both_processes_go_on_writing(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORKING, tmp_path / "traces.db"], capture_output=True, check=True, timeout=60
    )
    assert json.loads(run.stdout) == [0, ["after", "before", "child"]]


def test_a_forgotten_connection_is_left_alone_and_a_new_one_is_opened(tmp_path: Path) -> None:
    with closing(SQLiteTraceStore(filled(tmp_path / "traces.db"))) as store:
        store.open()
        inherited = store.database._db
        assert inherited is not None
        store.forget_connection()
        try:
            assert len(store.get_trace(T)) == 1
            assert store.database._db is not inherited
            assert inherited.execute("SELECT count(*) FROM spans").fetchone() == (1,)  # still open
        finally:
            database._inherited.remove(inherited)
            inherited.close()


# --- the file --------------------------------------------------------------------------------------------------------


def test_closing_merges_the_log_into_the_file(tmp_path: Path) -> None:
    filled(tmp_path / "traces.db")
    assert list(on_disk(tmp_path)) == ["traces.db"]


def test_a_relative_path_stays_the_same_file_when_the_program_changes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with closing(SQLiteTraceStore("traces.db")) as store:
        write(store, [a_span()])
        store.close()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert len(store.get_trace(T)) == 1
    assert on_disk(tmp_path / "elsewhere") == {}


def test_the_file_says_whose_it_is_and_which_version(tmp_path: Path) -> None:
    with closing(sqlite3.connect(filled(tmp_path / "traces.db"))) as db:
        assert db.execute("PRAGMA application_id").fetchone() == (int.from_bytes(b"CLST", "big"),)
        assert db.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_listing_reads_no_payload(tmp_path: Path) -> None:
    path = filled(tmp_path / "traces.db")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TABLE payloads")
    with closing(SQLiteTraceStore(path)) as store:
        assert [each.trace_id for each in store.traces()] == [T]
        assert store.find("latest") == T


def test_a_store_that_is_dropped_closes_its_file(tmp_path: Path) -> None:
    store = SQLiteTraceStore(tmp_path / "traces.db")
    write(store, [a_span()])
    db = store.database._db
    assert db is not None
    del store
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        db.execute("SELECT 1")
    assert list(on_disk(tmp_path)) == ["traces.db"]


def test_a_store_that_is_not_used_touches_nothing(tmp_path: Path) -> None:
    store = SQLiteTraceStore(tmp_path / "traces.db")
    store.close()
    store.forget_connection()
    assert on_disk(tmp_path) == {}
