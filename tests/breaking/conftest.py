"""What the breaking tests share: programs in their own processes, and what must be true of what they leave behind."""

import contextlib
import importlib.util
import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import clearstone
from clearstone.codec import payload
from clearstone.observability import Span, TracerProvider
from clearstone.store.sqlite import SQLiteTraceStore

SOURCE = str(Path(clearstone.__file__).parents[1])
PROGRAMS = Path(__file__).parent / "programs"
LONGEST_WAIT = 60.0


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "traces.db"


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PROGRAMS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Spans:
    """Everything a trace database holds, after an opening recovered what was left."""

    def __init__(self, database: Path) -> None:
        provider = TracerProvider(database)
        assert provider.flush(LONGEST_WAIT)
        assert provider.shutdown(LONGEST_WAIT)
        store = SQLiteTraceStore(database)
        self.all: list[Span] = [span for each in store.traces() for span in store.get_trace(each.trace_id)]
        store.close()
        self.by_id = {span.span_id: span for span in self.all}
        assert not database.with_name(f"{database.name}.journal").exists(), "a journal is left"

    def named(self, name: str) -> list[Span]:
        return [span for span in self.all if span.name == name]

    def given(self, name: str) -> dict[Any, Span]:
        """Spans of a name by their positional arguments; none twice."""
        found: dict[Any, Span] = {}
        for span in self.named(name):
            assert span.input is not None
            arguments = payload.load(span.input)[0]
            assert arguments not in found, f"{name}{arguments} is there twice"
            found[arguments] = span
        return found


def result(span: Span) -> Any:
    assert span.outcome is not None
    assert span.outcome.value is not None
    return payload.load(span.outcome.value)


@pytest.fixture
def recovered(database: Path) -> Callable[[], Spans]:
    """Open the test's database, as the next process would, and return what it holds."""
    return lambda: Spans(database)


@pytest.fixture
def result_of() -> Callable[[Span], Any]:
    return result


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a Python program, given as text; whatever runs at the end of the test is killed with its children."""
    started: list[subprocess.Popen[str]] = []

    def start(source: str | Path, *arguments: object, **options: Any) -> "subprocess.Popen[str]":
        if isinstance(source, str):
            path = tmp_path / f"program{len(started)}.py"
            path.write_text(textwrap.dedent(source))
        else:
            path = source
        process = subprocess.Popen(
            [sys.executable, str(path), *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": SOURCE}, **options,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        end_all(process)


def end_all(process: "subprocess.Popen[str]") -> None:
    """Kill a program of ours and its children: they are a session of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


class Recorder:
    """The program `recorder.py`, and what it must leave behind."""

    def __init__(self, database: Path, start: Callable[..., "subprocess.Popen[str]"]) -> None:
        self.module = _module("recorder")
        self.database = database
        self.counters = database.with_name("counters")
        self.counters.write_bytes(bytes(self.module.SLOTS * 8))
        self._start = start

    def count(self) -> list[int]:
        return list(struct.unpack(f"={self.module.SLOTS}Q", self.counters.read_bytes()))

    def run(self, *options: object) -> "subprocess.Popen[str]":
        return self._start(PROGRAMS / "recorder.py", self.database, self.counters, 0, *options)

    def run_until_killed(self, seconds: float, before: float = 0.0) -> None:
        process = self.run()
        until = time.monotonic() + LONGEST_WAIT
        while not all(self.count()):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until, self.count()
            time.sleep(0.005)
        time.sleep(seconds)
        end_all(process)

    def check(self) -> int:
        """Hold what was left against what had returned; return how many spans that were."""
        counted = self.count()
        found = Spans(self.database)
        steps, leaves, batches = (found.given(name) for name in ("step", "leaf", "batch"))
        for slot, ended in enumerate(counted):
            for number in range(ended):
                step, leaf = steps[slot, number], leaves[slot, number]
                assert step.end_ns is not None
                assert leaf.end_ns is not None
                assert leaf.parent_id == step.span_id
                above = found.by_id[step.parent_id or ""]
                assert above is batches[slot, number - number % self.module.STEPS]
        for kept in (steps, leaves):
            for arguments, span in kept.items():
                if span.end_ns is None:
                    assert span.interrupted
                    assert arguments[1] >= counted[arguments[0]]
                else:
                    assert not span.interrupted
                    assert result(span) == self.module.answer(*arguments)
        for (slot, first), span in batches.items():
            assert span.interrupted == (span.end_ns is None)
            assert span.end_ns is not None or first + self.module.STEPS >= counted[slot]
        return sum(counted) * 2


@pytest.fixture
def recorder(database: Path, program: Callable[..., "subprocess.Popen[str]"]) -> Recorder:
    return Recorder(database, program)
