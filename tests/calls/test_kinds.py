"""Every kind of callable behaves decorated as it does undecorated, and its calls are recorded rightly."""

from __future__ import annotations

import abc
import asyncio
import dataclasses
import enum
import functools
import gc
import inspect
import pickle
import traceback
import types
import warnings
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import pydantic
import pytest

from clearstone import traced
from clearstone.run import suspended

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.calls.conftest import Recorded


@traced(name="inner")
def inner(x: Any = None) -> Any:
    return x


# --- arguments and results of coroutine functions --------------------------------------------------------------------


@traced(name="ask")
async def ask(x: int, *, y: int = 0) -> int:
    """Ask."""
    return x + y


def test_wrong_arguments_of_a_coroutine_function_fail_at_the_call(recorded: Recorded) -> None:
    with pytest.raises(TypeError, match=r"ask\(\) missing 1 required positional argument: 'x'"):
        _ = ask()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        _ = ask(1, z=2)  # type: ignore[call-arg]
    assert recorded.calls() == []


def test_a_coroutine_that_is_never_awaited_warns_once_and_as_undecorated(recorded: Recorded) -> None:
    def told(make: Callable[..., Any]) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            make(1)
            gc.collect()
        return [str(each.message) for each in caught]

    assert told(ask) == told(ask.__wrapped__) == ["coroutine 'ask' was never awaited"]  # type: ignore[attr-defined]
    assert recorded.calls() == []


def test_a_decorated_coroutine_is_a_coroutine_and_is_awaited_once(recorded: Recorded) -> None:
    coroutine = ask(1, y=2)
    assert inspect.iscoroutine(coroutine)
    assert asyncio.run(coroutine) == 3
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        coroutine.send(None)
    call = recorded.one("ask")
    assert (call.args, call.kwargs, call.value) == ((1,), {"y": 2}, 3)


def test_a_coroutine_is_recorded_below_the_span_it_is_awaited_in(recorded: Recorded) -> None:
    @traced(name="step")
    async def step(coroutine: Any) -> Any:
        return await coroutine

    assert asyncio.run(step(ask(1))) == 1
    assert recorded.parent("ask") == "step"


@pytest.mark.parametrize("way", ["sync", "async"])
def test_an_error_passes_one_library_frame_per_decorated_call(recorded: Recorded, way: str) -> None:
    @traced
    def fails() -> None:
        raise ValueError("mine")

    @traced
    def outer() -> None:
        fails()

    @traced
    async def afails() -> None:
        raise ValueError("mine")

    @traced
    async def aouter() -> None:
        await afails()

    with pytest.raises(ValueError, match="mine") as raised:
        outer() if way == "sync" else asyncio.run(aouter())
    frames = [frame.filename for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert sum("/src/clearstone/" in name for name in frames) == 2
    assert not any("/wrapt/" in name for name in frames)


def forgetful(function: Any) -> Any:
    """A decorator as many are written: what it returns is no coroutine function."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def test_a_coroutine_from_a_plain_function_is_followed_to_its_end(recorded: Recorded) -> None:
    @traced(name="above")
    @forgetful
    async def above(x: int) -> int:
        await asyncio.sleep(0)
        return inner(x)  # type: ignore[no-any-return]

    @traced(name="fails")
    @forgetful
    async def fails() -> None:
        raise ValueError("mine")

    @traced(name="never")
    @forgetful
    async def never() -> None: ...

    assert asyncio.run(above(4)) == 4
    with pytest.raises(ValueError, match="mine"):
        asyncio.run(fails())
    with pytest.warns(RuntimeWarning, match="coroutine 'test_a_coroutine_from.*never' was never awaited"):
        never()
    assert (recorded.one("above").value, recorded.parent("inner")) == (4, "above")
    assert recorded.one("fails").ended[0] == "raised"
    assert recorded.one("never").ended[0] is None


def test_what_is_awaited_and_entered_is_handed_on_as_it_is(recorded: Recorded) -> None:  # noqa: C901 - it is what it has
    class Request:
        """As aiohttp gives them: ``await get(url)`` and ``async with get(url)``."""

        def send(self, value: Any) -> Any: ...
        def throw(self, error: Any) -> Any: ...
        def close(self) -> None: ...

        def __await__(self) -> Any:
            return ask(1).__await__()

        async def __aenter__(self) -> str:
            return "entered"

        async def __aexit__(self, *_: object) -> None: ...

    class Cursor(Request):
        """As asyncpg gives them: awaited, or read."""

        async def __anext__(self) -> int:
            raise StopAsyncIteration

        def __aiter__(self) -> Any:
            return self

    async def main(get: Callable[[], Any]) -> Any:
        async with get() as entered:
            return entered, await get()

    for cls in (Request, Cursor):
        assert asyncio.run(main(traced(name="get")(lambda cls=cls: cls()))) == ("entered", 1)


def test_generators_that_are_awaited_still_are(recorded: Recorded) -> None:
    @types.coroutine
    def old() -> Any:
        yield from asyncio.sleep(0).__await__()
        return inner("awaited")

    async def main(function: Any) -> Any:
        return await function()

    assert asyncio.run(main(traced(name="old")(old))) == "awaited"
    assert asyncio.run(main(traced(name="plain")(lambda: old()))) == "awaited"
    assert recorded.one("old").value == "awaited"


# --- kinds of callables ----------------------------------------------------------------------------------------------


class Base:
    def __init__(self, n: int = 1) -> None:
        self.n = n

    @traced(name="Base.value")
    def value(self, x: int) -> int:
        return self.n + x

    @traced(name="Base.make")
    @classmethod
    def make(cls, n: int) -> Base:
        return cls(n)

    @traced(name="Base.double")
    @staticmethod
    def double(x: int) -> int:
        return 2 * x

    @property
    @traced(name="Base.size")
    def size(self) -> int:
        return self.n

    @size.setter
    @traced(name="Base.resize")
    def size(self, n: int) -> None:
        self.n = n

    @functools.cached_property
    @traced(name="Base.slow")
    def slow(self) -> int:
        return self.n * 100

    @traced(name="Base.partly")
    def partly(self, a: int, b: int) -> tuple[int, int, int]:
        return self.n, a, b

    first = functools.partialmethod(partly, 1)
    second = traced(name="second")(functools.partialmethod(lambda self, a, b: (self.n, a, b), 2))  # type: ignore[type-var]

    @functools.lru_cache(maxsize=2)  # noqa: B019 - what users write
    @traced(name="Base.cached")
    def cached(self, x: int) -> int:
        return x

    @traced(name="Base.remembered")
    @functools.lru_cache(maxsize=2)  # noqa: B019 - what users write
    def remembered(self, x: int) -> int:
        return x

    @functools.singledispatchmethod
    @traced(name="Base.shown")
    def shown(self, x: Any) -> str:
        return "object"

    @shown.register
    @traced(name="Base.shown_int")
    def _(self, x: int) -> str:
        return "int"

    @traced(name="Base.dispatched")  # type: ignore[type-var]  # a descriptor, callable when bound
    @functools.singledispatchmethod
    def dispatched(self, x: Any) -> str:
        return "object"

    @dispatched.register
    def _(self, x: int) -> str:
        return "int"

    @traced(name="Base.__call__")
    def __call__(self, x: int) -> int:
        return self.n * x


class Child(Base):
    @traced(name="Child.value")
    def value(self, x: int) -> int:
        return super().value(x) * 10

    @classmethod
    @traced(name="Child.make")
    def make(cls, n: int) -> Base:
        return super().make(n)


def arguments(recorded: Recorded, name: str) -> list[Any]:
    return [(call.args, call.kwargs) for call in recorded.calls() if call.name == name]


def test_methods_overridden_and_called_through_super_are_two_calls(recorded: Recorded) -> None:
    assert Child(2).value(3) == 50
    assert [call.name for call in recorded.calls()] == ["Child.value", "Base.value"]
    assert recorded.parent("Base.value") == "Child.value"
    assert arguments(recorded, "Base.value") == [((3,), {})]


def test_classmethods_and_staticmethods_give_the_class_that_was_asked(recorded: Recorded) -> None:
    made = [Base.make(1), Child.make(2), Child().make(3)]
    assert [type(each) for each in made] == [Base, Child, Child]
    assert [Base.double(2), Child().double(3)] == [4, 6]
    assert arguments(recorded, "Child.make") == [((2,), {}), ((3,), {})]
    assert arguments(recorded, "Base.double") == [((2,), {}), ((3,), {})]


def test_a_propertys_object_is_not_among_the_arguments(recorded: Recorded) -> None:
    base = Base(1)
    base.size = 4
    assert (base.size, base.slow, base.slow) == (4, 400, 400)
    assert arguments(recorded, "Base.resize") == [((4,), {})]
    assert arguments(recorded, "Base.size") == arguments(recorded, "Base.slow") == [((), {})]
    assert {call.row.instance for call in recorded.calls()} == {recorded.one("Base.size").row.instance}
    assert str(recorded.one("Base.size").row.instance).startswith(f"{__name__}:Base#")


def test_a_method_called_on_its_class_is_bound_to_the_object_it_is_given(recorded: Recorded) -> None:
    assert Base.value(Base(5), 1) == 6
    assert arguments(recorded, "Base.value") == [((1,), {})]


def test_partial_methods_and_partials_keep_their_arguments(recorded: Recorded) -> None:
    assert Base(9).first(5) == (9, 1, 5)
    assert Base(9).second(5) == (9, 2, 5)
    assert traced(name="partly")(functools.partial(inner, 3))() == 3
    assert arguments(recorded, "Base.partly") == [((1, 5), {})]
    assert arguments(recorded, "second") == [((5,), {})]


def test_caches_above_save_the_call_and_below_it_keep_their_methods(recorded: Recorded) -> None:
    base = Base()
    assert [base.cached(1), base.cached(1), base.remembered(2), base.remembered(2)] == [1, 1, 2, 2]
    assert len(arguments(recorded, "Base.cached")) == 1
    assert len(arguments(recorded, "Base.remembered")) == 2
    assert Base.remembered.cache_info().hits == 1


def test_single_dispatch_works_above_and_below(recorded: Recorded) -> None:
    base = Base()
    assert [base.shown(1), base.shown("x"), base.dispatched(1), base.dispatched("x")] == ["int", "object"] * 2
    assert arguments(recorded, "Base.shown_int") == [((1,), {})]
    assert arguments(recorded, "Base.dispatched") == [((1,), {}), (("x",), {})]


def test_callable_objects_are_recorded_decorated_and_by_their_call_method(recorded: Recorded) -> None:
    class Later:
        async def __call__(self, x: int) -> int:
            return x

    assert Base(2)(4) == 8
    assert arguments(recorded, "Base.__call__") == [((4,), {})]
    later = traced(name="later")(Later())
    assert asyncio.run(later(3)) == 3
    assert (recorded.one("later").args, recorded.one("later").value) == ((3,), 3)


def test_recursion_is_a_chain(recorded: Recorded) -> None:
    @traced
    def count(n: int) -> int:
        return n and count(n - 1)

    count(5)
    calls = recorded.calls()
    assert [call.row.parent_id for call in calls] == [None, *(call.row.span_id for call in calls[:-1])]


def test_other_decorators_above_and_below_see_what_they_would(recorded: Recorded) -> None:
    @forgetful
    @traced(name="both")
    @forgetful
    def both(x: int) -> int:
        """Both."""
        return inner(x)  # type: ignore[no-any-return]

    assert (both(1), both.__name__, both.__doc__) == (1, "both", "Both.")
    assert str(inspect.signature(both)) == "(x: 'int') -> 'int'"
    assert recorded.parent("inner") == "both"


def test_dataclasses_keep_their_fields_and_record_their_methods(recorded: Recorded) -> None:
    @dataclasses.dataclass(slots=True)
    class Point:
        x: int
        y: int = 0

        @traced(name="Point.sum")
        def sum(self) -> int:
            return self.x + self.y

    assert [field.name for field in dataclasses.fields(Point)] == ["x", "y"]
    assert (Point(1, 2).sum(), Point(1)) == (3, Point(1, 0))
    assert arguments(recorded, "Point.sum") == [((), {})]


def test_pydantic_models_keep_their_fields_and_record_their_methods(recorded: Recorded) -> None:
    class Model(pydantic.BaseModel):
        x: int

        @traced(name="Model.add")
        def add(self, y: int) -> int:
            return self.x + y

        @pydantic.field_validator("x")
        @classmethod
        @traced(name="Model.check")
        def check(cls, x: int) -> int:
            return x + 1

        @pydantic.computed_field  # type: ignore[prop-decorator]  # as pydantic's documentation has it
        @property
        @traced(name="Model.twice")
        def twice(self) -> int:
            return 2 * self.x

    model = Model(x=1)
    assert (list(Model.model_fields), model.add(3), model.model_dump()) == (["x"], 5, {"x": 2, "twice": 4})
    assert arguments(recorded, "Model.add") == [((3,), {})]
    assert arguments(recorded, "Model.check") == [((1,), {})]


def test_abstract_methods_stay_abstract_and_protocols_hold(recorded: Recorded) -> None:
    class Abstract(abc.ABC):
        @abc.abstractmethod
        @traced
        def above(self) -> int: ...

        @traced
        @abc.abstractmethod
        def below(self) -> int: ...

    @runtime_checkable
    class Speaks(Protocol):
        @traced
        def speak(self) -> str: ...

    class Dog:
        @traced
        def speak(self) -> str:
            return "wuff"

    assert Abstract.__abstractmethods__ == {"above", "below"}
    with pytest.raises(TypeError, match="abstract"):
        Abstract()  # type: ignore[abstract]
    assert isinstance(Dog(), Speaks)
    assert not isinstance(1, Speaks)


def test_methods_of_enums_are_no_members(recorded: Recorded) -> None:
    class Colour(enum.Enum):
        RED = 1

        @traced(name="Colour.shown")
        def shown(self) -> str:
            return self.name.lower()

    assert list(Colour) == [Colour.RED]
    assert Colour.RED.shown() == "red"
    assert arguments(recorded, "Colour.shown") == [((), {})]


# --- identity --------------------------------------------------------------------------------------------------------


async def agenerate() -> Any:
    """Generate."""
    yield 1


def generate() -> Any:
    """Generate."""
    yield 1


async def coroutine(a: int, /, b: str = "x", *args: Any, c: bool, **kwargs: Any) -> int:
    """Await."""
    return a


def function(a: int, /, b: str = "x", *args: Any, c: bool, **kwargs: Any) -> int:
    """Call."""
    return a


@pytest.mark.parametrize("undecorated", [function, coroutine, generate, agenerate])
def test_a_decorated_function_answers_as_the_undecorated_one(undecorated: Any) -> None:
    decorated = traced(undecorated)
    questions: list[Callable[[Any], Any]] = [
        inspect.signature, inspect.getdoc, inspect.iscoroutinefunction, inspect.isgeneratorfunction,
        inspect.isasyncgenfunction, inspect.isfunction, inspect.isroutine, inspect.getsource, callable,
        inspect.getfullargspec, lambda f: (f.__name__, f.__qualname__, f.__module__, f.__doc__, f.__annotations__),
        lambda f: (f.__code__, f.__defaults__, f.__kwdefaults__), lambda f: isinstance(f, types.FunctionType),
    ]  # fmt: skip
    for question in questions:
        assert question(decorated) == question(undecorated)


def test_decorated_functions_are_pickled_by_name() -> None:
    assert pickle.loads(pickle.dumps(inner)) is inner
    assert pickle.loads(pickle.dumps(Base.value)) is not None
    bound = pickle.loads(pickle.dumps(functools.partial(ask, 1)))
    assert bound.func is ask


def test_a_decorated_function_takes_attributes(recorded: Recorded) -> None:
    @traced
    def work() -> None: ...

    work.cost = 3  # type: ignore[attr-defined]
    assert (work.cost, work.__wrapped__.cost) == (3, 3)  # type: ignore[attr-defined]


def test_a_decorated_coroutine_function_may_be_made_of_a_marked_one(recorded: Recorded) -> None:
    if not hasattr(inspect, "markcoroutinefunction"):
        pytest.skip("Python 3.12 marks coroutine functions")

    def marked(x: int) -> Coroutine[Any, Any, int]:
        return ask(x)

    inspect.markcoroutinefunction(marked)
    assert asyncio.run(traced(name="marked")(marked)(2)) == 2
    assert recorded.one("marked").value == 2


def test_a_function_is_called_as_it_was_decorated_whatever_is_said_about_it_later(recorded: Recorded) -> None:
    @traced(name="one")
    def one() -> int:
        return 1

    functools.update_wrapper(one, lambda: 2)  # sets __wrapped__, which of an undecorated function changes no call
    with suspended():
        assert one() == 1
    assert one() == 1
    assert [call.name for call in recorded.calls()] == ["one"]
