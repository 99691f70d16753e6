"""Random trees of calls, made one after the other, in tasks and in threads, replay to their own record."""

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clearstone import checkpointable, traced
from clearstone.debugging import CheckpointManager, ReplayEngine


@dataclass(frozen=True)
class Ask:
    """An outside call."""

    prompt: str
    pause: float = 0.0
    fails: bool = False


@dataclass(frozen=True)
class Step:
    """A step that makes further calls."""

    name: str
    inside: tuple[Any, ...]
    how: Literal["in order", "gather", "threads"] = "in order"


asks = st.builds(Ask, st.sampled_from("abc"), st.sampled_from([0.0, 0.001, 0.004]), st.booleans())
trees = st.recursive(
    asks,
    lambda inner: st.builds(
        Step,
        st.sampled_from("xy"),
        st.lists(inner, min_size=1, max_size=4).map(tuple),
        st.sampled_from(["in order", "gather", "threads"]),
    ),
    max_leaves=8,
)

answers = itertools.count()
live: list[str] = []


class RefusedError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(f"refused {number}")
        self.number = number


@checkpointable
class Agent:
    def __init__(self) -> None:
        self.asked = 0

    @traced(span_type="llm")
    async def ask(self, prompt: str, pause: float, fails: bool) -> str:
        live.append(prompt)
        number = next(answers)
        await asyncio.sleep(pause)
        if fails:
            raise RefusedError(number)
        return f"{prompt}{number}"

    @traced
    async def step(self, name: str, inside: tuple[Any, ...], how: str) -> Any:
        if how == "gather":
            found = await asyncio.gather(*map(self.made, inside))
        elif how == "threads":
            with ThreadPoolExecutor(3) as pool:
                loop = asyncio.get_running_loop()
                found = await asyncio.gather(*(loop.run_in_executor(pool, self.in_thread, each) for each in inside))
        else:
            found = [await self.made(each) for each in inside]
        return name, found

    async def made(self, node: Any) -> Any:
        if isinstance(node, Step):
            return await self.step(node.name, node.inside, node.how)
        try:
            return await self.ask(node.prompt, node.pause, node.fails)
        except RefusedError as error:
            return "refused", error.number

    def in_thread(self, node: Any) -> Any:
        return asyncio.run(self.made(node))

    async def run(self, node: Any) -> None:
        raise RuntimeError(await self.made(node))


def has_twins_in_threads(node: Any) -> bool:
    """Whether equal calls are made at once by threads in one step: nothing tells which of them was which."""
    if not isinstance(node, Step):
        return False
    if node.how == "threads" and len({*map(repr, node.inside)}) < len(node.inside):
        return True
    return any(map(has_twins_in_threads, node.inside))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees)
def test_a_tree_of_calls_replays_to_its_own_record_each_time(tree: Any) -> None:
    with pytest.raises(RuntimeError) as recorded:
        asyncio.run(Agent().run(tree))
    checkpoint = CheckpointManager().load_checkpoint("latest")
    live.clear()
    for _ in range(2):
        engine = ReplayEngine(checkpoint)
        with pytest.raises(RuntimeError) as again:
            engine.replay_from_checkpoint()
        if not has_twins_in_threads(tree):
            assert again.value.args == recorded.value.args
        assert live == []
        counts = engine.ledger.counts()
        assert counts["reused"] == sum(span.span_type == "llm" for span in checkpoint.trace)
        assert counts["diverged"] == counts["unused"] == counts["beyond"] == 0
