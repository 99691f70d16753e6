"""The provider where its store cannot be used: what it still knows, what it refuses, what it keeps for later."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from clearstone import checkpointable, configure, traced
from clearstone.checkpoint.manager import CheckpointManager
from clearstone.codec import payload
from clearstone.observability import TracerProvider
from clearstone.record import provider as providers
from clearstone.span import Trace


@contextmanager
def locked(provider: TracerProvider) -> Iterator[None]:
    """Hold the provider's database, with all stored that was recorded before."""
    assert provider.database is not None
    assert provider.flush()
    with closing(sqlite3.connect(provider.database, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


def results(trace: Trace) -> dict[str, Any]:
    return {each.name: payload.load(each.outcome.value) for each in trace if each.outcome and each.outcome.value}


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TracerProvider]:
    monkeypatch.setattr(providers, "GLANCE_SECONDS", 0.1)
    made = TracerProvider(tmp_path / "traces.db", payload_limit=1000)
    yield made
    made.shutdown()


# --- what waits while the store is locked ----------------------------------------------------------------------------


def test_a_payload_in_a_file_is_read_from_there_while_the_store_does_not_take_its_span(
    provider: TracerProvider,
) -> None:
    with provider.get_tracer().span("outer") as outer:
        traced(name="first")(lambda: "small")()
        with locked(provider):
            traced(name="tool")(lambda: "y" * 5000)()
            trace = provider.trace_so_far(outer.trace_id)
    assert results(trace) == {"first": "small", "tool": "y" * 5000}


def test_a_checkpoint_saved_while_the_store_is_locked_holds_the_payload_of_a_file(
    provider: TracerProvider, tmp_path: Path
) -> None:
    configure(provider=provider)

    class Agent:
        @traced(name="tool")
        def tool(self) -> str:
            return "y" * 5000

        @checkpointable
        def run(self) -> None:
            self.tool()
            raise ValueError("on purpose")

    with locked(provider), pytest.raises(ValueError, match="on purpose"):
        Agent().run()
    (file,) = (tmp_path / "home" / "checkpoints").glob("*.ckpt")
    assert results(CheckpointManager().load_checkpoint(file).trace) == {"tool": "y" * 5000}


@pytest.mark.usefixtures("faults_allowed")
def test_where_such_a_file_is_gone_the_open_spans_are_known_all_the_same(provider: TracerProvider) -> None:
    with provider.get_tracer().span("outer") as outer, locked(provider):
        traced(name="tool")(lambda: "y" * 5000)()
        assert provider.blobs is not None
        for file in provider.blobs.iterdir():
            file.unlink()
        assert [span.name for span in provider.trace_so_far(outer.trace_id)] == ["outer"]
