"""The journal: what is appended is there, in order, whatever interrupts it, until it is stored."""

import contextlib
import gc
import inspect
import os
import shutil
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearstone.record import layout, segments
from clearstone.record.journal import Journal
from clearstone.record.site_numbers import MOST_SITES, NO_SITE
from clearstone.record.supply import LARGEST, MEMORY_LIMIT, SMALLEST
from clearstone.store.batch import SiteRow


def nothing(need: str = "look") -> None:
    """Nobody is woken."""


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal", nothing)
    yield made
    drain(made)
    made.close()


def drain(journal: Journal, most: int = 4 << 20) -> list[bytes]:
    """Store everything, as the writer does, and return it."""
    found: list[bytes] = []
    while journal.stored < journal.appended:
        records, size = layout.cut(journal.unread(most), 1000)
        found += records
        journal.advance(size)
    return found


def site(name: str) -> SiteRow:
    return SiteRow(name, name, "", "run", "INTERNAL", "", "")


def segment_files(journal: Journal) -> list[Path]:
    assert journal.folder is not None
    return sorted(journal.folder.glob("*/*.segment"))


def test_records_come_back_as_they_were_and_in_order(journal: Journal) -> None:
    records = [bytes([number % 255 + 1]) * (number % 50 + 1) for number in range(500)]
    assert all(journal.append(record) for record in records)
    assert journal.unstored() == records
    assert drain(journal) == records
    assert journal.unstored() == []


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 400_000), max_size=30), most=st.integers(16, 1 << 20), looks=st.integers(1, 7))
def test_any_sizes_come_back_across_segments_in_any_pieces(sizes: list[int], most: int, looks: int) -> None:
    journal = Journal(None, nothing)
    records = [bytes([number % 255 + 1]) * size for number, size in enumerate(sizes)]
    found: list[bytes] = []
    for number, record in enumerate(records):
        assert journal.append(record)
        if number % looks == 0:
            found += drain(journal, most)
    assert found + drain(journal, most) == records


def test_a_record_bigger_than_every_segment_has_one_of_its_own(journal: Journal) -> None:
    big = os.urandom(LARGEST + 12345)
    journal.append(b"before")
    journal.append(big)
    journal.append(b"after")
    assert drain(journal) == [b"before", big, b"after"]


def test_segments_grow_from_one_megabyte_to_sixteen_and_no_further(journal: Journal) -> None:
    sizes: set[int] = set()
    for _ in range(700):
        journal.append(bytes(b"x" * 100_000))
        sizes.update(path.stat().st_size for path in segment_files(journal))
        journal.keep_spare()
        drain(journal)
    assert sizes == {SMALLEST << power for power in range(5)}
    assert max(sizes) == LARGEST


def test_a_busy_process_has_a_spare_before_its_segment_is_half_full(journal: Journal) -> None:
    def spares(records: int) -> int:
        for _ in range(records):
            journal.append(b"x" * 100_000)
        journal.keep_spare()
        return len(segment_files(journal)) - 1

    assert spares(2) == 0, "short-lived processes stay cheap"
    assert spares(4) == 1, "it is more than half full"
    while journal.segment.size < LARGEST:
        spares(1)
        drain(journal)
    assert journal.segment.at * 2 < LARGEST
    assert spares(1) == 1


def test_a_segment_that_is_stored_is_used_again_and_shows_nothing_of_before(journal: Journal) -> None:
    for _ in range(700):
        journal.append(b"x" * 100_000)
        journal.keep_spare()
        drain(journal)
    names = {path.name for path in segment_files(journal)}
    for _ in range(1000):
        journal.append(b"y" * 100_000)
        journal.keep_spare()
        drain(journal)
    assert {path.name for path in segment_files(journal)} <= names, "the same files serve for ever"
    journal.append(b"z" * 7)
    (held,) = (each for each in map(read_segment, segment_files(journal)) if b"z" * 7 in each)
    assert all(record[0] in b"yz" for record in held[len(journal.sites.definitions) :])


def read_segment(path: Path) -> list[bytes]:
    data = path.read_bytes()
    header = layout.read_header(data)
    return layout.cut(data[header.begin :])[0] if header is not None else []


def test_every_block_of_a_segment_is_allocated(journal: Journal) -> None:
    journal.append(b"record")
    (path,) = segment_files(journal)
    assert path.stat().st_blocks * 512 >= SMALLEST


def test_folders_and_files_are_their_owners_alone(journal: Journal) -> None:
    journal.append(b"record")
    assert journal.folder is not None
    everything = [journal.folder, *journal.folder.rglob("*")]
    assert {oct(path.stat().st_mode & 0o777) for path in everything if path.is_dir()} == {"0o700"}
    assert {oct(path.stat().st_mode & 0o777) for path in everything if path.is_file()} == {"0o600"}


@pytest.mark.usefixtures("place")
def test_closing_leaves_nothing_behind_once_everything_is_stored(journal: Journal) -> None:
    assert journal.folder is not None
    journal.append(b"record")
    journal.close()
    assert segment_files(journal), "what is not stored stays"
    drain(journal)
    journal.close()
    assert not journal.folder.exists()
    journal.append(b"again")
    assert drain(journal) == [b"again"]


def test_a_closed_journal_keeps_the_folder_of_another_process(journal: Journal) -> None:
    assert journal.folder is not None
    other = journal.folder / "other.1"
    other.mkdir(parents=True)
    journal.append(b"record")
    drain(journal)
    journal.close()
    assert other.exists()


# --- what interrupts an append ---------------------------------------------------------------------------------------


INTERRUPTED = {each.__code__: inspect.getsourcelines(each) for each in (Journal.append, Journal._append_with_lock)}


def interrupting(journal: Journal, do: Callable[[], object]) -> Callable[[bytes], bool]:
    """Return an append before whose lines `do` is called, as a handler would be, but for the line that ends it all."""

    def trace(frame: types.FrameType, event: str, _: object) -> Any:
        lines, first = INTERRUPTED[frame.f_code]
        if event == "line" and "self._busy = False" not in lines[frame.f_lineno - first]:
            sys.settrace(None)
            do()
            sys.settrace(watch)
        return trace

    def watch(frame: types.FrameType, event: str, _: object) -> Any:
        return trace if frame.f_code in INTERRUPTED else None

    def append(record: bytes) -> bool:
        before = sys.gettrace()  # coverage's
        sys.settrace(watch)
        try:
            return journal.append(record)
        finally:
            sys.settrace(before)

    return append


@pytest.fixture(params=["mapped", "written", "mapped, with a lock"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the journal is, and how: in a Python that changes threads anywhere a lock is taken."""
    where, _, lock = request.param.partition(", ")
    monkeypatch.setattr(segments, "place_for", lambda _: where)
    if lock:
        monkeypatch.setattr(segments, "DIRECT", False)
    return str(request.param)


@pytest.mark.usefixtures("place")
def test_what_a_handler_appends_in_the_middle_of_an_append_is_kept_in_its_order(journal: Journal) -> None:
    numbers = iter(range(100_000))
    append = interrupting(journal, lambda: [journal.append(b"inner %05d" % next(numbers)) for _ in range(3)])
    for number in range(50):
        append(b"outer %05d" % number)
    found = drain(journal)
    inner, outer = ([each for each in found if each.startswith(kind)] for kind in (b"inner", b"outer"))
    assert outer == [b"outer %05d" % number for number in range(50)]
    assert inner == [b"inner %05d" % number for number in range(len(inner))]
    assert len(inner) == next(numbers) > 500


@pytest.mark.usefixtures("place")
def test_thousands_of_records_put_beside_do_not_meet_the_recursion_limit(journal: Journal) -> None:
    once = iter([10_000])
    append = interrupting(journal, lambda: [journal.append(b"inner") for _ in range(next(once, 0))])
    append(b"outer")
    assert len(drain(journal)) == 10_001


@pytest.mark.usefixtures("place")
def test_a_handler_that_raises_in_the_middle_of_an_append_leaves_no_half_record(journal: Journal) -> None:
    left = [0]

    def give_up() -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    append = interrupting(journal, give_up)
    expected = []
    for line in range(1, 24):
        left[0] = line
        with contextlib.suppress(KeyboardInterrupt):
            append(b"long " * 40)
        record = b"short %d" % line
        journal.append(record)
        expected.append(record)
    files = [record for path in segment_files(journal) for record in read_segment(path)]
    assert set(files) <= {b"long " * 40, *expected}, "nothing torn can be recovered"
    assert [record for record in drain(journal) if record.startswith(b"short")] == expected


@pytest.mark.usefixtures("place")
def test_what_a_handler_put_beside_is_overtaken_by_nothing_and_is_on_disk_with_the_next_record(
    journal: Journal,
) -> None:
    journal.append(b"first")
    with journal._alone():  # as `keep_spare`, `advance` and `close` are when a handler comes
        journal.append(b"second")
    journal.append(b"third")
    files = [record for path in segment_files(journal) for record in read_segment(path)]
    assert files == drain(journal) == [b"first", b"second", b"third"]


def test_a_place_in_a_segment_that_serves_again_cannot_be_given_up(journal: Journal) -> None:
    journal.append(b"one")
    old = journal.segment
    while journal.segment is old:
        journal.append(b"." * 1000)
    drain(journal)
    while journal.segment.size < old.size or old.data:
        journal.append(b"." * 1000)
        drain(journal)
    before = [path.read_bytes() for path in segment_files(journal)]
    assert old.give_up(old.begin, 3), "it came"
    assert [path.read_bytes() for path in segment_files(journal)] == before


@pytest.mark.usefixtures("place")
def test_a_real_signal_handler_may_append_at_any_moment(journal: Journal) -> None:
    handled, over = [0], list[bool]()

    def handler(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)  # one at a time, so that their numbers are in order
        journal.append(b"handler %06d" % handled[0])
        handled[0] += 1
        if not over and handled[0] < 5_000:  # a machine whose timer fires before the program goes on is done too
            signal.setitimer(signal.ITIMER_REAL, 0.0003)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0003)
    try:
        for number in range(60_000):
            journal.append(b"program %06d " % number + b"." * 150)
            if number % 500 == 0:
                journal.keep_spare()
    finally:
        over.append(True)  # else a handler that is due just now sets the timer again, for whoever has the signal next
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    found = drain(journal)
    assert [each for each in found if each.startswith(b"handler")] == [b"handler %06d" % n for n in range(handled[0])]
    assert sum(each.startswith(b"program") for each in found) == 60_000


@pytest.mark.usefixtures("place")
def test_a_finalizer_may_append_while_a_record_is_being_made(journal: Journal) -> None:
    class Tells:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            journal.append(b"finalizer")

    for number in range(3000):
        Tells()
        journal.append(b"program %d" % number)
    gc.collect()
    found = drain(journal)
    assert found.count(b"finalizer") == 3000
    assert len(found) == 6000


@pytest.mark.usefixtures("place")
def test_many_threads_append_and_nothing_is_lost_twice_or_out_of_order(journal: Journal) -> None:
    found: list[bytes] = []
    done = threading.Event()

    def write() -> None:
        while not done.is_set() or journal.stored < journal.appended:
            journal.keep_spare()
            found.extend(drain(journal))

    def append(name: int) -> None:
        for number in range(5000):
            journal.append(b"%d %06d " % (name, number) + b"." * (number % 300))

    writer = threading.Thread(target=write)
    threads = [threading.Thread(target=append, args=(name,)) for name in range(6)]
    for thread in (writer, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    writer.join()
    for name in range(6):
        mine = [record.rstrip(b".") for record in found if record.startswith(b"%d " % name)]
        assert mine == [b"%d %06d " % (name, number) for number in range(5000)]


# --- sites -----------------------------------------------------------------------------------------------------------


def test_a_site_is_defined_once_and_again_at_the_head_of_each_segment(journal: Journal) -> None:
    assert (journal.sites.number(site("a")), journal.sites.number(site("b")), journal.sites.number(site("a"))) == (
        1,
        2,
        1,
    )
    for _ in range(30):
        journal.append(b"x" * 100_000)
    heads = [
        {layout.read(record) for record in read_segment(path)[:3] if record[0] == 4} for path in segment_files(journal)
    ]
    assert len(heads) > 1
    expected = {layout.SiteDefinition(1, site("a")), layout.SiteDefinition(2, site("b"))}
    assert all(head == expected for head in heads)


def test_names_made_at_run_time_do_not_fill_the_headers() -> None:
    journal = Journal(None, nothing)
    numbers = [journal.sites.number(site(f"name {number}")) for number in range(MOST_SITES + 10)]
    assert numbers[-10:] == [NO_SITE] * 10
    assert len(set(numbers)) == MOST_SITES + 1


def test_a_site_whose_definition_has_no_room_gets_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(None, nothing, limit=SMALLEST)
    while journal.append(b"x" * 1000):
        pass
    while journal.append(b"x"):
        pass
    assert journal.sites.number(site("late")) == NO_SITE
    drain(journal)
    assert journal.sites.number(site("late")) != NO_SITE, "later there is room"
    assert "dropped" in capsys.readouterr().err


# --- a full journal --------------------------------------------------------------------------------------------------


def test_past_the_limit_records_are_dropped_counted_and_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(tmp_path / "journal", nothing, limit=4 << 20)
    kept = sum(journal.append(b"x" * 100_000) for _ in range(100))
    assert journal.dropped == 100 - kept > 0
    assert len(drain(journal)) == kept
    assert journal.append(b"there is room again")
    assert capsys.readouterr().err.count("the journal is full") == 1
    drain(journal)
    journal.close()


def test_a_blocked_append_goes_on_when_there_is_room() -> None:
    woken = threading.Event()
    journal = Journal(None, lambda need="look": woken.set(), limit=2 << 20, on_full="block")
    done: list[bool] = []

    def append() -> None:
        done.extend(journal.append(b"x" * 100_000) for _ in range(60))

    thread = threading.Thread(target=append)
    thread.start()
    found: list[bytes] = []
    while thread.is_alive():
        woken.wait(0.01)
        found += drain(journal)
    found += drain(journal)
    assert done == [True] * 60
    assert len(found) == 60
    assert journal.dropped == 0


def test_a_thread_that_defines_a_site_while_the_journal_is_full_does_not_keep_the_writer_out() -> None:
    journal = Journal(None, nothing, limit=SMALLEST, on_full="block")
    while journal.segment.at + 2000 < journal.segment.size:
        journal.append(b"x" * 1000)
    while journal.segment.at + 12 < journal.segment.size:
        journal.append(b"x")
    thread = threading.Thread(target=journal.sites.number, args=(site("a site with a long name"),))
    thread.start()
    time.sleep(0.05)
    while thread.is_alive():
        drain(journal)
        thread.join(0.01)
    assert journal.sites.number(site("a site with a long name")) == 1


def test_a_thread_that_may_not_wait_drops_instead(capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(None, nothing, limit=SMALLEST, on_full="block", may_wait=lambda: False)
    kept = sum(journal.append(b"x" * 100_000) for _ in range(20))
    assert journal.dropped == 20 - kept
    assert "dropped" in capsys.readouterr().err


# --- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("place")
def test_mapped_and_written_files_hold_the_same(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", nothing)
    records = [b"x%d" % number * (number % 9000 + 1) for number in range(600)]
    for record in records:
        journal.append(record)
    on_disk = [record for path in segment_files(journal) for record in read_segment(path)]
    assert sorted(on_disk) == sorted(records)
    assert drain(journal) == records
    journal.close()


def test_a_file_that_takes_no_more_is_left_for_memory_and_no_record_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(segments, "place_for", lambda _: "written")
    journal = Journal(tmp_path / "journal", nothing)
    journal.append(b"first")
    data = journal.segment.data
    assert isinstance(data, segments.WrittenBytes)
    fd, full = data.fd, os.open("/dev/full", os.O_RDWR)
    kept = os.dup(fd)
    os.dup2(full, fd)  # every write says: no space left on device
    journal.append(b"second")
    os.dup2(kept, fd)
    os.close(full)
    os.close(kept)
    journal.append(b"third")
    assert drain(journal) == [b"first", b"second", b"third"]
    assert capsys.readouterr().err.count("records wait in memory") == 1
    journal.close()
    assert not (tmp_path / "journal").exists()


def test_without_a_folder_to_write_to_records_wait_in_memory_up_to_its_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    journal = Journal(tmp_path / "file" / "journal", nothing)
    kept = sum(journal.append(b"x" * (1 << 20)) for _ in range(100))
    assert kept << 20 <= MEMORY_LIMIT
    assert kept > 30
    assert len(drain(journal)) == kept
    assert capsys.readouterr().err.count("records wait in memory") == 1


def test_a_folder_that_is_removed_meanwhile_is_made_again(journal: Journal) -> None:
    assert journal.folder is not None
    journal.append(b"before")
    shutil.rmtree(journal.folder)
    records = [b"x" * 100_000 for _ in range(30)]
    for record in records:
        journal.append(record)
    assert segment_files(journal)
    assert drain(journal) == [b"before", *records]


# --- fork ------------------------------------------------------------------------------------------------------------


def in_child(do: Callable[[], bool]) -> bool:
    """Run `do` in a forked child; return what it returned."""
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if do() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_journal_of_its_own(journal: Journal) -> None:
    journal.append(b"parent")

    def child() -> bool:
        journal.after_fork_in_child()
        assert journal.unstored() == []
        journal.append(b"child")
        found = drain(journal)
        journal.close()
        return found == [b"child"]

    assert in_child(child)
    assert drain(journal) == [b"parent"]


def test_a_child_forked_while_the_next_segment_is_made_shares_nothing(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, child = segments.in_file, [-1]

    def forking(*args: object) -> object:
        made = real(*args)  # type: ignore[arg-type]
        if child[0] < 0:  # as a signal handler would, in the middle of it
            journal.before_fork()
            child[0] = os.fork()
            (journal.after_fork_in_parent if child[0] else journal.after_fork_in_child)()
        return made

    monkeypatch.setattr(segments, "in_file", forking)
    kept = journal.append(b"the parent's")
    if not child[0]:
        own = journal.append(b"the child's")
        os._exit(0 if not kept and own and drain(journal) == [b"the child's"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child[0], 0)[1]) == 0
    assert drain(journal) == [b"the parent's"]
