"""The functions of `random` belong to the context that calls them, whatever name they were imported under."""

import pickle
import random
import threading
from collections.abc import Callable
from random import choice, gauss, getrandbits, getstate, randbytes, randint, seed, setstate, shuffle
from random import random as drawn
from typing import Any

import pytest

from clearstone.nondet import deterministic

START = 1_000_000_000_000_000_000


def reseeded() -> float:
    seed(7)
    return drawn()


def rewound() -> tuple[float, float]:
    state = getstate()
    numbers = drawn(), gauss()
    setstate(state)
    assert (drawn(), gauss()) == numbers
    return numbers


def shuffled() -> list[int]:
    items = list(range(50))
    shuffle(items)
    return items


DRAWS: dict[str, Callable[[], Any]] = {
    "random": drawn,
    "getrandbits": lambda: getrandbits(40),
    "gauss": lambda: gauss(0, 1),
    "choice": lambda: choice(range(10**6)),
    "randint": lambda: randint(0, 10**6),
    "randbytes": lambda: randbytes(4),
    "shuffle": shuffled,
    "seed": reseeded,
    "setstate": rewound,
}


@pytest.mark.parametrize("name", DRAWS)
def test_two_contexts_and_the_process_draw_in_turn_as_each_would_alone(name: str) -> None:
    draw = DRAWS[name]
    random.seed(3)
    outside = [draw() for _ in range(4)]
    alone = []
    for key in (b"a", b"b"):
        with deterministic(start_ns=START, seed=key):
            alone.append([draw() for _ in range(4)])
    random.seed(3)
    found: list[list[Any]] = [[], [], []]
    ready, turn = threading.Barrier(3), threading.Barrier(3)

    def inside(key: bytes, into: list[Any]) -> None:
        with deterministic(start_ns=START, seed=key):
            ready.wait()
            for _ in range(4):
                into.append(draw())
                turn.wait()
            ready.wait()

    threads = [threading.Thread(target=inside, args=each) for each in zip((b"a", b"b"), found, strict=False)]
    for thread in threads:
        thread.start()
    ready.wait()
    for _ in range(4):
        found[2].append(draw())
        turn.wait()
    ready.wait()
    for thread in threads:
        thread.join()
    assert found == [*alone, outside]


def test_the_number_that_gauss_keeps_for_later_is_the_contexts_own() -> None:
    random.seed(3)
    pairs = [gauss(), gauss()]
    random.seed(3)
    first = gauss()
    with deterministic(start_ns=START, seed=b"seed"):
        inside = gauss()
    assert [first, gauss()] == pairs
    with deterministic(start_ns=START, seed=b"seed"):
        assert gauss() == inside


def test_what_is_wrong_is_refused_as_ever_inside() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        for wrong, error in ((lambda: getrandbits(-1), ValueError), (lambda: seed([]), TypeError)):  # type: ignore[arg-type]
            with pytest.raises(error):
                wrong()
        with pytest.raises(TypeError):
            drawn(1)  # type: ignore[call-arg]


def test_nothing_of_it_is_left_and_nothing_of_it_pickles() -> None:
    before = type(random._inst), repr(drawn)
    with deterministic(start_ns=START, seed=b"seed"):
        data = [pickle.dumps(each) for each in (random._inst, choice, drawn)]
        assert repr(type(random._inst)) == "<class 'random.Random'>"
    assert (type(random._inst), repr(drawn)) == before
    assert not any(b"clearstone" in each for each in data)
    assert 0 <= pickle.loads(data[2])() < 1
