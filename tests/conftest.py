"""What every test starts from: a home of its own, no default provider, and nothing left behind."""

import atexit
import gc
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from clearstone import home, run
from clearstone.checkpoint import budget
from clearstone.codec import redact
from clearstone.record import default, faults

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

_elsewhere = tempfile.mkdtemp()  # for calls that modules of tests make when they are imported
atexit.register(shutil.rmtree, _elsewhere, ignore_errors=True)
os.environ["CLEARSTONE_HOME"] = os.environ["XDG_CONFIG_HOME"] = _elsewhere


def pytest_collection_finish() -> None:
    """Take the tests themselves out of what is searched for garbage: after each test that took longer than the test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep records in the test's own folder, and fail a test that leaves a span, a patch or a fault behind."""
    monkeypatch.setenv("CLEARSTONE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))  # where the machine's key is made
    monkeypatch.delenv("CLEARSTONE_DISABLED", raising=False)
    home.set_home(None)
    budget.begin_anew()
    clocks = (time.time, time.sleep, os.urandom, random.random, sys.breakpointhook, sys.gettrace())
    faults_before = faults.counts()
    yield
    if default._default is not None:
        default._default.shutdown()
    default._default, default._default_failed, run.usual = None, False, None
    redact.use(redact.Rules())
    home.set_home(None)
    gc.collect()
    assert run.current_span.get() is None, "a span was left current"
    assert run.override.get() is None, "an override was left"
    assert (time.time, time.sleep, os.urandom, random.random, sys.breakpointhook, sys.gettrace()) == clocks
    assert faults.counts() == faults_before, "the recorder had a fault"
    left = [thread for thread in threading.enumerate() if thread.name == "clearstone-replay"]
    assert not left, "a replay's thread was left"


@pytest.fixture
def faults_allowed(isolated: None) -> Iterator[None]:
    """Count the recorder's faults of one test apart: it causes them on purpose."""
    before, faults._counts = faults._counts, Counter()
    yield
    faults._counts = before
