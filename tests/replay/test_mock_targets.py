"""Mock targets: every place that holds the callable, its kind, and everything put back."""

import asyncio
import importlib
import itertools
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from clearstone.debugging import Checkpoint, CheckpointManager, DeterministicExecutionContext
from clearstone.errors import ConfigurationError, ReplayError, ReplayExhausted, TargetError
from clearstone.observability import MemoryTraceStore, TracerProvider

names = itertools.count()

TOOLS = """
    from clearstone import traced

    def plain(q): return "live"
    async def fetch(q): return "live"
    def stream(n): yield "live"
    async def astream(n): yield "live"

    @traced(span_type="llm")
    def decorated(q): return "live"

    @traced(span_type="tool")
    def other(q): return "live"

    class Client:
        def call(self, q): return "live"
        @staticmethod
        def fixed(q): return "live"
        @classmethod
        def made(cls, q): return "live"
        async def acall(self, q): return "live"

    class Special(Client):
        pass

    KEPT = [decorated]
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    name = f"mock_tools_{next(names)}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(TOOLS))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    module: Any = importlib.import_module(name)
    alias = ModuleType(f"{name}_alias")
    alias.__dict__.update(invoke=module.plain, renamed=module.decorated)
    sys.modules[alias.__name__] = alias
    module.alias = alias
    yield module
    del sys.modules[alias.__name__]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    provider = TracerProvider(store=MemoryTraceStore())
    with provider.get_tracer().span("work") as span:
        trace = provider.trace_store.get_trace(span.trace_id)
        made = CheckpointManager(tmp_path).create_checkpoint(object(), trace, span.span_id)
    provider.shutdown()
    return made


def serving(checkpoint: Checkpoint, tools: Any, **values: list[Any]) -> DeterministicExecutionContext:
    targets = {f"{tools.__name__}.{path.replace('__', '.')}": listed for path, listed in values.items()}
    return DeterministicExecutionContext(checkpoint, targets)


def test_every_module_that_holds_the_function_gets_the_stand_in(checkpoint: Checkpoint, tools: Any) -> None:
    with serving(checkpoint, tools, plain=[1, 2]):
        assert [tools.alias.invoke("x"), tools.plain("y")] == [1, 2]
    assert [tools.alias.invoke("x"), tools.plain("y")] == ["live", "live"]


def test_a_decorated_function_is_answered_wherever_it_is_held(checkpoint: Checkpoint, tools: Any) -> None:
    with serving(checkpoint, tools, decorated=[1, 2, 3]):
        assert [tools.decorated("a"), tools.alias.renamed("b"), tools.KEPT[0]("c")] == [1, 2, 3]


def test_async_targets_are_awaitable_and_streams_stream(checkpoint: Checkpoint, tools: Any) -> None:
    async def collect() -> tuple[Any, list[Any]]:
        return await tools.fetch("u"), [item async for item in tools.astream(2)]

    with serving(checkpoint, tools, fetch=[{"a": 1}], stream=[["x", "y"]], astream=[["z"]]):
        assert list(tools.stream(2)) == ["x", "y"]
        assert asyncio.run(collect()) == ({"a": 1}, ["z"])


def test_methods_staticmethods_and_classmethods_can_be_targets(checkpoint: Checkpoint, tools: Any) -> None:
    with serving(checkpoint, tools, Client__call=[1], Client__fixed=[2, 3], Client__made=[4], Client__acall=[5]):
        client = tools.Client()
        assert [client.call("q"), client.fixed("q"), tools.Client.fixed("q"), tools.Client.made("q")] == [1, 2, 3, 4]
        assert asyncio.run(client.acall("q")) == 5
    assert [client.call("q"), client.fixed("q"), tools.Client.made("q")] == ["live"] * 3


def test_an_inherited_method_is_mocked_on_the_subclass_alone(checkpoint: Checkpoint, tools: Any) -> None:
    with serving(checkpoint, tools, Special__call=[1]):
        assert [tools.Special().call("q"), tools.Client().call("q")] == [1, "live"]
    assert "call" not in vars(tools.Special)


def test_an_exception_among_the_values_is_raised(checkpoint: Checkpoint, tools: Any) -> None:
    with serving(checkpoint, tools, plain=[KeyError("k"), 2]):
        with pytest.raises(KeyError):
            tools.plain(1)
        assert tools.plain(1) == 2


def test_a_call_past_the_last_value_names_target_recorded_and_attempted(checkpoint: Checkpoint, tools: Any) -> None:
    with serving(checkpoint, tools, plain=[1]):
        tools.plain("a")
        with pytest.raises(ReplayExhausted, match=r"plain has 1 recorded response\(s\), and was called 2 time\(s\)"):
            tools.plain("b")


def test_an_outside_call_that_no_target_names_is_refused(checkpoint: Checkpoint, tools: Any) -> None:
    with serving(checkpoint, tools, plain=[1]), pytest.raises(ReplayError, match="mock_config does not name"):
        tools.other("q")


def test_everything_is_put_back_after_an_exception(checkpoint: Checkpoint, tools: Any) -> None:
    before = (tools.plain, time.time, vars(tools.Client)["fixed"])
    with pytest.raises(ZeroDivisionError), serving(checkpoint, tools, plain=[1], Client__fixed=[1]):
        _ = 1 / 0
    assert (tools.plain, time.time, vars(tools.Client)["fixed"]) == before


def test_a_target_that_does_not_exist_leaves_nothing_patched(checkpoint: Checkpoint, tools: Any) -> None:
    context = serving(checkpoint, tools, plain=[1], plian=[1])
    with pytest.raises(TargetError, match="the nearest is 'plain'"), context:
        pytest.fail("entered")
    assert tools.plain("q") == "live"


@pytest.mark.parametrize("values", [["a.b"], {"a.b": 3}, 3])
def test_targets_of_another_shape_are_refused(checkpoint: Checkpoint, values: Any) -> None:
    with pytest.raises(ConfigurationError, match="must map dotted paths to lists"):
        DeterministicExecutionContext(checkpoint, values)


def test_a_thread_outside_the_replay_calls_the_original(checkpoint: Checkpoint, tools: Any) -> None:
    asked, answered = threading.Event(), threading.Event()
    outside: list[str] = []

    def work() -> None:
        asked.wait(10)
        outside.extend([tools.plain("q"), tools.Client.fixed("q"), tools.Client.made("q"), *tools.stream(1)])
        outside.append(asyncio.run(tools.fetch("u")))
        answered.set()

    thread = threading.Thread(target=work)
    thread.start()
    with serving(checkpoint, tools, plain=[1], Client__fixed=[1], Client__made=[1], stream=[[1]], fetch=[1]):
        asked.set()
        assert answered.wait(10)
        assert tools.plain("q") == 1
    thread.join()
    assert outside == ["live"] * 5
