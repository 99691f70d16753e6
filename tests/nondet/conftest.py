"""Every test here leaves the process as it found it, or fails."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import time_machine

if TYPE_CHECKING:
    from collections.abc import Iterator


def state_of_the_process() -> dict[str, Any]:
    builtins: list[Any] = [time.monotonic, time.perf_counter_ns, time.process_time, time.sleep, time.ctime, os.urandom]
    return {
        "builtins": [vars(function.__self__).get(function.__name__) is function for function in builtins],
        "travelling": time_machine.escape_hatch.is_travelling(),
        "environment": dict(os.environ) | {"PYTEST_CURRENT_TEST": ""},
        "time zone": time.tzname,
        "functions": [
            vars(random.Random)["seed"],
            asyncio.new_event_loop,
            asyncio.events.new_event_loop,
            vars(asyncio.BaseEventLoop)["time"],
            vars(threading.Condition)["wait"],
            vars(uuid)["_generate_time_safe"],
        ],
    }


@pytest.fixture(autouse=True)
def _no_clock_reading_collector() -> Iterator[None]:
    """Hypothesis times garbage collections, wherever they happen; each such read moves the steady clocks."""
    kept = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks[:] = kept


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    before = state_of_the_process()
    yield
    assert state_of_the_process() == before
