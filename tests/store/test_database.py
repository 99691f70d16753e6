"""The file of a SQLite store: what is said when it cannot be used, and which state a reader sees."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from clearstone.errors import StoreError
from clearstone.store import database
from clearstone.store.database import Database

if TYPE_CHECKING:
    from pathlib import Path


def add(db: sqlite3.Connection, number: int) -> None:
    db.execute("INSERT INTO unindexed (first, last) VALUES (?, ?)", (number, number))


def count(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT count(*) FROM unindexed").fetchone()[0])


def test_a_reader_sees_one_state_whatever_is_written_meanwhile(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "traces.db")) as first, closing(Database(tmp_path / "traces.db")) as second:
        for read in (first.reading, first.apart):
            with read() as db:
                before = count(db)
                with second.writing() as writing:
                    add(writing, 1)
                assert count(db) == before
            with read() as db:
                assert count(db) == before + 1


def test_a_reader_reads_beside_a_writer_of_the_same_store(tmp_path: Path) -> None:
    seen: list[int] = []

    def look() -> None:
        with file.reading() as db:
            seen.append(count(db))

    with closing(Database(tmp_path / "traces.db")) as file, file.writing() as writing:
        add(writing, 1)
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert seen == [0]


def test_a_transaction_that_fails_keeps_nothing(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "traces.db")) as file:
        with pytest.raises(KeyboardInterrupt), file.writing() as db:
            add(db, 1)
            raise KeyboardInterrupt
        with file.reading() as db:
            assert count(db) == 0


def test_a_file_that_was_replaced_is_opened_again_also_after_a_reader_apart_saw_the_new_one(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "traces.db")) as file, closing(Database(tmp_path / "other.db")) as other:
        with file.writing() as db:
            add(db, 1)
        with other.reading():
            pass
        other.close()
        for name in ("traces.db", "traces.db-wal", "traces.db-shm"):
            (tmp_path / name).unlink()
        shutil.move(tmp_path / "other.db", tmp_path / "traces.db")
        with file.apart() as db:
            assert count(db) == 0
        with file.writing() as db:
            add(db, 2)
            add(db, 3)
        with closing(sqlite3.connect(tmp_path / "traces.db")) as db:
            assert count(db) == 2


def test_who_waits_in_vain_is_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    with closing(Database(tmp_path / "traces.db")) as file, closing(Database(tmp_path / "traces.db")) as other:
        with (
            other.writing(),
            pytest.raises(StoreError, match="another process is writing it, try again"),
            file.writing(),
        ):
            raise AssertionError
        with file.writing() as db:
            add(db, 1)


def test_a_damaged_file_is_told_what_to_do_with(tmp_path: Path) -> None:
    path = tmp_path / "traces.db"
    with closing(Database(path)) as file, file.writing() as db:
        for number in range(2000):
            add(db, number)
    data = bytearray(path.read_bytes())
    for page in range(8, len(data) // 4096):
        data[page * 4096 : page * 4096 + 100] = b"x" * 100
    path.write_bytes(data)
    with closing(Database(path)) as file, pytest.raises(StoreError, match="move it away to begin a new one"):
        with file.reading() as db:
            db.execute("SELECT * FROM unindexed").fetchall()


def test_emptying_the_log_waits_for_no_reader(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "traces.db")) as file, file.apart() as reading:
        assert count(reading) == 0
        with file.writing() as db:
            add(db, 1)
        file.empty_log()
        file.shrink()
        assert count(reading) == 0


def test_who_interrupts_a_reader_in_its_own_thread_reads_beside_it(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "traces.db")) as file, file.reading() as outer:
        with file.reading() as inner:
            assert inner is not outer
            assert inner.execute("SELECT 1").fetchone() == (1,)
        assert outer.in_transaction
        assert outer.execute("SELECT 1").fetchone() == (1,)
