"""Ids of spans and traces."""

from __future__ import annotations

import os
import random
import time

from clearstone.record import identity


def test_ids_are_unique_not_zero_and_of_the_shape_opentelemetry_asks_for() -> None:
    spans, traces = {identity.next_span() for _ in range(5000)}, {identity.next_trace(n) for n in range(5000)}
    assert len(spans) == len(traces) == 5000
    assert all(0 < span < 2**63 and len(identity.hex_of(span)) == 16 for span in spans)
    assert {len(trace) for trace in traces} == {16}


def test_trace_ids_begin_with_the_second_so_that_they_lie_together() -> None:
    second = int.from_bytes(identity.next_trace(0)[:4], "big")
    assert abs(second - time.time()) < 60


def test_the_users_random_numbers_are_left_alone() -> None:
    random.seed(1)
    expected = random.random()
    random.seed(1)
    identity.next_trace(1)
    identity.next_span()
    assert random.random() == expected


def test_a_forked_child_makes_ids_of_its_own() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, identity.next_span().to_bytes(8, "big") + identity.next_trace(1))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    theirs = os.read(reader, 100)
    os.close(reader)
    assert int.from_bytes(theirs[:8], "big") != identity.next_span()
    assert theirs[8:] != identity.next_trace(1)
