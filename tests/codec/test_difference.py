"""Two values that are not loaded, compared: every difference has a path, and equal ones have none."""

from __future__ import annotations

import datetime as dt
import pickle
import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearstone.codec import inert
from clearstone.codec.difference import Difference, differences
from clearstone.codec.show import to_json


@dataclass
class Part:
    name: str
    held: Any = None


def node(value: Any) -> Any:
    return inert.read(pickle.dumps(value, 5))


def told(before: Any, after: Any) -> list[str]:
    return [str(each) for each in differences(node(before), node(after), "self")]


@pytest.mark.parametrize(
    ("before", "after", "lines"),
    [
        ({"a": 1}, {"a": 2}, ["changed self['a']: 1 -> 2"]),
        ({"a": 1}, {"a": True}, ["changed self['a']: 1 -> True"]),
        ({"a": 1}, {"a": 1.0}, ["changed self['a']: 1 -> 1.0"]),
        ({"a": 1}, {"b": 1}, ["removed self['a']: 1", "added self['b']: 1"]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, ["changed self['a']['b'][1]: 2 -> 3"]),
        ([1, 2, 3], [1, 3], ["removed self[1]: 2"]),
        ([1, 3], [1, 2, 3], ["added self[1]: 2"]),
        ([1, 2, 3], [3, 1, 2], ["moved self[2] -> self[0]: 3"]),
        ([1, 2, 3, 4], [1, "x", 3, 4], ["changed self[1]: 2 -> 'x'"]),
        ([{"i": 1, "t": "a"}, {"i": 2}], [{"i": 1, "t": "b"}, {"i": 2}], ["changed self[0]['t']: 'a' -> 'b'"]),
        ((1, 2), [1, 2], ["changed self: (1, 2) -> [1, 2]"]),
        ({1, 2}, {1, 3}, ["removed self{2}: 2", "added self{3}: 3"]),
        (Part("a", 1), Part("a", 2), ["changed self.held: 1 -> 2"]),
        (Part("a", [1]), Part("b", [1, 2]), ["changed self.name: 'a' -> 'b'", "added self.held[1]: 2"]),
        ({1: "a", 2: 0}, {1: "b", 2: 0}, ["changed self[1]: 'a' -> 'b'"]),
        ({1: "a"}, {True: "a"}, ["removed self[1]: 'a'", "added self[True]: 'a'"]),
        ({(1, 2): 0}, {(1, 2): 1}, ["changed self[(1, 2)]: 0 -> 1"]),
        (
            {"a": 1, "b": 2}, {"b": 2, "a": 1},
            ["changed self (the order of its keys): {'a': 1, 'b': 2} -> {'b': 2, 'a': 1}"],
        ),
        (
            dt.datetime(2026, 1, 1), dt.datetime(2026, 1, 2),
            ["changed self: datetime.datetime(2026, 1, 1, 0, 0) -> datetime.datetime(2026, 1, 2, 0, 0)"],
        ),
        ("a" * 5000, "a" * 4999 + "b", [f"changed self: '...{'a' * 15}a' -> '...{'a' * 15}b'"]),
    ],
)  # fmt: skip
def test_a_difference_reads_as_what_happened_and_where(before: Any, after: Any, lines: list[str]) -> None:
    assert told(before, after) == lines


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=2) | st.integers(0, 3), inner, max_size=4)
        | st.builds(Part, st.text(max_size=2), inner)
    ),
    max_leaves=15,
)


@settings(deadline=None, max_examples=150)
@given(values)
def test_equal_values_have_no_difference(value: Any) -> None:
    assert told(value, value) == []


@settings(deadline=None, max_examples=150)
@given(values, values)
def test_values_have_a_difference_exactly_where_their_trees_differ(before: Any, after: Any) -> None:
    assert bool(told(before, after)) == (repr(to_json(node(before))) != repr(to_json(node(after))))


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(0, 9), max_size=12), st.lists(st.integers(0, 9), max_size=12))
def test_the_differences_of_two_lists_lead_from_one_to_the_other(before: list[int], after: list[int]) -> None:
    found = list(differences(node(before), node(after)))
    result: dict[int, Any] = {}
    gone = {int(each.moved_from[1:-1]) for each in found if each.kind == "moved"}
    gone |= {int(each.path[1:-1]) for each in found if each.kind == "removed"}
    for each in found:
        if each.kind in {"added", "moved", "changed"}:
            result[int(each.path[1:-1])] = each.after
    kept = iter([value for place, value in enumerate(before) if place not in gone])
    changed = {int(each.path[1:-1]) for each in found if each.kind == "changed"}
    rebuilt = []
    for place in range(len(after)):
        if place in changed:
            next(kept)
        rebuilt.append(result[place] if place in result else next(kept))
    assert rebuilt == after
    assert list(kept) == []


def test_shared_and_cyclic_values_are_compared_once() -> None:
    def made(value: int) -> Any:
        shared: dict[str, Any] = {"n": value}
        shared["me"] = shared
        return {"one": shared, "two": [shared, shared]}

    assert told(made(1), made(1)) == []
    assert told(made(1), made(2)) == ["changed self['one']['n']: 1 -> 2"]


def test_cycles_that_close_at_another_place_differ_where_it_shows() -> None:
    def made(to_the_outer: bool) -> Any:
        outer: dict[str, Any] = {"n": 1}
        inner = outer["inner"] = {"n": 2, "outer": outer}
        if not to_the_outer:
            inner["outer"] = inner
        return outer

    assert told(made(True), made(True)) == []
    assert told(made(True), made(False)) == [
        "removed self['inner']['outer']['inner']: {'n': 2, 'outer': {'n': 1, 'inner': <cycle>}}",
        "changed self['inner']['outer']['n']: 1 -> 2",
        "added self['inner']['outer']['outer']: {'n': 2, 'outer': <cycle>}",
    ]


def test_a_value_of_great_depth_is_compared() -> None:
    data = [b"\x80\x05" + b"]" * 5000 + b"K%c" % leaf + b"a" * 5000 + b"." for leaf in (1, 1, 2)]
    one, same, other = (inert.read(each) for each in data)
    assert list(differences(one, same)) == []
    (only,) = differences(one, other)
    assert (only.kind, only.path) == ("changed", "[0]" * 101)


def test_ten_thousand_messages_with_changes_here_and_there() -> None:
    rng = random.Random(1)
    before = [{"role": "user", "content": f"{rng.random()}" * 10, "n": i} for i in range(10_000)]
    after = [dict(each) for each in before]
    after[17]["content"] = "edited"
    after.insert(500, {"role": "user", "content": "inserted", "n": -1})
    after.append({"role": "user", "content": "new", "n": 1})
    del after[9000]
    found = [(each.kind, each.path) for each in differences(node(before), node(after))]
    assert found == [
        ("changed", "[17]['content']"),
        ("added", "[500]"),
        ("removed", "[8999]"),
        ("added", "[10000]"),
    ]


def test_as_json_a_difference_has_what_there_is() -> None:
    assert Difference("added", "self.a", after=[1]).as_json() == {"kind": "added", "path": "self.a", "after": [1]}
    assert Difference("moved", "[1]", 2, 2, moved_from="[0]").as_json() == {
        "kind": "moved", "path": "[1]", "from": "[0]", "before": 2, "after": 2,
    }  # fmt: skip
