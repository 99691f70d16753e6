"""A journal that was cut off or damaged gives back everything the damage did not hit, and never a half record."""

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clearstone.observability import MemoryTraceStore
from clearstone.record import layout
from clearstone.record.recovery import recover

SEED = int(os.environ.get("CLEARSTONE_SEED", "3"))
RECORDS = """
import os, signal, sys
from clearstone import configure, traced
from clearstone.record import writer

@traced
def step(number):
    if number == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * "x"

writer.Writer.wake = lambda self, need="look": None  # nothing is stored: all of it lies in the journal
configure(db_path=sys.argv[1])
for number in range(12):
    step(number)
"""

Kept = dict[str, tuple[Any, ...]]


class Dead:
    """What a killed process left: one folder with one segment, whose unused end is cut off to make copies cheap."""

    def __init__(self, database: Path, program: Callable[..., Any]) -> None:
        process = program(RECORDS, database)
        assert process.wait(60) == -signal.SIGKILL, process.communicate()
        (self.segment,) = database.with_name("traces.db.journal").glob("*/*.segment")
        self.folder = self.segment.parent
        self.data = self.segment.read_bytes().rstrip(b"\0") + bytes(64)
        header = layout.read_header(self.data)
        assert header is not None
        self.begin = header.begin
        self.records, _ = layout.cut(self.data[header.begin :])
        self.elsewhere = database.with_name("copies")

    def recovered(self, data: bytes) -> Kept:
        """Return the spans that come back from a journal with these bytes."""
        copy = self.elsewhere / self.folder.name
        copy.mkdir(parents=True)
        shutil.copy(self.folder / "owner.lock", copy)
        (copy / self.segment.name).write_bytes(data)
        store = MemoryTraceStore()
        recover(store, self.elsewhere)
        assert not self.elsewhere.exists(), "it is removed when it is stored"
        found = [span for each in store.traces() for span in store.get_trace(each.trace_id)]
        return {
            span.span_id: (
                span.end_ns,
                span.interrupted,
                span.input.data if span.input else None,
                span.outcome.value.data if span.outcome and span.outcome.value else None,
            )
            for span in found
        }


@pytest.fixture
def dead(database: Path, program: Callable[..., Any]) -> Dead:
    return Dead(database, program)


def test_a_journal_cut_off_at_every_byte_of_its_last_records_keeps_the_ones_before(dead: Dead) -> None:
    whole = dead.recovered(dead.data)
    assert len(whole) == 12
    assert sum(interrupted for _, interrupted, *_ in whole.values()) == 1
    used = len(dead.data) - 64
    start = used + -used % 4 - sum(layout.space(len(record)) for record in dead.records[-2:])
    for end in range(start, used):
        found = dead.recovered(dead.data[:end])
        assert len(found) in {11, 12}, end
        changed = {key for key, value in found.items() if whole[key] != value}
        assert len(changed) <= 1, f"cut at {end}"
        assert all(found[key][:2] == (None, True) for key in changed), "half an end is no end"


def test_bytes_without_a_published_length_are_no_record(dead: Dead) -> None:
    whole = dead.recovered(dead.data)
    last = dead.records[-1]
    at = dead.data.rindex(last) - 4
    for length in (0, len(last)):
        for copied in range(len(last) + 1):
            data = dead.data[:at] + layout.LENGTH.pack(length) + last[:copied] + bytes(4096)
            found = dead.recovered(data)
            assert found == {key: value for key, value in whole.items() if not value[1]}


@pytest.mark.parametrize("state", [0, layout.GIVEN_UP])
def test_a_record_that_did_not_come_costs_itself_alone_and_what_is_behind_it_is_kept(dead: Dead, state: int) -> None:
    whole = dead.recovered(dead.data)
    for number in range(2, len(dead.records) - 1, 3):
        record = dead.records[number]
        at = dead.data.index(layout.framed(record)) + 4
        for copied in (0, 1, len(record) // 2, len(record)):
            data = bytearray(dead.data)
            data[at + copied : at + len(record) + 1] = bytes(len(record) - copied) + bytes((state,))
            found = dead.recovered(bytes(data))
            changed = {key for key, value in whole.items() if found.get(key) != value}
            assert len(changed) == 1, f"record {number}, {copied} bytes of it copied"


@pytest.mark.usefixtures("faults_allowed")
def test_a_flipped_bit_costs_at_most_the_record_it_hits(dead: Dead) -> None:
    flip_bits(dead, every=6)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("faults_allowed")
def test_a_flipped_bit_at_any_byte_costs_at_most_the_record_it_hits(
    dead: Dead, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        flip_bits(dead, every=1)
    with capsys.disabled():
        print(f"{3 * (len(dead.data) - 64):,} bits flipped, one at a time: each cost at most the record it was in")


def flip_bits(dead: Dead, every: int) -> None:
    whole = dead.recovered(dead.data)
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    for at in range(chance.randrange(every), len(dead.data) - 64, every):
        data = bytearray(dead.data)
        data[at] ^= 1 << chance.randrange(8)
        found = dead.recovered(bytes(data))
        lost = {key for key, value in whole.items() if found.get(key) != value}
        most = 2 if at >= dead.begin else 0  # an end may have become another span's
        assert len(lost) <= most, f"bit of byte {at} flipped (the records begin at {dead.begin}): {lost}"


@pytest.mark.usefixtures("faults_allowed")
def test_random_bytes_in_place_of_a_segment_are_survived(dead: Dead) -> None:
    chance = random.Random(SEED)
    print(f"seed {SEED}")
    for _ in range(60):
        start = chance.randrange(len(dead.data))
        junk = chance.randbytes(chance.randrange(1, 200))
        found = dead.recovered(dead.data[:start] + junk + dead.data[start + len(junk) :])
        assert len(found) <= 24
    assert dead.recovered(chance.randbytes(100_000)) == {}
    assert dead.recovered(b"") == {}
