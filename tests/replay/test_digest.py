"""Digests find what the comparison calls the same, and nothing else."""

import copy
import math
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.replay.test_compare import PLAIN, Liar, Pair, Point, make

from clearstone.codec.exceptions import Unpicklable
from clearstone.replay.compare import difference
from clearstone.replay.digest import canonical, quick

NESTED = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([0.0, -0.0, 1.0, math.nan])
    | st.sampled_from(["", "a", "b"])
    | st.builds(Point, st.integers(0, 1), st.lists(st.sampled_from(["a", "b"]), max_size=2))
    | st.builds(Pair, st.integers(0, 1), st.integers(0, 1))
    | st.frozensets(st.integers(0, 2) | st.booleans(), max_size=3)
    | st.builds(Liar, st.integers(0, 1)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", 1, True, None]), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=6,
)
"""Few values, so that two are often equal."""


@given(NESTED, NESTED)
def test_two_values_have_one_digest_exactly_when_there_is_no_difference(a: Any, b: Any) -> None:
    assert (canonical(a) == canonical(b)) == (difference(a, b) is None)
    if quick(a) is not None and quick(a) == quick(b):
        assert difference(a, b) is None


@given(PLAIN)
def test_a_copy_has_the_digests_of_the_original_whatever_in_it_is_one_object(value: Any) -> None:
    for again in (pickle.loads(pickle.dumps(value)), copy.deepcopy(value)):
        assert canonical([value, value]) == canonical([value, again])
        assert quick([value, value]) == quick([value, again])


@pytest.mark.parametrize("kind", list(make(1)))
def test_objects_of_every_kind_have_a_digest_of_their_content(kind: str) -> None:
    assert canonical(make(1)[kind]) == canonical(make(1)[kind])
    assert canonical(make(1)[kind]) != canonical(make(2)[kind])


def test_no_builtin_has_the_quick_digest_of_an_object() -> None:
    for value in (Point(1), Pair(1, 2), np.zeros(2), np.float64(1.0), Liar, len):
        assert quick([value]) is None


def test_the_order_of_keys_and_members_does_not_matter() -> None:
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
    assert canonical({Pair(1, 2), Pair(3, 4)}) == canonical({Pair(3, 4), Pair(1, 2)})


def test_digests_are_the_same_in_processes_with_other_hash_seeds() -> None:
    code = (
        "from clearstone.replay.digest import canonical, quick;"
        "print(canonical([{'a', 'b', 'c', 'd'}, {'x': 1}]).value.hex(), quick(['a', {'x': 1.5}]).hex())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], check=True, env={"PYTHONHASHSEED": seed}, capture_output=True
        ).stdout
        for seed in "123"
    }
    assert len(told) == 1


def test_the_layout_of_an_array_does_not_matter() -> None:
    array = np.arange(6.0).reshape(2, 3)
    assert canonical(array) == canonical(np.asfortranarray(array))
    assert difference(array, np.asfortranarray(array)) is None
    assert difference(np.zeros(2), -np.zeros(2)) is None
    assert canonical(np.zeros(2)) == canonical(-np.zeros(2))


def ring(n: int) -> list[Any]:
    items: list[Any] = [n]
    items.append(items)
    return items


def test_what_holds_itself_has_a_digest_too() -> None:
    assert quick(ring(1)) is None
    assert canonical(ring(1)) == canonical(ring(1))
    assert canonical(ring(1)) != canonical(ring(2))


def test_a_value_made_of_one_part_over_and_over_is_walked_once() -> None:
    value: Any = Point(1)
    for _ in range(150):
        value = [value, value]
    assert canonical(value) == canonical(copy.deepcopy(value))
    plain: Any = "part"
    for _ in range(40):
        plain = [plain, plain]
    assert quick(plain) is None
    assert canonical(plain) == canonical(copy.deepcopy(plain))


def test_a_part_that_was_not_recorded_is_said() -> None:
    assert canonical([Unpicklable("m:C", "<C>", "no")]).is_opaque
    assert not canonical([Point(1)]).is_opaque
