"""Logs of what was drawn come back as they were, and generators are put back where they stood."""

import base64
import json
import random
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearstone.nondet import drawn, generators
from clearstone.nondet.drawn import CLOCKS, KINDS, Log

moments = st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=5)
pieces = st.lists(st.binary(max_size=40), min_size=1, max_size=5)
logs = st.dictionaries(st.sampled_from(CLOCKS), moments) | st.dictionaries(
    st.sampled_from(["urandom16", "uuid1", "seed"]), pieces
)


@given(values=logs, states=st.dictionaries(st.sampled_from(["random", "numpy"]), st.binary(max_size=50)))
def test_a_log_is_read_as_it_was_kept(values: dict[str, list[Any]], states: dict[str, bytes]) -> None:
    log = Log(frozenset(KINDS))
    for source, given_values in values.items():
        for value in given_values:
            assert log.drawn("uuid", source, lambda value=value: value) == value  # type: ignore[misc]
    log.states.update(states)
    log.order = len(states)
    read = drawn.read(log.text())
    assert {source: list(read.values[source]) for source in read.values} == values
    assert (read.states, read.order) == ((states, len(states)) if states or values else ({}, 0))
    assert bool(read.began) == any(source in CLOCKS for source in values)


def test_a_log_with_nothing_in_it_is_no_text() -> None:
    assert not Log(frozenset(KINDS)).text()


def test_what_raises_is_not_kept() -> None:
    log = Log(frozenset(KINDS))
    with pytest.raises(ZeroDivisionError):
        log.drawn("uuid", "urandom4", lambda: 1 / 0)
    assert not log.text()


def test_a_log_keeps_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "MOST", 2)
    log = Log(frozenset(KINDS))
    assert [log.drawn("time", "time", lambda: 5) for _ in range(4)] == [5] * 4
    assert list(drawn.read(log.text()).values["time"]) == [5, 5]


def as_text(told: Any) -> str:
    return base64.b64encode(zlib.compress(json.dumps(told).encode())).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no base64",
        "AAAA",
        base64.b64encode(zlib.compress(b"{")).decode(),
        as_text([]),
        as_text({}),
        as_text({"began": {}, "states": {"random": 5}}),
        as_text({"began": {}, "states": {}, "order": 0, "uuid1": ["no hex"]}),
        as_text({"began": {"time": None}, "states": {}, "order": 0}),
        as_text({"began": {}, "states": {}, "order": 0, "time": [[]]}),
        as_text({"began": {}, "states": {}, "order": 0, "time": "x"}),
        as_text({"began": {}, "states": {}, "order": "first"}),
    ],
)
def test_a_text_that_is_no_log_is_read_as_an_empty_one(text: str) -> None:
    read = drawn.read(text)
    assert not read.values
    assert not read.states


def test_a_log_that_unpacks_to_more_than_any_log_is_read_as_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(frozenset(KINDS))
    log.states["random"] = bytes(1000)
    monkeypatch.setattr(drawn, "MOST_BYTES", 500)
    assert not drawn.read(log.text()).states


@pytest.mark.parametrize("asks", [False, True], ids=["as they lie in memory", "asked for"])
def test_generators_give_the_same_numbers_from_where_they_stood(asks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if asks:
        monkeypatch.setattr(generators, "_words", lambda: generators._asked)

    def numbers() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.standard_normal()]  # noqa: NPY002

    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        for _ in range(3):  # with and without a second normal number that waits
            states = generators.states()
            then = numbers()
            for name in states:
                generators.put(name, states[name])
            assert generators.states() == states
            assert numbers() == then
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def test_both_ways_to_the_words_of_the_generator_agree() -> None:
    assert generators._words()() == generators._asked()


@pytest.mark.parametrize("name", ["random", "numpy"])
@pytest.mark.parametrize("state", [b"", b"short", bytes(5000)])
def test_what_is_no_state_is_refused_and_changes_nothing(name: str, state: bytes) -> None:
    before = generators.states()
    with pytest.raises(ValueError, match=f"no state of the generator of {name}"):
        generators.put(name, state)
    assert generators.states() == before


def test_a_generator_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="no state of the generator of else"):
        generators.put("else", b"")


def test_another_generator_behind_numpys_functions_is_left_alone() -> None:
    legacy: Any = np.random
    default = legacy.get_bit_generator()
    legacy.set_bit_generator(np.random.PCG64(1))
    try:
        assert set(generators.states()) == {"random"}
    finally:
        legacy.set_bit_generator(default)
