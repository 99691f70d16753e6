"""A call that was cancelled is cancelled again, by whoever did it: within what is replayed, or above it."""

import asyncio
import contextlib
from typing import Any

import pytest

from clearstone import checkpointable, traced
from clearstone.debugging import CheckpointManager, ReplayEngine

live: list[str] = []


@checkpointable
class Agent:
    @traced(span_type="llm")
    async def ask(self) -> None:
        live.append("ask")
        await asyncio.sleep(10)

    @traced(span_type="tool")
    async def joins(self) -> None:
        live.append("joins")
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def waits(self) -> Any:
        try:
            await self.ask()
        except asyncio.CancelledError:
            raise ValueError("the caller gave up") from None

    async def waits_while_others_poll(self) -> Any:
        polling = asyncio.create_task(self._polls())
        try:
            await self.waits()
        finally:
            polling.cancel()

    async def _polls(self) -> None:
        while True:  # noqa: ASYNC110 - what is tested
            await asyncio.sleep(0.5)

    async def swallows(self) -> Any:
        task = asyncio.create_task(self._swallows())
        await asyncio.sleep(0.05)
        task.cancel()
        raise ValueError(await task)

    async def _swallows(self) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        try:
            await self.joins()
        except asyncio.CancelledError:
            return "it was cancelled itself"
        return "nothing was cancelled"


async def given_up(name: str) -> None:
    await asyncio.wait_for(getattr(Agent(), name)(), 0.1)


@pytest.mark.parametrize("name", ["waits", "waits_while_others_poll", "swallows"])
def test_it_ends_as_it_did(name: str) -> None:
    with pytest.raises(ValueError, match=r"caller gave up|cancelled itself") as recorded:
        asyncio.run(given_up(name) if name.startswith("waits") else Agent().swallows())
    live.clear()
    engine = ReplayEngine(CheckpointManager().load_checkpoint("latest"))
    with pytest.raises(ValueError, match=r"caller gave up|cancelled itself") as again:
        engine.replay_from_checkpoint()
    assert again.value.args == recorded.value.args
    assert engine.ledger.count("reused") == 1
    assert live == []
