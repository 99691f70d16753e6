"""What the recorders are given to record: six kinds of agent work that cost next to nothing themselves.

Idea: a workload makes fresh functions, has them wrapped by whoever is measured, and lists the arguments of its calls
beforehand, so that nothing but the call is timed. Imports only the standard library: it runs in every environment.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Call = tuple[tuple[Any, ...], dict[str, Any]]
Wrap = Callable[..., Callable[..., Any]]
"""``wrap(function, kind)``, or ``wrap(function, kind, method=True)`` in the body of a class."""

MESSAGES, CHARACTERS, REPLY_CHARACTERS, CONVERSATIONS, HELD = 20, 300, 1024, 16, 10_000
OPTIONS = {"model": "a-model", "temperature": 0.2, "max_tokens": 512}
WORDS = ("agent", "plan", "tool", "result", "search", "weather", "invoice", "please", "summarise", "table", "return")

_random = random.Random(7)
_serial = itertools.count()


def text(characters: int) -> str:
    """Return a text of so many characters that no earlier call gave."""
    words = " ".join(_random.choices(WORDS, k=characters // 3))
    return f"{next(_serial):08d} {words}"[:characters]


def conversation() -> list[dict[str, str]]:
    """Return 20 chat messages of 300 characters, no two of them alike."""
    roles = itertools.cycle(("user", "assistant"))
    return [{"role": next(roles), "content": text(CHARACTERS)} for _ in range(MESSAGES)]


REPEATED = [conversation() for _ in range(CONVERSATIONS)]
REPLIES = [text(REPLY_CHARACTERS) for _ in range(CONVERSATIONS)]


def fresh_conversation() -> list[dict[str, str]]:
    """Return a conversation all of whose texts are new, cheaply: the words repeat, the strings do not."""
    model = REPEATED[next(_serial) % CONVERSATIONS]
    return [{"role": each["role"], "content": f"{next(_serial):08d}{each['content'][8:]}"} for each in model]


def fresh_replies() -> Iterator[str]:
    while True:
        yield f"{next(_serial):08d}{REPLIES[0][8:]}"


def timed(ask: Callable[..., Any], calls: int, *, fresh: bool) -> float:
    """Make so many calls of W2 (or W2f); return the seconds in them, by a clock that is real in a replay too."""
    seconds = 0.0
    for number in range(calls):
        messages = fresh_conversation() if fresh else REPEATED[number % CONVERSATIONS]
        begun = time.clock_gettime(time.CLOCK_MONOTONIC)
        answer = ask(messages, **OPTIONS)
        seconds += time.clock_gettime(time.CLOCK_MONOTONIC) - begun
        assert answer["role"] == "assistant"
    return seconds


# --- the functions ---------------------------------------------------------------------------------------------------


def identity(wrap: Wrap) -> Callable[..., Any]:
    def f(n: int) -> int:
        return n

    return wrap(f, "tool")


def asked(wrap: Wrap, replies: Iterator[str], *, method: bool = False) -> Callable[..., Any]:
    if method:

        def ask_model(self: Any, messages: list[dict[str, str]], **options: Any) -> dict[str, Any]:
            return {"role": "assistant", "content": next(replies), "usage": {"input": 1500, "output": 130}}

        return wrap(ask_model, "llm", method=True)

    def ask(messages: list[dict[str, str]], **options: Any) -> dict[str, Any]:
        return {"role": "assistant", "content": next(replies), "usage": {"input": 1500, "output": 130}}

    return wrap(ask, "llm")


def repeated(wrap: Wrap) -> Callable[..., Any]:
    return asked(wrap, itertools.cycle(REPLIES))


def fresh(wrap: Wrap) -> Callable[..., Any]:
    return asked(wrap, fresh_replies())


def of_agent(wrap: Wrap) -> Callable[..., Any]:
    class Agent:
        ask_model = asked(wrap, itertools.cycle(REPLIES), method=True)

        def __init__(self) -> None:
            self.messages = [{"role": "user", "content": text(100)} for _ in range(HELD)]

    agent = Agent()

    def call(*args: Any, **options: Any) -> Any:
        return agent.ask_model(*args, **options)  # looked up at every call, as agents do

    return call


def step(wrap: Wrap) -> Callable[..., Any]:
    def search(query: str, most: int = 3) -> dict[str, Any]:
        return {"hits": [{"title": f"t{i}", "score": 0.5} for i in range(most)]}

    def calculate(expression: str) -> dict[str, Any]:
        return {"value": 42, "expression": expression}

    def fetch(url: str, headers: dict[str, str]) -> dict[str, Any]:
        return {"status": 200, "body": "a line of the page that was asked for " * 4}

    search, calculate, fetch = wrap(search, "tool"), wrap(calculate, "tool"), wrap(fetch, "tool")

    def take_step(goal: str, number: int) -> dict[str, Any]:
        found, sum_, page = search(goal), calculate("6*7"), fetch("a-page", headers={"accept": "text/html"})
        return {"number": number, "hits": len(found["hits"]), "answer": sum_["value"], "status": page["status"]}

    return wrap(take_step, "step")


def awaited(wrap: Wrap) -> Callable[..., Any]:
    replies = itertools.cycle(REPLIES)

    async def ask(messages: list[dict[str, str]], **options: Any) -> dict[str, Any]:
        return {"role": "assistant", "content": next(replies), "usage": {"input": 1500, "output": 130}}

    return wrap(ask, "llm")


# --- the arguments ---------------------------------------------------------------------------------------------------


def numbers(calls: int) -> list[Call]:
    return [((i,), {}) for i in range(calls)]


def conversations(calls: int) -> list[Call]:
    return [((REPEATED[i % CONVERSATIONS],), OPTIONS) for i in range(calls)]


def fresh_conversations(calls: int) -> list[Call]:
    return [((fresh_conversation(),), OPTIONS) for _ in range(calls)]


def steps(calls: int) -> list[Call]:
    return [(("find it", i), {}) for i in range(calls)]


# --- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """One kind of work.

    Args:
        title: what it is, for people.
        function: makes the function that is called, given a `Wrap`.
        inputs: gives the arguments of so many calls.
        calls: how many calls are timed in a round.
        spans: how many spans one call is.
        how: ``"calls"``, ``"awaited"``, ``"threads"`` (of eight) or ``"growth"`` (without a pause, in a new process).
    """

    title: str
    function: Callable[[Wrap], Callable[..., Any]]
    inputs: Callable[[int], list[Call]]
    calls: int
    spans: int = 1
    how: str = "calls"


WORKLOADS = {
    "W1": Workload("f(int) -> int", identity, numbers, 2000),
    "W2": Workload("an LLM call, 20 messages of 300 characters, a 1 KB reply; 16 histories repeat", repeated,
                   conversations, 1000),
    "W2f": Workload("W2, every string of every call a new one", fresh, fresh_conversations, 600),
    "W2m": Workload("W2 as a method of an agent that holds 10,000 messages", of_agent, conversations, 600),
    "W3": Workload("a step with three nested tool calls", step, steps, 600, spans=4),
    "W4": Workload("W2, awaited", awaited, conversations, 1000, how="awaited"),
    "W5": Workload("W2 in eight threads", repeated, conversations, 1600, how="threads"),
    "W6": Workload("200,000 spans of f(int), without a pause", identity, numbers, 200_000, how="growth"),
}  # fmt: skip
