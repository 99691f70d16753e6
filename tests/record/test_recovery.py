"""Recovery: what a dead process left is stored once; what lives, or is somebody else's, is left alone."""

import json
import os
import shutil
import warnings
from pathlib import Path

import pytest

from clearstone import traced
from clearstone.codec import payload
from clearstone.codec.keys import machine_key
from clearstone.observability import MemoryTraceStore, Span, TracerProvider
from clearstone.record import layout, ownership, segments
from clearstone.record.recovery import journal_folder, recover
from clearstone.record.writer import Writer
from clearstone.store.sqlite import SQLiteTraceStore


def leave_behind(database: Path) -> None:
    """Let a child record three calls and die: nothing of it is stored."""
    child = os.fork()
    if not child:
        try:
            Writer.wake = lambda self, need="look": None  # type: ignore[method-assign]
            provider = TracerProvider(database)

            @traced(tracer=provider.get_tracer(), span_type="llm")
            def ask(question: str) -> str:
                return question * 100

            for number in range(3):
                ask(f"question {number} ")
            provider.get_tracer().span("open").__enter__()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "traces.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on: of forks beside threads
        leave_behind(path)
    return path


def spans(store: MemoryTraceStore | SQLiteTraceStore) -> list[Span]:
    return [span for each in store.traces() for span in store.get_trace(each.trace_id)]


def is_proven(span: Span) -> list[bool]:
    assert span.outcome is not None
    held = [span.input, span.outcome.value]
    return [machine_key().vouches(each.name, payload.to_raw(each)[0], each.data) for each in held if each is not None]


@pytest.mark.parametrize("kind", [MemoryTraceStore, SQLiteTraceStore])
def test_everything_is_stored_with_open_spans_interrupted_and_nothing_is_left(kind: type, database: Path) -> None:
    store = kind() if kind is MemoryTraceStore else kind(database)
    assert recover(store, journal_folder(database)) == 1
    found = spans(store)
    assert sorted((span.name.rpartition(".")[2], span.interrupted) for span in found) == [
        ("ask", False), ("ask", False), ("ask", False), ("open", True),
    ]  # fmt: skip
    assert all(all(is_proven(span)) for span in found if not span.interrupted)
    assert not journal_folder(database).exists()
    assert recover(store, journal_folder(database)) == 0
    store.close()


@pytest.mark.parametrize("kind", [MemoryTraceStore, SQLiteTraceStore])
def test_a_copy_is_stored_for_reading_but_its_payloads_prove_nothing(kind: type, database: Path) -> None:
    """A journal in a cloned repository is anybody's: no replay may load it as ours."""
    clone = database.with_name("clone")
    shutil.copytree(journal_folder(database), clone)
    store = kind() if kind is MemoryTraceStore else kind(database)
    recover(store, clone)
    found = [span for span in spans(store) if not span.interrupted]
    assert len(found) == 3
    assert not any(any(is_proven(span)) for span in found)
    store.close()


def test_an_altered_header_proves_nothing(database: Path) -> None:
    (path,) = journal_folder(database).glob("*/*.segment")
    header = layout.read_header(path.read_bytes())
    assert header is not None
    inode = path.stat().st_ino
    assert ownership.proves(header, inode)
    assert not ownership.proves(header, inode + 1)
    assert not ownership.proves(header._replace(about=header.about + b" "), inode)
    assert not ownership.proves(header._replace(proof=layout.NO_PROOF), inode)


def test_a_folder_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    owned = ownership.OwnedFolder(folder, ownership.this_process(), 1)
    assert list(ownership.orphans(folder)) == []
    owned.forget()
    assert list(ownership.orphans(folder)) == [owned.path]


def test_links_and_folders_of_other_users_are_left_alone(database: Path, tmp_path: Path) -> None:
    (orphan,) = journal_folder(database).iterdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "1-2.1").symlink_to(orphan)
    assert list(ownership.orphans(elsewhere)) == []
    if os.geteuid() == 0:
        os.chown(orphan, 12345, 12345)
        assert list(ownership.orphans(journal_folder(database))) == []


def test_a_folder_of_another_machine_on_a_shared_file_system_waits_until_it_is_stale(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (orphan,) = journal_folder(database).iterdir()
    (orphan / ownership.LOCK).write_text(json.dumps({"host": "elsewhere", "boot_id": "another"}))
    assert list(ownership.orphans(orphan.parent)) == [orphan], "a local disk is this machine's, before a reboot"
    monkeypatch.setattr(segments, "file_system", lambda *_: "nfs4")
    assert list(ownership.orphans(orphan.parent)) == []
    for path in (*orphan.iterdir(), orphan):
        os.utime(path, (0, 0))
    assert list(ownership.orphans(orphan.parent)) == [orphan]


def test_what_a_recoverer_or_an_owner_left_half_removed_is_tidied(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    (folder / "1-2.1").mkdir(parents=True)
    (folder / ".3-4.1").mkdir()
    os.utime(folder / ".3-4.1", (0, 0))
    assert recover(MemoryTraceStore(), folder) == 0
    assert not folder.exists()


@pytest.mark.usefixtures("faults_allowed")
def test_a_folder_that_cannot_be_recovered_does_not_keep_others_from_it(database: Path, tmp_path: Path) -> None:
    (orphan,) = journal_folder(database).iterdir()
    bad = orphan.with_name("0-0.1")
    shutil.copytree(orphan, bad)
    (bad / "00000009.segment").symlink_to("/dev/zero")
    store = MemoryTraceStore()
    recover(store, journal_folder(database))
    assert len(spans(store)) == 4
    assert bad.exists()
    assert not orphan.exists()
