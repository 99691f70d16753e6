"""A recorder to be killed: it counts in a mapped file what has ended, so that its killer knows what must be kept.

    recorder.py DATABASE COUNTERS SLOT            two threads here, two in a forked child, two in a spawned one
    recorder.py DATABASE COUNTERS SLOT STATEMENT  two threads; dies at that statement of the writer's

Each thread has one slot. After each call that returned it adds one to its slot: a store to memory, no system call.
"""

import mmap
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

from clearstone import configure, traced

SLOTS = 6
STEPS = 20
counters = memoryview(b"")
alone = False


def answer(slot: int, number: int) -> str:
    """What a call returns: mostly short, now and then longer than a page, seldom than many."""
    size = (slot * 7919 + number * 104729) % 997
    if size > 985:
        size *= 300
    return f"{slot}:{number}:" + "x" * size


@traced
def leaf(slot: int, number: int) -> str:
    return answer(slot, number)


@traced
def step(slot: int, number: int) -> str:
    return leaf(slot, number)


@traced
def batch(slot: int, first: int) -> int:
    for number in range(first, first + STEPS):
        step(slot, number)
        counters[slot] = number + 1
    return first


def record(slot: int) -> None:
    batch(slot, 0)
    while not (alone or all(counters)):  # together: the slowest to start would else find a database full of the others'
        time.sleep(0.002)
    first = STEPS
    while True:
        batch(slot, first)
        first += STEPS


def start(slot: int) -> list[threading.Thread]:
    threads = [threading.Thread(target=record, args=(slot + number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    return threads


def open_counters(path: str) -> None:
    global counters
    with Path(path).open("r+b") as file:
        counters = memoryview(mmap.mmap(file.fileno(), SLOTS * 8)).cast("Q")


def spawned(database: str, path: str, slot: int) -> None:
    open_counters(path)
    configure(db_path=database)
    start(slot)[0].join()


def die_at(statement: int) -> None:
    """Let the writer's connection kill the process at its so-manieth statement: in the middle of a transaction."""
    from clearstone.record.default import default_provider

    left = [statement]

    def trace(_: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    found = default_provider()
    assert found is not None
    with found._store.database.using() as db:  # type: ignore[attr-defined]
        db.set_trace_callback(trace)


def main(database: str, path: str, slot: int, statement: int = 0) -> None:
    global alone
    open_counters(path)
    configure(db_path=database)
    if statement:
        alone = True
        die_at(statement)
    threads = start(slot)
    if not statement:
        child = multiprocessing.get_context("spawn").Process(target=spawned, args=(database, path, slot + 4))
        child.start()
        if not os.fork():
            start(slot + 2)[0].join()
    threads[0].join()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
