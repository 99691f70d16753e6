"""Streams that are no generators, and awaitables of plain functions, are served in a replay as they were recorded."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from clearstone.debugging import CheckpointManager, ReplayEngine
from clearstone.errors import BeyondRecord
from clearstone.replay import targets
from clearstone.run import Answer

if TYPE_CHECKING:
    from pathlib import Path

names = itertools.count()

AGENT = """
    import asyncio, functools
    from clearstone import checkpointable, traced

    LIVE = []

    class Stream:
        def __init__(self, items, error=None):
            self._items, self._error = iter(items), error
        def __iter__(self):
            return self
        def __next__(self):
            LIVE.append("item")
            try:
                return next(self._items)
            except StopIteration:
                if self._error:
                    raise self._error
                raise
        def __enter__(self):
            return self
        def __exit__(self, *_):
            self.close()
        def close(self):
            LIVE.append("closed")

    class AsyncStream:
        def __init__(self, items):
            self._items = iter(items)
        def __aiter__(self):
            return self
        async def __anext__(self):
            LIVE.append("item")
            try:
                return next(self._items)
            except StopIteration:
                raise StopAsyncIteration
        async def __aenter__(self):
            return self
        async def __aexit__(self, *_):
            await self.close()
        async def close(self):
            LIVE.append("closed")

    def forgetful(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)
        return wrapper

    @checkpointable
    class Agent:
        def __init__(self):
            self.read = []

        @traced(span_type="llm")
        def stream(self, *items, error=None):
            return Stream(items, error)

        @traced(span_type="llm")
        async def astream(self, *items):
            return AsyncStream(items)

        @traced(span_type="llm")
        def astream_at_once(self, *items):
            return AsyncStream(items)

        @traced(span_type="llm")
        @forgetful
        async def forgotten(self, x):
            LIVE.append("item")
            return x

        def reads(self):
            with self.stream("a", "b") as stream:
                self.read += list(stream)
            raise ValueError(self.read)

        def stops_early(self):
            with self.stream("a", "b") as stream:
                self.read.append(next(stream))
            raise ValueError(self.read)

        def breaks(self):
            for item in self.stream("a", error=KeyError("broken off")):
                self.read.append(item)

        def reads_async(self):
            async def main():
                async with await self.astream("a", "b") as stream:
                    self.read += [item async for item in stream]
                stream = self.astream_at_once("c", "d")
                self.read.append(await anext(aiter(stream)))
                await stream.close()
                self.read.append(await self.forgotten("e"))
            asyncio.run(main())
            raise ValueError(self.read)
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    name = f"streaming_app_{next(names)}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(AGENT))
    monkeypatch.syspath_prepend(str(tmp_path))
    return importlib.import_module(name)


@pytest.mark.parametrize(
    ("method", "error", "read"),
    [
        ("reads", ValueError, ["a", "b"]),
        ("stops_early", ValueError, ["a"]),
        ("breaks", KeyError, ["a"]),
        ("reads_async", ValueError, ["a", "b", "c", "e"]),
    ],
)
def test_a_replay_reads_the_recorded_streams_without_a_live_call(
    app: Any, method: str, error: type[Exception], read: list[str]
) -> None:
    agent = app.Agent()
    with pytest.raises(error) as first:
        getattr(agent, method)()
    assert agent.read == read
    app.LIVE.clear()
    engine = ReplayEngine(CheckpointManager().load_checkpoint("latest"))
    with pytest.raises(error) as again:
        engine.replay_from_checkpoint()
    assert again.value.args == first.value.args
    assert app.LIVE == []


def test_reading_a_stream_past_where_its_consumer_stopped_is_beyond_the_record(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="a"):
        app.Agent().stops_early()
    monkeypatch.setattr(app.Agent, "stops_early", app.Agent.reads)
    with pytest.raises(BeyondRecord, match="past the place where its recorded consumer stopped"):
        ReplayEngine(CheckpointManager().load_checkpoint("latest")).replay_from_checkpoint()


def test_stand_ins_of_a_written_configuration_give_streams_and_awaitables_as_they_were_recorded(app: Any) -> None:
    async def read(given: Any) -> list[Any]:
        async with given as stream:
            return [item async for item in stream]

    def respond(path: str, answer: Answer) -> Any:
        return targets.replaced(
            targets.resolve(f"{app.__name__}.Agent.{path}", importlib.import_module), lambda *_, **__: answer
        )

    agent, items = app.Agent(), Answer(chunks=[1, 2], stream="async iterator")
    with respond("stream", Answer(chunks=[1, 2])), agent.stream() as stream:
        assert list(stream) == [1, 2]
    with respond("astream_at_once", items):
        assert asyncio.run(read(agent.astream_at_once())) == [1, 2]
    with respond("astream", items):
        assert asyncio.run(read(asyncio.run(agent.astream()))) == [1, 2]
    with respond("forgotten", Answer("later", awaited=True)):
        assert asyncio.run(agent.forgotten("x")) == "later"
    assert app.LIVE == []
