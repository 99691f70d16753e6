"""The provider where its store cannot be used: what it still knows, what it refuses, what it keeps for later."""

import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from clearstone import checkpointable, configure, traced
from clearstone.checkpoint.manager import CheckpointManager
from clearstone.codec import payload
from clearstone.errors import StoreError
from clearstone.observability import TracerProvider
from clearstone.record import provider as providers
from clearstone.record.default import default_provider
from clearstone.span import Trace
from clearstone.store import database, schema
from clearstone.store.batch import Batch
from clearstone.store.memory import MemoryTraceStore


@contextmanager
def locked(provider: TracerProvider) -> Iterator[None]:
    """Hold the provider's database, with all stored that was recorded before."""
    assert provider.database is not None
    assert provider.flush()
    with closing(sqlite3.connect(provider.database, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


def results(trace: Trace) -> dict[str, Any]:
    return {each.name: payload.load(each.outcome.value) for each in trace if each.outcome and each.outcome.value}


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TracerProvider]:
    monkeypatch.setattr(providers, "GLANCE_SECONDS", 0.1)
    made = TracerProvider(tmp_path / "traces.db", payload_limit=1000)
    yield made
    made.shutdown()


# --- what waits while the store is locked ----------------------------------------------------------------------------


def test_a_payload_in_a_file_is_read_from_there_while_the_store_does_not_take_its_span(
    provider: TracerProvider,
) -> None:
    with provider.get_tracer().span("outer") as outer:
        traced(name="first")(lambda: "small")()
        with locked(provider):
            traced(name="tool")(lambda: "y" * 5000)()
            trace = provider.trace_so_far(outer.trace_id)
    assert results(trace) == {"first": "small", "tool": "y" * 5000}


def test_a_checkpoint_saved_while_the_store_is_locked_holds_the_payload_of_a_file(
    provider: TracerProvider, tmp_path: Path
) -> None:
    configure(provider=provider)

    class Agent:
        @traced(name="tool")
        def tool(self) -> str:
            return "y" * 5000

        @checkpointable
        def run(self) -> None:
            self.tool()
            raise ValueError("on purpose")

    with locked(provider), pytest.raises(ValueError, match="on purpose"):
        Agent().run()
    (file,) = (tmp_path / "home" / "checkpoints").glob("*.pack")
    assert results(CheckpointManager().load_checkpoint(file).trace) == {"tool": "y" * 5000}


class Busy(MemoryTraceStore):
    """A store that takes the next batch between two questions to the provider."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.taken = threading.Event()

    def apply(self, batch: Batch) -> None:
        self.free.wait(10)
        super().apply(batch)
        self.taken.set()

    def get_trace(self, trace_id: str) -> Trace:
        try:
            return super().get_trace(trace_id)
        finally:
            self.taken.clear()
            self.free.set()
            self.taken.wait(10)
            time.sleep(0.05)  # until the journal has let go of it


def test_what_the_store_takes_while_a_trace_is_read_is_in_it_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "GLANCE_SECONDS", 0.05)
    provider = TracerProvider(store=Busy())
    with provider.get_tracer().span("outer") as outer:
        configure(provider=provider)
        traced(name="tool")(lambda: "given")()
        assert results(provider.trace_so_far(outer.trace_id)) == {"tool": "given"}
    provider.shutdown()


def test_a_call_whose_start_is_stored_and_whose_end_waits_has_ended_in_the_trace_so_far(
    provider: TracerProvider,
) -> None:
    with provider.get_tracer().span("outer") as outer:
        configure(provider=provider)

        def stream() -> Generator[int, None, None]:
            yield 1
            yield 2

        reading = traced(name="stream")(stream)()
        next(reading)
        assert provider.flush()
        with locked(provider):
            next(reading)
            reading.close()
            trace = provider.trace_so_far(outer.trace_id)
    (found,) = [span for span in trace if span.name == "stream"]
    assert not found.is_open
    assert [payload.load(chunk.value) for chunk in found.chunks] == [1, 2]
    assert found.input is not None
    assert payload.load(found.input) == ((), {})


@pytest.mark.usefixtures("faults_allowed")
def test_where_such_a_file_is_gone_the_open_spans_are_known_all_the_same(provider: TracerProvider) -> None:
    with provider.get_tracer().span("outer") as outer, locked(provider):
        traced(name="tool")(lambda: "y" * 5000)()
        assert provider.blobs is not None
        for file in provider.blobs.iterdir():
            file.unlink()
        assert [span.name for span in provider.trace_so_far(outer.trace_id)] == ["outer"]


# --- a database that cannot be used when the program begins ----------------------------------------------------------


def with_junk_after_its_header(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"junk" * 2000)


def of_zeros(path: Path) -> None:
    path.write_bytes(bytes(8192))


def cut_short(path: Path) -> None:
    TracerProvider(path).shutdown()
    path.write_bytes(path.read_bytes()[:5000])


def with_a_scrambled_schema(path: Path) -> None:
    TracerProvider(path).shutdown()
    data = bytearray(path.read_bytes())
    data[100:4096] = bytes(range(1, 250)) * 16 + bytes(12)
    path.write_bytes(data)


DAMAGED = [with_junk_after_its_header, of_zeros, cut_short, with_a_scrambled_schema]


@pytest.mark.usefixtures("faults_allowed")
@pytest.mark.parametrize("damage", DAMAGED)
def test_what_is_recorded_beside_a_damaged_database_is_stored_when_that_was_moved_away(
    tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(tmp_path / "traces.db")
    provider = TracerProvider(tmp_path / "traces.db")
    assert capsys.readouterr().err.count("what is recorded meanwhile stays in the journal") == 1
    with provider.get_tracer().span("work") as span:
        pass
    assert not provider.flush(0.1)
    (tmp_path / "traces.db").rename(tmp_path / "moved.db")
    assert provider.flush()
    assert [each.name for each in provider.trace_store.get_trace(span.trace_id)] == ["work"]
    provider.shutdown()


@pytest.mark.usefixtures("faults_allowed")
def test_what_is_recorded_while_a_database_is_locked_from_the_start_is_stored_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    TracerProvider(tmp_path / "traces.db").shutdown()
    with closing(sqlite3.connect(tmp_path / "traces.db", isolation_level=None)) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        db.execute("BEGIN EXCLUSIVE")
        provider = TracerProvider(tmp_path / "traces.db")
        with provider.get_tracer().span("work") as span:
            pass
        assert not provider.flush(0.1)
    assert provider.flush()
    assert [each.name for each in provider.trace_store.get_trace(span.trace_id)] == ["work"]
    provider.shutdown()


def run_script(tmp_path: Path, source: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        cwd=tmp_path, env=os.environ | env, capture_output=True, text=True, check=True,
    )  # fmt: skip


def test_the_journal_of_a_program_that_ended_beside_a_damaged_database_is_recovered_into_a_new_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "home" / "traces.db"
    path.parent.mkdir()
    with_junk_after_its_header(path)
    run_script(
        tmp_path,
        """
        import os
        from clearstone import traced
        traced(name="kept")(abs)(-1)
        os._exit(0)
        """,
    )
    path.unlink()
    provider = TracerProvider(path)
    assert [each.name for each in provider.trace_store.traces()] == ["kept"]
    provider.shutdown()


def of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE notes (text)")


def of_a_newer_version(path: Path) -> None:
    TracerProvider(path).shutdown()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")


def that_is_a_text(path: Path) -> None:
    path.write_text("notes")


@pytest.mark.usefixtures("faults_allowed")
@pytest.mark.parametrize("make", [of_another_program, of_a_newer_version, that_is_a_text])
def test_a_newer_or_another_programs_file_is_refused_and_gets_no_journal(
    tmp_path: Path, make: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "home" / "traces.db"
    path.parent.mkdir()
    make(path)
    with pytest.raises(StoreError, match=r"traces\.db"):
        TracerProvider(path)
    assert [traced(abs)(-1), traced(abs)(-2)] == [1, 2]
    assert default_provider() is None
    assert capsys.readouterr().err.count("clearstone:") == 1
    assert not (path.parent / "traces.db.journal").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps the working directory of a process")
def test_a_program_whose_working_directory_is_gone_runs_and_is_told_that_nothing_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    ended = run_script(
        tmp_path,
        """
        import os
        from clearstone import checkpointable, traced
        os.chdir("gone")
        os.rmdir(os.getcwd())
        @checkpointable
        def fail(): raise ValueError("on purpose")
        print(traced(abs)(-1), traced(abs)(-2))
        try: fail()
        except ValueError as error: print(error)
        """,
        CLEARSTONE_HOME="",
    )
    assert ended.stdout.splitlines() == ["1 2", "on purpose"]
    assert ended.stderr.count("clearstone:") == 1
    assert "the working directory); set CLEARSTONE_HOME" in ended.stderr
