"""An exception comes back as it was, however awkward its constructor; what cannot be stored of it is described."""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import pickle
import sqlite3
import subprocess
import sys
import textwrap
import threading
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearstone.codec import payload
from clearstone.codec.exceptions import Unpicklable, dump_exception, load_exception, raised_at, type_name
from clearstone.errors import UnservableOutcome
from clearstone.span import Failure, Payload

if TYPE_CHECKING:
    from pathlib import Path


E = TypeVar("E", bound=BaseException)


class Response:
    """Stands for an HTTP client's response object."""

    status_code = 429

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Response)

    __hash__ = None  # type: ignore[assignment]


class RateLimitError(Exception):
    """Has the shape of `openai.RateLimitError`: required keyword arguments, and args that do not fit them."""

    def __init__(self, message: str, *, response: Response, body: object) -> None:
        super().__init__(message)
        self.message = message
        self.response = response
        self.body = body


class NoArgumentsError(Exception):
    def __init__(self) -> None:
        super().__init__("built", "inside")


class NewError(ValueError):
    def __new__(cls, *, code: int) -> Self:
        made = super().__new__(cls, code)
        made.code = code
        return made

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")

    code: int


class FilledOSError(OSError):
    def __init__(self, path: str) -> None:
        super().__init__(5, "went wrong", path)
        self.hint = "try again"


class StrangeOSError(OSError):
    def __init__(self, **details: Any) -> None:
        super().__init__()
        self.args = ("one", "two", "three", "four", "five", "six")
        self.details = details


class SlotsError(Exception):
    __slots__ = ("__inside", "code")

    def __init__(self, code: int) -> None:
        super().__init__("slots")
        self.code = code
        self.__inside = "s"

    def inside(self) -> str:
        return self.__inside


@dataclass(frozen=True)
class FrozenError(Exception):
    code: int


class SetattrError(Exception):
    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(name)


class PropertyError(Exception):
    @property
    def code(self) -> str:
        return "computed"


class FamilyError(ExceptionGroup[Exception]):
    def __new__(cls, errors: list[Exception], *, label: str) -> Self:
        made = super().__new__(cls, "family", errors)
        made.label = label
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        """The group's own constructor takes no label."""

    label: str


def frozen_with_attributes() -> FrozenError:
    error = FrozenError(3)
    error.__dict__["extra"] = 1
    return error


def setattr_refused() -> SetattrError:
    error = SetattrError("m")
    error.__dict__["code"] = 3
    return error


def noted(error: E) -> E:
    error.add_note("first")
    error.add_note("second")
    return error


def validation_error() -> Exception:
    class Model(pydantic.BaseModel):
        x: int
        y: list[str] = []

        @pydantic.field_validator("y")
        @classmethod
        def _refuse(cls, value: list[str]) -> NoReturn:
            raise ValueError("not these")

    with pytest.raises(pydantic.ValidationError) as caught:
        Model(x="a", y=["b"])  # type: ignore[arg-type]
    return caught.value


def rate_limited() -> RateLimitError:
    return RateLimitError("slow down", response=Response(), body={"code": "rate"})


ERRORS = [
    ValueError("v"), ValueError(), ValueError("a", 1, [2]), KeyError("k"), IndexError(3), LookupError(None),
    OSError("text"), OSError(2, "no"), OSError(2, "no", "file"), OSError(2, "no", "a", None, "b"),
    BlockingIOError(11, "x", 5),
    ConnectionResetError(104, "reset"), TimeoutError(), FileNotFoundError(2, "no such", b"bytes"),
    UnicodeDecodeError("utf-8", b"abc", 0, 1, "bad"), UnicodeEncodeError("ascii", "\xe9", 0, 1, "bad"),
    UnicodeTranslateError("x", 0, 1, "bad"), ImportError("m", name="n", path="p"), ModuleNotFoundError("m", name="n"),
    StopIteration(4), StopIteration(), StopAsyncIteration(5), SystemExit(3), KeyboardInterrupt(), GeneratorExit(),
    SyntaxError("bad", ("f.py", 3, 7, "text", 3, 9)), SyntaxError("bad"), IndentationError("in", ("f", 1, 2, "t")),
    AttributeError("a", name="n"), NameError("n", name="n"), UnboundLocalError("u"), ZeroDivisionError("by zero"),
    AssertionError({"not": "text"}), RecursionError("deep"), NotImplementedError(NotImplementedError), MemoryError(),
    UserWarning("w"), asyncio.CancelledError("c"), asyncio.IncompleteReadError(b"part", 9),
    json.JSONDecodeError("msg", "doc", 1), subprocess.CalledProcessError(3, ["cmd"], "out", "err"),
    subprocess.TimeoutExpired("cmd", 1.5), sqlite3.OperationalError("locked"), zipfile.BadZipFile("b"),
    rate_limited(), NoArgumentsError(), NewError(code=5), FilledOSError("file"), StrangeOSError(a=1), SlotsError(3),
    frozen_with_attributes(), setattr_refused(), PropertyError("p"), noted(ValueError("n")), noted(rate_limited()),
]  # fmt: skip


def fields(error: BaseException) -> dict[str, Any]:
    """Return every readable attribute but methods and what belongs to one raise."""
    names = [name for name in dir(error) if not name.startswith("__") and name not in {"exceptions", "args"}]
    found = {name: getattr(error, name) for name in names if hasattr(error, name)}
    return {name: value for name, value in found.items() if not callable(value)}


def assert_same(loaded: BaseException | None, error: BaseException | None) -> None:
    assert type(loaded) is type(error)
    if loaded is None or error is None:
        return
    assert loaded is not error
    assert str(loaded) == str(error)
    assert getattr(loaded, "__notes__", None) == getattr(error, "__notes__", None)
    assert loaded.__suppress_context__ == error.__suppress_context__
    assert_same(loaded.__cause__, error.__cause__)
    if isinstance(loaded, BaseExceptionGroup) and isinstance(error, BaseExceptionGroup):
        assert loaded.message == error.message
        for one, other in zip(loaded.exceptions, error.exceptions, strict=True):
            assert_same(one, other)
    else:
        assert loaded.args == error.args
        assert fields(loaded) == fields(error)


def round_trip(error: BaseException) -> BaseException:
    return load_exception(dump_exception(error))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_type_args_attributes_and_notes_come_back(error: BaseException) -> None:
    assert_same(round_trip(error), error)


@settings(deadline=None)
@given(
    st.sampled_from([ValueError, KeyError, OSError, RuntimeError, NoArgumentsError, StopIteration, SystemExit]),
    st.lists(st.none() | st.integers() | st.text(st.characters(codec=None)) | st.lists(st.binary())),
    st.dictionaries(st.text("abc é_"), st.integers() | st.lists(st.text())),  # no names of secrets
    st.lists(st.text(st.characters(codec=None))),
)
def test_any_args_and_attributes_come_back(
    cls: type[BaseException], args: list[Any], attributes: dict[str, Any], notes: list[str]
) -> None:
    error = cls.__new__(cls, *args)
    error.__dict__.update(attributes)
    for note in notes:
        error.add_note(note)
    loaded = round_trip(error)
    assert (type(loaded), loaded.args, vars(loaded)) == (type(error), error.args, vars(error))


def test_slots_come_back_private_ones_too() -> None:
    loaded = round_trip(SlotsError(3))
    assert isinstance(loaded, SlotsError)
    assert (loaded.code, loaded.inside()) == (3, "s")


def test_an_unset_slot_stays_unset() -> None:
    error = SlotsError(3)
    del error.code
    assert not hasattr(round_trip(error), "code")


def test_an_exception_written_in_c_is_made_again_as_it_says() -> None:
    error = validation_error()
    loaded = round_trip(error)
    assert isinstance(loaded, pydantic.ValidationError)
    assert isinstance(error, pydantic.ValidationError)
    assert loaded.errors(include_context=False) == error.errors(include_context=False)
    assert str(loaded) == str(error)


def test_no_constructor_of_the_users_class_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = dump_exception(NewError(code=5))

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("it was called")

    monkeypatch.setattr(NewError, "__init__", refuse)
    monkeypatch.setattr(NewError, "__new__", refuse)
    assert load_exception(failure).args == ("code 5",)


# --- exceptions in exceptions ----------------------------------------------------------------------------------------


def caused(error: E, cause: BaseException | None) -> E:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        caused(ValueError("a"), rate_limited()),
        caused(rate_limited(), caused(KeyError("b"), OSError(2, "c"))),
        caused(ValueError("from None"), None),
        ExceptionGroup("g", [ValueError("a"), rate_limited()]),
        BaseExceptionGroup("g", [KeyboardInterrupt(), ExceptionGroup("inner", [rate_limited()])]),
        noted(caused(ExceptionGroup("g", [caused(ValueError("a"), rate_limited())]), rate_limited())),
        FamilyError([rate_limited()], label="l"),
    ],
    ids=repr,
)
def test_causes_and_groups_come_back_whole(error: BaseException) -> None:
    assert_same(round_trip(error), error)


def test_a_groups_own_attributes_come_back() -> None:
    loaded = round_trip(FamilyError([ValueError("a")], label="l"))
    assert isinstance(loaded, FamilyError)
    assert loaded.label == "l"


def test_exceptions_in_args_and_attributes_come_back() -> None:
    error = RuntimeError("all attempts failed", rate_limited())
    error.attempts = [rate_limited(), ValueError("v")]  # type: ignore[attr-defined]
    loaded: Any = round_trip(error)
    assert_same(loaded.args[1], rate_limited())
    assert_same(loaded.attempts[0], rate_limited())
    assert_same(loaded.attempts[1], ValueError("v"))


def test_one_exception_in_two_places_is_one_again() -> None:
    shared = rate_limited()
    error: Any = caused(ExceptionGroup("g", [shared, ValueError("v")]), shared)
    error.last = shared
    loaded: Any = round_trip(error)
    assert loaded.__cause__ is loaded.exceptions[0] is loaded.last


def test_cycles_of_causes_and_attributes_come_back() -> None:
    first, second = rate_limited(), KeyError("k")
    first.__cause__, second.__cause__ = second, first
    first.me = first  # type: ignore[attr-defined]
    loaded: Any = round_trip(first)
    assert loaded.me is loaded
    assert loaded.__cause__.__cause__ is loaded


def test_a_suppressed_context_stays_suppressed() -> None:
    try:
        try:
            raise KeyError("k")
        except KeyError:
            raise ValueError("v") from None
    except ValueError as error:
        loaded = round_trip(error)
    assert loaded.__suppress_context__
    assert loaded.__cause__ is None
    assert not round_trip(ValueError("v")).__suppress_context__


# --- exceptions in values --------------------------------------------------------------------------------------------


def by_value(value: Any) -> Any:
    return payload.load_bytes(payload.dump_by_value(value))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_exception_inside_a_value_that_is_pickled_by_value_comes_back(error: BaseException) -> None:
    assert_same(by_value({"last": error})["last"], error)


def test_of_an_exception_inside_a_value_aliases_and_cycles_come_back() -> None:
    error: Any = rate_limited()
    error.history = [error]
    last, errors = by_value((error, [error, ExceptionGroup("g", [error])]))
    assert last is errors[0] is errors[1].exceptions[0] is last.history[0]
    assert (last.args, last.response) == (("slow down",), Response())


class OwnWayError(Exception):
    def __init__(self, *, code: int) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return functools.partial(OwnWayError, code=self.code * 2), ()


def test_an_exception_that_says_how_it_pickles_is_asked() -> None:
    assert by_value(OwnWayError(code=21)).code == 42
    assert str(by_value(validation_error())) == str(validation_error())


# --- what cannot be stored -------------------------------------------------------------------------------------------


def test_an_attribute_that_does_not_pickle_is_described_and_the_rest_survives() -> None:
    error = rate_limited()
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    loaded: Any = round_trip(error)
    assert isinstance(loaded.lock, Unpicklable)
    assert loaded.lock.type_name == "_thread.lock"
    assert "not recorded" in repr(loaded.lock)
    assert "cannot pickle" in loaded.lock.reason
    assert (loaded.response, loaded.body, loaded.args) == (Response(), {"code": "rate"}, ("slow down",))


def test_an_argument_that_does_not_pickle_is_described_wherever_it_is() -> None:
    error = caused(ValueError("a", threading.Lock(), ["b", {"c": threading.Lock()}]), KeyError(threading.Lock()))
    loaded = round_trip(error)
    assert loaded.args[0] == "a"
    assert isinstance(loaded.args[1], Unpicklable)
    assert loaded.args[2][0] == "b"
    assert isinstance(loaded.args[2][1]["c"], Unpicklable)
    assert loaded.__cause__ is not None
    assert isinstance(loaded.__cause__.args[0], Unpicklable)


def test_a_groups_member_that_does_not_pickle_costs_only_what_does_not() -> None:
    loaded: Any = round_trip(ExceptionGroup("g", [ValueError("a"), ValueError(threading.Lock())]))
    assert loaded.exceptions[0].args == ("a",)
    assert isinstance(loaded.exceptions[1].args[0], Unpicklable)


def test_a_validation_error_over_a_value_that_does_not_pickle_comes_back() -> None:
    class Model(pydantic.BaseModel):
        x: int

    with pytest.raises(pydantic.ValidationError) as caught:
        Model(x=threading.Lock())  # type: ignore[arg-type]
    loaded = round_trip(caught.value)
    assert isinstance(loaded, pydantic.ValidationError)
    assert [each["loc"] for each in loaded.errors()] == [("x",)]


class UnprintableError(Exception):
    def __str__(self) -> NoReturn:
        raise ValueError("no")

    __repr__ = __str__


class UnreducibleError(Exception):
    def __reduce__(self) -> NoReturn:
        raise ValueError("no")


def test_an_exception_whose_str_raises_is_recorded_with_a_message_that_says_so() -> None:
    failure = dump_exception(UnprintableError("x"))
    assert failure.message == "<str of UnprintableError raised ValueError>"
    assert load_exception(failure).args == ("x",)


def test_an_exception_whose_reduce_raises_comes_back_all_the_same() -> None:
    assert_same(round_trip(UnreducibleError("x")), UnreducibleError("x"))


def test_a_class_that_does_not_pickle_at_all_is_said_when_it_is_loaded() -> None:
    lock = threading.Lock()

    class LocalError(Exception):
        def use(self) -> Any:
            return lock

    failure = dump_exception(LocalError("x"))
    assert (failure.type_name, failure.message) == (type_name(LocalError), "x")
    with pytest.raises(UnservableOutcome, match=r"LocalError\('x'\)\) was not recorded.*its class does not pickle"):
        load_exception(failure)


def test_a_local_class_comes_back_with_its_code() -> None:
    class LocalError(Exception):
        def twice(self) -> Any:
            return self.args[0] * 2

    loaded: Any = round_trip(LocalError(21))
    assert loaded.twice() == 42


def test_a_class_that_is_gone_is_said_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "gone_errors.py").write_text("class GoneError(Exception): ...\n")
    failure = dump_exception(importlib.import_module("gone_errors").GoneError("x"))
    monkeypatch.delitem(sys.modules, "gone_errors")
    (tmp_path / "gone_errors.py").unlink()
    importlib.invalidate_caches()
    with pytest.raises(UnservableOutcome, match=r"gone_errors.*restore the class"):
        load_exception(failure)


def test_data_that_builds_no_exception_today_is_said_with_the_next_step() -> None:
    failure = dump_exception(ExceptionGroup("g", [ValueError()]))
    whole = payload.load(failure.value)
    broken = payload.dump(type(whole)(cls=ExceptionGroup, args=("no members",)))
    with pytest.raises(UnservableOutcome, match=r"ExceptionGroup cannot be built again today.*clearstone show"):
        load_exception(Failure(failure.type_name, failure.message, "", "", broken))


# --- the text --------------------------------------------------------------------------------------------------------


def fail_here() -> NoReturn:
    raise ValueError("here")


def test_a_failure_tells_type_message_traceback_and_the_innermost_line() -> None:
    with pytest.raises(ValueError, match="here") as caught:
        fail_here()
    failure = dump_exception(caught.value)
    line = fail_here.__code__.co_firstlineno + 1
    assert (failure.type_name, failure.message) == ("ValueError", "here")
    assert failure.raised_at == f"{__file__}:{line}"
    assert "in fail_here" in failure.traceback
    assert failure.traceback.endswith("ValueError: here\n")


def test_an_exception_that_was_never_raised_has_no_line() -> None:
    assert raised_at(ValueError()) == ""


def test_the_type_is_named_with_its_module_unless_it_is_builtin() -> None:
    assert type_name(KeyError) == "KeyError"
    assert type_name(json.JSONDecodeError) == "json.decoder.JSONDecodeError"


def test_dumping_changes_nothing_on_the_exception() -> None:
    with pytest.raises(ValueError, match="here") as caught:
        fail_here()
    error = caught.value
    before = error.__traceback__, error.__cause__, error.__context__, error.args, dict(vars(error))
    dump_exception(error)
    assert (error.__traceback__, error.__cause__, error.__context__, error.args, dict(vars(error))) == before


# --- of a script -----------------------------------------------------------------------------------------------------

SCRIPT = textwrap.dedent("""
    import pickle, sys
    from clearstone.codec.exceptions import dump_exception

    class AppError(Exception):
        def __init__(self, message, *, code):
            super().__init__(message)
            self.code = code
        def doubled(self):
            return self.code * 2

    if __name__ == "__main__":
        error = ExceptionGroup("g", [AppError("m", code=21)])
        error.__cause__ = AppError("cause", code=1)
        failure = dump_exception(error)
        with open(sys.argv[1], "wb") as file:
            pickle.dump((failure.type_name, failure.value.codec, failure.value.data), file)
""")


@pytest.fixture(scope="module")
def of_a_script(tmp_path_factory: pytest.TempPathFactory) -> Failure:
    folder = tmp_path_factory.mktemp("script")
    (folder / "app.py").write_text(SCRIPT)
    subprocess.run([sys.executable, folder / "app.py", folder / "failure.pkl"], check=True, timeout=60)
    name, codec, data = pickle.loads((folder / "failure.pkl").read_bytes())
    return Failure(name, "", "", "", Payload(codec, data))


def test_an_exception_of_a_script_loads_in_another_process_with_the_stored_code(of_a_script: Failure) -> None:
    loaded: Any = load_exception(of_a_script)
    assert loaded.exceptions[0].args == ("m",)
    assert loaded.exceptions[0].doubled() == 42
    assert type(loaded.__cause__) is type(loaded.exceptions[0])


def test_an_exception_of_a_script_is_of_todays_class_where_that_is_given(of_a_script: Failure) -> None:
    module: Any = type(sys)("edited")
    exec(SCRIPT.replace("self.code * 2", "self.code * 3"), module.__dict__)  # noqa: S102 - the edited script
    with payload.definitions_from(lambda: module):
        loaded: Any = load_exception(of_a_script)
    assert type(loaded.exceptions[0]) is module.AppError
    assert loaded.exceptions[0].doubled() == 63
