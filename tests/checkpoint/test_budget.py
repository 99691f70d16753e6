"""The fast mode may see an edit in place of an old element late, and nothing else; it says of each segment how late."""

from __future__ import annotations

import queue
import random
from typing import TYPE_CHECKING, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.checkpoint.agents import Agent
from tests.checkpoint.oracle import form
from tests.checkpoint.test_segments import OPERATIONS, World, message, restored

from clearstone import checkpointable
from clearstone.checkpoint import state
from clearstone.checkpoint.options import options_of
from clearstone.checkpoint.rotation import BUDGET, Rotation
from clearstone.checkpoint.segments import SIZE, Segmenter
from clearstone.codec import redact
from clearstone.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from clearstone.checkpoint.snapshots import Snapshot

STEPS = 12


class Slow:
    """A clock by which every segment takes the whole budget: one has its turn at a step."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += BUDGET
        return self.now


def one_at_a_step() -> Segmenter:
    return Segmenter(rotation=Rotation(Slow()))


def fast(segmenter: Segmenter, agent: Any) -> Snapshot:
    return segmenter.snapshot(agent, vars(agent), whole=False)


def whole(segmenter: Segmenter, agent: Any) -> Snapshot:
    return segmenter.snapshot(agent, vars(agent))


def is_state(snapshot: Snapshot, agent: Any) -> bool:
    return bool(form(restored(snapshot)) == form(agent))


def is_tidy(segmenter: Segmenter) -> bool:
    """Whether what is known of parts is of parts that there are, and in order."""
    parts = [part for each in segmenter._containers for part in each.parts]
    owners = segmenter._owners
    return (
        {part for part, _, _ in owners._owners.values()} <= set(parts)
        and all(owners._owners[key][:2] == (part, number) for part in parts for key, number in part.owned.items())
        and all(owners.is_before(each, part) for part in (*parts, segmenter._rest) for each in part.shared)
        and not (owners.outdated or owners.moved)
    )


def begun(agent: Any) -> Segmenter:
    segmenter = one_at_a_step()
    whole(segmenter, agent)
    return segmenter


def with_messages(parts: int, **attributes: Any) -> Any:
    return Agent(ms=[message(i) for i in range(parts * SIZE)], **attributes)


# --- random edits ----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1 << 40))
def test_a_whole_snapshot_is_the_state_whatever_happened_between_fast_ones(seed: int) -> None:
    world, segmenter = World(seed), one_at_a_step()
    for _ in range(STEPS):
        for _ in range(world.random.randint(0, 3)):
            world.step()
        if world.random.random() < 0.7:
            restored(fast(segmenter, world.agent))  # it loads, whatever is late in it
        else:
            assert is_state(whole(segmenter, world.agent), world.agent)
        assert is_tidy(segmenter)
    assert is_state(whole(segmenter, world.agent), world.agent)


class Careful(World):
    """A world in which nothing is edited in place but what is new, or what an attribute refers to."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.agent.ms.extend(message(f"more {i}") for i in range(3 * SIZE))
        self.agent.index = {f"i{i}": each for i, each in enumerate(self.agent.ms[: 2 * SIZE])}
        self.made = 0

    def new(self) -> dict[str, Any]:
        self.made += 1
        return message(f"new {self.made}")

    def step(self) -> None:
        agent, facts, rng = self.agent, self.agent.sub.facts, self.random
        self.random.choice(CAREFUL)(self, agent, agent.ms, facts)
        if rng.random() < 0.3:
            agent.ms[-1]["edited"] = rng.random()

    def edit_what_an_attribute_refers_to(self) -> None:
        if isinstance(self.agent.x, dict):
            self.agent.x["through an attribute"] = self.random.random()


def _append_what_refers_back(w: Any, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    ms.append({**w.new(), "of": w.any(ms), "part": w.any(ms).get("u")})


def _insert(w: Any, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    ms.insert(w.place(ms), w.new())


def _rebind(w: Any, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    ms[w.place(ms)] = w.new()


def _delete(w: Any, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    begin = w.place(ms)
    del ms[begin : begin + w.random.choice([1, 1, 2, SIZE, 2 * SIZE])]
    ms.append(w.new())


def _slide(w: Any, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    del ms[0]
    ms.append(w.new())


def _swap(w: Any, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    one, other = w.place(ms), w.place(ms)
    ms[one], ms[other] = ms[other], ms[one]


def _repeat(w: Any, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    ms.append(w.any(ms))


def _name(w: Any, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    a.x = w.any(ms)


def _name_a_part(w: Any, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    a.x = w.any(ms).get("u")


def _index(w: Any, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    a.index[f"n{w.random.random()}"] = w.any(ms)


def _move_to_the_end(w: Any, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    key = w.any(list(a.index))
    a.index[key] = a.index.pop(key)


def _put_first(w: Any, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    a.flat.insert(0, w.any(ms))


def _rebind_a_fact(w: Any, a: Any, ms: list[Any], facts: dict[Any, Any]) -> None:
    facts[w.any([*facts, "another"])] = {"v": w.any(ms)}


KEPT = {"append", "refer_to_the_agent", "rebind_the_list", "close_over"}

CAREFUL: list[Callable[[Any, Any, list[Any], dict[Any, Any]], object]] = [
    _append_what_refers_back, _insert, _rebind, _delete, _slide, _swap, _repeat, _name, _name_a_part, _index,
    _move_to_the_end, _put_first, _rebind_a_fact,
    *(each for each in OPERATIONS if each.__name__ in KEPT),
]  # fmt: skip


@pytest.mark.once
@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1 << 40))
def test_every_fast_snapshot_is_the_state_where_nothing_old_was_edited_in_place(seed: int) -> None:
    world, segmenter = Careful(seed), one_at_a_step()
    taken = []
    for _ in range(STEPS):
        for _ in range(world.random.randint(0, 3)):
            world.step()
        world.edit_what_an_attribute_refers_to()
        taken.append((fast(segmenter, world.agent), form(world.agent)))
        assert is_tidy(segmenter)
    assert all(form(restored(snapshot)) == expected for snapshot, expected in taken)


# --- what is late ----------------------------------------------------------------------------------------------------


def test_an_edit_in_place_of_an_old_element_is_late_and_the_snapshot_says_when_it_was_verified() -> None:
    agent = with_messages(5)
    segmenter = begun(agent)  # step 1
    fast(segmenter, agent)  # its turn: the second segment
    agent.ms[0]["u"]["n"].append("edited")
    late = fast(segmenter, agent)
    assert late.step == 3
    assert late.verified == (((1, 1), (1, 2), (1, 3), (1, 1), (1, 3)),)
    assert restored(late).ms[0] == message(0)
    assert not is_state(late, agent)
    assert is_state(whole(segmenter, agent), agent)


def test_every_segment_has_its_turn_in_a_round() -> None:
    agent = with_messages(8)
    segmenter = begun(agent)
    for each in agent.ms:
        each["u"]["n"].append("edited")
    for _ in range(7):
        last = fast(segmenter, agent)
    assert is_state(last, agent)
    assert {step for runs in last.verified for _, step in runs} == set(range(2, 9))


def test_the_time_decides_how_many_have_their_turn() -> None:
    agent = with_messages(8)
    segmenter = Segmenter(rotation=Rotation(lambda: 0.0))  # they take no time: all of them
    whole(segmenter, agent)
    agent.ms[0]["u"]["n"].append("edited")
    taken = fast(segmenter, agent)
    assert is_state(taken, agent)
    assert taken.verified == ()


def test_a_whole_snapshot_says_nothing_for_everything_was_verified() -> None:
    agent = with_messages(5)
    segmenter = begun(agent)
    assert fast(segmenter, agent).verified
    taken = whole(segmenter, agent)
    assert (taken.verified, taken.step) == ((), 3)


def test_the_runs_of_a_container_cover_its_segments() -> None:
    agent = with_messages(5, facts={i: message(i) for i in range(3 * SIZE + 5)})
    segmenter = begun(agent)
    for n in range(20):
        agent.ms.append(message(n))
        taken = fast(segmenter, agent)
        for runs, (_, parts) in zip(taken.verified, taken.containers, strict=True):
            assert sum(count for count, _ in runs) == len(parts)


# --- what is not -----------------------------------------------------------------------------------------------------


def changes() -> dict[str, Callable[[Any], object]]:
    """What is seen at once, in the middle of a long list or dict."""
    return {
        "an element is rebound": lambda a: a.ms.__setitem__(70, message("new")),
        "the first of a segment is rebound": lambda a: a.ms.__setitem__(SIZE, message("new")),
        "an element is inserted": lambda a: a.ms.insert(70, message("new")),
        "an element is deleted": lambda a: a.ms.__delitem__(70),
        "a segment is deleted": lambda a: a.ms.__delitem__(slice(SIZE, 2 * SIZE)),
        "the first is deleted and one is appended": lambda a: (a.ms.pop(0), a.ms.append(message("new"))),
        "the first is rebound and one is appended": lambda a: (
            a.ms.__setitem__(0, message("new")),
            a.ms.append(message("newer")),
        ),
        "two change places": lambda a: a.ms.insert(3, a.ms.pop(100)),
        "all are gone but a few": lambda a: a.ms.__delitem__(slice(0, -SIZE - 3)),
        "the last element is edited": lambda a: a.ms[-1]["u"]["n"].append("edited"),
        "a value of the dict is rebound": lambda a: a.facts.__setitem__(3, message("new")),
        "a key moves to the end": lambda a: a.facts.__setitem__(3, a.facts.pop(3)),
        "an object of another kind comes in": lambda a: a.ms.__setitem__(3, Agent(n=1)),
        "an attribute is rebound": lambda a: setattr(a, "x", 5),
    }


@pytest.mark.parametrize("change", changes().values(), ids=changes())
def test_a_change_of_which_object_is_where_is_seen_at_once(change: Callable[[Any], object]) -> None:
    agent = with_messages(6, facts={i: message(i) for i in range(4 * SIZE)}, x=None)
    segmenter = begun(agent)
    for _ in range(3):
        fast(segmenter, agent)
    change(agent)
    assert is_state(fast(segmenter, agent), agent)
    change(agent)
    assert is_state(fast(segmenter, agent), agent)


@pytest.mark.parametrize(
    "change", [lambda ms: ms.insert(3, "new"), lambda ms: ms.pop(3), lambda ms: ms.__setitem__(3, "new")]
)
def test_an_insertion_or_a_deletion_cuts_one_segment_anew_and_not_all_that_follow(
    change: Callable[[list[Any]], object],
) -> None:
    agent = with_messages(10)
    segmenter = Segmenter()
    before = whole(segmenter, agent)
    change(agent.ms)
    agent.ms.append("at the end too")
    after = whole(segmenter, agent)
    assert is_state(after, agent)
    assert len(set(map(id, before.segments())) & set(map(id, after.segments()))) >= 9


def test_insertions_at_one_place_do_not_leave_a_small_segment_each() -> None:
    agent = with_messages(4)
    segmenter = Segmenter()
    for n in range(3 * SIZE):
        agent.ms.insert(10, message(n))
        taken = whole(segmenter, agent)
    assert is_state(taken, agent)
    assert len(list(taken.segments())) <= 10


@pytest.mark.parametrize("parts", [{"u": {"n": [1]}}, {"text": "flat"}], ids=["deep", "flat"])
def test_an_equal_copy_in_the_place_of_an_old_element_is_seen_when_its_segment_has_its_turn(
    parts: dict[str, Any],
) -> None:
    agent = Agent(ms=[{"i": i, **parts} for i in range(4 * SIZE)], x=None)
    segmenter = begun(agent)
    agent.ms[70] = dict(agent.ms[70])
    agent.x = agent.ms[70]
    for _ in range(3):
        taken = fast(segmenter, agent)
    again = restored(taken)
    assert again.x is again.ms[70]


def test_an_attribute_that_refers_to_an_old_element_is_as_it_is_now() -> None:
    agent = with_messages(6, current=None)
    agent.current = agent.ms[3]
    segmenter = begun(agent)
    agent.current["status"] = "done"
    assert is_state(fast(segmenter, agent), agent)
    agent.ms[70]["u"]["n"].append("edited")
    agent.current = agent.ms[70]["u"]
    assert is_state(fast(segmenter, agent), agent)


class Comparing:
    """Nobody may ask it whether it equals something."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def __eq__(self, other: object) -> bool:
        self.asked.append(other)
        raise AssertionError("compared")

    __hash__ = object.__hash__


@pytest.mark.parametrize("wrap", [lambda each: each, lambda each: {"in": [each]}], ids=["an element", "deep in one"])
def test_no_object_in_a_list_is_ever_compared_by_its_own_equality(wrap: Callable[[Any], Any]) -> None:
    agent = with_messages(4)
    asked = [Comparing() for _ in agent.ms]
    agent.ms = [wrap(each) for each in asked]
    segmenter = begun(agent)
    fast(segmenter, agent)
    agent.ms.append(wrap(Comparing()))
    agent.ms[5], agent.ms[70] = agent.ms[70], wrap(Comparing())
    agent.ms.insert(3, message("new"))
    taken = fast(segmenter, agent)
    assert [id(each) for each in agent.ms].index(id(agent.ms[6])) == 6
    assert len(restored(taken).ms) == len(agent.ms)
    assert not any(each.asked for each in asked)


def test_an_object_in_the_very_place_of_a_plain_element_is_asked_once_at_most_and_seen_at_once() -> None:
    agent = with_messages(4)
    segmenter = begun(agent)
    fast(segmenter, agent)
    agent.ms[5] = new = Comparing()
    taken = fast(segmenter, agent)
    assert isinstance(restored(taken).ms[5], Comparing)
    asked = len(new.asked)
    agent.ms[6] = Comparing()
    fast(segmenter, agent)
    assert asked <= 1
    assert len(new.asked) == asked
    assert not agent.ms[6].asked


def test_elements_that_hold_themselves_are_compared_by_identity() -> None:
    agent = with_messages(4)
    for each in agent.ms:
        each["itself"] = each
    segmenter = begun(agent)
    fast(segmenter, agent)
    agent.ms[5] = dict(agent.ms[5])
    assert is_state(fast(segmenter, agent), agent)


def test_where_one_segment_brings_others_with_it_without_end_all_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearstone.checkpoint.segments.MOST_ROUNDS", 0)
    agent = with_messages(6)
    segmenter = begun(agent)
    agent.ms[5]["u"]["n"].append("edited")
    taken = fast(segmenter, agent)
    assert is_state(taken, agent)
    assert not taken.verified


# --- which object is which -------------------------------------------------------------------------------------------


def test_a_new_element_refers_to_the_object_of_an_old_one_that_is_late() -> None:
    agent = with_messages(6)
    segmenter = begun(agent)
    agent.ms[3]["u"]["n"].append("edited")
    agent.ms.append({"of": agent.ms[3], "part": agent.ms[3]["u"]})
    again = restored(fast(segmenter, agent))
    assert again.ms[-1]["of"] is again.ms[3]
    assert again.ms[-1]["part"] is again.ms[3]["u"]


def test_an_object_that_an_old_element_has_lost_goes_on_where_it_is_now() -> None:
    agent = with_messages(6)
    shared = agent.ms[3]["u"]
    segmenter = begun(agent)
    agent.ms[3]["u"] = None
    agent.ms.append({"part": shared})
    agent.ms[-1]["again"] = shared
    shared["n"].append("edited")
    assert is_state(fast(segmenter, agent), agent)
    agent.ms.append({"part": shared})
    assert is_state(fast(segmenter, agent), agent)


def test_a_part_whose_owner_in_front_of_it_is_gone_is_written_though_it_is_not_its_turn() -> None:
    agent = with_messages(6)
    for place in (70, 200, 300):
        agent.ms[place]["u"] = agent.ms[3]["u"]
    segmenter = begun(agent)
    del agent.ms[3]
    assert is_state(fast(segmenter, agent), agent)
    agent.ms[69] = message("new")
    assert is_state(fast(segmenter, agent), agent)


def test_an_earlier_container_takes_an_object_over_from_an_old_element_of_a_later_one() -> None:
    agent = Agent(first=[message(i) for i in range(4 * SIZE)], second=[message(-i) for i in range(4 * SIZE)])
    segmenter = begun(agent)
    agent.first.append({"of": agent.second[3]["u"]})
    agent.second[4]["u"]["n"].append("edited")
    assert is_state(fast(segmenter, agent), agent)
    agent.first.pop()
    assert is_state(fast(segmenter, agent), agent)


def test_references_follow_an_owner_that_moves_to_another_place() -> None:
    agent = with_messages(8, x=None)
    agent.x = [agent.ms[300], agent.ms[301]["u"]]
    agent.ms[400]["of"] = agent.ms[300]
    segmenter = begun(agent)
    agent.ms.insert(3, message("new"))
    assert is_state(fast(segmenter, agent), agent)
    del agent.ms[: 2 * SIZE]
    assert is_state(fast(segmenter, agent), agent)


def test_of_a_small_part_that_becomes_one_with_what_follows_nothing_is_kept() -> None:
    agent = with_messages(2)
    agent.ms += [message("more")] * 3
    segmenter = begun(agent)
    agent.ms.insert(3, message("inserted"))  # what it pushes out of the first segment is a small one in the middle
    fast(segmenter, agent)
    agent.ms[100] = message("rebound")
    assert is_state(fast(segmenter, agent), agent)
    assert is_tidy(segmenter)


def test_after_a_snapshot_that_failed_the_next_fast_one_is_right() -> None:
    agent = with_messages(6)
    segmenter = begun(agent)

    class Loud:
        def __reduce__(self) -> Any:
            raise ValueError("not today")

    agent.ms.append(Loud())
    with pytest.raises(ValueError, match="not today"):
        fast(segmenter, agent)
    agent.ms.pop()
    agent.ms[3]["u"]["n"].append("edited")
    assert is_state(fast(segmenter, agent), agent)


# --- an agent's ------------------------------------------------------------------------------------------------------


@checkpointable(verify="budget")
class Fast(Agent):
    """An agent whose class chooses the fast mode."""


@pytest.fixture
def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One segment has its turn at a step."""
    monkeypatch.setattr("clearstone.checkpoint.rotation.BUDGET", 0.0)


@pytest.mark.usefixtures("_slow")
def test_an_entry_may_be_late_and_a_failure_an_explicit_checkpoint_and_an_exit_are_not() -> None:
    agent = Fast(ms=[message(i) for i in range(6 * SIZE)])
    for _ in range(3):
        state.take(agent, at_entry=True)
    agent.ms[10]["u"]["n"].append("edited")
    late, now = state.take(agent, at_entry=True), state.take(agent)
    assert late.snapshot.verified
    assert form(state.restore(Fast, late)) != form(agent)
    assert not now.snapshot.verified
    assert form(state.restore(Fast, now)) == form(agent)


@pytest.mark.usefixtures("_slow")
def test_without_a_word_of_its_class_every_state_of_an_agent_is_verified() -> None:
    agent = with_messages(6)
    for n in range(4):
        agent.ms[n]["u"]["n"].append("edited")
        took = state.take(agent, at_entry=True)
        assert not took.snapshot.verified
        assert form(state.restore(Agent, took)) == form(agent)


@pytest.mark.usefixtures("_slow")
def test_what_is_left_out_of_an_old_element_is_named_each_time() -> None:
    agent = Fast(ms=[message(i) for i in range(6 * SIZE)])
    agent.ms[70]["client"] = queue.Queue()
    agent.ms[100]["of"] = Fast(api_key="hunter2")
    for n in range(5):
        agent.ms.append(message(n))
        took = state.take(agent, at_entry=True)
        assert {each.path for each in took.missing} == {"self.ms[70]['client']", "self.ms[100]['of'].api_key"}


@pytest.mark.usefixtures("_slow")
def test_other_rules_of_what_is_a_secret_hold_for_old_elements_at_once() -> None:
    agent = Fast(ms=[message(i) for i in range(6 * SIZE)])
    agent.ms[70]["of"] = Agent(favourite_colour="mauve")
    for _ in range(3):
        assert not state.take(agent, at_entry=True).missing
    redact.use(redact.Rules(keys=("favourite_colour",)))
    try:
        took = state.take(agent, at_entry=True)
    finally:
        redact.use(redact.Rules())
    assert [each.path for each in took.missing] == ["self.ms[70]['of'].favourite_colour"]
    assert not any(b"mauve" in each.data for each in took.snapshot.segments())


@pytest.mark.parametrize("seed", range(4))
def test_every_checkpoint_of_a_fast_agent_but_those_at_entry_is_the_state(seed: int) -> None:
    world, rng = World(seed), random.Random(seed)
    world.agent = Fast(**vars(world.agent))
    for _ in range(10):
        world.step()
        took = state.take(world.agent, at_entry=True)
        assert state.restore(Fast, took)
        if rng.random() < 0.3:
            assert form(state.restore(Fast, state.take(world.agent))) == form(world.agent)


# --- the option ------------------------------------------------------------------------------------------------------


def test_the_most_derived_class_that_says_something_wins() -> None:
    class Silent(Fast):
        pass

    @checkpointable(exclude=("cache",))
    class Other(Silent):
        pass

    @checkpointable(verify="all")
    class Sound(Other):
        pass

    found: list[Literal["all", "budget"] | None] = [options_of(each).verify for each in (Agent, Silent, Other, Sound)]
    assert found == ["all", "budget", "budget", "all"]


def test_a_word_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match=r"verify='fast' is none of 'all', 'budget'"):
        checkpointable(verify="fast")  # type: ignore[call-overload]  # the subject


def test_it_belongs_above_a_class() -> None:
    with pytest.raises(ConfigurationError, match="above its class"):
        checkpointable(verify="budget")(lambda: 1)
