"""Ids of spans and traces."""

from __future__ import annotations

import os
import random
import time

from clearstone.record import identity


def test_ids_are_unique_not_zero_and_of_the_shape_opentelemetry_asks_for() -> None:
    spans, traces = {next(identity.count) for _ in range(5000)}, {identity.next_trace() for _ in range(5000)}
    assert len(spans) == len(traces) == 5000
    assert all(0 < span < 2**63 and len(identity.hex_of(span)) == 16 for span in spans)
    assert {len(trace) for trace in traces} == {16}


def test_trace_ids_begin_with_the_second_so_that_they_lie_together() -> None:
    identity.traces.clear()  # those in stock were made when the last of them was used up
    second = int.from_bytes(identity.next_trace()[:4], "big")
    assert abs(second - time.time()) < 60


def test_the_users_random_numbers_are_left_alone() -> None:
    random.seed(1)
    expected = random.random()
    random.seed(1)
    identity.next_trace()
    next(identity.count)
    assert random.random() == expected


def test_a_forked_child_makes_ids_of_its_own() -> None:
    identity.next_trace()  # the parent has some in stock
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, next(identity.count).to_bytes(8, "big") + identity.next_trace())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    theirs = os.read(reader, 100)
    os.close(reader)
    assert int.from_bytes(theirs[:8], "big") != next(identity.count)
    assert theirs[8:] not in {identity.next_trace() for _ in range(2 * identity.STOCK)}
