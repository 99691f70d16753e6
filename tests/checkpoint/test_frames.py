"""The frames of a failure are in its checkpoint, with their variables, and neither a secret nor the user's code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clearstone
from clearstone import checkpointable, home, traced
from clearstone.checkpoint.frames import LONGEST, MOST_FRAMES, MOST_LOCALS, frames_of, shown
from clearstone.checkpoint.manager import CheckpointManager

KEY = "sk-" + "a1B2c3D4e5F6g7H8" * 3


class Hostile:
    def __repr__(self) -> NoReturn:
        raise AssertionError("a repr ran")

    __str__ = __len__ = __iter__ = __hash__ = __eq__ = __bool__ = __repr__  # type: ignore[assignment]

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"{name} was asked for")


@traced(span_type="tool")
def divide(total: int, parts: int) -> float:
    share = "nothing yet"
    return total / parts + len(share)


@checkpointable
class Agent:
    def split(self, question: str) -> float:
        api_key, odd = KEY, Hostile()
        plan = {"steps": ["look", "split"], "password": "hunter2", 3: None}
        return divide(7, len(question) * len(plan) * len(api_key) * (odd is None))


def test_a_checkpoint_has_the_frames_of_its_failure_and_comes_back_with_them() -> None:
    with pytest.raises(ZeroDivisionError):
        Agent().split("how much?")
    checkpoint = CheckpointManager(home.checkpoint_folder()).load_checkpoint("latest")
    split, call = checkpoint.stack
    assert (split.function, call.function) == ("Agent.split", "divide")
    assert call.code == "return total / parts + len(share)"
    assert call.variables == {"total": "7", "parts": "0", "share": "'nothing yet'"}
    assert split.variables["question"] == "'how much?'"
    assert split.variables["odd"] == f"<{__name__}.Hostile object>"
    assert split.variables["api_key"] == "'[redacted]'"
    assert split.variables["plan"] == "{'steps': ['look', 'split'], 'password': '[redacted]', 3: None}"
    assert split.variables["self"] == f"<{__name__}.Agent object>"


def test_a_program_whose_folder_is_called_as_the_library_is_not_the_library() -> None:
    file = f"{Path(clearstone.__file__).parent}_demo{os.sep}agent.py"
    with pytest.raises(ZeroDivisionError) as told:
        eval(compile("1 / 0", file, "eval"))  # noqa: S307 - a name of a file is all it takes
    assert file in [frame.file for frame in frames_of(told.value)]


VALUES: list[tuple[Any, str]] = [
    (1, "1"),
    (1 << 3000, "<int of 3001 bits>"),
    ([1, [2, [3, [4]]]], "[1, [2, [3, <list of 1>]]]"),
    (list(range(100)), "[0, 1, 2, 3, 4, 5, ... 94 more]"),
    (tuple(range(8)), "(0, 1, 2, 3, 4, 5, ... 2 more)"),
    ({i: i for i in range(8)}, "{0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 5, ... 2 more: ...}"),
    ({(1, 2): "x"}, "{(1, 2): 'x'}"),
    (Hostile, "<class Hostile>"),
    (len, "<builtins.builtin_function_or_method object>"),
    (f"the key is {KEY} now", "'the key is [redacted: api key] now'"),
    (b"\x00\xff", "b'\\x00\\xff'"),
]


@pytest.mark.parametrize(("value", "text"), VALUES)
def test_a_value_is_told_shortly(value: Any, text: str) -> None:
    assert shown("value", value) == text


def test_a_value_that_holds_itself_is_told() -> None:
    value: list[Any] = [1]
    value.append(value)
    assert shown("value", value) == "[1, <list of 2>]"


def test_a_secret_that_a_cut_would_halve_is_not_shown() -> None:
    assert "a1B2" not in shown("text", "x" * (LONGEST - 10) + " " + KEY)


@settings(deadline=None, max_examples=200)
@given(
    st.recursive(
        st.none() | st.text() | st.binary() | st.floats() | st.integers() | st.builds(Hostile),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.lists(inner).map(tuple),
    )
)
def test_any_value_is_told_in_a_bounded_text_and_runs_nothing(value: Any) -> None:
    assert len(shown("value", value)) <= LONGEST + 3


def recursing(n: int) -> None:
    if n == 0:
        raise ValueError("deep")
    recursing(n - 1)


def test_many_frames_and_variables_are_cut_from_the_outside() -> None:
    with pytest.raises(ValueError, match="deep") as caught:
        recursing(100)
    found = frames_of(caught.value)
    assert len(found) == MOST_FRAMES
    assert found[-1].variables == {"n": "0"}
    names = {f"v{i}": i for i in range(200)}
    with pytest.raises(ZeroDivisionError) as failed:
        exec("1 / 0", dict(names), dict(names))  # noqa: S102 - a frame of many variables
    assert len(frames_of(failed.value)[-1].variables) == MOST_LOCALS


def test_an_exception_that_was_never_raised_has_no_frames() -> None:
    assert frames_of(ValueError("no")) == ()
