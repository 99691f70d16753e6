"""A snapshot in segments is what one pickle of the state would be, whatever happened since the last."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.checkpoint.agents import Agent
from tests.checkpoint.oracle import form

from clearstone.checkpoint.joining import joined
from clearstone.checkpoint.segments import SIZE, Segmenter

if TYPE_CHECKING:
    from clearstone.checkpoint.snapshots import Snapshot

STEPS = 12


def message(n: Any) -> dict[str, Any]:
    return {"i": n, "role": "user", "u": {"n": [n]}}


def restored(snapshot: Snapshot) -> Agent:
    agent = Agent()
    vars(agent).update(joined(snapshot, agent))
    return agent


class World:
    """An agent to which random things happen."""

    def __init__(self, seed: int) -> None:
        self.random = rng = random.Random(seed)
        self.agent: Any = Agent()
        self.agent.sub = Agent()
        self.agent.ms = [message(i) for i in range(rng.choice([0, 60, 64, 70, 200]))]
        self.agent.sub.facts = {f"k{i}": {"v": [i]} for i in range(rng.choice([0, 70, 150]))}
        self.agent.x = None
        self.agent.log = []
        self.agent.flat = [{"role": "user", "text": f"{i}"} for i in range(rng.choice([0, 64, 130]))]

    def step(self) -> None:
        operation = self.random.choice(OPERATIONS)
        operation(self, self.agent, self.agent.ms, self.agent.sub.facts)

    def any(self, ms: list[Any]) -> Any:
        return self.random.choice(ms)

    def place(self, ms: list[Any]) -> int:
        return self.random.randrange(len(ms))


Operation = Callable[[World, Any, list[Any], dict[Any, Any]], object]
OPERATIONS: list[Operation] = []


def operation(function: Operation) -> Operation:
    OPERATIONS.append(function)
    return function


@operation
def append(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    ms.append(message(w.random.random()))
    a.flat.append({"role": "user", "text": "more"})


@operation
def change_to_an_equal_value_of_another_type(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    if ms:
        w.any(ms)["i"] = w.random.choice([1, True, 1.0, "1"])


@operation
def alias_an_element(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    if ms:
        a.x = w.any(ms)


@operation
def alias_a_part_of_one(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    if ms:
        a.x = w.any(ms).get("u")


@operation
def insert(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    if ms:
        ms.insert(w.place(ms), message("inserted"))


@operation
def delete(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    if ms:
        del ms[w.place(ms)]


@operation
def refer_across(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    if ms:
        w.any(ms).setdefault("more", []).append(w.any(ms))


@operation
def share_with_a_fact(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    if facts:
        facts[w.any(list(facts))]["v"] = w.any(ms) if ms else 0


@operation
def forget_a_fact(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    if facts:
        del facts[w.any(list(facts))]


@operation
def add_a_fact(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    facts[f"n{w.random.random()}"] = {"v": a.x}


@operation
def replace_by_a_copy(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    if ms:
        place = w.place(ms)
        ms[place] = dict(ms[place])


@operation
def replace_an_inner_part_by_an_equal_one(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    if ms:
        each = w.any(ms)
        each["u"] = dict(each.get("u") or {})


@operation
def make_equal_parts_the_same(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    if ms:
        one, other = w.any(ms), w.any(ms)
        one["u"], other["u"] = {"n": [0]}, {"n": [0]}
        a.pair = one, other


@operation
def then_share_them(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    if hasattr(a, "pair"):
        one, other = a.pair
        other["u"] = one["u"]


@operation
def refer_to_the_agent(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    a.log = [a.ms, a.sub]
    a.sub.parent = a


@operation
def rebind_the_list(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    a.ms = list(ms)


@operation
def swap_two(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    if ms:
        one, other = w.place(ms), w.place(ms)
        ms[one], ms[other] = ms[other], ms[one]


@operation
def close_over(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    held = w.any(ms) if ms else None
    a.f = lambda: (held, a.sub, a.ms)


@operation
def hold_a_function_in_an_element(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    if ms and hasattr(a, "f"):
        w.any(ms)["f"] = a.f


@operation
def hold_an_object_twice(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    if ms:
        shared = Agent(of=w.any(ms))
        w.any(ms)["o"] = w.any(ms)["p"] = shared


@operation
def put_an_element_into_another_container(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    if ms:
        a.flat.insert(w.random.randrange(len(a.flat) + 1), w.any(ms))


@operation
def empty(w: World, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    if w.random.random() < 0.05:
        ms.clear()


def wrong(seed: int, steps: int) -> list[int]:
    """Let `steps` things happen to an agent; return at which its snapshot was another state."""
    world = World(seed)
    segmenter, taken = Segmenter(), []
    for _ in range(steps):
        for _ in range(world.random.randint(0, 3)):
            world.step()
        taken.append((segmenter.snapshot(world.agent, vars(world.agent)), form(world.agent)))
    return [step for step, (snapshot, expected) in enumerate(taken) if form(restored(snapshot)) != expected]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1 << 40))
def test_every_snapshot_is_the_state_whatever_happened_since_the_last(seed: int) -> None:
    assert wrong(seed, STEPS) == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_twenty_thousand_random_snapshots_are_the_state(capfd: pytest.CaptureFixture[str]) -> None:
    first = int(os.environ.get("CLEARSTONE_SEED") or random.SystemRandom().randrange(1 << 40))
    seeds = range(first, first + 20_000 // STEPS + 1)
    found = {seed: steps for seed in seeds if (steps := wrong(seed, STEPS))}
    with capfd.disabled():
        print(f"{len(seeds) * STEPS:,} random snapshots, from seed {first}: {len(found)} wrong")
    assert not found


def in_two_segments() -> Agent:
    """Equal parts in two segments, and items that are nothing but text in a third."""
    agent = Agent(ms=[message(0) for _ in range(2 * SIZE)], x=None)
    return agent


def snapshots(agent: Any, *changes: Callable[[], object]) -> list[tuple[Snapshot, Any]]:
    segmenter = Segmenter()
    found = [(segmenter.snapshot(agent, vars(agent)), form(agent))]
    for change in changes:
        change()
        found.append((segmenter.snapshot(agent, vars(agent)), form(agent)))
    return found


def traps() -> dict[str, Callable[[Any], list[Callable[[], object]]]]:
    """What makes another state and the same pickles."""

    def equal_parts_become_one(a: Any) -> list[Callable[[], object]]:
        return [lambda: a.ms[-1].update(u=a.ms[0]["u"])]

    def one_part_becomes_two_equal_ones(a: Any) -> list[Callable[[], object]]:
        a.ms[-1]["u"] = a.ms[0]["u"]
        return [lambda: a.ms[-1].update(u=dict(a.ms[0]["u"]))]

    def a_shared_part_is_replaced_by_an_equal_one_where_it_was_first(a: Any) -> list[Callable[[], object]]:
        a.ms[-1]["u"] = a.ms[0]["u"]
        return [lambda: a.ms[0].update(u=dict(a.ms[0]["u"])), lambda: a.ms[0]["u"]["n"].append(1)]

    def an_item_of_the_rest_becomes_an_equal_one_of_a_segment(a: Any) -> list[Callable[[], object]]:
        a.x = message(0)
        return [lambda: setattr(a, "x", a.ms[3]), lambda: setattr(a, "x", message(0))]

    def a_later_part_had_it_first(a: Any) -> list[Callable[[], object]]:
        return [lambda: a.ms[0].update(u=a.ms[-1]["u"]), lambda: a.ms[-1]["u"]["n"].append(2)]

    return {each.__name__: each for each in (
        equal_parts_become_one, one_part_becomes_two_equal_ones,
        a_shared_part_is_replaced_by_an_equal_one_where_it_was_first,
        an_item_of_the_rest_becomes_an_equal_one_of_a_segment, a_later_part_had_it_first,
    )}  # fmt: skip


@pytest.mark.parametrize("trap", traps().values(), ids=traps())
def test_which_object_is_which_is_kept_where_no_pickle_changes(
    trap: Callable[[Any], list[Callable[[], object]]],
) -> None:
    agent = in_two_segments()
    for snapshot, expected in snapshots(agent, *trap(agent)):
        assert form(restored(snapshot)) == expected


def test_a_step_that_appends_keeps_all_other_segments() -> None:
    agent = Agent(ms=[message(i) for i in range(10 * SIZE)], flat=[{"text": f"{i}"} for i in range(5 * SIZE)])
    (before, _), (after, _) = snapshots(agent, lambda: agent.ms.append(message("new")))
    new = set(after.segments()) - set(before.segments())
    assert len(new) == 1
    assert len(new.pop().data) < 200


def test_an_edit_of_an_old_element_makes_its_segment_anew() -> None:
    agent: Any = Agent(ms=[message(i) for i in range(10 * SIZE)])
    (before, _), (after, _) = snapshots(agent, lambda: agent.ms[5]["u"]["n"].append("edited"))
    assert len(set(after.segments()) - set(before.segments())) == 1


def test_small_segments_become_larger_ones_and_an_item_is_written_three_times() -> None:
    agent = Agent(ms=[message(i) for i in range(SIZE)])
    steps = [lambda n=n: agent.ms.append(message(n)) for n in range(4 * SIZE)]
    taken = [snapshot for snapshot, _ in snapshots(agent, *steps)]
    for snapshot in taken:
        _, parts = snapshot.containers[0]
        assert len(parts) <= len(agent.ms) // SIZE + 7 + 7
    items = {each for snapshot in taken for each in snapshot.segments() if each is not snapshot.rest.segment}
    whole = sum(len(each.data) for each in taken[-1].segments())
    assert sum(len(each.data) for each in items) < 3.5 * whole


def test_what_the_rest_referred_to_before_is_not_referred_to_for_ever() -> None:
    agent = Agent(ms=[message(i) for i in range(SIZE)], last=None)

    def step() -> None:
        agent.ms.append(message("new"))
        agent.last = agent.ms[-1]

    taken = snapshots(agent, *[step] * 40)
    assert all(form(restored(snapshot)) == expected for snapshot, expected in taken)
    assert all(len(snapshot.rest.shared) <= 4 for snapshot, _ in taken)


class Loud:
    def __reduce__(self) -> Any:
        raise ValueError("not today")


def test_after_a_snapshot_that_failed_the_next_is_right() -> None:
    agent: Any = Agent(ms=[message(i) for i in range(3 * SIZE)])
    segmenter = Segmenter()
    segmenter.snapshot(agent, vars(agent))
    agent.ms[70]["bad"] = Loud()
    with pytest.raises(ValueError, match="not today"):
        segmenter.snapshot(agent, vars(agent))
    del agent.ms[70]["bad"]
    agent.ms[100]["u"] = agent.ms[0]["u"]
    assert form(restored(segmenter.snapshot(agent, vars(agent)))) == form(agent)
