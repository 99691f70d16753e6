# ruff: noqa: NPY002 - numpy's legacy functions are under test
from __future__ import annotations

import os
import random
import secrets
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from os import urandom as urandom_alias
from random import random as random_alias
from typing import TYPE_CHECKING, Any
from uuid import uuid4 as uuid4_alias

import numpy as np
import pytest

from clearstone.errors import ConfigurationError
from clearstone.nondet import deterministic
from clearstone.nondet.entropy import Entropy, Lender

if TYPE_CHECKING:
    from collections.abc import Callable

START = 1_000_000_000_000_000_000

SOURCES: dict[str, Callable[[], Any]] = {
    "os.urandom": lambda: os.urandom(20),
    "alias of os.urandom": lambda: urandom_alias(20),
    "uuid4": uuid.uuid4,
    "alias of uuid4": uuid4_alias,
    "uuid1": uuid.uuid1,
    "secrets": secrets.token_hex,
    "SystemRandom": random.SystemRandom().random,
    "Random()": lambda: random.Random().random(),
    "Random(None)": lambda: random.Random(None).random(),
    "random.random": random.random,
    "alias of random.random": random_alias,
    "random.gauss": lambda: random.gauss(0, 1),
    "random.shuffle": lambda: random.sample(range(100), 10),
    "numpy default_rng": lambda: np.random.default_rng().random(),
    "numpy RandomState": lambda: np.random.RandomState().rand(),
    "numpy.random": lambda: np.random.normal(),
}


def values(source: Callable[[], Any], seed: bytes = b"seed") -> list[Any]:
    with deterministic(start_ns=START, seed=seed):
        return [source() for _ in range(3)]


@pytest.mark.parametrize("name", SOURCES)
def test_equal_seeds_give_equal_values(name: str) -> None:
    assert values(SOURCES[name]) == values(SOURCES[name])


@pytest.mark.parametrize("name", SOURCES)
def test_other_seeds_give_other_values(name: str) -> None:
    assert values(SOURCES[name]) != values(SOURCES[name], seed=b"other")


@pytest.mark.parametrize("name", SOURCES)
def test_one_context_never_gives_the_same_value_twice(name: str) -> None:
    first, second, third = (repr(value) for value in values(SOURCES[name]))
    assert len({first, second, third}) == 3


@pytest.mark.parametrize("name", SOURCES)
def test_values_are_real_again_afterwards(name: str) -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        inside = SOURCES[name]()
    assert SOURCES[name]() != inside


def test_random_seed_without_argument_takes_its_seed_from_the_stream() -> None:
    def reseeded() -> float:
        random.seed()
        return random.random()

    assert values(reseeded) == values(reseeded)


def test_generators_seeded_by_the_user_are_untouched() -> None:
    expected = [random.Random(7).random(), random.Random("word").random(), np.random.default_rng(7).random()]
    with deterministic(start_ns=START, seed=b"seed"):
        assert [
            random.Random(7).random(),
            random.Random("word").random(),
            np.random.default_rng(7).random(),
        ] == expected
        random.seed(7)
        assert random.random() == expected[0]


def test_generators_made_before_keep_their_state() -> None:
    mine, same = random.Random(), random.Random()
    same.setstate(mine.getstate())
    numbers = np.random.default_rng(5)
    expected = [np.random.default_rng(5).random(4).tolist()]
    with deterministic(start_ns=START, seed=b"seed"):
        assert mine.random() == same.random()
        assert [numbers.random(4).tolist()] == expected


def test_a_subclass_of_random_is_seeded_too() -> None:
    class Dice(random.Random):
        def roll(self) -> int:
            return self.randrange(10**9)

    assert values(lambda: Dice().roll()) == values(lambda: Dice().roll())


def test_the_callers_global_generators_are_put_back() -> None:
    random.seed(3)
    random.gauss(0, 1)  # leaves a second number waiting
    np.random.seed(3)
    np.random.normal()
    before = (random.getstate(), repr(np.random.get_state()))
    with deterministic(start_ns=START, seed=b"seed"):
        random.random()
        np.random.rand(10)
    assert (random.getstate(), repr(np.random.get_state())) == before


def test_a_recorded_state_of_random_is_continued() -> None:
    recorded = random.Random(11)
    recorded.gauss(0, 1)
    state = recorded.getstate()
    expected = [recorded.gauss(0, 1), recorded.random()]
    with deterministic(start_ns=START, seed=b"seed", random_state=state):
        assert [random.gauss(0, 1), random.random()] == expected


@pytest.mark.parametrize("state", [(), (3,), (3, (1, 2), None), (99, (), None), "state"])
def test_what_is_no_state_of_random_is_refused(state: Any) -> None:
    with pytest.raises(ConfigurationError, match="random_state"):
        with deterministic(start_ns=START, seed=b"seed", random_state=state):
            pytest.fail("entered")


@pytest.mark.parametrize("size", [-1, "5", None, 1.5])
def test_urandom_refuses_what_it_refuses_outside(size: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as outside:
        os.urandom(size)
    with deterministic(start_ns=START, seed=b"seed"):
        with pytest.raises(outside.type) as inside:
            os.urandom(size)
    assert str(inside.value) == str(outside.value)


def test_urandom_takes_any_size() -> None:
    with deterministic(start_ns=START, seed=b"seed"):
        assert [len(os.urandom(size)) for size in (0, 1, 64, 65, 100_000)] == [0, 1, 64, 65, 100_000]
        assert len(os.urandom(np.int64(8))) == 8  # type: ignore[arg-type]


def test_other_threads_get_real_entropy() -> None:
    def seen() -> tuple[bytes, uuid.UUID, float]:
        with deterministic(start_ns=START, seed=b"seed"), ThreadPoolExecutor(1) as pool:
            return (
                pool.submit(os.urandom, 16).result(),
                pool.submit(uuid.uuid4).result(),
                pool.submit(random.Random().random).result(),
            )

    assert not set(seen()[:2]) & set(seen()[:2])


def test_another_generator_of_numpy_is_left_alone() -> None:
    legacy: Any = np.random
    mine = legacy.get_bit_generator()
    legacy.set_bit_generator(legacy.PCG64(5))
    try:
        before = repr(legacy.get_state(legacy=False))
        with deterministic(start_ns=START, seed=b"seed"):
            assert repr(legacy.get_state(legacy=False)) == before
        assert repr(legacy.get_state(legacy=False)) == before
    finally:
        legacy.set_bit_generator(mine)


def test_numpy_imported_inside_gets_real_entropy_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    state = np.random.get_state()
    try:
        monkeypatch.delitem(sys.modules, "numpy.random")
        with deterministic(start_ns=START, seed=b"seed"):
            monkeypatch.setitem(sys.modules, "numpy.random", np.random)
            np.random.seed(1)
        assert np.random.rand() != np.random.RandomState(1).rand()
    finally:
        np.random.set_state(state)


def test_the_stream_is_the_same_whatever_its_neighbours_read() -> None:
    assert Entropy(b"a").read(8) == Entropy(b"a").read(16)[:8]
    assert Entropy(b"a").read(8) != Entropy(b"b").read(8)


def test_threads_never_get_the_same_bytes() -> None:
    entropy = Entropy(b"seed")
    with ThreadPoolExecutor(8) as pool:
        blocks = list(pool.map(entropy.read, [16] * 4000))
    assert len(set(blocks)) == 4000


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (0, 2, 1), (2, 0, 1)])
def test_a_lent_state_is_put_back_in_whatever_order_the_loans_end(order: tuple[int, ...]) -> None:
    held = ["the caller's"]
    lender = Lender(lambda: held[0], lambda state: held.__setitem__(0, state))
    loans = [lender.lending(f"of {number}") for number in range(3)]
    for loan in loans:
        loan.__enter__()
    for number in order:
        loans[number].__exit__(None, None, None)
    assert held == ["the caller's"]
