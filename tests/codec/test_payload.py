"""Values as bytes and back: which pickler, what becomes a stand-in, and what a definition of `__main__` loads as."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import decimal
import importlib.util
import json
import pickle
import subprocess
import sys
import textwrap
import threading
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearstone import checkpointable, run, traced
from clearstone.codec import payload
from clearstone.errors import UnservableOutcome
from clearstone.span import BLOB, BUFFERS, MAIN_ALIAS, REDACTED, Payload, Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import ModuleType

# --- plain values ----------------------------------------------------------------------------------------------------

any_text = st.text(st.characters(codec=None))  # half surrogate pairs too
hashables = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.complex_numbers(allow_nan=False),
    any_text, st.binary(), st.datetimes(), st.timedeltas(), st.uuids(), st.decimals(allow_nan=False),
    st.builds(range, st.integers(-9, 9), st.integers(-9, 9)),
)  # fmt: skip
nested = st.recursive(
    hashables | st.builds(bytearray, st.binary()),
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.sets(hashables), st.frozensets(hashables),
        st.dictionaries(hashables, inner),
    ),
    max_leaves=20,
)  # fmt: skip


def exactly(value: Any) -> Any:
    """Tell values apart that `==` does not: 1, 1.0 and True."""
    if isinstance(value, dict):
        return dict, [(exactly(key), exactly(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [exactly(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(repr(exactly(item)) for item in value)
    return type(value), repr(value)


@settings(deadline=None)
@given(nested)
def test_nested_builtins_come_back_as_they_were(value: Any) -> None:
    assert exactly(payload.load(payload.dump(value))) == exactly(value)


def test_cycles_and_aliases_come_back_as_they_were() -> None:
    shared: list[Any] = []
    value: dict[str, Any] = {"a": shared, "b": shared}
    value["self"] = value
    loaded = payload.load(payload.dump(value))
    assert loaded["self"] is loaded
    assert loaded["a"] is loaded["b"]


def test_later_mutation_does_not_change_a_payload() -> None:
    value = {"messages": ["a"]}
    dumped = payload.dump(value)
    value["messages"].append("b")
    assert payload.load(dumped) == {"messages": ["a"]}


def test_each_load_gives_a_fresh_copy() -> None:
    dumped = payload.dump(["a"])
    payload.load(dumped).append("b")
    assert payload.load(dumped) == ["a"]


@dataclass
class Importable:
    n: int


@traced(span_type="llm")
def importable_ask(question: str) -> str:
    return f"live {question}"


@checkpointable
class ImportableAgent:
    @traced(span_type="llm")
    def ask(self, question: str) -> str:
        return f"live {question}"

    @traced(span_type="llm")
    @classmethod
    def of_class(cls, question: str) -> str:
        return f"live {question} {cls.__name__}"

    @traced(span_type="llm")
    @staticmethod
    def of_none(question: str) -> str:
        return f"live {question}"

    @traced(span_type="llm")
    def __private(self, question: str) -> str:
        return f"live {question}"

    def private(self) -> Any:
        return self.__private


@pytest.mark.parametrize(
    "value",
    [1, [b"bytes"], Importable, Importable(1), importable_ask, dt.UTC, uuid.NAMESPACE_DNS, decimal.Decimal("0.1"), len],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)
def test_what_can_be_imported_again_goes_through_the_plain_pickler(value: Any) -> None:
    dumped = payload.dump(value)
    assert dumped.codec == "pickle"
    assert payload.load(dumped) == value


def test_lambdas_closures_and_local_classes_are_stored_with_their_code() -> None:
    offset = 40

    class Local:
        def add(self, n: int) -> int:
            return offset + n

    for value in (lambda n: offset + n, Local().add):
        dumped = payload.dump(value)
        assert dumped.codec == "cloudpickle"
        assert payload.load(dumped)(2) == 42


def test_text_that_merely_names_main_comes_back_as_it_was() -> None:
    assert payload.load(payload.dump("if __name__ == '__main__':")) == "if __name__ == '__main__':"


# --- stand-ins -------------------------------------------------------------------------------------------------------


class RaisingReduce:
    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise ValueError("no")


class RaisingRepr(RaisingReduce):
    def __repr__(self) -> NoReturn:
        raise ValueError("no repr either")


class UnprintableError(Exception):
    def __str__(self) -> NoReturn:
        raise ValueError("no")

    __repr__ = __str__


class RaisingUnprintably:
    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise UnprintableError


class RaisingAlways:
    def __getattribute__(self, name: str) -> NoReturn:
        raise RuntimeError(name)


class OddReduction:
    def __reduce__(self) -> Any:
        return 5


def a_generator() -> Iterator[int]:
    yield 1


def deeply_nested() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


HOSTILE = [
    RaisingReduce, RaisingRepr, RaisingUnprintably, RaisingAlways, OddReduction, threading.Lock,
    threading.local, a_generator, deeply_nested, lambda: {"deep": [threading.RLock()]}, lambda: sys._getframe(),
]  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE)
def test_what_does_not_pickle_becomes_a_stand_in(make: Any) -> None:
    dumped = payload.dump(make())
    assert dumped.codec == "stand-in"
    assert set(json.loads(dumped.data)) == {"type", "repr", "reason"}
    with pytest.raises(UnservableOutcome, match="was not recorded"):
        payload.load(dumped)


def test_loading_a_stand_in_names_the_type_the_reason_and_the_next_step() -> None:
    with pytest.raises(UnservableOutcome, match=r"_thread\.lock.*cannot pickle.*replay='run'"):
        payload.load(payload.dump(threading.Lock()))


def test_a_long_repr_is_cut() -> None:
    assert len(payload.safe_repr("x" * 10_000)) < 500


@pytest.mark.parametrize("mode", ["r", "rb", "w"])
def test_an_open_file_is_neither_read_nor_moved(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "data.txt"
    path.write_text("content")
    with path.open(mode) as file:
        held = lambda: file  # noqa: E731 - cloudpickle is asked for it, and would read the file
        for value in (file, [file], held):
            dumped = payload.dump(value)
            assert dumped.codec == "stand-in"
            assert b"open file" in dumped.data
        assert file.tell() == 0


def test_a_bad_payload_is_an_error_of_ours_with_the_cause() -> None:
    with pytest.raises(UnservableOutcome, match="does not load today") as caught:
        payload.load(Payload("pickle", b"no pickle"))
    assert isinstance(caught.value.__cause__, pickle.UnpicklingError)


# --- decorated callables that can be imported ------------------------------------------------------------------------


@dataclass
class Served(run.PassingCall):
    """An open call that is answered with `served`, a stream with two chunks."""

    answer: run.Answer | None  # type: ignore[assignment]  # None in a passing call


@dataclass
class FakeRun:
    """Answers calls that a replay serves, lets the others pass, and notes both."""

    sites: list[str] = field(default_factory=list)

    def begin(
        self,
        site: Site,
        instance: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        streams: bool = False,
        place: Any = None,
        /,
    ) -> run.OpenCall:
        self.sites.append(site.key.rpartition(":")[2])
        if site.replay == "run":
            return run.PASSING
        chunks = ["served", "too"] if streams else None
        return Served(run.Answer("served", chunks=chunks))


@pytest.fixture
def fake() -> Iterator[FakeRun]:
    fake = FakeRun()
    with run.overriding(fake):
        yield fake


@pytest.mark.parametrize(
    "callable_",
    [
        importable_ask, ImportableAgent().ask, ImportableAgent().of_class, ImportableAgent.of_class,
        ImportableAgent().of_none, ImportableAgent.of_none, ImportableAgent().private(),
    ],
)  # fmt: skip
def test_a_decorated_callable_held_by_a_value_is_served_after_loading(callable_: Any, fake: FakeRun) -> None:
    loaded = payload.load(payload.dump({"tool": callable_}))["tool"]
    assert loaded("q") == "served"
    assert len(fake.sites) == 1


def test_a_decorated_method_as_its_class_holds_it_is_that_method_after_loading() -> None:
    held = vars(ImportableAgent)["ask"]
    assert payload.load(payload.dump([held]))[0] is held


def test_a_decorated_method_is_bound_again_to_the_same_object() -> None:
    agent = ImportableAgent()
    loaded, method = payload.load(payload.dump((agent, agent.ask)))
    assert method.__self__ is loaded


# --- definitions of __main__ -----------------------------------------------------------------------------------------

SCRIPT = textwrap.dedent("""
    import collections, dataclasses, enum, functools, pickle, sys, threading, typing
    from clearstone import checkpointable, traced
    from clearstone.codec import payload

    LOCK = threading.Lock()
    LIMIT = 10

    def limited(n):
        return min(n, LIMIT)

    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    def guarded(n):
        with LOCK:
            return n

    @functools.lru_cache
    def cached(n):
        return n + 1

    UserId = typing.NewType("UserId", int)

    class Color(enum.Enum):
        RED = 1
        GREEN = 2

    class Flags(enum.IntFlag):
        A = 1
        B = 2

    @dataclasses.dataclass
    class Point:
        x: int
        y: int = 0
        def double(self):
            return Point(self.x * 2, self.y * 2)

    @dataclasses.dataclass(frozen=True, slots=True)
    class Frozen:
        x: int

    Pair = collections.namedtuple("Pair", "left right")

    @dataclasses.dataclass
    class Guarded:
        text: str
        def read(self):
            with LOCK:
                return self.text

    class Base:
        def name(self):
            return "base"

    class Child(Base):
        def name(self):
            return "child of " + super().name()

    class Node:
        def __init__(self):
            self.children = []
            self.me = self

    class AppError(Exception):
        def __init__(self, *, code):
            super().__init__(f"code {code}")
            self.code = code

    def adder(k):
        return lambda n: limited(n) + k

    def counter():
        count = 0
        def up():
            nonlocal count
            count += 1
            return count
        return up

    @traced(span_type="llm")
    def ask(question):
        return f"live {question}"

    @traced
    def countdown(n):
        return ["go"] if n == 0 else [n, *countdown(n - 1)]

    @traced(span_type="llm")
    async def fetch(question):
        return f"live {question}"

    @traced(span_type="llm")
    def stream(question):
        yield f"live {question}"

    @traced(span_type="llm")
    async def astream(question):
        yield f"live {question}"

    @checkpointable
    class Agent:
        def __init__(self):
            self.seen = []
            self.tools = {"ask": self.ask, "fetch": fetch}

        @traced(span_type="llm")
        def ask(self, question):
            return f"live {question}"

        @traced(span_type="llm")
        @classmethod
        def of_class(cls, question):
            return f"live {question}"

        @traced(span_type="llm")
        @staticmethod
        def of_none(question):
            return f"live {question}"

        def go(self, question):
            self.seen.append(self.ask(question))
            return self.seen

    class SubAgent(Agent):
        def more(self, question):
            return self.tools["ask"](question)

    def values():
        agent = SubAgent()
        return {
            "limited": limited, "fib": fib, "guarded": guarded, "cached": cached, "UserId": UserId,
            "lambda": lambda n: n + LIMIT,
            "adder": adder(5), "counter": counter(), "color": Color.GREEN, "Color": Color, "flags": Flags.A | Flags.B,
            "point": Point(1, 2), "points": [Point(1), Point(2)], "frozen": Frozen(3),
            "pair": Pair(1, 2), "messages": [Guarded("a")],
            "child": Child(), "node": Node(), "error": AppError, "method": Point(4, 4).double,
            "ask": ask, "countdown": countdown, "fetch": fetch, "stream": stream, "astream": astream,
            "agent": agent, "bound": agent.ask, "of_class": Agent.of_class, "of_none": Agent.of_none, "Agent": Agent,
        }

    if __name__ == "__main__":
        dumped = {name: payload.dump(value) for name, value in values().items()}
        with open(sys.argv[1], "wb") as file:
            pickle.dump({name: (each.codec, each.data) for name, each in dumped.items()}, file)
""")


@dataclass
class Script:
    """A program that dumped its values as ``__main__``, seen from another process: this one."""

    path: Path
    stored: dict[str, Payload]

    def load(self, name: str) -> Any:
        """Load a value with the code that was stored."""
        return payload.load(self.stored[name])

    def load_today(self, name: str, old: str = "", new: str = "") -> tuple[Any, ModuleType]:
        """Load a value with today's definitions, after an edit of the source."""
        assert old in SCRIPT
        edited = self.path.with_name("edited.py")
        edited.write_text(SCRIPT.replace(old, new) if old else SCRIPT)
        with imported_as_alias(edited) as module, payload.definitions_from(lambda: module):
            return payload.load(self.stored[name]), module


@contextlib.contextmanager
def imported_as_alias(file: Path) -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location(MAIN_ALIAS, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MAIN_ALIAS] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[MAIN_ALIAS]


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Script:
    folder = tmp_path_factory.mktemp("script")
    path = folder / "app.py"
    path.write_text(SCRIPT)
    subprocess.run([sys.executable, path, folder / "values.pkl"], cwd=folder, check=True, timeout=60)
    stored = pickle.loads((folder / "values.pkl").read_bytes())
    return Script(path, {name: Payload(*each) for name, each in stored.items()})


def test_everything_of_a_script_is_stored_by_value(script: Script) -> None:
    assert {each.codec for each in script.stored.values()} == {"cloudpickle"}


@pytest.mark.parametrize(
    ("name", "use", "expected"),
    [
        ("limited", lambda f: f(50), 10),
        ("fib", lambda f: f(10), 55),
        ("lambda", lambda f: f(1), 11),
        ("adder", lambda f: f(50), 15),
        ("counter", lambda f: (f(), f()), (1, 2)),
        ("color", lambda c: (c.name, c is type(c).GREEN), ("GREEN", True)),
        ("flags", lambda f: (int(f), type(f).A in f), (3, True)),
        ("point", lambda p: (p.double().x, p.double() == type(p)(2, 4)), (2, True)),
        ("points", lambda p: type(p[0]) is type(p[1]), True),
        ("frozen", lambda f: (f.x, f == type(f)(3)), (3, True)),
        ("pair", lambda p: (p.left, p.right, p._fields), (1, 2, ("left", "right"))),
        ("child", lambda c: c.name(), "child of base"),
        ("node", lambda n: n.me is n, True),
        ("error", lambda cls: cls(code=3).args, ("code 3",)),
        ("method", lambda m: m().x, 8),
    ],
)
def test_another_process_loads_the_stored_code(script: Script, name: str, use: Any, expected: Any) -> None:
    assert use(script.load(name)) == expected


@pytest.mark.parametrize("name", ["limited", "fib", "point", "color", "child", "agent", "ask", "cached", "UserId"])
def test_with_todays_definitions_the_objects_are_of_todays_module(script: Script, name: str) -> None:
    loaded, module = script.load_today(name)
    definition = loaded if hasattr(loaded, "__qualname__") else type(loaded)
    assert getattr(module, definition.__qualname__) is definition


@pytest.mark.parametrize(
    ("name", "old", "new", "use", "expected"),
    [
        ("limited", "min(n, LIMIT)", "'fixed'", lambda f: f(50), "fixed"),
        ("adder", "min(n, LIMIT)", "n", lambda f: f(50), 55),  # a closure is stored; what it calls is today's
        ("point", "Point(self.x * 2, ", "Point(self.x * 3, ", lambda p: p.double().x, 3),
        ("color", "GREEN = 2", "LIME = 2", lambda c: c.name, "LIME"),
        ("child", 'return "base"', 'return "fixed"', lambda c: c.name(), "child of fixed"),
        ("agent", "self.seen.append(self.ask(question))", "self.seen.append('fixed')", lambda a: a.go("q"), ["fixed"]),
    ],
)
def test_after_an_edit_todays_definition_is_what_runs(
    script: Script, *, name: str, old: str, new: str, use: Any, expected: Any
) -> None:
    assert use(script.load_today(name, old, new)[0]) == expected


def test_a_definition_that_was_removed_comes_back_as_stored(script: Script) -> None:
    loaded, module = script.load_today("fib", "def fib(n):", "def renamed(n):")
    assert not hasattr(module, "fib")
    assert loaded.__code__.co_name == "fib"


def test_asking_for_the_stored_code_gets_it_though_the_script_is_there(script: Script) -> None:
    with payload.definitions_from(lambda: None):
        assert script.load("limited")(50) == 10


@pytest.mark.parametrize("name", ["guarded", "messages", "cached", "UserId"])
def test_a_definition_whose_code_does_not_pickle_is_stored_by_its_name(script: Script, name: str) -> None:
    loaded, module = script.load_today(name)
    definition = type(loaded[0]) if name == "messages" else loaded
    assert getattr(module, definition.__qualname__) is definition
    with pytest.raises(UnservableOutcome, match=r"is not in .*app\.py today"):
        script.load(name)


def test_decorated_functions_of_every_kind_stay_decorated(script: Script, fake: FakeRun) -> None:
    async def both() -> tuple[Any, list[Any]]:
        return await script.load("fetch")("q"), [chunk async for chunk in script.load("astream")("q")]

    assert script.load("ask")("q") == "served"
    assert list(script.load("stream")("q")) == ["served", "too"]
    assert asyncio.run(both()) == ("served", ["served", "too"])
    assert fake.sites == ["ask", "stream", "fetch", "astream"]


def test_a_decorated_function_that_calls_itself_is_decorated_there_too(script: Script, fake: FakeRun) -> None:
    assert script.load("countdown")(2) == [2, 1, "go"]
    assert fake.sites == ["countdown"] * 3


@pytest.mark.parametrize("name", ["agent", "Agent"])
def test_decorated_methods_of_every_kind_stay_decorated(script: Script, fake: FakeRun, name: str) -> None:
    loaded = script.load(name)
    agent = loaded() if isinstance(loaded, type) else loaded
    assert agent.go("q") == ["served"]
    assert [agent.tools["ask"]("q"), agent.of_class("q"), type(agent).of_class("q"), agent.of_none("q")] == [
        "served"
    ] * 4
    assert fake.sites == ["Agent.go", "Agent.ask", "Agent.ask", "Agent.of_class", "Agent.of_class", "Agent.of_none"]


def test_methods_of_subclasses_are_boundaries_after_loading_too(script: Script, fake: FakeRun) -> None:
    agent = script.load("agent")
    assert agent.more("q") == "served"

    class Later(type(agent)):  # type: ignore[misc]
        def later(self) -> str:
            return "later"

    assert Later().later() == "later"
    assert [site.rpartition(".")[2] for site in fake.sites] == ["more", "ask", "later"]


@pytest.mark.parametrize("name", ["bound", "of_class", "of_none"])
def test_decorated_methods_taken_from_their_object_stay_decorated(script: Script, fake: FakeRun, name: str) -> None:
    assert script.load(name)("q") == "served"
    assert script.load_today(name)[0]("q") == "served"
    assert len(fake.sites) == 2


def test_a_bound_method_of_a_loaded_agent_is_bound_to_it(script: Script) -> None:
    agent = script.load("agent")
    assert agent.tools["ask"].__self__ is agent


def test_a_decorated_definition_that_is_edited_answers_through_the_run_as_today(script: Script, fake: FakeRun) -> None:
    loaded, _ = script.load_today("ask", 'span_type="llm")\ndef ask', "replay='run')\ndef ask")
    assert loaded("q") == "live q"
    assert fake.sites == ["ask"]


def test_what_a_replay_dumps_of_an_imported_script_is_stored_with_its_code(script: Script) -> None:
    with imported_as_alias(script.path) as module:
        dumped = [payload.dump(value) for value in (module.Point(1, 2), module.fib, module.ask)]
    assert {each.codec for each in dumped} == {"cloudpickle"}
    with payload.definitions_from(lambda: None):
        assert payload.load(dumped[0]).double().y == 4
        assert payload.load(dumped[1])(10) == 55


def test_what_a_spawned_child_dumps_of_the_script_loads_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "spawning.py"
    path.write_text(
        textwrap.dedent("""
            import multiprocessing, pathlib, sys
            from clearstone.codec import payload

            class Point:
                def __init__(self, x):
                    self.x = x

            def child(file):
                assert Point.__module__ == "__mp_main__"
                dumped = payload.dump(Point(3))
                pathlib.Path(file).write_bytes(dumped.codec.encode() + b" " + dumped.data)

            if __name__ == "__main__":
                process = multiprocessing.get_context("spawn").Process(target=child, args=(sys.argv[1],))
                process.start()
                process.join()
                dumped = payload.Payload(*pathlib.Path(sys.argv[1]).read_bytes().split(b" ", 1))
                assert type(payload.load(dumped)) is Point
        """)
    )
    file = tmp_path / "payload"
    subprocess.run([sys.executable, path, file], check=True, timeout=60)
    codec, data = file.read_bytes().split(b" ", 1)
    assert codec == b"cloudpickle"
    assert payload.load(Payload("cloudpickle", data)).x == 3


def test_in_the_running_script_its_own_definitions_are_used(tmp_path: Path) -> None:
    path = tmp_path / "running.py"
    path.write_text(
        textwrap.dedent("""
            from clearstone.codec import payload

            class Point: ...
            def function(): ...

            assert type(payload.load(payload.dump(Point()))) is Point
            assert payload.load(payload.dump(function)) is function
        """)
    )
    subprocess.run([sys.executable, path], check=True, timeout=60)


# --- the agent itself ------------------------------------------------------------------------------------------------


def test_a_state_refers_to_the_object_being_restored() -> None:
    agent, restored = Importable(1), Importable(2)
    data = payload.dump_by_value({"me": agent, "call": lambda: agent}, itself=agent)
    with payload.restoring(lambda: restored):
        loaded = payload.load_bytes(data)
    assert loaded["me"] is restored
    assert loaded["call"]() is restored


def test_a_state_loaded_outside_its_checkpoint_says_so() -> None:
    agent = Importable(1)
    with pytest.raises(UnservableOutcome, match="load it through its checkpoint"):
        payload.load(Payload("cloudpickle", payload.dump_by_value([agent], itself=agent)))


# --- raw bytes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, BUFFERS, REDACTED])
def test_the_name_of_a_file_is_no_payload(flags: int) -> None:
    with pytest.raises(ValueError, match="names a file"):
        payload.of_raw(flags | BLOB, b"0" * 32 + b".blob")
