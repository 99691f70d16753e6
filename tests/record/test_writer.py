"""The writer: what is appended reaches the store once, whatever the store does, and nobody waits for themselves."""

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from clearstone import traced
from clearstone.errors import StoreError, UnstorableSpanError
from clearstone.observability import MemoryTraceStore, TracerProvider
from clearstone.record import writer
from clearstone.store.batch import Batch


class Store(MemoryTraceStore):
    """A store that calls `before` with each batch."""

    def __init__(self, before: Callable[[Batch], object] = lambda _: None) -> None:
        super().__init__()
        self.before = before
        self.tidied: list[float] = []

    def apply(self, batch: Batch) -> None:
        self.before(batch)
        super().apply(batch)

    def tidy(self, seconds: float) -> bool:
        self.tidied.append(seconds)
        return len(self.tidied) < 3


def recorder(store: Any, **options: Any) -> tuple[TracerProvider, Callable[[int], int]]:
    provider = TracerProvider(store=store, **options)

    @traced(tracer=provider.get_tracer(), name="step")
    def step(number: int) -> int:
        return number

    return provider, step


def count(store: MemoryTraceStore) -> int:
    return sum(each.spans for each in store.traces())


@pytest.mark.usefixtures("faults_allowed")
def test_a_store_that_fails_is_tried_again_until_it_takes_everything() -> None:
    left = [3]

    def fail(_: Batch) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise StoreError("down")

    store = Store(fail)
    provider, step = recorder(store)
    for number in range(100):
        step(number)
    assert provider.flush(20)
    assert count(store) == 100
    assert provider.shutdown()


@pytest.mark.usefixtures("faults_allowed")
@pytest.mark.parametrize("error", [UnstorableSpanError, ValueError, TypeError, KeyError])
def test_a_record_no_store_can_take_costs_itself_alone(error: type[Exception]) -> None:
    def fail(batch: Batch) -> None:
        if any(row.input is not None and b"\x07" in row.input.data[:20] for row in batch.spans):
            raise error("not this one")

    store = Store(fail)
    provider, step = recorder(store)
    for number in range(10):
        step(number)
    assert provider.flush()
    assert provider.shutdown()
    assert count(store) < 10
    assert count(store) >= 9


@pytest.mark.usefixtures("faults_allowed")
def test_a_store_that_records_flushes_and_shuts_down_inside_a_batch_is_not_waited_for() -> None:
    answers: list[bool] = []

    def inside(_: Batch) -> None:
        if not answers:
            answers.append(bool(provider.flush(30)))
            step(-1)
            answers.append(bool(provider.shutdown(30)))

    store = Store(inside)
    provider, step = recorder(store)
    for number in range(20):
        step(number)
    provider.flush(0.5)
    assert provider.shutdown(20)
    assert count(store) == 21
    assert answers[0] is False


def test_a_store_without_tidy_or_interrupt_works() -> None:
    class Plain:
        def __init__(self) -> None:
            self.kept = MemoryTraceStore()
            self.apply = self.kept.apply
            self.close = self.kept.close

    store = Plain()
    provider, step = recorder(store)
    step(1)
    assert provider.shutdown()
    assert count(store.kept) == 1


def test_at_the_end_the_store_is_tidied_in_small_pieces_until_nothing_is_left() -> None:
    store = Store()
    provider, step = recorder(store)
    step(1)
    assert provider.shutdown()
    assert len(store.tidied) == 3
    assert all(seconds <= 0.2 for seconds in store.tidied)
    assert provider.shutdown()
    assert len(store.tidied) == 3, "once"


@pytest.mark.usefixtures("faults_allowed")
def test_a_failing_tidy_costs_nothing() -> None:
    store = Store()
    store.tidy = lambda _: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    provider, step = recorder(store)
    step(1)
    assert provider.shutdown()
    assert count(store) == 1


def test_spans_that_end_after_a_shutdown_are_stored_by_their_own_thread() -> None:
    store = Store()
    provider, step = recorder(store)
    step(1)
    assert provider.shutdown()
    threads: list[threading.Thread] = []
    store.before = lambda _: threads.append(threading.current_thread())
    step(2)
    assert count(store) == 2
    assert set(threads) == {threading.current_thread()}
    assert provider.shutdown()


@pytest.mark.usefixtures("faults_allowed")
def test_what_is_dropped_is_said_once_and_in_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    down = [True]

    def fail(_: Batch) -> None:
        if down[0]:
            raise StoreError("down")

    store = Store(fail)
    provider, step = recorder(store, journal_limit=1 << 20)
    for number in range(20_000):
        assert step(number) == number
    down[0] = False
    report = provider.flush(20)
    assert report
    assert report.dropped > 0
    assert f"{report.dropped:,} record(s) were dropped" in str(report)
    assert capsys.readouterr().err.count("the journal is full") == 1
    found = list(store.spans())
    assert sum(span.end_ns is not None for span in found) >= len(found) - 1
    assert provider.shutdown()


@pytest.mark.usefixtures("faults_allowed")
def test_records_without_room_do_not_hurry_a_writer_whose_store_fails(capsys: pytest.CaptureFixture[str]) -> None:
    tries, down = [0], [True]

    def fail(_: Batch) -> None:
        tries[0] += 1
        if down[0]:
            raise StoreError("down")

    provider, step = recorder(Store(fail), journal_limit=1 << 20)
    for number in range(30_000):
        step(number)
    assert provider.journal.dropped > 10_000
    assert tries[0] < 50, "as often as the pauses let it: twenty times in half a minute"
    assert "the journal is full" in capsys.readouterr().err
    down[0] = False
    assert provider.shutdown(20)


@pytest.mark.usefixtures("faults_allowed")
def test_a_blocked_call_goes_on_when_the_store_comes_back_and_nothing_is_lost() -> None:
    down = threading.Event()

    def fail(_: Batch) -> None:
        if not down.is_set():
            raise StoreError("down")

    store = Store(fail)
    provider, step = recorder(store, journal_limit=1 << 20, on_full="block")
    thread = threading.Thread(target=lambda: [step(number) for number in range(10_000)])
    thread.start()
    thread.join(1)
    assert thread.is_alive(), "it waits"
    down.set()
    thread.join(60)
    assert provider.shutdown(20)
    assert count(store) == 10_000


@pytest.mark.usefixtures("faults_allowed")
def test_a_blocked_call_does_not_wait_for_a_writer_that_is_closed(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: Batch) -> None:
        raise StoreError("down")

    provider, step = recorder(Store(fail), journal_limit=1 << 20, on_full="block")
    step(0)
    assert not provider.shutdown(0.1)
    for number in range(10_000):
        assert step(number) == number
    assert provider.journal.dropped > 0
    assert "the journal is full" in capsys.readouterr().err
    provider._store.before = lambda _: None  # type: ignore[attr-defined]
    assert provider.shutdown()


def test_a_record_wakes_a_writer_that_is_about_to_park(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "LOOK_SECONDS", 0.0005)
    monkeypatch.setattr(writer, "LOOKS_BEFORE_PARKING", 1)
    provider, step = recorder(Store())
    pauses = random.Random(0)
    for number in range(1500):
        step(number)
        time.sleep(pauses.choice([0, 0.0003, 0.0008, 0.002]))
        if number % 10 == 0:
            until = time.monotonic() + 20
            while provider.journal.stored < provider.journal.appended and time.monotonic() < until:
                time.sleep(0.0005)
            assert provider.journal.stored == provider.journal.appended, "it sleeps on records"
    assert provider.shutdown()


def test_nobody_turns_in_circles_for_a_record_that_is_being_copied() -> None:
    store = Store()
    provider, step = recorder(store)
    step(1)
    assert provider.flush(20)
    segment = provider.journal.segment
    kept = segment.at
    segment.at += 32  # as a thread does that a tracer stopped between keeping a place and filling it
    step(2)
    assert not provider.flush(0.3)
    assert not provider._writer._store_the_rest()
    assert count(store) == 1
    segment.give_up(kept, 24)
    assert provider.shutdown(20)
    assert count(store) == 2


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that lets calls pass for an hour, where nothing else tells it to store."""
    monkeypatch.setattr(writer, "LOOK_SECONDS", 3600)


@pytest.mark.usefixtures("unhurried")
def test_calls_of_a_burst_have_the_interpreter_to_themselves_and_who_waits_for_the_store_does_not_wait_long() -> None:
    store = Store()
    provider, step = recorder(store)
    for number in range(1000):
        step(number)
    time.sleep(0.3)
    assert count(store) == 0
    for number in range(3):
        assert provider.flush(20)
        assert count(store) == 1000 + number
        step(number)
    assert provider.shutdown(20)


@pytest.mark.usefixtures("unhurried")
def test_a_flush_of_more_than_a_batch_does_not_pause_between_batches() -> None:
    store = Store()
    provider, step = recorder(store)
    for number in range(writer.MOST_RECORDS + 100):  # two records a call
        step(number)
    assert provider.flush(20)
    assert count(store) == writer.MOST_RECORDS + 100
    assert provider.shutdown(20)


@pytest.mark.usefixtures("unhurried")
def test_what_fills_a_segment_is_stored_though_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "LARGEST", 1 << 20)
    stored = threading.Event()
    store = Store(lambda _: stored.set())
    provider, step = recorder(store)
    for number in range(10_000):
        step(number)
    assert stored.wait(20)
    assert provider.shutdown(20)


@pytest.mark.usefixtures("unhurried")
def test_a_blocked_call_does_not_wait_for_the_pause_of_the_writer() -> None:
    store = Store()
    provider, step = recorder(store, journal_limit=1 << 20, on_full="block")
    for number in range(10_000):
        step(number)
    assert provider.shutdown(20)
    assert count(store) == 10_000
    assert provider.journal.dropped == 0
