"""Values in a few words, the same in every process."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearstone.debugger.brief import brief

SOME = """
import sys; sys.path[:0] = {path!r}
from clearstone.debugger.brief import brief
class Own: pass
print(brief([{{"b", "a", "c"}}, frozenset(map(str, range(30))), "x" * 500, Own(), {{"a": (1, 2.5, None)}}]))
print(brief([b"\\0" * 99, 1 << 900]))
"""


def test_it_is_the_same_whatever_the_hash_seed() -> None:
    command = [sys.executable, "-c", SOME.format(path=sys.path)]
    runs = {
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2", "3")
    }
    (told,) = runs
    assert told.startswith(b"[set('a', 'b', 'c'), frozenset('0', '1', '10', ")
    assert b"<__main__.Own>" in told


class Loud:
    def __repr__(self) -> str:
        raise AssertionError("code of the user's was run")

    __eq__ = __hash__ = __len__ = __iter__ = __repr__  # type: ignore[assignment]


class Words(list[str]):
    __repr__ = __len__ = __iter__ = Loud.__repr__  # type: ignore[assignment]


class Zone(dt.tzinfo):
    __repr__ = utcoffset = dst = tzname = Loud.__repr__  # type: ignore[assignment]


@pytest.mark.parametrize(
    "value", [Loud(), [Loud()], {1: Words()}, Words(["a"]), dt.datetime(2025, 1, 1, tzinfo=Zone())]
)
def test_no_code_of_the_users_is_run(value: Any) -> None:
    assert brief(value)


def test_a_long_text_is_told_by_its_beginning_and_all_of_it() -> None:
    one, other = "x" * 5000 + "a", "x" * 5000 + "b"
    assert brief(one) != brief(other)
    assert len(brief(one)) < 120


def test_what_holds_itself_or_much_is_short() -> None:
    held: list[Any] = [1]
    held.append(held)
    assert brief(held) == "[1, [1, <list of 2>]]"
    assert len(brief([list(range(10_000))] * 10_000)) < 1_000
    assert len(brief(dict.fromkeys(range(50), "x" * 10**6))) < 2_000


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
)


@given(anything)
def test_any_value_is_one_line_that_can_be_written(value: Any) -> None:
    assert "\n" not in brief(value)
    assert brief(value).encode("utf-8", "backslashreplace").decode()


def test_a_path_is_told_by_its_type() -> None:
    assert brief(Path("x")).endswith("Path>")
