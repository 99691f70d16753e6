"""Values are compared as they are, never by a user's own methods."""

import collections
import datetime as dt
import decimal
import enum
import math
import pathlib
import pickle
import uuid
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearstone.replay.compare import difference


@dataclass
class Point:
    x: int
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Slotted:
    x: int


class Pair(NamedTuple):
    a: int
    b: int


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Model(pydantic.BaseModel):
    name: str
    sizes: list[int] = []


class Liar:
    """Equal to everything, and says so."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        raise AssertionError("a user's __eq__ was called")

    def __hash__(self) -> int:
        raise AssertionError("a user's __hash__ was called")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(PLAIN)
def test_a_copy_of_any_plain_value_is_the_same(value: Any) -> None:
    assert difference(value, pickle.loads(pickle.dumps(value))) is None


@given(PLAIN, PLAIN)
def test_two_plain_values_are_the_same_exactly_when_their_reprs_are(a: Any, b: Any) -> None:
    assert (difference(a, b) is None) == (repr(a) == repr(b)) or _differ_only_in_sign_of_zero(a, b) or a == b


def _differ_only_in_sign_of_zero(a: Any, b: Any) -> bool:
    return repr(a).replace("-0.0", "0.0") == repr(b).replace("-0.0", "0.0")


def make(n: int) -> dict[str, Any]:
    return {
        "dataclass": Point(n, ["a"]),
        "slots": Slotted(n),
        "namedtuple": Pair(n, 2),
        "enum": Colour(n),
        "pydantic": Model(name="m", sizes=[n]),
        "datetime": dt.datetime(2024, 1, n, tzinfo=dt.UTC),
        "decimal": decimal.Decimal(n),
        "uuid": uuid.UUID(int=n),
        "path": pathlib.PurePosixPath(f"/tmp/{n}"),  # noqa: S108 - a value, not a file
        "deque": collections.deque([1, n]),
        "counter": collections.Counter({"a": n}),
        "ordered": collections.OrderedDict(a=n),
        "array": np.array([1, n]),
        "array of objects": np.array([1, None, n], dtype=object),
        "array with a not-a-number": np.array([math.nan, n]),
        "frame": pd.DataFrame({"a": [n, 2], "b": ["x", None], "when": pd.to_datetime(["2024-01-01", None])}),
        "frame with another index": pd.DataFrame({"a": [1, 2]}, index=[0, n]),
        "series": pd.Series([1, n], name="s"),
        "index": pd.MultiIndex.from_tuples([("a", 1), ("b", n)]),
        "set": {1, 2 + n},
        "frozenset": frozenset({(n, 5)}),
        "bytes": bytes([n]),
        "exception": ValueError(n),
        "own equality": Liar(n),
        "nested": {"a": [Point(1), {"b": (Liar(n),)}]},
    }


@pytest.mark.parametrize("kind", list(make(1)))
def test_objects_of_every_kind_are_compared_by_content(kind: str) -> None:
    assert difference(make(1)[kind], make(1)[kind]) is None
    assert difference(make(1)[kind], make(2)[kind]) is not None


@pytest.mark.parametrize(("a", "b"), [(1, True), (1, 1.0), ([1], (1,)), ("a", b"a"), ({}, None), (Point(1), {"x": 1})])
def test_values_of_different_types_differ(a: Any, b: Any) -> None:
    assert difference(a, b) is not None


def test_nan_is_the_same_as_nan() -> None:
    assert difference([math.nan], [float("nan")]) is None


def test_the_order_of_dict_keys_and_set_members_does_not_matter() -> None:
    assert difference({"a": 1, "b": 2}, {"b": 2, "a": 1}) is None
    assert difference({Pair(1, 2), Pair(3, 4)}, {Pair(3, 4), Pair(1, 2)}) is None


def test_cycles_end() -> None:
    def ring(n: int) -> list[Any]:
        items: list[Any] = [n]
        items.append(items)
        return items

    assert difference(ring(1), ring(1)) is None
    assert difference(ring(1), ring(2)) is not None


def test_a_value_far_too_deep_to_walk_is_no_error() -> None:
    def nest(depth: int) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        return value

    assert difference(nest(5000), nest(5000)) is None


@pytest.mark.parametrize(
    ("a", "b", "path"),
    [
        ({"m": [{"t": 1}]}, {"m": [{"t": 2}]}, "['m'][0]['t']: recorded 1, now 2"),
        ([1, 2], [1], "the value: recorded 2 items, now 1 items"),
        ({"a": 1}, {"a": 1, "b": 2}, "['b']: recorded nothing, now 2"),
        (Point(1), Point(2), "['x']: recorded 1, now 2"),
        ((1,), (None,), "[0]: recorded 1 (int), now None (NoneType)"),
    ],
)
def test_the_first_difference_is_named_by_its_path(a: Any, b: Any, path: str) -> None:
    assert str(difference(a, b)) == path


def test_functions_and_classes_are_compared_by_name() -> None:
    assert difference(make, make) is None
    assert difference(make, test_cycles_end) is not None
    assert difference(Point, Pair) is not None
