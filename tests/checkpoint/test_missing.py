"""What of a state cannot be saved costs itself only, is named by its path, and can be brought back."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import functools
import io
import logging
import logging.handlers
import queue
import socket
import sqlite3
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.checkpoint.agents import Agent

import clearstone
from clearstone import checkpointable, home
from clearstone.checkpoint import state
from clearstone.checkpoint.missing import Missing, MissingMember
from clearstone.debugging import Checkpoint, CheckpointManager
from clearstone.errors import ConfigurationError, MissingMemberError, StateError

if TYPE_CHECKING:
    from collections.abc import Callable


class Part:
    """An object of the user's, of any attributes."""

    def __init__(self, /, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Point(NamedTuple):
    x: Any
    y: Any


@dataclass(frozen=True, slots=True)
class Frozen:
    held: Any
    other: int = 7


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    held: Any = None
    n: int = 7
    _private: Any = pydantic.PrivateAttr(None)


class Hungry:
    """Uses its state when it is loaded."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __setstate__(self, given: dict[str, Any]) -> None:
        self.__dict__.update(given)
        with self.held:
            pass


class Made:
    """Is made again by its constructor, which uses what it gets."""

    def __init__(self, held: Any) -> None:
        self.held = held
        self.was_locked = held.locked()

    def __reduce__(self) -> tuple[Any, ...]:
        return Made, (self.held,)


class Fickle:
    """Makes something new that refuses whenever it is asked."""

    def __getstate__(self) -> dict[str, Any]:
        return {"lock": threading.Lock()}


def taken(**attributes: Any) -> tuple[dict[str, MissingMember], Any]:
    """Return what is missing by path, and the restored agent."""
    took = state.take(Agent(**attributes))
    return {each.path: each for each in took.missing}, state.restore(Agent, took)


def written(took: state.AgentState) -> bytes:
    return b"".join(each.data for each in took.snapshot.segments())


# --- which, and where ------------------------------------------------------------------------------------------------

LOCK = threading.Lock()
TEXT = "hunter2"


def closure() -> Callable[[], Any]:
    inner = threading.Lock()
    return lambda: inner


PLACES: dict[str, tuple[Any, str]] = {
    "an attribute": (LOCK, ""),
    "an object's attribute": (Part(lock=LOCK, n=1), ".lock"),
    "deep in containers": ({"deep": [1, (2, LOCK)]}, "['deep'][1][1]"),
    "a deque": (collections.deque([1, LOCK]), "[1]"),
    "an ordered dict": (collections.OrderedDict(a=LOCK), "['a']"),
    "a named tuple": (Point(1, LOCK), ".y"),
    "a frozen dataclass with slots": (Frozen(LOCK), ".held"),
    "a pydantic model": (Model(held=LOCK), ".held"),
    "a partial's argument": (functools.partial(print, LOCK), ".args[0]"),
    "an exception": (ValueError("no", LOCK), ".args[1]"),
    "what uses its state when loaded": (Part(hungry=Hungry(LOCK)), ".hungry"),
    "what is made by a constructor": ([Made(LOCK)], "[0]"),
    "a method of it": ([LOCK.acquire], "[0]"),
    "what makes it anew each time": (Part(fickle=Fickle()), ".fickle"),
}


@pytest.mark.parametrize(("value", "path"), PLACES.values(), ids=PLACES)
def test_what_refuses_is_left_out_alone_wherever_it_is(value: Any, path: str) -> None:
    missing, again = taken(before=[1], member=value, after={"a": 2})
    assert list(missing) == [f"self.member{path}"]
    assert (again.before, again.after) == ([1], {"a": 2})


def test_a_member_is_left_out_where_it_is_nearest_and_is_one_object_everywhere() -> None:
    lock = threading.Lock()
    missing, again = taken(deep={"a": [lock]}, near=lock, part=Part(lock=lock, n=3))
    assert list(missing) == ["self.near"]
    assert again.near is again.deep["a"][0] is again.part.lock
    assert again.part.n == 3


def test_a_closure_comes_back_with_its_other_variables() -> None:
    lock, items = threading.Lock(), [1]
    missing, again = taken(f=lambda: (items, lock), items=items)
    assert len(missing) == 1
    assert again.f()[0] is again.items
    with pytest.raises(MissingMemberError):
        again.f()[1].acquire()


def running() -> Any:
    process = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
    process.communicate()
    return process


LIBRARIES: dict[str, Callable[[], Any]] = {
    "event": threading.Event,
    "condition": threading.Condition,
    "semaphore": threading.Semaphore,
    "thread": lambda: threading.Thread(target=print),
    "queue": queue.Queue,
    "simple queue": queue.SimpleQueue,
    "executor": lambda: concurrent.futures.ThreadPoolExecutor(1),
    "future": concurrent.futures.Future,
    "loop": asyncio.new_event_loop,
    "socket": socket.socket,
    "database": lambda: sqlite3.connect(":memory:"),
    "handler": logging.StreamHandler,
    "process": running,
    "file": lambda: Path(__file__).open(),  # noqa: SIM115 - the test closes it
    "generator": lambda: (each for each in [1]),
}


@pytest.mark.parametrize("make", LIBRARIES.values(), ids=LIBRARIES)
def test_an_object_of_a_library_that_holds_what_refuses_is_left_out_whole(make: Callable[[], Any]) -> None:
    value = make()
    missing, again = taken(part=Part(held=[value]), kept=1)
    assert list(missing) == ["self.part.held[0]"]
    assert again.kept == 1
    with pytest.raises(MissingMemberError, match=r"self\.part\.held\[0\]"):
        again.part.held[0].anything
    if hasattr(value, "close"):
        value.close()


def test_the_outermost_object_of_a_library_is_left_out() -> None:
    handler = logging.handlers.QueueHandler(queue.Queue())
    missing, _ = taken(handler=handler)
    assert list(missing) == ["self.handler"]
    assert "threading" in missing["self.handler"].reason or "_thread" in missing["self.handler"].reason


def test_what_a_library_object_shares_with_the_agent_is_left_out_there_too() -> None:
    jobs: queue.Queue[int] = queue.Queue()
    missing, _ = taken(handler=logging.handlers.QueueHandler(jobs), jobs=jobs)
    assert set(missing) == {"self.handler", "self.jobs"}


def test_objects_in_memory_files_and_loggers_are_saved() -> None:
    missing, again = taken(file=io.BytesIO(b"text"), log=logging.getLogger("an.agent"))
    assert not missing
    assert again.file.getvalue() == b"text"
    assert again.log is logging.getLogger("an.agent")


def test_an_open_file_is_not_read(tmp_path: Any) -> None:
    path = tmp_path / "big.txt"
    path.write_text("its content")
    with path.open() as file:
        took = state.take(Agent(file=file))
    assert b"its content" not in written(took)
    assert [each.path for each in took.missing] == ["self.file"]


class Loud:
    def __reduce__(self) -> NoReturn:
        raise ValueError("not today")

    def __repr__(self) -> NoReturn:
        raise ValueError("no repr")


def built(plan: Any) -> Any:
    if isinstance(plan, list | tuple):
        return type(plan)(map(built, plan))
    if isinstance(plan, dict):
        return {name: built(each) for name, each in plan.items()}
    return {"lock": threading.Lock, "loud": Loud}.get(plan, lambda: plan)()


def refusing(plan: Any, path: str) -> list[str]:
    if isinstance(plan, list | tuple):
        return [each for place, inner in enumerate(plan) for each in refusing(inner, f"{path}[{place}]")]
    if isinstance(plan, dict):
        return [each for name, inner in plan.items() for each in refusing(inner, f"{path}[{name!r}]")]
    return [path] if plan in {"lock", "loud"} else []


def is_as_planned(plan: Any, again: Any) -> bool:
    if isinstance(plan, list | tuple):
        return type(plan) is type(again) and len(plan) == len(again) and all(map(is_as_planned, plan, again))
    if isinstance(plan, dict):
        return plan.keys() == again.keys() and all(is_as_planned(plan[name], again[name]) for name in plan)
    return isinstance(again, Missing) if plan in {"lock", "loud"} else bool(plan == again)


leaves = st.sampled_from(["lock", "loud", 1, "text", None])
plans = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=4) | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=100)
@given(plans)
def test_every_refusing_member_of_any_state_is_named_by_the_path_it_is_at(plan: Any) -> None:
    missing, again = taken(plan=built(plan))
    assert sorted(missing) == sorted(refusing(plan, "self.plan"))
    assert is_as_planned(plan, again.plan)


# --- secrets ---------------------------------------------------------------------------------------------------------


class Settings(pydantic.BaseModel):
    key: pydantic.SecretStr
    url: str = "here"


def test_secrets_are_left_out_wherever_they_are_and_their_text_is_nowhere() -> None:
    attributes = {
        "api_key": "hunter2-of-the-agent",
        "part": Part(password=TEXT, n=1),
        "settings": Settings(key="hunter2-of-a-model"),  # type: ignore[arg-type]
        "token_count": 5,
        "max_tokens": "100",
    }
    took = state.take(Agent(**attributes))
    assert {each.path for each in took.missing} == {"self.api_key", "self.part.password", "self.settings.key"}
    assert b"hunter2" not in written(took)
    assert not any("hunter2" in str(each) for each in took.missing)
    again = state.restore(Agent, took)
    assert (again.part.n, again.settings.url, again.token_count, again.max_tokens) == (1, "here", 5, "100")
    with pytest.raises(MissingMemberError, match=r"self\.api_key .* it is a secret"):
        again.api_key.strip()


def test_a_secret_that_the_environment_holds_comes_back_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "hunter2-one")
    agent = Agent(api_key="hunter2-one", part=Part(secret=b"hunter2-one"), model=Settings(key="hunter2-one"))  # type: ignore[arg-type]
    took = state.take(agent)
    assert {each.variable for each in took.missing} == {"MY_API_KEY"}
    monkeypatch.setenv("MY_API_KEY", "hunter2-two")
    again = state.restore(Agent, took)
    assert (again.api_key, again.part.secret) == ("hunter2-two", b"hunter2-two")
    assert again.model.key.get_secret_value() == "hunter2-two"
    monkeypatch.delenv("MY_API_KEY")
    with pytest.raises(MissingMemberError, match="Set MY_API_KEY where it is restored"):
        bool(state.restore(Agent, took).api_key)


def test_who_redacts_nothing_saves_secrets_too() -> None:
    clearstone.configure(redact=False)
    missing, again = taken(api_key=TEXT, part=Part(password=TEXT))
    assert not missing
    assert again.api_key == again.part.password == TEXT


def test_names_the_user_adds_and_keeps_hold_for_states_too() -> None:
    clearstone.configure(redact_keys=["badge"], redact_keep=["session_token"])
    missing, again = taken(badge="17", session_token=TEXT)
    assert list(missing) == ["self.badge"]
    assert again.session_token == TEXT


# --- bringing back ---------------------------------------------------------------------------------------------------


def make_client() -> queue.Queue[str]:
    client: queue.Queue[str] = queue.Queue()
    client.put("made again")
    return client


def fail() -> NoReturn:
    raise RuntimeError("no network")


@checkpointable(exclude=("cache",), rebuild={"client": make_client, "search.lock": threading.Lock})
class Rebuilt:
    def __init__(self) -> None:
        self.client = queue.Queue()  # type: ignore[var-annotated]
        self.cache = {"big": "x" * 100_000}
        self.search = Part(lock=threading.Lock(), n=1)
        self.n = 1


def test_what_a_class_excludes_is_not_saved_and_what_it_rebuilds_is_made_again() -> None:
    took = state.take(Rebuilt())
    assert len(written(took)) < 10_000
    reasons = {each.path: each.reason for each in took.missing}
    assert reasons["self.cache"] == "@checkpointable excludes it"
    assert reasons["self.client"] == "@checkpointable rebuilds it"
    again = state.restore(Rebuilt, took)
    assert again.client.get_nowait() == "made again"
    assert again.search.lock.acquire(blocking=False)
    assert (again.n, again.search.n) == (1, 1)
    with pytest.raises(MissingMemberError):
        again.cache["big"]


class Telling:
    def __repr__(self) -> NoReturn:
        raise AssertionError("a repr ran")


def test_nothing_is_told_of_what_is_excluded_and_no_repr_runs() -> None:
    @checkpointable(exclude=("private", "telling"))
    class Discreet:
        def __init__(self) -> None:
            self.private, self.telling = "of the user", Telling()
            self.refusing = [Telling(), threading.Lock()]

    took = state.take(Discreet())
    assert "of the user" not in repr(took)
    assert b"of the user" not in written(took)
    assert {each.path: each.text for each in took.missing}["self.telling"] == "..."


def test_a_placeholder_in_a_text_is_told() -> None:
    _, again = taken(lock=threading.Lock())
    with pytest.raises(MissingMemberError):
        f"{again.lock}"


def test_an_on_restore_that_is_a_coroutine_is_refused() -> None:
    class Waiting:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        async def on_restore(self, missing: Any) -> None:
            pass

    with pytest.raises(StateError, match=r"on_restore\(\) is a coroutine; write it as a plain method"):
        state.restore(Waiting, state.take(Waiting()))


@checkpointable(rebuild={"client": fail})
class Failing:
    def __init__(self) -> None:
        self.client = 1


def test_a_maker_that_raises_is_named() -> None:
    with pytest.raises(StateError, match=r"rebuild=\{'client': ...\} of Failing raised RuntimeError: no network"):
        state.restore(Failing, state.take(Failing()))


class Restoring:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.parts = [threading.Lock(), "kept"]

    def on_restore(self, missing: tuple[MissingMember, ...]) -> None:
        self.told = sorted(each.path for each in missing)
        self.lock = threading.Lock()


def test_an_agent_is_told_what_is_missing_and_brings_it_back() -> None:
    again = state.restore(Restoring, state.take(Restoring()))
    assert again.told == ["self.lock", "self.parts[0]"]
    assert again.lock.acquire(blocking=False)
    assert repr(again.parts[0]).endswith(" self.parts[0]>")


def test_an_on_restore_that_raises_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    took = state.take(Restoring())
    monkeypatch.setattr(Restoring, "on_restore", lambda *_: fail())
    with pytest.raises(StateError, match=r"Restoring\.on_restore\(\) raised RuntimeError: no network"):
        state.restore(Restoring, took)


@checkpointable(rebuild={"client": make_client})
class OwnMethods:
    def __init__(self) -> None:
        self.client, self.n = make_client(), 3

    def get_state(self) -> dict[str, Any]:
        return {"client": self.client, "n": self.n}

    def load_state(self, given: dict[str, Any]) -> None:
        self.n, self.first = given["n"], given["client"].get_nowait()


def test_load_state_gets_what_was_made_again() -> None:
    again = state.restore(OwnMethods, state.take(OwnMethods()))
    assert (again.n, again.first) == (3, "made again")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"exclude": 3}, "3 names no attribute of the agent"),
        ({"exclude": ("a b",)}, "'a b' names no attribute of the agent"),
        ({"rebuild": {"self.client": make_client}}, "is no attribute's name from the agent"),
        ({"rebuild": [make_client]}, "is no dict"),
        ({"rebuild": {"client": 3}}, "cannot be called"),
        ({"rebuild": {"client[0]": make_client}}, "is no attribute's name"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence.replace("[", r"\[")):
        checkpointable(**options)


def test_options_of_a_state_belong_above_a_class() -> None:
    with pytest.raises(ConfigurationError, match="above its class"):
        checkpointable(exclude=("cache",))(lambda: 1)


def test_one_name_may_be_excluded_without_a_tuple() -> None:
    @checkpointable(exclude="cache")
    class One:
        cache: Any
        kept = field(default=1)

    agent = One()
    agent.cache = 1
    assert [each.path for each in state.take(agent).missing] == ["self.cache"]


# --- what changes meanwhile ------------------------------------------------------------------------------------------


class Busy:
    def __init__(self) -> None:
        self.started, self.go_on = threading.Event(), threading.Event()
        self.n = 0

    @clearstone.traced
    def work(self) -> None:
        self.started.set()
        self.go_on.wait(20)

    @checkpointable
    def fail(self) -> None:
        raise ValueError("no")

    @checkpointable
    def fail_below(self) -> None:
        self.fail_alone()

    @clearstone.traced
    def fail_alone(self) -> None:
        raise ValueError("no")


def saved(call: Callable[[], object]) -> Checkpoint:
    with pytest.raises(ValueError, match="no"):
        call()
    return CheckpointManager(home.checkpoint_folder()).load_checkpoint("latest")


def test_calls_at_work_on_the_agent_while_its_state_is_taken_are_named() -> None:
    agent = Busy()
    thread = threading.Thread(target=agent.work)
    thread.start()
    assert agent.started.wait(20)
    try:
        checkpoint = saved(agent.fail)
    finally:
        agent.go_on.set()
        thread.join()
    assert checkpoint.concurrent == ("Busy.work",)
    assert checkpoint.state_at_end is not None
    assert checkpoint.state_at_end.concurrent == ("Busy.work",)


def test_an_agents_own_calls_above_and_below_are_not_concurrent() -> None:
    checkpoint = saved(Busy().fail_below)
    assert checkpoint.concurrent == ()
    assert checkpoint.state_at_end is not None
    assert checkpoint.state_at_end.concurrent == ()


class Growing:
    """Adds to the dict it is in while that is pickled, as another thread may, so many times."""

    def __init__(self, times: int) -> None:
        self.left, self.entries = times, {"grown": self, "after": 0}

    def __reduce__(self) -> Any:
        if self.left:
            self.left -= 1
            self.entries[f"more {self.left}"] = 0
        return Part, ()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_state_that_changes_while_it_is_taken_is_taken_again_and_marked(times: int) -> None:
    took = state.take(Agent(entries=Growing(times).entries, n=1))
    assert took.concurrent == (state.UNKNOWN,)
    assert not took.missing
    assert "more 0" in state.restore(Agent, took).entries


def test_a_state_that_never_stands_still_costs_what_changes_only() -> None:
    took = state.take(Agent(entries=Growing(10_000).entries, n=1))
    assert took.concurrent == (state.UNKNOWN,)
    assert [each.path for each in took.missing] == ["self.entries"]
    assert state.restore(Agent, took).n == 1
