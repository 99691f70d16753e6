"""What a machine does to a recorder: full disks, locked or broken databases, folders that vanish, clocks set back."""

import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clearstone import traced
from clearstone.observability import TracerProvider

LOCKED_SECONDS = 1.5
LONG_LOCKED_SECONDS = 10.0

FULL = """
import os, random, resource, sys
from clearstone import configure, traced

HIGH = bytes(128 | byte for byte in range(256))  # in none of them a secret could begin

def noise(number):  # no other call returns it and no compression halves it: a fast writer makes no room
    return random.Random(number).randbytes(5000).translate(HIGH)

@traced
def step(number):
    return noise(number)

provider = configure(db_path=sys.argv[1])
limit = int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for number in range(int(sys.argv[3])):
    assert step(number) == noise(number)
report = provider.shutdown(2)
print(report.dropped, report.waiting, report.stored, flush=True)
os._exit(0)  # the exit handlers would try for ten seconds more
"""


def told(process: "subprocess.Popen[str]") -> tuple[list[int], str]:
    out, errors = process.communicate(timeout=100)
    assert process.returncode == 0, (process.returncode, errors)
    dropped, waiting, stored = out.split()
    return [int(dropped), int(waiting), stored == "True"], errors


@pytest.mark.once
@pytest.mark.parametrize("limit", [200_000, 3 << 20, 9 << 20])
def test_files_that_may_not_grow_cost_records_but_never_the_program(
    limit: int, database: Path, program: Callable[..., Any]
) -> None:
    (dropped, waiting, stored), errors = told(program(FULL, database, limit, 14_000))
    assert dropped or waiting or stored
    assert errors.count("the journal is full") <= 1
    assert errors.count("records wait in memory") <= 1
    assert "Traceback" not in errors


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip(f"no file system may be mounted here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.once
def test_a_full_disk_costs_records_but_never_the_program(small_disk: Path, program: Callable[..., Any]) -> None:
    (dropped, waiting, stored), errors = told(program(FULL, small_disk / "traces.db", 0, 25_000))
    assert dropped > 0
    assert stored or waiting
    assert errors.count("the journal is full") == 1
    assert errors.count("records wait in memory") == 1
    assert "Traceback" not in errors


def test_what_a_full_disk_kept_in_the_journal_is_stored_when_there_is_room_again(
    small_disk: Path, program: Callable[..., Any]
) -> None:
    filler = small_disk / "filler"
    process = program(
        """
        import sys
        from clearstone import configure, traced

        @traced
        def step(number):
            return number

        provider = configure(db_path=sys.argv[1])
        step(-1)
        assert provider.flush()
        with open(sys.argv[2], "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError:
                pass
        for number in range(3000):
            step(number)
        assert not provider.flush(0.5), "the disk is full"
        print("full", flush=True)
        sys.stdin.readline()
        assert provider.flush(20)
        """,
        small_disk / "traces.db",
        filler,
    )
    assert process.stdout.readline() == "full\n", process.communicate()
    filler.unlink()
    process.communicate("\n", timeout=60)
    assert process.returncode == 0
    with sqlite3.connect(small_disk / "traces.db") as db:
        assert db.execute("SELECT count(*), count(end_ns) FROM spans").fetchone() == (3001, 3001)
    db.close()


def locked_out(database: Path, program: Callable[..., Any], seconds: float) -> None:
    """Record while another process holds the database; every span must come through."""
    provider = TracerProvider(database)

    @traced(tracer=provider.get_tracer())
    def step(number: int) -> int:
        return number

    step(0)
    assert provider.flush()
    locker = program(
        """
        import sqlite3, sys, time
        db = sqlite3.connect(sys.argv[1], isolation_level=None)
        db.execute("BEGIN EXCLUSIVE")
        print("locked", flush=True)
        time.sleep(float(sys.argv[2]))
        db.execute("COMMIT")
        """,
        database,
        seconds,
    )
    assert locker.stdout.readline() == "locked\n"
    for number in range(1, 3000):
        step(number)
    assert not provider.flush(0.1)
    assert provider.flush(60)
    assert provider.shutdown()
    with sqlite3.connect(database) as db:
        assert db.execute("SELECT count(*), count(end_ns) FROM spans").fetchone() == (3000, 3000)
    db.close()


@pytest.mark.usefixtures("faults_allowed")
def test_a_database_that_another_process_locks_gets_every_span_when_it_lets_go(
    database: Path, program: Callable[..., Any]
) -> None:
    locked_out(database, program, LOCKED_SECONDS)


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("faults_allowed")
def test_a_database_locked_for_longer_than_sqlite_waits_gets_every_span(
    database: Path, program: Callable[..., Any]
) -> None:
    locked_out(database, program, LONG_LOCKED_SECONDS + 3)


@pytest.mark.usefixtures("faults_allowed")
def test_a_folder_removed_while_recording_is_made_again_and_the_program_goes_on(tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "records"
    provider = TracerProvider(folder / "traces.db")

    @traced(tracer=provider.get_tracer())
    def step(number: int) -> str:
        return "x" * 2000

    for number in range(4000):
        if number in {1000, 2500}:
            shutil.rmtree(folder, ignore_errors=True)
        assert step(number) == "x" * 2000
        time.sleep(0.00002)
    assert provider.shutdown(20)
    with sqlite3.connect(folder / "traces.db") as db:
        assert db.execute("SELECT count(*) FROM spans WHERE end_ns IS NOT NULL").fetchone()[0] >= 1400
    db.close()


@pytest.mark.usefixtures("faults_allowed")
def test_a_database_overwritten_while_running_is_said_and_the_journal_keeps_what_it_does_not_take(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    provider = TracerProvider(database)

    @traced(tracer=provider.get_tracer())
    def step(number: int) -> int:
        return number

    step(0)
    assert provider.flush()
    provider._store.close()
    database.with_name("traces.db-wal").unlink(missing_ok=True)
    good = database.read_bytes()
    database.write_bytes(os.urandom(8192))
    for number in range(1, 100):
        assert step(number) == number
    assert not provider.flush(0.5)
    report = provider.shutdown(0.5)
    assert not report
    assert report.waiting > 0
    assert "not a database" in report.reason
    provider._store.close()
    for beside in ("traces.db-wal", "traces.db-shm"):
        database.with_name(beside).unlink(missing_ok=True)
    mended = database.with_name("mended.db")
    mended.write_bytes(good)
    mended.replace(database)  # whole or not at all: the writer tries again meanwhile
    assert provider.shutdown(20), "it is mended, and nothing is lost"
    with sqlite3.connect(database) as db:
        assert db.execute("SELECT count(*), count(end_ns) FROM spans").fetchone() == (100, 100)
    db.close()
    assert "not a database" in capsys.readouterr().err


def test_a_clock_set_back_ends_no_span_before_its_start(
    database: Path, monkeypatch: pytest.MonkeyPatch, recovered: Callable[[], Any]
) -> None:
    from clearstone.record import live_span, recording

    provider = TracerProvider(database)
    now = iter(range(2_000_000_000_000_000_000, 0, -3_600_000_000_000))
    for module in (recording, live_span):
        monkeypatch.setattr(module, "time_ns", lambda: next(now))

    @traced(tracer=provider.get_tracer())
    def inner(number: int) -> int:
        return number

    @traced(tracer=provider.get_tracer())
    def outer(number: int) -> int:
        with provider.get_tracer().span("between"):
            return inner(number)

    for number in range(50):
        outer(number)
    monkeypatch.undo()
    assert provider.shutdown()
    spans = recovered().all
    assert len(spans) == 150
    assert all(span.end_ns >= span.start_ns for span in spans)
    names = {span.span_id: span.name for span in spans}
    assert {(span.name, names.get(span.parent_id)) for span in spans} == {
        ("outer", None), ("between", "outer"), ("inner", "between"),
    }  # fmt: skip


def test_a_process_without_a_place_for_its_journal_records_in_memory_and_says_so(
    database: Path, program: Callable[..., Any]
) -> None:
    database.with_name("traces.db.journal").write_text("in the way")
    process = program(
        """
        import sys
        from clearstone import configure, traced

        @traced
        def step(number):
            return number

        provider = configure(db_path=sys.argv[1])
        for number in range(1000):
            step(number)
        assert provider.shutdown()
        """,
        database,
    )
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert errors.count("records wait in memory") == 1
    with sqlite3.connect(database) as db:
        assert db.execute("SELECT count(end_ns) FROM spans").fetchone() == (1000,)
    db.close()
