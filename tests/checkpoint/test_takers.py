"""What is kept of an agent between its snapshots costs nothing but memory: not its life, not the truth."""

from __future__ import annotations

import gc
import os
import queue
import sys
import threading
import weakref
from typing import Any

import pytest
from tests.checkpoint.agents import Agent
from tests.checkpoint.oracle import form
from tests.checkpoint.test_segments import World, message

from clearstone.checkpoint import state, takers
from clearstone.checkpoint.segments import SIZE


def entered(agent: Any) -> state.AgentState:
    return state.take(agent, at_entry=True)


def again(agent: Any, took: state.AgentState) -> Any:
    return state.restore(type(agent), took)


def test_the_second_state_of_an_agent_is_cut_and_the_third_shares_its_segments() -> None:
    agent = Agent(ms=[message(i) for i in range(5 * SIZE)])
    first, second, third = entered(agent), entered(agent), entered(agent)
    assert not first.snapshot.containers
    assert len(second.snapshot.containers) == 1
    shared = {id(each) for each in second.snapshot.segments()} & {id(each) for each in third.snapshot.segments()}
    assert len(shared) == len(list(third.snapshot.segments()))
    assert form(again(agent, first)) == form(again(agent, third)) == form(agent)


@pytest.mark.parametrize("seed", range(8))
def test_every_state_of_an_agent_is_the_state_it_had(seed: int) -> None:
    world, taken = World(seed), []
    for _ in range(8):
        world.step()
        taken.append((entered(world.agent), form(world.agent)))
    assert all(form(again(world.agent, took)) == expected for took, expected in taken)


def test_an_agent_is_collected_when_its_user_lets_go_of_it() -> None:
    agent = Agent(ms=[message(i) for i in range(2 * SIZE)])
    agent.tool = Agent(owner=agent, lock=threading.Lock())
    for _ in range(3):
        entered(agent)
    gone = weakref.ref(agent)
    del agent
    gc.collect()
    assert gone() is None
    assert all(ref() is not None for ref, _ in takers._takers.values())


def test_without_a_cycle_of_its_own_it_is_collected_at_once() -> None:
    agent = Agent(ms=[message(i) for i in range(2 * SIZE)], client=queue.Queue())
    for _ in range(3):
        entered(agent)
    gone = weakref.ref(agent)
    gc.disable()
    try:
        del agent
        assert gone() is None
    finally:
        gc.enable()


def test_agents_that_hold_themselves_in_a_long_list_stay_sixteen_at_most() -> None:
    made = []
    for _ in range(2 * takers.MOST_AGENTS):
        agent = Agent(ms=[message(i) for i in range(SIZE)])
        agent.ms[0]["of"] = agent
        entered(agent)
        entered(agent)
        made.append(weakref.ref(agent))
    del agent
    gc.collect()
    assert sum(ref() is not None for ref in made) <= takers.MOST_AGENTS


def test_what_is_left_out_is_named_each_time_and_no_longer_when_it_is_gone() -> None:
    agent = Agent(client=queue.Queue(), part=Agent(lock=threading.Lock()), api_key="hunter2", n=1)
    expected = {"self.client", "self.part.lock", "self.api_key"}
    for _ in range(3):
        assert {each.path for each in entered(agent).missing} == expected
    agent.client = None
    assert {each.path for each in entered(agent).missing} == expected - {"self.client"}
    agent.other = queue.Queue()
    agent.part.token = "hunter3"  # noqa: S105 - of a test
    found = {each.path for each in entered(agent).missing}
    assert found == expected - {"self.client"} | {"self.other", "self.part.token"}


def test_a_new_object_at_the_address_of_one_that_was_left_out_is_saved() -> None:
    agent = Agent(client=queue.Queue())
    for n in range(50):
        entered(agent)
        agent.client = None
        agent.client = {"n": n}
        took = entered(agent)
        assert not took.missing
        assert again(agent, took).client == {"n": n}
        agent.client = queue.Queue()


class Slotted:
    __slots__ = ("items",)
    items: list[Any]


def test_an_agent_that_takes_no_weak_references_is_taken_from_scratch() -> None:
    agent = Slotted()
    agent.items = [message(i) for i in range(2 * SIZE)]
    for n in range(3):
        agent.items.append(message(n))
        assert again(agent, entered(agent)).items == agent.items


class Reentrant:
    def __init__(self) -> None:
        self.taken: list[state.AgentState] = []

    def __reduce__(self) -> Any:
        if not self.taken:
            self.taken.append(state.take(AGENTS[0]))
        return Agent, ()


AGENTS: list[Any] = []


def test_an_agent_that_is_taken_while_it_is_taken_comes_back_from_both() -> None:
    reentrant = Reentrant()
    AGENTS[:] = [agent] = [Agent(ms=[message(i) for i in range(2 * SIZE)], inner=None)]
    entered(agent)
    entered(agent)
    agent.inner = reentrant
    outer = entered(agent)
    assert again(agent, outer).ms == agent.ms
    assert again(agent, reentrant.taken[0]).ms == agent.ms
    AGENTS.clear()


def test_threads_that_take_one_agent_at_once_all_get_its_state() -> None:
    agent = Agent(ms=[message(i) for i in range(3 * SIZE)])
    barrier = threading.Barrier(4)
    taken: list[state.AgentState] = []

    def take() -> None:
        barrier.wait()
        taken.extend(entered(agent) for _ in range(10))

    crew = [threading.Thread(target=take) for _ in range(4)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    assert len(taken) == 40
    assert all(form(again(agent, took)) == form(agent) for took in taken)


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
def test_a_forked_child_takes_its_agents_from_scratch() -> None:
    agent = Agent(ms=[message(i) for i in range(2 * SIZE)])
    entered(agent)
    with takers._lock:
        child = os.fork()
        if not child:
            agent.ms.append("in the child")
            right = not takers._takers and again(agent, entered(agent)).ms == agent.ms
            os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
